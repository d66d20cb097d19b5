"""A device stays connected: Flower's process is started again where that can help, and every wait has an end."""

import time
from collections.abc import Callable
from pathlib import Path

from fibecfed.config import DeviceConfig
from fibecfed.errors import RunFailed
from fibecfed.flower.locks import only_one
from fibecfed.flower.processes import running, supernode_command
from fibecfed.flower.reaching import find_trouble, wait_for_server

FIRST_WAIT, LATER_WAIT = 60.0, 600.0  # seconds: for a server that was never reached, and for one that is gone
_RETRY_SECONDS = 90.0  # Flower takes a killed device for connected for up to a minute
_CONNECTED = 30.0  # seconds; a process that lived longer was not refused


def stay_connected(
    config: DeviceConfig,
    server: str,
    keys: Path | None,
    socket_name: Path,
    wait: float | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run Flower's side of the device until it cannot go on, which it says by raising.

    ``wait``: seconds to wait for a server that does not answer; None: a minute for one that never did, ten minutes for
    one that did. Flower refuses a device it does not know and one it takes for connected in the same words, so only a
    device that took part before tries again. Raises RunFailed or InputError.
    """
    folder, authority = Path(config.folder), None if keys is None else keys / "ca.crt"
    known = any(folder.glob("*/settings.json"))
    first, later = (FIRST_WAIT, LATER_WAIT) if wait is None else (wait, wait)
    with only_one(folder, f"device {config.device}") as lock:
        wait_for_server(server, authority, first, say)
        refused_since: float | None = None
        while True:
            started = time.monotonic()
            command = supernode_command(config, server, keys, socket_name)
            with running(command, folder / "flwr", [lock]) as process:
                code = process.wait()
            if time.monotonic() - started > _CONNECTED:
                known, refused_since = True, None
            if find_trouble(server, authority) is not None:
                wait_for_server(server, authority, later, say)
                refused_since = None
                continue
            refused_since = refused_since or started
            if not known or time.monotonic() - refused_since > _RETRY_SECONDS:
                break
            say("Flower's SuperNode ended; it is started again in 5 s.")
            time.sleep(5)
    raise RunFailed(
        f"Flower's SuperNode ended with exit code {code}; see above. If it was refused: has the server this device's "
        "public key, are both clocks right, and does no other process use the key, or did until a minute ago?"
    )
