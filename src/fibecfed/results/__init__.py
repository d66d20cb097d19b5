"""What a run leaves behind."""

from fibecfed.results.card import global_name, loading_code, model_card
from fibecfed.results.curves import curves_png
from fibecfed.results.decisions_plot import decisions_png
from fibecfed.results.directory import RunDirectory, device_states
from fibecfed.results.environment import git_commit, hardware, peak_memory_bytes, versions
from fibecfed.results.fingerprint import Fingerprint
from fibecfed.results.going_on import (
    check_found,
    check_judged,
    go_on_with,
    remember,
    settings_to_go_on_with,
    warn,
)
from fibecfed.results.lock import only_writer
from fibecfed.results.summary import (
    LAST,
    failures_of,
    final_mean,
    final_numbers,
    losses_of,
    metric_of,
    metrics_record,
    score_of,
    summarize,
    window,
)

__all__ = [
    "LAST",
    "Fingerprint",
    "RunDirectory",
    "check_found",
    "check_judged",
    "curves_png",
    "decisions_png",
    "device_states",
    "failures_of",
    "final_mean",
    "final_numbers",
    "git_commit",
    "global_name",
    "go_on_with",
    "hardware",
    "loading_code",
    "losses_of",
    "metric_of",
    "metrics_record",
    "model_card",
    "only_writer",
    "peak_memory_bytes",
    "remember",
    "score_of",
    "settings_to_go_on_with",
    "summarize",
    "versions",
    "warn",
    "window",
]
