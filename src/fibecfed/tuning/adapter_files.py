"""An adapter folder: a plain PEFT adapter, or what PEFT cannot hold as tensors of ours; head, tokenizer, task.json."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fibecfed.errors import InputError
from fibecfed.models import PooledClassifier
from fibecfed.tuning.kind import SavedForm, own_form

TASK_FILE = "task.json"
_DESCRIBED = {
    "labels": list,
    "max_length": int,
    "base_model": str,
    "base_sha256": str,
}  # what loading cannot do without
HEAD_FILE = "head.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
OWN_FILE = "tuning.safetensors"  # where PEFT has no such kind


def save_adapter(
    directory: Path, model: Any, tokenizer: Any, description: Mapping[str, Any], form: SavedForm | None = None
) -> None:
    """Write the model's present trainable tensors into an empty folder.

    ``description`` goes into task.json (kind, labels, pooling, length, pad token, base sha256). ``form``: what is
    saved, where it is not what ``own_form`` says.
    """
    form = form or own_form(model)
    save_file({name: _plain(t) for name, t in form.tensors.items()}, directory / _file(form))
    if form.settings is not None:
        settings = copy.copy(form.settings)
        settings.inference_mode = True
        for names in ("target_modules", "exclude_modules"):  # sets, whose order differs from process to process
            if (value := getattr(settings, names, None)) is not None:
                setattr(settings, names, sorted(value))
        settings.save_pretrained(str(directory))
    if isinstance(model, PooledClassifier):
        save_file({name: _plain(t) for name, t in model.head.state_dict().items()}, directory / HEAD_FILE)
    tokenizer.save_pretrained(str(directory))
    (directory / TASK_FILE).write_text(
        json.dumps(dict(description), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for path in directory.glob("*.safetensors"):  # made for the owner alone, whatever the umask says
        shutil.copymode(directory / TASK_FILE, path)


def _file(form: SavedForm) -> str:
    return OWN_FILE if form.settings is None else ADAPTER_FILE


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone().contiguous()


def load_adapter(directory: Path, model: Any) -> None:
    """Put a saved adapter (and head) into a model built from the same configuration.

    Raises InputError, with the model as it was, if a file is missing or a key is missing, unexpected or of
    another shape: PEFT alone would only warn and leave the model untrained.
    """
    expected = own_form(model)
    path = directory / _file(expected)
    if not path.is_file():
        raise InputError(f"'{directory}' holds no adapter ({path.name}).")
    found = read_tensors(path)
    _compare(expected.tensors, found, path)
    if isinstance(model, PooledClassifier):
        head = read_tensors(directory / HEAD_FILE)
        _compare(model.head.state_dict(), head, directory / HEAD_FILE)
        model.head.load_state_dict(head)
    if expected.settings is not None:
        peft.set_peft_model_state_dict(model.backbone, found)
    else:
        model.load_state_dict(found, strict=False)  # the rest is the backbone


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; InputError if it is missing or broken."""
    if not path.is_file():
        raise InputError(f"'{path}' does not exist.")
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own type, without a public base
        raise InputError(f"'{path}' is not a valid safetensors file: {error}.") from None


def _compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        raise InputError(f"'{path}' does not fit this model: missing keys {missing}, unexpected keys {unexpected}.")
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            raise InputError(
                f"'{path}' does not fit this model: '{name}' has shape {tuple(found[name].shape)}, "
                f"expected {tuple(tensor.shape)}."
            )


def read_description(directory: Path) -> dict[str, Any]:
    """task.json of an adapter folder; InputError if it is missing, no JSON, or does not describe an adapter."""
    path = directory / TASK_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' cannot be read: {error}.") from None
    for key, kind in _DESCRIBED.items():
        if not isinstance(found, dict) or not isinstance(found.get(key), kind):
            raise InputError(f"'{path}' does not describe an adapter: '{key}' is missing or wrong. Put the file back.")
    return dict(found)


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trainable tensors, on the CPU, by name."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def put_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's parameters by name. KeyError for an unknown name."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
