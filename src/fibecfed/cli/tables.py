"""Tables that the commands print."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fibecfed.data import Habits, Holding
from fibecfed.results import answer_scores, global_name

_MOST_DEVICES = 20
_MOST_LABELS = 4
_NARROWEST = 4  # a column of one digit, its margins and its border
_WIDEST = 10_000  # columns; room enough to see how wide a table would like to be


@dataclass(frozen=True)
class PartitionTable:
    """Who holds what. With room for a column for each label it shows counts, else each device's largest labels."""

    owned: Holding
    labels: np.ndarray  # (N,)
    label_names: Sequence[str]
    habits: Habits | None = None
    called: str = "labels"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        counts = self.owned.label_counts(self.labels, len(self.label_names), self.owned.countable)
        table = _largest_labels_table(self.owned, counts, self.label_names, self.called)
        if _NARROWEST * len(self.label_names) <= options.max_width:
            wide = _counts_table(self.owned, counts, self.label_names)
            if Measurement.get(console, options.update(width=_WIDEST), wide).maximum <= options.max_width:
                table = wide
        yield table
        sizes, kinds = counts.sum(axis=1), (counts > 0).sum(axis=1)
        if self.owned.devices > 1:
            first = f" (the first {len(counts):,} are counted)" * (len(counts) < self.owned.devices)
            yield Text(f"A device holds {spread(sizes)} examples of {spread(kinds)} {self.called}{first}.")
        if self.habits is not None:
            yield _habits_line(self.habits, self.owned, self.label_names)


def partition_table(
    owned: Holding,
    labels: np.ndarray,
    label_names: Sequence[str],
    habits: Habits | None = None,
    group: str = "label",
) -> PartitionTable:
    """Who holds what: a row for each device (the first twenty), laid out for the width it is printed at.

    ``labels`` are those that devices with ``habits`` give; which devices have some is said below. ``group``:
    what the task calls them (``Task.group``).
    """
    return PartitionTable(owned, labels, label_names, habits, f"{group}s")


def _habits_line(habits: Habits, owned: Holding, label_names: Sequence[str]) -> Text:
    swaps = habits.swaps
    shown = [
        f"{owned.names[k] if owned.names else k} ({label_names[one]}, {label_names[other]})"
        for k, (one, other) in list(swaps.items())[:_MOST_DEVICES]
    ]
    more = f", and {len(swaps) - _MOST_DEVICES:,} more" if len(swaps) > _MOST_DEVICES else ""
    count = f"{len(swaps):,} of {len(habits.pairs):,} devices"
    return Text(f"{count} take two labels for each other{': ' * bool(swaps)}{', '.join(shown)}{more}.")


def _partition_heading(owned: Holding) -> Table:
    total = int(owned.sizes.sum())
    table = Table(title=f"{owned.devices:,} device{'s' * (owned.devices > 1)}, {total:,} training examples")
    table.add_column("device", overflow="fold")
    if owned.domains is not None:
        table.add_column("domain", overflow="fold")
    return table


def _shown(owned: Holding) -> list[tuple[int, list[Text]]]:
    """The first devices: number, and the cells that say who it is."""
    devices = range(min(owned.devices, _MOST_DEVICES))
    return [(k, _beside(owned, owned.names[k] if owned.names else str(k), k)) for k in devices]


def _counted(owned: Holding) -> str:
    """Whose sum the last row is."""
    return "all" if owned.countable == owned.devices else f"the first {owned.countable:,}"


def _beside(owned: Holding, first: str, device: int | None = None) -> list[Text]:
    """``first`` in the column of devices, and a device's domain where there are domains."""
    domain = "" if owned.domains is None or device is None else owned.domains[device]
    return [Text(first)] + [Text(domain)] * (owned.domains is not None)


def _counts_table(owned: Holding, counts: np.ndarray, label_names: Sequence[str]) -> Table:
    table = _partition_heading(owned)
    for name in label_names:
        table.add_column(Text(name), justify="right", no_wrap=True)
    table.add_column("all", justify="right", no_wrap=True)
    for device, who in _shown(owned):
        table.add_row(*who, *map(str, counts[device]), str(counts[device].sum()))
    if owned.devices > _MOST_DEVICES:
        table.add_row(*_beside(owned, f"... {owned.devices - _MOST_DEVICES:,} more"), *[""] * (len(label_names) + 1))
    table.add_row(*_beside(owned, _counted(owned)), *map(str, counts.sum(axis=0)), str(counts.sum()), style="bold")
    return table


def _largest_labels_table(owned: Holding, counts: np.ndarray, label_names: Sequence[str], called: str) -> Table:
    table = _partition_heading(owned)
    table.add_column("all", justify="right", no_wrap=True)
    table.add_column(called, justify="right", no_wrap=True)
    table.add_column("most of them", overflow="fold")
    for device, who in _shown(owned):
        held = counts[device]
        table.add_row(*who, str(held.sum()), str((held > 0).sum()), _largest(held, label_names))
    if owned.devices > _MOST_DEVICES:
        table.add_row(*_beside(owned, f"... {owned.devices - _MOST_DEVICES:,} more"), "", "", "")
    total = counts.sum(axis=0)
    cells = str(total.sum()), str((total > 0).sum()), _largest(total, label_names)
    table.add_row(*_beside(owned, _counted(owned)), *cells, style="bold")
    return table


def _largest(held: np.ndarray, label_names: Sequence[str]) -> Text:
    order = np.argsort(-held, kind="stable")
    shown = [f"{label_names[c]}:{held[c]}" for c in order[:_MOST_LABELS] if held[c]]
    return Text(", ".join(shown) + (", ..." if (held > 0).sum() > _MOST_LABELS else ""))


def spread(values: np.ndarray) -> str:
    """``3``, or ``1 to 5 (median 3)`` where values differ."""
    low, high = values.min(), values.max()
    return f"{low:,}" if low == high else f"{low:,} to {high:,} (median {np.median(values):,g})"


def summary_table(summary: dict[str, Any]) -> Table:
    """The final numbers of one run."""
    table = Table(
        title=f"{summary['method']} on {summary['dataset']} ({summary['evaluated_on']} set)", show_header=False
    )
    table.add_column()
    table.add_column(justify="right")
    metric = summary["metric"]
    rows = _scores("saved model", metric, summary, summary["method"])
    if (count := summary["mean"]["evaluations"]) > 1:
        rows |= _scores(f"mean of the last {count} evaluations", metric, summary["mean"], summary["method"])
    rows |= {
        "sent up / down": f"{summary['bytes']['up'] / 1e6:.2f} / {summary['bytes']['down'] / 1e6:.2f} MB",
        "examples trained / scored": f"{summary['examples_trained']} / {summary['examples_scored']}",
        "CPU / simulated seconds": f"{summary['seconds']['cpu']:.1f} / {summary['seconds']['simulated']:.1f}",
    }
    if summary["lost"]["replies"]:
        kinds = ", ".join(f"{kind} {count}" for kind, count in summary["lost"]["by_kind"].items())
        rows["replies left out"] = f"{summary['lost']['replies']} ({kinds})"
    if summary["lost"]["states"]:
        rows["device states lost"] = str(len(summary["lost"]["states"]))
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _scores(whose: str, metric: str, numbers: Mapping[str, Any], method: str) -> dict[str, str]:
    """The lines of the saved model, or of the mean that comparisons use; ``whose`` says which."""
    rows = {
        f"{whose}: {metric} of {global_name(method)}": f"{numbers[metric]['global']:.4f}",
        f"{whose}: each device's own on its own data": f"{numbers[metric]['personalized']:.4f}",
        f"{whose}: the same, worst tenth of devices": f"{numbers['worst_tenth']:.4f}",
    }
    for name in answer_scores(numbers):
        rows[f"{whose}: {name} of answers, global / own"] = (
            f"{numbers[name]['global']:.4f} / {numbers[name]['personalized']:.4f}"
        )
    return rows


def decision_lines(decided: dict[str, Any]) -> list[str]:
    """What a method decided, in sentences."""
    lines = []
    if decided.get("head_reason"):
        lines.append(f"Head at the start: {decided['head_reason']}.")
    if decided.get("warm_up_rounds"):
        rounds = decided["warm_up_rounds"]
        lines.append(f"Warm-up: {rounds} round{'s' if rounds > 1 else ''}.")
    if decided.get("layers") is not None:
        scores = decided.get("layer_scores")
        shown = " (scores " + " ".join(f"{s:.3g}" for s in scores) + ")" if scores else ""
        lines.append(f"Global aggregation layers: {decided['layers']}{shown}; {decided['count_reason']}.")
    if decided.get("density"):
        parts = ", ".join(f"layer {layer} {part:.0%}" for layer, part in decided["density"].items())
        lines.append(f"Entries that train on devices: {parts}.")
    difficulty = decided.get("difficulty")
    if difficulty and difficulty["group_share"] is not None:
        lines.append(
            f"Difficulty: its group explains {difficulty['group_share']:.0%} of the ranks' variance within devices "
            f"({difficulty['group_share_by_chance']:.0%} by chance)."
        )
    if decided.get("rank_stability") is not None:
        lines.append(f"Ranks at initialization and at the end correlate at {decided['rank_stability']:.2f}.")
    if decided.get("ranks"):
        ranks = list(decided["ranks"].values())
        lines.append(f"Rank of the maps: {min(ranks)} to {max(ranks)}, {sum(ranks) / len(ranks):.3g} in the mean.")
    if decided.get("change_kept") is not None:
        lines.append(f"LoRA kept {decided['change_kept']:.0%} of the sparse change's square norm.")
    if decided.get("tokens_cut"):
        cut, trained = sum(decided["tokens_cut"]), sum(decided["tokens_trained"])
        lines.append(f"Tokens cut to begin with short texts: {cut:,}, {cut / max(1, cut + trained):.1%} of all.")
    return lines + [f"Warning: {warning}" for warning in decided.get("warnings", [])]
