"""Runs a program so that it ends with the process that started it, however that ended.

`python -P guard.py FD PROGRAM [WORD ...]`: FD reads from a pipe whose other end only the starting process holds. The
system closes that end even after `kill -9`, and then this process ends, too. The program runs in this very process:
nothing lies between that could be killed alone. It also ends when its main thread does, which Flower's programs do not.
Only the standard library is imported here.
"""

import os
import runpy
import signal
import sys
import threading
import time
import traceback

_GRACE = 6.0  # seconds to say goodbye in: Flower's server then knows at once that a device has gone


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # nothing is ever written: this returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def _run(program: str) -> int:
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    sys.argv = sys.argv[2:]
    code = 1
    try:
        code = _run(sys.argv[0])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)  # threads that the program left running would keep the process
