"""Ways to train: micro-batches, checkpointing, LoRA dropout, bf16, other devices, and stopping the backward pass early.

For every architecture and head, against the plain step where there is one to compare with.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from fibecfed import InputError
from fibecfed.models import blocks
from fibecfed.training import DeviceFailed, LocalResult, SequentialExecutor, TrainJob, torch_device
from fibecfed.tuning import trainable_tensors

ONE_BATCH = [np.arange(5)]
TWO_STEPS = [np.arange(5), np.array([1, 3])]
SGD = {"optimizer": "sgd", "max_grad_norm": None}
RATE = 0.05


def ready(kind: str, head: str = "pooled", **settings: Any) -> tiny.Built:
    """A model whose LoRA is not zero, so that every parameter has a gradient."""
    built = tiny.build(kind, head, **settings)
    built.randomize()
    return built


def train(
    built: tiny.Built,
    batches: Sequence[np.ndarray] = TWO_STEPS,
    names: Iterable[str] | None = None,
    seed: int = 0,
    *,
    count: bool = False,
    free: bool = False,
) -> LocalResult:
    """One job. ``count``: with operations, which takes more passes; ``free``: whatever trains, all have gradients."""
    executor = SequentialExecutor(built.resident)
    if not count:
        executor.operations.training = lambda sizes: 0.0  # type: ignore[method-assign]
    if free:
        executor._trainable = []  # so that it leaves requires_grad alone
    start = trainable_tensors(built.model)
    job = TrainJob(0, 1, start, dict.fromkeys(names or start), batches, RATE, seed)
    return executor.result(job)


def assert_same(one: LocalResult, other: LocalResult) -> None:
    assert one.loss == other.loss
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(value, other.tensors[name]) for name, value in one.tensors.items())


def upper(built: tiny.Built) -> list[str]:
    """LoRA of the top layer, and the head."""
    return [p.name for p in built.layout if p.layer in (None, built.layout.layers - 1)]


def stack(built: tiny.Built) -> list[nn.Module]:
    return list(blocks(built.model.backbone, built.model.backbone.config))


@contextmanager
def counted_forwards(built: tiny.Built) -> Iterator[Counter[int]]:
    """How often each block's first LoRA map runs: what is inside a block runs again when it is recomputed."""
    calls: Counter[int] = Counter()
    handles = [
        next(m for n, m in block.named_modules() if n.endswith("lora_A.default")).register_forward_hook(
            lambda *_, number=number: calls.update([number])
        )
        for number, block in enumerate(stack(built))
    ]
    yield calls
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.filterwarnings("error")
def test_a_step_is_the_gradient_step_on_what_trains_and_nothing_else(kind: str, head: str) -> None:
    built = ready(kind, head, training=SGD)
    names = upper(built)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    losses = built.task.losses(built.model, built.batch())
    parameters = dict(built.model.named_parameters())
    gradients = torch.autograd.grad(losses.mean(), [parameters[name] for name in names])

    result = train(built, ONE_BATCH, names)

    assert list(result.tensors) == names
    assert np.isfinite(result.loss) and result.loss == pytest.approx(float(losses.mean().detach()), rel=1e-6)
    for name, gradient in zip(names, gradients, strict=True):
        torch.testing.assert_close(result.tensors[name], before[name] - RATE * gradient, atol=1e-7, rtol=1e-5)
    changed = {name for name, value in built.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(names)


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
def test_nothing_is_computed_for_what_does_not_train(kind: str, head: str) -> None:
    """No backward pass through the lower block, and yet the same bits as with it."""
    less, more = ready(kind, head), ready(kind, head)
    reached: list[int] = []
    for built in (less, more):
        for number, block in enumerate(stack(built)):
            inside = next(m for n, m in block.named_modules() if n.endswith("lora_B.default"))
            inside.register_full_backward_hook(lambda *_, number=number: reached.append(number))
    skipped = train(less, names=upper(less))
    assert set(reached) == {1}
    below = [p.name for p in less.layout if p.layer == 0]
    parameters = dict(less.model.named_parameters())
    assert below and all(parameters[name].grad is None for name in below)

    reached.clear()
    whole = train(more, names=upper(more), free=True)
    assert set(reached) == {0, 1}
    assert all(p.grad is not None for n, p in more.model.named_parameters() if n in below)
    assert_same(skipped, whole)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_operations_are_those_that_run(kind: str) -> None:
    plain = train(ready(kind), count=True).operations
    lazy = ready(kind)
    assert train(lazy, names=upper(lazy), count=True).operations < 0.9 * plain
    assert train(ready(kind, training={"gradient_checkpointing": True}), count=True).operations > 1.2 * plain
    assert train(ready(kind, lora={"dropout": 0.5}), count=True).operations == plain


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
def test_micro_batches_add_up_to_the_batch(kind: str, head: str) -> None:
    whole = train(ready(kind, head, training=SGD))
    parts = train(ready(kind, head, training={**SGD, "micro_batch_size": 2}))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    for name, value in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("micro", "expected"), [(None, [5, 2]), (1, [1] * 7), (2, [2, 2, 1, 2]), (3, [3, 2, 2]), (8, [5, 2])]
)
def test_micro_batches_bound_what_the_model_sees(micro: int | None, expected: list[int]) -> None:
    built = ready("bert", training={"micro_batch_size": micro})
    sizes: list[int] = []
    built.model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    train(built)
    assert sizes == expected


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
@pytest.mark.filterwarnings("error")
def test_checkpointing_recomputes_and_gives_the_same_bits(kind: str, head: str) -> None:
    plain = ready(kind, head)
    with counted_forwards(plain) as once:
        expected = train(plain, ONE_BATCH)
    saving = ready(kind, head, training={"gradient_checkpointing": True})
    with counted_forwards(saving) as twice:
        result = train(saving, ONE_BATCH)
    assert_same(result, expected)
    each = 2 if kind == "deberta" else 1  # its query map runs for tokens and for distances
    assert once == {0: each, 1: each} and twice == {0: 2 * each, 1: 2 * each}
    assert not any(module.training for module in saving.model.modules())
    with counted_forwards(saving) as evaluated:
        saving.logits()
        saving.task.losses(saving.model, saving.batch()).sum().backward()
    assert evaluated == twice  # in two passes: outside of training nothing is recomputed


def test_checkpointing_leaves_out_blocks_below_the_lowest_that_trains() -> None:
    built = ready("bert", layers=3, training={"gradient_checkpointing": True})
    with counted_forwards(built) as calls:
        train(built, ONE_BATCH, upper(built))
    assert calls == {0: 1, 1: 1, 2: 2}


def test_checkpointing_ends_with_a_job_that_fails() -> None:
    built = ready("bert", training={"gradient_checkpointing": True}, lora={"dropout": 0.5})
    with torch.no_grad():
        built.model.head.bias.fill_(float("nan"))
    with pytest.raises(DeviceFailed, match="the loss of device 0 became nan at step 1 of round 1"):
        train(built)
    assert not any("forward" in vars(block) for block in stack(built))
    assert not any(module.training for module in built.model.modules())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "modernbert", "opt"])
def test_dropout_acts_in_training_only_and_comes_from_the_jobs_seed(kind: str, checkpointing: bool) -> None:
    def dropping() -> tiny.Built:
        return ready(kind, lora={"dropout": 0.5}, training={"gradient_checkpointing": checkpointing})

    without = ready(kind)
    one = dropping()
    assert torch.equal(one.logits(), without.logits())
    before = torch.get_rng_state()
    first = train(one, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.logits(), one.logits())
    assert_same(first, train(dropping(), seed=1))
    assert first.loss != train(dropping(), seed=2).loss
    assert first.loss != train(without, seed=1).loss


@pytest.mark.parametrize("kind", ["bert", "opt"])
def test_dropout_is_drawn_again_the_same_when_recomputed(kind: str) -> None:
    plain, saving = (
        ready(kind, lora={"dropout": 0.5}, training={"gradient_checkpointing": asked}) for asked in (False, True)
    )
    assert_same(train(plain, seed=3), train(saving, seed=3))


def test_the_backbones_own_dropout_stays_off() -> None:
    """OPT's blocks drop half of their activations in training mode."""
    one, other = (train(ready("opt"), seed=seed) for seed in (1, 2))
    assert_same(one, other)


@pytest.mark.parametrize(("kind", "head"), tiny.EVERY_MODEL)
def test_bf16_trains_fp32_parameters_near_the_fp32_result(kind: str, head: str) -> None:
    half, full = ready(kind, head, runtime={"precision": "bf16"}, training=SGD), ready(kind, head, training=SGD)
    start = trainable_tensors(full.model)
    result, expected = train(half, ONE_BATCH), train(full, ONE_BATCH)
    assert result.loss != expected.loss and result.loss == pytest.approx(expected.loss, rel=0.03)
    moved, wanted = (_flat(r.tensors, start) for r in (result, expected))
    assert {value.dtype for value in result.tensors.values()} == {torch.float32}
    assert torch.nn.functional.cosine_similarity(moved, wanted, dim=0) > 0.9


def _flat(tensors: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
    return torch.cat([(value - start[name]).flatten() for name, value in tensors.items()])


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, ())
    with pytest.raises(InputError, match=rf"runtime\.device={name}, but torch finds no such device here; use cpu"):
        torch_device(name)
    built = tiny.build("bert", runtime={"device": name})
    with pytest.raises(InputError, match=name):
        SequentialExecutor(built.resident)


@pytest.mark.parametrize(
    ("there", "chosen"), [((), "cpu"), (("cuda",), "cuda"), (("mps",), "mps"), (("cuda", "mps"), "cuda")]
)
def test_auto_takes_the_best_device(there: tuple[str, ...], chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only(monkeypatch, there)
    assert torch_device("auto") == torch.device(chosen)
    assert torch_device("cpu") == torch.device("cpu")


def _only(monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)


HERE = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


@pytest.mark.parametrize(
    "device",
    [pytest.param(d, marks=pytest.mark.skipif(not there, reason=f"no {d} here")) for d, there in HERE.items()],
)
@pytest.mark.parametrize(("kind", "head"), [("bert", "pooled"), ("deberta", "native"), ("qwen3", "native")])
def test_another_device_gives_the_result_of_the_cpu(kind: str, head: str, device: str) -> None:
    settings = {**SGD, "gradient_checkpointing": True, "micro_batch_size": 2}
    expected = train(ready(kind, head, training=settings))
    result = train(ready(kind, head, training=settings, runtime={"device": device}))
    assert result.loss == pytest.approx(expected.loss, rel=1e-4)
    for name, value in result.tensors.items():
        assert value.device.type == "cpu"
        torch.testing.assert_close(value, expected.tensors[name], rtol=1e-3, atol=1e-5)
