"""What `doctor` does once its arguments are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from fibecfed.config import Config
from fibecfed.doctor import (
    Finding,
    check_certificate,
    check_data,
    check_listening,
    check_model,
    check_output,
    check_reachable,
    check_settings,
    check_versions,
)

TO_FIX = 2  # exit code


@dataclass(frozen=True)
class Wanted:
    """What is checked beside a run itself."""

    out: Path
    certificate: Path | None
    key: Path | None
    authority: Path | None
    host: str | None
    listen: Sequence[str]
    connect: Sequence[str]


def examine(config: Config, wanted: Wanted, console: Console) -> None:
    """A line for each finding; exit code 2 if something must be fixed."""
    to_fix = 0
    for finding in _findings(config, wanted):
        mark = Text("fix ", "bold red") if finding.fix else Text("ok  ", "green")
        console.print(mark + Text(f"{finding.subject}: {finding.text}"), soft_wrap=True)
        if finding.fix:
            to_fix += 1
            console.print(Text(f"    -> {finding.fix}"), soft_wrap=True)
    if to_fix:
        console.print(f"{to_fix} to fix.")
        raise typer.Exit(TO_FIX)
    console.print("Everything is in order.")


def _findings(config: Config, wanted: Wanted) -> Iterator[Finding]:
    yield from check_versions()
    yield from check_settings(config)
    yield from check_model(config)
    yield from check_data(config)
    yield from check_output(wanted.out, config)
    if wanted.certificate is not None:
        yield from check_certificate(wanted.certificate, wanted.key, wanted.authority, wanted.host)
    for address in wanted.listen:
        yield from check_listening(address)
    for address in wanted.connect:
        yield from check_reachable(address)
