"""What a run came to, in one JSON object."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.config import Config, config_hash
from fibecfed.federation import Costs, Failure, StageDone
from fibecfed.methods import package_versions
from fibecfed.results.environment import git_commit, hardware, versions
from fibecfed.runtime import Evaluation
from fibecfed.tasks import Classification
from fibecfed.tasks.causal_lm import SCORES

LAST = 5  # evaluations that the mean for comparisons covers at most (docs/method.md section 7)
JUDGED = "after_stage"  # in the last record: the stage after the rounds that its evaluation is of
PROTOCOLS = ("global", "personalized")
LOWER = "lower_is_better"  # in a record whose score is a loss; others have no such entry
PART = 4  # it covers at most every fourth of a run's evaluations: no mean reaches back to the first rounds [D]

Losses = Sequence[Mapping[str, Any]]  # replies left out, or device states lost, as ``losses_of`` makes them


def losses_of(done: StageDone) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The replies that a stage left out, and the devices whose state was lost; each with its reason."""
    where = {"round": done.round, "stage": done.stage.name}
    left_out = failures_of(done.failures, done.round, done.stage.name)
    return left_out, [{**where, "device": device, "reason": why} for device, why in done.states_lost]


def failures_of(failures: Sequence[Failure], round: int, stage: str) -> list[dict[str, Any]]:
    """Replies that were left out, as metrics name them."""
    where = {"round": round, "stage": stage}
    return [{**where, "device": f.device, "kind": f.kind, "reason": f.reason} for f in failures]


def metrics_record(
    round: int,
    evaluation: Evaluation,
    costs: Costs,
    loss: float | None,
    left_out: Losses,
    states_lost: Losses,
    stage: str | None = None,
) -> dict[str, Any]:
    """One line of metrics.jsonl: cumulative costs, both protocols, every metric of the task.

    ``metric_*`` is the task's main one, under one name for every task; its own name stands beside it.

    ``left_out`` and ``states_lost`` are those since the evaluation of an earlier round. ``stage`` names the stage
    after the rounds that was evaluated; None: a round was.
    """
    main, score = evaluation.metric, evaluation.global_[evaluation.metric]
    record: dict[str, Any] = {
        "round": round,
        "metric": main,
        "metric_global": score,
        "metric_personalized": evaluation.personalized[main],
        f"{main}_global": score,
        f"{main}_personalized": evaluation.personalized[main],
        "worst_tenth": evaluation.worst_tenth,
        "metric_never_sampled": evaluation.never_sampled,
        f"{main}_never_sampled": evaluation.never_sampled,
    }
    for name, value in evaluation.global_.items():
        if name != main:
            record[f"{name}_global"] = value
            record[f"{name}_personalized"] = evaluation.personalized[name]
    if evaluation.lower_is_better:
        record[LOWER] = True
    if stage is not None:
        record[JUDGED] = stage
    return record | {
        "loss_train": loss,
        "failures": len(left_out),
        "left_out": [dict(entry) for entry in left_out],
        "states_lost": [dict(entry) for entry in states_lost],
        "bytes_up": costs.bytes_up,
        "bytes_down": costs.bytes_down,
        "examples_trained": costs.examples_trained,
        "examples_scored": costs.examples_scored,
        "operations": costs.operations,
        "cpu_seconds": costs.cpu_seconds,
        "simulated_seconds": costs.simulated_seconds,
    }


def window(evaluations: int) -> int:
    """How many of a run's last evaluations the mean for comparisons covers: a quarter of them, at most five."""
    return max(1, min(LAST, evaluations // PART))


def judged_stage(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The stage after the last round that a run ends with and is judged by; None: it ends with a round."""
    return records[-1].get(JUDGED) if records else None


def averaged(records: Sequence[Mapping[str, Any]], last: int | None = None) -> int:
    """How many of the last evaluations a final number is the mean of.

    One where a judged stage ends the run: the rounds before it were of another model. Otherwise ``last``; None: as
    ``window`` says. Source: docs/method.md section 7 [D].
    """
    return 1 if judged_stage(records) else last or window(len(records))


def metric_of(records: Sequence[Mapping[str, Any]]) -> str:
    """The main metric of a run; records of earlier versions, which do not name it, are of classification."""
    return str(records[-1].get("metric", Classification.metric)) if records else Classification.metric


def score_of(record: Mapping[str, Any], protocol: str) -> float:
    """The main metric of an evaluation by "global" or "personalized", in a record of any version."""
    return float(record[f"{metric_of([record])}_{protocol}"])


def sign_of(records: Sequence[Mapping[str, Any]]) -> int:
    """1 where a higher score is better, -1 where a lower one is."""
    return -1 if records and records[-1].get(LOWER) else 1


def final_mean(records: Sequence[Mapping[str, Any]], key: str, last: int | None = None) -> float:
    """The mean of a metric over the last evaluations, as many as ``averaged`` says."""
    values = [float(r[key]) for r in records[-averaged(records, last) :]]
    return sum(values) / len(values)


def final_numbers(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every metric of the saved model, which the last evaluation was of; under ``mean`` the last ones' means."""
    main = metric_of(records)
    names = [main]
    names += [
        k.removesuffix("_global")
        for k in records[-1]
        if k.endswith("_global") and not k.startswith((f"{main}_", "metric_", "loss_"))
    ]
    count = averaged(records)

    def over(last: int) -> dict[str, Any]:
        found: dict[str, Any] = {n: {p: final_mean(records, f"{n}_{p}", last) for p in PROTOCOLS} for n in names}
        return {**found, "worst_tenth": final_mean(records, "worst_tenth", last)}

    means = {"evaluations": count, "rounds": [r["round"] for r in records[-count:]], **over(count)}
    return {"metric": main, **over(1), "mean": means}


def answer_scores(numbers: Mapping[str, Any]) -> list[str]:
    """Which scores of generated answers final numbers hold."""
    return [name for name in SCORES if name in numbers]


def in_todays_form(summary: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A summary.json of any version: earlier ones had means over the last five evaluations in the place of the
    saved model's numbers, which follow from the records; the earliest did not name the main metric.
    """
    named = {"metric": metric_of(records), **summary}
    return named if "mean" in summary or not records else {**named, **final_numbers(records)}


def _lost(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many replies were left out, by reason and by device, and whose state was lost when."""
    left_out = [entry for r in records for entry in r["left_out"]]
    kinds, devices = (Counter(entry[key] for entry in left_out) for key in ("kind", "device"))
    return {
        "replies": len(left_out),
        "by_kind": dict(sorted(kinds.items())),
        "by_device": {str(device): count for device, count in sorted(devices.items())},
        "states": [entry for r in records for entry in r["states_lost"]],
    }


def summarize(
    config: Config, records: Sequence[Mapping[str, Any]], wall_seconds: float, peak_memory: int, data: Mapping[str, Any]
) -> dict[str, Any]:
    """summary.json; every number comes from the metrics records."""
    last = records[-1]
    return {
        "method": config.method,
        "dataset": data["dataset"],
        "seed": config.seed,
        "rounds": last["round"],
        "evaluated_on": config.evaluation.split,
        **final_numbers(records),
        "bytes": {"up": last["bytes_up"], "down": last["bytes_down"]},
        "examples_trained": last["examples_trained"],
        "examples_scored": last["examples_scored"],
        "operations": last["operations"],
        "seconds": {"cpu": last["cpu_seconds"], "simulated": last["simulated_seconds"], "wall": wall_seconds},
        "peak_memory_bytes": peak_memory,
        "lost": _lost(records),
        "data": dict(data),
        "versions": {**versions(), **package_versions(config.method)},
        "hardware": hardware(),
        "git_commit": git_commit(),
        "config_hash": config_hash(config),
    }
