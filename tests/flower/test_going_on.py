"""A run over machines goes on as one in a process does: with more rounds, with its own data, with one writer."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `flower`")

import fibecfed
from fibecfed import Config, InputError
from fibecfed.config import build_config, merge, to_dict
from fibecfed.flower.over_machines import CHANGES, serve
from fibecfed.results import RunDirectory
from flower_grid import Nodes
from flower_sites import NAMES, devices, same_adapters, servers, together, write_sites


@pytest.fixture(scope="module")
def sites(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sites(rows_file, tmp_path_factory.mktemp("three"))


def quiet(line: str) -> None:
    return None


def test_more_rounds_are_those_of_a_run_in_one_process(small: Config, sites: Path, tmp_path: Path) -> None:
    config = together(small, sites, "fibecfed", rounds=2)
    fibecfed.run(config, tmp_path / "one")
    said: list[str] = []
    fibecfed.resume(tmp_path / "one", changes={"federation": {"rounds": 3}}, report=said.append)
    out, own = tmp_path / "grid", tmp_path / "own"
    RunDirectory.create(out, servers(config), "", force=False)
    serve(Nodes(devices(sites, own, config.model.name)), out, [], quiet, poll_seconds=0.01)
    heard: list[str] = []
    wanted = {"federation": {"rounds": 3, "deadline_seconds": 60.0}}
    RunDirectory(out).write_json(CHANGES, wanted)
    result = serve(Nodes(devices(sites, own, config.model.name)), out, [], heard.append, poll_seconds=0.01)
    assert result.summary["rounds"] == 3
    assert result.summary["lost"]["states"] == []
    assert "federation.rounds was 2, now 3" in " ".join(said)
    assert "federation.deadline_seconds was 3600.0, now 60.0" in " ".join(heard)
    same_adapters(tmp_path / "one", out, [own / name for name in NAMES])


def test_a_second_server_leaves_a_run_alone(
    small: Config, sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fibecfed.results.lock._PATIENCE", 0.1)
    out = tmp_path / "grid"
    RunDirectory.create(out, servers(together(small, sites, "fedavg-lora")), "", force=False)
    monkeypatch.setattr("fibecfed.flower.over_machines.resume", lambda *_, **__: second())

    def second() -> None:
        with ThreadPoolExecutor(1) as pool:
            error = pool.submit(serve, None, out, [], quiet).exception()
        assert isinstance(error, InputError)
        assert "another process" in str(error)
        assert not (out / "stopped.json").exists()
        raise InputError("it was refused")

    with pytest.raises(InputError, match="it was refused"):
        serve(Nodes(devices(sites, tmp_path / "own", "x")), out, [], quiet)
    assert "it was refused" in (out / "stopped.json").read_text()


def test_the_servers_own_test_data_belongs_to_the_run(small: Config, sites: Path, tmp_path: Path) -> None:
    test_file = tmp_path / "tests.csv"
    test_file.write_bytes((sites / "tests" / "east.csv").read_bytes())
    config = servers(together(small, sites, "fedavg-lora", rounds=1))
    config = build_config(merge(to_dict(config), {"data": {"test_file": str(test_file)}}))
    out, own = tmp_path / "grid", tmp_path / "own"
    RunDirectory.create(out, config, "", force=False)
    serve(Nodes(devices(sites, own, config.model.name)), out, [], quiet, poll_seconds=0.01)
    test_file.write_bytes((sites / "tests" / "west.csv").read_bytes())
    with pytest.raises(InputError, match="the test part has other texts"):
        serve(Nodes(devices(sites, own, config.model.name)), out, [], quiet, poll_seconds=0.01)
