"""One batched pass gives what one example at a time gives, and leaves the model as it was."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import tiny
from curriculum.brute_force import (
    CLASSES,
    TOY_NAMES,
    VOCABULARY,
    Choice,
    Reader,
    Toy,
    gradients,
    padded,
    squared_norms,
    transformer,
)
from fibecfed.curriculum import FisherScorer, kernels
from fibecfed.errors import InputError
from fibecfed.tasks import Batch, Classification

TASK = Choice()
EXACT: Any = {"rtol": 1e-9, "atol": 1e-13}  # for float64

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=5)


def check(
    model: nn.Module, names: list[str], batch: Batch, task: Any = TASK, relative: float = 1e-9, absolute: float = 1e-13
) -> None:
    """Difficulty and summed gradients against the oracle; ``relative`` is of each norm."""
    wanted = gradients(model, task, batch, names)
    with FisherScorer(model, names) as scorer:
        found = scorer.score(task, batch)
    assert found.difficulty.dtype == torch.float64
    torch.testing.assert_close(found.difficulty, squared_norms(wanted), rtol=relative, atol=1e-20)
    assert list(found.gradients) == names
    for name in names:
        each = torch.stack([one[name] for one in wanted])
        assert found.gradients[name].dtype == each.dtype
        assert (found.gradients[name] - each.sum(dim=0)).norm() <= relative * each.norm() + absolute, name
    torch.testing.assert_close(found.losses, task.losses(model, batch).detach(), rtol=relative, atol=0)


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(["bert", "llama", "gpt2"]),
    st.sampled_from(["auto", "all-linear"]),
    st.integers(1, 5),
    lengths,
    st.integers(0, 2**16),
)
def test_lora_of_a_transformer_as_one_example_at_a_time(
    kind: str, targets: str, rank: int, sizes: list[int], seed: int
) -> None:
    model, names = transformer(kind, targets, rank, seed)
    check(model, names, padded(sizes, seed))


@pytest.mark.parametrize("kind", [k for k in tiny.KINDS if k not in ("bert", "llama", "gpt2")])
def test_every_other_architecture_too(kind: str) -> None:
    """DeBERTa and OPT have scored layers without an axis of examples: they run one by one."""
    model, names = transformer(kind, "all-linear")
    check(model, names, padded([5, 2, 7]))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_single_precision_is_right_to_five_digits(kind: str) -> None:
    model, names = transformer(kind, "all-linear", rank=3, dtype=torch.float32)
    check(model, names, padded([5, 2, 12, 9]), relative=1e-5)


@pytest.mark.parametrize("kind", tiny.EVERY_KIND)
def test_bottleneck_adapters_and_normalisations_to_five_digits(kind: str) -> None:
    built = tiny.build(kind, tuning="adapter", adapter={"width": 3})
    built.randomize()
    names = [p.name for p in built.layout if p.layer is not None]
    check(built.model, names, built.batch(), built.task, relative=2e-5)


def test_the_classifier_of_the_package_to_five_digits() -> None:
    built = tiny.build("bert")
    built.randomize()
    names = [p.name for p in built.layout if p.layer is not None]
    check(built.model, names, built.batch(), built.task, relative=1e-5)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(1, 30), st.integers(1, 30), st.sampled_from([None, 0]), st.integers(0, 2**16))
def test_linear_embedding_and_conv_weights_and_biases(
    sizes: list[int], inner: int, width: int, padding_idx: int | None, seed: int
) -> None:
    # The gradient of a LayerNorm of one channel is 0, and 1 / sqrt(eps) multiplies its rounding.
    absolute = 1e-12 if width == 1 else 1e-13
    check(Toy(inner, width, padding_idx, seed), TOY_NAMES, padded(sizes, seed), absolute=absolute)


@pytest.mark.parametrize("cost", [0, float("inf")], ids=["materialised", "pairs"])
@pytest.mark.parametrize("entries", [1, 50, 2**24])
def test_both_ways_of_a_linear_map(monkeypatch: pytest.MonkeyPatch, cost: float, entries: int) -> None:
    monkeypatch.setattr(kernels, "_ENTRY_COST", cost)
    monkeypatch.setattr(kernels, "_MOST_ENTRIES", entries)
    check(Toy(6, 5), TOY_NAMES, padded([3, 1, 8, 4]))


def test_a_padding_row_of_an_embedding_has_no_gradient() -> None:
    toy = Toy(padding_idx=7)
    batch = padded([4, 4])
    batch.input_ids[0, 1] = 7
    check(toy, TOY_NAMES, batch)


def test_padding_and_what_stands_in_it_contribute_nothing() -> None:
    model, names = transformer("bert", "all-linear")
    tight = padded([6, 3, 4])
    mask = functional.pad(tight.attention_mask, (0, 5))
    loose = Batch(functional.pad(tight.input_ids, (0, 5)).masked_fill(mask == 0, 9), mask, tight.targets)
    with FisherScorer(model, names, model.first_block) as scorer:
        first, second = scorer.score(TASK, tight), scorer.score(TASK, loose)
    torch.testing.assert_close(first.difficulty, second.difficulty, **EXACT)
    for name in names:
        torch.testing.assert_close(first.gradients[name], second.gradients[name], **EXACT)
    assert second.embedding_gradient is not None
    assert not second.embedding_gradient[loose.attention_mask == 0].any()


class Stacked(nn.Module):
    """A tiny encoder whose layers are called with their input as a keyword, or after a change in place."""

    def __init__(self, keyword: bool = False, repeats: int = 1, in_place: bool = False) -> None:
        super().__init__()
        toy = Toy()
        self.embedding, self.wide, self.head = toy.embedding, nn.Linear(4, 4, bias=False).double(), toy.head
        self.keyword, self.repeats, self.in_place = keyword, repeats, in_place

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.embedding(batch.input_ids)
        for _ in range(self.repeats):
            entered = hidden + 0
            hidden = torch.sin(self.wide(input=entered) if self.keyword else self.wide(entered))
            if self.in_place:
                entered.mul_(2)
        weights = batch.attention_mask[..., None]
        return self.head((hidden * weights).sum(1))


@pytest.mark.parametrize("keyword", [False, True])
def test_a_layer_used_several_times_has_one_gradient(keyword: bool) -> None:
    check(Stacked(keyword, repeats=3), ["wide.weight"], padded([3, 5, 1]))


def test_a_layer_whose_input_is_changed_in_place_is_refused() -> None:
    model = Stacked(in_place=True)
    model.requires_grad_(False)
    with FisherScorer(model, ["wide.weight"]) as scorer, pytest.raises(InputError, match="changed in place"):
        scorer.score(TASK, padded([3, 5]))


def test_a_first_block_that_runs_twice_gives_the_gradient_where_it_was_entered_first() -> None:
    model, batch = Stacked(repeats=2), padded([3, 5])
    hidden = model.embedding(batch.input_ids).detach().requires_grad_()
    model.embedding.forward = lambda _: hidden
    (wanted,) = torch.autograd.grad(TASK.losses(model, batch).sum(), hidden)
    with FisherScorer(model, ["wide.weight"], model.wide) as scorer:
        found = scorer.score(TASK, batch).embedding_gradient
    assert found is not None
    torch.testing.assert_close(found, wanted, **EXACT)


def test_hooks_that_were_there_before_keep_their_effect() -> None:
    toy, batch = Toy(), padded([3, 5])
    plain = squared_norms(gradients(toy, TASK, batch, ["wide.weight"]))
    toy.wide.register_forward_hook(lambda module, inputs, output: 2 * output)
    check(toy, ["wide.weight"], batch)
    assert not torch.allclose(squared_norms(gradients(toy, TASK, batch, ["wide.weight"])), plain)


def test_frozen_parameters_count_like_trainable_ones() -> None:
    model, names = transformer("bert", "all-linear")
    model.requires_grad_(False)
    check(model, names, padded([5, 2, 7]))
    base = "backbone.base_model.model.encoder.layer.0.attention.self.query.base_layer.weight"
    check(model, [base], padded([5, 2, 7]))


def test_a_parameter_that_the_loss_does_not_need_counts_as_zero() -> None:
    toy = Toy()
    with FisherScorer(toy, ["unused.weight", "head.weight"]) as scorer:
        found = scorer.score(TASK, padded([3, 2]))
    assert not found.gradients["unused.weight"].any()
    check(toy, ["unused.weight", "head.weight"], padded([3, 2]))


def test_half_precision_layers_are_reduced_in_single_precision() -> None:
    linear = nn.Linear(8, 6, bias=False).bfloat16()
    inputs, slopes = torch.randn(3, 5, 8).bfloat16(), torch.randn(3, 5, 6).bfloat16()
    squares, totals = kernels.ScoredParameters(linear, ["weight"]).reduce({linear: [(inputs, slopes)]}, 3)
    each = slopes.double().mT @ inputs.double()
    torch.testing.assert_close(squares, each.square().sum(dim=(1, 2)), rtol=1e-5, atol=0)
    assert totals["weight"].dtype == torch.float32
    torch.testing.assert_close(totals["weight"].double(), each.sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_gradient_at_the_first_block_is_autograds(kind: str, frozen: bool) -> None:
    model, names = transformer(kind)
    batch = padded([6, 3, 4])
    if frozen:
        model.requires_grad_(False)
    entered: list[Tensor] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        entered.append((args[0] if args else kwargs["hidden_states"]).detach().requires_grad_())
        return ((entered[0], *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": entered[0]})

    handle = model.first_block.register_forward_pre_hook(enter, with_kwargs=True)
    (wanted,) = torch.autograd.grad(TASK.losses(model, batch).sum(), entered)
    handle.remove()
    with FisherScorer(model, names, model.first_block) as scorer:
        for way in (scorer.score, scorer.score_model):
            found = way(TASK, batch).embedding_gradient
            assert found is not None
            torch.testing.assert_close(found, wanted, **EXACT)
    with FisherScorer(model, names) as scorer:
        assert scorer.score(TASK, batch).embedding_gradient is None


def test_one_by_one_joins_the_gradient_at_the_first_block() -> None:
    """OPT flattens the input of its feed-forward maps; without them it runs as a batch."""
    model, names = transformer("opt", "all-linear")
    attention = [name for name in names if ".fc" not in name]
    batch = padded([6, 3, 4])
    with FisherScorer(model, names, model.first_block) as scorer:
        found = scorer.score(TASK, batch)
    with FisherScorer(model, attention, model.first_block) as scorer:
        wanted = scorer.score(TASK, batch)
    assert found.embedding_gradient is not None and wanted.embedding_gradient is not None
    torch.testing.assert_close(found.embedding_gradient, wanted.embedding_gradient, **EXACT)
    assert (found.difficulty > wanted.difficulty).all()


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["bert", "llama", "deberta"]), lengths, st.integers(0, 2**16))
def test_model_fisher_as_one_example_and_one_label_at_a_time(kind: str, sizes: list[int], seed: int) -> None:
    model, names = transformer(kind, seed=seed)
    batch = padded(sizes, seed)
    chances = torch.softmax(model(batch).detach(), dim=1)
    wanted = torch.zeros(len(batch), dtype=torch.float64)
    for label in range(CLASSES):
        other = replace(batch, targets=torch.full_like(batch.targets, label))
        wanted += chances[:, label] * squared_norms(gradients(model, TASK, other, names))
    with FisherScorer(model, names) as scorer:
        found, own = scorer.score_model(TASK, batch), scorer.score(TASK, batch)
    torch.testing.assert_close(found.difficulty, wanted, **EXACT)
    torch.testing.assert_close(found.losses, own.losses, **EXACT)
    for name in names:
        torch.testing.assert_close(found.gradients[name], own.gradients[name], **EXACT)


@dataclass(frozen=True)
class ManyLabels(Choice):
    """Independent yes-or-no answers: the labels' probabilities do not sum to one."""

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return functional.binary_cross_entropy_with_logits(
            model(batch), functional.one_hot(batch.targets, CLASSES).double(), reduction="none"
        ).sum(1)


def test_model_fisher_refuses_what_is_no_choice_of_one_label() -> None:
    toy = Toy()
    with FisherScorer(toy, TOY_NAMES) as scorer, pytest.raises(InputError, match="one choice"):
        scorer.score_model(ManyLabels(), padded([3, 2]))


def state(model: nn.Module) -> list[Any]:
    """Everything a pass could leave behind, by value or identity."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        [(name, p.detach().clone(), p.grad, p.requires_grad, p._version) for name, p in model.named_parameters()],
        [(module.training, [len(getattr(module, hook)) for hook in hooks]) for module in model.modules()],
        torch.get_rng_state(),
    ]


@pytest.mark.parametrize("way", ["score", "score_model"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_pass_leaves_the_model_as_it_was(way: str, fails: bool) -> None:
    model, names = transformer("bert")
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad and number % 2:
            parameter.grad = torch.full_like(parameter, 3.0)
    model.head.train()
    before = state(model)
    kept = [None if p.grad is None else p.grad.clone() for p in model.parameters()]

    class Broken(Choice):
        def losses(self, model: nn.Module, batch: Batch) -> Tensor:
            raise RuntimeError("stop")

    with FisherScorer(model, names, model.first_block) as scorer:
        if fails:
            with pytest.raises(RuntimeError, match="stop"):
                getattr(scorer, way)(Broken(), padded([3, 2]))
        else:
            getattr(scorer, way)(TASK, padded([3, 2]))
    after = state(model)
    for (name, value, grad, asked, version), old in zip(after[0], before[0], strict=True):
        assert torch.equal(value, old[1]), name
        assert grad is old[2]
        assert (asked, version) == old[3:]
    assert all(p.grad is None or torch.equal(p.grad, old) for p, old in zip(model.parameters(), kept, strict=True))
    assert after[1] == before[1]
    assert torch.equal(after[2], before[2])


def test_a_pass_works_where_gradients_are_off() -> None:
    model, names = transformer("bert")
    batch = padded([3, 2])
    with FisherScorer(model, names) as scorer:
        wanted = scorer.score(TASK, batch).difficulty
        with torch.no_grad():
            assert torch.equal(scorer.score(TASK, batch).difficulty, wanted)


@pytest.mark.parametrize("trainable", [True, False])
def test_recomputed_activations_give_the_same_scores(trainable: bool) -> None:
    model, names = transformer("bert")
    batch = padded([3, 6])
    with FisherScorer(model, names) as scorer:
        wanted = scorer.score(TASK, batch).difficulty
    model.head.requires_grad_(trainable)
    block = model.first_block
    plain = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(plain, *args, use_reentrant=False, **kwargs)
    with FisherScorer(model, names) as scorer:
        torch.testing.assert_close(scorer.score(TASK, batch).difficulty, wanted, **EXACT)
    block.forward = torch.no_grad()(plain)
    with FisherScorer(model, names) as scorer, pytest.raises(InputError, match="without gradients"):
        scorer.score(TASK, batch)


def test_layers_that_cannot_be_scored_are_named() -> None:
    toy = Toy()
    toy.norm = nn.GroupNorm(2, 4)
    with pytest.raises(InputError, match=r"'norm\.weight' \(GroupNorm\)"):
        FisherScorer(toy, ["wide.weight", "norm.weight"])
    with pytest.raises(InputError, match=r"no parameter 'wide\.weights'"):
        FisherScorer(toy, ["wide.weights"])
    with pytest.raises(InputError, match="at least one"):
        FisherScorer(toy, [])
    toy.unused.weight = nn.Parameter(toy.wide.weight)
    toy.head.weight = toy.wide.weight
    with pytest.raises(InputError, match=r"'wide\.weight', 'head\.weight'"):
        FisherScorer(toy, ["wide.weight"])
    with pytest.raises(InputError, match="share"):
        FisherScorer(toy, ["head.weight"])


class Doubled(nn.Linear):
    """Computes something else than its parent class."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 2 * super().forward(inputs)


def test_a_subclass_of_a_known_layer_is_not_taken_for_it() -> None:
    toy = Toy()
    toy.wide = Doubled(4, 5).double()
    with pytest.raises(InputError, match=r"'wide\.weight' \(Doubled\)"):
        FisherScorer(toy, ["wide.weight"])


@pytest.mark.parametrize("option", ["max_norm", "scale_grad_by_freq"])
def test_embeddings_that_do_more_than_look_up_are_refused(option: str) -> None:
    toy = Toy()
    toy.embedding = nn.Embedding(VOCABULARY, 4, **{option: True}).double()
    with FisherScorer(toy, ["embedding.weight"]) as scorer, pytest.raises(InputError, match="max_norm"):
        scorer.score(TASK, padded([3, 2]))


def test_disabled_adapters_and_a_closed_scorer_are_refused() -> None:
    model, names = transformer("bert")
    scorer = FisherScorer(model, names)
    with pytest.raises(RuntimeError, match="with block"):
        scorer.score(TASK, padded([3]))
    wrapped: Any = model.backbone
    with wrapped.disable_adapter(), scorer, pytest.raises(InputError, match="adapters merged or disabled"):
        scorer.score(TASK, padded([3]))


def test_parameters_are_named_once_in_the_order_given() -> None:
    model, names = transformer("bert")
    with FisherScorer(model, [*reversed(names), names[0]]) as scorer:
        assert list(scorer.score(TASK, padded([3])).gradients) == names[::-1]


def test_a_task_of_the_package_gives_the_losses() -> None:
    model, names = transformer("bert", dtype=torch.float32)
    task = Classification(("a", "b", "c"))
    batch = padded([3, 4])
    with FisherScorer(model, names) as scorer:
        assert torch.equal(scorer.score(task, batch).losses, task.losses(model, batch).detach())
    assert isinstance(model, Reader)
