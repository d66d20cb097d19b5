"""Certificates for TLS and keys that tell devices apart, made on the spot."""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fibecfed.errors import InputError

VALID_DAYS = 730
_DEVICE = """\
# fibecfed flower device device.yaml
device: {number}
data:
  file: text.csv # its columns: text, label
  # test_file: test.csv
"""


def write_certificates(folder: Path, hosts: Sequence[str], devices: int) -> None:
    """A certificate authority, the server's certificate for ``hosts``, and a folder to hand over for each device.

    Private keys are readable by their owner only. Raises InputError if ``folder`` exists.
    """
    if folder.exists():
        raise InputError(f"'{folder}' exists already; certificates are never overwritten. Name another folder.")
    (folder / "keys").mkdir(parents=True)
    authority, own = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    root = _certificate("fibecfed certificate authority", authority, None, None, ())
    _write_secret(folder / "ca.key", _pem(authority))
    (folder / "ca.crt").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    names = tuple(dict.fromkeys((*hosts, "localhost", "127.0.0.1")))
    leaf = _certificate(names[0], own, root, authority, names)
    _write_secret(folder / "server.key", _pem(own))
    (folder / "server.crt").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    for number in range(devices):
        bundle = folder / "devices" / str(number)
        bundle.mkdir(parents=True)
        key = ec.generate_private_key(ec.SECP384R1())
        form = serialization.PrivateFormat.OpenSSH
        secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        _write_secret(bundle / "device.key", secret)
        (folder / "keys" / f"{number}.pub").write_bytes(public + b"\n")
        (bundle / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
        (bundle / "device.yaml").write_text(_DEVICE.format(number=number))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey | None,
    names: Sequence[str],
) -> x509.Certificate:
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.datetime.now(datetime.UTC)
    signer = signer or key
    usage = x509.KeyUsage(
        digital_signature=issuer is not None, key_cert_sign=issuer is None, crl_sign=issuer is None,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True)
        .add_extension(usage, True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), False)
        usages = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(usages, False)
    return builder.sign(signer, hashes.SHA384())


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write_secret(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
