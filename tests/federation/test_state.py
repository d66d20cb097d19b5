"""Server and device states come back from bytes, and stores keep the versions that resume needs."""

from pathlib import Path

import pytest
import torch

from fibecfed.federation import Costs, DeviceState, DeviceStore, DiskStore, MemoryStore, ServerState, write_atomically


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
    return MemoryStore() if request.param == "memory" else DiskStore(tmp_path)


def test_a_store_keeps_the_accepted_version_and_the_one_offered(store: DeviceStore) -> None:
    assert store.load(5, 0) is None
    assert store.save(5, state(1.0), after=0) == 1
    assert store.save(5, state(2.0), after=1) == 2
    assert store.save(5, state(3.0), after=2) == 3
    assert store.load(5, 1) is None  # older than the accepted one
    for version in (2, 3):
        kept = store.load(5, version)
        assert kept is not None
        assert kept.info == {"v": float(version)}
        assert kept.local["w"].tolist() == [version, version]
        assert kept.memory["w/step"].item() == version
    assert store.load(6, 3) is None


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
