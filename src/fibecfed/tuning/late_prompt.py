"""A prompt that enters at a middle layer, made from the hidden states below it (LPT, Liu et al. 2022)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import Pretrained, blocks, entering, model_inputs, pool, starting_at
from fibecfed.tasks import Batch
from fibecfed.tuning.kind import keep_own, seeded, train_in_fp32
from fibecfed.tuning.prompted import PromptedClassifier, PromptKind, PromptNetwork, behind_prompt


class LatePrompt(PromptedClassifier):
    """The layers under ``layer`` read the text alone and without gradients; from there on the prompt stands before it.

    One text takes two partial passes: up to the layer, and from it. The second goes through the model's own code, so
    that masks and positions are those of P + T places.
    """

    def __init__(self, backbone: nn.Module, pooling: str, network: PromptNetwork, layer: int, outputs: int) -> None:
        hidden = network.first.in_features
        super().__init__(backbone, pooling, hidden, outputs)
        self.network = network
        self.layer = layer

    def prompt_vectors(self, batch: Batch, embedded: Tensor) -> Tensor:
        """From the pooled hidden states that enter the layer; ``embedded`` are those, (B, T, d)."""
        return self.network(pool(embedded.float(), batch.attention_mask, self.pooling))

    def features(self, batch: Batch) -> Tensor:
        inputs = model_inputs(batch, self.base.config)
        stack: Any = blocks(self.base, self.base.config)
        with torch.no_grad():
            below = entering(lambda: self.base(**inputs), stack, self.layer)
        prompt = self.prompt_vectors(batch, below.hidden).to(below.hidden.dtype)
        length = prompt.shape[1]
        inputs = behind_prompt(inputs, length)
        # Only their number counts: what they become is replaced at the layer.
        inputs["input_ids"] = functional.pad(batch.input_ids, (length, 0), value=0)
        with starting_at(stack, self.layer, below.returned, lambda: torch.cat([prompt, below.hidden], dim=1)):
            hidden = self.base(**inputs).last_hidden_state
        return pool(hidden[:, length:].float(), batch.attention_mask, self.pooling)


class LatePromptTuning(PromptKind):
    """Trained: the network that makes the prompt, and the head."""

    name = "late-prompt"
    sections = ("prompt", "lpt")

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """Raises InputError for a layer that the model does not have."""
        self.check(config, trains_prompt=False)
        pooling, hidden = self.sizes(pretrained, config)
        layers = pretrained.config.num_hidden_layers
        layer = layers // 2 if config.lpt.layer is None else config.lpt.layer
        if not 0 < layer < layers:
            raise InputError(f"lpt.layer is {layer}; this model has layers 0 to {layers - 1}, choose from 1 upwards.")
        with seeded(seed):
            network = PromptNetwork(hidden, config.lpt.width, config.prompt.length, hidden)
            model = LatePrompt(pretrained.backbone, pooling, network, layer, outputs)
        train_in_fp32(model)
        return keep_own(model).eval()
