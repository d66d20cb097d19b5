"""Splits, draws, label noise and natural partitions: what each part of a run's data is made of."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fibecfed
import tiny
from fibecfed.config import Config, load_config
from fibecfed.data import FederatedData, Rows, Splits, build_data, load_splits, partition_rows
from fibecfed.data.rows import draw, flip_labels, hold_out, split_counts, stratified
from fibecfed.errors import InputError

FEW = settings(max_examples=60, deadline=None, derandomize=True)
COMPANIES = ["brightbasket", "harrow_pine", "lumo_mobile", "nordvale_energy", "pixelloom", "tidewater_ferries"]


def rows(labels: np.ndarray, classes: int = 3, devices: np.ndarray | None = None) -> Rows:
    texts = [f"text {i}" for i in range(len(labels))]
    return Rows(texts, None, labels, tuple("abcdefgh"[:classes]), devices)


def csv(path: Path, lines: list[str], header: str = "text,label,site") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *lines]) + "\n")
    return str(path)


def site_lines(site: str, count: int) -> list[str]:
    return [f"{site} text {i},{'ab'[i % 2]},{site}" for i in range(count)]


def splits_for(file: str, *overrides: str, devices: int = 3, **data: Any) -> tuple[Config, Splits]:
    config = load_config(
        overrides=overrides,
        data={"file": file, "partition": {"kind": "column"}, **data},
        federation={"devices": devices, "sampled": 1},
    )
    return config, load_splits(config)


# Draws


@FEW
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8), part=st.floats(0, 1))
def test_counts_are_dealt_by_largest_remainder(sizes: list[int], part: float) -> None:
    total = round(part * sum(sizes))
    counts = split_counts(np.array(sizes), total)
    assert counts.sum() == total
    exact = np.array(sizes) * total / max(1, sum(sizes))
    assert (np.abs(counts - exact) < 1).all() and (counts <= sizes).all() and (counts >= 0).all()


def test_counts_by_hand() -> None:
    # 10 of 5, 3, 2 in proportion are 2.5, 1.5, 1: the first of the two halves gets the unit that is left.
    assert split_counts(np.array([5, 3, 2]), 5).tolist() == [3, 1, 1]
    with pytest.raises(ValueError, match="cannot deal 11 units"):
        split_counts(np.array([5, 3, 2]), 11)


@FEW
@given(seed=st.integers(0, 2**32), total=st.integers(0, 60), part=st.floats(0, 1), classes=st.integers(1, 5))
def test_a_stratified_draw_keeps_the_mix(seed: int, total: int, part: float, classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, total)
    count = round(part * total)
    chosen, rest = stratified(labels, count, rng)
    assert len(chosen) == count
    assert sorted([*chosen, *rest]) == list(range(total))
    assert (np.diff(chosen) > 0).all() and (np.diff(rest) > 0).all()
    expected = np.bincount(labels, minlength=classes) * count / max(1, total)
    assert np.abs(np.bincount(labels[chosen], minlength=classes) - expected).max() < 1


def test_a_draw_is_random() -> None:
    labels = np.zeros(40, int)
    often = sum(np.isin(np.arange(40), stratified(labels, 10, np.random.default_rng(s))[0]) for s in range(800))
    assert np.abs(often / 800 - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 800)


@FEW
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), part=st.floats(0, 1))
def test_every_device_gives_its_share_and_keeps_a_row(seed: int, sizes: list[int], part: float) -> None:
    rng = np.random.default_rng(seed)
    devices = rng.permutation(np.repeat([f"d{k}" for k in range(len(sizes))], sizes))
    given_rows = rows(rng.integers(0, 3, len(devices)), devices=devices)
    total = round(part * len(devices))
    held, rest = hold_out(given_rows, total, rng, by_device=True)
    assert sorted([*held.texts, *rest.texts]) == sorted(given_rows.texts)
    free = len(devices) - len(sizes)
    assert len(held) == min(total, free)
    left, gone = Counter(rest.devices), Counter(held.devices)
    for k, size in enumerate(sizes):
        assert left[f"d{k}"] >= 1
        share = (size - 1) * len(held) / max(1, free)
        assert abs(gone[f"d{k}"] - share) < 1 + 1e-9


@FEW
@given(seed=st.integers(0, 2**32), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), part=st.floats(0.01, 1))
def test_a_draw_by_device_reaches_every_device(seed: int, sizes: list[int], part: float) -> None:
    rng = np.random.default_rng(seed)
    devices = rng.permutation(np.repeat([f"d{k}" for k in range(len(sizes))], sizes))
    given_rows = rows(rng.integers(0, 3, len(devices)), devices=devices)
    total = max(1, round(part * len(devices)))
    drawn = draw(given_rows, total, "train_examples", rng, by_device=True)
    assert len(drawn) == total == len(set(drawn.texts))
    assert drawn.devices is not None
    assert len(set(drawn.devices)) == len(sizes) or total < len(sizes)


def test_labels_are_stratified_within_a_device() -> None:
    devices = np.repeat(["n", "s"], [40, 60])
    labels = np.concatenate([np.repeat([0, 1], 20), np.repeat([0, 1, 2], 20)])
    held, _ = hold_out(rows(labels, devices=devices), 20, np.random.default_rng(0), by_device=True)
    assert held.devices is not None
    table = Counter(zip(held.devices.tolist(), held.labels.tolist(), strict=True))
    assert all(3 <= table[cell] <= 5 for cell in [("n", 0), ("n", 1), ("s", 0), ("s", 1), ("s", 2)])


# Splits


def drawn(**data: Any) -> Splits:
    return load_splits(load_config(data=data))


def test_validation_and_test_do_not_depend_on_how_training_data_is_thinned_or_spoiled() -> None:
    base = drawn()
    for other in (drawn(train_examples=50), drawn(label_noise=0.3)):
        assert list(other.validation.texts) == list(base.validation.texts)
        assert np.array_equal(other.validation.labels, base.validation.labels)
        assert list(other.test.texts) == list(base.test.texts) and np.array_equal(other.test.labels, base.test.labels)
    few = drawn(train_examples=50, test_examples=30)
    assert (len(few.train), len(few.test), len(few.validation)) == (50, 30, 114)
    assert set(few.train.texts) <= set(base.train.texts) and set(few.test.texts) <= set(base.test.texts)
    shares = np.bincount(base.train.labels) * 50 / len(base.train)
    assert np.abs(np.bincount(few.train.labels, minlength=8) - shares).max() < 1


def test_the_three_parts_share_no_row_and_follow_the_seed() -> None:
    base, again, other = drawn(), drawn(), load_splits(load_config(seed=1))
    assert not set(base.train.texts) & set(base.validation.texts)
    assert not (set(base.train.texts) | set(base.validation.texts)) & set(base.test.texts)
    assert list(base.train.texts) == list(again.train.texts)
    assert list(base.validation.texts) != list(other.validation.texts)
    assert list(base.test.texts) == list(other.test.texts)  # the set's own


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 1.0])
def test_label_noise_is_an_exact_seeded_fraction(fraction: float) -> None:
    clean, noisy, again = drawn(), drawn(label_noise=fraction), drawn(label_noise=fraction)
    assert list(noisy.train.texts) == list(clean.train.texts)
    flipped = noisy.train.labels != clean.train.labels
    assert flipped.sum() == round(fraction * len(clean.train))
    assert np.array_equal(noisy.train.labels, again.train.labels)
    elsewhere = load_splits(load_config(seed=1, data={"label_noise": fraction, "validation_fraction": 0}))
    untouched = load_splits(load_config(seed=1, data={"validation_fraction": 0}))
    assert (elsewhere.train.labels != untouched.train.labels).sum() == round(fraction * 1140)


def test_noise_goes_evenly_to_the_other_labels() -> None:
    clean = rows(np.zeros(6000, int), classes=4)
    counts = np.bincount(flip_labels(clean, 0.5, np.random.default_rng(0)).labels, minlength=4)
    assert counts[0] == 3000
    assert np.abs(counts[1:] - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)
    assert flip_labels(clean, 0.0, np.random.default_rng(0)) is clean


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"test_fraction": 0.01}, "The data has 11 training and 0 test examples; both are needed"),
        ({"validation_fraction": 0.99}, "The data has 0 training and 2 test examples"),
    ],
)
def test_too_little_data(tmp_path: Path, data: dict[str, Any], sentence: str) -> None:
    file = csv(tmp_path / "x.csv", site_lines("n", 12))
    with pytest.raises(InputError, match=re.escape(sentence)):
        load_splits(load_config(data={"file": file, **data}))


def test_too_little_to_validate_on(tmp_path: Path) -> None:
    config = load_config(data={"file": csv(tmp_path / "x.csv", site_lines("n", 4))}, evaluation={"split": "validation"})
    with pytest.raises(InputError, match="3 training and 0 validation examples"):
        load_splits(config)


# Built data


def built(config: Config) -> FederatedData:
    return build_data(config, load_splits(config), tiny.tokenizer(decoder=False))


def test_the_validation_part_can_be_the_one_that_is_judged_on() -> None:
    data = built(load_config(evaluation={"split": "validation"}))
    assert data.held_out is data.validation and len(data.held_out) == 114
    assert len(data.held_out_owners.order) == 114
    tested = built(load_config())
    assert (len(tested.held_out), len(tested.validation)) == (240, 114)
    assert np.array_equal(tested.validation.ids, data.validation.ids)


def test_everything_to_one_device() -> None:
    config = load_config()
    splits = load_splits(config)
    owned, owners = partition_rows(config, splits.train, splits.test, pooled=True)
    assert owned.sizes.tolist() == [1026] and owners.sizes.tolist() == [240]


# Natural partitions


def test_the_shipped_data_works_with_every_kind() -> None:
    for kind in ("dirichlet", "iid", "shards", "quantity"):
        config = load_config(data={"partition": {"kind": kind}})
        splits = load_splits(config)
        owned, owners = partition_rows(config, splits.train, splits.test)
        assert owned.devices == owners.devices == 20 and owned.names is None
    config = load_config(data={"partition": {"kind": "column"}}, federation={"devices": 6})
    splits = load_splits(config)
    owned, owners = partition_rows(config, splits.train, splits.test)
    assert list(owned.names or ()) == list(owners.names or ()) == COMPANIES
    assert owned.sizes.tolist() == [171] * 6 and owners.sizes.tolist() == [40] * 6
    for part, partition in ((splits.train, owned), (splits.test, owners)):
        assert part.devices is not None
        for number, company in enumerate(COMPANIES):
            assert set(part.devices[partition.indices(number)]) == {company}
    assert splits.validation.devices is not None
    assert sorted(Counter(splits.validation.devices.tolist()).values()) == [19] * 6


def test_the_wrong_number_of_devices_says_what_to_set() -> None:
    config = load_config(data={"partition": {"kind": "column"}}, federation={"devices": 20})
    splits = load_splits(config)
    with pytest.raises(InputError) as raised:
        partition_rows(config, splits.train, splits.test)
    message = str(raised.value)
    assert message == (
        "The data names 6 devices, but federation.devices=20: set federation.devices=6; "
        "federation.sampled can be 6 at most. To deal the rows anew instead, set data.partition.kind=dirichlet."
    )
    suggested = re.findall(r"set (federation\.devices=\d+);", message)
    right = load_config(overrides=suggested, data={"partition": {"kind": "column"}})
    assert partition_rows(right, splits.train, splits.test)[0].devices == 6


def test_a_file_that_names_no_devices_says_what_to_set(tmp_path: Path) -> None:
    config, splits = splits_for(csv(tmp_path / "x.csv", site_lines("n", 20)))
    with pytest.raises(InputError, match=r"partition\.kind=column, but no row says .* set data\.device to the column"):
        partition_rows(config, splits.train, splits.test)


def test_a_device_column(tmp_path: Path) -> None:
    lines = site_lines("north", 20) + site_lines("east", 60) + site_lines("west", 2)
    config, splits = splits_for(csv(tmp_path / "x.csv", lines), device="site")
    owned, owners = partition_rows(config, splits.train, splits.test)
    assert owned.names == owners.names == ("east", "north", "west")
    # 16 of 82 are held out, then 7 of 66; west has one row to give at most.
    assert owned.sizes.sum() + len(splits.validation) + owners.sizes.sum() == 82
    assert owners.sizes.sum() == 16 and len(splits.validation) == 7
    assert owners.sizes[0] in (11, 12, 13) and owners.sizes[1] in (3, 4, 5) and owned.sizes[2] >= 1
    assert all(splits.train.texts[i].startswith("north") for i in owned.indices(1))
    assert all(splits.test.texts[i].startswith("north") for i in owners.indices(1))


def test_tiny_devices_are_not_lost_to_the_held_out_parts(tmp_path: Path) -> None:
    lines = [line for k in range(40) for line in site_lines(f"d{k:02}", 1 + k % 3)]
    config, splits = splits_for(csv(tmp_path / "x.csv", lines), device="site", devices=40)
    owned, _ = partition_rows(config, splits.train, splits.test)
    assert owned.devices == 40 and owned.sizes.min() >= 1
    few = load_splits(load_config(data={"file": str(tmp_path / "x.csv"), "device": "site", "train_examples": 41,
                                        "partition": {"kind": "column"}}))  # fmt: skip
    assert few.train.devices is not None and len(set(few.train.devices)) == 40


def test_a_minimum_that_a_device_does_not_reach(tmp_path: Path) -> None:
    lines = site_lines("north", 20) + site_lines("west", 2)
    config, splits = splits_for(csv(tmp_path / "x.csv", lines), "data.partition.minimum=5", device="site", devices=2)
    with pytest.raises(InputError, match=r"partition\.minimum=5, but device 'west' has \d training examples"):
        partition_rows(config, splits.train, splits.test)


def test_one_file_per_device_with_test_files(tmp_path: Path) -> None:
    for site, count in (("north", 20), ("east", 30)):
        csv(tmp_path / "train" / f"{site}.csv", site_lines(site, count))
    csv(tmp_path / "test" / "north.csv", site_lines("north", 4))
    config, splits = splits_for(str(tmp_path / "train"), test_file=str(tmp_path / "test"), devices=2)
    owned, owners = partition_rows(config, splits.train, splits.test)
    assert owned.names == ("east", "north")
    assert owners.sizes.tolist() == [0, 4]  # east has no test data of its own
    csv(tmp_path / "test" / "south.csv", site_lines("south", 3))
    config, splits = splits_for(str(tmp_path / "train"), test_file=str(tmp_path / "test"), devices=2)
    with pytest.raises(InputError) as raised:
        partition_rows(config, splits.train, splits.test)
    assert str(raised.value) == (
        "The test data names the device 'south' (3 rows), which has no training rows; "
        "devices with training rows: east, north."
    )


def test_one_file_per_device_with_one_common_test_file(tmp_path: Path) -> None:
    csv(tmp_path / "train" / "north.csv", [f"n {i},a,n" for i in range(20)] + ["one,b,n"])
    csv(tmp_path / "train" / "east.csv", [f"e {i},b,e" for i in range(20)])
    test = csv(tmp_path / "test.csv", site_lines("x", 40))
    config, splits = splits_for(str(tmp_path / "train"), test_file=test, devices=2, validation_fraction=0)
    owned, owners = partition_rows(config, splits.train, splits.test)
    assert splits.origin.endswith(
        "which names no devices: each device is tested on a part of it with the device's own label mix"
    )
    assert owned.names == ("east", "north") and owners.sizes.tolist() == [20, 20]
    table = owners.label_counts(splits.test.labels, 2)
    assert table.tolist() == [[0, 20], [20, 0]] or table.tolist() == [[1, 19], [19, 1]]


def test_devices_of_the_file_are_dealt_anew_only_when_asked_and_aloud(tmp_path: Path) -> None:
    for site in ("north", "east"):
        csv(tmp_path / f"{site}.csv", site_lines(site, 40))
    config = load_config(data={"file": str(tmp_path), "partition": {"kind": "dirichlet"}}, federation={"devices": 5})
    splits = load_splits(config)
    assert partition_rows(config, splits.train, splits.test)[0].devices == 5
    assert splits.notes == (
        "The data names 2 devices, but its rows are dealt anew to 5 (data.partition.kind=dirichlet); "
        "data.partition.kind=column keeps them.",
    )


@pytest.mark.parametrize("layout", ["support", "column", "folder", "glob"])
def test_natural_partitions_run_end_to_end(layout: str, bert: Path, tmp_path: Path) -> None:
    names = COMPANIES if layout == "support" else ["east", "north", "west"]
    data: dict[str, Any] = {"max_length": 16, "partition": {"kind": "column"}}
    if layout == "support":
        data |= {"train_examples": 90, "test_examples": 60}
    elif layout == "column":
        lines = [line for site in names for line in site_lines(site, 24)]
        data |= {"file": csv(tmp_path / "x.csv", lines), "device": "site"}
    else:
        for site in names:
            csv(tmp_path / "sites" / site / "train.csv", site_lines(site, 24))
            csv(tmp_path / "sites" / f"{site}.csv", site_lines(site, 24))
        data |= {"file": str(tmp_path / "sites" / ("*/train.csv" if layout == "glob" else ""))}
    config = load_config(
        data=data, model={"name": str(bert)}, lora={"rank": 2}, evaluation={"every": 2},
        federation={"devices": len(names), "sampled": 2, "rounds": 2},
    )  # fmt: skip
    result = fibecfed.run(config, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "partition.json").read_text())
    assert written["names"] == names
    assert all(sum(counts) > 0 for counts in written["train"] + written["held_out"])
    assert 0 <= result.summary["accuracy"]["personalized"] <= 1
