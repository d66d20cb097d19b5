"""Several named data sets with the same labels as one, whose devices each hold rows of one of them (a domain)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fibecfed.config import nearest_hint
from fibecfed.config.data import PartitionConfig
from fibecfed.data.named import DATASETS, SUPPORT, NamedDataset, dataset_names, read_named
from fibecfed.data.partition import Partition, grouped, partition, partition_like
from fibecfed.data.rows import Rows, joined
from fibecfed.errors import InputError

_JOIN = "+"


def named_sets(name: str) -> tuple[NamedDataset, ...]:
    """The data sets that data.name means: one, or several joined by +.

    Raises InputError for an unknown name (naming the nearest), for a set named twice, and for sets that cannot be one.
    """
    names = name.split(_JOIN)
    for one in names:
        if one not in dataset_names():
            raise InputError(
                f"Unknown data set '{one}' (data.name).{nearest_hint(one, dataset_names())} "
                f"Known: {', '.join(dataset_names())}; for your own file set data.file."
            )
    repeated = next((one for one in names if names.count(one) > 1), None)
    if repeated is not None:
        raise InputError(f"data.name={name} names '{repeated}' twice; name each set once.")
    found = tuple(SUPPORT if one == SUPPORT.name else DATASETS[one] for one in names)
    first = found[0]
    for other in found[1:]:
        if len(other.columns) != len(first.columns):
            pair, single = (other, first) if len(other.columns) > 1 else (first, other)
            raise InputError(
                f"data.name={name} joins sets that cannot be one: '{pair.name}' has pairs of texts and '{single.name}' "
                "single texts. Join sets of the same kind."
            )
        if other.labels != first.labels:
            raise InputError(
                f"data.name={name} joins sets with different labels: '{first.name}' has {', '.join(first.labels)} and "
                f"'{other.name}' has {', '.join(other.labels)}. Join sets with the same ones."
            )
    return found


def read_sets(sets: Sequence[NamedDataset], folder: str, allow_download: bool) -> tuple[Rows, Rows | None, str]:
    """Training rows, test rows (None, or none of a domain: to be split off) and where they come from, for a sentence.

    Each row of several sets has the name of its set as its domain. Raises InputError as ``read_named``.
    """
    read = [read_named(one.name, folder, allow_download) for one in sets]
    if len(read) == 1:
        return read[0]
    train = joined([_of(one.name, rows) for one, (rows, _, _) in zip(sets, read, strict=True)])
    tests = [_of(one.name, rows) for one, (_, rows, _) in zip(sets, read, strict=True) if rows is not None]
    return train, joined(tests) if tests else None, "; ".join(origin for _, _, origin in read)


def _of(name: str, rows: Rows) -> Rows:
    return replace(rows, domains=np.full(len(rows), name))


def without_test(train: Rows, test: Rows | None) -> np.ndarray:
    """Positions of the training rows whose data set, or domain, has no test rows of its own."""
    if test is None:
        return np.arange(len(train))
    if train.domains is None or test.domains is None:
        return np.arange(0)
    return np.flatnonzero(~np.isin(train.domains, test.domains))


def deal_domains(
    train: Rows,
    held_out: Rows,
    config: PartitionConfig,
    devices: int,
    rng: np.random.Generator,
    held_out_rng: np.random.Generator,
) -> tuple[Partition, Partition]:
    """Who holds which row where rows have domains: a device holds, and is tested on, rows of one domain.

    Devices are dealt to domains in proportion to their training rows, at least one each; within a domain rows are dealt
    as without domains (``partition``, ``partition_like``). Domains are in the order of their names. Raises InputError
    for fewer devices than domains, and as ``partition``. Source: project decision (docs/method.md section 1).
    """
    assert train.domains is not None
    assert held_out.domains is not None
    names, sizes = np.unique(train.domains, return_counts=True)
    if config.kind == "column":
        raise InputError(
            f"partition.kind=column, but the data sets of data.name ({', '.join(names)}) name no devices; set "
            "data.partition.kind=dirichlet, or another."
        )
    if devices < len(names):
        raise InputError(
            f"federation.devices={devices} is fewer than the {len(names)} data sets of data.name "
            f"({', '.join(names)}), and a device holds rows of one: set federation.devices to {len(names)} or more."
        )
    counts = _devices_of(sizes, devices)
    owner, held_out_owner = np.empty(len(train), np.int64), np.empty(len(held_out), np.int64)
    classes, first = len(train.label_names), 0
    for name, count in zip(names, counts, strict=True):
        mine, tested = np.flatnonzero(train.domains == name), np.flatnonzero(held_out.domains == name)
        if count * config.minimum > len(mine):
            raise InputError(
                f"'{name}' has {len(mine)} training examples for {count} of federation.devices={devices}, and "
                f"partition.minimum={config.minimum} needs {count * config.minimum}; lower one of them."
            )
        owned = partition(train.labels[mine], classes, config, int(count), rng)
        held = owned.label_counts(train.labels[mine], classes)
        owner[mine] = first + owned.owner()
        like = partition_like(held, held_out.labels[tested], classes, held_out_rng)
        held_out_owner[tested] = first + like.owner()
        first += int(count)
    domains = tuple(str(name) for name in np.repeat(names, counts))
    return grouped(owner, devices, domains=domains), grouped(held_out_owner, devices, domains=domains)


def _devices_of(sizes: np.ndarray, devices: int) -> np.ndarray:
    """``devices`` dealt to domains of these sizes, (D,) int64: one each, the next always where a device has most rows.

    This is the divisor method of Adams: in proportion, and never none.
    """
    counts = np.ones(len(sizes), np.int64)
    for _ in range(devices - len(sizes)):
        counts[np.argmax(sizes / counts)] += 1
    return counts
