"""What `predict` does: reads texts however they come, labels them, prints or writes that, and counts what was right."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fibecfed.cli.answering_command import Generation, answer
from fibecfed.data import Asked, Columns, columns_of, from_arguments, from_file, from_lines
from fibecfed.errors import InputError
from fibecfed.federation import write_atomically
from fibecfed.results import RunDirectory
from fibecfed.runs.prediction import load
from fibecfed.tasks import Prediction, Task, task_kind

_OUT = (".csv", ".jsonl")
_DIGITS = 4  # of a probability that is shown; files have it whole
_MOST_NAMED = 5  # texts that could not be labelled
_WIDEST = 12  # labels of a confusion table that is shown whole
_MOST_CONFUSED = 10

Outcome = Any  # a prediction, as the task makes it, or a text: why there is none


@dataclass(frozen=True)
class Request:
    """The arguments of `predict`."""

    directory: Path
    texts: Sequence[str]
    file: Path | None
    device: str | None
    out: Path | None
    force: bool
    generation: Generation


def predict(request: Request, shown: Console, aside: Console) -> None:
    """Label what is asked, on ``shown`` or in a file; what could not be labelled is named on ``aside``.

    Raises InputError if nothing at all can be labelled.
    """
    _check_out(request)
    config = RunDirectory.open(request.directory).config()
    if task_kind(config).generates:
        answer(request.directory, config, request.texts, request.file, request.out, request.device, request.generation)
        return
    request.generation.check_unused()
    columns = columns_of(config)
    asked = _asked(request, columns)
    if not len(asked):
        raise InputError("There is no text to predict; give it as arguments, with --file, or on standard input.")
    if all(asked.problems):
        raise InputError(_nothing(asked.problems))
    task, outcomes = task_kind(config), _outcomes(request, asked)
    if not any(isinstance(outcome, Prediction) for outcome in outcomes):  # the column says nothing of this task
        asked = replace(asked, labels=None)
    wrong = [outcome for outcome in outcomes if isinstance(outcome, str)]
    if len(wrong) == len(outcomes):
        raise InputError(_nothing(outcomes))
    if request.out is None:
        ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
        for record in _records(task, asked, outcomes, _DIGITS):
            print(json.dumps(record, ensure_ascii=ascii_only))
    else:
        _write(request.out, task, asked, outcomes)
        said = f"{len(outcomes) - len(wrong)} predictions in {request.out}"
        shown.print(said, highlight=False, markup=False, soft_wrap=True)
    for reason in wrong[:_MOST_NAMED]:
        aside.print(f"No prediction: {reason}.", highlight=False, markup=False, soft_wrap=True)
    if len(wrong) > _MOST_NAMED:
        aside.print(f"No prediction for {len(wrong) - _MOST_NAMED} more.", highlight=False)
    if asked.labels is not None:
        _judge(asked, outcomes, config.data.file is None, aside if request.out is None else shown)


def _check_out(request: Request) -> None:
    """Before anything is read: can --out be written, and what is there?"""
    out = request.out
    if out is None:
        return
    if out.suffix.lower() not in _OUT:
        raise InputError(f"--out '{out}' has the ending '{out.suffix}'; predictions are written as .csv or .jsonl.")
    if not out.parent.is_dir():
        raise InputError(f"The folder '{out.parent}' of --out does not exist.")
    if not out.exists():
        return
    if out.is_dir():
        raise InputError(f"--out '{out}' is a folder; name a file.")
    if request.file is not None and request.file.exists() and out.samefile(request.file):
        raise InputError(f"--out '{out}' is the file that the texts come from; name another.")
    if not request.force:
        raise InputError(f"'{out}' already exists; use --force to replace it, or another --out.")


def _asked(request: Request, columns: Columns) -> Asked:
    if request.texts and request.file:
        raise InputError("Give texts as arguments or --file, not both.")
    if request.texts:
        return from_arguments(request.texts, columns)
    if request.file is not None:
        return from_file(request.file, columns)
    return from_lines(sys.stdin.buffer.read(), "standard input", columns)


def _nothing(problems: Sequence[object]) -> str:
    more = f" ({len(problems)} texts, and none can be predicted)" if len(problems) > 1 else ""
    first = str(problems[0])
    return f"{first[0].upper()}{first[1:]}{more}."


def _outcomes(request: Request, asked: Asked) -> list[Outcome]:
    """A prediction for each text that can have one."""
    classifier = load(request.directory, request.device)
    outcomes: list[Any] = list(asked.problems)
    sound = [i for i, problem in enumerate(outcomes) if problem is None]
    texts, pairs = _parts(asked, sound)
    for number, (i, problem) in enumerate(zip(sound, classifier.problems(texts, pairs), strict=True), start=1):
        if problem is not None:
            outcomes[i] = f"{asked.places[i]}{problem.removeprefix(f'Text {number}')}"
    sound = [i for i in sound if outcomes[i] is None]
    for i, prediction in zip(sound, classifier.predict(*_parts(asked, sound)), strict=True):
        outcomes[i] = prediction
    return outcomes


def _parts(asked: Asked, chosen: Sequence[int]) -> tuple[list[str], list[str] | None]:
    pairs = asked.pairs
    return [asked.texts[i] for i in chosen], None if pairs is None else [pairs[i] for i in chosen]


def _records(
    task: type[Task], asked: Asked, outcomes: Sequence[Outcome], digits: int | None
) -> Iterator[dict[str, Any]]:
    """One JSON-able object for each text, in its place."""
    for i, outcome in enumerate(outcomes):
        record: dict[str, Any] = {"text": asked.texts[i]}
        if asked.pairs is not None:
            record["text_pair"] = asked.pairs[i]
        if isinstance(outcome, str):
            record |= task.prediction_record(None, digits) | {"error": outcome}
        else:
            record |= task.prediction_record(outcome, digits)
        if asked.labels is not None:
            record["true_label"] = asked.labels[i]
        yield record


def _write(out: Path, task: type[Task], asked: Asked, outcomes: Sequence[Outcome]) -> None:
    """A row or line for each text, numbered from 1: in CSV a column for each label's probability."""
    records = [{"row": row} | record for row, record in enumerate(_records(task, asked, outcomes, None), start=1)]
    if out.suffix.lower() == ".jsonl":
        content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        names = next((list(o.probabilities) for o in outcomes if isinstance(o, Prediction)), [])
        kept = [name for name in records[0] if name not in ("probabilities", "error")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*kept, *(f"probability_{name}" for name in names), "error"])
        for record in records:
            probabilities = record.get("probabilities") or {}
            cells = [record[name] for name in kept] + [probabilities.get(name) for name in names]
            writer.writerow([*cells, record.get("error")])
        content = text.getvalue()
    try:
        write_atomically(out.resolve(), content.encode())  # where a link leads, not in the link's place
    except OSError as error:
        raise InputError(f"--out '{out}' cannot be written: {error.strerror}.") from None


def _judge(asked: Asked, outcomes: Sequence[Outcome], numbered: bool, console: Console) -> None:
    """Accuracy and the confusion table over the rows whose label the model knows.

    ``numbered``: a label may be given as its number, as files of the data sets known by name have them.
    """
    assert asked.labels is not None
    names = next(list(o.probabilities) for o in outcomes if isinstance(o, Prediction))
    index = {str(i): i for i in range(len(names) if numbered else 0)} | {name: i for i, name in enumerate(names)}
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    unknown: list[str] = []
    for label, outcome in zip(asked.labels, outcomes, strict=True):
        if label is not None and label not in index:
            unknown.append(label)
        elif label is not None and isinstance(outcome, Prediction):
            confusion[index[label], index[outcome.label]] += 1
    total, right = int(confusion.sum()), int(np.trace(confusion))
    if unknown:
        kinds = sorted(set(unknown))
        said = ", ".join(f"'{kind}'" for kind in kinds[:_MOST_NAMED]) + (", ..." if len(kinds) > _MOST_NAMED else "")
        console.print(
            f"{len(unknown)} rows have labels that the model does not have ({said}); they are left out here.",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    if not total:
        console.print("No row has a label that the model knows; nothing to compare with.", highlight=False)
        return
    console.print(f"Accuracy {right / total:.4f}: {right} of {total} labelled rows.", highlight=False, soft_wrap=True)
    console.print(_confusion_table(confusion, names))


def _confusion_table(confusion: np.ndarray, names: Sequence[str]) -> Table:
    """Counts by true and predicted label; where labels are many, the pairs confused most."""
    if len(names) <= _WIDEST:
        table = Table(title="true label by predicted")
        for name in ("true", *names):
            table.add_column(Text(name), justify="left" if name == "true" else "right", overflow="fold")
        for name, row in zip(names, confusion, strict=True):
            table.add_row(Text(name), *map(str, row))
        return table
    table = Table(title="most confused")
    for name in ("true", "predicted", "rows"):
        table.add_column(name, overflow="fold")
    wrong = confusion - np.diag(np.diag(confusion))
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSED]:
        true, predicted = divmod(int(cell), len(names))
        if wrong[true, predicted]:
            table.add_row(Text(names[true]), Text(names[predicted]), str(wrong[true, predicted]))
    return table
