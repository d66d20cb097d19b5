"""Flower's short-lived process hands bytes to the device's own, over a socket."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from flwr.app import Context, Message, RecordDict

import flower_grid  # noqa: F401 - tells Flower which task this is
from fibecfed import InputError
from fibecfed.federation import Address, Request, encode
from fibecfed.flower import wire
from fibecfed.flower.processes import APP
from fibecfed.flower.resident import answering
from fibecfed.flower.serving import Refused


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fibecfed_client_app", APP / "fibecfed_client_app.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(kind: str, data: bytes) -> bytes:
    if data == b"refuse":
        raise Refused("it has not joined this run")
    return f"{kind}:".encode() + data[::-1]


def relay(kind: str, data: bytes, socket: Path) -> Message:
    message = Message(wire.content(data), 7, kind, ttl=60.0)
    context = Context(1, 7, {"socket": str(socket)}, RecordDict(), {})
    answer: Message = loaded().app(message, context)
    return answer


@pytest.mark.parametrize("kind", [wire.TRAIN, wire.EVALUATE, wire.JOIN, wire.SAVE])
def test_bytes_come_back_as_the_device_answered(kind: str) -> None:
    with answering(serve) as socket:
        data = bytes(range(256)) * 40_000  # 10 MB
        assert wire.payload(relay(kind, data, socket)) == f"{kind}:".encode() + data[::-1]
        assert wire.payload(relay(kind, b"refuse", socket)) == "it has not joined this run"
        assert wire.payload(relay(kind, b"x", socket)) == f"{kind}:x".encode()  # it goes on after that


def test_without_a_devices_process_the_device_is_served_here_if_it_is_named(tmp_path: Path) -> None:
    message = Message(wire.content(b"x"), 7, wire.TRAIN, ttl=60.0)
    with pytest.raises(InputError, match="belongs to no `fibecfed flower device`"):
        loaded().app(message, Context(1, 7, {}, RecordDict(), {"devices": ""}))
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "device.yaml").write_text("device: 2\ndata: {file: own.csv}\n")
    context = Context(1, 7, {"partition-id": 2}, RecordDict(), {"devices": str(tmp_path)})
    request = Request(Address("unknown", 1, "train", 2), {})
    answer = loaded().app(Message(wire.content(encode(request)), 7, wire.TRAIN, ttl=60.0), context)
    assert wire.payload(answer) == "it has not joined this run"


def test_a_device_whose_process_is_gone_is_an_error() -> None:
    with answering(serve) as socket:
        pass
    with pytest.raises(FileNotFoundError):
        relay(wire.TRAIN, b"x", socket)


def test_the_socket_is_for_this_user_only() -> None:
    with answering(serve) as socket:
        assert socket.parent.stat().st_mode & 0o077 == 0
    assert not socket.parent.exists()


def test_the_bundle_is_small_and_loads_nothing_heavy_on_devices() -> None:
    assert sum(path.stat().st_size for path in APP.iterdir() if path.is_file()) < 10_000
    source = (APP / "fibecfed_client_app.py").read_text()
    assert re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE) == ["multiprocessing", "flwr", "flwr"]
