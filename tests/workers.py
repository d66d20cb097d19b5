"""Stand-ins for a run, for processes that do as a test says. They are found by name in another process."""

import os
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

Order = Mapping[str, Any]


def echo(order: Order, parent: Connection) -> None:
    parent.send({"round": 1, "directory": order["directory"], "resume": order["resume"]})


def say_cores(order: Order, parent: Connection) -> None:
    parent.send({"cores": order["cores"]})


def take_a_while(order: Order, parent: Connection) -> None:
    parent.send({"at": time.monotonic()})
    time.sleep(0.3)
    parent.send({"at": time.monotonic()})


def fail_if_a(order: Order, parent: Connection) -> None:
    if order["config"]["method"] == "a":
        parent.send({"error": "the loss became nan"})
        sys.exit(1)


def last_words(order: Order, parent: Connection) -> None:
    print("out of paper", file=sys.stderr)
    sys.exit(3)


def raise_an_error(order: Order, parent: Connection) -> None:
    raise KeyError("no such thing")


def kill_itself(order: Order, parent: Connection) -> None:
    os.kill(os.getpid(), 9)


def wrong_input_if_b(order: Order, parent: Connection) -> None:
    if order["config"]["method"] == "b":
        parent.send({"error": "no such column"})
        sys.exit(2)
    parent.send({"round": 1})
    time.sleep(60)


def sleep(order: Order, parent: Connection) -> None:
    parent.send({"pid": os.getpid()})
    time.sleep(60)
