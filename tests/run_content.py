"""Comparing two run directories: everything but seconds, memory and environment."""

import json
from pathlib import Path
from typing import Any

VOLATILE = ("cpu_seconds", "seconds", "peak_memory_bytes", "git_commit", "hardware", "versions")


def settled(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what may differ between two runs of one seed; simulated seconds must not."""
    kept = {k: v for k, v in record.items() if k not in VOLATILE}
    if "stages" in record:
        kept["stages"] = {name: settled(spent) for name, spent in record["stages"].items()}
    if "seconds" in record:
        kept["simulated"] = record["seconds"]["simulated"]
    return kept


def content(directory: Path) -> dict[str, Any]:
    """What must be equal: adapters and device states bit for bit, metrics and summary but for what is volatile."""
    found: dict[str, Any] = {
        "metrics": [settled(json.loads(line)) for line in (directory / "metrics.jsonl").read_text().splitlines()],
        "summary": settled(json.loads((directory / "summary.json").read_text())),
        "partition": json.loads((directory / "partition.json").read_text()),
    }
    if (directory / "method.json").is_file():
        found["method"] = json.loads((directory / "method.json").read_text())
    for path in sorted(directory.rglob("*.safetensors")):
        if path.name != "checkpoint.safetensors":  # holds seconds
            found[str(path.relative_to(directory))] = path.read_bytes()
    return found
