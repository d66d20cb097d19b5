"""A real deployment on this machine: Flower's server and three devices, each a process of its own, over TLS."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

pytest.importorskip("flwr", reason="needs the extra `flower`")

import fibecfed
import forking
from fibecfed import Config
from fibecfed.config import build_config, merge, to_dict, to_yaml
from fibecfed.flower.processes import free_port
from fibecfed.results import RunDirectory
from flower_sites import NAMES, same_adapters, write_sites

PATIENCE = float(os.environ.get("FIBECFED_TEST_PATIENCE", "1"))  # factor for slow machines


class Command:
    """A `fibecfed` process in a process group of its own, with what it said."""

    def __init__(self, log: Path, *words: str) -> None:
        self.log = log
        with log.open("a") as file:
            self.process = forking.Popen(
                ["-m", "fibecfed", "flower", *words], stdout=file, stderr=forking.STDOUT, start_new_session=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        """-9 to everything in the group, as when the power goes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds * PATIENCE)


@contextmanager
def started(log: Path, *words: str) -> Iterator[Command]:
    command = Command(log, *words)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.kill()


def wait_for(what: str, happened: object, seconds: float, *watched: Command) -> None:
    ends = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < ends:
        if happened():  # type: ignore[operator]
            return
        if any(command.process.poll() in (1, 2) for command in watched):  # not -9: killed by the test
            break
        time.sleep(0.1)
    pytest.fail(f"{what} did not happen within {seconds:.0f} s\n{logs(*watched)}")


@pytest.fixture
def sites(rows_file: Path, tmp_path: Path) -> Path:
    """Three sites with text of their own, and the server's folder with certificates."""
    write_sites(rows_file, tmp_path)
    with started(
        tmp_path / "certificates.log",
        "certificates",
        "localhost",
        "--devices",
        "4",
        "--server",
        str(tmp_path / "server"),
    ) as made:
        assert made.wait(60) == 0, made.said()
    for number, name in enumerate(NAMES):
        data = {"file": f"../../../sites/{name}.csv", "test_file": f"../../../tests/{name}.csv"}
        text = yaml.safe_dump({"device": number, "data": data})
        (tmp_path / "server" / "devices" / str(number) / "device.yaml").write_text(text)
    (tmp_path / "server" / "keys" / "3.pub").unlink()  # the server does not know this device
    return tmp_path


def settings(small: Config, rounds: int, **values: object) -> Config:
    return build_config(
        merge(
            to_dict(small),
            {
                "method": "fibecfed",
                "data": {"file": None, "validation_fraction": 0.0, "labels": ["billing", "delivery", "praise"]},
                "federation": {
                    "devices": 3, "sampled": 3, "rounds": rounds, "minimum_replies": 2,
                    "deadline_seconds": 40.0 * PATIENCE,
                },
                "evaluation": {"every": rounds},
                **values,
            },
        )
    )  # fmt: skip


def device_words(sites: Path, number: int, port: int) -> list[str]:
    folder = sites / "server" / "devices" / str(number)
    return ["device", str(folder / "device.yaml"), "--server", f"localhost:{port}"]


def server_words(sites: Path, port: int) -> list[str]:
    return ["server", "--server", str(sites / "server"), "--host", "127.0.0.1", "--port", str(port)]


def run_words(sites: Path, *words: str) -> list[str]:
    return ["run", *words, "--server", str(sites / "server")]


def rounds_done(out: Path) -> int:
    loaded = RunDirectory(out).load_checkpoint()
    return loaded[0].round if loaded else 0


def has_round_3(device: Command) -> bool:
    """Whether a device has fetched its message; one that has not waits for a killed server's objects for a minute."""
    return "Received successfully" in device.said().partition("ROUND 3]")[2]


def logs(*commands: Command) -> str:
    return "\n".join(f"--- {c.log.name}\n{c.said()[-3000:]}" for c in commands)


def device_folder(sites: Path, number: int, out: Path) -> Path:
    """What a device keeps of a run."""
    name = json.loads((out / "name.json").read_text())["run"]
    return sites / "server" / "devices" / str(number) / "device" / name


def states(sites: Path, number: int, out: Path) -> dict[int, bytes]:
    """The states on a device's disk, by version."""
    folder = device_folder(sites, number, out) / "states" / str(number)
    return {int(path.stem): path.read_bytes() for path in folder.glob("*.safetensors")}


@pytest.mark.slow
@pytest.mark.timeout(600 * PATIENCE)  # each step has a limit of its own
def test_one_server_three_devices_and_a_stranger(small: Config, sites: Path) -> None:
    """A run whose bits are those of one process, while a stranger is refused; then one with kills."""
    port = free_port()
    one, other, third = sites / "one", sites / "run", sites / "killed"
    undisturbed = settings(small, rounds=2)
    together = {"file": str(sites / "sites"), "test_file": str(sites / "tests"), "partition": {"kind": "column"}}
    fibecfed.run(build_config(merge(to_dict(undisturbed), {"data": together})), one)
    (sites / "run.yaml").write_text(to_yaml(undisturbed))
    (sites / "killed.yaml").write_text(to_yaml(settings(small, rounds=3, warm_up={"rounds": 0})))
    stranger = sites / "server" / "devices" / "3" / "device.yaml"  # says it is device 0, with a key of its own
    stranger.write_text(yaml.safe_dump({"device": 0, "data": {"file": "../../../sites/east.csv"}}))
    with ExitStack() as stack:

        def start(log: str, *words: str) -> Command:
            return stack.enter_context(started(sites / log, *words))

        def start_device(number: int) -> Command:
            return start(f"device-{number}.log", *device_words(sites, number, port))

        server = start("server.log", *server_words(sites, port))
        wait_for("listening", lambda: "Listening" in server.said(), 60, server)
        refused = start_device(3)
        devices = [start_device(number) for number in range(3)]
        run = start("run.log", *run_words(sites, str(sites / "run.yaml"), "--out", str(other)))
        assert refused.wait(100) == 1
        assert "has the server this device's public key" in refused.said().replace("\n", " ")
        assert run.wait(150) == 0, logs(server, run, *devices)
        same_adapters(one, other, [sites / "server" / "devices" / str(number) / "device" for number in range(3)])

        run = start("killed.log", *run_words(sites, str(sites / "killed.yaml"), "--out", str(third)))
        wait_for("the first round", lambda: rounds_done(third) >= 1, 150, server, run, *devices)
        devices[1].kill()  # in mid-round: rounds follow one another without a pause
        kept = states(sites, 1, third)
        assert kept
        devices[1] = start_device(1)
        wait_for("a round without it", lambda: rounds_done(third) >= 2, 90, server, run, *devices)
        assert states(sites, 1, third) == kept

        fetched = [devices[0], devices[2]]
        wait_for("round 3 in mid-round", lambda: all(map(has_round_3, fetched)), 90, server, run, *devices)
        server.kill()
        assert run.wait(60) == 1
        assert "fibecfed flower run --resume" in run.said()
        server = start("server.log", *server_words(sites, port))
        wait_for("listening again", lambda: server.said().count("Listening") == 2, 60, server)
        run = start("killed.log", *run_words(sites, "--resume", str(third)))
        assert run.wait(150) == 0, logs(server, run, *devices)
    summary = json.loads((third / "summary.json").read_text())
    assert summary["rounds"] == 3
    assert set(summary["lost"]["by_device"]) == {"1"}
    assert summary["lost"]["states"] == []  # it went on with the local layers it had
    assert "made anew" not in devices[1].said()
    assert max(states(sites, 1, third)) > max(kept)
    for number in range(3):
        assert list(device_folder(sites, number, third).glob("adapter/adapter_model.safetensors"))
