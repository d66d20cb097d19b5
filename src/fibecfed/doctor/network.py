"""What TLS and sockets need: certificates that will be accepted, ports that are free or answer."""

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fibecfed.doctor.finding import Finding
from fibecfed.errors import InputError
from fibecfed.flower.reaching import find_trouble, server_date, split_address

INSIDE = "127.0.0.1"  # where a server's own parts reach one another
_SOON = 14  # days before the end of a certificate that are worth a word
_PATIENCE = 5.0  # seconds to wait for a connection
_SKEW = 10.0  # seconds by which two clocks may differ before Flower refuses a device's signatures
_NO_ANSWER = "start the server first; then check the name, the port, and firewalls between here and there"
_STEPS = 10  # a TLS handshake between two ends takes fewer


def check_certificate(
    certificate: Path, key: Path | None = None, authority: Path | None = None, host: str | None = None
) -> Iterator[Finding]:
    """Whether a server could use these PEM files, and a client that trusts ``authority`` would accept it as ``host``.

    With a key the two ends shake hands in memory, so that what is checked is what TLS itself checks. Without an
    ``authority`` the certificate is trusted itself, and only its dates and host name are judged.
    """
    unreadable = [_unreadable(path) for path in (certificate, key, authority) if path is not None]
    found = [finding for finding in unreadable if finding is not None]
    yield from found
    if found:
        return
    if key is None:
        yield Finding("certificate", f"'{certificate}' can be read; with --key it is tried out, too")
        return
    yield from check_secret(key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        yield Finding("certificate", f"'{certificate}' and '{key}' cannot be used together", _pair_fix(error))
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = host is not None
    if authority is None:
        client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(authority or certificate)
        accepted = _shake_hands(server, client, host)
    except ssl.SSLCertVerificationError as error:
        yield Finding("certificate", f"'{certificate}' would be refused: {error.verify_message}", _refused_fix(error))
        return
    except ssl.SSLError as error:
        yield Finding("certificate", f"'{authority or certificate}' cannot be used: {error.reason}", "make it again")
        return
    days = int((ssl.cert_time_to_seconds(accepted["notAfter"]) - time.time()) // 86400)
    names = ", ".join(value for _, value in accepted.get("subjectAltName", ())) or "no names"
    soon = " only: make a new one soon" if days < _SOON else ""
    text = f"'{certificate}' is accepted{f' as {host}' if host else ''}; for {names}; valid for {days} more days{soon}"
    yield Finding("certificate", text)


def certificate_problem(folder: Path) -> Finding | None:
    """Why a server could not use the certificate in its folder; None if it can.

    Its own parts on this machine reach one another at 127.0.0.1, whatever the devices call it.
    """
    files = (folder / "server.crt", folder / "server.key", folder / "ca.crt")
    for finding in check_certificate(*files, INSIDE):
        if finding.fix is not None and finding.subject == "certificate":
            return finding
    return None


def check_secret(key: Path) -> Iterator[Finding]:
    """Whether others can read a private key; nothing if they cannot."""
    mode = key.stat().st_mode & 0o077
    if mode:
        yield Finding("key", f"'{key}' can be read by others (mode {mode:03o})", f"chmod 600 '{key}'")


def _unreadable(path: Path) -> Finding | None:
    try:
        path.read_bytes()
    except OSError as error:
        advice = "name the right file" if isinstance(error, FileNotFoundError) else "change its permissions"
        return Finding("certificate", f"'{path}' cannot be read: {error.strerror}", advice)
    return None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str | None) -> Any:
    """A TLS handshake in memory; the certificate as the client sees it. Raises SSLError where one side refuses."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(_STEPS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0].getpeercert()


def _pair_fix(error: Exception) -> str:
    text = str(error)
    if "KEY_VALUES_MISMATCH" in text:
        return "the key does not belong to the certificate; name the pair that was made together"
    if "PEM" in text or "NO_START_LINE" in text:
        return "one of them is no PEM file; name the certificate with --certificate and its key with --key"
    return "a key with a password cannot be used, and both must be PEM files; make them again"


def _refused_fix(error: ssl.SSLCertVerificationError) -> str:
    message = error.verify_message.lower()
    if "expired" in message or "not yet valid" in message:
        return "make a new one, and check this machine's clock"
    if "mismatch" in message or "not valid for" in message:
        return "make a certificate whose subjectAltName holds that name or address, or connect by a name that it holds"
    return "give clients the certificate of the authority that signed it (--authority), or sign it with that authority"


def check_listening(address: str) -> Iterator[Finding]:
    """Whether a server could listen at HOST:PORT (or PORT: on every interface)."""
    try:
        host, port = split_address(address)
        with socket.create_server((host, port)):
            yield Finding("port", f"{address} is free")
    except ValueError as error:
        yield Finding("port", f"'{address}' is no address", str(error))
    except OSError as error:
        advice = "stop what listens there (ss -ltnp shows it), or take another port"
        yield Finding("port", f"{address} cannot be listened at: {error.strerror}", advice)


def check_reachable(address: str) -> Iterator[Finding]:
    """Whether something accepts connections at HOST:PORT, within five seconds."""
    try:
        host, port = _elsewhere(address)
        with socket.create_connection((host, port), timeout=_PATIENCE):
            yield Finding("connection", f"{address} accepts connections")
    except ValueError as error:
        yield Finding("connection", f"'{address}' is no address", str(error))
    except OSError as error:
        yield Finding("connection", f"{address} does not answer: {error.strerror or 'no answer in time'}", _NO_ANSWER)


def check_tls(address: str, authority: Path) -> Iterator[Finding]:
    """Whether the server shows a certificate of this authority, and whether its clock and this one agree."""
    try:
        trouble = find_trouble(address, authority, "/")
        date = None if trouble else server_date(address, authority, "/")
    except ValueError as error:
        yield Finding("server", f"'{address}' is no address", str(error))
    except (InputError, OSError, http.client.HTTPException) as error:
        yield Finding("server", f"{address} cannot be tried: {error}", _NO_ANSWER)
    else:
        if trouble is not None:
            yield Finding("server", f"{address} {trouble.reason}", trouble.advice)
            return
        skew = abs(time.time() - date) if date else 0.0
        fix = f"set this machine's clock or the server's: they differ by {skew:.0f} s" if skew > _SKEW else None
        yield Finding("server", f"{address} answers over TLS, with a certificate of '{authority}'", fix)


def _elsewhere(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. Raises ValueError, whose text says what to give."""
    host, port = split_address(address)
    if not host:
        raise ValueError("give it as HOST:PORT")
    return host, port
