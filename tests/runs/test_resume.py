"""Kill -9 at random moments, then resume: bit-identical to the run that nobody disturbed."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

import fibecfed
import forking
from crash import Crash, CrashAt
from fibecfed import Config, InputError
from fibecfed.callbacks import Callback
from fibecfed.config import build_config, merge, to_dict, to_yaml
from fibecfed.federation import StageDone
from fibecfed.methods import METHODS
from run_content import content

ONE_EXCHANGE = ("device-majority", "ridge-head", "head-only")  # nothing to be cut in the middle of
STATELESS_AND_STATEFUL = [pytest.param("fedavg-lora", marks=pytest.mark.long), "fibecfed"]


def longer(config: Config, method: str, **values: object) -> Config:
    settings = {"method": method, "federation": {"rounds": 6}, "training": {"keep_optimizer": True}}
    return build_config(merge(merge(to_dict(config), settings), values))


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ONE_EXCHANGE])
def test_resuming_after_any_phase_changes_no_bit(small: Config, tmp_path: Path, method: str) -> None:
    config = longer(small, method, federation={"rounds": 4}, evaluation={"every": 2})
    lost = fibecfed.run(config, tmp_path / "whole").summary["lost"]
    assert lost == {"replies": 0, "by_kind": {}, "by_device": {}, "states": []}
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(2)])
    with pytest.raises(Crash):
        fibecfed.resume(tmp_path / "cut", callbacks=[CrashAt(1)])
    fibecfed.resume(tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_a_device_state_the_server_never_accepted_is_not_used(small: Config, tmp_path: Path) -> None:
    """The process dies after devices stored their new state, before the checkpoint."""
    config = longer(small, "local-only", evaluation={"every": 3})
    fibecfed.run(config, tmp_path / "whole")
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(3)])
    before = (tmp_path / "cut" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(Crash):
        fibecfed.resume(tmp_path / "cut", callbacks=[CrashAt(1)])
    (tmp_path / "cut" / "checkpoint.safetensors").write_bytes(before)  # as if it had not been written
    fibecfed.resume(tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def start(arguments: list[str]) -> forking.Popen:
    return forking.Popen(["-m", "fibecfed", "run", *arguments], stdout=forking.PIPE, stderr=forking.STDOUT)


@pytest.mark.slow
@pytest.mark.parametrize("method", STATELESS_AND_STATEFUL)
def test_kill_minus_nine_at_random_moments(small: Config, tmp_path: Path, method: str) -> None:
    config = longer(small, method, federation={"rounds": 25}, training={"batch_size": 4}, evaluation={"every": 5})
    fibecfed.run(config, tmp_path / "whole")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    rng, cut, kills = random.Random(method), tmp_path / "cut", 0
    arguments = [str(tmp_path / "config.yaml"), "--out", str(cut)]
    for _ in range(12):
        process = start(arguments)
        while not (cut / "config.yaml").is_file() and process.poll() is None:
            time.sleep(0.01)
        if kills < 3:
            seen = (cut / "checkpoint.safetensors").stat().st_mtime if kills else 0.0
            while process.poll() is None:  # into its rounds, then a moment more
                path = cut / "checkpoint.safetensors"
                if path.is_file() and path.stat().st_mtime > seen:
                    break
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.4))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
        output, _ = process.communicate(timeout=120)
        if (cut / "summary.json").is_file():
            break
        assert process.returncode == -signal.SIGKILL, output
        arguments = ["--resume", str(cut)]
    assert kills, "the run ended before it could be killed"
    assert content(cut) == content(tmp_path / "whole")


def test_ctrl_c_leaves_a_directory_that_can_be_resumed(small: Config, tmp_path: Path) -> None:
    config = longer(small, "fedavg-lora", federation={"rounds": 400})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    process = start([str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")])
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text()) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert f"--resume {tmp_path / 'run'}" in output.replace("\n", "")
    done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert done > 0
    state = fibecfed.resume(tmp_path / "run", callbacks=[Stop(done + 2)]).state
    assert state.round == done + 2


class Stop(Callback):
    def __init__(self, round: int) -> None:
        self.round = round

    def stage_done(self, done: StageDone, record: object) -> bool:
        return done.state.round >= self.round


def test_resuming_a_finished_run_changes_nothing(small: Config, tmp_path: Path) -> None:
    fibecfed.run(small, tmp_path / "run")
    before = content(tmp_path / "run")
    fibecfed.resume(tmp_path / "run")
    assert content(tmp_path / "run") == before


def test_a_run_whose_states_were_in_memory_cannot_be_resumed(small: Config, tmp_path: Path) -> None:
    config = longer(small, "local-only", runtime={"device_states": "memory"})
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "run", callbacks=[CrashAt(2)])
    with pytest.raises(InputError, match="device_states"):
        fibecfed.resume(tmp_path / "run")


def test_an_existing_directory_is_not_overwritten(small: Config, tmp_path: Path) -> None:
    fibecfed.run(small, tmp_path / "run")
    with pytest.raises(InputError, match="force=True"):
        fibecfed.run(small, tmp_path / "run")
    fibecfed.run(small, tmp_path / "run", force=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="will not delete"):
        fibecfed.run(small, tmp_path / "notes", force=True)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "mine"


def test_a_broken_configuration_never_touches_the_directory(small: Config, tmp_path: Path) -> None:
    fibecfed.run(small, tmp_path / "run")
    before = content(tmp_path / "run")
    with pytest.raises(InputError):
        fibecfed.run(longer(small, "no-such-method"), tmp_path / "run", force=True)
    assert content(tmp_path / "run") == before


@pytest.mark.drawn
def test_the_directory_holds_what_is_promised(small: Config, tmp_path: Path) -> None:
    fibecfed.run(longer(small, "local-only", federation={"rounds": 6}), tmp_path / "run")
    directory = tmp_path / "run"
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "partition.json", "README.md", "curves.png"):
        assert (directory / name).stat().st_size, name
    summary = json.loads((directory / "summary.json").read_text())
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    wanted = "round accuracy_global accuracy_personalized bytes_up bytes_down examples_trained examples_scored"
    for record in records:
        assert set((wanted + " cpu_seconds simulated_seconds").split()) <= set(record)
    for protocol in ("global", "personalized"):
        assert summary["accuracy"][protocol] == records[-1][f"accuracy_{protocol}"]
    assert summary["bytes"] == {"up": records[-1]["bytes_up"], "down": records[-1]["bytes_down"]}
    assert (summary["method"], summary["dataset"], summary["seed"], summary["rounds"]) == (
        "local-only", "messages", 0, 6,
    )  # fmt: skip
    assert {"cpu", "simulated", "wall"} == set(summary["seconds"])
    for key in ("worst_tenth", "peak_memory_bytes", "versions", "hardware", "git_commit", "config_hash"):
        assert key in summary
    assert fibecfed.load_config(directory / "config.yaml").federation.rounds == 6
    sampled = {p.name for p in (directory / "adapters").iterdir()}
    assert sampled == {p.name for p in (directory / "devices").iterdir()}
    assert all((directory / "adapters" / d / "adapter_config.json").is_file() for d in sampled)
