"""Certificates that TLS accepts, and keys that Flower reads."""

import datetime
import stat
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fibecfed import InputError
from fibecfed.config import load_device_config
from fibecfed.runtime.flower.certificates import write_certificates


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
