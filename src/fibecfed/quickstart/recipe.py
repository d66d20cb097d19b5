"""What the quick start runs: which methods, with which settings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fibecfed.commands import command_line
from fibecfed.config import Config, build_config, config_hash, expanded, load_config, merge
from fibecfed.config.loading import parse_overrides
from fibecfed.data import Splits, source_differences
from fibecfed.errors import InputError
from fibecfed.results import RunDirectory
from fibecfed.side_by_side import WantedRun

METHODS = ("fibecfed-plus", "fedavg-plus", "fedavg-lora", "local-only", "centralized-lora")

# Chosen on validation data, for about 40 CPU seconds a method. Each company has labelled 40 messages: few enough to
# pass over them several times in two minutes. One evaluation, because local-only evaluates every device's model on the
# whole test set, which takes half as long as its training.
RECIPE: Mapping[str, Any] = {
    "data": {"name": "support", "train_examples": 240, "partition": {"kind": "column"}},
    "federation": {"devices": 6, "sampled": 6, "rounds": 4},
    "lora": {"alpha": 4},
    "training": {"learning_rate": 6e-3, "batch_size": 4},
    "evaluation": {"every": 4},
}


@dataclass(frozen=True)
class Plan:
    """What is to be run, and what an earlier quick start has left undone."""

    config: Config  # shared by all methods; its ``method`` is the first
    out: Path
    runs: tuple[WantedRun, ...]  # one for each method, in the order of the table


def plan(out: Path, overrides: Iterable[str] = (), force: bool = False, methods: Iterable[str] = METHODS) -> Plan:
    """The recipe with overrides, as one run for each method; earlier runs of the same settings are kept.

    Raises InputError for wrong overrides, and when ``out`` holds runs with other settings and not ``force``.
    """
    changes, out = parse_overrides(overrides), expanded(out)
    if "method" in changes:
        instead = command_line("run", f"method={changes['method']}", "--out", "DIR")
        raise InputError(f"The quick start compares its own methods; for one method use: {instead}")
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file; --out must name a directory.")
    content = merge(RECIPE, changes)
    configs = {name: build_config(merge(content, {"method": name})) for name in methods}
    runs = [WantedRun(name, config, out / name, *_state(out / name, config, force)) for name, config in configs.items()]
    for wanted in runs:
        if not wanted.begun:
            RunDirectory.check(wanted.directory, force)
    return Plan(next(iter(configs.values())), out, tuple(runs))


def check_same_data(planned: Plan, splits: Splits) -> None:
    """Raise InputError if a run that is kept was made of other data than there is now."""
    for wanted in planned.runs:
        summary = RunDirectory(wanted.directory).summary() if wanted.done else None
        then = (summary or {}).get("data_print")
        if then is not None and (differ := source_differences(then["source"], splits.source)):
            raise InputError(
                f"'{wanted.directory}' was made of other data than there is now: {'; '.join(differ)}. Put the data "
                "back, use --force to run everything again, or another --out."
            )


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
