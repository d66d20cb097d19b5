"""Certificates for TLS and keys that tell devices apart: made, added to, renewed."""

import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fibecfed.errors import InputError

VALID_DAYS = 730  # of the server's certificate, two years
AUTHORITY_DAYS = 3650  # of the authority's: every device holds it
_AUTHORITY = "fibecfed certificate authority"
_LONGEST_NAME = 64  # of a subject; the names that count are in an extension
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?")
_DEVICE = """\
# fibecfed flower device device.yaml
device: {number}
data:
  file: text.csv # its columns: text, label
  # test_file: test.csv
"""


def write_certificates(folder: Path, hosts: Sequence[str], devices: int) -> None:
    """A certificate authority, the server's certificate for ``hosts``, and a folder to hand over for each device.

    Private keys are readable by their owner only. Raises InputError if ``folder`` exists, and for a host that no
    certificate can name.
    """
    if folder.exists():
        raise InputError(
            f"'{folder}' exists already; certificates are never overwritten. For more devices give --add N, for a new "
            "server certificate --renew, for another federation another folder (--server DIR)."
        )
    names = _with_this_machine(hosts)
    (folder / "keys").mkdir(parents=True)
    authority, own = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    root = _certificate(_AUTHORITY, authority, None, None, (), AUTHORITY_DAYS)
    _write_secret(folder / "ca.key", _pem(authority))
    (folder / "ca.crt").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    leaf = _certificate(names[0], own, root, authority, names, VALID_DAYS)
    _write_secret(folder / "server.key", _pem(own))
    (folder / "server.crt").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    for number in range(devices):
        _write_device(folder, number)


def add_devices(folder: Path, devices: int) -> range:
    """Keys and folders for more devices, numbered on from those that are there; returns their numbers.

    Nothing that exists is touched. Raises InputError if ``folder`` is no folder of ``write_certificates``.
    """
    _require(folder, "ca.crt")
    taken = [int(path.stem) for path in (folder / "keys").glob("*.pub") if path.stem.isdecimal()]
    taken += [int(path.name) for path in (folder / "devices").glob("*") if path.name.isdecimal()]
    numbers = range(max(taken, default=-1) + 1, max(taken, default=-1) + 1 + devices)
    for number in numbers:
        _write_device(folder, number)
    return numbers


@dataclass(frozen=True)
class Renewed:
    """A new certificate of the server. ``authority_ended``: when the old ca.crt ends, if a new one was needed, too."""

    names: tuple[str, ...]
    until: datetime.datetime
    authority_ended: datetime.datetime | None


def renew_certificate(folder: Path, hosts: Sequence[str] = ()) -> Renewed:
    """A new server.crt for the key that is there; without ``hosts`` for the names of the old one.

    If the authority would end first, its certificate is renewed as well, for the same key: what devices hold stays
    valid until its own end. Raises InputError if a file that this needs is missing or is not what it should be.
    """
    for name in ("ca.crt", "ca.key", "server.crt", "server.key"):
        _require(folder, name)
    authority, own = _private_key(folder / "ca.key"), _private_key(folder / "server.key")
    root, old = _read(folder / "ca.crt"), _read(folder / "server.crt")
    if root.public_key() != authority.public_key():
        raise InputError(f"'{folder / 'ca.key'}' is not the key of '{folder / 'ca.crt'}'; put the right one there.")
    names = _with_this_machine(hosts) if hosts else _names_of(old)
    ended = None
    if root.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=VALID_DAYS):
        ended = root.not_valid_after_utc
        root = _certificate(_AUTHORITY, authority, None, None, (), AUTHORITY_DAYS)
        _replace(folder / "ca.crt", root.public_bytes(serialization.Encoding.PEM))
        for bundle in (folder / "devices").glob("*/ca.crt"):
            _replace(bundle, root.public_bytes(serialization.Encoding.PEM))
    leaf = _certificate(names[0], own, root, authority, names, VALID_DAYS)
    _replace(folder / "server.crt", leaf.public_bytes(serialization.Encoding.PEM))
    return Renewed(names, leaf.not_valid_after_utc, ended)


def check_keys(keys: Sequence[Path]) -> None:
    """Raise InputError for a file that is no public key of a device, or the same key as another."""
    seen: dict[bytes, Path] = {}
    for path in keys:
        words = path.read_bytes().split()
        try:
            public = serialization.load_ssh_public_key(b" ".join(words[:2]))
        except (ValueError, UnsupportedAlgorithm):
            public = None
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise InputError(
                f"'{path}' is no public key of an elliptic curve; a device makes one with: "
                'ssh-keygen -t ecdsa -b 384 -N "" -f device.key'
            )
        earlier = seen.setdefault(words[1], path)
        if earlier != path:
            raise InputError(f"'{path}' is the same key as '{earlier}'; every device needs a key of its own.")


def _write_device(folder: Path, number: int) -> None:
    bundle = folder / "devices" / str(number)
    bundle.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write_secret(bundle / "device.key", secret)
    (folder / "keys" / f"{number}.pub").write_bytes(public + b"\n")
    (bundle / "ca.crt").write_bytes((folder / "ca.crt").read_bytes())
    (bundle / "device.yaml").write_text(_DEVICE.format(number=number), encoding="utf-8")


def _require(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        hint = " (it is best kept elsewhere; put it back for this)" if name == "ca.key" else ""
        raise InputError(
            f"'{folder}' holds no {name}{hint}. A new folder is made by: fibecfed flower certificates HOST --devices N"
        )


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        raise InputError(f"'{path}' is no certificate (PEM).") from None


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(f"'{path}' is no private key (PEM, without a password).") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InputError(f"'{path}' is no key of an elliptic curve, as this makes them.")
    return key


def _with_this_machine(hosts: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys((*hosts, "localhost", "127.0.0.1")))
    for name in names:
        _general_name(name)
    return names


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise InputError("The old server.crt names no host; say which: HOST ... --renew") from None
    return tuple(str(name) for kind in (x509.DNSName, x509.IPAddress) for name in names.get_values_for_type(kind))


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    signer: ec.EllipticCurvePrivateKey | None,
    names: Sequence[str],
    days: int,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_NAME])])
    now = datetime.datetime.now(datetime.UTC)
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
        .not_valid_after(now + datetime.timedelta(days=days))
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
        pass
    if not _HOST.fullmatch(host):
        raise InputError(
            f"'{host}' is no name or address of a machine: give it without port or protocol, and a name with other "
            "than ASCII letters in its xn-- form."
        )
    return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _replace(path: Path, data: bytes) -> None:
    """The old content or the new, never a part."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.replace(path)


def _write_secret(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
