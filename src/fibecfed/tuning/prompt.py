"""One soft prompt before every text, held by PEFT (Lester et al. 2021; Zhao et al. 2023)."""

from typing import Any

import peft
import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.models import Pretrained
from fibecfed.tasks import Batch
from fibecfed.tuning.causal_prompts import PromptedCausal
from fibecfed.tuning.kind import seeded, task_type, train_in_fp32, with_peft
from fibecfed.tuning.prompted import PromptedClassifier, PromptKind, drawn_from_vocabulary, embedding_table


class SoftPrompt(PromptedClassifier):
    """The same P trained vectors before every text.

    PEFT holds them and their file. Its own forward pass is not used: it drops the token types of pairs of texts.
    """

    def prompt_vectors(self, batch: Batch, embedded: Tensor) -> Tensor:
        backbone: Any = self.backbone
        return backbone.get_prompt(batch_size=1)


class PromptTuning(PromptKind):
    """Trained: the prompt and the head."""

    name = "prompt"
    sections = ("prompt",)

    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        self.check(config, trains_prompt=True)
        table = embedding_table(pretrained)
        settings = peft.PromptTuningConfig(
            task_type=task_type(pretrained),
            num_virtual_tokens=config.prompt.length,
            token_dim=table.shape[1],
            num_layers=pretrained.config.num_hidden_layers,  # PEFT does not find them in every configuration
            num_attention_heads=pretrained.config.num_attention_heads,
            base_model_name_or_path=pretrained.name,
        )
        with seeded(seed):
            wrapped = with_peft(pretrained, settings)
            model: nn.Module
            if pretrained.generates:
                model = PromptedCausal(wrapped)
            else:
                model = SoftPrompt(wrapped, *self.sizes(pretrained, config), outputs)
            start = initial_prompt(pretrained, config)  # last, so that the head does not depend on where it starts
        with torch.no_grad():
            wrapped.prompt_encoder["default"].embedding.weight.copy_(start)
        train_in_fp32(model)
        return model.eval()


def initial_prompt(pretrained: Pretrained, config: Config) -> Tensor:
    """(P, e) as prompt.init says, drawn by torch's generator; vocabulary where it says nothing."""
    length = config.prompt.length
    if config.prompt.init == "random":
        table = embedding_table(pretrained)
        return torch.randn(length, table.shape[1]).to(table.device) * table.std()
    return drawn_from_vocabulary(pretrained, length)
