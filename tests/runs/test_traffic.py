"""The recorded traffic of a whole run holds no text, no token ids, no example score and no local layer."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fibecfed
from fibecfed import Config
from fibecfed.callbacks import Callback
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Address, Device, DeviceSide, Reply, Request, ServerState, decode, encode
from fibecfed.methods.fibecfed_parts.initialization import DIFFICULTY
from fibecfed.runtime import Experiment, in_process
from fibecfed.training import DeviceFailed


class Watch(Callback):
    """Keeps the experiment, to know afterwards what must not have been sent."""

    def started(self, experiment: Experiment, state: ServerState, records: object) -> None:
        self.experiment = experiment


class Recorded:
    """A run, all bytes that crossed in it, and the devices as they are at its end."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: list[tuple[type, bytes]] = []

        def recording(message: Request | Reply) -> bytes:
            data = encode(message)
            self.messages.append((type(message), data))
            return data

        monkeypatch.setattr(in_process, "encode", recording)
        watch = Watch()
        self.state = fibecfed.run(config, callbacks=[watch]).state
        self.experiment = watch.experiment
        self.traffic = b"\n".join(data for _, data in self.messages)

    def devices(self) -> Iterator[Device]:
        for number in sorted(self.state.device_versions):
            yield self.experiment.device(number, self.state)

    def holds(self, *patterns: bytes) -> bool:
        return any(pattern in self.traffic for pattern in patterns)


@pytest.fixture
def recorded(small: Config, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """FibecFed with a warm-up, difficulty that is refreshed, local layers and rows of them chosen."""
    rows = pd.read_csv(rows_file)
    rows["text"] = [f"{text} qz{number:03d}kx" for number, text in enumerate(rows["text"])]
    rows.to_csv(tmp_path / "marked.csv", index=False)
    values = {
        "method": "fibecfed",
        "data": {"file": str(tmp_path / "marked.csv")},
        "federation": {"devices": 4, "sampled": 3, "rounds": 5},
        "warm_up": {"rounds": 2},
        "curriculum": {"refresh": True},
        "sharing": {"count": 1},
        "training": {"keep_optimizer": True, "local_epochs": 2},
    }
    return Recorded(build_config(merge(to_dict(small), values)), monkeypatch)


def windows(values: np.ndarray, length: int) -> Iterator[np.ndarray]:
    return (values[start : start + length] for start in range(len(values) - length + 1))


def as_numbers(values: np.ndarray) -> Iterator[bytes]:
    """A piece of data as any message could hold it: binary in every usual type, or JSON."""
    for dtype in (np.int16, np.int32, np.int64, np.float32, np.float64):
        yield values.astype(dtype).tobytes()
    for separators in ((",", ":"), (", ", ": ")):
        yield json.dumps(values.tolist(), separators=separators)[1:-1].encode()


def test_the_search_finds_what_does_travel(recorded: Recorded) -> None:
    """The shared layer's values and the layer scores are there: a search that finds nothing would prove nothing."""
    shared = recorded.experiment.method.shared(recorded.state)
    _, last = recorded.messages[-1]
    for name, tensor in decode(last, Reply).tensors.items():
        assert name in shared
        assert recorded.holds(tensor.numpy().tobytes())
    assert recorded.holds(b"layer_scores")
    assert {kind for kind, _ in recorded.messages} == {Request, Reply}
    assert len(recorded.messages) == 2 * 3 * 6  # five rounds and the initialization, three devices, both ways


def test_no_text_and_no_label_of_an_example(recorded: Recorded) -> None:
    data = recorded.experiment.data.train
    assert not recorded.holds(*(f"qz{number:03d}kx".encode() for number in range(120)))
    assert not recorded.holds(b"parcel", b"charged twice", b"billing", b"delivery", b"praise")
    for number in range(len(data)):
        batch = data.batch(np.array([number]))
        ids = batch.input_ids[0][: int(data.lengths[number])].numpy()
        assert not recorded.holds(*as_numbers(ids))
        for part in windows(ids, 4):  # four tokens in a row already say something
            assert not recorded.holds(part.astype(np.int32).tobytes(), part.astype(np.int64).tobytes())
    mixed = 0
    for device in recorded.devices():
        assert not recorded.holds(*as_numbers(device.indices))
        labels = data.targets[device.indices]
        if len(np.unique(labels)) > 1:  # a row of nothing but zeros is everywhere
            mixed += 1
            assert not recorded.holds(*as_numbers(labels))
    assert mixed


def test_no_score_of_an_example(recorded: Recorded) -> None:
    seen = 0
    for device in recorded.devices():
        assert device.state is not None
        for name in (DIFFICULTY, f"first {DIFFICULTY}"):
            scores = device.state.memory[name].double().numpy()
            assert len(np.unique(scores)) > 5
            seen += len(scores)
            assert not recorded.holds(*(score.tobytes() for score in scores))
            assert not recorded.holds(*(repr(float(score)).encode() for score in scores))
            for pair in windows(scores.astype(np.float32), 2):
                assert not recorded.holds(pair.tobytes())
            for pair in windows(np.sort(scores).astype(np.float32), 2):
                assert not recorded.holds(pair.tobytes())
    assert seen > 100
    for _, data in recorded.messages:
        assert b"difficulty" not in data


def test_no_local_layer_after_the_warm_up(recorded: Recorded) -> None:
    """What a device trained of its own layers: each row that it changed is nowhere in the traffic."""
    layers = recorded.state.info["layers"]
    local = [p for p in recorded.experiment.layout if p.layer is not None and p.layer not in layers]
    changed = 0
    for device in recorded.devices():
        assert device.state is not None
        assert {p.name for p in local} == set(device.state.local)
        for parameter in local:
            mine, start = device.state.local[parameter.name], recorded.state.tensors[parameter.name]
            for row in torch.nonzero((mine != start).all(dim=1)).flatten().tolist():
                changed += 1
                for part in windows(mine[row].numpy(), 2):
                    assert not recorded.holds(part.tobytes())
    assert changed > 20
    replies = [decode(data, Reply) for kind, data in recorded.messages if kind is Reply]
    after = [r for r in replies if r.address.round > 2 and r.address.stage == "train"]
    assert len(after) == 9
    assert not {p.name for p in local} & {name for reply in after for name in reply.tensors}


def test_optimizer_moments_and_rows_stay(recorded: Recorded) -> None:
    for device in recorded.devices():
        assert device.state is not None
        for name, tensor in device.state.memory.items():
            if name.startswith("optimizer/") and tensor.numel() > 2 and tensor.any():
                values = tensor.flatten()[tensor.flatten() != 0][:8].numpy()
                assert not recorded.holds(values.tobytes())
    assert not recorded.holds(b"optimizer/", b"rows/")


def test_a_device_gives_a_server_that_lies_no_more(recorded: Recorded) -> None:
    """The server names stages and layers; a device still sends no local layer and no sums."""
    experiment, state = recorded.experiment, recorded.state
    method, layers = experiment.method, list(range(experiment.layout.layers))
    shared = {name: state.tensors[name] for name in method.shared(state)}
    said = {"layers": layers, "step": 1, "steps": 3}
    number, version = max(state.device_versions.items())

    def ask(stage: str, tensors: dict[str, torch.Tensor], info: dict[str, object]) -> None:
        request = Request(Address("run", 6, stage, number, 0, version), tensors, info)
        DeviceSide(method, experiment.site).answer(request)

    with pytest.raises(DeviceFailed, match="no stage of this method"):
        ask("merge", {}, {"layers": []})
    with pytest.raises(DeviceFailed, match="layers that it did not send"):
        ask("train", shared, said)
    with pytest.raises(DeviceFailed, match="no stage of this method"):
        ask("statistics", {}, said)
    ask("train", shared, {**said, "layers": state.info["layers"]})  # as it should be
