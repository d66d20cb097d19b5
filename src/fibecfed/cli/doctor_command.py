"""What `doctor` does once its arguments are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from fibecfed.config import CAUSAL_LM, Config, load_device_config, task_name
from fibecfed.doctor import (
    Finding,
    check_certificate,
    check_data,
    check_device,
    check_flower,
    check_learning,
    check_listening,
    check_model,
    check_output,
    check_reachable,
    check_rows,
    check_server,
    check_settings,
    check_template,
    check_versions,
)

TO_FIX = 2  # exit code


@dataclass(frozen=True)
class Wanted:
    """What is checked beside a run itself."""

    out: Path
    server: Path | None
    device: Path | None
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
    if wanted.server is not None or wanted.device is not None:
        yield from check_flower()
    if wanted.device is not None:
        yield from check_device(load_device_config(wanted.device), wanted.device.parent, list(wanted.connect))
        return
    yield from check_settings(config)
    model = list(check_model(config))
    yield from model
    answers = task_name(config) == CAUSAL_LM
    if answers:
        yield from check_template(config)
    if wanted.server is not None:
        yield from check_server(wanted.server, wanted.host, config)
    else:
        data = list(check_data(config))
        yield from data
        if answers:
            yield from check_rows(config)
        if answers and not any(finding.fix for finding in (*model, *data)):
            yield from check_learning(config)
    yield from check_output(wanted.out, config)
    if wanted.certificate is not None:
        yield from check_certificate(wanted.certificate, wanted.key, wanted.authority, wanted.host)
    for address in wanted.listen:
        yield from check_listening(address)
    for address in wanted.connect:
        yield from check_reachable(address)
