"""Whether a stopped run may go on: with which settings, and with the data and model it began with."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fibecfed.commands import command_line
from fibecfed.config import ROUNDS, Change, Config, build_config, merge, refusal, to_dict, to_yaml
from fibecfed.data import data_differences, target_difference, target_names
from fibecfed.errors import InputError
from fibecfed.methods import method_class, settled_by_rounds
from fibecfed.results.directory import CONFIG_FILE, RunDirectory
from fibecfed.results.fingerprint import (
    Fingerprint,
    found_by,
    model_differences,
    version_differences,
)
from fibecfed.runtime import Experiment

Report = Callable[[str], None]
_PARTS = ("train", "validation", "test")
_AGAIN = "Put back what the run began with, or start another run (--out)."


def warn(sentence: str) -> None:
    """Say it where nobody else does."""
    warnings.warn(sentence, stacklevel=2)


def settings_to_go_on_with(directory: RunDirectory, wanted: Mapping[str, Any]) -> tuple[Config, list[Change]]:
    """The settings of config.yaml with what is ``wanted`` (nested values), and what they change; writes nothing.

    Of settings that follow from the number of rounds and were settled in the first of them, what they came to is kept.
    Raises InputError if a run cannot go on with them.
    """
    kept, config = directory.fingerprint(), build_config(merge(to_dict(directory.config()), wanted))
    if kept is None:  # of an earlier version: what it began with is what config.yaml says
        kept = Fingerprint.beginning(directory.config())
    found = kept.changes(config)
    why = refusal(found)
    if why is not None:
        raise InputError(f"'{directory.path}' cannot go on with these settings: {why}")
    before = next((change.was for change in found if change.key == ROUNDS), None)
    loaded = directory.load_checkpoint() if before is not None else None
    if before is not None and loaded is not None:
        sections = method_class(config.method).sections
        config = build_config(merge(to_dict(config), settled_by_rounds(config, before, loaded[0], sections)))
        found = kept.changes(config)
    return config, found


def go_on_with(directory: RunDirectory, config: Config, changed: Sequence[Change], report: Report) -> None:
    """Write the settings that a run goes on with from here, and say what they change; for the ``only_writer``."""
    kept = directory.fingerprint() or Fingerprint.beginning(directory.config(), directory.mark())
    if changed:
        loaded = directory.load_checkpoint()
        after = loaded[0].round if loaded is not None else 0
        report(f"From here on, after round {after}: {'; '.join(map(str, changed))}.")
        lines = (directory.path / CONFIG_FILE).read_text(encoding="utf-8").splitlines()
        header = "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))
        if any(change.key == ROUNDS for change in changed):
            report("What follows the number of rounds (learning rate, curriculum) follows the new one from here on.")
            directory.unfinished()
        directory.write_text(CONFIG_FILE, to_yaml(config, header))  # first: killed here, it is an edited one
        directory.write_fingerprint(kept.gone_on_with(config, changed, after))
    elif directory.fingerprint() is None:
        directory.write_fingerprint(kept)


def check_found(directory: RunDirectory, experiment: Experiment, report: Report) -> None:
    """Compare data, weights and tokenizer with what the run began with. Raises InputError that names what differs."""
    then, now = _then_and_now(directory, experiment)
    differ = _data_differ(directory, then, now, _PARTS, whole=True)
    if differ:
        raise InputError(
            f"The data of '{directory.path}' is not what the run began with: {'; '.join(differ)}. {_AGAIN}"
        )
    if then is None:
        return
    if differ := model_differences(then, now):
        raise InputError(f"'{directory.path}' began with another model: {'; '.join(differ)}. {_AGAIN}")
    if differ := version_differences(then, now):
        report(f"Other versions than the run began with, so the last bits may differ: {'; '.join(differ)}.")


def check_evaluated(directory: RunDirectory, experiment: Experiment, split: str) -> None:
    """Compare what an evaluation reads with what the run began with. Raises InputError that names what differs."""
    then, now = _then_and_now(directory, experiment)
    differ = _data_differ(directory, then, now, (split,), whole=False)
    if differ:
        raise InputError(
            f"The data of '{directory.path}' is not what the run began with: {'; '.join(differ)}. Its {split} part may "
            "hold what was trained on, so it is not judged on that; put the data back. For other text there is: "
            + command_line("predict", directory.path, "--file", "FILE")
        )
    if then is not None and (differ := model_differences(then, now)):
        raise InputError(f"'{directory.path}' was trained on another model: {'; '.join(differ)}.")


def remember(directory: RunDirectory, experiment: Experiment) -> None:
    """Keep what was found when the run began, unless it is kept already."""
    kept = directory.fingerprint()
    assert kept is not None  # written when the directory was made, or when it was gone on with
    if kept.found is None:
        directory.write_fingerprint(kept.with_found(found_by(experiment)))


def _then_and_now(directory: RunDirectory, experiment: Experiment) -> tuple[Mapping[str, Any] | None, dict[str, Any]]:
    kept = directory.fingerprint()
    return (kept.found if kept is not None else None), found_by(experiment)


def _data_differ(
    directory: RunDirectory, then: Mapping[str, Any] | None, now: Mapping[str, Any], parts: Sequence[str], whole: bool
) -> list[str]:
    if then is not None:
        return data_differences(then["data"], now["data"], parts, whole)
    names = directory.output_names()  # all that can be compared of a run that kept no fingerprint
    found = target_difference(names, target_names(now["data"])) if names is not None else None
    return [] if found is None else [found]
