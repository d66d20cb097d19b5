"""fingerprint.json: what a run began with, so that it never goes on, or is evaluated, with something else unnoticed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fibecfed.config import Change, Config, as_meant, changes, dotted
from fibecfed.errors import InputError
from fibecfed.methods import package_versions
from fibecfed.results.environment import versions
from fibecfed.runtime import Experiment, tokenizer_sha256

FINGERPRINT_FILE = "fingerprint.json"


@dataclass(frozen=True)
class Fingerprint:
    """``settings`` by dotted key; ``states`` marks the devices' states as this run's.

    ``found`` is what ``found_by`` says of an experiment, None until there was one. ``history`` names each setting that
    was changed on the way: key, was, now, after_round.
    """

    settings: Mapping[str, Any]
    states: str = ""
    found: Mapping[str, Any] | None = None
    history: Sequence[Mapping[str, Any]] = field(default=())

    @staticmethod
    def beginning(config: Config, states: str = "") -> "Fingerprint":
        """Of a run that begins."""
        return Fingerprint(dotted(config), states)

    @staticmethod
    def read(path: Path) -> "Fingerprint | None":
        """What a run's directory keeps; None where an earlier version wrote none. Raises InputError."""
        file = path / FINGERPRINT_FILE
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            settings = as_meant(content["settings"])
            return Fingerprint(settings, content["states"], content["found"], content["history"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"'{file}' cannot be read ({error!r}); it is written by fibecfed only.") from None

    def to_content(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "history": [dict(entry) for entry in self.history]}

    def with_found(self, found: Mapping[str, Any]) -> "Fingerprint":
        """The same with what an experiment found."""
        return replace(self, found=found)

    def gone_on_with(self, config: Config, changed: Sequence[Change], after_round: int) -> "Fingerprint":
        """The same run with other settings from here on."""
        more = [{**asdict(change), "after_round": after_round} for change in changed]
        return replace(self, settings=dotted(config), history=[*self.history, *more])

    def changes(self, config: Config) -> list[Change]:
        """What differs from these settings."""
        return changes(self.settings, config)


def found_by(experiment: Experiment) -> dict[str, Any]:
    """What decides results beside the settings: data, base weights, tokenizer, versions. Digests hold no text."""
    return {
        "data": experiment.data.fingerprint.to_content(),
        "base_sha256": experiment.pretrained.sha256,
        "tokenizer_sha256": tokenizer_sha256(experiment.pretrained.tokenizer),
        "versions": {**versions(), **package_versions(experiment.config.method)},
    }


def model_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How base weights and tokenizer differ."""
    names = {"base_sha256": "the base model's weights", "tokenizer_sha256": "the tokenizer"}
    return [
        f"{name} differ{'s' if key == 'tokenizer_sha256' else ''} (sha256 {then[key][:16]} then, {now[key][:16]} now)"
        for key, name in names.items()
        if then[key] != now[key]
    ]


def version_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Packages of another version than the run began with: ``torch 2.12.0 then, 2.13.0 now``."""
    before, after = then["versions"], now["versions"]
    return [
        f"{name} {before.get(name)} then, {after.get(name)} now"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]
