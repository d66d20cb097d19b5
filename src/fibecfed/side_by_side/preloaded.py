"""What is imported by the process that runs are forked from, and by no other.

All of it stays to the end of each run, so the garbage collector need not go through it, nor copy its pages.
"""

import gc

from fibecfed.side_by_side import worker

__all__ = ["worker"]

gc.freeze()
