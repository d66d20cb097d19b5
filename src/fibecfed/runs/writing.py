"""What a run leaves when it ends: adapters, what the method decided, picture, card and summary."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fibecfed.federation import AGGREGATORS, ServerState
from fibecfed.methods import tuning
from fibecfed.methods.stages.statistics import HEAD_REASON
from fibecfed.results import OWN_MODELS_FILE, OwnModels, RunDirectory, curves_png, decisions_png, model_card
from fibecfed.runtime import Experiment
from fibecfed.tuning import put_tensors, save_adapter

_NO_GLOBAL_MODEL = """
This method has no global model: `adapter/` is the average of the devices' adapters, and the score
below is the mean over the devices' models.
"""
_OWN_PARAMETERS = """
A device's own model is the one in `adapter/` with {names} of its own, which `{file}`
holds for every device; `fibecfed predict DIR --device NUMBER` puts them in.
"""

_OWN_PRIOR = """
A device's own model has the log of its {group} proportions over everybody's in the bias of its head; the model in
`adapter/` has not.
"""
_TRAINED = """
Devices that trained have a second head of their own, already added to the head of their own model.
"""
_FITTED = """
Each device fitted a head of its own on its training examples, after the rounds. Devices by the strength of the pull
towards the shared head that they chose ({chosen}).
"""

_FALLBACK = """
A device keeps its own model only where that is better than the shared one on a fifth of its training examples, which
nothing else reads. Devices that have the shared one instead: {count}{who}.
"""


def write_results(
    experiment: Experiment,
    state: ServerState,
    records: Sequence[Mapping[str, Any]],
    summary: dict[str, Any],
    directory: RunDirectory,
) -> None:
    """Adapters first, summary.json last: a directory with a summary is complete."""
    method = experiment.method
    lost = experiment.devices.states_lost(state) if method.keeps_device_state else {}
    summary["lost"]["states"] += [
        {"round": state.round, "stage": "results", "device": number, "reason": why} for number, why in lost.items()
    ]
    tensors, note = state.tensors, ""
    if method.keeps_device_state and experiment.devices.here:
        numbers = [number for number in method.personal_devices(state) if number not in lost]
        method.look_ahead(experiment.site, state)
        if method.own_parameters:
            _write_own_parameters(experiment, state, numbers, directory)
            names = " and ".join(f"`{name}`" for name in method.own_parameters)
            note = _OWN_PARAMETERS.format(names=names, file=OWN_MODELS_FILE)
        else:
            mean = _write_adapters(experiment, state, numbers, directory)
            if mean is not None:
                tensors, note = mean, _NO_GLOBAL_MODEL
    decided = dict(method.decisions(experiment.site, state))
    note += _own_heads(experiment, state, decided, summary)
    note += _fallbacks(experiment, state, decided, summary)
    if HEAD_REASON in state.info:
        decided[HEAD_REASON] = state.info[HEAD_REASON]
    if decided:
        directory.write_json("method.json", decided)
        if "prefix" in decided:
            directory.write_bytes("method.png", decisions_png(decided))
    _write_adapter(experiment, directory.adapter, tensors, directory)
    directory.write_metrics(records)
    title, warm_up = f"{experiment.config.method} on {summary['dataset']}", int(decided.get("warm_up_rounds") or 0)
    directory.write_bytes("curves.png", curves_png(records, title, warm_up))
    directory.write_text("README.md", model_card(experiment.config, summary, experiment.description(), note))
    directory.write_json("summary.json", summary)


def _own_heads(experiment: Experiment, state: ServerState, decided: dict[str, Any], summary: dict[str, Any]) -> str:
    """What the card says of the devices' own heads; which strengths fitted ones chose goes into the other two."""
    method, said = experiment.method, ""
    if method.own_head.has_prior:
        said += _OWN_PRIOR.format(group=experiment.data.task.group)
    if method.own_head.kind == "trained":
        said += _TRAINED
    strengths = method.own_strengths(experiment.site, state)
    if strengths:
        decided["own_head_strength"] = strengths
        counted = Counter("no fit" if s is None else f"{s:g}" for s in strengths.values())
        summary["own_heads"] = dict(sorted(counted.items()))
        chosen = ", ".join(f"{name}: {count}" for name, count in summary["own_heads"].items())
        said += _FITTED.format(chosen=chosen)
    return said


def _fallbacks(experiment: Experiment, state: ServerState, decided: dict[str, Any], summary: dict[str, Any]) -> str:
    """What the card says of devices that take the shared model; who they are goes into the other two."""
    if not experiment.method.falls_back or not experiment.devices.here:
        return ""
    found = experiment.method.fallen_back(experiment.site, state)
    decided["fallen_back"], summary["fallen_back"] = found, len(found)
    return _FALLBACK.format(count=len(found), who=f" ({', '.join(map(str, found))})" if found else "")


def _write_adapters(
    experiment: Experiment, state: ServerState, numbers: Sequence[int], directory: RunDirectory
) -> Mapping[str, Tensor] | None:
    """An adapter for each device, one model in memory at a time; their mean where it stands for a global model."""
    mean = AGGREGATORS["mean"]() if experiment.evaluate.global_is_mean_of_devices else None
    for number in numbers:
        model = experiment.method.personal(experiment.device(number, state), state)
        _write_adapter(experiment, directory.device_adapter(number), model, directory)
        if mean is not None:
            mean.fold(model, float(experiment.data.devices.sizes[number]))
    return None if mean is None else mean.result()


def _write_own_parameters(
    experiment: Experiment, state: ServerState, numbers: Sequence[int], directory: RunDirectory
) -> None:
    """The few parameters that are all in which a device's model differs from the server's, of all devices."""
    own = OwnModels(experiment.method.own_parameters)
    for number in numbers:
        own.add(number, experiment.method.personal(experiment.device(number, state), state), state.tensors)
    own.write(directory)


def _write_adapter(
    experiment: Experiment, target: Path, tensors: Mapping[str, Tensor], directory: RunDirectory
) -> None:
    put_tensors(experiment.model, tensors)
    form = tuning(experiment.config).saved_form(experiment.model)
    with directory.replace_folder(target) as folder:
        save_adapter(folder, experiment.model, experiment.pretrained.tokenizer, experiment.description(), form)
