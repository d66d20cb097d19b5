"""Keys are made known to Flower's server in one call, and only those that it does not have."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import httpx
import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fibecfed import InputError, RunFailed
from fibecfed.flower import processes, registering
from fibecfed.flower.certificates import add_devices, write_certificates


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_certificates(tmp_path / "server", ["fl.example.org"], 3)
    return tmp_path / "server"


class Known:
    """A server that keeps keys by name."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.refuses = False

    def ListNodes(self, request: Any) -> Any:
        return SimpleNamespace(nodes_info=[SimpleNamespace(public_key=key) for key in self.keys.values()])

    def RegisterNode(self, request: Any) -> None:
        if self.refuses or request.public_key in self.keys.values():
            raise httpx.ConnectError("Public key already in use")
        self.keys[request.name] = request.public_key

    def close(self) -> None:
        pass


def test_a_restart_registers_new_keys_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Known()
    monkeypatch.setattr(registering, "read_superlink_connection", lambda name: name)
    monkeypatch.setattr(registering, "init_http_client_from_connection", lambda connection: server)
    registering.register("fibecfed", sorted((folder / "keys").glob("*.pub")))
    assert set(server.keys) == {"0", "1", "2"}
    add_devices(folder, 1)
    registering.register("fibecfed", sorted((folder / "keys").glob("*.pub")))  # would raise for a key sent again
    assert set(server.keys) == {"0", "1", "2", "3"}
    server.keys.clear()
    server.refuses = True
    with pytest.raises(click.ClickException):
        registering.register("fibecfed", sorted((folder / "keys").glob("*.pub")))


def test_all_keys_take_one_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **settings: Any) -> Any:
        calls.append(command)
        return SimpleNamespace(returncode=len(calls) - 1, stdout="", stderr="no answer\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert processes.register(folder, folder / "flwr") == 3
    (command,) = calls
    assert [Path(word).name for word in command[-3:]] == ["0.pub", "1.pub", "2.pub"]
    with pytest.raises(RunFailed, match=r"could not be registered: no answer"):
        processes.register(folder, folder / "flwr")


def test_a_file_that_is_no_key_of_its_own_is_named(folder: Path) -> None:
    (folder / "keys" / "1.pub").write_bytes((folder / "keys" / "0.pub").read_bytes().rstrip() + b" me@there\n")
    with pytest.raises(InputError, match=r"1\.pub' is the same key as '.*0\.pub'"):
        processes.register(folder, folder / "flwr")
    for content in (b"", b"ssh-rsa AAAA", b"\xff\xfe"):
        (folder / "keys" / "1.pub").write_bytes(content)
        with pytest.raises(InputError, match=r"1\.pub' is no public key"):
            processes.register(folder, folder / "flwr")
