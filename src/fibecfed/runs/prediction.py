"""Using a finished run: load its adapter and predict."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fibecfed.commands import going_on
from fibecfed.config import Config, nearest_hint
from fibecfed.data import Rows, columns_of, evaluation_batches, tokenize
from fibecfed.errors import InputError
from fibecfed.methods import resolve, tuning
from fibecfed.models import embedding_rows, load_pretrained
from fibecfed.results import OWN_MODELS_FILE, RunDirectory, own_parameters
from fibecfed.tasks import Prediction, Task, task_kind
from fibecfed.tuning import SavedLora, load_adapter, put_tensors, read_description

__all__ = ["Classifier", "Prediction", "load"]


@dataclass(frozen=True)
class Classifier:
    """A trained model with its tokenizer and task."""

    model: nn.Module
    tokenizer: Any
    task: Task
    config: Config
    max_length: int

    @property
    def labels(self) -> tuple[str, ...]:
        """What the outputs stand for, in order."""
        return self.task.output_names

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(N, outputs) what the model says before the task reads it; for classification the logits.

        Raises InputError for a text that is empty or that the model cannot read, and where a model that reads two
        texts is given one, or the other way round.
        """
        self._check(texts, pairs)
        problem = next(filter(None, self.problems(texts, pairs)), None)
        if problem is not None:
            raise InputError(f"{problem}; there is nothing to predict.")
        data = self._tokenize(texts, pairs)
        result = np.empty((len(texts), self.task.outputs), dtype=np.float32)
        with torch.no_grad():
            for chosen in evaluation_batches(np.arange(len(data)), data.lengths, self.config.evaluation.batch_size):
                result[chosen] = self.model(data.batch(chosen)).numpy()
        return result

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """A prediction for each text (or pair of texts), as the task makes it: a ``Prediction`` of classification.

        Raises InputError as ``logits``."""
        if not len(texts):
            return []
        return self.task.predictions(self.logits(texts, pairs))

    def problems(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[str | None]:
        """(N,) why a text (or pair) cannot be predicted, as a sentence without its end; None: it can."""
        together = zip(texts, *([] if pairs is None else [pairs]), strict=True)
        found = [_problem(f"Text {position}", parts) for position, parts in enumerate(together, start=1)]
        sound = [i for i, problem in enumerate(found) if problem is None]
        if not sound:
            return found
        try:
            self._tokenize([texts[i] for i in sound], None if pairs is None else [pairs[i] for i in sound])
        except InputError:  # one of them: which, and which else
            for i in sound:
                try:
                    self._tokenize(texts[i : i + 1], None if pairs is None else pairs[i : i + 1])
                except InputError as error:
                    found[i] = str(error).replace("Text 1 ", f"Text {i + 1} ", 1).removesuffix(".")
        return found

    def _tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Any:
        rows = Rows(texts, pairs, np.zeros(len(texts), dtype=np.int64), self.labels)
        return tokenize(rows, self.tokenizer, self.max_length, embedding_rows(self.model.backbone))

    def _check(self, texts: Sequence[str], pairs: Sequence[str] | None) -> None:
        columns = columns_of(self.config)
        if isinstance(texts, str) or isinstance(pairs, str):
            raise InputError(
                "Give a list of texts, as in predict(['a text']); one text alone is taken for its letters."
            )
        if columns.text_pair is not None and pairs is None:
            raise InputError(
                f"This model reads two texts, '{columns.text}' and '{columns.text_pair}': give both, as in "
                "predict(['first text'], ['second text'])."
            )
        if columns.text_pair is None and pairs is not None:
            raise InputError(f"This model reads one text ('{columns.text}'), not two; leave the second ones out.")
        if pairs is not None and len(pairs) != len(texts):
            raise InputError(f"There are {len(texts)} first texts and {len(pairs)} second ones; each needs its other.")


def _problem(place: str, parts: Sequence[Any]) -> str | None:
    for text in parts:
        if not isinstance(text, str):
            return f"{place} is a {type(text).__name__}, no text"
        if not text.strip():
            return f"{place} is empty"
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            return f"{place} holds half a character, which is not UTF-8 text"
    return None


def load(directory: Path | str, device: int | str | None = None) -> Classifier:
    """The global model of a finished run, or one device's own; ``device`` is its number, or the name that tables show.

    Raises InputError if the run has not ended, has no such device's adapter, or the base weights differ; and for a
    language model.
    """
    found = loaded(directory, device)
    if found.task.generates:
        raise InputError(f"'{directory}' is a language model, which answers; use fibecfed.load_language_model.")
    return found


def loaded(directory: Path | str, device: int | str | None) -> Classifier:
    """As ``load``, for every kind of task."""
    run = RunDirectory.open(Path(directory))
    config = resolve(run.checked_config())
    number = None if device is None else _number(run, device)
    own = None if number is None else own_parameters(run, number)
    folder = run.adapter if number is None or own is not None else run.device_adapter(number)
    if not folder.is_dir():
        if device is not None and run.adapter.is_dir():
            raise InputError(
                f"'{directory}' has no adapter of device {device}: only devices that were sampled by a method with "
                "local models have one (see its folder adapters/)."
            )
        raise InputError(f"'{directory}' has no adapter yet; finish the run with: {going_on(directory)}")
    description = read_description(folder)
    labels = tuple(description["labels"])
    run.check_outputs(labels, task_kind(config))
    task = task_kind(config).of(labels)
    torch.set_num_threads(config.runtime.threads)
    kind = tuning(config)
    model_config = config.model
    trained_from = Path(description["base_model"])
    if trained_from.is_absolute() and trained_from.is_dir():  # model.name may be relative to another folder than this
        model_config = dataclasses.replace(model_config, name=str(trained_from))
    pretrained = load_pretrained(
        model_config,
        task.outputs,
        config.runtime.precision,
        reserved=kind.positions(config),
        generates=task.generates,
    )
    task.prepare(pretrained.tokenizer)
    if pretrained.sha256 != description["base_sha256"]:
        raise InputError(
            f"The weights of '{model_config.name}' are not those that '{directory}' was trained on (sha256 differs)."
        )
    reader = kind if kind.reloads else SavedLora(folder)
    model = reader.attach(pretrained, task.outputs, kind.for_loading(config), 0)
    load_adapter(folder, model)
    _put_own(own or {}, model, run)
    return Classifier(model.eval(), pretrained.tokenizer, task, config, int(description["max_length"]))


def _put_own(own: Mapping[str, Tensor], model: nn.Module, run: RunDirectory) -> None:
    """Put in what a device has of its own. Raises InputError if it does not fit the model."""
    parameters = dict(model.named_parameters())
    for name, tensor in own.items():
        if name not in parameters or parameters[name].shape != tensor.shape:
            raise InputError(f"'{run.path / OWN_MODELS_FILE}' does not fit this model: '{name}' of one device.")
    put_tensors(model, own)


def _number(run: RunDirectory, device: int | str) -> int:
    """The number of a device. Raises InputError for a name that the run does not have."""
    if isinstance(device, int):
        return device
    path = run.path / "partition.json"
    try:
        names = (json.loads(path.read_text(encoding="utf-8")).get("names") if path.is_file() else None) or []
    except (ValueError, AttributeError) as error:
        raise InputError(f"'{path}' cannot be read ({error!r}); it is written by fibecfed only.") from None
    if device in names:
        return int(names.index(device))
    if device.isdecimal() and device.isascii():
        return int(device)
    known = f" Its devices: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}." if names else ""
    raise InputError(
        f"'{run.path}' has no device '{device}'.{nearest_hint(device, names)}{known or ' Its devices have numbers.'}"
    )
