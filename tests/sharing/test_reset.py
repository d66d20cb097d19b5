"""Resetting the LoRA of layers: what is zeroed, what the model then computes, and the loss of each reset."""

import numpy as np
import pytest
import torch

from fibecfed.errors import InputError
from fibecfed.sharing.choice import functional_count, rank_layers
from fibecfed.sharing.reset import keep_layers
from fibecfed.tuning import Layout, Parameter
from sharing.toys import KINDS, TASK, classifier, pairs, tokens

LAYOUT = pairs(3)


def test_b_of_the_other_layers_is_zeroed_and_nothing_else() -> None:
    tensors = {p.name: torch.ones(p.shape) for p in LAYOUT}
    found = keep_layers(tensors, LAYOUT, {1})
    assert list(found) == list(tensors)
    for name, tensor in found.items():
        assert torch.equal(tensor, torch.zeros_like(tensor) if name in ("0.B", "2.B") else torch.ones_like(tensor))
    assert all(tensor.all() for tensor in tensors.values())  # the given ones are untouched
    assert all(torch.equal(value, tensors[name]) for name, value in keep_layers(tensors, LAYOUT, range(3)).items())


def test_layers_without_lora_pairs_are_refused_and_empty_ones_are_not() -> None:
    adapter = Layout((*LAYOUT, Parameter("3.down", (2, 2), 3, "adapter")), 5)  # nothing on layer 4
    tensors = {p.name: torch.ones(p.shape) for p in adapter}
    with pytest.raises(InputError, match="Layer 3 has no LoRA"):
        keep_layers(tensors, adapter, {0})
    assert not keep_layers(tensors, adapter, {0, 2, 3})["1.B"].any()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_without_any_layer_the_model_is_the_frozen_one(kind: str) -> None:
    model, layout = classifier(kind)
    model.eval()
    batch = tokens([4, 3])
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    trained = model(batch)
    with model.backbone.disable_adapter():
        frozen = model(batch)
    for name, value in keep_layers({n: p.clone() for n, p in own.items()}, layout, ()).items():
        own[name].copy_(value)
    assert torch.allclose(model(batch), frozen, atol=1e-6) and not torch.allclose(trained, frozen, atol=1e-3)


@torch.no_grad()
def test_one_loss_function_serves_the_choice_and_the_count() -> None:
    model, layout = classifier("bert", layers=3)
    model.eval()
    batch = tokens([4, 3, 5, 6])
    parameters = dict(model.named_parameters())
    start = {name: parameters[name].clone() for name in layout.names}

    def loss_with(kept: frozenset[int]) -> float:
        for name, value in keep_layers(start, layout, kept).items():
            parameters[name].copy_(value)
        return float(TASK.losses(model, batch).mean())

    full = loss_with(frozenset(range(3)))
    everything = frozenset(range(3))
    losses = np.array([loss_with(everything - {layer}) for layer in range(3)])
    assert len(set(losses.tolist()) | {full}) == 4  # every layer matters, differently
    found = functional_count(rank_layers(losses), loss_with, tolerance=0.0)
    assert found.full_loss == full and 1 <= found.count <= 3
    assert found.losses[-1] <= full and all(loss > full for loss in found.losses[:-1])
