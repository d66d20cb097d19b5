"""Who holds which example. Statistical tolerances are derived from the stated distribution, at odds of about 1e-6."""

import time
import tracemalloc
from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.config.data import PartitionConfig
from fibecfed.data.partition import Partition, apportion, partition, partition_like
from fibecfed.errors import InputError

TREC = np.array([0.212, 0.229, 0.016, 0.224, 0.153, 0.166])
Kind = Literal["dirichlet", "dirichlet-hsu", "iid", "shards", "quantity", "column"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FEW = settings(max_examples=40, deadline=None, derandomize=True)
ODDS = np.log(2e6)  # two-sided, 1e-6


def labelled(proportions: np.ndarray, total: int, seed: int = 0) -> np.ndarray:
    """Shuffled labels whose counts are ``proportions`` x ``total``, rounded down, the rest to the first class."""
    counts = np.floor(np.asarray(proportions) * total + 1e-9).astype(int)
    counts[0] += total - counts.sum()
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


BOTH: tuple[Kind, ...] = ("dirichlet", "dirichlet-hsu")


def dirichlet(
    labels: np.ndarray, classes: int, devices: int, alpha: float, seed: int = 0, kind: Kind | None = None
) -> Partition:
    config = PartitionConfig(kind=kind, alpha=alpha)
    return partition(labels, classes, config, devices, np.random.default_rng(seed), None)


def concentration(kind: Kind, alpha: float, classes: int) -> float:
    """The sum of a Dirichlet's parameters: of the symmetric one alpha for each class, of the other alpha in all."""
    return alpha * classes if kind == "dirichlet" else alpha


def sinkhorn(q: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The slow textbook iteration: the oracle for the fitted margins."""
    cells = q.astype(float)
    for _ in range(5000):
        cells = cells * (columns / cells.sum(axis=0))
        cells = cells * (rows / cells.sum(axis=1))[:, None]
    return cells


def check_whole(part: Partition, total: int, devices: int) -> None:
    """Every example has exactly one owner, and all views agree."""
    assert part.devices == devices and part.sizes.shape == (devices,)
    assert part.order.dtype == np.int64 and part.offsets[0] == 0 and part.offsets[-1] == total
    assert np.array_equal(np.sort(part.order), np.arange(total))
    owner = part.owner()
    for device in range(devices):
        assert np.array_equal(part.indices(device), np.flatnonzero(owner == device))
    assert np.array_equal(part.sizes, np.bincount(owner, minlength=devices))


@FEW
@given(data=st.data())
def test_every_kind_gives_every_example_one_owner(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    devices, minimum = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    total = devices * minimum + data.draw(st.integers(0, 200))
    classes = data.draw(st.integers(1, 8))
    alpha = data.draw(st.sampled_from([1e-9, 0.01, 0.1, 1.0, 1000.0, 1e300]))
    per_device = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    labels = rng.integers(0, rng.integers(1, classes, endpoint=True), total)  # some classes may be empty
    names = np.array([f"site {i % devices}" for i in range(total)])
    config = PartitionConfig(kind=kind, alpha=alpha, minimum=minimum, shards_per_device=per_device)
    part = partition(labels, classes, config, devices, rng, names)
    check_whole(part, total, devices)
    assert part.sizes.min() >= minimum
    if kind not in ("quantity", "column"):
        assert np.ptp(part.sizes) <= 1
    assert (part.names is not None) == (kind == "column")
    table = part.label_counts(labels, classes)
    for device in range(devices):
        assert np.array_equal(table[device], np.bincount(labels[part.indices(device)], minlength=classes))


@FEW
@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(1, 12),
    classes=st.integers(1, 7),
    spread=st.sampled_from([0, 1, 30, 1e6]),
)
def test_apportion_meets_both_margins(seed: int, rows: int, classes: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 30, rows) * rng.integers(0, 2, rows)  # empty rows and columns included
    columns = np.bincount(rng.integers(0, rng.integers(1, classes, endpoint=True), sizes.sum()), minlength=classes)
    log_q = spread * rng.standard_normal((rows, classes))
    log_q[rng.random(log_q.shape) < 0.2] = -np.inf
    counts = apportion(log_q, sizes, columns, rng)
    assert counts.dtype == np.int64 and counts.min() >= 0
    assert np.array_equal(counts.sum(axis=1), sizes)
    assert np.array_equal(counts.sum(axis=0), columns)


def test_apportion_refuses_margins_that_disagree() -> None:
    with pytest.raises(ValueError, match="rows sum to 5, columns to 4"):
        apportion(np.zeros((2, 2)), np.array([2, 3]), np.array([2, 2]), np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(4))
def test_apportion_is_the_sinkhorn_fit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.array([1, 2, 3, 4, 2]) * 10**6, np.array([6, 5, 1]) * 10**6
    q = rng.dirichlet(np.ones(3), 5)
    counts = apportion(np.log(q) + rng.standard_normal((5, 1)), rows, columns, rng)
    # Rounding moves a cell by less than 3; the fit's own error is 1e-6 of a column, at most 6 examples.
    assert np.abs(counts - sinkhorn(q, rows, columns)).max() < 20


def test_rounding_is_random_and_fair() -> None:
    rng = np.random.default_rng(3)
    rows = np.full(50, 7)
    columns = np.bincount(labelled(TREC, 350))
    q = rng.dirichlet(3 * TREC, 50) + 1e-9
    draws = np.array([apportion(np.log(q), rows, columns, rng) for _ in range(400)])
    exact = sinkhorn(q, rows, columns)
    error = draws.mean(axis=0) - exact
    # One draw has a standard deviation of about 1/2 at most, so 5.2 standard errors are 0.13 (odds 1e-6 over 300
    # cells 6e-5); conditioning on the margins biases single cells by up to 0.05 more.
    # Deterministic rounding would be off by almost 1/2 somewhere.
    assert np.abs(error).max() < 0.18
    assert np.abs(error).mean() < 0.03
    assert np.abs(draws - exact).max() < 3


def beta_variance_error(a: float, b: float, count: int) -> float:
    """Standard deviation of the sample variance of ``count`` Beta(a, b) variates."""
    s = a + b
    variance = a * b / (s**2 * (s + 1))
    excess = 6 * ((a - b) ** 2 * (s + 1) - a * b * (s + 2)) / (a * b * (s + 2) * (s + 3))
    return float(variance * np.sqrt((excess + 2) / count))


@pytest.mark.parametrize(("kind", "seed"), [(kind, seed) for kind in BOTH for seed in range(2)])
def test_label_proportions_are_dirichlet(kind: Kind, seed: int) -> None:
    devices, size, p = 2000, 200, np.array([0.5, 0.3, 0.2])
    labels = labelled(p, devices * size, seed)
    shares = dirichlet(labels, 3, devices, 0.5, seed, kind).label_counts(labels, 3) / size
    alpha = concentration(kind, 0.5, 3)
    reference = np.random.default_rng(seed + 100).beta(alpha * p, alpha * (1 - p), (200_000, 3))
    # Counts are rounded, not drawn: a share is off by less than 1/size, and nothing is multinomial. Pinning the
    # column sums takes sampling noise away, so the tolerances for independent draws hold all the more.
    for c in range(3):
        expected = p[c] * (1 - p[c]) / (alpha + 1)
        rounding = 2 * np.sqrt(expected) / size + 1 / size**2
        noise = 5 * beta_variance_error(alpha * p[c], alpha * (1 - p[c]), devices)
        assert shares[:, c].mean() == pytest.approx(p[c], abs=1e-12)
        assert abs(shares[:, c].var() - expected) < noise + rounding
        # Dvoretzky-Kiefer-Wolfowitz band for sample and reference, plus the one cell in 200 that is off by more.
        band = np.sqrt(ODDS / (2 * devices)) + np.sqrt(ODDS / (2 * len(reference))) + 0.01
        for x in (0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.97, 0.99):
            below = (shares[:, c] <= x).mean()
            assert (reference[:, c] <= x - 1 / size).mean() - band < below
            assert below < (reference[:, c] <= x + 1 / size).mean() + band


def test_balanced_labels_have_the_symmetric_dirichlet() -> None:
    """alpha for each label, as in FedPepTAO: a share is Beta(alpha, (C - 1) alpha)."""
    devices, size, alpha, classes = 2000, 200, 0.7, 4
    labels = labelled(np.full(classes, 1 / classes), devices * size)
    shares = dirichlet(labels, classes, devices, alpha, kind="dirichlet").label_counts(labels, classes) / size
    drawn = np.random.default_rng(1).dirichlet(np.full(classes, alpha), 200_000)
    band = np.sqrt(ODDS / (2 * devices)) + np.sqrt(ODDS / (2 * len(drawn))) + 0.01
    for x in (0.02, 0.1, 0.25, 0.5, 0.8):
        for c in range(classes):
            below = (shares[:, c] <= x).mean()
            assert (drawn[:, c] <= x - 1 / size).mean() - band < below < (drawn[:, c] <= x + 1 / size).mean() + band


def test_a_label_that_does_not_occur_changes_nothing() -> None:
    labels = labelled(np.array([0.5, 0.3, 0.2]), 600)
    three, four = (dirichlet(labels, classes, 20, 0.5, kind="dirichlet").label_counts(labels, 4) for classes in (3, 4))
    assert np.abs(three - four).max() < 3  # rounding takes the labels in another order


@pytest.mark.parametrize(("kind", "share"), [("dirichlet", 0.51), ("dirichlet-hsu", 0.79)])
def test_how_skewed_trec_is_at_the_default(kind: Kind, share: float) -> None:
    """The mean share of a device's largest label, the numbers of docs/method.md section 1."""
    labels = labelled(TREC, 2000)
    tables = [dirichlet(labels, 6, 20, 0.5, seed, kind).label_counts(labels, 6) for seed in range(20)]
    # A device's largest share has a standard deviation below 0.2: 400 of them, 0.01; exact margins mix a few devices.
    assert np.mean([table.max(axis=1) / 100 for table in tables]) == pytest.approx(share, abs=0.035)


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet-hsu", "iid"])
def test_sizes_are_drawn_where_asked(kind: Kind) -> None:
    devices, minimum, total, size_alpha = 2000, 3, 406_000, 2.0
    labels = labelled(TREC, total)
    config = PartitionConfig(kind=kind, size_alpha=size_alpha, minimum=minimum)
    part = partition(labels, 6, config, devices, np.random.default_rng(0), None)
    check_whole(part, total, devices)
    assert part.sizes.min() >= minimum
    assert np.array_equal(part.label_counts(labels, 6).sum(axis=0), np.bincount(labels))
    free = total - devices * minimum
    expected = free**2 * (1 / devices) * (1 - 1 / devices) / (devices * size_alpha + 1)
    assert abs(part.sizes.var() / expected - 1) < 5 * np.sqrt((6 / size_alpha + 2) / devices) + 1 / expected


def test_sizes_are_those_of_quantity_where_labels_are_shuffled() -> None:
    labels = labelled(TREC, 1000)
    drawn, same = (
        partition(labels, 6, config, 20, np.random.default_rng(0), None).owner()
        for config in (PartitionConfig(kind="iid", size_alpha=0.7), PartitionConfig(kind="quantity", alpha=0.7))
    )
    assert np.array_equal(drawn, same)


@pytest.mark.parametrize("kind", ["shards", "quantity", "column"])
def test_sizes_that_something_else_decides_are_refused(kind: Kind) -> None:
    with pytest.raises(InputError, match=rf"size_alpha draws the sizes of devices, but with kind={kind} .*; leave it"):
        PartitionConfig(kind=kind, size_alpha=1.0)


@FEW
@given(seed=st.integers(0, 2**32), devices=st.integers(1, 12), size_alpha=st.sampled_from([0.01, 1.0, 5.0]))
def test_test_shards_follow_drawn_sizes(seed: int, devices: int, size_alpha: float) -> None:
    rng = np.random.default_rng(seed)
    labels, tests = labelled(TREC, 300, seed), labelled(TREC, 90, seed + 1)
    config = PartitionConfig(kind="dirichlet", size_alpha=size_alpha, minimum=2)
    table = partition(labels, 6, config, devices, rng, None).label_counts(labels, 6)
    shards = partition_like(table, tests, 6, rng)
    check_whole(shards, 90, devices)
    assert np.abs(shards.sizes - table.sum(axis=1) * 90 / 300).max() < 1


def test_large_alpha_gives_the_global_proportions() -> None:
    devices, size, p = 2000, 200, np.array([0.5, 0.3, 0.2])
    labels = labelled(p, devices * size)
    shares = dirichlet(labels, 3, devices, 1e4).label_counts(labels, 3) / size
    # 5.5 standard deviations of the Beta for each of 6,000 cells, and rounding by less than 3 examples.
    assert (np.abs(shares - p) < 5.5 * np.sqrt(p * (1 - p) / 1e4) + 3 / size).all()


@pytest.mark.parametrize("kind", BOTH)
def test_tiny_alpha_gives_one_label_each(kind: Kind) -> None:
    labels = labelled(np.array([0.5, 0.3, 0.2]), 2000)
    table = dirichlet(labels, 3, 20, 0.001, kind=kind).label_counts(labels, 3)
    # 20 devices of 100 hold 10, 6 and 4 times one label exactly; a stray example or a mixed device costs two each.
    assert ((table == 100).sum(axis=0) >= np.array([9, 5, 3])).all()
    assert (table.max(axis=1) >= 95).sum() >= 18


@pytest.mark.parametrize("kind", BOTH)
def test_binary_labels_at_strong_skew(kind: Kind) -> None:
    """Rejection sampling failed here (docs/method.md section 1)."""
    alpha, seeds, devices, size = 0.1, 20, 20, 100
    lopsided = 0.0
    for seed in range(seeds):
        labels = labelled(np.array([0.5, 0.5]), devices * size, seed)
        table = dirichlet(labels, 2, devices, alpha, seed, kind).label_counts(labels, 2)
        assert np.array_equal(table.sum(axis=0), [1000, 1000]) and np.array_equal(table.sum(axis=1), [size] * devices)
        lopsided += (table.max(axis=1) >= 0.9 * size).mean() / seeds
    each = concentration(kind, alpha, 2) / 2
    reference = np.random.default_rng(0).beta(each, each, 200_000)
    expected = (np.abs(reference - 0.5) >= 0.4).mean()
    assert abs(lopsided - expected) < np.sqrt(ODDS / (2 * seeds * devices))


@pytest.mark.parametrize(("kind", "devices", "seeds"), [(k, d, s) for k in BOTH for d, s in ((20, 40), (400, 10))])
def test_rare_classes_do_not_wash_out_the_skew(kind: Kind, devices: int, seeds: int) -> None:
    size, alpha = 100, concentration(kind, 0.1, 6)
    purity, raw = np.zeros((2, seeds))
    for seed in range(seeds):
        labels = labelled(TREC, devices * size, seed)
        p = np.bincount(labels) / len(labels)
        shares = dirichlet(labels, 6, devices, 0.1, seed, kind).label_counts(labels, 6) / size
        purity[seed] = (shares**2).sum(axis=1).mean()
        raw[seed] = (np.random.default_rng(seed).dirichlet(alpha * p, devices) ** 2).sum(axis=1).mean()
    # E sum_c q_c^2 for Dirichlet(alpha p), in closed form; the fit must not smear devices into mixtures. Exact margins
    # do mix a few: an extreme fit has K + C - 1 cells that are not zero, so C - 1 devices cannot be pure.
    expected = (p**2 + p * (1 - p) / (alpha + 1)).sum()
    noise = 5 * raw.std() / np.sqrt(seeds) + 2 / size
    assert expected - 5 / devices * (1 - 1 / 6) - noise < purity.mean() < expected + noise


def test_same_seed_same_partition() -> None:
    labels = labelled(TREC, 600)
    names = np.array([f"d{i % 12}" for i in range(600)])
    for kind in KINDS:
        config = PartitionConfig(kind=kind)
        first, again, other = (
            partition(labels, 6, config, 12, np.random.default_rng(seed), names).owner() for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert np.array_equal(first, other) == (kind == "column")


def distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Total variation between the label proportions of matching rows, (K,)."""
    shares = [t / t.sum(axis=1, keepdims=True) for t in (left, right)]
    halves: np.ndarray = np.abs(shares[0] - shares[1]).sum(axis=1) / 2
    return halves


def test_test_shards_resemble_their_devices() -> None:
    labels = labelled(TREC, 40_000)
    config = PartitionConfig(kind="dirichlet", alpha=0.3)
    train = partition(labels, 6, config, 10, np.random.default_rng(4), None)
    table = train.label_counts(labels, 6)
    tests = labelled(TREC, 10_000, 9)
    shards = partition_like(table, tests, 6, np.random.default_rng(5))
    check_whole(shards, 10_000, 10)
    shard_table = shards.label_counts(tests, 6)
    assert shards.sizes.tolist() == [1000] * 10
    # The test set has the training set's label mix, so the fit is the identity: what is left is rounding by < 3 a cell.
    assert distance(table, shard_table).max() < 6 * 3 / 2 / 1000
    assert np.median(distance(table, np.roll(shard_table, 1, axis=0))) > 0.3  # another device's shard would not do


def test_test_shard_sizes_follow_training_sizes() -> None:
    table = np.array([[30, 10], [0, 0], [5, 15], [100, 40]])
    tests = labelled(np.array([0.3, 0.7]), 51)  # another mix than in training
    shards = partition_like(table, tests, 2, np.random.default_rng(0))
    check_whole(shards, 51, 4)
    # 51 x (40, 0, 20, 140) / 200 = 10.2, 0, 5.1, 35.7
    assert shards.sizes.tolist() == [10, 0, 5, 36]
    one_each = partition_like(np.ones((5, 2), int), tests[:3], 2, np.random.default_rng(0))
    assert sorted(one_each.sizes.tolist()) == [0, 0, 1, 1, 1]
    unseen = partition_like(np.array([[4, 0], [4, 0]]), np.ones(6, int), 2, np.random.default_rng(0))
    assert unseen.label_counts(np.ones(6, int), 2).tolist() == [[0, 3], [0, 3]]
    with pytest.raises(ValueError, match="training counts"):
        partition_like(np.zeros((3, 2), int), tests, 2, np.random.default_rng(0))


def test_a_hundred_thousand_devices() -> None:
    labels = labelled(TREC, 1_000_000)
    tracemalloc.start()
    start = time.perf_counter()
    part = dirichlet(labels, 6, 100_000, 0.5)
    table = part.label_counts(labels, 6)
    shards = partition_like(table, labels[:200_000], 6, np.random.default_rng(1))
    seconds = time.perf_counter() - start
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(np.bincount(part.order, minlength=len(labels)), np.ones(len(labels)))
    assert (table.sum(axis=1) == 10).all() and np.array_equal(table.sum(axis=0), np.bincount(labels))
    assert (shards.sizes == 2).all()
    assert seconds < 15  # measured 0.6
    # One number for each row and device stays: 8 MB and 1.6 MB of order, twice 0.8 MB of offsets, 4.8 MB of table.
    assert kept < 18e6
    assert peak < 100e6  # measured 50 MB: a few arrays of the rows or of devices x labels at a time


def test_shards_hold_few_labels() -> None:
    labels = labelled(np.full(10, 0.1), 2000)
    part = partition(
        labels, 10, PartitionConfig(kind="shards", shards_per_device=2), 50, np.random.default_rng(0), None
    )
    table = part.label_counts(labels, 10)
    # 100 shards of 20 cut 10 classes of 200 exactly, so a device has one label or two, 20 of each.
    assert set(np.unique(table)) == {0, 20, 40} and (part.sizes == 40).all()
    assert len(np.unique(table, axis=0)) > 20  # dealt at random
    other = partition(
        labels, 10, PartitionConfig(kind="shards", shards_per_device=2), 50, np.random.default_rng(1), None
    )
    zeros = np.flatnonzero(labels == 0)
    share_a_device = part.owner()[zeros[:, None]] == part.owner()[zeros]
    share_again = other.owner()[zeros[:, None]] == other.owner()[zeros]
    assert (share_a_device != share_again).any()  # ties among equal labels are broken by the seed


@pytest.mark.parametrize(("total", "devices", "per_device", "minimum"), [(70, 10, 4, 7), (10, 5, 4, 2), (73, 10, 3, 7)])
def test_shards_keep_the_minimum(total: int, devices: int, per_device: int, minimum: int) -> None:
    config = PartitionConfig(kind="shards", shards_per_device=per_device, minimum=minimum)
    part = partition(labelled(TREC, total), 6, config, devices, np.random.default_rng(0), None)
    check_whole(part, total, devices)
    assert part.sizes.min() >= minimum


def test_iid_has_the_global_mix() -> None:
    labels = np.sort(labelled(TREC, 60_003))
    part = partition(labels, 6, PartitionConfig(kind="iid"), 20, np.random.default_rng(0), None)
    assert sorted(part.sizes.tolist()) == [3000] * 17 + [3001] * 3
    # Hypergeometric, so at most binomial: 5.5 standard deviations over 120 cells.
    assert (np.abs(part.label_counts(labels, 6) / part.sizes[:, None] - TREC) < 5.5 * np.sqrt(TREC / 3000)).all()


def test_quantity_sizes_are_dirichlet_and_labels_are_not_skewed() -> None:
    devices, alpha, minimum, total = 2000, 2.0, 3, 406_000
    labels = np.sort(labelled(TREC, total))
    config = PartitionConfig(kind="quantity", alpha=alpha, minimum=minimum)
    part = partition(labels, 6, config, devices, np.random.default_rng(0), None)
    assert part.sizes.min() >= minimum and part.sizes.sum() == total
    free = total - devices * minimum
    expected = free**2 * (1 / devices) * (1 - 1 / devices) / (devices * alpha + 1)
    # Gamma(alpha) has excess kurtosis 6 / alpha; five standard deviations of the sample variance, 1/4 for rounding.
    assert abs(part.sizes.var() / expected - 1) < 5 * np.sqrt((6 / alpha + 2) / devices) + 1 / expected
    large = part.sizes >= 200
    shares = part.label_counts(labels, 6)[large] / part.sizes[large, None]
    assert (np.abs(shares - TREC) < 6 * np.sqrt(TREC / 200) + 1 / 200).all()


def test_quantity_at_tiny_alpha_keeps_the_minimum() -> None:
    config = PartitionConfig(kind="quantity", alpha=1e-3, minimum=4)
    part = partition(labelled(TREC, 1000), 6, config, 5, np.random.default_rng(2), None)
    assert sorted(part.sizes.tolist())[:4] == [4, 4, 4, 4]
    even = partition(labelled(TREC, 20), 6, config, 5, np.random.default_rng(2), None)
    assert even.sizes.tolist() == [4] * 5


def test_column_makes_one_device_per_name() -> None:
    names = np.array(["north", "east", "north", "west", "east", "north"])
    config = PartitionConfig(kind="column")
    part = partition(np.zeros(6, int), 2, config, 3, np.random.default_rng(0), names)
    assert part.names == ("east", "north", "west")
    assert [part.indices(k).tolist() for k in range(3)] == [[1, 4], [0, 2, 5], [3]]
    with pytest.raises(IndexError, match="device 3 of 3"):
        part.indices(3)
    with pytest.raises(IndexError):
        part.indices(-1)


@pytest.mark.parametrize(
    ("devices", "minimum", "names", "message"),
    [
        (3, 1, None, r"data\.device.*one file per device"),
        (5, 1, ["a", "b", "a", "c"], r"names 3 devices, but federation\.devices=5: set federation\.devices=3;"),
        (2, 1, ["a", "b", "a", "c"], r"names 3 devices, but federation\.devices=2: set federation\.devices=3;"),
        (3, 2, ["a", "b", "a", "a"], r"set federation\.devices=2"),
        (2, 2, ["a", "b", "a", "a"], r"partition\.minimum=2, but device 'b' has 1 training examples \(1 of 2"),
    ],
)
def test_column_errors(devices: int, minimum: int, names: list[str] | None, message: str) -> None:
    config = PartitionConfig(kind="column", minimum=minimum)
    given_names = None if names is None else np.array(names)
    with pytest.raises(InputError, match=message):
        partition(np.zeros(4, int), 2, config, devices, np.random.default_rng(0), given_names)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "column"])
def test_too_few_examples_is_the_users_error(kind: Kind) -> None:
    config = PartitionConfig(kind=kind, minimum=3)
    labels = np.zeros(29, int)
    message = r"federation\.devices=10 at partition\.minimum=3 needs 30 examples, but only 29 training examples"
    with pytest.raises(InputError, match=message):
        partition(labels, 2, config, 10, np.random.default_rng(0), None)
    enough = partition(np.zeros(30, int), 2, config, 10, np.random.default_rng(0), None)
    assert (enough.sizes == 3).all()
