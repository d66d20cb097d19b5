"""Certificates that TLS accepts, and keys that Flower reads."""

import datetime
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from typer.testing import CliRunner

from fibecfed import InputError
from fibecfed.cli.app import app
from fibecfed.config import load_device_config
from fibecfed.flower import certificates
from fibecfed.flower.certificates import add_devices, renew_certificate, write_certificates


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "server"
    write_certificates(path, ["fl.example.org", "10.1.2.3"], 2)
    return path


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.mark.parametrize("name", ["fl.example.org", "localhost"])
def test_a_device_verifies_the_server_by_its_names(folder: Path, name: str) -> None:
    store = Store([read(folder / "devices" / "0" / "ca.crt")])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name))
    assert verifier.verify(read(folder / "server.crt"), [])
    other = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("evil.example.org"))
    with pytest.raises(VerificationError):
        other.verify(read(folder / "server.crt"), [])


def test_another_authority_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    write_certificates(tmp_path / "other", ["fl.example.org"], 1)
    store = Store([read(tmp_path / "other" / "ca.crt")])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("fl.example.org"))
    with pytest.raises(VerificationError):
        verifier.verify(read(folder / "server.crt"), [])


def test_every_device_has_a_key_of_its_own_that_the_server_knows(folder: Path) -> None:
    points = set()
    for number in range(2):
        secret = load_ssh_private_key((folder / "devices" / str(number) / "device.key").read_bytes(), None)
        public = load_ssh_public_key((folder / "keys" / f"{number}.pub").read_bytes())
        assert isinstance(secret, ec.EllipticCurvePrivateKey) and secret.public_key() == public
        points.add(secret.private_numbers().private_value)
        assert load_device_config(folder / "devices" / str(number) / "device.yaml").device == number
    assert len(points) == 2


def test_secrets_are_readable_by_their_owner_only_and_nothing_is_overwritten(folder: Path) -> None:
    for path in folder.rglob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list((folder / "devices").rglob("ca.key"))
    with pytest.raises(InputError, match="never overwritten"):
        write_certificates(folder, ["x"], 1)


def test_certificates_end(folder: Path) -> None:
    left = read(folder / "server.crt").not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert 700 < left.days < 800


def test_a_certificate_is_made_for_hosts_only(tmp_path: Path) -> None:
    for host in ("fl.example.org:9092", "https://fl.example.org", "flöwer.example.org", "", "two words"):
        with pytest.raises(InputError, match="is no name or address of a machine"):
            write_certificates(tmp_path / "server", [host], 1)
    assert not (tmp_path / "server").exists()
    write_certificates(tmp_path / "server", ["a" * 63 + ".example.org", "::1"], 1)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_devices_are_added_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    write_certificates(folder, ["fl.example.org"], 2)
    shutil.rmtree(folder / "devices" / "1")  # handed over
    (folder / "ca.key").unlink()  # offline
    before = content(folder)
    assert add_devices(folder, 3) == range(2, 5)
    after = content(folder)
    assert before.items() <= after.items()
    assert len(set(folder.glob("keys/*.pub"))) == 5
    for number in range(2, 5):
        bundle = folder / "devices" / str(number)
        assert load_device_config(bundle / "device.yaml").device == number
        assert (bundle / "ca.crt").read_bytes() == (folder / "ca.crt").read_bytes()
        secret = load_ssh_private_key((bundle / "device.key").read_bytes(), None)
        assert secret.public_key() == load_ssh_public_key((folder / "keys" / f"{number}.pub").read_bytes())
    with pytest.raises(InputError, match=r"holds no ca.crt"):
        add_devices(tmp_path / "none", 1)


def verified(folder: Path, authority: x509.Certificate, host: str) -> bool:
    verifier = PolicyBuilder().store(Store([authority])).build_server_verifier(x509.DNSName(host))
    return bool(verifier.verify(read(folder / "server.crt"), []))


@pytest.mark.parametrize("hosts", [[], ["new.example.org"]])
def test_a_renewed_certificate_is_valid_for_devices_that_were_made_before(tmp_path: Path, hosts: list[str]) -> None:
    folder = tmp_path / "server"
    write_certificates(folder, ["fl.example.org", "10.1.2.3"], 1)
    held, before = read(folder / "devices" / "0" / "ca.crt"), content(folder)
    old = read(folder / "server.crt")
    renewed = renew_certificate(folder, hosts)
    new = read(folder / "server.crt")
    assert (
        new.serial_number != old.serial_number and renewed.until == new.not_valid_after_utc >= old.not_valid_after_utc
    )
    assert set(renewed.names) == {*(hosts or ["fl.example.org", "10.1.2.3"]), "localhost", "127.0.0.1"}
    assert verified(folder, held, hosts[0] if hosts else "fl.example.org")
    assert renewed.authority_ended is None
    after = content(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"server.crt"}


def test_an_authority_that_would_end_first_is_renewed_for_the_same_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "server"
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", 300)
    write_certificates(folder, ["fl.example.org"], 1)
    held = read(folder / "ca.crt")
    monkeypatch.setattr(certificates, "AUTHORITY_DAYS", 3650)
    renewed = renew_certificate(folder)
    assert renewed.authority_ended == held.not_valid_after_utc
    assert verified(folder, held, "fl.example.org")  # until it ends
    assert verified(folder, read(folder / "devices" / "0" / "ca.crt"), "fl.example.org")
    assert (read(folder / "ca.crt").not_valid_after_utc - renewed.until).days > 2000


def test_what_a_renewal_needs_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    write_certificates(folder, ["fl.example.org"], 1)
    key = (folder / "ca.key").read_bytes()
    (folder / "ca.key").write_bytes((folder / "server.key").read_bytes())
    with pytest.raises(InputError, match=r"is not the key of"):
        renew_certificate(folder)
    (folder / "ca.key").write_text("no key")
    with pytest.raises(InputError, match=r"ca.key' is no private key"):
        renew_certificate(folder)
    (folder / "ca.key").unlink()
    with pytest.raises(InputError, match=r"holds no ca.key .*put it back for this"):
        renew_certificate(folder)
    (folder / "ca.key").write_bytes(key)
    (folder / "server.crt").write_text("no certificate")
    with pytest.raises(InputError, match=r"server.crt' is no certificate"):
        renew_certificate(folder)


def said(code: int, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["flower", "certificates", *arguments])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_on_the_command_line(tmp_path: Path) -> None:
    folder = str(tmp_path / "server")
    assert "Give one of --devices N" in said(2, "fl.example.org", "--server", folder)
    assert "Say under which names" in said(2, "--devices", "2", "--server", folder)
    assert "Hand" in said(0, "fl.example.org", "--devices", "2", "--server", folder)
    assert "--add N, for a new server certificate --renew" in said(2, "x", "--devices", "2", "--server", folder)
    assert "devices/2 to 3" in said(0, "--add", "2", "--server", folder)
    assert "leave the host names out" in said(2, "x", "--add", "2", "--server", folder)
    assert "for fl.example.org, localhost, 127.0.0.1" in said(0, "--renew", "--server", folder)
    assert "for b.example.org, localhost" in said(0, "b.example.org", "--renew", "--server", folder)


def test_certificates_take_no_torch() -> None:
    """Its import took seven seconds of each call."""
    modules = "fibecfed.flower.certificates, fibecfed.flower.processes"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
