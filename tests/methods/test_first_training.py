"""curriculum.initialization=training: difficulties and rows come from a device's first training, at no pass."""

from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from baselines import changed, watched
from fibecfed import Config, InputError
from fibecfed.curriculum import easy_first, prefix_size
from fibecfed.runtime import assemble
from fibecfed.sharing.neurons import neuron_scores, top_rows
from fibecfed.training import SequentialExecutor, TrainJob

FREE: dict[str, Any] = {"curriculum": {"initialization": "training"}, "sharing": {"layers": "consensus", "count": 1}}


@pytest.fixture
def base(small: Config) -> Config:
    values: dict[str, Any] = {"federation": {"rounds": 4, "sampled": 6}, "warm_up": {"rounds": 1}}
    return changed(small, method="fibecfed", **FREE, **values)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"curriculum": {"score": "loss"}},
        {"curriculum": {"refresh": True}},
        {"curriculum": {"score": "length"}},
        {"curriculum": {"score": "none"}},
        {"sharing": {"layers": "all"}},
        {"sharing": {"rows": "none"}},
        {"sharing": {"rows": "random"}},
        {"sharing": {"count": 1.0}},
        {"sharing": {"freeze_a": True}},
        {"training": {"local_steps": 1}},
        {"warm_up": {"rounds": None}},
        {"method": "loss-order", "sharing": {"layers": None, "count": 0.5}},
    ],
)
def test_no_example_is_scored(base: Config, settings: dict[str, Any]) -> None:
    result = fibecfed.run(changed(base, **settings))
    assert result.summary["examples_scored"] == 0
    assert all(record["failures"] == 0 for record in result.metrics)


@pytest.fixture
def jobs(base: Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs, and gives every training job of device 0 after the warm-up with its result, and the end."""

    def run(**settings: Any) -> Any:
        found: list[tuple[TrainJob, Any]] = []
        train = SequentialExecutor._train

        def watch(self: SequentialExecutor, job: TrainJob) -> Any:
            result = train(self, job)
            found.extend([(job, result)] if job.device == 0 and job.round > 1 else [])
            return result

        with monkeypatch.context() as patch:
            patch.setattr(SequentialExecutor, "_train", watch)
            run = watched(changed(base, **settings))
        return found, run.experiment.site.store.load(0, run.result.state.device_versions[0])

    return run


def test_the_first_training_takes_everything_and_the_next_its_easy_part_and_rows(jobs: Any) -> None:
    ((first, result), (second, _), *_), kept = jobs()
    examples = np.unique(np.concatenate(first.batches))
    assert len(examples) == len(np.concatenate(first.batches)) == len(kept.memory["difficulty"])
    assert all(rows is None for rows in first.trained.values())  # densely
    assert (kept.memory["difficulty"].numpy() == result.difficulty).all()
    assert (result.difficulty > 0).all()
    easy = easy_first(result.difficulty, np.zeros(len(examples), int), stratified=False).positions
    count = len(np.concatenate(second.batches))
    assert count == prefix_size(0.6 + 0.4 / (0.8 * 3), len(examples)) < len(examples)
    chosen = set(np.concatenate(second.batches))
    assert np.isin(examples[easy[: count // 2]], list(chosen)).mean() > 0.5
    sparse = {name: rows for name, rows in second.trained.items() if rows is not None}
    assert sparse
    for name, rows in sparse.items():
        assert torch.equal(rows, top_rows(neuron_scores(result.observed[name]), 0.5)), name
        assert torch.equal(rows, kept.memory[f"rows/{name}"])


def test_scores_of_a_model_that_hardly_moves_are_those_of_a_pass(jobs: Any) -> None:
    slow = {"training": {"learning_rate": 1e-9, "max_grad_norm": None}}
    ((_, result), *_), kept = jobs(**slow)
    _, by_pass = jobs(**slow, curriculum={"initialization": "pass"})
    # The pass pads other batches, which changes the last digits
    assert result.difficulty == pytest.approx(by_pass.memory["difficulty"].numpy(), rel=1e-3)
    _, by_loss = jobs(**slow, curriculum={"score": "loss"})
    _, by_loss_pass = jobs(**slow, curriculum={"score": "loss", "initialization": "pass"})
    assert by_loss.memory["difficulty"].numpy() == pytest.approx(by_loss_pass.memory["difficulty"].numpy(), rel=1e-3)
    assert kept.memory.keys() == by_pass.memory.keys()


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"sharing": {"layers": "sensitivity"}}, "sharing.layers=sensitivity"),
        ({"sharing": {"layers": "gain"}}, "sharing.layers=gain"),
        ({"sharing": {"layers": "reset_loss"}}, "sharing.layers=reset_loss"),
        ({"sharing": {"count": "functional"}}, "sharing.count=functional"),
        ({"curriculum": {"score": "fisher-model"}}, "curriculum.score=fisher-model"),
    ],
)
def test_what_needs_a_pass_is_refused(base: Config, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"^{key} needs a pass"):
        assemble(changed(base, **settings))
