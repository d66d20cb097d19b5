"""Methods of other packages: found, checked, run; those of this package: found by themselves."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

import fibecfed
from fibecfed import load_config
from fibecfed.cli.app import app
from fibecfed.config import Config, DeviceConfig, build_config, changes, config_hash, dotted, to_dict
from fibecfed.errors import InputError
from fibecfed.federation import Address, Reply, Request, decode, encode
from fibecfed.flower import wire
from fibecfed.flower.serving import DeviceServer
from fibecfed.methods import METHODS, method_class, resolve, usable_methods
from fibecfed.results import RunDirectory
from fibecfed.runtime.handshake import Description
from fibecfed.side_by_side import WantedRun, run_side_by_side

PAGE = (Path(__file__).parents[2] / "docs" / "writing-a-method.md").read_text(encoding="utf-8")
ORDER = (
    "fibecfed fibecfed-plus fedavg-lora centralized-lora local-only device-majority ridge-head head-only fedavg+prior "
    "fedavg-plus "
    "fedrod fedavg+local-head fedavg+finetune random-pace random-subset loss-order momd moms-adamd fedalt ffa-lora "
    "fedsa-lora fedprox voc slw shortformer slora "
    "delta-lora adapter prompt-tuning fedprompt p-tuning-v2 lpt idpg attempt adalora"
)
WITHOUT_DEFAULT = """from pydantic.dataclasses import dataclass
    @dataclass
    class settings:
        a: int"""
Install = Callable[..., Path]


def block(language: str) -> str:
    """The one block of that language on the page."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    return str(found)


def put(folder: Path, package: str, name: str, target: str, module: str = "", text: str = "") -> None:
    """Make a package look installed in a folder."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[fibecfed.methods]\n{name} = {target}\n")
    if module:
        (folder / f"{module}.py").write_text(text)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def installed(*what: str) -> Path:
        put(folder, *what)
        importlib.invalidate_caches()
        return folder

    yield installed
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def half_way(install: Install) -> Path:
    return install("half-way", "half-way", "half_way:HalfWay", "half_way", block("python"))


def method_text(inside: str) -> str:
    return f"""
from fibecfed.methods import FederatedAveraging
class Own(FederatedAveraging):
    name = "own"
    {inside}
"""


def test_the_order_of_the_methods() -> None:
    assert list(METHODS) == ORDER.split()


def test_the_page_has_a_package_of_forty_lines() -> None:
    assert len(block("python").splitlines()) <= 45
    assert 'half-way = "half_way:HalfWay"' in block("toml")


def test_the_pages_method_runs(half_way: Path, small: Config, tmp_path: Path) -> None:
    content = {**to_dict(small), **yaml.safe_load(block("yaml"))}
    result = fibecfed.run(build_config(content), tmp_path / "run")
    assert result.summary["method"] == "half-way"
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert saved.settings == {"part": 0.25}
    said: list[str] = []
    info = (half_way / "half_way-1.0.dist-info").rename(half_way / "half_way-1.1.dist-info")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: half-way\nVersion: 1.1\n")
    fibecfed.resume(tmp_path / "run", report=said.append)
    assert "half-way 1.0 then, 1.1 now" in " ".join(said)


@pytest.mark.slow
def test_a_process_of_its_own_has_it(half_way: Path, small: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(small, method="half-way", settings={"part": 0.25})
    assert run_side_by_side([WantedRun("one", config, tmp_path / "one")], 1, _Silent()) == {}
    assert RunDirectory(tmp_path / "one").summary()["method"] == "half-way"


class _Silent:
    def progressed(self, wanted: WantedRun, event: object) -> None: ...

    def ended(self, wanted: WantedRun, reason: str | None) -> None: ...


def test_the_stage_goes_a_part_of_the_way(half_way: Path, small: Config) -> None:
    states = {}
    for method, settings in (("half-way", {"part": 0.25}), ("fedavg-lora", {})):
        one = {**to_dict(small), "method": method, "settings": settings}
        one["federation"] = {**one["federation"], "rounds": 1}
        experiment = fibecfed.runtime.assemble(build_config(one))
        stage = experiment.method.stages[0]
        states[method] = (experiment.start, experiment.server.exchange(experiment.start, stage).state)
    (start, part), (_, all_of_it) = states["half-way"], states["fedavg-lora"]
    for name, before in start.tensors.items():
        torch.testing.assert_close(part.tensors[name] - before, 0.25 * (all_of_it.tensors[name] - before))


def test_settings_are_checked(half_way: Path) -> None:
    config = build_config({"method": "half-way"})
    assert resolve(config).settings == {"part": 0.5}
    assert resolve(load_config(None, ["method=half-way", "settings.part=1e0"])).settings == {"part": 1.0}
    with pytest.raises(InputError, match=r"Unknown key 'settings.prat'.* Did you mean 'settings.part'"):
        resolve(build_config({"method": "half-way", "settings": {"prat": 0.1}}))
    with pytest.raises(InputError, match=r"Key 'settings.part' cannot be 2"):
        resolve(build_config({"method": "half-way", "settings": {"part": 2}}))
    with pytest.raises(InputError, match=r"method=fedprox has no settings of its own.*settings.part"):
        resolve(build_config({"method": "fedprox", "settings": {"part": 0.1}}))
    with pytest.raises(InputError, match=r"Key 'settings' cannot be 3"):
        build_config({"settings": 3})


def test_no_settings_leave_no_trace() -> None:
    assert "settings" not in to_dict(Config())
    assert not any(key.startswith("settings") for key in dotted(Config()))
    one, other = (build_config({"settings": {"part": part}}) for part in (0.1, 0.2))
    assert len({config_hash(c) for c in (Config(), one, other)}) == 3


def test_a_setting_that_is_changed_or_left_out_is_a_change() -> None:
    one, none = build_config({"settings": {"part": 0.1}}), Config()
    for before, after, said in ((one, none, (0.1, None)), (none, one, (None, 0.1))):
        (found,) = changes(dotted(before), after)
        assert (found.key, found.was, found.now) == ("settings.part", *said)
        assert not found.allowed


def test_the_commands_know_it(half_way: Path) -> None:
    listed = CliRunner().invoke(app, ["methods"])
    assert "half-way\tthis page\tas fedavg-lora" in listed.output
    shown = CliRunner().invoke(app, ["config", "--method", "half-way"])
    assert yaml.safe_load(shown.output) == {"settings": {"part": 0.5}}
    none = CliRunner().invoke(app, ["config", "--method", "fedprox"])
    assert none.exit_code == 2
    assert "brings no settings of its own" in none.output


def test_an_unknown_name_has_the_nearest_of_all(half_way: Path) -> None:
    with pytest.raises(InputError, match=r"Unknown method 'half-wya'.* Did you mean 'half-way'\?.*half-way\."):
        method_class("half-wya")


def test_two_packages_with_one_name(install: Install, half_way: Path) -> None:
    install("another", "half-way", "another:Own")
    install("impostor", "fedprox", "another:Own")
    with pytest.raises(InputError, match=r"Several packages .* 'half-way': another 1.0, half-way 1.0; uninstall"):
        method_class("half-way")
    with pytest.raises(InputError, match=r"Several packages .* 'fedprox': fibecfed, impostor 1.0; uninstall"):
        method_class("fedprox")
    found, troubles = usable_methods()
    assert list(found) == [name for name in METHODS if name != "fedprox"]
    assert len(troubles) == 2


@pytest.mark.parametrize("text", ["import nothing_like_this", "raise OSError('no\\ndisk')", "Other = 1", "x ="])
def test_what_cannot_be_imported_is_one_sentence(install: Install, text: str) -> None:
    install("broken-one", "own", "broken_module:Own", "broken_module", text)
    with pytest.raises(
        InputError, match=r"^Method 'own' of the package broken-one 1.0 cannot be imported \(.*\)[^\n]*$"
    ):
        method_class("own")
    listed = CliRunner().invoke(app, ["methods"])
    assert listed.exit_code == 0
    assert "broken-one 1.0 cannot be imported" in listed.output


@pytest.mark.parametrize(
    ("inside", "why"),
    [
        ("name = 'other'", "has to say name = 'own'"),
        ("tuning = 'lorra'", "no kind of tuning 'lorra'. Did you mean 'lora'"),
        ("tunings = 'adapter'", "'tunings' is a text"),
        ("trains = None", "'trains' is no text"),
        ("sections = frozenset({'proximl'})", "no section 'proximl'. Did you mean 'proximal'"),
        ("parts = {'sharing': {'row': 'none'}}", "no key 'sharing.row'. Did you mean 'rows'"),
        ("settings = dict", "'settings' is no class made with"),
        (
            "from pydantic.dataclasses import dataclass\n    @dataclass\n    class settings:\n        a: int",
            "'a' has no default",
        ),
    ],
)
def test_a_class_that_lacks_something(install: Install, inside: str, why: str) -> None:
    install("own-package", "own", "own_module:Own", "own_module", method_text(inside))
    with pytest.raises(InputError, match=f"of the package own-package 1.0 .*{re.escape(why)}"):
        method_class("own")


def test_what_is_no_method(install: Install) -> None:
    install("own-package", "own", "own_module:Own", "own_module", "class Own: name = 'own'")
    with pytest.raises(InputError, match=r"it is no subclass of fibecfed\.methods\.FederatedAveraging"):
        method_class("own")


def joining(method: str, package: str, folder: Path) -> str:
    """What a device says to a server that has this method of this package."""
    mine = Description("1", {}, "", "", (), (), package=package)
    assert Description.of(mine.to_content()) == mine
    info = {"settings": {"method": method}, "server": mine.to_content()}
    device = DeviceServer(DeviceConfig(folder=str(folder)), lambda line: None)
    return str(
        decode(device(wire.JOIN, encode(Request(Address("run", 0, "join", 0), {}, info))), Reply).info[wire.REFUSAL]
    )


def test_a_device_that_lacks_the_method_says_so(half_way: Path, tmp_path: Path) -> None:
    said = joining("own", "own-package 1.0", tmp_path)
    assert said == "it has no method 'own', which is of the package own-package 1.0 at the server; install that there"
    said = joining("half-way", "half-way 2.0", tmp_path)
    assert "'half-way' is of the package half-way 1.0, the server's of half-way 2.0" in said
    assert "half_way" not in sys.modules


def test_the_package_is_only_named_for_other_packages() -> None:
    assert "package" not in Description("1", {}, "", "", (), ()).to_content()


@pytest.mark.slow
def test_the_command_runs_it_and_loads_it_late(half_way: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(half_way), os.environ.get("PYTHONPATH", "")])}
    (half_way / "half_way.py").write_text("raise SystemError('it was imported')")
    code = (
        "import sys; from typer.testing import CliRunner; from fibecfed.cli.app import app; go = CliRunner().invoke\n"
        "assert go(app, ['--help']).exit_code == 0 and go(app, ['config']).exit_code == 0\n"
        "assert go(app, ['run', 'seed=x', '--out', 'nowhere']).exit_code == 2\n"
        "assert 'torch' not in sys.modules and 'half_way' not in sys.modules\n"
        "found = go(app, ['run', 'method=half-way', '--out', 'nowhere'])\n"
        "assert found.exit_code == 2 and 'it was imported' in found.output, found.output\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=half_way, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
