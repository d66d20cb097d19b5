"""Any number of worker processes gives the same run, bit for bit, whatever becomes of them."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import fibecfed
from crash import Crash, CrashAt
from fibecfed import Config, InputError
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Server
from fibecfed.runtime import Experiment, assemble
from fibecfed.training import SequentialExecutor, TrainJob, cores_here, use_cores, worker_count
from run_content import content
from tasks.instructions import records, settings, write

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="worker processes need Linux")

FIBECFED = {
    "method": "fibecfed",
    "warm_up": {"rounds": 1},
    "sharing": {"devices": 1, "count": 1},
    "evaluation": {"start": True},
}
METHODS: dict[str, dict[str, Any]] = {
    "fedavg-lora": {},
    "fibecfed": FIBECFED,
    "fedalt": {"method": "fedalt"},
    "frozen bottom": {  # each process keeps hidden states of its own
        "method": "fibecfed",
        "curriculum": {"score": "none"},
        "sharing": {"layers": "last", "count": 1, "rows": "none"},
        "warm_up": {"rounds": 0},
        "training": {"local_epochs": 2},
    },
    "adalora": {"method": "adalora"},  # its jobs hold a penalty and an observer
    "fedavg-plus": {"method": "fedavg-plus", "personal": {"fallback": "held-out"}},
}


def changed(config: Config, *changes: dict[str, Any]) -> Config:
    content = to_dict(config)
    for change in ({"federation": {"rounds": 3}, "evaluation": {"batch_size": 8}}, *changes):
        content = merge(content, change)
    return build_config(content)


def of(number: int) -> dict[str, Any]:
    return {"runtime": {"workers": number}}


def kept(directory: Path) -> dict[str, Any]:
    """As ``content``, with the tensors of devices' states: their files name the text of config.yaml."""
    found = content(directory)
    for name in [name for name in found if name.startswith("devices")]:
        found[name] = {key: tensor.tolist() for key, tensor in load_file(directory / name).items()}
    return found


def assert_same(config: Config, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for number in (1, 2):
            fibecfed.run(changed(config, of(number)), path / str(number))
    assert kept(path / "1") == kept(path / "2")
    said = [record.getMessage() for record in caplog.records if record.name.startswith("fibecfed")]
    assert said == [
        "Devices train one after another in one process (as set).",
        "2 worker processes train devices side by side (as set).",
    ]


@pytest.mark.parametrize("method", METHODS)
def test_two_workers_give_the_run_of_one_process(
    method: str, small: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_same(changed(small, METHODS[method]), tmp_path, caplog)


def test_two_workers_train_and_judge_a_language_model_as_one_process_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "asked.jsonl", records(40))
    config = settings(file, method="fedavg-lora", evaluation={"generate": ["exact_match"], "generate_examples": 2})
    assert_same(config, tmp_path, caplog)


def test_a_run_goes_on_with_another_number_of_workers(small: Config, tmp_path: Path) -> None:
    config = changed(small, METHODS["fedalt"], of(1))
    fibecfed.run(config, tmp_path / "whole")
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(1)])
    fibecfed.resume(tmp_path / "cut", changes=of(2))
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


class Kills:
    """Ends worker processes of a run when they take a device's job, so often for each device."""

    def __init__(self, folder: Path, times: int, device: int | None = None) -> None:
        self.folder, self.times, self.device = folder, times, device

    def __call__(self, executor: SequentialExecutor, job: Any) -> Any:
        if isinstance(job, TrainJob) and self.device in (None, job.device):
            for number in range(self.times):
                mark = self.folder / f"{job.round}-{job.device}-{number}"
                if not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
        return result(executor, job)


result = SequentialExecutor.result


def finished(experiment: Experiment) -> list[Any]:
    try:
        return list(experiment.server.run(experiment.start))
    finally:
        experiment.site.executor.close()


def test_workers_that_die_once_at_each_job_change_no_bit(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = finished(assemble(changed(small, of(1))))
    monkeypatch.setattr(SequentialExecutor, "result", lambda *given: Kills(tmp_path, 1)(*given))
    with caplog.at_level(logging.WARNING):
        killed = finished(assemble(changed(small, of(2))))
    assert len(list(tmp_path.iterdir())) == 9
    assert len(caplog.records) >= 9
    for one, other in zip(whole, killed, strict=True):
        assert not other.failures
        assert one.loss == other.loss
        assert all((tensor == other.state.tensors[name]).all() for name, tensor in one.state.tensors.items())


def test_a_device_whose_job_kills_two_workers_is_left_out(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = assemble(changed(small, of(2), {"federation": {"rounds": 1, "minimum_replies": 1}}))
    chosen = first_cohort(experiment.server, experiment)
    monkeypatch.setattr(SequentialExecutor, "result", lambda *given: Kills(tmp_path, 2, chosen[1])(*given))
    (done,) = finished(experiment)
    (failure,) = done.failures
    assert failure.device == chosen[1]
    assert failure.reason.count("was killed by signal 9") == 2


def first_cohort(server: Server, experiment: Experiment) -> tuple[int, ...]:
    return server.cohort(experiment.start, experiment.method.stages[0])


def test_what_is_wrong_in_a_worker_is_said_as_in_one_process(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(executor: SequentialExecutor, job: Any) -> Any:
        raise InputError("the layers do not take one vector for each token")

    monkeypatch.setattr(SequentialExecutor, "result", refuses)
    with pytest.raises(InputError, match="one vector for each token"):
        finished(assemble(changed(small, of(2))))


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    monkeypatch.setattr("fibecfed.training.cores._share", None)


def test_auto_is_one_process_where_jobs_are_tiny(small: Config, four_cores: None) -> None:
    found = assemble(small).workers
    assert found is not None
    assert found.number == 1
    assert "a process is worth it from 1e9 on" in str(found)


def test_auto_shares_the_cores_among_threads_devices_and_runs(
    small: Config, four_cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fibecfed.training.cores.LEAST_WORK", 1.0)
    ready = assemble(small)

    def number(**changes: Any) -> int:
        return worker_count(changed(small, changes), ready.data, ready.model).number

    assert number() == 3
    assert number(federation={"sampled": 6}) == 4
    assert number(runtime={"threads": 2}) == 2
    assert number(runtime={"threads": 8}) == 1
    use_cores(2)
    assert cores_here() == 2
    assert number() == 2


def test_more_workers_than_can_be_had_are_refused(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fibecfed.training.cores.sys.platform", "darwin")
    with pytest.raises(InputError, match=r"runtime\.workers=2, but worker processes need Linux"):
        assemble(changed(small, of(2)))
