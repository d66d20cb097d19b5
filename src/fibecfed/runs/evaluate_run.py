"""Evaluating a saved run again, from its files."""

from pathlib import Path
from typing import Any

from fibecfed.commands import going_on
from fibecfed.config import build_config, merge, to_dict
from fibecfed.errors import InputError
from fibecfed.methods import tuning
from fibecfed.results import RunDirectory
from fibecfed.runs.going_on import check_evaluated
from fibecfed.runtime import assemble
from fibecfed.tuning import load_adapter, trainable_tensors


def evaluate_run(directory: Path, split: str | None = None) -> dict[str, Any]:
    """Metrics of both protocols, from the saved adapter (or the checkpoint of a run that is unfinished
    or whose adapter is saved in another form than it is trained in).

    ``split`` is "test" or "validation"; None takes the run's own. Raises InputError if nothing is saved yet, if the
    held-out text is not here, or if settings, data or model are not what the run began with.
    """
    run = RunDirectory.open(directory)
    if run.name_file.is_file():
        raise InputError(
            f"'{directory}' is a run over machines: its held-out text lies on the devices. What they counted is in "
            "its metrics.jsonl."
        )
    config = run.checked_config()
    if split is not None:
        config = build_config(merge(to_dict(config), {"evaluation": {"split": split}}))
    loaded = run.load_checkpoint()
    if loaded is None:
        raise InputError(f"'{directory}' has no finished round to evaluate; go on with: {going_on(directory)}")
    state = loaded[0]
    experiment = assemble(config, run.states())
    check_evaluated(run, experiment, config.evaluation.split)
    reloads = tuning(experiment.config).reloads
    if reloads and run.adapter.is_dir() and not experiment.evaluate.global_is_mean_of_devices:
        load_adapter(run.adapter, experiment.model)
        state = state.replace(tensors=trainable_tensors(experiment.model))
    evaluation = experiment.evaluate(state)
    return {
        "round": state.round,
        "split": config.evaluation.split,
        "global": dict(evaluation.global_),
        "personalized": dict(evaluation.personalized),
        "worst_tenth": evaluation.worst_tenth,
    }
