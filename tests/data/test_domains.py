"""Several named sets as one: what may be joined, how it is split, and that no device holds rows of two."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed import Config, load_config
from fibecfed.config import PartitionConfig
from fibecfed.data import Rows, Splits, columns_of, deal, load_splits
from fibecfed.data.domains import deal_domains, named_sets
from fibecfed.errors import InputError

FEW = settings(max_examples=40, deadline=None, derandomize=True)
SIZES = {("mr", "train"): 100, ("mpqa", "train"): 60, ("sst2", "train"): 240, ("sst2", "validation"): 30}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mr and mpqa without a test split, sst2 with one; a text says where it is from."""
    path = tmp_path_factory.mktemp("sets")
    for (name, split), size in SIZES.items():
        (path / name).mkdir(exist_ok=True)
        texts = [f"{name} {split} {i}" for i in range(size)]
        table = pyarrow.table({"sentence": texts, "label": [int(i % 4 == 0) for i in range(size)]})
        pyarrow.parquet.write_table(table, path / name / f"{split}.parquet")
    return path


def configured(folder: Path, name: str = "mr+sst2+mpqa", devices: int = 9, **data: Any) -> Config:
    return load_config(
        data={"name": name, "dir": str(folder), **data}, federation={"devices": devices, "sampled": min(5, devices)}
    )


def sources(rows: Rows) -> Counter[tuple[str, str]]:
    """Rows by set and split, and that each row's domain is its set."""
    assert rows.domains is not None
    found = [(text.split()[0], text.split()[1]) for text in rows.texts]
    assert [name for name, _ in found] == rows.domains.tolist()
    return Counter(found)


def test_each_set_is_tested_on_its_own_split_or_a_part_of_it(folder: Path) -> None:
    splits = load_splits(configured(folder))
    # A fifth of mr and mpqa is held out for testing, then a tenth of what is left of each set for validation.
    assert sources(splits.test) == {("sst2", "validation"): 30, ("mr", "train"): 20, ("mpqa", "train"): 12}
    assert sources(splits.validation) == {("mr", "train"): 8, ("mpqa", "train"): 5, ("sst2", "train"): 24}
    assert sources(splits.train) == {("mr", "train"): 72, ("mpqa", "train"): 43, ("sst2", "train"): 216}
    parts = [set(part.texts) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == sum(SIZES.values())
    assert "a seeded stratified part of mpqa and mr (32 of 160 examples) is held out for testing" in splits.origin


def test_a_draw_takes_as_many_of_each_domain_with_its_labels_as_they_are(folder: Path) -> None:
    train = load_splits(configured(folder, train_examples=160)).train
    whole = load_splits(configured(folder)).train
    assert train.domains is not None
    assert whole.domains is not None
    # mpqa has 43 rows, all of them; mr and sst2 share the other 117.
    assert Counter(train.domains.tolist()) == {"mpqa": 43, "mr": 59, "sst2": 58}
    cells, before = (Counter(zip(rows.domains.tolist(), rows.labels.tolist(), strict=True)) for rows in (train, whole))
    for (domain, label), count in before.items():
        drawn, of = Counter(train.domains.tolist())[domain], Counter(whole.domains.tolist())[domain]
        assert abs(cells[domain, label] - count * drawn / of) < 1


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet-hsu", "iid", "shards", "quantity"])
def test_a_device_holds_and_is_tested_on_one_domain(folder: Path, kind: str) -> None:
    config = configured(folder, partition={"kind": kind})
    dealt = deal(config, load_splits(config))
    # 43, 72 and 216 rows to nine devices, the next always where a device has most: 1, 2 and 6.
    assert dealt.devices.domains == dealt.owners.domains == ("mpqa",) + ("mr",) * 2 + ("sst2",) * 6
    for rows, owned in ((dealt.train, dealt.devices), (dealt.held_out, dealt.owners)):
        assert rows.domains is not None
        assert np.array_equal(np.sort(owned.order), np.arange(len(rows)))
        for device, domain in enumerate(owned.domains or ()):
            assert set(rows.domains[owned.indices(device)]) <= {domain}
    assert dealt.owners.sizes.sum() == 62
    assert dealt.owners.sizes[0] == 12  # all that mpqa has


@FEW
@given(data=st.data())
def test_no_row_is_lost_or_doubled_and_every_domain_has_a_device(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(20, 200), min_size=2, max_size=4))
    devices = data.draw(st.integers(len(sizes), 15))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))

    def rows(counts: list[int]) -> Rows:
        domains = rng.permutation(np.repeat([f"set {i}" for i in range(len(counts))], counts))
        labels = rng.integers(0, 3, sum(counts))
        return Rows(["text"] * sum(counts), None, labels, ("a", "b", "c"), domains=domains)

    train, held = rows(sizes), rows([size // 10 for size in sizes])
    config = PartitionConfig(kind="dirichlet", size_alpha=data.draw(st.sampled_from([None, 1.0])))
    owned, owners = deal_domains(train, held, config, devices, rng, rng)
    assert owned.domains is not None
    assert len(set(owned.domains)) == len(sizes)
    for part, partition in ((train, owned), (held, owners)):
        assert part.domains is not None
        assert np.array_equal(np.sort(partition.order), np.arange(len(part)))
        assert np.array_equal(np.array(owned.domains)[partition.owner()], part.domains)


def test_devices_follow_the_sizes(folder: Path) -> None:
    config = configured(folder, devices=100, partition={"kind": "iid"})
    counts = Counter(deal(config, load_splits(config)).devices.domains)
    for name, rows in {"mpqa": 43, "mr": 72, "sst2": 216}.items():
        assert abs(counts[name] - 100 * rows / 331) < 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mr+trec", "'mr' has negative, positive and 'trec' has ABBR, ENTY, DESC, HUM, LOC, NUM. Join sets with"),
        ("mr+sst2+subj", "different labels: 'mr' has negative, positive and 'subj' has subjective, objective."),
        ("qnli+mr", "'qnli' has pairs of texts and 'mr' single texts"),
        ("mr+qnli", "'qnli' has pairs of texts and 'mr' single texts"),
        ("mr+sst", "Unknown data set 'sst' (data.name). Did you mean 'sst2'?"),
        ("mr+", "Unknown data set ''"),
        ("mr+mpqa+mr", "names 'mr' twice"),
    ],
)
def test_what_cannot_be_joined_is_named(folder: Path, name: str, sentence: str) -> None:
    with pytest.raises(InputError) as raised:
        load_splits(configured(folder, name))
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"devices": 2}, "federation.devices=2 is fewer than the 3 data sets of data.name (mpqa, mr, sst2)"),
        ({"partition": {"kind": "column"}, "devices": 3}, "(mpqa, mr, sst2) name no devices"),
        (
            {"train_examples": 20, "partition": {"minimum": 3}},
            "'mpqa' has 7 training examples for 3 of federation.devices=9, and partition.minimum=3 needs 9",
        ),
        ({"train_examples": 2}, "data.train_examples=2 leaves none of"),
    ],
)
def test_too_little_for_every_domain(folder: Path, settings: dict[str, Any], sentence: str) -> None:
    config = configured(folder, **settings)
    with pytest.raises(InputError) as raised:
        deal(config, load_splits(config))
    assert sentence in str(raised.value)


def test_a_joined_set_has_the_columns_and_metrics_that_all_have() -> None:
    assert columns_of(load_config(data={"name": "mr+mpqa"})).text == "sentence"
    assert [one.name for one in named_sets("qnli+rte")] == ["qnli", "rte"]


def test_one_set_alone_is_what_it_was(folder: Path) -> None:
    splits: Splits = load_splits(configured(folder, "mr"))
    assert splits.train.domains is None
    assert deal(configured(folder, "mr"), splits).devices.domains is None
