"""Running an experiment from start or checkpoint to its directory of results."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fibecfed.callbacks import Callback, EarlyStopping, RunProgress
from fibecfed.commands import command_line
from fibecfed.config import ROUNDS, Change, Config, expanded, to_yaml
from fibecfed.data.told import told_by_columns
from fibecfed.errors import InputError
from fibecfed.federation import Costs, DeviceStore, MemoryStore, ServerState, StageDone, next_stage
from fibecfed.report import leave_report, write_run_report
from fibecfed.results import (
    EVALUATION_FILE,
    RunDirectory,
    device_states,
    failures_of,
    losses_of,
    metrics_record,
    only_writer,
    peak_memory_bytes,
    summarize,
)
from fibecfed.runs.delivery import DELIVERED, delivery_costs
from fibecfed.runs.going_on import check_found, go_on_with, remember, settings_to_go_on_with, warn
from fibecfed.runs.writing import write_results
from fibecfed.runtime import Evaluation, Experiment, assemble
from fibecfed.screen import plain_console

Assembly = Callable[[Config, DeviceStore], Experiment]


@dataclass(frozen=True, repr=False)
class RunResult:
    """What ``run`` returns. ``directory`` is None when nothing was written."""

    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    state: ServerState
    directory: Path | None

    def __repr__(self) -> str:
        """What matters, in a few lines: tensors and records would be pages."""
        about, sent, saved = self.summary, self.summary["bytes"], self.directory
        metric = about["metric"]
        scores = ", ".join(f"{name} {value:.4f}" for name, value in about[metric].items())
        lines = [
            f"RunResult of {about['method']} on {about['dataset']} ({about['evaluated_on']} set)",
            f"  {metric}: {scores}, worst tenth of devices {about['worst_tenth']:.4f}",
            f"  {about['rounds']} rounds, {len(self.metrics)} evaluations, {about['seconds']['wall']:.0f} s, "
            f"{(sent['up'] + sent['down']) / 1e6:.1f} MB sent",
            f"  saved: fibecfed.load({str(saved)!r})" if saved else "  not saved: run was given no out",
            "  fields: summary, metrics, state, directory",
        ]
        return "\n".join(lines)


@dataclass
class _Progress:
    """What a checkpoint holds beside the server's state."""

    records: list[dict[str, Any]] = field(default_factory=list)
    wall_seconds: float = 0.0
    peak_memory: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)  # cost of each kind of stage
    left_out: list[dict[str, Any]] = field(default_factory=list)  # since the evaluation of an earlier round
    states_lost: list[dict[str, Any]] = field(default_factory=list)

    def add(self, done: StageDone, before: Costs) -> None:
        """Book what one stage cost, and what was lost in it."""
        after = done.state.costs
        spent = self.stages.setdefault(done.stage.name, dict.fromkeys(dataclasses.asdict(after), 0))
        old = dataclasses.asdict(before)
        for name, value in dataclasses.asdict(after).items():
            spent[name] += value - old[name]
        left_out, states_lost = losses_of(done)
        self.left_out += left_out
        self.states_lost += states_lost

    def evaluated(
        self, state: ServerState, evaluation: Evaluation, loss: float | None, stage: str | None = None
    ) -> dict[str, Any]:
        """The record of an evaluation, in place of an earlier one of the same round; ``stage``: after the rounds."""
        for earlier in (r for r in self.records if r["round"] == state.round):
            self.left_out = [*earlier["left_out"], *self.left_out]
            self.states_lost = [*earlier["states_lost"], *self.states_lost]
        self.left_out += failures_of(evaluation.missing, state.round, "evaluate")
        record = metrics_record(state.round, evaluation, state.costs, loss, self.left_out, self.states_lost, stage)
        self.records = [r for r in self.records if r["round"] != state.round] + [record]
        self.left_out, self.states_lost = [], []
        return record

    def extra(self) -> dict[str, Any]:
        return dict(self.__dict__)


def run(
    config: Config,
    out: Path | str | None = None,
    *,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> RunResult:
    """Train and evaluate what the configuration says; with ``out``, write the run's directory.

    ``progress`` shows rounds, score and the time left on the error output; None: where a terminal or a notebook
    shows it.

    Raises InputError for a mistake in configuration or data, RunFailed if training cannot go on
    (the directory can then be resumed).
    """
    path = None if out is None else expanded(out)
    if path is not None:
        RunDirectory.check(path, force)  # before anything that takes long
    config = told_by_columns(config)
    in_memory = path is None or config.runtime.device_states == "memory"
    store = MemoryStore() if path is None or in_memory else device_states(path, to_yaml(config))
    experiment = assemble(config, store)
    shown = _watching(callbacks, progress)
    if path is None:
        return _go_on(experiment, experiment.start, _Progress(), None, shown)
    with only_writer(path):
        again = command_line("run", path / "config.yaml", "--out", "NEW_DIR")
        directory = RunDirectory.create(path, config, f"Written by fibecfed. Run it again with: {again}", force)
        remember(directory, experiment)
        directory.write_json("partition.json", experiment.partition())
        return _go_on(experiment, experiment.start, _Progress(), directory, shown)


def _watching(callbacks: Sequence[Callback], progress: bool | None) -> list[Callback]:
    console = plain_console(stderr=True)
    shown = (console.is_terminal or console.is_jupyter) if progress is None else progress
    return [*callbacks, *([RunProgress(console)] if shown else [])]


def resume(
    out: Path | str,
    callbacks: Sequence[Callback] = (),
    assemble: Assembly = assemble,
    *,
    changes: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = warn,
    progress: bool | None = None,
) -> RunResult:
    """Go on with a run that was stopped, or not begun; its result is bit-identical to an uninterrupted one.

    ``changes`` are nested settings to go on with, such as ``{"federation": {"rounds": 40}}``; only some may change.
    ``assemble`` says where the devices are; by default in this process. ``report`` is told what differs from how the
    run began; ``progress`` is as for ``run``. Raises InputError if the directory is no run, another process is
    writing it, its data, model or settings are not those it began with, or it kept its device states in memory only.
    """
    directory = RunDirectory.open(Path(out))
    with only_writer(directory.path):
        directory.clear_leftovers()
        config, changed = settings_to_go_on_with(directory, changes or {})
        experiment = assemble(config, directory.states())
        check_found(directory, experiment, report)
        loaded = directory.load_checkpoint()
        state, done = experiment.start, _Progress()
        if loaded is not None:
            state, done = _checked(experiment, directory, *loaded)
        _check_can_go_on(experiment, state, directory, changed)
        go_on_with(directory, config, changed, report)
        remember(directory, experiment)
        directory.write_json("partition.json", experiment.partition())
        return _go_on(experiment, state, done, directory, _watching(callbacks, progress), report)


def _check_can_go_on(
    experiment: Experiment, state: ServerState, directory: RunDirectory, changed: Sequence[Change]
) -> None:
    """Raise InputError where device states are gone, or no round can follow."""
    was = next((change.was for change in changed if change.key == "runtime.device_states"), None)
    kept = state.device_versions or state.residual_versions
    if experiment.devices.here and kept and "memory" in (was, experiment.config.runtime.device_states):
        raise InputError(
            f"'{directory.path}' cannot be resumed: its devices kept their states in memory "
            "(runtime.device_states=memory), and they are gone. Start again with device_states=auto."
        )
    method = experiment.method
    more = any(change.key == ROUNDS for change in changed)
    if more and (method.is_closed(state) or next_stage(method, state) is None):
        raise InputError(
            f"'{directory.path}' can be given no more rounds: method={experiment.config.method} has none, or has done "
            "what it does after the last one. Start another run with more rounds."
        )


def _checked(
    experiment: Experiment, directory: RunDirectory, state: ServerState, extra: dict[str, Any]
) -> tuple[ServerState, _Progress]:
    """What a checkpoint holds, if it is one of this run. Raises InputError."""
    shapes = {name: tensor.shape for name, tensor in experiment.start.tensors.items()}
    if extra.keys() != _Progress().extra().keys() or shapes != {n: t.shape for n, t in state.tensors.items()}:
        raise InputError(
            f"The checkpoint in '{directory.path}' is not one of this run: it was written by another version of "
            "fibecfed or for another model or configuration. Start the run again in another directory."
        )
    return state, _Progress(**extra)


def _go_on(
    experiment: Experiment,
    state: ServerState,
    progress: _Progress,
    directory: RunDirectory | None,
    callbacks: Sequence[Callback],
    report: Callable[[str], None] = warn,
) -> RunResult:
    with closing(experiment.site.executor):  # its worker processes end with the run, however that ends
        patience = experiment.config.evaluation.patience
        stopping = None if patience is None else EarlyStopping(patience)
        watching = [*callbacks, *([stopping] if stopping else [])]
        if experiment.config.evaluation.start and not state.round and not progress.records:
            _evaluated(experiment, state, progress, directory)
        try:
            for callback in watching:
                callback.started(experiment, state, progress.records)
            if directory is not None:
                directory.write_metrics(progress.records)
            if stopping is None or not stopping.exhausted:  # a run that was stopped stays so when it is resumed
                state = _train(experiment, state, progress, directory, watching)
                state = _delivered(experiment, state, progress, directory)
            elif state.round < experiment.config.federation.rounds:
                stopped = f"Stopped after round {state.round} by evaluation.patience={patience}"
                report(f"{stopped}; null there lets it go on.")
        finally:
            for callback in watching:
                callback.ended()
        config, data = experiment.config, experiment.data_summary()
        summary = summarize(config, progress.records, progress.wall_seconds, progress.peak_memory, data)
        summary["stages"] = progress.stages
        summary["data_print"] = experiment.data.fingerprint.to_content()
        if directory is not None:
            kept = directory.fingerprint()
            summary["changed_on_the_way"] = list(kept.history) if kept is not None else []
            write_results(experiment, state, progress.records, summary, directory)
            path = directory.path
            leave_report(lambda: write_run_report(path), path, report)
        return RunResult(summary, progress.records, state, directory.path if directory else None)


def _train(
    experiment: Experiment,
    state: ServerState,
    progress: _Progress,
    directory: RunDirectory | None,
    callbacks: Sequence[Callback],
) -> ServerState:
    """Stage after stage until the method or a callback ends it, with a checkpoint after each."""
    before, started = progress.wall_seconds, time.perf_counter()
    for done in experiment.server.run(state):
        progress.add(done, state.costs)
        state = done.state
        record = None
        if done.stage.evaluated or (done.stage.is_round and _due(experiment.config, state.round)):
            stage = done.stage.name if done.stage.evaluated else None
            record = _evaluated(experiment, state, progress, directory, done.loss, stage)
        progress.wall_seconds = before + time.perf_counter() - started
        progress.peak_memory = max(progress.peak_memory, peak_memory_bytes(experiment.site.executor.processes))
        if directory is not None:
            directory.save_checkpoint(state, progress.extra())
            if record is not None:
                directory.write_metrics(progress.records)
        wishes = [callback.stage_done(done, record) for callback in callbacks]  # every callback sees every stage
        if any(wishes):
            break
    if not progress.records or progress.records[-1]["round"] != state.round:  # stopped by a callback
        _evaluated(experiment, state, progress, directory)
    return state


def _evaluated(
    experiment: Experiment,
    state: ServerState,
    progress: _Progress,
    directory: RunDirectory | None,
    loss: float | None = None,
    stage: str | None = None,
) -> dict[str, Any]:
    """The record of an evaluation; what it says of single devices goes into evaluation.json, the last one's."""
    evaluation = experiment.evaluate(state)
    if directory is not None:  # before the checkpoint: a run that is killed here evaluates again
        directory.write_json(EVALUATION_FILE, {"round": state.round, "stage": stage, **evaluation.of_devices()})
    return progress.evaluated(state, evaluation, loss, stage)


def _delivered(
    experiment: Experiment, state: ServerState, progress: _Progress, directory: RunDirectory | None
) -> ServerState:
    """Book what it costs the devices, once a run, to fit heads of their own to the final model; no message is sent.

    Devices on other machines bear it too, but do not tell.
    """
    spent = delivery_costs(experiment, state)
    if spent is None:
        return state
    state = state.replace(info={**state.info, DELIVERED: True}, costs=state.costs + spent)
    progress.stages[DELIVERED] = dataclasses.asdict(spent)
    progress.records[-1] |= {
        name: value for name, value in dataclasses.asdict(state.costs).items() if name in progress.records[-1]
    }
    if directory is not None:
        directory.save_checkpoint(state, progress.extra())
        directory.write_metrics(progress.records)
    return state


def _due(config: Config, round: int) -> bool:
    return round % config.evaluation.every == 0 or round == config.federation.rounds
