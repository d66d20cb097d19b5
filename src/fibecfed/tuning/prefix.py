"""Trained keys and values before those of the text in every layer (P-tuning v2, Liu et al. 2022), held by PEFT."""

import inspect
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import PooledClassifier, Pretrained, model_inputs, pool
from fibecfed.tasks import Batch
from fibecfed.tuning.causal_prompts import PrefixedCausal
from fibecfed.tuning.kind import Tuning, pooling_of, seeded, task_type, train_in_fp32, with_peft
from fibecfed.tuning.prompted import require_pooled


class _Prefix(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """A cache that puts its keys and values first and never takes any in: a layer may run twice (checkpointing)."""

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Both (B, heads, T, d / heads) -> (B, heads, P + T, d / heads)."""
        held: Any = self.layers[layer]
        return torch.cat([held.keys, key], dim=-2), torch.cat([held.values, value], dim=-2)


class Prefixed(PooledClassifier):
    """A backbone whose layers attend to trained keys and values too; pooled over the text."""

    def features(self, batch: Batch) -> Tensor:
        """The text's pooled vectors (B, d)."""
        backbone: Any = self.backbone
        inputs = model_inputs(batch, backbone.config)
        cache = backbone.get_prompt(batch_size=len(batch))
        cache.__class__ = _Prefix
        mask = nn.functional.pad(inputs.pop("attention_mask"), (cache.get_seq_length(), 0), value=1)
        hidden = backbone.base_model(**inputs, attention_mask=mask, past_key_values=cache).last_hidden_state
        return pool(hidden.float(), batch.attention_mask, self.pooling)


class PrefixTuning(Tuning):
    """Trained: one key and one value vector for each place of the prefix in each layer, and the head.

    No reparameterisation by a network: P-tuning v2 leaves it to the task, and what travels would be larger.
    """

    name = "prefix"
    sections = ("prefix",)

    def positions(self, config: Config) -> int:
        return config.prefix.length

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """Raises InputError for a model whose layers take no keys and values from outside."""
        require_pooled(config, self.name)
        backbone: Any = pretrained.backbone
        if "past_key_values" not in inspect.signature(backbone.forward).parameters:
            raise InputError(
                f"A '{backbone.config.model_type}' model takes no keys and values from outside, so p-tuning-v2 cannot "
                "be had with it; take BERT, RoBERTa or a decoder, or method=prompt-tuning."
            )
        settings = peft.PrefixTuningConfig(
            task_type=task_type(pretrained),
            num_virtual_tokens=config.prefix.length,
            prefix_projection=False,
            base_model_name_or_path=pretrained.name,
        )
        with seeded(seed):
            wrapped = with_peft(pretrained, settings)
            model: nn.Module
            if pretrained.generates:
                model = PrefixedCausal(wrapped, _Prefix)
            else:
                pooling = pooling_of(config, pretrained.decoder)
                model = Prefixed(wrapped, pooling, pretrained.config.hidden_size, outputs)
        train_in_fp32(model)
        return model.eval()

    def role(self, name: str, layer: int | None) -> str:
        return "head" if name.startswith("head.") else "prefix"
