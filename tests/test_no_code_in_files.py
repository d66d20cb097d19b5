"""No file that a run reads can run code: nothing unpickles, and a pickle in a file's place is refused in a sentence."""

import ast
import os
import pickle
import shutil
from pathlib import Path

import pytest

import fibecfed
from fibecfed import Config, InputError
from fibecfed.callbacks import Callback
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Reply, Undecodable, decode

SOURCE = Path(fibecfed.__file__).parent
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "numpy.load", "np.load", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load_all", "pandas.read_pickle", "pd.read_pickle", "eval", "exec", "compile", "__import__",
}  # fmt: skip


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def offences(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and called(node) in FORBIDDEN_CALLS:
            found.append(called(node))
        elif isinstance(node, ast.Call) and called(node) == "yaml.load":
            loader = [ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"]
            found += [] if loader == ["_Loader"] else ["yaml.load"]  # config/loading.py: a yaml.SafeLoader
        elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            found += [] if ast.unparse(node.value) == "False" else ["trust_remote_code"]
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append("allow_pickle")
    return found


def test_the_sources_unpickle_nothing() -> None:
    found = {str(p.relative_to(SOURCE)): offences(p.read_text(encoding="utf-8")) for p in SOURCE.rglob("*.py")}
    assert len(found) > 100
    between_own_processes = {"training/parcels.py": ["pickle"]}  # of one run, through pipes
    assert {name: what for name, what in found.items() if what} == between_own_processes


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "torch.load(f)", "yaml.load(f, Loader=yaml.Loader)", "eval(x)",
     "np.load(f, allow_pickle=True)", "from_pretrained(x, trust_remote_code=allowed)"],
)  # fmt: skip
def test_the_search_finds_what_is_forbidden(source: str) -> None:
    assert offences(source)


class Bomb:
    """Whoever unpickles it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.fixture
def went_off(tmp_path: Path) -> Path:
    return tmp_path / "went off"


@pytest.fixture
def payload(went_off: Path) -> bytes:
    data = pickle.dumps(Bomb(went_off))
    pickle.loads(data)
    assert went_off.is_dir()  # it works
    went_off.rmdir()
    return data


class Crash(Exception):
    pass


class CrashAfter(Callback):
    def __init__(self, round: int) -> None:
        self.round = round

    def stage_done(self, done: object, record: object) -> bool:
        if done.state.round >= self.round:  # type: ignore[attr-defined]
            raise Crash
        return False


@pytest.fixture
def personal(small: Config) -> Config:
    changes = {"method": "fedsa-lora", "federation": {"devices": 3, "sampled": 3, "rounds": 3}}
    return build_config(merge(to_dict(small), changes))


def test_a_pickled_message_is_refused(payload: bytes, went_off: Path) -> None:
    with pytest.raises(Undecodable):
        decode(payload, Reply)
    assert not went_off.exists()


def test_a_pickled_checkpoint_is_refused(personal: Config, tmp_path: Path, payload: bytes, went_off: Path) -> None:
    with pytest.raises(Crash):
        fibecfed.run(personal, tmp_path / "run", callbacks=[CrashAfter(1)])
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(payload)
    with pytest.raises(InputError, match=r"checkpoint\.safetensors' cannot be read"):
        fibecfed.resume(tmp_path / "run")
    assert not went_off.exists()


def test_the_checkpoint_of_another_run_is_refused(personal: Config, tmp_path: Path) -> None:
    for name, rank in (("run", 2), ("other", 4)):
        config = build_config(merge(to_dict(personal), {"lora": {"rank": rank}}))
        with pytest.raises(Crash):
            fibecfed.run(config, tmp_path / name, callbacks=[CrashAfter(1)])
    shutil.copy(tmp_path / "other" / "checkpoint.safetensors", tmp_path / "run")
    with pytest.raises(InputError, match="is not one of this run"):
        fibecfed.resume(tmp_path / "run")


def test_a_device_state_that_is_a_pickle_is_lost_and_the_run_goes_on(
    personal: Config, tmp_path: Path, payload: bytes, went_off: Path
) -> None:
    with pytest.raises(Crash):
        fibecfed.run(personal, tmp_path / "run", callbacks=[CrashAfter(1)])
    states = tmp_path / "run" / "devices"
    (states / "0" / "1.safetensors").write_bytes(payload)
    (states / "1" / "1.safetensors").unlink()
    shutil.copy(states / "2" / "1.safetensors", tmp_path / "kept")
    result = fibecfed.resume(tmp_path / "run")
    assert not went_off.exists()
    lost = [{"round": 2, "stage": "train", "device": d, "reason": why} for d, why in ((0, "damaged"), (1, "missing"))]
    assert result.metrics[1]["states_lost"] == lost
    assert result.metrics[2]["states_lost"] == []
    assert result.summary["lost"]["states"] == lost
    assert result.summary["lost"]["replies"] == 0
    assert result.summary["rounds"] == 3


def test_a_device_that_lost_its_state_at_the_end_gets_no_adapter(personal: Config, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        fibecfed.run(personal, tmp_path / "run", callbacks=[CrashAfter(3)])
    (tmp_path / "run" / "devices" / "1" / "3.safetensors").write_bytes(b"")
    result = fibecfed.resume(tmp_path / "run")
    assert {p.name for p in (tmp_path / "run" / "adapters").iterdir()} == {"0", "2"}
    assert [(s["device"], s["reason"]) for s in result.summary["lost"]["states"]] == [(1, "damaged")]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "head.safetensors", "task.json"])
def test_a_pickled_adapter_file_is_refused(
    small: Config, tmp_path: Path, payload: bytes, went_off: Path, name: str
) -> None:
    fibecfed.run(small, tmp_path / "run")
    (tmp_path / "run" / "adapter" / name).write_bytes(payload)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        fibecfed.load(tmp_path / "run")
    assert not went_off.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_pickled_weights_of_a_base_model_are_refused(
    small: Config, bert: Path, tmp_path: Path, payload: bytes, went_off: Path, name: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bert, folder)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(payload)
    config = build_config(merge(to_dict(small), {"model": {"name": str(folder)}}))
    with pytest.raises(InputError, match="never read" if name.endswith("bin") else "cannot be loaded"):
        fibecfed.run(config)
    assert not went_off.exists()
