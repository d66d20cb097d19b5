"""A cohort's work: how many devices are at work together changes no number, and a job's failure is one device's."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import DeviceSide, MemoryStore, Reply, Request, Server, ServerState, next_stage
from fibecfed.federation.upload import AsItIs, Upload
from fibecfed.runtime import Experiment, assemble
from fibecfed.runtime.in_process import InProcessTransport
from fibecfed.training import DeviceFailed, Job, ScoreJob

FIBECFED = {
    "method": "fibecfed",
    "federation": {"rounds": 4},
    "warm_up": {"rounds": 1},
    "sharing": {"devices": 1, "count": 1},
    "curriculum": {"fresh": False},
}


def changed(config: Config, changes: dict[str, object]) -> Config:
    return build_config(merge(to_dict(config), changes))


def wide(config: Config, width: int, watch: Callable[[Job], None] = lambda job: None) -> Experiment:
    """A run whose executor wants so many jobs at hand; ``watch`` sees each job before it runs, and may raise."""
    experiment = assemble(config, MemoryStore())
    executor = experiment.site.executor
    executor.width = width
    run = executor.result

    def watched(job: Job) -> object:
        watch(job)
        return run(job)

    executor.result = watched  # type: ignore[method-assign]
    return experiment


def finished(experiment: Experiment) -> tuple[ServerState, list[float | None]]:
    done = list(experiment.server.run(experiment.start))
    return done[-1].state, [stage.loss for stage in done]


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("changes", [{}, FIBECFED], ids=["fedavg-lora", "fibecfed"])
def test_three_devices_at_work_together_give_the_numbers_of_one_after_another(
    small: Config, changes: dict[str, object]
) -> None:
    config = changed(small, changes)
    jobs: dict[int, list[Job]] = {1: [], 3: []}
    runs = {width: wide(config, width, seen.append) for width, seen in jobs.items()}
    (one, losses), (three, others) = (finished(run) for run in runs.values())
    assert_equal(dict(one.tensors), dict(three.tensors))
    assert losses == others
    assert one.device_versions == three.device_versions
    costs = [dataclasses.replace(state.costs, cpu_seconds=0.0) for state in (one, three)]
    assert costs[0] == costs[1]
    for number in one.device_versions:
        kept = [run.device(number, state).state for run, state in zip(runs.values(), (one, three), strict=True)]
        assert kept[0] is not None
        assert kept[1] is not None
        assert_equal(dict(kept[0].local), dict(kept[1].local))
        assert_equal(dict(kept[0].memory), dict(kept[1].memory))
    order = [[(type(job).__name__, job.device) for job in seen] for seen in jobs.values()]
    assert sorted(order[0]) == sorted(order[1])
    if changes:
        assert order[0] != order[1]  # jobs of several devices alternate
        late = {job.device for job in jobs[3] if isinstance(job, ScoreJob)}
        assert len(late) > config.sharing.devices  # some devices were initialised in a round


def test_a_job_that_fails_is_one_devices_failure_and_the_others_answer(small: Config) -> None:
    def requests(experiment: Experiment) -> list[Request]:
        server, state = experiment.server, experiment.start
        stage = next_stage(experiment.method, state)
        assert stage is not None
        return [server.request(state, stage, device) for device in (0, 1, 2)]

    def failing(job: Job) -> None:
        if job.device == 1:
            raise DeviceFailed("the disk is full")

    whole = wide(small, 3)
    wanted = list(DeviceSide(whole.method, whole.site).answers(requests(whole)))
    broken = wide(small, 3, failing)
    first, failure, last = DeviceSide(broken.method, broken.site).answers(requests(broken))
    assert isinstance(failure, DeviceFailed)
    assert str(failure) == "the disk is full"
    for reply, other in ((first, wanted[0]), (last, wanted[2])):
        assert isinstance(reply, Reply)
        assert isinstance(other, Reply)
        assert_equal(dict(reply.tensors), dict(other.tensors))
        assert reply.info == other.info


def test_the_round_goes_on_without_the_device_whose_job_failed(small: Config) -> None:
    failed: list[int] = []

    def failing(job: Job) -> None:
        if not failed or job.device == failed[0]:
            failed.append(job.device)
            raise DeviceFailed("the disk is full")

    experiment = wide(changed(small, {"federation": {"rounds": 1, "minimum_replies": 1}}), 3, failing)
    (done,) = experiment.server.run(experiment.start)
    assert [(failure.device, failure.reason) for failure in done.failures] == [(failed[0], "the disk is full")]
    assert done.state.round == 1


class Clips:
    """Clips every number on the device; at the server it notes the largest that came."""

    def __init__(self, most: float) -> None:
        self.most = most
        self.came: list[float] = []

    def outgoing(self, reply: Reply) -> Reply:
        clipped = {name: tensor.clamp(-self.most, self.most) for name, tensor in reply.tensors.items()}
        return dataclasses.replace(reply, tensors=clipped)

    def incoming(self, reply: Reply) -> Reply:
        self.came.append(max(float(tensor.abs().max()) for tensor in reply.tensors.values()))
        return dataclasses.replace(reply, tensors={name: 2 * tensor for name, tensor in reply.tensors.items()})


def through(config: Config, upload: Upload | None) -> dict[str, Tensor]:
    """The server's model after a run, both halves of which have this upload."""
    ready = assemble(config)
    devices = DeviceSide(ready.method, ready.site, upload)
    server = Server(ready.config, ready.method, InProcessTransport(devices), ready.data.devices.devices, "run", upload)
    return dict(list(server.run(ready.start))[-1].state.tensors)


def test_an_upload_that_clips_changes_what_is_folded(small: Config) -> None:
    once = changed(small, {"federation": {"rounds": 1}})
    plain, upload = through(once, None), Clips(0.01)
    clipped = through(once, upload)
    assert len(upload.came) == 3
    assert max(upload.came) == pytest.approx(0.01)
    assert max(float(tensor.abs().max()) for tensor in plain.values()) > 0.02
    assert max(float(tensor.abs().max()) for tensor in clipped.values()) == pytest.approx(0.02)  # doubled on arrival


def test_as_it_is_changes_no_bit(small: Config) -> None:
    folded: list[Reply] = []

    class Watched(AsItIs):
        def outgoing(self, reply: Reply) -> Reply:
            before = {name: tensor.clone() for name, tensor in reply.tensors.items()}
            after = super().outgoing(reply)
            assert after is reply
            assert_equal(dict(after.tensors), before)
            return after

        def incoming(self, reply: Reply) -> Reply:
            folded.append(reply)
            assert super().incoming(reply) is reply
            return reply

    assert_equal(through(small, Watched()), through(small, None))
    assert len(folded) == 6
