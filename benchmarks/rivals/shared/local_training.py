"""What every rival's user writes beside the rival: the PEFT model, a device's training, the test.

Counted among the lines of each of them. The folder in the environment's RIVALS_TASK is what `task.py` wrote.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel

FOLDER = Path(os.environ["RIVALS_TASK"])


class Classifier(nn.Module):
    """MiniLM with LoRA on every linear map, mean pooling and a linear head."""

    def __init__(self, task: Mapping[str, Any]) -> None:
        super().__init__()
        backbone = AutoModel.from_pretrained(task["model"], add_pooling_layer=False)
        self.backbone = get_peft_model(backbone, LoraConfig(target_modules="all-linear", **task["lora"]))
        self.head = nn.Linear(backbone.config.hidden_size, task["labels"])
        put_trained(self, load_file(FOLDER / "initial.safetensors"))
        self.eval()  # as fibecfed trains: the backbone's own dropout is off

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * weights).sum(dim=1) / weights.sum(dim=1))


@cache
def read_task() -> dict[str, Any]:
    return json.loads((FOLDER / "task.json").read_text(encoding="utf-8"))


@cache
def classifier() -> Classifier:
    """The model of this process, loaded once."""
    torch.set_num_threads(1)
    return Classifier(read_task())


def trained(model: nn.Module) -> dict[str, Tensor]:
    """A copy of what is trained and sent: LoRA and the head."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def put_trained(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.as_tensor(tensors[name]))


def collate(questions: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """A batch, padded to its longest question."""
    ids = [torch.tensor(question["input_ids"]) for question in questions]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=read_task()["pad_id"]),
        "attention_mask": pad_sequence([torch.ones_like(i) for i in ids], batch_first=True),
        "labels": torch.tensor([question["label"] for question in questions]),
    }


def questions_of(round: int, device: int) -> list[dict[str, Any]]:
    """A device's questions as it sees them in a round, counted from 0."""
    task = read_task()
    return [task["train"][i] for i in task["orders"][round][str(device)]]


def batches(questions: list[dict[str, Any]], size: int) -> Iterator[dict[str, Tensor]]:
    return (collate(questions[start : start + size]) for start in range(0, len(questions), size))


def train(model: nn.Module, round: int, device: int) -> int:
    """One epoch with a fresh AdamW; returns how many questions the device holds."""
    task, questions = read_task(), questions_of(round, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rate = task["learning_rates"][round]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=task["weight_decay"])
    for batch in batches(questions, task["batch_size"]):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch["input_ids"], batch["attention_mask"]), batch["labels"]).backward()
        nn.utils.clip_grad_norm_(parameters, task["max_grad_norm"])
        optimizer.step()
    return len(questions)


@torch.no_grad()
def test(model: nn.Module) -> dict[str, float]:
    """Accuracy and mean loss on the test questions."""
    task, right, loss = read_task(), 0, 0.0
    for batch in batches(task["test"], task["test_batch_size"]):
        logits = model(batch["input_ids"], batch["attention_mask"])
        right += int((logits.argmax(dim=1) == batch["labels"]).sum())
        loss += float(functional.cross_entropy(logits, batch["labels"], reduction="sum"))
    return {"accuracy": right / len(task["test"]), "loss": loss / len(task["test"])}


def write_result(result: Mapping[str, float]) -> None:
    Path(os.environ["RIVALS_RESULT"]).write_text(json.dumps(result) + "\n", encoding="utf-8")
