"""Tables that the commands print."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fibecfed.config import keys
from fibecfed.data import Partition
from fibecfed.estimate import Estimate
from fibecfed.methods import METHODS

_MOST_DEVICES = 20


def partition_table(owned: Partition, labels: np.ndarray, label_names: Sequence[str]) -> Table:
    """Who holds what: a row for each device (the first twenty), a column for each label."""
    counts = owned.label_counts(labels, len(label_names))
    table = Table(title=f"{owned.devices} devices, {len(labels)} training examples")
    table.add_column("device")
    for name in label_names:
        table.add_column(name, justify="right")
    table.add_column("all", justify="right")
    for device in range(min(owned.devices, _MOST_DEVICES)):
        name = owned.names[device] if owned.names else str(device)
        table.add_row(name, *map(str, counts[device]), str(counts[device].sum()))
    if owned.devices > _MOST_DEVICES:
        table.add_row(f"... {owned.devices - _MOST_DEVICES} more", *[""] * (len(label_names) + 1))
    table.add_row("all", *map(str, counts.sum(axis=0)), str(counts.sum()), style="bold")
    return table


def summary_table(summary: dict[str, Any]) -> Table:
    """The final numbers of one run."""
    table = Table(
        title=f"{summary['method']} on {summary['dataset']} ({summary['evaluated_on']} set)", show_header=False
    )
    table.add_column()
    table.add_column(justify="right")
    rows = {
        "accuracy, global model": f"{summary['accuracy']['global']:.4f}",
        "accuracy, each device's model on its own data": f"{summary['accuracy']['personalized']:.4f}",
        "the same, worst tenth of devices": f"{summary['worst_tenth']:.4f}",
        "sent up / down": f"{summary['bytes']['up'] / 1e6:.2f} / {summary['bytes']['down'] / 1e6:.2f} MB",
        "examples trained / scored": f"{summary['examples_trained']} / {summary['examples_scored']}",
        "CPU / simulated seconds": f"{summary['seconds']['cpu']:.1f} / {summary['seconds']['simulated']:.1f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def estimate_table(found: Estimate) -> Table:
    """What a dry run found."""
    table = Table(title="Dry run: nothing was trained or written", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("parameters trained", f"{found.parameters_trained:,}")
    table.add_row("parameters sent to a device", f"{found.parameters_sent:,}")
    table.add_row("bytes down a round, all devices", f"{found.bytes_down_per_round:,}")
    table.add_row("bytes up a round, all devices", f"{found.bytes_up_per_round:,}")
    table.add_row("estimated time", f"{found.seconds:.0f} s")
    table.add_row("estimated memory", f"{found.memory_bytes / 1e6:.0f} MB")
    return table


def methods_table() -> Table:
    """The registry."""
    table = Table(title="Methods")
    for column in ("method", "source", "trains", "sends"):
        table.add_column(column)
    for name, method in METHODS.items():
        table.add_row(name, method.paper, method.trains, method.sends)
    return table


def print_config_keys(console: Console) -> None:
    """Every key as `key = default`, with choices and meaning."""
    for key in keys():
        choices = f"  ({key.choices})" if key.choices else ""
        console.print(f"[bold]{key.name}[/bold] = {key.default}{choices}", highlight=False)
        console.print(f"    {key.meaning}", highlight=False, markup=False)
