"""Data sets by name: the ten public ones against their folder's own README, and how each is split."""

import functools
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fibecfed.commands import extra_install
from fibecfed.config import Config, load_config
from fibecfed.data import DATASETS, SUPPORT, Rows, Splits, dataset_names, find_dataset, load_splits
from fibecfed.data.named import read_named
from fibecfed.errors import InputError

NAMES = list(DATASETS)


def configured(name: str, folder: Path, **data: Any) -> Config:
    return load_config(data={"name": name, "dir": str(folder), **data})


@functools.cache
def splits_of(name: str, folder: Path, seed: int = 0) -> Splits:
    return load_splits(load_config(seed=seed, data={"name": name, "dir": str(folder)}))


def contents(rows: Rows) -> Counter[tuple[str, str, int]]:
    pairs = rows.pairs or [""] * len(rows)
    return Counter(zip(rows.texts, pairs, rows.labels.tolist(), strict=True))


@pytest.fixture(scope="session")
def readme(shared_data: Path) -> dict[tuple[str, str], tuple[int, tuple[str, ...]]]:
    """Rows and label names by data set and split, as the table in the folder's README has them."""
    table = {}
    for line in (shared_data / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[1].endswith(".parquet") and "/" not in cells[1]:
            labels = re.findall(r"\d+=(\w+)", re.split(r"[;(]", cells[3])[0])
            table[cells[0], cells[1].removesuffix(".parquet")] = (int(cells[2]), tuple(labels))
    return table


def test_the_readme_was_understood(readme: dict[tuple[str, str], tuple[int, tuple[str, ...]]]) -> None:
    assert readme["trec", "test"] == (500, ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"))
    assert {name for name, _ in readme} >= set(NAMES) and len(NAMES) == 10


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_labels_are_those_of_the_readme(
    name: str, shared_data: Path, readme: dict[tuple[str, str], tuple[int, tuple[str, ...]]]
) -> None:
    spec = DATASETS[name]
    assert find_dataset(name, str(shared_data))
    for split, size in spec.sizes.items():
        assert readme[name, split] == (size, spec.labels)
    train, test, _ = read_named(name, str(shared_data), allow_download=False)
    assert len(train) == readme[name, spec.train or "validation"][0]
    assert (test is None) == (spec.test is None)
    if test is not None:
        assert len(test) == readme[name, spec.test or ""][0]
    for rows in (train, test):
        if rows is not None:
            assert rows.label_names == spec.labels
            assert set(rows.labels.tolist()) == set(range(len(spec.labels)))
            assert all(text.strip() for text in rows.texts)
            assert (rows.pairs is not None) == (len(spec.columns) == 2)


@pytest.mark.parametrize("name", NAMES)
def test_the_split_is_whole_disjoint_and_stratified(name: str, shared_data: Path) -> None:
    spec, splits = DATASETS[name], splits_of(name, shared_data)
    train, test, _ = read_named(name, str(shared_data), allow_download=False)
    if test is None:
        size = round(0.2 * len(train))
        assert contents(splits.train) + contents(splits.validation) + contents(splits.test) == contents(train)
    else:  # the official test split as it stands
        size = len(test)
        assert list(splits.test.texts) == list(test.texts) and np.array_equal(splits.test.labels, test.labels)
        assert contents(splits.train) + contents(splits.validation) == contents(train)
    assert len(splits.test) == size
    left = len(train) if spec.test else len(train) - size
    assert len(splits.validation) == round(0.1 * left) and len(splits.train) == left - len(splits.validation)
    parts = [splits.train, splits.validation] if spec.test else [splits.train, splits.validation, splits.test]
    shares = np.bincount(train.labels) / len(train)
    for part in parts:
        assert np.abs(np.bincount(part.labels) - shares * len(part)).max() < 1.5  # rounded at most twice


@pytest.mark.parametrize("name", ["mpqa", "mrpc", "boolq"])
def test_same_seed_same_split(name: str, shared_data: Path) -> None:
    splits_of.cache_clear()
    first = splits_of(name, shared_data)
    splits_of.cache_clear()
    again, other = splits_of(name, shared_data), splits_of(name, shared_data, seed=1)
    for part in ("train", "validation", "test"):
        a, b, c = (getattr(s, part) for s in (first, again, other))
        assert list(a.texts) == list(b.texts) and np.array_equal(a.labels, b.labels)
        fixed = part == "test" and DATASETS[name].test is not None
        assert (list(a.texts) == list(c.texts)) == fixed


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("trec", "trec: parquet files of the data folder; tested on its test split"),
        ("sst2", "sst2: parquet files of the data folder; tested on its validation split"),
        ("mr", "mr: parquet files of the data folder; no official test split, a seeded stratified part "
               "(2132 of 10662 examples) is held out for testing"),
        ("boolq", "boolq: parquet files of the data folder; only its validation split is used, a seeded stratified "
                  "part (654 of 3270 examples) is held out for testing"),
    ],
)  # fmt: skip
def test_the_origin_says_what_was_done(name: str, origin: str, shared_data: Path) -> None:
    assert splits_of(name, shared_data).origin == origin


def test_extra_metrics(shared_data: Path) -> None:
    assert {name: splits_of(name, shared_data).extra_metrics for name in ("cola", "mrpc", "trec")} == {
        "cola": ("matthews",),
        "mrpc": ("f1",),
        "trec": (),
    }
    assert [name for name, spec in DATASETS.items() if spec.extra_metrics] == ["cola", "mrpc"]


def test_the_support_messages_come_as_shipped() -> None:
    splits = load_splits(load_config())
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1026, 114, 240)
    assert splits.train.label_names == SUPPORT.labels
    assert splits.train.devices is not None and len(set(splits.train.devices)) == 6
    assert splits.origin == "support: shipped with the package, its own test split"
    assert find_dataset("support", "/nowhere")


# Folders that are not as expected


def small_trec(folder: Path, split: str = "train", **columns: Any) -> Path:
    cells = {"sentence": ["Who?", "Where?"], "label": [3, 4]} | columns
    path = folder / "trec" / f"{split}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({k: v for k, v in cells.items() if v is not None}), path)
    return path


def refusal(folder: Path, name: str = "trec", **data: Any) -> str:
    with pytest.raises(InputError) as raised:
        load_splits(configured(name, folder, **data))
    return str(raised.value)


def test_a_missing_folder_says_where_it_was_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert message == (
        f"Data set 'trec' is not in '{tmp_path}' (expected '{tmp_path}/trec/train.parquet'); "
        "set data.dir (or FIBECFED_DATA_DIR) to the folder that holds it."
    )
    hint = "or set data.allow_download=true to fetch it from the hub."
    assert refusal(tmp_path, "boolq").endswith(hint) and "boolq/validation.parquet" in refusal(tmp_path, "boolq")
    assert not find_dataset("trec", str(tmp_path))


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match=r"Unknown data set 'trek' \(data\.name\)\. Did you mean 'trec'\?"):
        load_splits(load_config(data={"name": "trek"}))
    assert dataset_names() == ["support", *NAMES]


def test_wrong_files(tmp_path: Path) -> None:
    path = small_trec(tmp_path)
    assert refusal(tmp_path) == f"Data set 'trec' lacks its file '{tmp_path}/trec/test.parquet'."
    small_trec(tmp_path, "test")
    small_trec(tmp_path, sentence=None, text=["a", "b"])
    assert f"'{path}' lacks the columns ['sentence'] of data set 'trec'" in refusal(tmp_path)
    small_trec(tmp_path, label=[0, 6])
    assert f"'{path}' row 2 has the label 6, not one of 0..5; it is not the 'trec' set." in refusal(tmp_path)
    small_trec(tmp_path, label=[None, 1])
    assert f"'{path}' row 1 has the label None, not one of 0..5" in refusal(tmp_path)
    small_trec(tmp_path, sentence=["Who?", " "])
    assert f"'{path}' row 2 has no text in 'sentence'" in refusal(tmp_path)
    path.write_bytes(b"PAR1")
    assert f"'{path}' cannot be read as parquet" in refusal(tmp_path)


def test_too_many_examples_are_asked_for() -> None:
    with pytest.raises(InputError, match=r"data\.train_examples=9999, but the data has only 1026 such examples"):
        load_splits(load_config(data={"train_examples": 9999}))
    with pytest.raises(InputError, match=r"data\.test_examples=241, but the data has only 240 such examples"):
        load_splits(load_config(data={"test_examples": 241}))


# The hub, without a network


@pytest.mark.parametrize("name", [name for name, spec in DATASETS.items() if spec.hub])
def test_hub_columns_become_ours(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    spec = DATASETS[name]
    theirs = {ours: hub for hub, ours in spec.hub_columns.items()}
    asked = []

    def load_dataset(repository: str, part: str | None, split: str) -> Any:
        asked.append((repository, part, split))
        cells = {theirs.get(c, c): [f"{split} {c} {i}" for i in range(20)] for c in spec.columns}
        labels = [bool(i % 2) for i in range(20)] if name == "boolq" else [i % 2 for i in range(20)]
        return datasets.Dataset.from_dict(cells | {theirs.get("label", "label"): labels, "idx": list(range(20))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = load_splits(configured(name, tmp_path, allow_download=True))
    wanted = ["validation"] if name == "boolq" else ["train", "validation"]
    assert spec.hub is not None and asked == [(*spec.hub, split) for split in wanted]
    assert splits.origin.startswith(f"{name}: Hugging Face hub, {spec.hub[0]}; ")
    last = splits.test.texts[0] if spec.test is None else splits.test.texts[-1]
    assert re.fullmatch(rf"validation {spec.columns[0]} \d+", last)
    assert (splits.test.pairs is None) == (len(spec.columns) == 1)


def test_a_failed_download_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal(tmp_path, "rte", allow_download=True) == (
        "Data set 'rte' could not be fetched from the hub: no route"
    )


def test_the_hub_needs_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refusal(tmp_path, "rte", allow_download=True)
    assert message == f"data.allow_download needs the extra `hub`: {extra_install('hub')}"
