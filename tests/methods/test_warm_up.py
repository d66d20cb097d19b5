"""When a warm-up ends: between chance and 1, by recalls pooled over devices, at no pass of its own."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from baselines import changed, listening
from fibecfed import Config
from fibecfed.config import WarmUpConfig
from fibecfed.federation import Reply, Request
from fibecfed.runtime import assemble
from fibecfed.tasks import Classification
from fibecfed.training import CountJob, TrainJob

OPEN: dict[str, Any] = {"warm_up": {"rounds": None, "accuracy": 0.1, "most": 0.5}}


@pytest.fixture
def base(small: Config) -> Config:
    return changed(small, method="fibecfed", federation={"rounds": 4}, sharing={"count": 1})


@pytest.mark.parametrize(
    ("labels", "accuracy", "wanted"), [(2, 0.5, 0.75), (6, 0.5, 7 / 12), (6, 0.52, 0.6), (2, 0.0, 0.5), (3, 1.0, 1.0)]
)
def test_the_threshold_lies_between_chance_and_one(small: Config, labels: int, accuracy: float, wanted: float) -> None:
    config = dataclasses.replace(small, warm_up=WarmUpConfig(accuracy=accuracy))
    assert Classification.enough(config, labels) == pytest.approx(wanted)


def test_recalls_are_pooled_over_devices() -> None:
    one = np.array([[1.0, 0, 0], [1, 0, 0]])  # its only example is right
    other = np.array([[0.0, 3, 0], [3, 4, 0]])
    assert Classification.judgement(one + other) == pytest.approx((1 / 4 + 3 / 4) / 2)  # no example of the third label
    assert Classification.judgement(np.zeros((2, 3))) == 0


@pytest.mark.parametrize("head", ["pooled", "native"])
def test_it_can_end_under_every_head_and_scores_nothing_of_its_own(base: Config, head: str) -> None:
    seen: list[tuple[Request, Reply]] = []
    with listening(seen):
        state = fibecfed.run(changed(base, model={"head": head}, **OPEN)).state
    threshold = 1 / 3 + 0.1 * 2 / 3
    reached = [a >= threshold for a in state.info["warm_up_accuracy"]]
    assert state.info["warm_up"] == (reached.index(True) + 1 if True in reached else 2)
    replies = [r for q, r in seen if q.address.stage == "warm-up"]
    assert replies and not any(r.info["examples_scored"] for r in replies)
    for number in range(1, state.info["warm_up"] + 1):
        judged = sum(r.tensors["judged"].numpy() for r in replies if r.address.round == number)
        assert judged[1].sum() == sum(r.info["examples"] for r in replies if r.address.round == number)
        assert state.info["warm_up_accuracy"][number - 1] == pytest.approx((judged[0] / judged[1]).mean())


@pytest.mark.parametrize("micro", [None, 3])
def test_training_counts_each_example_once_as_the_model_first_saw_it(base: Config, micro: int | None) -> None:
    experiment = assemble(changed(base, training={"micro_batch_size": micro, "batch_size": 4}))
    executor, tensors = experiment.site.executor, experiment.start.tensors
    examples = np.arange(10)
    batches = [examples[:4], examples[4:8], examples[8:], examples[2:6]]
    job = TrainJob(0, 1, tensors, dict.fromkeys(tensors), batches, 1e-12, 0, counted=True)
    offset = dataclasses.replace(job, output_offset=torch.tensor([0.0, 9.0, 0.0]))
    known = executor.result(CountJob(0, tensors, experiment.data.train, examples)).counts
    for one in (job, offset):  # what a loss adds to the outputs does not count
        seen = executor.result(one).seen
        assert seen is not None and list(seen.examples) == list(examples)
        assert (seen.counts.values["confusion"] == known.values["confusion"]).all()
        assert seen.counts.values["loss"] == pytest.approx(known.values["loss"], abs=1e-5)
    plain = executor.result(dataclasses.replace(job, counted=False))
    assert plain.seen is None
    assert all(torch.equal(plain.tensors[n], t) for n, t in executor.result(job).tensors.items())


@pytest.mark.parametrize("judged", [[[2.0, 0, 0], [1, 0, 0]], [[-1.0, 0, 0], [1, 0, 0]], [[0.0, 0, 0], [5e3, 0, 0]]])
def test_a_judgement_that_contradicts_itself_is_left_out(base: Config, judged: list[list[float]]) -> None:
    experiment = assemble(changed(base, **OPEN))
    stage = experiment.method.stages[0]
    request = experiment.server.request(experiment.start, stage, 0)
    reply = Reply(request.address, {"judged": torch.tensor(judged, dtype=torch.float64)}, {"examples": 10})
    assert stage.problem(experiment.start, reply)
    good = torch.tensor([[1.0, 0, 0], [10, 0, 0]], dtype=torch.float64)
    assert stage.problem(experiment.start, dataclasses.replace(reply, tensors={"judged": good})) is None
