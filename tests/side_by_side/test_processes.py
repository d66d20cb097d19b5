"""Processes side by side: what is reported, kept and ended."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import workers
from fibecfed import InputError, load_config
from fibecfed.side_by_side import WantedRun, processes, run_side_by_side


class Notes:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ends: dict[str, str | None] = {}

    def progressed(self, wanted: WantedRun, event: dict[str, Any]) -> None:
        self.events.append((wanted.name, event))

    def ended(self, wanted: WantedRun, reason: str | None) -> None:
        self.ends[wanted.name] = reason


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Put a function in the place of the run."""
    return lambda work: monkeypatch.setattr(processes, "WORK", work)


def runs(tmp_path: Path, *names: str) -> list[WantedRun]:
    return [WantedRun(n, load_config(method=n), tmp_path / "out" / n) for n in names]


def test_runs_are_reported_and_those_done_are_left_alone(tmp_path: Path, worker: Any) -> None:
    worker(workers.echo)
    done, fresh, begun = runs(tmp_path, "a", "b", "c")
    done, begun = WantedRun(**done.__dict__ | {"done": True}), WantedRun(**begun.__dict__ | {"begun": True})
    notes = Notes()
    assert run_side_by_side([done, fresh, begun], 1, notes) == {}
    assert notes.events == [
        ("b", {"round": 1, "directory": str(fresh.directory), "resume": False}),
        ("c", {"round": 1, "directory": str(begun.directory), "resume": True}),
    ]
    assert notes.ends == {"b": None, "c": None}
    assert not list((tmp_path / "out").glob("*.log"))


@pytest.mark.parametrize(("jobs", "cores"), [(1, 5), (2, 2), (9, 1)], ids=["alone", "two", "more than there are"])
def test_each_run_has_its_share_of_the_cores(
    tmp_path: Path, worker: Any, monkeypatch: pytest.MonkeyPatch, jobs: int, cores: int
) -> None:
    worker(workers.say_cores)
    monkeypatch.setattr(processes, "cores_here", lambda: 5)
    notes = Notes()
    run_side_by_side(runs(tmp_path, "a", "b", "c"), jobs, notes)
    assert [event["cores"] for _, event in notes.events] == [cores] * 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_than_jobs_run_at_once(tmp_path: Path, worker: Any, jobs: int) -> None:
    worker(workers.take_a_while)
    notes = Notes()
    run_side_by_side(runs(tmp_path, "a", "b", "c", "d"), jobs, notes)
    spans = [[e["at"] for n, e in notes.events if n == name] for name in "abcd"]
    assert max(sum(s <= start < e for s, e in spans) for start, _ in spans) == jobs


def test_a_failed_run_gives_its_reason_and_the_others_go_on(tmp_path: Path, worker: Any) -> None:
    worker(workers.fail_if_a)
    notes = Notes()
    assert run_side_by_side(runs(tmp_path, "a", "b"), 1, notes) == {"a": "the loss became nan"}
    assert notes.ends == {"a": "the loss became nan", "b": None}


def test_a_process_that_dies_leaves_its_last_words_and_a_log(tmp_path: Path, worker: Any) -> None:
    worker(workers.last_words)
    reasons = run_side_by_side(runs(tmp_path, "a"), 1, Notes())
    log = tmp_path / "out" / "a.log"
    assert reasons == {"a": f"its process ended with exit code 3; its last words: out of paper; see {log}"}
    assert log.read_text() == "out of paper\n"


def test_an_error_of_ours_leaves_its_traceback_in_the_log(tmp_path: Path, worker: Any) -> None:
    worker(workers.raise_an_error)
    (reason,) = run_side_by_side(runs(tmp_path, "a"), 1, Notes()).values()
    assert "ended with exit code 1; its last words: KeyError: 'no such thing'" in reason
    assert "Traceback" in (tmp_path / "out" / "a.log").read_text()


def test_a_killed_process_is_named_as_such(tmp_path: Path, worker: Any) -> None:
    worker(workers.kill_itself)
    (reason,) = run_side_by_side(runs(tmp_path, "a"), 1, Notes()).values()
    assert "was killed by signal 9 (9 often means that memory ran out; try --jobs 1)" in reason


def test_wrong_input_found_by_a_process_ends_all(tmp_path: Path, worker: Any) -> None:
    worker(workers.wrong_input_if_b)
    started = time.monotonic()
    with pytest.raises(InputError, match="no such column"):
        run_side_by_side(runs(tmp_path, "a", "b", "c"), 2, Notes())
    assert time.monotonic() - started < 30
    assert not list((tmp_path / "out").glob("*.log"))


def test_time_that_is_up_ends_the_processes(tmp_path: Path, worker: Any) -> None:
    worker(workers.sleep)
    notes = Notes()
    started = time.monotonic()
    assert run_side_by_side(runs(tmp_path, "a", "b"), 1, notes, seconds=1.0) == {}
    assert time.monotonic() - started < 30
    assert notes.ends == {}
    assert all(gone(event["pid"]) for _, event in notes.events)


def test_ctrl_c_ends_the_processes(tmp_path: Path, worker: Any) -> None:
    worker(workers.sleep)

    class Interrupting(Notes):
        def progressed(self, wanted: WantedRun, event: dict[str, Any]) -> None:
            super().progressed(wanted, event)
            if len(self.events) == 2:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    notes = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side(runs(tmp_path, "a", "b", "c"), 2, notes)
    assert len(notes.events) == 2  # the third never started
    assert all(gone(event["pid"]) for _, event in notes.events)


def test_processes_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(workers.__file__).parent)!r})
        import workers
        from pathlib import Path
        from fibecfed import load_config
        from fibecfed.side_by_side import WantedRun, processes, run_side_by_side

        class Tell:
            def progressed(self, wanted, event):
                print(event["pid"], flush=True)
            def ended(self, wanted, reason):
                pass

        if __name__ == "__main__":
            processes.WORK = workers.sleep
            run_side_by_side([WantedRun("a", load_config(), Path({str(tmp_path)!r}) / "a")], 1, Tell())
    """
    (tmp_path / "parent.py").write_text(textwrap.dedent(script))
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 10
    while not gone(child):
        assert time.monotonic() < until, "the process outlived its parent by 10 s"
        time.sleep(0.05)


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False
