"""What devices reach of Flower's server: its Fleet API, and nothing else.

Flower serves three APIs on one port, and without an account service whoever reaches the port may start a run, that is
code on the server and on every device, or register a key. So Flower listens on this machine only, and this gate, the
one open port, passes on what devices need.
"""

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from fibecfed.errors import InputError

_OPEN = "/v1/fleet/"
_LIMIT = 64 * 2**20  # bytes of one request; Flower cuts large messages into pieces of 5 MB
_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"host", b"content-length"}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gate:
    """An ASGI application that passes requests under /v1/fleet/ on to ``inside`` and refuses all others."""

    def __init__(self, inside: str, ca: Path | None) -> None:
        verify = ssl.create_default_context(cafile=str(ca)) if ca is not None else False
        self._client = httpx.AsyncClient(base_url=inside, verify=verify, timeout=120.0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope["path"]
        if not path.startswith(_OPEN) or ".." in path or "//" in path or scope["raw_path"] != path.encode():
            await _respond(send, 404, b"not open to devices")
            return
        body = bytearray()
        while True:
            part = await receive()
            if part["type"] == "http.disconnect":
                return
            body += part.get("body", b"")
            if len(body) > _LIMIT:
                await _respond(send, 413, b"too large")
                return
            if not part.get("more_body"):
                break
        headers = [(name, value) for name, value in scope["headers"] if name not in _HOP]
        query = scope["query_string"].decode("latin-1")
        url = f"{path}?{query}" if query else path
        try:
            answer = await self._client.request(scope["method"], url, content=bytes(body), headers=headers)
        except httpx.TransportError:
            await _respond(send, 503, b"the server is not running")
            return
        kept = [(n.lower(), v) for n, v in answer.headers.raw if n.lower() not in _HOP | {b"content-encoding"}]
        await _respond(send, answer.status_code, answer.content, kept)


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    lengths = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*(headers or []), *lengths]})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens at once, so that a second server learns that the port is taken. Raises InputError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        advice = "stop what listens there (ss -ltnp shows it), or take another --port"
        raise InputError(f"{host}:{port} cannot be listened at: {error.strerror}; {advice}.") from None
    with made:
        yield made


def open_gate(inside: str, certificates: Path | None) -> uvicorn.Server:
    """A server that is ready to run on a socket; ``certificates`` None: plain text."""
    tls: dict[str, Any] = {}
    if certificates is not None:
        tls = {"ssl_certfile": certificates / "server.crt", "ssl_keyfile": certificates / "server.key"}
    gate = Gate(inside, certificates / "ca.crt" if certificates else None)
    return uvicorn.Server(uvicorn.Config(gate, log_level="warning", lifespan="off", **tls))
