"""Devices that train in one pass: numbers and counts of one after another, and a reason where that cannot be."""

import dataclasses
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from fibecfed import Config, InputError
from fibecfed.config import build_config, config_hash, load_config, merge, to_dict
from fibecfed.federation import StageDone
from fibecfed.runtime import Experiment, assemble
from fibecfed.training import CohortExecutor, DeviceFailed, LocalResult, SequentialExecutor, TrainJob, worker_count
from fibecfed.training import cohort_executor as module
from fibecfed.tuning import trainable_tensors
from tasks.instructions import records, settings, write

CLOSE = 1e-5
BATCHES = (
    [np.arange(5), np.array([1, 3])],
    [np.array([0, 2, 4])],
    [np.array([1]), np.array([2, 3]), np.array([0, 4])],
)


def jobs_of(built: tiny.Built, **fields: Any) -> list[TrainJob]:
    """Three devices with models of their own, and with other numbers of steps and of examples in them."""
    start = trainable_tensors(built.model)
    trained = [p.name for p in built.layout if p.role not in ("anchor_A", "anchor_B", "ratio")]
    return [
        TrainJob(
            device=device,
            round=1,
            tensors={**start, **{name: (1 + 0.1 * device) * start[name] for name in trained}},
            trained=dict.fromkeys(trained),
            batches=batches,
            learning_rate=0.05,
            seed=0,
            **{name: values[device] for name, values in fields.items()},
        )
        for device, batches in enumerate(BATCHES)
    ]


def executors(built: tiny.Built, together: int = 8) -> tuple[SequentialExecutor, CohortExecutor]:
    return SequentialExecutor(built.resident), CohortExecutor(built.resident, together)


def uncounted(built: tiny.Built, together: int = 8) -> tuple[SequentialExecutor, CohortExecutor]:
    """The same without counting operations."""
    one, several = executors(built, together)
    for executor in (one, several):
        executor.operations.training = lambda sizes: 0.0  # type: ignore[method-assign]
    return one, several


def ran(executor: SequentialExecutor, jobs: Sequence[TrainJob]) -> list[Any]:
    found = list(executor.run(jobs))
    assert [job for job, _ in found] == list(jobs)
    return [result for _, result in found]


def both(built: tiny.Built, jobs: Sequence[TrainJob], count: bool = False) -> tuple[list[Any], list[Any]]:
    """Results of one after another and of all together, without a job that was done alone.

    ``count``: with operations, which takes more passes.
    """
    one, together = executors(built) if count else uncounted(built)
    wanted = ran(one, jobs)
    together._train = None  # type: ignore[assignment,method-assign]
    return wanted, ran(together, jobs)


def assert_close(wanted: Sequence[LocalResult], found: Sequence[LocalResult]) -> None:
    for one, other in zip(wanted, found, strict=True):
        assert other.loss == pytest.approx(one.loss, abs=CLOSE)
        assert other.tensors.keys() == one.tensors.keys()
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, atol=CLOSE, rtol=0)
        costs = ("examples", "operations", "tokens", "tokens_cut")
        assert [getattr(other, cost) for cost in costs] == [getattr(one, cost) for cost in costs]


def ready(kind: str = "bert", head: str = "pooled", **sections: Any) -> tiny.Built:
    built = tiny.build(kind, head, **sections)
    built.randomize()
    return built


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        pytest.param("bert", "pooled", id="encoder"),
        pytest.param("llama", "native", id="decoder"),
        pytest.param("modernbert", "native", id="windows", marks=pytest.mark.slow),
        pytest.param("gpt2", "pooled", id="fused", marks=pytest.mark.slow),
        pytest.param("opt", "pooled", id="flat", marks=pytest.mark.slow),
    ],
)
def test_losses_and_adapters_are_those_of_one_after_another(kind: str, head: str) -> None:
    built = ready(kind, head)
    wanted, found = both(built, jobs_of(built), count=True)
    assert_close(wanted, found)
    assert len({round(result.loss, 3) for result in found}) == 3


@pytest.mark.parametrize(
    "training",
    [
        pytest.param({"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1}, id="sgd"),
        pytest.param({"weight_decay": 0.5, "max_grad_norm": 0.01}, id="clipped"),
        pytest.param({"max_grad_norm": None, "gradient_checkpointing": True}, id="recomputed"),
    ],
)
def test_the_optimizer_is_each_devices_own(training: dict[str, Any]) -> None:
    built = ready(training=training)
    assert_close(*both(built, jobs_of(built)))


def test_what_a_job_says_of_its_loss_is_each_devices_own() -> None:
    built = ready()
    jobs = jobs_of(
        built,
        output_offset=[None, torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.0, 2.0, 0.0])],
        weights=[{i: 1.0 + i for i in range(5)}, None, None],
        max_tokens=[None, 4, None],
        counted=[True, False, True],
        with_chances=[True, False, False],
        penalty=[None, _first_squared, None],
    )
    wanted, found = both(built, jobs)
    assert_close(wanted, found)
    for one, other in zip(wanted, found, strict=True):
        assert (one.seen is None) == (other.seen is None)
        if one.seen is not None:
            np.testing.assert_array_equal(other.seen.examples, one.seen.examples)
            np.testing.assert_allclose(other.seen.counts.values["loss"], one.seen.counts.values["loss"], atol=CLOSE)
            if one.seen.chances is not None:
                np.testing.assert_allclose(other.seen.chances, one.seen.chances, atol=CLOSE)


def _first_squared(parameters: Any) -> torch.Tensor:
    return next(parameters[name] for name in parameters if ".lora_B." in name).square().sum()


def test_rows_and_parameters_that_do_not_train_stay_bit_identical() -> None:
    built = ready(training={"weight_decay": 0.5})
    jobs = jobs_of(built)
    names = list(jobs[0].trained)
    rows = torch.tensor([0, 1])
    own = [{names[0]: rows[:1], names[1]: None}, {names[1]: rows}, {names[0]: None, names[-1]: None}]
    jobs = [dataclasses.replace(job, trained=trained) for job, trained in zip(jobs, own, strict=True)]
    wanted, found = both(built, jobs)
    assert_close(wanted, found)
    assert torch.equal(found[0].tensors[names[0]][1:], jobs[0].tensors[names[0]][1:])
    assert torch.equal(found[1].tensors[names[1]][2:], jobs[1].tensors[names[1]][2:])
    assert not torch.equal(found[1].tensors[names[1]][:2], jobs[1].tensors[names[1]][:2])


def test_two_parts_of_a_model_train_one_after_another() -> None:
    built = ready()
    jobs = jobs_of(built)
    head = [name for name in jobs[0].trained if name.startswith("head.")]
    jobs = [
        dataclasses.replace(
            job, before=dataclasses.replace(job, trained=dict.fromkeys(head), batches=BATCHES[device - 1])
        )
        for device, job in enumerate(jobs)
    ]
    assert_close(*both(built, jobs))


def test_a_step_of_all_devices_is_one_pass() -> None:
    built = ready()
    executor = uncounted(built)[1]
    jobs = jobs_of(built)
    ran(executor, jobs)  # with it the probe
    passes: list[int] = []
    watch = built.model.register_forward_hook(lambda module, batch, outputs: passes.append(len(outputs)))
    ran(executor, jobs)
    watch.remove()
    assert passes == [3 * 5, 2 * 2, 2]


def test_as_many_devices_as_set_are_passed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    built = ready()
    cohorts: list[list[int]] = []
    train = module.train_together

    def watched(*given: Any) -> Any:
        cohorts.append([job.device for job in given[3]])
        return train(*given)

    monkeypatch.setattr(module, "train_together", watched)
    jobs = jobs_of(built)
    ran(uncounted(built, together=2)[1], [*jobs, dataclasses.replace(jobs[1], device=3)])
    assert cohorts == [[2, 0], [1, 3]]  # those with most steps


def alone(built: tiny.Built, jobs: Sequence[TrainJob], caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of jobs that train one after another, to the same bits."""
    one, together = uncounted(built)
    with caplog.at_level(logging.INFO):
        twice = [ran(together, jobs) for _ in range(2)]
    for found in twice:
        for result, other in zip(ran(one, jobs), found, strict=True):
            assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in result.tensors.items())
    return [r.getMessage() for r in caplog.records if "one device after another" in r.getMessage()]


class Looks:
    """An observer that sees nothing."""

    def observe(self, parameters: Any) -> None:
        pass

    def result(self) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize(
    ("sections", "fields", "why"),
    [
        pytest.param({"lora": {"dropout": 0.5}}, {}, "lora.dropout is drawn for each", id="dropout"),
        pytest.param({"training": {"micro_batch_size": 2}}, {}, "training.micro_batch_size", id="micro-batches"),
        pytest.param({"training": {"keep_optimizer": True}}, {}, "training.keep_optimizer", id="kept-optimizer"),
        pytest.param({}, {"observer": [Looks()] * 3}, "gradients are looked at", id="observer"),
        pytest.param({"tuning": "adapter"}, {}, "only linear maps can be stacked, and .* LayerNorm", id="norms"),
        pytest.param({"tuning": "delta-lora"}, {}, "reads parameters, or other examples", id="weight-read-elsewhere"),
        pytest.param({"kind": "deberta"}, {}, "reads what is not of one example", id="not-by-example"),
    ],
)
def test_what_cannot_be_passed_together_is_said_once(
    sections: dict[str, Any], fields: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    built = ready(**sections)
    (said,) = alone(built, jobs_of(built, **fields), caplog)
    assert said.startswith("Some training is done one device after another, not 8 together: ")
    assert re.search(why, said)


def test_a_device_that_fails_fails_alone() -> None:
    built = ready()
    jobs = jobs_of(built)
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in jobs[1].tensors.items()}
    jobs[1] = dataclasses.replace(jobs[1], tensors=broken)
    one, together = uncounted(built)
    (first, failure, last), found = ran(one, jobs), ran(together, jobs)
    assert isinstance(found[1], DeviceFailed)
    assert str(found[1]) == str(failure)
    assert "the loss of device 1 became nan" in str(failure)
    assert_close([first, last], [found[0], found[2]])


def test_where_memory_runs_out_cohorts_become_smaller(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built = ready()
    train = module.train_together
    cohorts: list[int] = []

    def small(*given: Any) -> Any:
        cohorts.append(len(given[3]))
        if len(given[3]) > 2:
            raise torch.OutOfMemoryError
        return train(*given)

    monkeypatch.setattr(module, "train_together", small)
    jobs = jobs_of(built)
    one, together = uncounted(built, together=4)
    for _ in range(2):
        assert_close(ran(one, jobs), ran(together, jobs))
    assert cohorts == [3, 2]
    assert "No memory for 3 devices in one pass; from here on at most 2." in caplog.text


def changed(config: Config, *changes: dict[str, Any]) -> Config:
    content = to_dict(config)
    for change in changes:
        content = merge(content, change)
    return build_config(content)


def finished(config: Config) -> tuple[Experiment, list[StageDone]]:
    experiment = assemble(config)
    return experiment, list(experiment.server.run(experiment.start))


def assert_same_run(config: Config) -> None:
    (_, wanted), (experiment, found) = (finished(changed(config, {"training": {"cohort": n}})) for n in (1, 3))
    assert isinstance(experiment.site.executor, CohortExecutor)
    assert not experiment.site.executor._told
    for one, other in zip(wanted, found, strict=True):
        assert other.loss == (None if one.loss is None else pytest.approx(one.loss, abs=CLOSE))
    costs = ("examples_trained", "examples_scored", "operations", "bytes_down", "simulated_seconds")
    for cost in costs:
        assert getattr(found[-1].state.costs, cost) == pytest.approx(getattr(wanted[-1].state.costs, cost), rel=1e-6)


def test_a_run_of_cohorts_is_the_run_of_one_after_another(small: Config) -> None:
    fibecfed = {"method": "fibecfed", "warm_up": {"rounds": 1}, "sharing": {"devices": 1, "count": 1}}
    assert_same_run(changed(small, fibecfed))


def test_a_language_model_learns_in_cohorts(tmp_path: Path) -> None:
    file = write(tmp_path / "asked.jsonl", records(24))
    assert_same_run(settings(file, method="fedavg-lora", federation={"sampled": 3, "rounds": 2}))


def test_auto_is_a_cohort_on_a_gpu_and_the_same_bits_elsewhere(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = assemble(small)
    assert type(ready.site.executor) is SequentialExecutor
    monkeypatch.setattr("fibecfed.training.cores.torch_device", lambda name: torch.device("cuda"))
    found = worker_count(small, ready.data, ready.model)
    assert (found.number, found.together) == (1, 6)  # devices
    assert str(found) == "Up to 6 devices train together, in one pass of the model (training.cohort=auto on a GPU)."
    one = changed(small, {"training": {"cohort": 1}})
    assert worker_count(one, ready.data, ready.model).together == 1


def test_cohorts_and_worker_processes_exclude_one_another(small: Config) -> None:
    both = {"training": {"cohort": 2}, "runtime": {"workers": 2}}
    with pytest.raises(InputError, match=r"runtime\.workers=2 spreads .* training\.cohort=2 .* set one of them to 1"):
        assemble(changed(small, both))
    found = assemble(changed(small, {"training": {"cohort": 2}})).workers
    assert found is not None
    assert (found.number, found.together, found.why) == (1, 2, "as set")


def test_a_run_from_before_this_key_keeps_its_hash() -> None:
    assert config_hash(load_config()) != config_hash(load_config(training={"cohort": 2}))
    assert config_hash(load_config(training={"cohort": "auto"})) == config_hash(load_config())
