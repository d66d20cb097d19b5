"""Flower's own commands, started with what makes them safe: TLS, known keys, no telemetry, nothing installed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fibecfed.commands import extra_install
from fibecfed.config import DeviceConfig
from fibecfed.errors import InputError, RunFailed

APP = Path(__file__).parent / "app"
_GUARD = Path(__file__).parent / "guard.py"
CONNECTION = "fibecfed"
_FLOWER = ("1.41.", "1.42.")
_START_SECONDS = 120.0
_SILENCE = "60"  # seconds for which Flower's side of a device tries to reach a server that is gone before it ends


def check_flower() -> None:
    """Raise InputError if Flower is missing or of a version whose commands this is not written for."""
    try:
        found = version("flwr")
    except PackageNotFoundError:
        raise InputError(f"Runs over machines need the extra `flower`: {extra_install('flower')}") from None
    if not found.startswith(_FLOWER):
        wanted = " or ".join(f"{known}x" for known in _FLOWER)
        raise InputError(f"Flower {found} is installed, {wanted} is needed: {extra_install('flower')}")


def environment(home: Path) -> dict[str, str]:
    """The environment of Flower's processes; ``home`` is where Flower keeps its files."""
    return os.environ | {
        "FLWR_HOME": str(home.resolve()),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PATH": f"{_programs()}{os.pathsep}{os.environ.get('PATH', '')}",  # Flower starts its helpers by name
    }


def _programs() -> Path:
    return Path(sys.executable).parent


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def superlink_command(folder: Path, port: int, insecure: bool) -> list[str]:
    """Flower's server on this machine only; its memory is in ``folder``/flower.db."""
    tls = ["--insecure"]
    if not insecure:
        tls = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key"]
        tls = [str(folder.resolve() / word) if word.endswith((".crt", ".key")) else word for word in tls]
        tls.append("--enable-supernode-auth")
    return [
        str(_programs() / "flower-superlink"), *tls, "--host", "127.0.0.1", "--port", str(port),
        "--database", str(folder.resolve() / "flower.db"), "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def supernode_command(config: DeviceConfig, server: str, keys: Path | None, channel: Path) -> list[str]:
    """Flower's side of a device; ``keys`` holds ca.crt and device.key, None: plain text."""
    tls = ["--insecure"]
    if keys is not None:
        tls = ["--root-certificates", str(keys / "ca.crt"), "--auth-supernode-private-key", str(keys / "device.key")]
    return [
        str(_programs() / "flower-supernode"), *tls, "--superlink", server,
        "--max-wait-time", _SILENCE,
        "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", f'socket="{channel}"',
    ]  # fmt: skip


def flwr(*words: str) -> list[str]:
    """A `flwr` command."""
    return [str(_programs() / "flwr"), *words]


def write_connection(folder: Path, port: int, insecure: bool) -> Path:
    """Tell `flwr` where the server is; returns Flower's home."""
    home = folder / "flwr"
    home.mkdir(exist_ok=True)
    trust = "insecure = true" if insecure else f"root-certificates = {json.dumps(str(folder.resolve() / 'ca.crt'))}"
    text = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\n{trust}\n'
    (home / "config.toml").write_text(text, encoding="utf-8")
    return home


def wait_for_port(port: int, process: subprocess.Popen[bytes], what: str) -> None:
    """Wait until something listens. Raises RunFailed if the process ends, or after two minutes."""
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise RunFailed(f"{what} ended with exit code {process.returncode} before it listened; see above.")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RunFailed(f"{what} did not listen on port {port} within {_START_SECONDS:.0f} s.")


def register(folder: Path, home: Path) -> int:
    """Make the public keys in ``folder``/keys known to the server; returns how many there are.

    Raises InputError for a file that is no key or the same key as another, RunFailed if the server takes one not.
    """
    from fibecfed.flower.certificates import check_keys  # needs the extra, which may be missing here

    keys = sorted((folder / "keys").glob("*.pub"))
    check_keys(keys)
    script = Path(__file__).with_name("registering.py")
    command = [sys.executable, "-P", str(script), CONNECTION, *(str(key.resolve()) for key in keys)]
    seconds = _START_SECONDS + len(keys)
    try:
        done = subprocess.run(
            command, env=environment(home), capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(f"Flower did not register the keys in '{folder}/keys' within {seconds:.0f} s.") from None
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())[-400:]
        raise RunFailed(f"The keys in '{folder}/keys' could not be registered: {said}")
    return len(keys)


@contextmanager
def running(command: Sequence[str], home: Path, keep: Sequence[int] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Flower's that ends when the block does, ten seconds after it is asked to at the latest.

    It also ends when this process is killed. ``keep``: file descriptors that it inherits.
    """
    alive, held = os.pipe()
    words = [sys.executable, "-P", str(_GUARD), str(alive), *command]
    try:
        process = subprocess.Popen(words, env=environment(home), pass_fds=(alive, *keep))
    finally:
        os.close(alive)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(held)


def stop_when_terminated() -> None:
    """Take a request to terminate (as service managers send it) like Ctrl-C, so that Flower's processes end, too."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
