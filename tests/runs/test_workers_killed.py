"""Kill -9 of a worker, of the run, or of both, at random moments: named, gone on with, the same bits, no orphan."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fibecfed
import forking
from fibecfed.config import to_yaml
from run_content import content

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="worker processes need Linux"),
]

RUNS, KILLS = 4, 5  # twenty kills together
PATIENCE = 240.0  # seconds
ROUNDS = 3 * KILLS  # a kill comes within two rounds of the one before


def until(found: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < ends, f"{what} did not happen in {PATIENCE:.0f} s"
        time.sleep(0.002)


def parents(group: int) -> dict[int, int]:
    """The living processes of a group, each with its parent."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            state, parent, its_group = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        if int(its_group) == group and state not in "ZX":
            found[int(folder.name)] = int(parent)
    return found


def workers(run: int) -> list[int]:
    """Its grandchildren: between them stands the process that they are forked from."""
    of = parents(run)
    return [pid for pid, parent in of.items() if of.get(parent) == run]


class Killed:
    """A run in its directory, begun or gone on with as often as it takes, in process groups of their own."""

    def __init__(self, config: Path, directory: Path, log: Path) -> None:
        self.config, self.directory, self.log = config, directory, log
        self.groups: list[int] = []
        self.process = self._begun("run", str(config), "--out", str(directory))

    def _begun(self, *words: str) -> forking.Popen:
        with self.log.open("a") as log:
            process = forking.Popen(
                ["-m", "fibecfed", *words], stdout=log, stderr=forking.STDOUT, start_new_session=True
            )
        self.groups.append(process.pid)
        return process

    def written(self) -> int:
        """When the checkpoint was written last; 0: never."""
        checkpoint = self.directory / "checkpoint.safetensors"
        return checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0

    def kill(self, whom: str, rng: random.Random) -> None:
        """After another checkpoint and a part of the round behind it."""
        before = self.written()
        until(lambda: self.written() > before or self.process.poll() is not None, "a round")
        time.sleep(rng.uniform(0, 0.3))
        until(lambda: bool(workers(self.process.pid)) or self.process.poll() is not None, "a worker")
        assert self.process.poll() is None, f"the run ended before it could be killed:\n{self.log.read_text()}"
        worker = rng.choice(workers(self.process.pid))
        chosen = {"worker": [worker], "run": [self.process.pid], "both": [worker, self.process.pid]}[whom]
        for pid in chosen:
            os.kill(pid, signal.SIGKILL)
        if whom == "worker":
            said = f"Worker process {worker} was killed by signal 9"
            until(lambda: said in self.log.read_text() or self.process.poll() is not None, f"'{said}'")
            assert said in self.log.read_text()
            return
        assert self.process.wait(PATIENCE) == -signal.SIGKILL
        self.leaves_nobody()
        assert not (self.directory / "summary.json").is_file()
        self.process = self._begun("run", "--resume", str(self.directory))

    def leaves_nobody(self) -> None:
        until(lambda: not any(parents(group) for group in self.groups), "the end of all processes")

    def finish(self) -> None:
        assert self.process.wait(PATIENCE) == 0, self.log.read_text()
        self.leaves_nobody()

    def end(self) -> None:
        for group in self.groups:
            if parents(group):
                os.killpg(group, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, bert: Path, rows_file: Path) -> Path:
    """A folder with a configuration and its run that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    config = fibecfed.load_config(
        method="fibecfed",
        model={"name": str(bert)},
        data={"file": str(rows_file), "max_length": 32},
        federation={"devices": 6, "sampled": 4, "rounds": ROUNDS},
        warm_up={"rounds": 1},
        sharing={"devices": 2, "count": 1},
        training={"learning_rate": 0.01, "keep_optimizer": True},
        evaluation={"batch_size": 8, "every": 5},
        lora={"rank": 2, "alpha": 4},
        runtime={"workers": 2},
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    fibecfed.run(config, folder / "run")
    return folder


@pytest.fixture
def killed(undisturbed: Path, tmp_path: Path) -> Iterator[Killed]:
    run = Killed(undisturbed / "config.yaml", tmp_path / "run", tmp_path / "log.txt")
    yield run
    run.end()


@pytest.mark.parametrize("seed", range(RUNS), ids=str)
def test_five_kills_at_random_moments_change_no_bit_and_leave_no_process(
    seed: int, undisturbed: Path, killed: Killed
) -> None:
    rng = random.Random(seed)
    whom = ["worker", "worker", "run", "both", rng.choice(["worker", "run", "both"])]
    rng.shuffle(whom)
    assert len(whom) == KILLS
    for one in whom:
        killed.kill(one, rng)
    killed.finish()
    assert content(killed.directory) == content(undisturbed / "run")
