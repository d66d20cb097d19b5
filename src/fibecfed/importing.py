"""Imports of many modules, sooner."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector while modules are imported, which saves a tenth of their time.

    torch, transformers and peft are 3,500 modules that all stay; the collector would go through all of them again and
    again.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
