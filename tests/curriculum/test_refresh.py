"""Training's own backward passes give the scores that a separate pass would give."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from curriculum.brute_force import TOY_NAMES, Choice, Toy, examples, gradients, padded, squared_norms, transformer
from fibecfed.config import TrainingConfig
from fibecfed.curriculum import GradientRecorder, RunningDifficulty, score
from fibecfed.errors import InputError, RunFailed
from fibecfed.tasks import Batch
from fibecfed.training.job import TrainJob
from fibecfed.training.local import train

TASK = Choice()
LENGTHS = [5, 2, 9, 3, 3, 7, 1, 4]
INDICES = np.array([6, 0, 2, 5, 3, 7, 1])
BATCHES = [np.array([0, 6, 3]), np.array([5, 2, 7]), np.array([1])]


def trained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def job(model: nn.Module, learning_rate: float = 0.0, passes: int = 1) -> TrainJob:
    return TrainJob(
        device=0,
        round=1,
        tensors={},
        trained=dict.fromkeys(trained(model)),
        batches=BATCHES * passes,
        learning_rate=learning_rate,
        seed=0,
    )


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("micro", [None, 1, 2])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_model_that_does_not_move_gets_its_direct_scores(kind: str, micro: int | None, passes: int) -> None:
    model, names = transformer(kind, "all-linear")
    data = examples(LENGTHS)
    wanted = score("fisher", model, TASK, data, INDICES, names, 4).difficulty
    running = RunningDifficulty(INDICES)
    work = job(model, passes=passes)
    with GradientRecorder(model, names) as recorder:
        batches = running.follow(recorder, work.batches, (data.batch(b) for b in work.batches))
        train(model, TASK, work, batches, TrainingConfig(micro_batch_size=micro))
    # Llama's norms work in single precision, where a mean's gradient rounds differently from a sum's.
    np.testing.assert_allclose(running.values, wanted, rtol=1e-9 if kind == "bert" else 1e-5)


def test_the_weights_of_losses_are_undone() -> None:
    model, names = transformer("bert")
    data = examples(LENGTHS)
    wanted = score("fisher", model, TASK, data, INDICES, names, 4).difficulty
    running = RunningDifficulty(INDICES)
    weights = {int(i): 0.25 + int(i) for i in INDICES}
    work = replace(job(model), weights=weights)
    with GradientRecorder(model, names) as recorder:
        batches = running.follow(recorder, work.batches, (data.batch(b) for b in work.batches), weights)
        train(model, TASK, work, batches, TrainingConfig())
    np.testing.assert_allclose(running.values, wanted, rtol=1e-6)  # the weights are single precision in training


def test_recording_changes_nothing_in_training_and_leaves_no_hook() -> None:
    data = examples(LENGTHS)
    ends = []
    for record in (False, True):
        model, names = transformer("bert")
        work = job(model, learning_rate=0.05, passes=2)
        batches: Iterator[Batch] = (data.batch(b) for b in work.batches)
        with GradientRecorder(model, names) if record else nullcontext() as recorder:
            if recorder is not None:
                batches = RunningDifficulty(INDICES).follow(recorder, work.batches, batches)
            train(model, TASK, work, batches, TrainingConfig())
        ends.append([p.detach() for p in model.parameters()])
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        assert not any(getattr(module, hook) for module in model.modules() for hook in hooks)
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


def test_scores_follow_the_model_as_it_moves() -> None:
    model, names = transformer("bert")
    data = examples(LENGTHS)
    work = job(model, learning_rate=0.05, passes=2)
    running = RunningDifficulty(INDICES, momentum=0.25)
    moments: list[tuple[Batch, dict[str, Tensor]]] = []

    def watched() -> Iterator[Batch]:
        for chosen in work.batches:
            moments.append((data.batch(chosen), {name: t.clone() for name, t in model.state_dict().items()}))
            yield moments[-1][0]

    with GradientRecorder(model, names) as recorder:
        train(model, TASK, work, running.follow(recorder, work.batches, watched()), TrainingConfig())
    by_hand: dict[int, float] = {}
    for chosen, (batch, then) in zip(work.batches, moments, strict=True):
        model.load_state_dict(then)
        direct = squared_norms(gradients(model, TASK, batch, names)).tolist()
        for index, new in zip(chosen.tolist(), direct, strict=True):
            by_hand[index] = 0.25 * by_hand[index] + 0.75 * new if index in by_hand else new
    np.testing.assert_allclose(running.values, [by_hand[i] for i in INDICES.tolist()], rtol=1e-9)


def step(model: nn.Module, batch: Batch) -> None:
    (TASK.losses(model, batch).sum() / len(batch)).backward()


def test_biases_and_embeddings_are_recorded_too() -> None:
    toy, batch = Toy(), padded([3, 6, 2])
    with GradientRecorder(toy, TOY_NAMES) as recorder:
        step(toy, batch)
        found = recorder.take(3)
    torch.testing.assert_close(found, squared_norms(gradients(toy, TASK, batch, TOY_NAMES)), rtol=1e-9, atol=0)


def test_recomputed_activations_are_counted_once() -> None:
    model, names = transformer("bert")
    batch = padded([3, 6])
    wanted = squared_norms(gradients(model, TASK, batch, names))
    block: Any = model.first_block
    plain = block.forward
    block.forward = lambda *args, **kwargs: checkpoint(plain, *args, use_reentrant=False, **kwargs)
    with GradientRecorder(model, names) as recorder:
        step(model, batch)
        torch.testing.assert_close(recorder.take(2), wanted, rtol=1e-9, atol=0)


def test_passes_without_gradients_in_between_are_not_seen() -> None:
    model, names = transformer("bert")
    batch = padded([3, 6])
    wanted = squared_norms(gradients(model, TASK, batch, names))
    with GradientRecorder(model, names) as recorder:
        step(model, batch)
        with torch.no_grad():
            model(padded([2, 2, 2]))
        torch.testing.assert_close(recorder.take(2), wanted, rtol=1e-9, atol=0)


def test_what_lies_below_the_lowest_trained_layer_counts_as_zero() -> None:
    model, names = transformer("bert")
    batch = padded([3, 6])
    upper = [name for name in names if ".layer.1." in name]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in upper)
    with GradientRecorder(model, names) as recorder:
        step(model, batch)
        found = recorder.take(2)
    torch.testing.assert_close(found, squared_norms(gradients(model, TASK, batch, upper)), rtol=1e-9, atol=0)


def test_a_step_without_its_gradients_is_refused() -> None:
    model, names = transformer("bert")
    with GradientRecorder(model, names) as recorder:
        model(padded([3, 6]))
        with pytest.raises(RunFailed, match="2 examples had gradients for 0"):
            recorder.take(2)
        step(model, padded([3, 6]))
        with pytest.raises(RunFailed, match="3 examples had gradients for 2"):
            recorder.take(3)
        step(model, padded([3, 6]))
        assert len(recorder.take(2)) == 2


def test_a_layer_that_serves_all_examples_at_once_is_refused() -> None:
    model, names = transformer("deberta")
    with GradientRecorder(model, names), pytest.raises(InputError, match="cannot be split by example"):
        step(model, padded([3, 6]))


def test_a_layer_whose_input_is_changed_in_place_is_refused() -> None:
    class Changed(Toy):
        def forward(self, batch: Batch) -> Tensor:
            hidden = self.embedding(batch.input_ids)
            mapped = self.wide(hidden)
            hidden.mul_(2)
            return self.head(self.conv(mapped).mean(1))

    toy = Changed()
    toy.wide.requires_grad_(False)  # of a frozen layer autograd keeps no input, and would not notice
    with GradientRecorder(toy, ["wide.weight"]), pytest.raises(InputError, match="changed in place"):
        step(toy, padded([3, 6]))


def test_the_average_by_hand() -> None:
    running = RunningDifficulty(np.array([40, 10, 30, 20]), np.array([1.0, 2.0, np.nan, np.nan]), momentum=0.75)
    running.update(np.array([10, 30]), np.array([6.0, 5.0]))
    np.testing.assert_array_equal(running.values, [1.0, 3.0, 5.0, np.nan])
    running.update(np.array([30, 40]), torch.tensor([1.0, 1.0]))
    np.testing.assert_array_equal(running.values, [1.0, 3.0, 4.0, np.nan])
    running.values[0] = 99
    assert running.values[0] == 1.0


def test_wrong_averages_are_refused() -> None:
    running = RunningDifficulty(np.array([4, 1]))
    for stranger in (0, 2, 5):
        with pytest.raises(KeyError):
            running.update(np.array([stranger]), np.array([1.0]))
    with pytest.raises(KeyError):
        RunningDifficulty(np.empty(0, np.int64)).update(np.array([1]), np.array([1.0]))
    with pytest.raises(InputError, match="momentum"):
        RunningDifficulty(np.array([1]), momentum=1.0)
    with pytest.raises(ValueError, match="scores for"):
        RunningDifficulty(np.array([1]), np.array([1.0, 2.0]))
