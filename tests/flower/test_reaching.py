"""A server that cannot be reached: the address and the reason, then an end."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fibecfed import InputError, RunFailed
from fibecfed.config import DeviceConfig
from fibecfed.flower import staying
from fibecfed.flower.certificates import write_certificates
from fibecfed.flower.processes import free_port
from fibecfed.flower.reaching import find_trouble, wait_for_server

Talk = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reaching") / "server"
    write_certificates(folder, ["fl.example.org"], 1)
    return folder


@contextmanager
def serving(talk: Talk) -> Iterator[str]:
    """The address of a server that does this with each connection, and then closes it."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    talk(connection)
                except OSError:
                    continue

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def closing(connection: socket.socket) -> None:
    """As a tunnel without another end does."""


def saying(status: str) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())

    return talk


def over_tls(certificates: Path, talk: Talk) -> Talk:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")

    def wrapped(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secret:
            talk(secret)

    return wrapped


def test_a_server_that_answers_is_no_trouble(certificates: Path) -> None:
    with serving(over_tls(certificates, saying("404 Not Found"))) as address:
        assert find_trouble(address, certificates / "ca.crt") is None
    with serving(saying("404 Not Found")) as address:
        assert find_trouble(address, None) is None


def test_what_waiting_can_help(certificates: Path) -> None:
    found = [find_trouble(f"127.0.0.1:{free_port()}", authority) for authority in (None, certificates / "ca.crt")]
    assert [f.reason for f in found if f] == ["does not answer: Connection refused"] * 2
    for authority in (None, certificates / "ca.crt"):
        with serving(closing) as address:
            closed = find_trouble(address, authority)
            assert closed is not None and closed.reason == "accepts connections and closes them without an answer"
            assert not closed.lasting
    with serving(saying("503 Service Unavailable")) as address:
        behind = find_trouble(address, None)
        assert behind is not None and "has no server behind it (503)" in behind.reason and not behind.lasting


def test_what_waiting_cannot_help(certificates: Path, tmp_path: Path) -> None:
    with serving(over_tls(certificates, saying("404 Not Found"))) as address:
        plain = find_trouble(address, None)
        write_certificates(tmp_path / "other", ["localhost"], 1)
        stranger = find_trouble(address, tmp_path / "other" / "ca.crt")
    with serving(saying("404 Not Found")) as address:
        secret = find_trouble(address, certificates / "ca.crt")
    assert plain is not None and plain.reason == "speaks TLS, not plain text" and "--insecure" in plain.advice
    assert secret is not None and secret.reason == "speaks plain text, not TLS"
    assert stranger is not None and stranger.reason.startswith("is not trusted: ")
    assert plain.lasting and secret.lasting and stranger.lasting


def test_waiting_says_for_what_and_ends(certificates: Path) -> None:
    said: list[str] = []
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(
        RunFailed, match=rf"{address} could not be reached within 0 s: it does not answer: Connection ref"
    ):
        wait_for_server(address, None, 0.2, said.append, pause=0.05)
    assert len(said) == 1 and address in said[0] and "Connection refused" in said[0]
    with pytest.raises(InputError, match="'nowhere' is no address: give it as HOST:PORT"):
        wait_for_server("nowhere", None, 0.2, said.append)


def test_a_device_whose_server_went_away_behind_a_tunnel_says_so_and_ends(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's own process ends when it gets no answer; in its place one that takes the server away."""
    gone, said = tmp_path / "gone", list[str]()
    program = tmp_path / "supernode"
    program.write_text(f"open({str(gone)!r}, 'w').close()")
    monkeypatch.setattr(staying, "supernode_command", lambda *_: [str(program)])

    def tunnel(connection: socket.socket) -> None:
        if not gone.exists():
            over_tls(certificates, saying("404 Not Found"))(connection)

    own = DeviceConfig(device=0, folder=str(tmp_path / "device"), data={"file": "own.csv"})
    with serving(tunnel) as address, pytest.raises(RunFailed, match=f"{address} could not be reached .* closes them"):
        staying.stay_connected(own, address, certificates, tmp_path / "socket", 0.3, said.append)
    assert any("closes them without an answer" in line for line in said)
