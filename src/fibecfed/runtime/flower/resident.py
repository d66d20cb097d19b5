"""The device's own process: it keeps model and text, and answers what Flower's short-lived processes hand it.

Flower starts a process for every message in deployment. Loading a backbone in each would cost seconds to minutes a
message; here it is loaded once. Bytes cross a Unix socket in a folder that only this user can enter; nothing is
unpickled.
"""

from collections.abc import Callable
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from fibecfed.runtime.flower.serving import Refused

Serve = Callable[[str, bytes], bytes]


def answer_forever(socket: Path, serve: Serve) -> None:
    """Answer one request after another until the process ends."""
    with Listener(str(socket), family="AF_UNIX") as listener:
        while True:
            with listener.accept() as connection:
                _answer(connection, serve)


def _answer(connection: Connection, serve: Serve) -> None:
    try:
        kind, data = connection.recv_bytes().decode(), connection.recv_bytes()
        try:
            kept, answer = b"reply", serve(kind, data)
        except Refused as refused:
            kept, answer = b"failure", str(refused).encode()
        connection.send_bytes(kept)
        connection.send_bytes(answer)
    except (EOFError, ConnectionError) as error:  # Flower's process was stopped; the server hears of it from Flower
        print(f"A request was given up before it was answered: {type(error).__name__}.", flush=True)
