"""Where the transformer layers are, in every architecture and under every wrapper."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel

import tiny
from fibecfed import InputError
from fibecfed.models import blocks, blocks_path, layer_of


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
def test_the_stack_is_what_the_hidden_states_pass_through(kind: str, head: str, layers: int) -> None:
    """Through the PEFT wrapper: block l is called l-th, each on what the one below returned."""
    built = tiny.build(kind, head, layers)
    built.randomize()
    path = blocks_path(built.model, built.pretrained.config)
    stack = built.model.get_submodule(path)
    assert isinstance(stack, nn.ModuleList) and len(stack) == layers
    assert list(stack) == list(blocks(built.model.backbone, built.model.backbone.config))
    calls: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def record(number: int) -> object:
        def hook(_: nn.Module, inputs: tuple, kwargs: dict, output: object) -> None:
            entering = inputs[0] if inputs else kwargs["hidden_states"]
            calls.append((number, entering, output if isinstance(output, torch.Tensor) else output[0]))

        return hook

    for number, block in enumerate(stack):
        block.register_forward_hook(record(number), with_kwargs=True)
    built.logits()
    assert [number for number, _, _ in calls] == list(range(layers))
    for (_, _, below), (_, above, _) in itertools.pairwise(calls):
        assert torch.equal(below, above)


def test_layer_of_a_name() -> None:
    path = "backbone.base_model.model.encoder.layer"
    assert layer_of(f"{path}.11.attention.query.lora_A.default.weight", path) == 11
    assert layer_of("backbone.base_model.model.encoder.layer_norm.1.weight", path) is None
    assert layer_of(f"{path}s.1.weight", path) is None
    assert layer_of("head.weight", path) is None
    assert layer_of("h.0.attn.c_attn.weight", "h") == 0
    assert layer_of("path.0.weight", "h") is None


def test_the_shallowest_stack_wins_over_one_of_the_same_length_inside_a_layer() -> None:
    layer = nn.Module()
    layer.experts = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    model = nn.Module()
    model.layers = nn.ModuleList([layer, nn.Linear(2, 2)])
    model.empty = nn.ModuleList([nn.Identity(), nn.Identity()])
    assert blocks_path(model, SimpleNamespace(num_hidden_layers=2)) == "layers"


def test_layers_that_share_weights_are_refused() -> None:
    config = AlbertConfig(
        vocab_size=20, embedding_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8
    )
    with pytest.raises(InputError, match="No stack of 3 transformer layers found in AlbertModel; use an encoder"):
        blocks_path(AlbertModel(config), config)
