"""What a run came to, in one JSON object."""

from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.config import Config, config_hash
from fibecfed.federation import Costs
from fibecfed.results.environment import git_commit, hardware, versions
from fibecfed.runtime import Evaluation

LAST = 5  # evaluations that a final number is the mean of (METHOD.md section 7)


def metrics_record(
    round: int, evaluation: Evaluation, costs: Costs, loss: float | None, left_out: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One line of metrics.jsonl: cumulative costs, both protocols; metrics beside accuracy where the task has them.

    ``left_out``: which devices were left out since the last one, in which phase and why; a key only if there are any.
    """
    record: dict[str, Any] = {
        "round": round,
        "accuracy_global": evaluation.global_["accuracy"],
        "accuracy_personalized": evaluation.personalized["accuracy"],
        "worst_tenth": evaluation.worst_tenth,
        "accuracy_never_sampled": evaluation.never_sampled,
    }
    for name, value in evaluation.global_.items():
        if name != "accuracy":
            record[f"{name}_global"] = value
            record[f"{name}_personalized"] = evaluation.personalized[name]
    if left_out:
        record["left_out"] = [dict(entry) for entry in left_out]
    return record | {
        "loss_train": loss,
        "failures": len(left_out),
        "bytes_up": costs.bytes_up,
        "bytes_down": costs.bytes_down,
        "examples_trained": costs.examples_trained,
        "examples_scored": costs.examples_scored,
        "operations": costs.operations,
        "cpu_seconds": costs.cpu_seconds,
        "simulated_seconds": costs.simulated_seconds,
    }


def final_mean(records: Sequence[Mapping[str, Any]], key: str) -> float:
    """The mean of a metric over the last five evaluations."""
    last = [float(r[key]) for r in records[-LAST:]]
    return sum(last) / len(last)


def summarize(
    config: Config, records: Sequence[Mapping[str, Any]], wall_seconds: float, peak_memory: int, data: Mapping[str, Any]
) -> dict[str, Any]:
    """summary.json; every number comes from the metrics records."""
    last = records[-1]
    extra = [
        k.removesuffix("_global") for k in last if k.endswith("_global") and not k.startswith(("accuracy", "loss"))
    ]
    left_out = [entry for record in records for entry in record.get("left_out", ())]
    return {
        "method": config.method,
        "dataset": config.dataset,
        "seed": config.seed,
        "rounds": last["round"],
        "evaluated_on": config.evaluation.split,
        "accuracy": {p: final_mean(records, f"accuracy_{p}") for p in ("global", "personalized")},
        **{m: {p: final_mean(records, f"{m}_{p}") for p in ("global", "personalized")} for m in extra},
        "worst_tenth": final_mean(records, "worst_tenth"),
        "bytes": {"up": last["bytes_up"], "down": last["bytes_down"]},
        "examples_trained": last["examples_trained"],
        "examples_scored": last["examples_scored"],
        "operations": last["operations"],
        "seconds": {"cpu": last["cpu_seconds"], "simulated": last["simulated_seconds"], "wall": wall_seconds},
        "peak_memory_bytes": peak_memory,
        "data": dict(data),
        "versions": versions(),
        "hardware": hardware(),
        "git_commit": git_commit(),
        "config_hash": config_hash(config),
        **({"left_out": left_out} if left_out else {}),
    }
