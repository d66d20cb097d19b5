"""What TLS and sockets need: certificates that will be accepted, ports that are free or answer."""

import email.utils
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fibecfed.doctor.finding import Finding

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
    text = f"'{certificate}' is accepted{f' as {host}' if host else ''}; for {names}; valid for {days} more days"
    yield Finding("certificate", text, "it ends soon; make a new one" if days < _SOON else None)


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
        host, port = _split(address)
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
        host, port = _elsewhere(address)
        context = ssl.create_default_context(cafile=str(authority))
        connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=context)
        connection.request("GET", "/")
        date = connection.getresponse().getheader("date")
    except ssl.SSLCertVerificationError as error:
        advice = "ask for the server's ca.crt, connect by a name that its certificate holds, check this machine's clock"
        yield Finding("server", f"{address} is not trusted: {error.verify_message}", advice)
    except (OSError, http.client.HTTPException) as error:
        yield Finding("server", f"{address} does not answer over TLS: {error or type(error).__name__}", _NO_ANSWER)
    except ValueError as error:
        yield Finding("server", f"'{address}' is no address", str(error))
    else:
        skew = abs(time.time() - email.utils.parsedate_to_datetime(date).timestamp()) if date else 0.0
        fix = f"set this machine's clock or the server's: they differ by {skew:.0f} s" if skew > _SKEW else None
        yield Finding("server", f"{address} answers over TLS, with a certificate of '{authority}'", fix)


def _elsewhere(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT. Raises ValueError, whose text says what to give."""
    host, port = _split(address)
    if not host:
        raise ValueError("give it as HOST:PORT")
    return host, port


def _split(address: str) -> tuple[str, int]:
    """Host ("" if there is none) and port of [HOST:]PORT. Raises ValueError, whose text says what to give."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("give it as HOST:PORT, the port from 1 to 65535")
    return host.strip("[]"), int(port)
