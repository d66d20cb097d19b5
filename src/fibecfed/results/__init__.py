"""What a run leaves behind."""

from fibecfed.results.card import global_name, loading_code, model_card
from fibecfed.results.curves import curves_png
from fibecfed.results.decisions_plot import decisions_png
from fibecfed.results.directory import EVALUATION_FILE, OWN_MODELS_FILE, REPORT_FILE, RunDirectory, device_states
from fibecfed.results.environment import git_commit, hardware, peak_memory_bytes, versions
from fibecfed.results.fingerprint import Fingerprint
from fibecfed.results.lock import only_writer
from fibecfed.results.merged_card import merged_card
from fibecfed.results.own_models import OwnModels, own_parameters
from fibecfed.results.summary import (
    JUDGED,
    LAST,
    LOWER,
    PROTOCOLS,
    answer_scores,
    averaged,
    failures_of,
    final_mean,
    final_numbers,
    judged_stage,
    losses_of,
    metric_of,
    metrics_record,
    score_of,
    sign_of,
    summarize,
    window,
)

__all__ = [
    "EVALUATION_FILE",
    "JUDGED",
    "LAST",
    "LOWER",
    "OWN_MODELS_FILE",
    "PROTOCOLS",
    "REPORT_FILE",
    "Fingerprint",
    "OwnModels",
    "RunDirectory",
    "answer_scores",
    "averaged",
    "curves_png",
    "decisions_png",
    "device_states",
    "failures_of",
    "final_mean",
    "final_numbers",
    "git_commit",
    "global_name",
    "hardware",
    "judged_stage",
    "loading_code",
    "losses_of",
    "merged_card",
    "metric_of",
    "metrics_record",
    "model_card",
    "only_writer",
    "own_parameters",
    "peak_memory_bytes",
    "score_of",
    "sign_of",
    "summarize",
    "versions",
    "window",
]
