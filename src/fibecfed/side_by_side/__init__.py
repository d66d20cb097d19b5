"""Runs side by side on this machine, each in a process of its own: what quickstart and compare are made of."""

from fibecfed.side_by_side.processes import Report, WantedRun, run_side_by_side

__all__ = ["Report", "WantedRun", "run_side_by_side"]
