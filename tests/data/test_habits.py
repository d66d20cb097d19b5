"""Devices that take two labels for each other: in training and on their own test part, and nowhere else."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fibecfed
import tiny
from fibecfed import Config, load_config
from fibecfed.data import Habits, Partition, deal, load_splits
from fibecfed.data.habits import draw_habits
from fibecfed.errors import InputError
from fibecfed.flower.server import check_settings
from fibecfed.runtime import assemble

FEW = settings(max_examples=40, deadline=None, derandomize=True)


def configured(habits: float, method: str = "fedavg-lora", **values: Any) -> Config:
    return load_config(
        method=method, data={"partition": {"habits": habits}}, federation={"devices": 10, "sampled": 2}, **values
    )


def test_by_hand() -> None:
    owned = Partition(np.array([0, 1, 2, 3, 4, 5]), np.array([0, 3, 6]))
    habits = Habits(np.array([[0, 2], [1, 1]]))
    assert habits.as_labelled(np.array([0, 1, 2, 0, 1, 2]), owned).tolist() == [2, 1, 0, 0, 1, 2]
    assert habits.swaps == {0: (0, 2)}


@FEW
@given(seed=st.integers(0, 2**32), devices=st.integers(1, 20), fraction=st.floats(0, 1), classes=st.integers(2, 6))
def test_exactly_the_fraction_swaps_two_labels_that_it_has(
    seed: int, devices: int, fraction: float, classes: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 3 * devices)])
    offsets = np.linspace(0, len(labels), devices + 1).astype(np.int64)
    owned = Partition(rng.permutation(len(labels)), offsets)
    habits = draw_habits(fraction, labels, owned, rng)
    said = habits.as_labelled(labels, owned)
    assert len(habits.swaps) == round(fraction * devices)
    before, after = owned.label_counts(labels, classes), owned.label_counts(said, classes)
    for device in range(devices):
        one, other = habits.swaps.get(device, (0, 0))
        order = np.arange(classes)
        order[[one, other]] = other, one
        assert np.array_equal(after[device], before[device][order])
        assert (device in habits.swaps) == bool((labels != said)[owned.indices(device)].any())
    assert np.array_equal(habits.as_labelled(said, owned), labels)  # twice is none


def test_who_holds_what_and_the_test_set_stay_as_they_are() -> None:
    splits = load_splits(configured(0.5))
    plain, swapped = deal(configured(0), splits), deal(configured(0.5), splits)
    assert plain.habits is None
    assert plain.own is None
    assert plain.train is splits.train
    assert np.array_equal(plain.devices.order, swapped.devices.order)
    assert np.array_equal(plain.owners.order, swapped.owners.order)
    assert swapped.held_out is splits.test
    assert swapped.own is not None
    assert swapped.habits is not None
    habits = swapped.habits.swaps
    assert len(habits) == 5
    for before, after, owned in (
        (splits.train.labels, swapped.train.labels, swapped.devices),
        (splits.test.labels, swapped.own.labels, swapped.owners),
    ):
        for device in range(10):
            mine = owned.indices(device)
            one, other = habits.get(device, (-1, -1))
            for label, said in zip(before[mine], after[mine], strict=True):
                assert said == {one: other, other: one}.get(label, label)


def test_pooled_examples_keep_the_labels_that_their_devices_give() -> None:
    splits = load_splits(configured(0.5))
    apart, pooled = deal(configured(0.5), splits), deal(configured(0.5), splits, pooled=True)
    assert pooled.devices.devices == 1
    assert np.array_equal(pooled.train.labels, apart.train.labels)


def test_a_run_learns_and_is_judged_by_them() -> None:
    """The global score asks for the labels of the data, the personalized one for those of each device."""
    few = {"name": "support", "max_length": 16, "train_examples": 60, "test_examples": 60}
    values = {"federation": {"devices": 6, "sampled": 2, "rounds": 1}, "model": {"name": str(tiny.folder("bert", 2))}}

    def judged(habits: float, method: str) -> tuple[float, float]:
        config = load_config(method=method, data={**few, "partition": {"habits": habits}}, **values)
        accuracy = fibecfed.run(config).summary["accuracy"]
        return accuracy["global"], accuracy["personalized"]

    config = load_config(method="device-majority", data={**few, "partition": {"habits": 0.5}}, **values)
    experiment = assemble(config)
    data = experiment.data
    assert data.own is not None
    assert data.habits is not None
    assert len(data.habits.swaps) == 3
    written = experiment.partition()
    assert written["habits"] == {str(k): list(pair) for k, pair in data.habits.swaps.items()}
    assert written["held_out"] == data.held_out_owners.label_counts(data.own.groups, 8).tolist()
    swapped = data.own.groups != data.held_out.groups
    assert 0 < swapped.sum() < len(swapped)
    assert np.array_equal(data.own.targets, data.own.groups)
    # A device's majority label is swapped with its test part: its own model is as good as without habits.
    assert judged(0.5, "device-majority")[1] == judged(0, "device-majority")[1]
    plain, swapped_too = judged(0, "fedavg-lora"), judged(0.5, "fedavg-lora")
    assert plain[0] == plain[1]
    assert swapped_too[0] != swapped_too[1]


def test_machines_have_labels_of_their_own() -> None:
    labels, own = ["a", "b"], {"kind": "column", "habits": 0.5}
    with pytest.raises(InputError, match=r"data\.partition\.habits means nothing here: every device has labels"):
        check_settings(load_config(method="fedavg-lora", data={"labels": labels, "partition": own}))
