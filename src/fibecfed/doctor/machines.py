"""What a run over many machines needs beside a run: Flower, keys, a site's own text, a server that answers over TLS."""

import dataclasses
import importlib.metadata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from fibecfed.commands import command_line
from fibecfed.config import CAUSAL_LM, Config, DeviceConfig, load_config, settle, task_name
from fibecfed.data import Columns, read_rows
from fibecfed.data.instructions import read_site
from fibecfed.data.locations import find_files, skipped_sentence
from fibecfed.data.told import told_by_columns
from fibecfed.doctor.finding import Finding
from fibecfed.doctor.language_model import check_rows, check_template
from fibecfed.doctor.network import INSIDE, certificate_problem, check_certificate, check_secret, check_tls
from fibecfed.doctor.run import check_model, check_output
from fibecfed.errors import InputError


def check_flower() -> Iterator[Finding]:
    """Whether Flower is there, in the version that the commands are written for."""
    from fibecfed.flower.processes import check_flower as require

    try:
        require()
    except InputError as error:
        yield Finding("flower", "runs over machines cannot be started", str(error))
        return
    yield Finding("flower", f"flwr {importlib.metadata.version('flwr')}")


def check_server(folder: Path, host: str | None, config: Config) -> Iterator[Finding]:
    """Whether a server's folder is complete, and the settings mean something where no text is."""
    from fibecfed.flower.server import check_settings

    try:
        check_settings(config)
    except InputError as error:
        yield Finding("settings", "they cannot be used over machines", str(error))
    make = command_line("flower", "certificates", "HOST", "--devices", "N", "--server", folder)
    if not folder.is_dir():
        yield Finding("server", f"'{folder}' does not exist", f"make it: {make}")
        return
    found = list(check_certificate(folder / "server.crt", folder / "server.key", folder / "ca.crt", host))
    yield from found
    inside = certificate_problem(folder)
    if inside is not None and not any(finding.fix for finding in found):
        yield Finding("certificate", inside.text, f"{inside.fix}; the server's own parts connect to {INSIDE}")
    keys, devices = len(list((folder / "keys").glob("*.pub"))), settle(config).federation.device_count
    fix = None if keys >= devices else "add the missing devices' public keys, or lower federation.devices"
    yield Finding("keys", f"{keys} devices may connect; the run has {devices}", fix)
    secrets = sorted((folder / "devices").glob("*/device.key"))
    if secrets:
        yield Finding(
            "keys",
            f"{len(secrets)} devices' private keys still lie in '{folder / 'devices'}'",
            "hand them over and delete them here",
        )


def check_device(own: DeviceConfig, keys: Path, servers: list[str]) -> Iterator[Finding]:
    """Whether a site can take part: its text, its model if it names one, its folder, its keys, its servers."""
    data = own.data
    answers = False
    for path in (data.file, data.test_file):
        if path is None:
            continue
        try:
            told = told_by_columns(load_config(data={**dataclasses.asdict(data), "file": path, "test_file": None}))
            answers = task_name(told) == CAUSAL_LM
            columns = Columns(data.text, data.text_pair, data.label, None, data.separator)
            # Of labels other sites may have others.
            rows = read_site(told)[0] if answers else read_rows(path, columns, fewest_labels=1)
        except InputError as error:
            yield Finding("data", f"'{path}' cannot be used", str(error))
            if answers:
                yield from check_rows(told)
            continue
        skipped = skipped_sentence(path, find_files(path))
        if skipped is not None:
            yield Finding("data", skipped)
        if answers:
            yield Finding(
                "data", f"'{path}': {len(rows)} prompts with responses, for a server with task.kind=causal-lm"
            )
            yield from check_rows(told)
            continue
        counts = Counter(rows.labels.tolist())
        listed = ", ".join(f"{name} ({counts[i]})" for i, name in enumerate(rows.label_names))
        yield Finding("data", f"'{path}': {len(rows)} examples; {listed}. The server's data.labels must name them all")
    named = {} if own.model.name is None else {"name": own.model.name}
    config = load_config(
        model={**named, "allow_download": own.model.allow_download},
        federation={"devices": 1, "sampled": 1},
        task={"kind": CAUSAL_LM if answers else None},
    )
    if own.model.name is not None:
        yield from check_model(config)
        if answers:
            yield from check_template(config)
    yield from check_output(Path(own.folder), config)
    missing = [name for name in ("ca.crt", "device.key") if not (keys / name).is_file()]
    if missing:
        yield Finding(
            "keys",
            f"'{keys}' holds no {' and no '.join(missing)}",
            "get the folder that the server made for this device",
        )
        return
    yield Finding("keys", f"'{keys}' holds ca.crt and device.key")
    yield from check_secret(keys / "device.key")
    for server in servers:
        yield from check_tls(server, keys / "ca.crt")
