"""What `run` and `evaluate` do once their arguments are read."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fibecfed.callbacks import Callback, Record, RunProgress, TensorBoard, Trackio
from fibecfed.cli.data_notes import say_notes
from fibecfed.cli.dry_run import assumptions, estimate_table, traffic_table
from fibecfed.cli.tables import decision_lines, partition_table, summary_table
from fibecfed.commands import command_line
from fibecfed.config import Config
from fibecfed.federation import ServerState
from fibecfed.runs.estimate import estimate
from fibecfed.runs.evaluate_run import evaluate_run
from fibecfed.runs.run import RunResult, resume, run
from fibecfed.runs.weightless import counted_only
from fibecfed.runtime import Experiment, assemble


class Introduction(Callback):
    """A callback that says what is about to be trained, and on what."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def started(self, experiment: Experiment, state: ServerState, records: Sequence[Record]) -> None:
        data = experiment.data
        self.console.print(f"Data: {data.origin}.", highlight=False, markup=False, soft_wrap=True)
        say_notes(data.notes, self.console)
        found = experiment.data_summary()
        if found["truncated_examples"]:
            wanted, room = experiment.config.data.max_length, experiment.pretrained.tokenizer.model_max_length
            remedy = "data.max_length changes that" if wanted <= room else "the model has no positions for more"
            self.console.print(
                f"{found['truncated_examples']} examples were cut to {min(wanted, room)} tokens "
                f"({found['tokens_cut']} tokens lost); {remedy}.",
                highlight=False,
            )
        if experiment.devices.here:
            names = data.task.group_names
            self.console.print(partition_table(data.devices, data.train.groups, names, data.habits, data.task.group))
        else:
            self.console.print(f"{found['train_examples']} training examples on the devices.", highlight=False)
        workers = experiment.workers
        if workers is not None and max(workers.number, workers.together) > 1:
            self.console.print(str(workers), highlight=False, markup=False, soft_wrap=True)
        if state.round:
            self.console.print(f"Going on after round {state.round}.", highlight=False)


def start(config: Config, out: Path, force: bool, loggers: Sequence[Callback], console: Console) -> None:
    """A new run, shown as it goes."""
    watching = [Introduction(console), RunProgress(console), *loggers]
    _show(run(config, out, force=force, callbacks=watching, progress=False), console)


def go_on(directory: Path, wanted: Mapping[str, Any], loggers: Sequence[Callback], console: Console) -> None:
    """A stopped run, continued; ``wanted`` are nested settings that change."""

    def say(sentence: str) -> None:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    watching = [Introduction(console), RunProgress(console), *loggers]
    _show(resume(directory, watching, changes=wanted, report=say, progress=False), console)


def loggers_of(tensorboard: Path | None, trackio: str | None) -> list[Callback]:
    """What writes the curves elsewhere. Raises InputError if its extra is missing."""
    loggers: list[Callback] = []
    if tensorboard is not None:
        loggers.append(TensorBoard(tensorboard))
    if trackio is not None:
        loggers.append(Trackio(trackio))
    return loggers


def _show(result: RunResult, console: Console) -> None:
    show_results(result.summary, result.directory, console)


def show_results(summary: dict[str, Any], where: Path | None, console: Console) -> None:
    """What a run came to, and what can be done with it."""
    console.print(summary_table(summary))
    decided = where / "method.json" if where else None
    if decided is not None and decided.is_file():
        for line in decision_lines(json.loads(decided.read_text(encoding="utf-8"))):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"To look at: {where}/report.html\n"
        f"Results in {where}; the adapter in {where}/adapter. Try: {command_line('predict', where or '', 'a text')}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def dry(config: Config, console: Console) -> None:
    """What a run would take; a language model's folder may lack the weights."""
    experiment = assemble(config, weights=not counted_only(config))
    say_notes(experiment.data.notes, console)
    found = estimate(experiment)
    console.print(estimate_table(found), traffic_table(found))
    for line in assumptions(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def evaluate_directory(directory: Path, split: str | None) -> dict[str, Any]:
    """Both protocols' metrics of a saved run."""
    return evaluate_run(directory, split)
