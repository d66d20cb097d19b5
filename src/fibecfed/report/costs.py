"""What each phase of a run cost, and what was lost on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.report.areas import Bar, bar_picture
from fibecfed.report.holdings import device_name
from fibecfed.report.page import Cell, Chart, Key, Rows, Table

_MOST_ROWS = 200
_COSTS = (
    ("simulated_seconds", "simulated time (s)", 1.0),
    ("sent", "sent, up and down (MB)", 1e-6),
    ("cpu_seconds", "CPU time here (s)", 1.0),
)


def phases_of(summary: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """The costs of each kind of stage, in a summary of any version."""
    return summary.get("stages") or summary.get("phases") or {}


def phases_chart(by_method: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Chart | None:
    """Costs by phase: of one run a bar for each phase, of several methods one each, in parts."""
    by_method = {name: phases for name, phases in by_method.items() if phases}
    phases = list(dict.fromkeys(phase for of in by_method.values() for phase in of))
    if not phases:
        return None
    one = len(by_method) == 1
    title = _title(next(iter(by_method.values()))) if one else "What each phase of a method cost"
    pictures = []
    for key, axis, scale in _COSTS:
        if one:
            of = next(iter(by_method.values()))
            bars = [Bar(phase, [(n, _cost(of[phase], key) * scale, axis)]) for n, phase in enumerate(phases)]
        else:
            bars = [
                Bar(name, [(n, _cost(of[p], key) * scale, p) for n, p in enumerate(phases) if p in of])
                for name, of in by_method.items()
            ]
        pictures.append(bar_picture(f"{title}: {axis}", bars, axis))
    rows: Rows = [
        [name, phase, *[Cell(f"{_cost(costs, key) * scale:,.2f}", _cost(costs, key)) for key, _, scale in _COSTS],
         *[Cell(f"{costs[key]:,.0f}", costs[key]) for key in ("examples_trained", "examples_scored")]]
        for name, of in by_method.items() for phase, costs in of.items()
    ]  # fmt: skip
    columns = ["method", "phase", *(axis for _, axis, _ in _COSTS), "examples trained", "examples scored"]
    table = Table("Costs by phase", columns, rows, text_columns=frozenset({0, 1}))
    keys = [] if one else [Key.of_area(phase, number) for number, phase in enumerate(phases)]
    note = "Simulated time is that of the devices and links of the settings; evaluation is not counted."
    return Chart(title, [("", None, pictures)], table, note, keys)


def _title(phases: Mapping[str, Mapping[str, float]]) -> str:
    total = sum(costs["simulated_seconds"] for costs in phases.values())
    longest = max(phases, key=lambda phase: phases[phase]["simulated_seconds"])
    part = phases[longest]["simulated_seconds"] / total if total else 0.0
    return f"Cost of each phase: {longest} takes {part:.0%} of the simulated time"


def _cost(costs: Mapping[str, float], key: str) -> float:
    return costs["bytes_up"] + costs["bytes_down"] if key == "sent" else costs[key]


def lost(
    summary: Mapping[str, Any],
    records: Sequence[Mapping[str, Any]],
    decided: Mapping[str, Any],
    held: Mapping[str, Any],
) -> list[Table | str]:
    """Replies left out, states lost, devices that took the shared model; a sentence where nothing was."""
    found: list[Table | str] = []
    left_out = [entry for record in records for entry in record.get("left_out", ())]
    states = (summary.get("lost") or {}).get("states", [])
    for what, entries in (("Replies that were left out", left_out), ("Device states that were lost", states)):
        if entries:
            rows: Rows = [
                [Cell(str(e["round"]), e["round"]), str(e["stage"]), Cell(device_name(held, e["device"]), e["device"]),
                 str(e.get("kind", "")), str(e["reason"])]
                for e in entries[:_MOST_ROWS]
            ]  # fmt: skip
            notes = [f"The first {_MOST_ROWS} of {len(entries):,}."] if len(entries) > _MOST_ROWS else []
            columns = ["round", "phase", "device", "kind", "why"]
            found.append(Table(f"{what}: {len(entries):,}", columns, rows, notes, frozenset({1, 2, 3, 4})))
    back = decided.get("fallen_back")
    if back:
        who = ", ".join(device_name(held, device) for device in back[:_MOST_ROWS])
        found.append(f"{len(back)} devices took the shared model, which was better on their own examples: {who}.")
    data = summary.get("data") or {}
    if data.get("truncated_examples"):
        found.append(
            f"{data['truncated_examples']:,} examples were cut to the longest length: {data['tokens_cut']:,} tokens."
        )
    if not left_out and not states:
        found.insert(0, "No reply was left out and no device's state was lost.")
    return found


def mean_phases(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """The mean over runs of what each phase cost; a phase that a run lacks cost it nothing."""
    found: dict[str, dict[str, float]] = {}
    for phases in runs:
        for phase, costs in phases.items():
            total = found.setdefault(phase, dict.fromkeys(costs, 0.0))
            for name, value in costs.items():
                total[name] += value / len(runs)
    return found


def lost_in_runs(summaries: Mapping[str, Mapping[str, Any]]) -> list[Table | str]:
    """Of each run that lost something how much, by reason."""
    rows: Rows = []
    for name, summary in summaries.items():
        of = summary.get("lost") or {}
        replies, states = of.get("replies", 0), len(of.get("states", ()))
        if replies or states:
            kinds = ", ".join(f"{kind} {count}" for kind, count in of["by_kind"].items())
            rows.append([name, Cell(f"{replies:,}", replies), kinds, Cell(f"{states:,}", states)])
    if not rows:
        return ["No reply was left out and no device's state was lost in any run."]
    columns = ["run", "replies left out", "by reason", "states lost"]
    return [Table("What was lost", columns, rows, text_columns=frozenset({0, 2}))]
