"""With what a run was made: its settings, versions and machine, and the command that makes it again."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from fibecfed.config import WHERE, Config, dotted
from fibecfed.report.page import Cell, Rows, Table

_FOLDERS = tuple(key for key in WHERE if key.endswith(".dir"))  # of this machine; they say nothing of a result


def again(config: Config) -> str:
    """The command that makes the run again, by what differs from the defaults; needs no file of the run."""
    defaults, now = dotted(Config()), dotted(config)
    changed = [
        f"{key}={_value(value)}" for key, value in now.items() if value != defaults.get(key) and key not in _FOLDERS
    ]
    return shlex.join(["fibecfed", "run", *changed, "--out", "NEW_DIR"])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def settings_table(config: Config) -> Table:
    """Every setting, what differs from its default first; on paper only that."""
    defaults = dotted(Config())
    rows: Rows = []
    as_given: Rows = []
    for key, value in dotted(config).items():
        if key in _FOLDERS:
            continue
        changed = value != defaults.get(key)
        default = json.dumps(defaults.get(key), ensure_ascii=False) if changed else ""
        shown = Cell(json.dumps(value, ensure_ascii=False), None, "changed" if changed else "unchanged")
        (rows if changed else as_given).append([key, shown, default])
    columns = ["setting", "value", "default, where it differs"]
    return Table("Settings", columns, rows + as_given, text_columns=frozenset({0, 1, 2}))


def environment_table(summaries: Sequence[Mapping[str, Any]]) -> Table:
    """Versions, machine and commit; several of each where runs differ."""
    rows: Rows = []

    def add(name: str, values: Sequence[Any]) -> None:
        shown = [str(value) for value in dict.fromkeys(values) if value is not None]
        if shown:
            rows.append([name, " / ".join(shown)])

    for package in dict.fromkeys(name for summary in summaries for name in summary["versions"]):
        add(package, [summary["versions"].get(package) for summary in summaries])
    machines = [summary["hardware"] for summary in summaries]
    for name in ("processor", "cores", "accelerator", "system"):
        add(name, [machine.get(name) for machine in machines])
    memory = [machine.get("memory_bytes") for machine in machines]
    add("memory (GB)", [None if size is None else round(size / 1e9, 1) for size in memory])
    peaks = [summary["peak_memory_bytes"] for summary in summaries]
    add("most memory of a run (MB)", [f"{max(peaks) / 1e6:,.0f}"])
    add("commit", [summary.get("git_commit") for summary in summaries])
    return Table("Environment", ["what", "value"], rows, text_columns=frozenset({0, 1}))
