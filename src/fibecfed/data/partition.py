"""Who holds which example: label-skewed, size-skewed, natural and even splits, and test shards that match them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fibecfed.config.data import PartitionConfig
from fibecfed.data.holding import require_device
from fibecfed.errors import InputError

_FIT_STEPS = 500
_FIT_ERROR = 1e-6  # relative, per column
_NEARLY = 1e-6  # a cell this close under a whole number is that number: floor() must not see 9.9999999 as 9
_LOWEST = -1e12  # stands for log 0, so that exact margins stay reachable
_ALPHA_RANGE = (1e-6, 1e12)  # beyond these, proportions are one-hot or equal to float precision anyway


@dataclass(frozen=True)
class Partition:
    """Every one of N examples belongs to exactly one of K devices."""

    order: np.ndarray  # (N,) int64 positions of the examples, device by device, ascending within a device
    offsets: np.ndarray  # (K+1,) int64: device k holds order[offsets[k]:offsets[k + 1]]
    names: tuple[str, ...] | None = None  # device names, where the data brought them
    domains: tuple[str, ...] | None = None  # (K,) which of several joined data sets a device's rows are of

    @property
    def devices(self) -> int:
        """K."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Examples per device, (K,) int64."""
        return np.diff(self.offsets)

    @property
    def countable(self) -> int:
        """All devices."""
        return self.devices

    def indices(self, device: int) -> np.ndarray:
        """Ascending positions of one device's examples; a view. Raises IndexError for a device that does not exist."""
        require_device(device, self.devices)
        return self.order[self.offsets[device] : self.offsets[device + 1]]

    def owner(self) -> np.ndarray:
        """The device of each example, (N,) int64."""
        owner = np.empty(len(self.order), np.int64)
        owner[self.order] = np.repeat(np.arange(self.devices), self.sizes)
        return owner

    def label_counts(self, labels: np.ndarray, classes: int, most: int | None = None) -> np.ndarray:
        """Examples of each class on each device (the first ``most``), (K, C) int64. ``labels``: (N,), below C."""
        cells = self.owner() * classes + labels
        return np.bincount(cells, minlength=self.devices * classes).reshape(self.devices, classes)[:most]

    def described(self) -> Iterator[str]:
        """Words that tell it from any other: the names of the devices, and which example is whose."""
        yield from self.names or ()
        yield from map(str, self.offsets)
        yield from map(str, self.order)

    def shares(self, labels: np.ndarray, classes: int) -> Iterator[str]:
        """Words that tell how many examples of each class each device holds."""
        yield from self.names or ()
        yield from map(str, self.label_counts(labels, classes).ravel())


def partition(
    labels: np.ndarray,
    classes: int,
    config: PartitionConfig,
    devices: int,
    rng: np.random.Generator,
    names: np.ndarray | None = None,
) -> Partition:
    """Deal N training examples to ``devices`` devices, as ``config.kind`` says (None: dirichlet).

    ``labels``: (N,) int64 below ``classes``. ``names``: (N,) str, the device of each row, for ``column`` only.
    Raises InputError when a device would hold fewer than ``config.minimum`` examples, or the names do not fit.
    Source: docs/method.md section 1 [D]. On balanced labels dirichlet is the symmetric one of FedPepTAO (Che et al.,
    2023, arXiv 2310.15080), which also draws sizes. dirichlet-hsu is that of Hsu et al. (2019, arXiv 1909.06335),
    shards are those of McMahan et al. (2017, arXiv 1602.05629).
    """
    kind = config.kind or "dirichlet"
    if kind == "column":
        return _by_name(names, config.minimum, devices)
    total = len(labels)
    if devices * config.minimum > total:
        raise InputError(
            f"federation.devices={devices} at partition.minimum={config.minimum} needs {devices * config.minimum} "
            f"examples, but only {total} training examples are there."
        )
    if kind == "shards":
        return grouped(_shard_owner(labels, devices, config.shards_per_device, rng), devices)
    size_alpha = config.alpha if kind == "quantity" else config.size_alpha
    sizes = _even(total, devices) if size_alpha is None else _drawn(size_alpha, total, devices, config.minimum, rng)
    if kind not in ("dirichlet", "dirichlet-hsu"):
        return grouped(rng.permutation(np.repeat(np.arange(devices), sizes)), devices)
    columns = np.bincount(labels, minlength=classes)
    present = np.count_nonzero(columns) if kind == "dirichlet" else 1
    log_q = log_dirichlet(config.alpha * present, columns / total, devices, rng)
    return _dealt(labels, apportion(log_q, sizes, columns, rng), rng)


def partition_like(train_counts: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.Generator) -> Partition:
    """Deal N test examples to the K devices of ``train_counts``, (K, C), so that each shard resembles its device.

    Shard sizes are proportional to training sizes (largest remainder, so a shard may be empty when N is small), label
    proportions are the device's own, as near as the test set's label counts allow. ``labels``: (N,) below ``classes``.
    Raises ValueError when no device holds a training example. Source: docs/method.md section 1 [D].
    """
    sizes = train_counts.sum(axis=1)
    if not sizes.any():
        raise ValueError("test shards need training counts, and every device's are zero")
    pseudo = 1e-3  # a class a device never saw may still reach it, when nobody else can take it
    log_q = np.log((train_counts + pseudo) / (sizes + pseudo * classes)[:, None])
    rows = _largest_remainder(sizes.astype(np.float64), len(labels), rng)
    return _dealt(labels, apportion(log_q, rows, np.bincount(labels, minlength=classes), rng), rng)


def apportion(
    log_q: np.ndarray, row_sizes: np.ndarray, column_sizes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Whole numbers near ``row_sizes * q`` with exactly these row and column sums, (K, C) int64.

    ``log_q``: (K, C) log proportions, up to a constant per row; -inf is allowed. ``row_sizes``: (K,) and
    ``column_sizes``: (C,), not negative, of equal sum (else ValueError). The real matrix with these margins that is
    closest to q in relative entropy is rounded at random: by less than 1, in about one cell of 200 by up to 2 or 3.
    Source: iterative proportional fitting and systematic sampling, joined by this project.
    """
    if row_sizes.sum() != column_sizes.sum() or row_sizes.min() < 0 or column_sizes.min() < 0:
        raise ValueError(f"margins do not agree: rows sum to {row_sizes.sum()}, columns to {column_sizes.sum()}")
    exact = _fit(log_q, row_sizes, column_sizes)
    counts = np.floor(exact + _NEARLY).astype(np.int64)
    fraction = exact - counts
    fraction[fraction < _NEARLY] = 0
    need = column_sizes - counts.sum(axis=0)
    for c in np.flatnonzero(need < 0):  # rounding noise, or a fit that stopped early
        counts[:, c] -= take(exact[:, c], counts[:, c], int(-need[c]), rng)
        need[c] = 0
    room = row_sizes - counts.sum(axis=1)
    rest = fraction.sum(axis=1)
    # Each class takes all it needs out of the rows' remaining room; as both add up to the same number,
    # the last class finds exactly its need. A random class order spares one class from always getting the leftovers.
    for c in rng.permutation(len(need)):
        weights = np.divide(fraction[:, c] * room, rest, out=np.zeros_like(rest), where=rest > _NEARLY)
        taken = take(weights, room, int(need[c]), rng)
        counts[:, c] += taken
        room -= taken
        rest -= fraction[:, c]
    assert np.array_equal(counts.sum(axis=1), row_sizes)
    assert np.array_equal(counts.sum(axis=0), column_sizes)
    return counts


def _fit(log_q: np.ndarray, row_sizes: np.ndarray, column_sizes: np.ndarray) -> np.ndarray:
    """The (K, C) real matrix with these margins that is closest to q: row sums to float precision, columns to 1e-6.

    Same fixed point as Sinkhorn's iteration, found by damped Newton steps on the C column potentials: with nearly
    one-hot rows Sinkhorn needs thousands of sweeps, because almost no row ties two classes together.
    """
    fitted = np.zeros(log_q.shape)
    live = np.flatnonzero(column_sizes)
    if not len(live):
        return fitted
    columns = column_sizes[live].astype(np.float64)
    log_q = np.maximum(log_q[:, live], -1e300)  # a row of -inf only is an even row
    log_q = np.maximum(log_q - log_q.max(axis=1, keepdims=True), _LOWEST)
    potentials = np.zeros(len(live))
    cells = _cells(log_q, potentials, row_sizes)
    gap = columns - cells.sum(axis=0)
    damping = 1e-3
    for _ in range(_FIT_STEPS):
        if np.all(np.abs(gap) <= _FIT_ERROR * columns):
            break
        share = cells / np.maximum(row_sizes, 1)[:, None]
        curvature = np.diag(cells.sum(axis=0)) - share.T @ cells
        step = np.linalg.solve(curvature + np.diag(damping * columns), gap)
        new_cells = _cells(log_q, potentials + step, row_sizes)
        new_gap = columns - new_cells.sum(axis=0)
        # The dual is concave, so a slope along the step that is still positive means it went up. Past the top it went
        # up too while the slope is above -0.5 of the first one, if the step is short (curvature changes by <= e^2).
        if step @ new_gap >= (-0.5 * (step @ gap) if np.abs(step).max() <= 1 else 0):
            potentials, cells, gap = potentials + step, new_cells, new_gap
            potentials -= potentials.mean()
            damping = max(damping / 8, 1e-14)
        else:
            damping *= 5
    fitted[:, live] = cells
    return fitted


def _cells(log_q: np.ndarray, potentials: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The (K, C) matrix proportional to q * exp(potentials) in each row, with these row sums."""
    cells: np.ndarray = log_q + potentials
    cells -= cells.max(axis=1, keepdims=True)
    np.exp(cells, out=cells)
    cells *= (rows / cells.sum(axis=1))[:, None]
    return cells


def take(weights: np.ndarray, room: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """``total`` units from rows in proportion to ``weights``, never above ``room`` (whose sum is >= total); (K,) int64.

    Systematic sampling in random order: a row gets its expected number rounded up or down. What does not fit goes to
    the rows with room left and the largest weights.
    """
    shuffled = rng.permutation(len(weights))
    taken = np.zeros(len(weights), np.int64)
    scale = weights.sum()
    if scale > 0:
        reached = np.minimum(np.cumsum(weights[shuffled]) * (total / scale), total)
        reached[-1] = total
        taken[shuffled] = np.diff(np.floor(reached + rng.random()), prepend=0).astype(np.int64)
        np.minimum(taken, room, out=taken)
    short = total - int(taken.sum())
    if short:
        best = shuffled[np.argsort(-weights[shuffled], kind="stable")]
        left = (room - taken)[best]
        taken[best] += np.clip(short - (np.cumsum(left) - left), 0, left)
    return taken


def log_dirichlet(alpha: float, base: np.ndarray, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Log of ``rows`` draws from Dirichlet(alpha x base), (rows, C), up to a constant per row; -inf where base is 0.

    In the log domain, log G(a) = log G(a+1) + log(U)/a, because for small shapes every gamma variate underflows to 0.
    """
    shape = float(np.clip(alpha, *_ALPHA_RANGE)) * base[base > 0]
    log_q = np.full((rows, len(base)), -np.inf)
    size = (rows, len(shape))
    log_q[:, base > 0] = np.log(rng.standard_gamma(shape + 1, size)) + np.log1p(-rng.random(size)) / shape
    return log_q


def _largest_remainder(weights: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """``total`` units in proportion to ``weights``, (K,) int64; ties at random, so that no device is favoured."""
    share = weights * (total / weights.sum())
    counts: np.ndarray = np.floor(share).astype(np.int64)
    shuffled = rng.permutation(len(weights))
    neediest = shuffled[np.argsort((counts - share)[shuffled], kind="stable")]
    counts[neediest[: total - counts.sum()]] += 1
    return counts


def _drawn(alpha: float, total: int, devices: int, minimum: int, rng: np.random.Generator) -> np.ndarray:
    """``total`` in ``devices`` sizes from a symmetric Dirichlet(alpha), none below ``minimum``, (K,) int64.

    The minimum comes off the top, so that it holds without redrawing.
    """
    log_share = log_dirichlet(alpha * devices, np.full(devices, 1 / devices), 1, rng)[0]
    share = np.exp(log_share - log_share.max())
    return minimum + _largest_remainder(share, total - devices * minimum, rng)


def _even(total: int, parts: int) -> np.ndarray:
    """``total`` in ``parts`` sizes that differ by at most one, (parts,) int64."""
    sizes: np.ndarray = total // parts + (np.arange(parts) < total % parts)
    return sizes


def _shuffled_by_label(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions sorted by label, in random order within a label."""
    shuffled = rng.permutation(len(labels))
    return shuffled[np.argsort(labels[shuffled], kind="stable")]


def _dealt(labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Partition:
    """Deal each class's examples, shuffled, so that device k gets counts[k, c] of class c."""
    devices, classes = counts.shape
    owner = np.empty(len(labels), np.int64)
    owner[_shuffled_by_label(labels, rng)] = np.repeat(np.tile(np.arange(devices), classes), counts.T.ravel())
    return grouped(owner, devices)


def _shard_owner(labels: np.ndarray, devices: int, per_device: int, rng: np.random.Generator) -> np.ndarray:
    """Owner of each example when label-sorted shards of near-equal size are dealt at random, (N,) int64."""
    shards = rng.permutation(devices * per_device).reshape(devices, per_device)
    short, longer = divmod(len(labels), devices * per_device)
    # Shards differ by one example. The longer ones are dealt evenly, so that devices too differ by one at most
    # and config.minimum holds whenever there are enough examples at all.
    longer_of = rng.permutation(_even(longer, devices))
    sizes = np.empty(devices * per_device, np.int64)
    sizes[shards] = short + (np.arange(per_device) < longer_of[:, None])
    device_of = np.empty(devices * per_device, np.int64)
    device_of[shards] = np.arange(devices)[:, None]
    owner = np.empty(len(labels), np.int64)
    owner[_shuffled_by_label(labels, rng)] = np.repeat(device_of, sizes)
    return owner


def _by_name(names: np.ndarray | None, minimum: int, devices: int) -> Partition:
    """One device per distinct name, in the order of the sorted names."""
    if names is None:
        raise InputError(
            "partition.kind=column, but no row says which device it belongs to: set data.device to the column with the "
            "device names, or give data.file a folder or glob with one file per device."
        )
    distinct, owner = np.unique(names, return_inverse=True)
    if len(distinct) != devices:
        raise InputError(
            f"The data names {len(distinct)} devices, but federation.devices={devices}: "
            f"set federation.devices={len(distinct)}; federation.sampled can be {len(distinct)} at most. To deal the "
            "rows anew instead, set data.partition.kind=dirichlet."
        )
    sizes = np.bincount(owner, minlength=devices)
    smallest = int(sizes.argmin())
    if sizes[smallest] < minimum:
        raise InputError(
            f"partition.minimum={minimum}, but device {str(distinct[smallest])!r} has {sizes[smallest]} training "
            f"examples ({int((sizes < minimum).sum())} of {devices} devices have too few)."
        )
    return grouped(owner, devices, tuple(str(name) for name in distinct))


def grouped(
    owner: np.ndarray, devices: int, names: tuple[str, ...] | None = None, domains: tuple[str, ...] | None = None
) -> Partition:
    """The partition in which example i belongs to device owner[i]; ``owner``: (N,) int64."""
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=devices))])
    return Partition(np.argsort(owner, kind="stable"), offsets, names, domains)
