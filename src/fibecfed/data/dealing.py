"""Who holds which row of a run, and what label it has there."""

from dataclasses import dataclass, replace

import numpy as np

from fibecfed.config import Config, settle
from fibecfed.data.domains import deal_domains
from fibecfed.data.draws import deal_to_some, draw_for_each
from fibecfed.data.habits import Habits, draw_habits
from fibecfed.data.holding import Holding, Owners
from fibecfed.data.partition import Partition, grouped, partition, partition_like
from fibecfed.data.rows import Rows
from fibecfed.data.splits import Splits
from fibecfed.errors import InputError
from fibecfed.seeding import stream


@dataclass(frozen=True)
class Dealt:
    """The rows of a run, and who holds them. ``own`` and ``habits`` are None where every device labels as the data."""

    train: Rows  # with labels as its devices have them
    devices: Holding
    held_out: Rows  # with the labels of the data
    owners: Owners  # of held_out
    own: Rows | None = None  # held_out with labels as its devices have them
    habits: Habits | None = None


def deal(config: Config, splits: Splits, pooled: bool = False) -> Dealt:
    """Deal the training rows and those of evaluation.split to devices; ``pooled`` gives everything to one.

    The labels are the same either way: what is pooled has the habits of the devices it comes from. Raises InputError as
    ``partition_rows``, and for habits in a task without labels.
    """
    train = splits.train
    held_out = splits.validation if config.evaluation.split == "validation" else splits.test
    if not config.data.partition.habits:
        owned, owners = partition_rows(config, train, held_out, pooled)
        return Dealt(train, owned, held_out, owners)
    from fibecfed.tasks import task_kind  # imports torch, which takes seconds

    kind = task_kind(config)
    if kind.of(train.label_names).group_count < 2:
        raise InputError(
            f"data.partition.habits makes devices swap two labels, and task.kind={kind.kind} has none; leave it out."
        )
    owned, owners = _partitions(settle(config, train.sites), train, held_out)
    rng = stream(config.seed, "habits")
    habits = draw_habits(config.data.partition.habits, train.labels, owned, rng)
    own = replace(held_out, labels=habits.as_labelled(held_out.labels, owners))
    train = replace(train, labels=habits.as_labelled(train.labels, owned))
    if pooled:
        owned, owners = _whole(train), _whole(held_out)
    return Dealt(train, owned, held_out, owners, own, habits)


def partition_rows(config: Config, train: Rows, held_out: Rows, pooled: bool = False) -> tuple[Holding, Owners]:
    """Who holds which training and which held-out example; ``pooled`` gives everything to one device.

    Where rows belong to the device they name, held-out rows that name one go to it as well;
    otherwise held-out shards follow each device's own label proportions (docs/method.md section 1).
    """
    config = settle(config, train.sites)
    if pooled:
        return _whole(train), _whole(held_out)
    if config.data.partition.examples_per_device is not None:
        return _drawn(config, train, held_out)
    return _partitions(config, train, held_out)


def _drawn(config: Config, train: Rows, held_out: Rows) -> tuple[Holding, Owners]:
    settings, classes = config.data.partition, len(train.label_names)
    if train.domains is not None:
        raise InputError(
            f"data.partition.examples_per_device draws from one data set, and data.name={config.data.name} has several "
            "domains; leave it out, or name one set."
        )
    draws = draw_for_each(train.labels, classes, settings, config.federation.device_count, config.seed)
    rng = stream(config.seed, "held-out partition")
    return draws, deal_to_some(draws, train.labels, held_out.labels, classes, config.seed, rng)


def _partitions(config: Config, train: Rows, held_out: Rows) -> tuple[Partition, Partition]:
    """Every example belongs to one device. ``config`` is settled."""
    settings, devices = config.data.partition, config.federation.device_count
    rng, held_out_rng = stream(config.seed, "partition"), stream(config.seed, "held-out partition")
    if train.domains is not None:
        return deal_domains(train, held_out, settings, devices, rng, held_out_rng)
    classes = len(train.label_names)
    owned = partition(train.labels, classes, settings, devices, rng, train.devices)
    if settings.kind == "column" and held_out.devices is not None and owned.names is not None:
        return owned, _partition_by_names(held_out.devices, owned.names)
    counts = owned.label_counts(train.labels, classes)
    return owned, partition_like(counts, held_out.labels, classes, held_out_rng)


def _whole(rows: Rows) -> Partition:
    return Partition(np.arange(len(rows)), np.array([0, len(rows)]))


def _partition_by_names(devices: np.ndarray, names: tuple[str, ...]) -> Partition:
    position = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(devices.tolist()) - set(position))
    if unknown:
        rows = int((devices == unknown[0]).sum())
        raise InputError(
            f"The test data names the device '{unknown[0]}' ({rows} rows), which has no training rows; "
            f"devices with training rows: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}."
        )
    return grouped(np.array([position[name] for name in devices.tolist()], dtype=np.int64), len(names), names)
