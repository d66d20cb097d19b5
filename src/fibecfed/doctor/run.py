"""What a run needs on this machine: packages, settings, model, data, a place for its results."""

import importlib.metadata
import os
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fibecfed.commands import pip_install
from fibecfed.config import Config, settle
from fibecfed.data import WITHOUT_EMBEDDING, load_splits
from fibecfed.doctor.finding import Finding
from fibecfed.errors import InputError
from fibecfed.methods import resolve, tuning
from fibecfed.models import load_pretrained, words_without_embedding
from fibecfed.tasks import task_kind

_SMALLEST_FREE = 100 * 2**20  # bytes, beside what the run itself writes: tokenizers, pictures, records
_COPIES_OF_STATE = 6  # of what trains: two versions, and two moments of an optimizer in each


def check_versions(package: str = "fibecfed") -> Iterator[Finding]:
    """Whether Python and the installed packages are those that the package asks for."""
    metadata = importlib.metadata.metadata(package)
    wanted, found = SpecifierSet(metadata["Requires-Python"] or ""), platform.python_version()
    fix = None if wanted.contains(found, prereleases=True) else f"install Python {wanted}"
    yield Finding("python", f"{found} (needs {wanted})", fix)
    good = []
    for text in importlib.metadata.requires(package) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        install = pip_install(f"{requirement.name}{requirement.specifier}")
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("packages", f"{requirement.name} is not installed", install)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            yield Finding("packages", f"{requirement.name} {version} is not {requirement.specifier}", install)
    yield Finding("packages", ", ".join(good))


def check_settings(config: Config) -> Iterator[Finding]:
    """Whether the method exists and has a use for what is set."""
    try:
        resolved = resolve(config)
    except InputError as error:
        yield Finding("settings", "the configuration does not fit its method", str(error))
        return
    yield Finding("settings", f"{config.method} ({resolved.tuning}), {config.federation.rounds} rounds")


def check_model(config: Config) -> Iterator[Finding]:
    """Whether the base model is there and can be read and tuned, and its weights' sha256."""
    try:
        kind = tuning(config)
        found = load_pretrained(
            config.model,
            2,
            config.runtime.precision,
            reserved=kind.positions(config),
            generates=task_kind(config).generates,
        )
        parameters = sum(p.numel() for p in found.backbone.parameters())
        kind.attach(found, 2, resolve(config), 0)
    except InputError as error:
        yield Finding("model", f"{config.model.name} cannot be used", str(error))
        return
    yield Finding("model", f"{found.name}: {parameters / 1e6:.1f} million parameters, sha256 {found.sha256}")
    words = words_without_embedding(found.tokenizer, found.vocabulary)
    if words:
        named = ", ".join(f"'{word}'" for word in words[:5]) + (", ..." if len(words) > 5 else "")
        yield Finding(
            "tokenizer",
            f"knows {len(words)} tokens that the model has no embedding for ({named}); a text with one is refused",
            WITHOUT_EMBEDDING,
        )


def check_data(config: Config) -> Iterator[Finding]:
    """Whether the data is there and can be read, and its labels."""
    try:
        splits = load_splits(config)
    except InputError as error:
        yield Finding("data", f"{config.dataset} cannot be used", str(error))
        return
    names = splits.train.label_names
    yield Finding(
        "data",
        f"{splits.origin}: {len(splits.train)} training, {len(splits.validation)} validation, {len(splits.test)} test "
        "examples",
    )
    for note in splits.notes:
        yield Finding("data", note)
    try:
        federation = settle(config, splits.sites).federation
    except InputError as error:
        yield Finding("devices", "the settings do not fit the data", str(error))
    else:
        yield Finding("devices", f"{federation.devices} devices, {federation.sampled} of them a round")
    counts = Counter(splits.train.labels.tolist())
    if task_kind(config).generates and len(names) < 2:
        return
    called = f"{task_kind(config).group}s"
    yield Finding(called, ", ".join(f"{name} ({counts[i]})" for i, name in enumerate(names)))
    missing = [name for i, name in enumerate(names) if not counts[i]]
    if missing:
        yield Finding(
            called,
            f"no training example of {', '.join(missing)}",
            f"add examples of them, or remove the {task_kind(config).group} from the test data",
        )


def check_output(out: Path, config: Config) -> Iterator[Finding]:
    """Whether a run's directory can be written, and whether there is room for it."""
    there = out
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        yield Finding("output", f"'{there}' is a file", "name a folder with --out")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("output", f"'{there}' cannot be written", f"change its permissions (chmod u+wx '{there}')")
        return
    free, needed = shutil.disk_usage(there).free, _bytes_of_a_run(config)
    text = f"'{out}' can be written; {free / 2**30:.1f} GiB free, the run takes at most {needed / 2**30:.1f} GiB"
    yield Finding("output", text, None if free > needed else "make room, or name another disk with --out")


def _bytes_of_a_run(config: Config) -> int:
    """An upper bound: a model, an adapter and a state for each device, were all of them to have one of their own."""
    try:
        config = resolve(config)
        kind = tuning(config)
        pretrained = load_pretrained(
            config.model,
            2,
            config.runtime.precision,
            reserved=kind.positions(config),
            generates=task_kind(config).generates,
        )
        size = kind.layout(kind.attach(pretrained, 2, config, 0), pretrained.config).size
    except InputError:
        return _SMALLEST_FREE  # said by the other checks
    return _SMALLEST_FREE + 4 * size * (1 + _COPIES_OF_STATE) * (1 + settle(config).federation.device_count)
