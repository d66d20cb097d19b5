"""A language model's losses: of responses only, whatever is around them, with or without pieces."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.functional import pad

import tiny
from fibecfed import InputError
from fibecfed.config import ModelConfig
from fibecfed.curriculum import FisherScorer
from fibecfed.models import CausalModel, blocks, load_pretrained
from fibecfed.sharing import layer_sensitivity
from fibecfed.tasks import Batch
from tasks.instructions import ARCHITECTURES, TASK, Built, build, folder


@pytest.fixture(scope="module", params=ARCHITECTURES)
def built(request: pytest.FixtureRequest) -> Built:
    return build(request.param)


def left_padded(batch: Batch, by: int) -> Batch:
    ids, mask, targets = (
        pad(tensor, (by, 0), value=value)
        for tensor, value in ((batch.input_ids, 0), (batch.attention_mask, 0), (batch.targets, -100))
    )
    return Batch(ids, mask, targets)


def names_of(built: Built) -> list[str]:
    return list(built.layout.names)


@torch.no_grad()
def test_losses_are_those_of_the_plain_model(built: Built) -> None:
    for position in range(len(built.data)):
        batch = built.batch(position)
        logits = built.model.backbone(input_ids=batch.input_ids).logits[0, :-1].float()
        plain = functional.cross_entropy(logits, batch.targets[0, 1:], ignore_index=-100, reduction="sum")
        assert TASK.losses(built.model, batch)[0] == pytest.approx(float(plain), rel=1e-5)


@torch.no_grad()
def test_losses_depend_neither_on_padding_nor_on_what_shares_a_batch(built: Built) -> None:
    together = TASK.losses(built.model, built.batch())
    alone = torch.cat([TASK.losses(built.model, built.batch(i)) for i in range(len(built.data))])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    left = torch.cat([TASK.losses(built.model, left_padded(built.batch(i), 5)) for i in range(len(built.data))])
    torch.testing.assert_close(left, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_targets_of_prompts_count_nothing(built: Built) -> None:
    batch = built.batch()
    said = built.model(batch)
    assert not said[batch.targets == -100].any() and (said[batch.targets >= 0][:, 0] > 0).all()
    counts = TASK.counts(said, batch)
    assert counts.values["tokens"].tolist() == (batch.targets >= 0).sum(1).tolist()
    metrics = TASK.metrics(counts.total())
    loss = said[..., 0].sum() / (batch.targets >= 0).sum()
    assert metrics["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert metrics["perplexity"] == pytest.approx(float(loss.exp()), rel=1e-5)
    assert metrics["token_accuracy"] == pytest.approx(float(said[..., 1].sum() / (batch.targets >= 0).sum()))


def test_logits_in_pieces_give_the_same_losses_and_gradients(built: Built) -> None:
    batch, parameters = built.batch(), [p for p in built.model.parameters() if p.requires_grad]
    whole = TASK.losses(built.model, batch)
    gradients = torch.autograd.grad(whole.sum(), parameters)
    rows: list[int] = []
    head = built.model.backbone.get_base_model().get_output_embeddings()
    hook = head.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    pieces = CausalModel(built.model.backbone, most=2 * head.weight.shape[0])
    found = TASK.losses(pieces, batch)
    again = torch.autograd.grad(found.sum(), parameters)
    hook.remove()
    assert max(rows) == 2 and sum(rows) == 2 * int(
        (batch.targets >= 0).sum()
    )  # forward, and again in the backward pass
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-6)
    for one, other in zip(again, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("sides", ["right", "left"])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_batched_scores_equal_brute_force(built: Built, sides: str, in_pieces: bool) -> None:
    model = CausalModel(built.model.backbone, most=1) if in_pieces else built.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    brute = []
    for position in range(len(built.data)):
        loss = TASK.losses(model, built.batch(position)).sum()
        brute.append(sum(float(g.double().square().sum()) for g in torch.autograd.grad(loss, parameters)))
    batch = built.batch()
    with FisherScorer(model, names_of(built)) as scorer:
        found = scorer.score(TASK, left_padded(batch, 3) if sides == "left" else batch)
    assert found.difficulty.tolist() == pytest.approx(brute, rel=1e-5)
    assert len(set(np.round(brute, 6))) == len(brute)


def test_training_takes_the_mean_over_tokens(built: Built) -> None:
    batch = built.batch()
    losses = TASK.losses(built.model, batch)
    scale = TASK.training_scale(batch)
    mean = losses.sum() / (batch.targets >= 0).sum()
    assert float((losses * scale).mean().detach()) == pytest.approx(float(mean.detach()), rel=1e-6)


@torch.no_grad()
def test_bf16_and_tied_weights() -> None:
    half, whole = build("llama", "bf16"), build("llama")
    losses = TASK.losses(half.model, half.batch())
    assert losses.dtype == torch.float32 and half.pretrained.dtype == "bfloat16"
    torch.testing.assert_close(losses, TASK.losses(whole.model, whole.batch()), rtol=0.05, atol=0.05)
    tied = build("gpt2")
    assert tied.pretrained.config.tie_word_embeddings
    names = [name for name, p in tied.model.named_parameters() if p.requires_grad]
    assert names and all(".h." in name for name in names)  # in the layers; neither embedding nor head


def test_a_tokenizer_without_pad_token_gets_one() -> None:
    tokenizer = build("qwen2").pretrained.tokenizer
    assert tokenizer.pad_token == tokenizer.eos_token


def test_an_encoder_is_refused() -> None:
    with pytest.raises(InputError, match="is an encoder, which cannot answer a prompt"):
        load_pretrained(ModelConfig(name=str(tiny.folder("bert"))), 0, generates=True)


def test_weights_without_a_head_are_refused() -> None:
    with pytest.raises(InputError, match=r"lacks weights .*lm_head"):
        load_pretrained(ModelConfig(name=str(tiny.folder("llama"))), 0, generates=True)


def test_logits_of_another_making_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def scaled(self: LlamaForCausalLM, *args: object, **kwargs: object) -> object:
        found = forward(self, *args, **kwargs)
        return replace(found, logits=2 * found.logits)

    monkeypatch.setattr(LlamaForCausalLM, "forward", scaled)
    with pytest.raises(InputError, match="makes its logits in a way of its own"):
        load_pretrained(ModelConfig(name=str(folder("llama"))), 0, generates=True)


@torch.no_grad()
def test_layers_are_judged_where_the_loss_reads_them(built: Built) -> None:
    batch = built.batch()
    expected = torch.zeros_like(batch.targets, dtype=torch.bool)
    expected[:, :-1] = batch.targets[:, 1:] >= 0
    assert torch.equal(batch.read, expected) and batch.read.any(dim=1).all()
    stack = list(blocks(built.model.backbone, built.model.backbone.config))
    seen: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, inputs, out: seen.append(out if torch.is_tensor(out) else out[0]))
        for block in stack
    ]
    noise = np.random.default_rng(0)
    found = layer_sensitivity(built.model, stack, batch, noise, 0.1)
    for hook in hooks:
        hook.remove()
    clean, noisy = seen[: len(stack)], seen[len(stack) :]
    mask = batch.read[..., None]
    ratios = [
        (((n - c) * mask).flatten(1).norm(dim=1) / (c * mask).flatten(1).norm(dim=1)).sum()
        for c, n in zip(clean, noisy, strict=True)
    ]
    assert found.change.tolist() == pytest.approx([float(r) for r in ratios], rel=1e-4)
