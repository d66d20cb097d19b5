"""Measuring a run and comparing it with what was committed. Only public API and the files of a run are read."""

import hashlib
import json
import math
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import fibecfed
from fibecfed import Callback
from golden.cases import Case

# Named one by one: a key that is added to the records moves no golden value.
METRICS = (
    "round", "loss_train", "accuracy_global", "accuracy_personalized", "loss_global", "loss_personalized",
    "worst_tenth", "accuracy_never_sampled",
)  # fmt: skip
COSTS = ("bytes_up", "bytes_down", "examples_trained", "examples_scored", "operations", "simulated_seconds")
DECISIONS = ("warm_up_rounds", "layers", "layer_scores", "radius", "ranks")  # of method.json, where it has them
HASHES = ("adapters", "checkpoint")
# On another kind of machine; costs contain the length of losses written out as text.
TOLERANCE = 1e-4
COST_TOLERANCE = 1e-3


class _Evaluations(Callback):
    """Every evaluation as it is made: a later one of the same round takes an earlier one's place in metrics.jsonl."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def stage_done(self, done: object, record: Mapping[str, Any] | None) -> bool:
        if record is not None:
            self.records.append(dict(record))
        return False


def machine() -> dict[str, str]:
    """What decides the last bits: where all of it is equal, values must be, too."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    vendor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "unknown")
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {vendor}",
    }


def measure(case: Case) -> dict[str, Any]:
    """Run a case; what is pinned of it, JSON-able. AssertionError if anything in it is not finite."""
    seen = _Evaluations()
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        out = Path(folder) / "run"
        result = fibecfed.run(case.config(), out, callbacks=[seen])
        keys = METRICS + COSTS if case.whole else METRICS
        values = {
            "evaluations": [{key: record[key] for key in keys} for record in seen.records],
            "decisions": _decisions(out),
            **(_hashes(out) if case.whole else {}),
        }
    _assert_finite(case, result.state.tensors)
    for where, value in _leaves(values):
        assert not isinstance(value, float) or math.isfinite(value), f"{case.id}: {where} is {value}"
    return values


def _assert_finite(case: Case, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        assert tensor.isfinite().all(), f"{case.id}: {name} is not finite"


def _decisions(run: Path) -> dict[str, Any]:
    path = run / "method.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    return {key: found[key] for key in DECISIONS if key in found}


def _hashes(run: Path) -> dict[str, Any]:
    """SHA-256 of a run's tensors: adapters as they are published, and what is kept to go on from."""
    folders = {"global": run / "adapter"} | {path.name: path for path in _numbered(run / "adapters")}
    adapters = {name: _adapter(folder) for name, folder in folders.items()} | _own(run, _adapter(run / "adapter"))
    server = load_file(run / "checkpoint.safetensors")
    states = {path.name: load_file(_numbered(path)[-1]) for path in _numbered(run / "devices")}
    return {
        "adapters": {name: digest(tensors) for name, tensors in adapters.items()},
        "checkpoint": {
            "server_model": digest(_part(server, "model/")),
            "server_rest": digest(_part(server, "model/", other=True)),
            "device_local": {name: digest(_part(state, "local/")) for name, state in states.items()},
            "device_rest": {name: digest(_part(state, "local/", other=True)) for name, state in states.items()},
        },
    }


def _numbered(folder: Path) -> list[Path]:
    """What lies in a folder, ascending by the number it is named after; empty if there is no such folder."""
    return sorted(folder.iterdir(), key=lambda path: int(path.stem)) if folder.is_dir() else []


def _adapter(folder: Path) -> dict[str, Tensor]:
    """All tensors of an adapter's files."""
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        found = load_file(path)
        assert not found.keys() & tensors.keys(), f"two tensors of one name in {folder.name}"
        tensors |= found
    return tensors


def _own(run: Path, server: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The devices' own models where one file says what each has instead of the server's, as adapters have it."""
    path = run / "own_models.safetensors"
    if not path.is_file():
        return {}
    rows = load_file(path)
    devices = rows.pop("devices").tolist()
    names = {name: name.removeprefix("head.") for name in rows}
    assert set(names.values()) <= server.keys()
    return {
        str(device): {**server, **{names[name]: rows[name][row] for name in rows}} for row, device in enumerate(devices)
    }


def _part(tensors: Mapping[str, Tensor], prefix: str, other: bool = False) -> dict[str, Tensor]:
    """The tensors under a prefix, or all others."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix) is not other}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, whatever file they lie in; "none" without any."""
    if not tensors:
        return "none"
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def committed(case: Case) -> tuple[dict[str, str], dict[str, Any]]:
    """The machine that a case's values were made with, and the values."""
    content = json.loads(case.file.read_text())
    return content.pop("made_with"), content


def commit(case: Case, values: Mapping[str, Any]) -> None:
    """Write a case's values."""
    case.file.parent.mkdir(parents=True, exist_ok=True)
    case.file.write_text(json.dumps({"made_with": machine(), **values}, indent=2) + "\n")


def differences(expected: Mapping[str, Any], got: Mapping[str, Any], exact: bool) -> list[str]:
    """One sentence for each value that moved. Not ``exact``: numbers may differ a little, and hashes are left out."""
    old, new = (
        dict(_leaves({key: value for key, value in values.items() if exact or key not in HASHES}))
        for values in (expected, got)
    )
    return [
        f"{where}: expected {old.get(where, 'nothing')}, got {new.get(where, 'nothing')}"
        for where in dict.fromkeys([*old, *new])
        if where not in old or where not in new or not _same(where, old[where], new[where], exact)
    ]


def _same(where: str, old: Any, new: Any, exact: bool) -> bool:
    if exact or not isinstance(old, int | float) or not isinstance(new, int | float):
        return type(old) is type(new) and old == new
    tolerance = COST_TOLERANCE if where.endswith(COSTS) else TOLERANCE
    return math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """("evaluations[0].loss_train", 1.08) for every value in nested mappings and lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _leaves(inner, f"{where}[{position}]")
    else:
        yield where, value
