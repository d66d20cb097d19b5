"""Whether the server can be reached from here and, if not, the reason as a person can act on it."""

import contextlib
import email.utils
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fibecfed.errors import InputError, RunFailed

_PATIENCE = 5.0  # seconds for a connection, and for an answer
_PAUSE = 2.0  # seconds between two attempts
_SAID = 20.0  # seconds after which it is said again that the server is waited for
_CHECK = "check the name, the port, and firewalls between here and there"
BEHIND_THE_GATE = "/v1/fleet/"  # a path that the gate passes on: an error of 5xx means that nothing is behind it
_CLOSED = (
    ConnectionResetError,
    BrokenPipeError,
    http.client.RemoteDisconnected,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)


@dataclass(frozen=True)
class Trouble:
    """Why a server cannot be used: what it does, to follow its address. ``lasting``: waiting does not help."""

    reason: str
    advice: str
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.reason}; {self.advice}"


_TLS_THERE = Trouble("speaks TLS, not plain text", "leave --insecure away", lasting=True)
_PLAIN_THERE = Trouble(
    "speaks plain text, not TLS",
    "start the server without --insecure, or, for tests on one machine, give --insecure here, too",
    lasting=True,
)


def find_trouble(address: str, authority: Path | None, path: str = BEHIND_THE_GATE) -> Trouble | None:
    """Why the server at HOST:PORT cannot be used; None if it answers.

    ``authority``: the PEM file of whoever signed its certificate; None: plain text. Takes ten seconds at most.
    Raises ValueError for what is no address, InputError for an authority that is none.
    """
    try:
        server_date(address, authority, path)
    except ssl.SSLCertVerificationError as error:
        advice = "ask for the server's ca.crt, connect by a name that its certificate holds, check this machine's clock"
        return Trouble(f"is not trusted: {error.verify_message}", advice, lasting=True)
    except _CLOSED:
        if authority is None and _speaks_tls(address):
            return _TLS_THERE
        advice = "is this a tunnel or a proxy, with no server behind it?"
        return Trouble("accepts connections and closes them without an answer", advice)
    except ssl.SSLError as error:
        if authority is not None and _speaks_plainly(address):
            return _PLAIN_THERE
        return Trouble(f"makes no TLS connection ({error.reason or error})", "is this the server's port?")
    except TimeoutError:
        return Trouble("does not answer in time", _CHECK)
    except socket.gaierror as error:
        return Trouble(f"is not known here ({error.strerror})", "check the name")
    except OSError as error:
        return Trouble(f"does not answer: {error.strerror or type(error).__name__}", f"start it first; then {_CHECK}")
    except http.client.HTTPException as error:
        if authority is None and _speaks_tls(address):
            return _TLS_THERE
        return Trouble(f"speaks another protocol ({type(error).__name__})", "is this the server's port?")
    return None


def server_date(address: str, authority: Path | None, path: str = BEHIND_THE_GATE) -> float | None:
    """The time that the server says it is (seconds since 1970), None if it says none.

    Raises OSError (503 and its like: ConnectionError), SSLError, HTTPException or ValueError, and InputError for an
    authority that is none.
    """
    host, port = split_address(address)
    if not host:
        raise ValueError("give it as HOST:PORT")
    if authority is None:
        connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=_trusting(authority))
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        if answer.status in (502, 503, 504):
            raise ConnectionError(0, f"what is there has no server behind it ({answer.status})")
        if authority is None and answer.status == 400:
            raise http.client.HTTPException("a bad request, which this is not")  # servers with TLS say so in plain text
        date = answer.getheader("date")
    return email.utils.parsedate_to_datetime(date).timestamp() if date else None


def wait_for_server(
    address: str, authority: Path | None, seconds: float, say: Callable[[str], None] = print, pause: float = _PAUSE
) -> None:
    """Wait until the server answers, at most so long; what is wrong is said at once, and every twenty seconds.

    Raises RunFailed with address and reason after that, InputError where waiting does not help.
    """
    ends, told, last = time.monotonic() + seconds, 0.0, None
    while True:
        try:
            trouble = find_trouble(address, authority)
        except ValueError as error:
            raise InputError(f"'{address}' is no address: {error}.") from None
        if trouble is None:
            if last is not None:
                say(f"The server at {address} answers.")
            return
        if trouble.lasting:
            raise InputError(f"The server at {address} {trouble}.")
        now = time.monotonic()
        if now >= ends:
            raise RunFailed(f"The server at {address} could not be reached within {seconds:.0f} s: it {trouble}.")
        if trouble != last or now - told >= _SAID:
            told, last = now, trouble
            say(f"The server at {address} {trouble}. It is tried again for {ends - now:.0f} s at most.")
        time.sleep(min(pause, max(0.0, ends - now)))


def split_address(address: str) -> tuple[str, int]:
    """Host ("" if there is none) and port of [HOST:]PORT. Raises ValueError, whose text says what to give."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not port.isascii() or not 0 < int(port) < 65536:
        raise ValueError("give it as HOST:PORT, the port from 1 to 65535")
    return host.strip("[]"), int(port)


def _trusting(authority: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(authority))
    except OSError as error:  # SSLError is one
        reason = error.strerror or str(error)
        raise InputError(f"'{authority}' holds no certificate that can be read ({reason}).") from None


def _speaks_tls(address: str) -> bool:
    """Whether a TLS handshake succeeds, whatever the certificate: nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = split_address(address)
    try:
        with socket.create_connection((host, port), timeout=_PATIENCE) as plain, context.wrap_socket(plain):
            return True
    except OSError:
        return False


def _speaks_plainly(address: str) -> bool:
    try:
        server_date(address, None, "/")
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return True
