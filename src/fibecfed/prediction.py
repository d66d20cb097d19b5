"""Using a finished run: load its adapter and predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fibecfed.config import Config
from fibecfed.data import Rows, evaluation_batches, tokenize
from fibecfed.errors import InputError
from fibecfed.methods import resolve, tuning
from fibecfed.models import load_pretrained
from fibecfed.results import RunDirectory
from fibecfed.tasks import to_probabilities
from fibecfed.tuning import SavedLora, load_adapter, read_description


@dataclass(frozen=True)
class Prediction:
    """The most probable label of a text, and the probability of each."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Classifier:
    """A trained model with its tokenizer and labels."""

    model: nn.Module
    tokenizer: Any
    labels: tuple[str, ...]
    config: Config
    max_length: int

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> np.ndarray:
        """(N, C) logits. Raises InputError for an empty text."""
        for position, text in enumerate(texts, start=1):
            if not text.strip():
                raise InputError(f"Text {position} is empty; there is nothing to predict.")
        rows = Rows(texts, pairs, np.zeros(len(texts), dtype=np.int64), self.labels)
        data = tokenize(rows, self.tokenizer, self.max_length)
        result = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        with torch.no_grad():
            for chosen in evaluation_batches(np.arange(len(data)), data.lengths, self.config.evaluation.batch_size):
                result[chosen] = self.model(data.batch(chosen)).numpy()
        return result

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """A prediction for each text (or pair of texts)."""
        if not texts:
            return []
        probabilities = to_probabilities(torch.from_numpy(self.logits(texts, pairs)))
        return [
            Prediction(self.labels[int(row.argmax())], dict(zip(self.labels, map(float, row), strict=True)))
            for row in probabilities
        ]


def load(directory: Path | str, device: int | None = None) -> Classifier:
    """The global model of a finished run, or one device's own.

    Raises InputError if the run has not ended, has no such device's adapter, or the base weights differ.
    """
    run = RunDirectory.open(Path(directory))
    config = resolve(run.checked_config())
    folder = run.adapter if device is None else run.device_adapter(device)
    if not folder.is_dir():
        if device is not None and run.adapter.is_dir():
            raise InputError(
                f"'{directory}' has no adapter of device {device}: only devices that were sampled by a method with "
                "local models have one (see its folder adapters/)."
            )
        raise InputError(f"'{directory}' has no adapter yet; finish the run with: fibecfed run --resume {directory}")
    description = read_description(folder)
    labels = tuple(description["labels"])
    torch.set_num_threads(config.runtime.threads)
    kind = tuning(config)
    pretrained = load_pretrained(config.model, len(labels), config.runtime.precision, reserved=kind.positions(config))
    if pretrained.sha256 != description["base_sha256"]:
        raise InputError(
            f"The weights of '{config.model.name}' are not those that '{directory}' was trained on (sha256 differs)."
        )
    reader = kind if kind.reloads else SavedLora(folder)
    model = reader.attach(pretrained, len(labels), kind.for_loading(config), 0)
    load_adapter(folder, model)
    return Classifier(model.eval(), pretrained.tokenizer, labels, config, int(description["max_length"]))
