"""`fibecfed flower`: certificates, server, device, run."""

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fibecfed.cli.explaining import explained, read_arguments
from fibecfed.cli.plain_output import plain_output
from fibecfed.commands import command_line
from fibecfed.errors import FibecFedError, InputError, RunFailed
from fibecfed.screen import plain_console

app = typer.Typer(help="A run over many machines, through Flower (extra `flower`).", no_args_is_help=True)
console = plain_console()

Server = Annotated[Path, typer.Option(metavar="DIR", help="The server's folder, made by `certificates`.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Plain text and no keys; for tests on one machine.")]


@app.command()
def certificates(
    hosts: Annotated[
        list[str] | None, typer.Argument(help="Names and addresses under which devices reach the server.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="How many devices; each gets a folder to be handed over.")
    ] = None,
    add: Annotated[int | None, typer.Option(min=1, help="So many more devices, in a folder that exists.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="A new server certificate, in a folder that exists.")] = False,
    server: Server = Path("server"),
) -> None:
    """Make the server's certificates and a key for each device; later add devices, or renew the certificate."""
    with explained():
        from fibecfed.flower.processes import check_flower

        check_flower()
        if (devices is not None) + (add is not None) + renew != 1:
            raise InputError("Give one of --devices N (a new folder), --add N (more devices) and --renew.")
        if add is not None and hosts:
            raise InputError("--add changes no certificate; leave the host names out, or give them to --renew.")
        if devices is not None and not hosts:
            raise InputError("Say under which names and addresses devices reach the server: HOST ... --devices N.")
        _certify(server, hosts or [], devices, add)


def _certify(folder: Path, hosts: list[str], devices: int | None, more: int | None) -> None:
    from fibecfed.flower import certificates as made

    if devices is not None:
        made.write_certificates(folder, hosts, devices)
        _say(f"Valid for {made.VALID_DAYS} days, in '{folder}'. Keep ca.key offline and server.key on the server.")
        _say(f"Hand {folder}/devices/N to device N, over a channel you trust, and delete it here.")
    elif more is not None:
        added = made.add_devices(folder, more)
        which = f"{folder}/devices/{added[0]}" + (f" to {added[-1]}" if len(added) > 1 else "")
        _say(
            f"Hand {which} over as the others, and delete it here. The server knows new keys once it is started again."
        )
    else:
        renewed = made.renew_certificate(folder, hosts)
        _say(f"'{folder}/server.crt' is valid until {renewed.until:%Y-%m-%d} for {', '.join(renewed.names)}.")
        if renewed.authority_ended is not None:
            _say(
                f"The authority's certificate is new, too: give {folder}/ca.crt to every device before "
                f"{renewed.authority_ended:%Y-%m-%d}, when the one it has ends. Keys stay as they are."
            )
        _say("The server uses it once it is started again.")


@app.command()
def server(
    server: Server = Path("server"),
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 - devices are elsewhere
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that devices connect to.")] = 9092,
    insecure: Insecure = False,
) -> None:
    """Start Flower's server and let the devices connect, until it is stopped."""
    with explained(), plain_output():
        from fibecfed.flower import processes

        processes.check_flower()
        from fibecfed.doctor import certificate_problem
        from fibecfed.flower.gate import listening, open_gate
        from fibecfed.flower.locks import only_one

        if not insecure and not (server / "server.crt").is_file():
            raise InputError(f"'{server}' holds no server.crt; make it with: {_how_to_make_keys()}")
        problem = None if insecure else certificate_problem(server)
        if problem is not None:
            raise InputError(f"{problem.text}; {problem.fix}.")
        processes.stop_when_terminated()
        with only_one(server, "a server") as lock, listening(host, port) as socket:
            inner = processes.free_port()
            home = processes.write_connection(server, inner, insecure)
            with processes.running(processes.superlink_command(server, inner, insecure), home, [lock]) as superlink:
                processes.wait_for_port(inner, superlink, "Flower's SuperLink")
                if not insecure:
                    _say(f"{processes.register(server, home)} devices may connect (the keys in '{server}/keys').")
                inside = f"http{'' if insecure else 's'}://127.0.0.1:{inner}"
                gate = open_gate(inside, None if insecure else server)

                def close_when_it_ends() -> None:
                    superlink.wait()
                    gate.should_exit = True

                threading.Thread(target=close_when_it_ends, daemon=True).start()
                _say(f"Listening on {host}:{port}.")
                gate.run([socket])
                if superlink.poll() is not None:
                    raise RunFailed(f"Flower's SuperLink ended with exit code {superlink.returncode}; see above.")


@app.command()
def device(
    config: Annotated[Path, typer.Argument(metavar="DEVICE.yaml", help="Which device this is, and its text.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE ...]", show_default=False)] = None,
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the server is.")] = "127.0.0.1:9092",
    keys: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with ca.crt and device.key. Default: where DEVICE.yaml is."),
    ] = None,
    insecure: Insecure = False,
    wait: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="How long to wait for a server that does not answer, before giving up.",
            show_default="60 for one that never did, 600 for one that did",
        ),
    ] = None,
) -> None:
    """Take part as one device, with text that stays here, until it is stopped."""
    with explained(), plain_output():
        from fibecfed.flower import processes

        processes.check_flower()
        from fibecfed.config import load_device_config
        from fibecfed.flower.resident import answering
        from fibecfed.flower.serving import DeviceServer
        from fibecfed.flower.staying import stay_connected

        processes.stop_when_terminated()
        own = load_device_config(config, overrides or [])
        folder = None if insecure else (keys or config.parent)
        for name in ("ca.crt", "device.key") if folder else ():
            if not (folder / name).is_file():  # type: ignore[operator]
                raise InputError(f"'{folder}' holds no {name}; it comes from: {_how_to_make_keys()}")
        if not Path(own.data.file).exists():
            raise InputError(f"Data file '{own.data.file}' does not exist (data.file in '{config}').")
        with answering(DeviceServer(own, _say)) as channel:
            stay_connected(own, server, folder, channel, wait, _say)


@app.command()
def run(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG.yaml] [KEY=VALUE ...]", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the results, on this machine.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Go on with a run that was stopped; KEY=VALUE changes what may change."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier run in --out.")] = False,
    server: Server = Path("server"),
) -> None:
    """Train over the devices that are connected; on the server's machine."""
    with explained(), plain_output():
        from fibecfed.flower import processes

        processes.check_flower()
        from fibecfed.config.loading import parse_overrides
        from fibecfed.flower.server import check_settings
        from fibecfed.results import RunDirectory, only_writer
        from fibecfed.runs.going_on import settings_to_go_on_with

        if not (server / "flwr" / "config.toml").is_file():
            start = command_line("flower", "server", "--server", server)
            raise InputError(f"No server was started in '{server}'; start it with: {start}")
        if resume is not None:
            if out is not None or force or any("=" not in word for word in arguments or []):
                raise InputError("--resume takes its settings from its directory; give only --server and KEY=VALUE.")
            directory, changes = RunDirectory.open(resume), parse_overrides(arguments or [])
            check_settings(settings_to_go_on_with(directory, changes)[0])
        elif out is None:
            raise InputError("Say where the results go: --out DIR.")
        else:
            settings = read_arguments(arguments or [])
            check_settings(settings)
            RunDirectory.check(out, force)
            header = f"Written by fibecfed. Go on with: {command_line('flower', 'run', '--resume', out)}"
            with only_writer(out):
                directory = RunDirectory.create(out, settings, header, force)
            changes = {}
        _carry_out(directory, changes, server)


def _carry_out(directory: Any, changes: Mapping[str, Any], server: Path) -> None:
    """Hand the run to Flower, show its log, and say how it ended. Raises what ended it."""
    from fibecfed.cli.running import show_results
    from fibecfed.flower import processes
    from fibecfed.flower.over_machines import CHANGES, STOPPED
    from fibecfed.results import only_writer

    where = directory.path.resolve()
    with only_writer(where):
        for old in (STOPPED, "summary.json"):
            (where / old).unlink(missing_ok=True)
        directory.write_json(CHANGES, changes)
    setting = f"out={json.dumps(str(where))}"
    command = processes.flwr("run", str(processes.APP), processes.CONNECTION, "--stream", "--run-config", setting)
    with processes.running(command, server / "flwr") as shown:
        code = shown.wait()
    if (where / STOPPED).is_file():
        stopped = json.loads((where / STOPPED).read_text(encoding="utf-8"))
        raise _of_code(int(stopped["exit_code"]))(f"{stopped['reason']} {_how_to_go_on(directory.path)}")
    summary = directory.summary()
    if summary is None:
        raise RunFailed(f"The server's process ended (flwr: exit code {code}). {_how_to_go_on(directory.path)}")
    show_results(summary, directory.path, console)
    _say(_traffic_line(summary["traffic"]))


def _traffic_line(traffic: Mapping[str, Mapping[str, int]]) -> str:
    """What crossed the network; the bytes in the table are those of the method, as in a run in one process."""
    crossed = ", ".join(
        f"{name} {(counts['down'] + counts['up']) / 1e6:.1f}" for name, counts in traffic.items() if name != "all"
    )
    total = traffic["all"]
    return (
        f"Messages over the network: {total['messages']}, {(total['down'] + total['up']) / 1e6:.1f} MB ({crossed}). "
        "Flower's own asking for work comes on top."
    )


def _how_to_go_on(path: Path) -> str:
    return f"What was done is kept; go on with: {command_line('flower', 'run', '--resume', path)}"


def _how_to_make_keys() -> str:
    return command_line("flower", "certificates", "HOST", "--devices", "N")


def _of_code(code: int) -> type[FibecFedError]:
    return InputError if code == InputError.exit_code else RunFailed


def _say(line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
