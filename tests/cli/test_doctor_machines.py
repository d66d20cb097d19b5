"""The doctor on a server's machine and on a device's."""

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fibecfed.cli.app import app
from fibecfed.flower.certificates import write_certificates
from fibecfed.flower.gate import listening, open_gate
from fibecfed.flower.processes import free_port


def doctor(*arguments: str) -> tuple[int, str]:
    """Exit code and all that was printed, with line breaks made spaces."""
    result = CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def server(tmp_path: Path) -> Path:
    folder = tmp_path / "server"
    write_certificates(folder, ["fl.example.org"], 2)
    return folder


@pytest.fixture
def device(server: Path, rows_file: Path, bert: Path, tmp_path: Path) -> Path:
    """A device's folder as it is when it was handed over and filled in."""
    folder = tmp_path / "site"
    (server / "devices" / "1").rename(folder)
    text = f"device: 1\ndata: {{file: {rows_file}}}\nmodel: {{name: {bert}}}\n"
    (folder / "device.yaml").write_text(text)
    return folder


@pytest.fixture
def gate(server: Path) -> Iterator[int]:
    """The port of the server's gate, without Flower behind it."""
    port = free_port()
    with listening("127.0.0.1", port) as socket:
        opened = open_gate("https://127.0.0.1:1", server)
        thread = threading.Thread(target=opened.run, args=([socket],))
        thread.start()
        while not opened.started:
            time.sleep(0.05)
        yield port
        opened.should_exit = True
        thread.join(30)


def test_a_server_in_order(server: Path, device: Path, bert: Path) -> None:
    run = ["data.labels=[billing,delivery,praise]", "federation.devices=2", "federation.sampled=2"]
    (server / "devices" / "0" / "device.key").unlink()
    code, output = doctor(f"model.name={bert}", *run, "--server", str(server), "--host", "fl.example.org")
    assert code == 0, output
    assert "ok flower: flwr 1.4" in output
    assert "is accepted as fl.example.org" in output
    assert "2 devices may connect; the run has 2" in output


def test_what_a_server_must_fix(server: Path, bert: Path) -> None:
    run = [f"model.name={bert}", "federation.devices=3", "federation.sampled=2"]
    code, output = doctor(*run, "--server", str(server), "--host", "other.org")
    assert code == 2
    for said in (
        "name them, as data.labels=", "would be refused", "2 devices may connect; the run has 3",
        "2 devices' private keys still lie in",
    ):  # fmt: skip
        assert said in output


def openssl(*words: str, cwd: Path) -> None:
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("names", "days", "reason"),
    [
        ("DNS:fl.example.org", "90", "not valid for '127.0.0.1'"),
        ("DNS:fl.example.org,IP:127.0.0.1", "0", "has expired"),
    ],
)
def test_a_certificate_that_the_server_cannot_use_is_found_and_said(
    tmp_path: Path, bert: Path, names: str, days: str, reason: str
) -> None:
    folder = tmp_path / "own"
    (folder / "keys").mkdir(parents=True)
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    openssl(*new, "-x509", "-days", "9", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt", cwd=folder)
    openssl(*new, "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr", cwd=folder)
    (folder / "names").write_text(f"subjectAltName={names}")
    signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-out", "server.crt")
    openssl("x509", "-req", "-in", "server.csr", "-days", days, *signed, cwd=folder)
    _, output = doctor(f"model.name={bert}", "data.labels=[a,b]", "--server", str(folder), "--host", "fl.example.org")
    assert reason in output
    started = CliRunner().invoke(app, ["flower", "server", "--server", str(folder), "--port", str(free_port())])
    assert started.exit_code == 2
    assert reason in started.output
    assert not (folder / "flwr").exists()


def test_a_device_in_order(device: Path, gate: int) -> None:
    code, output = doctor("--device", str(device / "device.yaml"), "--connect", f"localhost:{gate}")
    assert code == 0, output
    assert "120 examples; billing (40), delivery (40), praise (40)" in output
    assert f"localhost:{gate} answers over TLS" in output


def test_what_a_device_must_fix(device: Path, gate: int, tmp_path: Path) -> None:
    write_certificates(tmp_path / "another", ["localhost"], 1)
    (device / "ca.crt").write_bytes((tmp_path / "another" / "ca.crt").read_bytes())
    (device / "device.key").chmod(0o644)
    (device / "device.yaml").write_text("device: 1\ndata: {file: nowhere.csv}\n")
    code, output = doctor("--device", str(device / "device.yaml"), "--connect", f"localhost:{gate}")
    assert code == 2
    for said in ("nowhere.csv' does not exist", "chmod 600", f"localhost:{gate} is not trusted", "3 to fix."):
        assert said in output
    (device / "device.key").unlink()
    code, output = doctor("--device", str(device / "device.yaml"))
    assert code == 2
    assert "holds no device.key" in output


def test_a_site_with_one_label_can_take_part(device: Path, tmp_path: Path) -> None:
    (device / "one.csv").write_text("text,label\na bill,billing\nanother bill,billing\n")
    text = (device / "device.yaml").read_text().splitlines()
    (device / "device.yaml").write_text("\n".join([text[0], "data: {file: one.csv}", text[2]]))
    code, output = doctor("--device", str(device / "device.yaml"))
    assert code == 0, output
    assert "2 examples; billing (2)" in output


def test_a_wrong_key_in_the_file_of_a_device_is_a_sentence(device: Path) -> None:
    (device / "device.yaml").write_text("device: 1\ndata: {fil: nowhere.csv}\n")
    code, output = doctor("--device", str(device / "device.yaml"))
    assert code == 2
    assert "data.fil" in output
    code, output = doctor("--device", str(device / "device.yaml"), "model.name=x")
    assert code == 2
    assert "--device takes everything from its file" in output
