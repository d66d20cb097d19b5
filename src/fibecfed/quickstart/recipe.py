"""What the quick start runs: which methods, with which settings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fibecfed.config import Config, build_config, config_hash, load_config, merge, to_dict
from fibecfed.config.loading import parse_overrides
from fibecfed.errors import InputError
from fibecfed.methods import method_class
from fibecfed.quickstart.processes import Task
from fibecfed.results import RunDirectory

METHODS = ("fedavg-lora", "local-only", "centralized-lora")

# Chosen on validation data for about 40 CPU seconds a method. One evaluation, because local-only judges every
# device's model on the whole test set, which takes as long as a third of its training.
RECIPE: Mapping[str, Any] = {
    "data": {"name": "support", "partition": {"kind": "column"}},
    "federation": {"devices": 6, "sampled": 6, "rounds": 7},
    "training": {"learning_rate": 6e-3, "batch_size": 4, "local_steps": 8},
    "evaluation": {"every": 7},
}


@dataclass(frozen=True)
class Plan:
    """What is to be run, and what an earlier quick start has left undone."""

    config: Config  # shared by all methods; its ``method`` is the first
    out: Path
    tasks: tuple[Task, ...]  # one for each method, in the order of the table


def plan(out: Path, overrides: Iterable[str] = (), force: bool = False, methods: Iterable[str] = METHODS) -> Plan:
    """The recipe with overrides, as one task for each method; earlier runs of the same settings are kept.

    Raises InputError for wrong overrides, and when ``out`` holds runs with other settings and not ``force``.
    """
    changes = parse_overrides(overrides)
    if "method" in changes:
        raise InputError(
            "The quick start compares its own methods; for one method use: fibecfed run "
            f"method={changes['method']} --out DIR."
        )
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file; --out must name a directory.")
    content = merge(RECIPE, changes)
    configs = {name: _config(content, name) for name in methods}
    tasks = [Task(name, config, out / name, *_state(out / name, config, force)) for name, config in configs.items()]
    return Plan(next(iter(configs.values())), out, tuple(tasks))


def _config(content: Mapping[str, Any], method: str) -> Config:
    config = build_config(merge(content, {"method": method}))
    if method_class(method).pooled_data and config.training.local_steps is not None:
        # Its one device does the work of all that a round samples, so that every method trains as many examples.
        steps = config.training.local_steps * config.federation.sampled
        config = build_config(merge(to_dict(config), {"training": {"local_steps": steps}}))
    return config


def _state(directory: Path, config: Config, force: bool) -> tuple[bool, bool]:
    """Whether the run has ended, and whether it has begun."""
    if force or not (directory / "config.yaml").is_file():
        return False, False
    try:
        same = config_hash(load_config(directory / "config.yaml")) == config_hash(config)
    except InputError:  # written by a version with other keys
        same = False
    if not same:
        raise InputError(f"'{directory}' holds a run with other settings; use --force to replace it, or another --out.")
    return RunDirectory.open(directory).summary() is not None, True
