"""A power cut, for tests of resuming."""

from fibecfed.callbacks import Callback
from fibecfed.federation import StageDone


class Crash(Exception):
    """Stands for a power cut."""


class CrashAt(Callback):
    """Raises Crash when so many phases have ended, after their checkpoint."""

    def __init__(self, phases: int) -> None:
        self.left = phases

    def stage_done(self, done: StageDone, record: object) -> bool:
        self.left -= 1
        if not self.left:
            raise Crash
        return False
