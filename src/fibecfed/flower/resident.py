"""The device's own process: it keeps model and text, and answers what Flower's short-lived processes hand it.

Flower starts a process for every message in deployment. Loading a backbone in each would cost seconds to minutes a
message; here it is loaded once. Bytes cross a Unix socket in a folder that only this user can enter; nothing is
unpickled.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from fibecfed.config import load_device_config
from fibecfed.errors import InputError
from fibecfed.flower.serving import DeviceServer, Refused

Serve = Callable[[str, bytes], bytes]


@contextmanager
def answering(serve: Serve) -> Iterator[Path]:
    """A socket on which ``serve`` answers in the background, one request after another, while the block runs."""
    folder = Path(tempfile.mkdtemp(prefix="fibecfed-"))  # a short name: those of sockets are limited
    try:
        with Listener(str(folder / "s"), family="AF_UNIX") as listener:
            threading.Thread(target=_answer_all, args=(listener, serve), daemon=True).start()
            yield folder / "s"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve_here(devices: str, node: Mapping[str, Any], kind: str, data: bytes) -> tuple[bool, bytes]:
    """One answer in this process, for Flower's simulation: whether it is a reply, and the reply or why there is none.

    ``devices`` holds NUMBER/device.yaml for each device, ``node`` says which it is. Raises InputError without them.
    """
    if not devices or "partition-id" not in node:
        raise InputError(
            "This process belongs to no `fibecfed flower device`. A simulation needs --run-config with "
            'devices="FOLDER", which holds 0/device.yaml, 1/device.yaml, ...'
        )
    try:
        return True, _simulated(Path(devices) / str(node["partition-id"]) / "device.yaml")(kind, data)
    except Refused as refused:
        return False, str(refused).encode()


@lru_cache(maxsize=1)  # one backbone a process; what a device keeps is on disk
def _simulated(path: Path) -> DeviceServer:
    return DeviceServer(load_device_config(path))


def _answer_all(listener: Listener, serve: Serve) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:  # it was closed
            return
        with connection:
            _answer(connection, serve)


def _answer(connection: Connection, serve: Serve) -> None:
    try:
        kind, data = connection.recv_bytes().decode(), connection.recv_bytes()
        try:
            kept, answer = b"reply", serve(kind, data)
        except Refused as refused:
            kept, answer = b"failure", str(refused).encode()
        connection.send_bytes(kept)
        connection.send_bytes(answer)
    except (EOFError, OSError) as error:  # Flower's process was stopped; the server hears of it from Flower
        print(f"A request was given up before it was answered: {type(error).__name__}.", flush=True)
