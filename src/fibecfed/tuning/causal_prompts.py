"""Language models that read a trained prompt, or trained keys and values, before every text; held by PEFT.

The head they were pretrained with stays frozen, so that what trains is the prompt or the prefix alone.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fibecfed.models import CausalModel, hidden_states, language_model_of, model_inputs
from fibecfed.tasks import Batch
from fibecfed.tuning.prompted import behind_prompt


class PromptedCausal(CausalModel):
    """The same P trained vectors before every text (Lester et al. 2021)."""

    def hidden(self, batch: Batch) -> Tensor:
        backbone: Any = self.backbone
        language_model = language_model_of(backbone)
        inputs = model_inputs(batch, backbone.config)
        embedded = language_model.get_input_embeddings()(inputs.pop("input_ids"))
        prompt = backbone.get_prompt(batch_size=1).to(embedded.dtype).expand(len(batch), -1, -1)
        length = prompt.shape[1]
        whole = {"inputs_embeds": torch.cat([prompt, embedded], dim=1), **behind_prompt(inputs, length)}
        return hidden_states(language_model, whole, 0)[:, length:]


class PrefixedCausal(CausalModel):
    """Layers attend to P trained keys and values too (P-tuning v2, Liu et al. 2022)."""

    def __init__(self, backbone: Any, fixed: type) -> None:
        super().__init__(backbone)
        self._fixed = fixed

    def hidden(self, batch: Batch) -> Tensor:
        backbone: Any = self.backbone
        inputs = model_inputs(batch, backbone.config)
        cache = backbone.get_prompt(batch_size=len(batch))
        cache.__class__ = self._fixed
        length = cache.get_seq_length()
        mask = nn.functional.pad(inputs.pop("attention_mask"), (length, 0), value=1)
        whole = {**inputs, "attention_mask": mask, "past_key_values": cache}
        return hidden_states(language_model_of(backbone), whole, length)
