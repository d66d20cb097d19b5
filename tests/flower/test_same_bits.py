"""A run over Flower's Grid trains the same adapters, bit for bit, as the run in one process."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from safetensors.torch import load_file

pytest.importorskip("flwr", reason="needs the extra `flower`")

import fibecfed
from crash import Crash, CrashAt
from fibecfed import Config, InputError, RunFailed
from fibecfed.cli.running import Introduction
from fibecfed.config import DeviceConfig, build_config, merge, to_dict
from fibecfed.federation import ServerState
from fibecfed.flower.over_machines import CHANGES, serve
from fibecfed.flower.serving import DeviceServer
from fibecfed.results import RunDirectory
from fibecfed.runtime import assemble
from flower_grid import Nodes
from flower_sites import NAMES, devices, same_adapters, servers, together, write_sites
from run_content import settled

METHODS = ["fedavg-lora", "fibecfed"]


@pytest.fixture(scope="module")
def sites(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sites(rows_file, tmp_path_factory.mktemp("three"))


def quiet(line: str) -> None:
    return None


def over_grid(config: Config, nodes: Nodes, out: Path) -> ServerState:
    if not out.exists():
        RunDirectory.create(out, config, "", force=False)
    return serve(nodes, out, [], quiet, poll_seconds=0.01).state


@pytest.mark.parametrize("method", METHODS)
def test_same_bits_as_in_one_process(small: Config, sites: Path, tmp_path: Path, method: str) -> None:
    config = together(small, sites, method)
    one = fibecfed.run(config, tmp_path / "one")
    nodes = Nodes(devices(sites, tmp_path / "own", config.model.name))
    state = over_grid(servers(config), nodes, tmp_path / "grid")
    same_adapters(tmp_path / "one", tmp_path / "grid", [tmp_path / "own" / name for name in NAMES])
    assert state.device_versions == one.state.device_versions
    assert state.info == one.state.info
    metrics = RunDirectory(tmp_path / "grid").metrics()
    for mine, theirs in zip(metrics, one.metrics, strict=True):
        mine, theirs = settled(mine), settled(theirs)
        for key in theirs:
            assert mine[key] == (pytest.approx(theirs[key]) if "loss" in key else theirs[key]), key
    with pytest.raises(InputError, match="is a run over machines"):
        fibecfed.evaluate_run(tmp_path / "grid")
    (own,) = (path.parent for path in (tmp_path / "own" / "east").glob("*/adapter"))
    (mine,) = fibecfed.load(own).predict(["my money back please"])  # a site uses its own model like any run's
    device = 0 if (tmp_path / "one" / "adapters" / "0").is_dir() else None
    assert [mine] == fibecfed.load(tmp_path / "one", device).predict(["my money back please"])
    for name in NAMES:  # what lies on a device is what the same device has in one process
        for path in (tmp_path / "own" / name).glob("*/states/*/*.safetensors"):
            twin = next((tmp_path / "one" / "devices" / path.parent.name).glob(path.name))
            mine, theirs = load_file(path), load_file(twin)
            assert mine.keys() == theirs.keys()
            assert all(mine[n].equal(theirs[n]) for n in mine)


@pytest.mark.parametrize(("method", "compression"), [("fedavg-lora", "top-k"), ("fibecfed", "int8")])
def test_packed_messages_give_the_same_bits(
    small: Config, sites: Path, tmp_path: Path, method: str, compression: str
) -> None:
    packed = {"federation": {"compression": compression}, "lora": {"rank": 8}}
    config = build_config(merge(to_dict(together(small, sites, method)), packed))
    one = fibecfed.run(config, tmp_path / "one")
    nodes = Nodes(devices(sites, tmp_path / "own", config.model.name))
    state = over_grid(servers(config), nodes, tmp_path / "grid")
    same_adapters(tmp_path / "one", tmp_path / "grid", [tmp_path / "own" / name for name in NAMES])
    assert state.residual_versions == one.state.residual_versions != {}
    assert (state.costs.bytes_up, state.costs.bytes_down) == (one.state.costs.bytes_up, one.state.costs.bytes_down)
    kept = [path for name in NAMES for path in (tmp_path / "own" / name).glob("*/states/*/residual/*.safetensors")]
    for path in kept:
        mine = load_file(path)
        theirs = load_file(tmp_path / "one" / "devices" / path.parts[-3] / "residual" / path.name)
        assert mine.keys() == theirs.keys() != set()
        assert all(mine[n].equal(theirs[n]) for n in mine)
    assert {int(path.parts[-3]) for path in kept} == state.residual_versions.keys()


def test_server_and_devices_die_and_nothing_changes(small: Config, sites: Path, tmp_path: Path) -> None:
    config = together(small, sites, "fibecfed")
    fibecfed.run(config, tmp_path / "one")
    out, own = tmp_path / "grid", tmp_path / "own"
    RunDirectory.create(out, servers(config), "", force=False)
    for phases in (2, 2):
        with pytest.raises(Crash):
            serve(Nodes(devices(sites, own, config.model.name)), out, [CrashAt(phases)], quiet, poll_seconds=0.01)
    over_grid(servers(config), Nodes(devices(sites, own, config.model.name)), out)
    same_adapters(tmp_path / "one", out, [own / name for name in NAMES])


def test_a_run_goes_on_with_more_rounds_and_another_deadline(small: Config, sites: Path, tmp_path: Path) -> None:
    config = servers(together(small, sites, "fedavg-lora", rounds=1))
    nodes = Nodes(devices(sites, tmp_path / "own", config.model.name))  # the same processes all the time
    over_grid(config, nodes, tmp_path / "grid")
    directory = RunDirectory(tmp_path / "grid")
    directory.write_json(CHANGES, {"federation": {"rounds": 2, "deadline_seconds": 33.0}})
    said: list[str] = []
    shown = io.StringIO()
    result = serve(
        nodes, tmp_path / "grid", [Introduction(Console(file=shown, width=200))], said.append, poll_seconds=0.01
    )
    assert result.state.round == 2
    held = sum(len(pd.read_csv(path)) for path in (sites / "sites").iterdir())
    assert f"{held} training examples on the devices" in shown.getvalue()
    here = assemble(together(small, sites, "fedavg-lora"))  # the same facts under the same keys, wherever they lie
    facts = result.summary["data"], json.loads((tmp_path / "grid" / "partition.json").read_text())
    for there, one in zip(facts, (here.data_summary(), here.partition()), strict=True):
        assert there.keys() == one.keys()
    assert facts[0]["train_examples"] == here.data_summary()["train_examples"] == held
    assert facts[1]["train_sizes"] == here.partition()["train_sizes"]
    assert not any("refused" in line for line in said)
    assert directory.config().federation.deadline_seconds == 33.0
    summary = directory.summary()
    assert summary is not None and summary["dataset"] == "the sites' own text"
    card = (tmp_path / "grid" / "README.md").read_text()
    assert "support" not in card.splitlines()[6] and "fedavg-lora on the sites' own text" in card
    assert summary["traffic"]["all"]["up"] + summary["traffic"]["all"]["down"] == sum(
        map(len, [*nodes.received, *(data for _, _, data in nodes.sent)])
    )


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("harm", "reason"), [(damage, "damaged"), (Path.unlink, "missing")])
def test_a_device_that_lost_its_state_begins_anew(
    small: Config, sites: Path, tmp_path: Path, harm: Callable[[Path], None], reason: str
) -> None:
    config = servers(together(small, sites, "fibecfed"))
    out, own = tmp_path / "grid", tmp_path / "own"
    RunDirectory.create(out, config, "", force=False)
    with pytest.raises(Crash):
        serve(Nodes(devices(sites, own, config.model.name)), out, [CrashAt(4)], quiet, poll_seconds=0.01)
    states = sorted((own / "north").glob("*/states/*/*.safetensors"))
    assert states
    for path in states:
        harm(path)
    over_grid(config, Nodes(devices(sites, own, config.model.name)), out)
    summary = RunDirectory(out).summary()
    assert summary and {(s["device"], s["reason"]) for s in summary["lost"]["states"]} == {(1, reason)}
    assert load_file(next((own / "north").glob("*/adapter/adapter_model.safetensors")))


def test_no_text_no_score_and_no_local_layer_travels(small: Config, sites: Path, tmp_path: Path) -> None:
    config = servers(together(small, sites, "fibecfed"))
    nodes = Nodes(devices(sites, tmp_path / "own", config.model.name))
    state = over_grid(config, nodes, tmp_path / "grid")
    texts = [text for path in (sites / "sites").iterdir() for text in pd.read_csv(path)["text"]]
    words = {text.encode() for text in texts if len(text) > 12}
    for data in [*nodes.received, *(data for _, _, data in nodes.sent)]:
        assert not any(word in data for word in words)
        assert b"difficulty" not in data
        assert str(sites).encode() not in data
    local = [
        tensor.numpy().tobytes()
        for path in (tmp_path / "own").glob("*/*/states/*/*.safetensors")
        for name, tensor in load_file(path).items()
        if name.startswith("local/") and not tensor.equal(state.tensors[name.removeprefix("local/")])
    ]
    assert local
    for data in nodes.received:
        assert not any(values in data for values in local)


def test_a_device_that_does_not_fit_is_refused_and_both_sides_say_why(
    small: Config, sites: Path, llama: Path, tmp_path: Path
) -> None:
    config = servers(together(small, sites, "fedavg-lora"))
    config = build_config(merge(to_dict(config), {"federation": {"deadline_seconds": 1.0, "minimum_replies": 2}}))
    (tmp_path / "odd.csv").write_text("text,label\nwhere is my kettle,delivery\nI am cross about my kettle,anger\n")
    here: list[str] = []
    nodes: dict[int, DeviceServer] = devices(sites, tmp_path / "own", config.model.name)
    for node, changed in ((100, {"model": {"name": str(llama)}}), (101, {"data": {"file": str(tmp_path / "odd.csv")}})):
        own = {"device": node - 100, "folder": str(tmp_path / str(node)), "model": {"name": config.model.name}}
        data = {"file": str(sites / "sites" / "east.csv")}
        nodes[node] = DeviceServer(DeviceConfig(**{**own, "data": data, **changed}), here.append)
    there: list[str] = []
    RunDirectory.create(tmp_path / "grid", config, "", force=False)
    with pytest.raises(RunFailed, match="Only 1 of 3 devices joined"):
        serve(Nodes(nodes), tmp_path / "grid", [], there.append, poll_seconds=0.01)
    for said in (here, there):
        assert any("base model's weights differ" in line for line in said)
    assert any("has the label 'anger'" in line for line in here)
    assert not any("anger" in line for line in there)  # it may be of the site's text
    assert any("its own log says why" in line for line in there)
