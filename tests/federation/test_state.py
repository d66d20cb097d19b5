"""Server and device states come back from bytes, and stores keep the versions that resume needs."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibecfed.federation import (
    Costs,
    DeviceState,
    DeviceStore,
    DiskStore,
    MemoryStore,
    ServerState,
    StateLost,
    write_atomically,
)
from fibecfed.training import DeviceFailed


def state(value: float) -> DeviceState:
    return DeviceState(local={"w": torch.full((2,), value)}, memory={"w/step": torch.tensor(value)}, info={"v": value})


def test_a_server_state_comes_back_whole() -> None:
    before = ServerState(
        round=4,
        tensors={"a": torch.arange(3.0)},
        info={"layers": [1, 2]},
        memory={"momentum": torch.ones(2, dtype=torch.float64)},
        device_versions={11: 2, 3: 1},
        costs=Costs(bytes_up=5, cpu_seconds=0.1 + 0.2),
    )
    after, extra = ServerState.unpack(before.pack({"records": [{"round": 1}]}))
    assert extra == {"records": [{"round": 1}]}
    assert (after.round, after.info, after.device_versions) == (4, {"layers": [1, 2]}, {3: 1, 11: 2})
    assert after.costs == before.costs
    assert torch.equal(after.tensors["a"], before.tensors["a"])
    assert torch.equal(after.memory["momentum"], before.memory["momentum"])


def test_costs_add_up() -> None:
    total = Costs(1, 2, 3, 4, 5.0, 6.0, 7.0) + Costs(10, 20, 30, 40, 50.0, 60.0, 70.0)
    assert total == Costs(11, 22, 33, 44, 55.0, 66.0, 77.0)


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DeviceStore:
    return MemoryStore() if request.param == "memory" else DiskStore(tmp_path, "run")


def test_a_store_keeps_the_accepted_version_and_the_one_offered(store: DeviceStore) -> None:
    assert store.load(5, 0) is None
    assert store.save(5, state(1.0), after=0) == 1
    assert store.save(5, state(2.0), after=1) == 2
    assert store.save(5, state(3.0), after=2) == 3
    with pytest.raises(StateLost, match="missing"):
        store.load(5, 1)  # older than the accepted one
    for version in (2, 3):
        kept = store.load(5, version)
        assert kept is not None
        assert kept.info == {"v": float(version)}
        assert kept.local["w"].tolist() == [version, version]
        assert kept.memory["w/step"].item() == version
    with pytest.raises(StateLost, match="missing"):
        store.load(6, 3)
    assert store.load(6, 0) is None


def test_a_refused_state_is_replaced_by_the_next_from_the_same_version(store: DeviceStore) -> None:
    store.save(5, state(1.0), after=0)
    store.save(5, state(2.0), after=1)  # the server never heard of it
    assert store.save(5, state(9.0), after=1) == 2
    kept = store.load(5, 2)
    assert kept is not None
    assert kept.info == {"v": 9.0}
    assert store.load(5, 1) is not None


def test_a_state_of_a_later_time_does_not_survive_a_step_back(store: DeviceStore) -> None:
    for after in range(3):
        store.save(5, state(float(after)), after=after)
    store.save(5, state(7.0), after=2)
    kept = store.load(5, 3)
    assert kept is not None
    assert kept.info == {"v": 7.0}


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def disk(path: Path) -> tuple[DiskStore, Path]:
    """A store with version 1 of device 5's state, and its file."""
    store = DiskStore(path, "run")
    info = {"pair": (1, 2.5), "none": None}
    memory = {"m": torch.arange(3), "flag": torch.tensor([True]), "half": torch.ones(2, dtype=torch.bfloat16)}
    store.save(
        5, DeviceState(local={"w": torch.full((2,), 0.1), "empty": torch.empty(0, 3)}, memory=memory, info=info), 0
    )
    return store, path / "5" / "1.safetensors"


def test_a_whole_file_is_read_back(tmp_path: Path) -> None:
    kept = disk(tmp_path)[0].load(5, 1)
    assert kept is not None
    assert kept.local["w"].tolist() == pytest.approx([0.1, 0.1])
    assert kept.memory["m"].tolist() == [0, 1, 2]
    assert kept.info == {"pair": [1, 2.5], "none": None}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_counts_as_lost(tmp_path: Path, data: st.DataObject) -> None:
    store, file = disk(tmp_path)
    good = file.read_bytes()
    length = data.draw(st.integers(0, len(good)))
    position = data.draw(st.integers(0, len(good) - 1))
    changed, untouched = bytearray(good), 0
    changed[position] ^= data.draw(st.integers(1, 255))
    for bad in (good[:length] if length < len(good) else b"", bytes(changed)):
        file.write_bytes(bad)
        with suppress(StateLost):
            kept = store.load(5, 1)
            assert kept is not None  # a space in the JSON: the content is the same
            assert torch.equal(kept.local["w"], torch.full((2,), 0.1))
            assert kept.info == {"pair": [1, 2.5], "none": None}
            untouched += 1
    assert untouched < 2


def test_a_file_of_another_run_device_or_version_is_foreign(tmp_path: Path) -> None:
    store, file = disk(tmp_path)
    for place in ("5/2", "6/1"):
        target = tmp_path / f"{place}.safetensors"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(file.read_bytes())
        device, version = map(int, place.split("/"))
        with pytest.raises(StateLost, match="foreign"):
            store.load(device, version)
    with pytest.raises(StateLost, match="foreign"):
        DiskStore(tmp_path, "another run").load(5, 1)


def test_files_of_others_in_the_folder_do_no_harm(tmp_path: Path) -> None:
    store, file = disk(tmp_path)
    (file.parent / "notes.safetensors").write_text("mine")
    assert store.save(5, state(1.0), after=1) == 2


def test_a_state_that_cannot_be_written_is_a_failed_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DeviceFailed, match="could not be written"):
        DiskStore(tmp_path / "file", "run").save(5, state(1.0), after=0)
