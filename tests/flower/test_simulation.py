"""Flower's own simulation of the app gives the adapters of the run in one process, bit for bit."""

import subprocess
from pathlib import Path

import pytest
import yaml

pytest.importorskip("flwr", reason="needs the extra `flower`")
pytest.importorskip("ray", reason="needs Flower's simulation: pip install 'flwr[simulation]'")

import fibecfed
from fibecfed import Config
from fibecfed.flower.processes import (
    APP,
    environment,
    flwr,
    free_port,
    running,
    superlink_command,
    wait_for_port,
)
from fibecfed.results import RunDirectory
from flower_sites import NAMES, same_adapters, servers, together, write_sites

DEVICES = "num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus=1"


@pytest.mark.long
@pytest.mark.timeout(280)
def test_same_bits_as_in_one_process(small: Config, rows_file: Path, tmp_path: Path) -> None:
    sites = write_sites(rows_file, tmp_path)
    config = together(small, sites, "fibecfed", rounds=2)
    fibecfed.run(config, tmp_path / "one")
    own, out, home = tmp_path / "own", tmp_path / "run", tmp_path / "flwr"
    for number, name in enumerate(NAMES):
        (own / str(number)).mkdir(parents=True)
        data = {"file": f"../../sites/{name}.csv", "test_file": f"../../tests/{name}.csv"}
        text = yaml.safe_dump({"device": number, "data": data, "model": {"name": config.model.name}, "folder": "."})
        (own / str(number) / "device.yaml").write_text(text)
    RunDirectory.create(out, servers(config), "", force=False)
    home.mkdir()
    port = free_port()  # `:local:` would be one server for all that this user simulates, and would outlive the test
    (home / "config.toml").write_text(f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    link = [superlink_command(home, port, insecure=True)[0], "--insecure", "--simulation", "--isolation", "subprocess"]
    setting = f'out="{out}" devices="{own}"'
    with running([*link, "--host", "127.0.0.1", "--port", str(port)], home) as superlink:
        wait_for_port(port, superlink, "the simulation")
        done = subprocess.run(
            flwr("run", str(APP), "here", "--stream", "--run-config", setting, "--federation-config", DEVICES),
            env=environment(home) | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            cwd=tmp_path, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
    assert (out / "summary.json").is_file(), done.stdout[-6000:] + done.stderr[-3000:]
    same_adapters(tmp_path / "one", out, [own / str(number) for number in range(3)])
