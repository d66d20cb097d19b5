"""A tuned model as plain transformers has it: LoRA added to the weights of its base."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fibecfed.errors import InputError
from fibecfed.models import PROBE, NativeClassifier, PooledClassifier, same_but_for_rounding
from fibecfed.tasks import TASKS
from fibecfed.tuning.adapter_files import HEAD_FILE, TASK_FILE


def merged(model: Any) -> Any:
    """The backbone without PEFT, its LoRA in its weights; the model given is used up.

    The sum is rounded to the base's own precision. Raises InputError for a base in 4 or 8 bit, for tuning that is no
    addition to weights, and where the merged model says something else.
    """
    backbone = model.backbone
    if not isinstance(backbone, peft.PeftModel) or not isinstance(backbone.peft_config["default"], peft.LoraConfig):
        raise InputError(
            "This run's tuning is no LoRA: prompts, prefixes and adapters are parts beside the weights and cannot be "
            "merged into them; use the folder adapter/ as its README.md says."
        )
    if getattr(backbone.get_base_model(), "is_quantized", False):
        raise InputError(
            "The base model is quantized, and weights of 4 or 8 bit cannot take up an adapter without loss; keep base "
            "and adapter apart, as the run's README.md loads them."
        )
    before = _said(backbone)
    for module in backbone.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    plain: Any = backbone.merge_and_unload()
    if not same_but_for_rounding(_said(plain), before, plain.dtype):
        raise InputError(
            f"The merged {type(plain).__name__} does not say what base and adapter say together, so that something in "
            "it cannot be merged; keep base and adapter apart, as the run's README.md loads them."
        )
    return plain


def save_merged(directory: Path, model: Any, tokenizer: Any, description: Mapping[str, Any]) -> None:
    """Write a merged model into an empty folder: weights, tokenizer, task.json, and a pooled head beside them.

    ``description`` is that of the adapter. Raises InputError as ``merged``.
    """
    plain = merged(model)
    plain.config.use_cache = True
    if isinstance(model, NativeClassifier):
        TASKS[description["task"]].name_outputs(plain.config, description)
    plain.save_pretrained(str(directory))
    if isinstance(model, PooledClassifier):
        head = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
        save_file(head, directory / HEAD_FILE)
    tokenizer.save_pretrained(str(directory))
    text = json.dumps(dict(description), indent=2, ensure_ascii=False) + "\n"
    (directory / TASK_FILE).write_text(text, encoding="utf-8")


def _said(model: nn.Module) -> Tensor:
    ids = torch.arange(1, PROBE + 1)[None]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        found: Any = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    first: Tensor = found[0]
    return first.double()
