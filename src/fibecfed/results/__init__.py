"""What a run leaves behind."""

from fibecfed.results.card import loading_code, model_card
from fibecfed.results.curves import curves_png
from fibecfed.results.decisions_plot import decisions_png
from fibecfed.results.directory import RunDirectory, device_states
from fibecfed.results.environment import git_commit, hardware, peak_memory_bytes, versions
from fibecfed.results.summary import failures_of, final_mean, losses_of, metrics_record, summarize

__all__ = [
    "RunDirectory",
    "curves_png",
    "decisions_png",
    "device_states",
    "failures_of",
    "final_mean",
    "git_commit",
    "hardware",
    "loading_code",
    "losses_of",
    "metrics_record",
    "model_card",
    "peak_memory_bytes",
    "summarize",
    "versions",
]
