"""The one task of all rows, as a folder of plain files that any program can read: what `fibecfed run` would do.

    python benchmarks/rivals/task.py FOLDER

`task.json` has the model's folder, the settings of LoRA and of training, the learning rate and the cohort of each
round, the tokenized training and test questions, and the order in which a device sees its questions in a round.
`initial.safetensors` has LoRA and head before training, by the names of `local_training.Classifier`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from fibecfed import load_config
from fibecfed.data import TokenizedSet, evaluation_batches, training_batches
from fibecfed.federation import cohort
from fibecfed.models import resolve
from fibecfed.runtime import Experiment, assemble
from fibecfed.training import scheduled_rate

CONFIG = Path(__file__).parent / "fibecfed" / "task.yaml"


def questions(held: TokenizedSet, which: np.ndarray) -> list[dict[str, Any]]:
    """Tokens and label of each question."""
    return [
        {"input_ids": held.ids[held.offsets[i] : held.offsets[i + 1]].tolist(), "label": int(held.targets[i])}
        for i in which
    ]


def order(experiment: Experiment, round: int, device: int) -> list[int]:
    """The questions of a device as its batches of a round hold them, one batch after the other.

    Raises ValueError where a batch in between is smaller than the others, since rivals cut the list evenly.
    """
    config, data = experiment.config, experiment.data
    held = data.devices.indices(device)
    batches = training_batches(
        held,
        data.train.lengths[held],
        config.training.batch_size,
        seed=config.seed,
        round=round,
        device=device,
        epochs=1,
    )
    if any(len(batch) < config.training.batch_size for batch in batches[:-1]):
        raise ValueError(f"device {device} holds {len(held)} questions, no multiple of {config.training.batch_size}")
    return [int(i) for batch in batches for i in batch]


def described(experiment: Experiment) -> dict[str, Any]:
    """What is written to task.json."""
    config, data = experiment.config, experiment.data
    rounds, devices = range(1, config.federation.rounds + 1), data.devices.devices
    cohorts = [cohort(config.seed, n, config.federation.cohort_size, devices) for n in rounds]
    test = np.concatenate(
        list(evaluation_batches(np.arange(len(data.held_out)), data.held_out.lengths, config.evaluation.batch_size))
    )
    return {
        "model": resolve(config.model)[0],
        "labels": data.task.outputs,
        "pad_id": data.train.pad_id,
        "lora": {"r": config.lora.rank, "lora_alpha": config.lora.alpha, "lora_dropout": config.lora.dropout},
        "batch_size": config.training.batch_size,
        "test_batch_size": config.evaluation.batch_size,
        "weight_decay": config.training.weight_decay,
        "max_grad_norm": config.training.max_grad_norm,
        "learning_rates": [scheduled_rate(config.training, n, config.federation.rounds) for n in rounds],
        "devices": devices,
        "cohorts": cohorts,
        "orders": [
            {str(d): order(experiment, n, d) for d in chosen} for n, chosen in zip(rounds, cohorts, strict=True)
        ],
        "train": questions(data.train, np.arange(len(data.train))),
        "test": questions(data.held_out, test),  # in the order of fibecfed's batches: by length
    }


def main() -> None:
    folder = Path(sys.argv[1])
    experiment = assemble(load_config(CONFIG))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.json").write_text(json.dumps(described(experiment)) + "\n", encoding="utf-8")
    save_file(dict(experiment.start.tensors), folder / "initial.safetensors")


if __name__ == "__main__":
    main()
