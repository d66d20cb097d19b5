"""Packed messages: what is packed, the residual that joins the next change, bytes, runs that stop, what is refused."""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fibecfed
from crash import Crash, CrashAt
from fibecfed import Config, InputError, load_config
from fibecfed.config import build_config, merge, to_dict
from fibecfed.federation import Address, Device, MemoryStore, Reply, Request, Undecodable, decode, encode
from fibecfed.federation.compression import Compressed, compression_of
from fibecfed.federation.quantization import Int8Rows, TopK
from fibecfed.runtime import assemble
from fibecfed.tuning import Layout, Parameter
from run_content import content

MINILM = Layout(  # LoRA of rank 8 on query and value of six layers, and a head of six labels
    (
        *(
            Parameter(f"model.encoder.layer.{n}.attention.self.{map_}.{part}.default.weight", shape, n, part)
            for n in range(6)
            for map_ in ("query", "value")
            for part, shape in (("lora_A", (8, 384)), ("lora_B", (384, 8)))
        ),
        Parameter("head.weight", (6, 384), None, "head"),
        Parameter("head.bias", (6,), None, "head"),
    ),
    6,
)
ONE = Layout((Parameter("w", (2, 64), 0, "lora_A"),), 1)


def settings(compression: str, **federation: Any) -> Config:
    return load_config(federation={"compression": compression, **federation})


def values(layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(seed)
    return {p.name: torch.randn(p.shape, generator=noise) for p in layout}


def device(number: int = 0, store: MemoryStore | None = None) -> Device:
    return Device(SimpleNamespace(residuals=store or MemoryStore()), number, 0)  # type: ignore[arg-type]


def request(tensors: dict[str, Tensor], round: int = 1, number: int = 0, **info: Any) -> Request:
    return Request(Address("run", round, "train", number), tensors, info)


def change(**entries: float) -> Tensor:
    """(2, 64) zeros but for these entries of its first row, by place: ``_3=2.0``."""
    tensor = torch.zeros(2, 64)
    for place, value in entries.items():
        tensor[0, int(place[1:])] = value
    return tensor


def exchanged(
    compressed: Compressed, sent: Tensor, moved: Tensor, one: Device, version: int, round: int
) -> tuple[Tensor, Reply]:
    """What a device's change is at the server, whose model is ``sent``; and the reply on the wire."""
    asked = request({"w": sent}, round)
    wire = decode(encode(compressed.pack_request(asked, version)), Request)
    arrived = compressed.unpack_request(wire)
    trained = Reply(arrived.address, {"w": arrived.tensors["w"] + moved}, {"examples": 1})
    reply = compressed.pack_reply(one, arrived, trained)
    return compressed.unpack_reply(decode(encode(reply), Reply), asked, version).tensors["w"] - sent, reply


def test_what_was_left_out_joins_the_next_change() -> None:
    """One entry of 128 travels. By hand: 4; then 1 + 3 at place 1 and 3 + 2 at place 2, so 5."""
    compressed, one = Compressed(0, ONE, Int8Rows(), TopK(0.005), feeds_back=True), device()
    zeros = torch.zeros(2, 64)
    first, reply = exchanged(compressed, zeros, change(_0=4.0, _1=3.0, _2=2.0), one, 0, 1)
    assert torch.equal(first, change(_0=4.0))
    assert reply.info["residual"] == 1
    assert torch.equal(one.residual(1)[0]["w"], change(_1=3.0, _2=2.0))
    second, reply = exchanged(compressed, zeros, change(_1=1.0, _2=3.0), one, 1, 2)
    assert torch.equal(second, change(_2=5.0))
    assert reply.info["residual"] == 2
    assert torch.equal(one.residual(2)[0]["w"], change(_1=4.0))
    # The server did not accept it: the device is asked with version 1 again, and goes on from that residual.
    again, reply = exchanged(compressed, zeros, change(_1=3.0), one, 1, 3)
    assert torch.equal(again, change(_1=6.0))
    assert torch.equal(one.residual(reply.info["residual"])[0]["w"], change(_2=2.0))


def test_with_int8_nothing_is_lost_over_two_rounds() -> None:
    compressed, one = Compressed(0, ONE, Int8Rows(), Int8Rows(), feeds_back=True), device()
    sent, moved = values(ONE)["w"], [0.1 * values(ONE, n)["w"] for n in (1, 2)]
    first, _ = exchanged(compressed, sent, moved[0], one, 0, 1)
    second, _ = exchanged(compressed, sent, moved[1], one, 1, 2)
    assert not torch.allclose(first, moved[0], atol=1e-4)
    torch.testing.assert_close(first + second + one.residual(2)[0]["w"], moved[0] + moved[1], rtol=0, atol=2e-6)


def test_the_server_adds_changes_to_its_own_values() -> None:
    """What rounding took from the model that was sent is still in the server's: its residual."""
    compressed = Compressed(0, ONE, Int8Rows(), Int8Rows(), feeds_back=True)
    sent = values(ONE)["w"]
    arrived = compressed.unpack_request(compressed.pack_request(request({"w": sent}), 0)).tensors["w"]
    assert not torch.allclose(arrived, sent, atol=1e-3)
    found, _ = exchanged(compressed, sent, torch.full((2, 64), 0.5), device(), 0, 1)
    torch.testing.assert_close(found, torch.full((2, 64), 0.5), rtol=0, atol=1e-5)


def test_every_device_is_sent_the_same_and_rounds_and_replies_draw_anew() -> None:
    config = settings("int8")
    tensors = values(MINILM)
    server, other = compression_of(config, MINILM), compression_of(config, MINILM)
    one = server.pack_request(request(tensors, 1, 0), 0).tensors["packed/int8"]
    assert torch.equal(one, server.pack_request(request(tensors, 1, 7), 3).tensors["packed/int8"])
    assert torch.equal(one, other.pack_request(request(values(MINILM), 1, 7), 3).tensors["packed/int8"])
    assert not torch.equal(one, server.pack_request(request(tensors, 2, 0), 0).tensors["packed/int8"])
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    changed["head.weight"] += 1
    assert not torch.equal(one, server.pack_request(request(changed, 1, 0), 0).tensors["packed/int8"])
    replies = [
        server.pack_reply(device(n), request(tensors, 1, n), Reply(Address("run", 1, "train", n), values(MINILM, 1)))
        for n in (0, 1)
    ]
    assert not torch.equal(*(reply.tensors["packed/int8"] for reply in replies))


@pytest.mark.parametrize("compression", ["bf16", "int8", "top-k"])
def test_small_parameters_sums_and_scores_stay_as_they_are(compression: str) -> None:
    packing = compression_of(settings(compression), MINILM)
    sums = {"feature_sums": torch.ones(384, 384, dtype=torch.float64), "layer_scores": torch.rand(6)}
    sent, back = request(values(MINILM)), values(MINILM, 1)
    down = packing.pack_request(dataclasses.replace(sent, tensors={**sent.tensors, **sums}), 0)
    up = packing.pack_reply(device(), sent, Reply(sent.address, {**back, **sums}))
    for message, own in ((down, sent.tensors), (up, back)):
        plain = {name for name in message.tensors if not name.startswith("packed/")}
        assert plain == {"head.bias", *sums}
        assert torch.equal(message.tensors["head.bias"], own["head.bias"])
        assert all(message.tensors[name] is tensor for name, tensor in sums.items())


@pytest.mark.parametrize(
    ("compression", "most"), [("bf16", (0.5, 0.5)), ("int8", (0.27, 0.27)), ("top-k", (0.27, 0.1))]
)
def test_bytes_of_a_message_with_the_parameters_of_minilm(compression: str, most: tuple[float, float]) -> None:
    packing, sent = compression_of(settings(compression), MINILM), request(values(MINILM))
    reply = Reply(sent.address, values(MINILM, 1), {"examples": 30})
    packed = packing.pack_request(sent, 3), packing.pack_reply(device(), sent, reply)
    for message, plain, share in zip(packed, (sent, reply), most, strict=True):
        assert len(encode(message)) <= share * len(encode(plain))


@pytest.mark.parametrize("compression", ["bf16", "int8", "top-k"])
def test_an_outline_has_the_size_of_the_message(compression: str) -> None:
    packing, sent = compression_of(settings(compression), MINILM), request(values(MINILM), layers=[1, 2])
    reply = Reply(sent.address, values(MINILM, 1), {"examples": 30})
    assert len(encode(packing.outline(sent, None, 3))) == len(encode(packing.pack_request(sent, 3)))
    asked = packing.unpack_request(packing.pack_request(sent, 0))
    assert len(encode(packing.outline(reply, asked, 0))) == len(encode(packing.pack_reply(device(), asked, reply)))


def test_parameters_in_another_shape_than_the_layouts_arrive_in_it() -> None:
    """As adalora sends what it has not pruned; the residual of another shape is forgotten."""
    compressed, one = Compressed(0, ONE, Int8Rows(), Int8Rows(), feeds_back=True), device()
    exchanged(compressed, torch.zeros(2, 64), torch.rand(2, 64), one, 0, 1)
    found, _ = exchanged(compressed, torch.zeros(1, 200), torch.full((1, 200), 0.5), one, 1, 2)
    torch.testing.assert_close(found, torch.full((1, 200), 0.5))


@pytest.mark.parametrize(
    "broken",
    [
        {"packed": [[0, 1]]},
        {"packed": [[0, 0], [0, 0]]},
        {"packed": []},
        {"packed": [[-1, 0]]},
        {"packed": [["0", 0]]},
        {"packed": 3},
        {"residual": 1},
        {"residual": None},
    ],
    ids=str,
)
def test_a_malformed_reply_is_not_read(broken: dict[str, Any]) -> None:
    compressed = Compressed(0, ONE, Int8Rows(), Int8Rows(), feeds_back=True)
    sent = request({"w": torch.zeros(2, 64)}, residual=2)
    reply = compressed.pack_reply(device(), sent, Reply(sent.address, values(ONE)))
    assert compressed.unpack_reply(reply, sent, 2).tensors.keys() == {"w"}
    with pytest.raises(Undecodable):
        compressed.unpack_reply(dataclasses.replace(reply, info={**reply.info, **broken}), sent, 2)
    with pytest.raises(Undecodable):  # it was not sent what it packs
        compressed.unpack_reply(reply, request({}), 2)
    with pytest.raises(Undecodable):
        compressed.unpack_reply(dataclasses.replace(reply, tensors={**reply.tensors, **values(ONE)}), sent, 2)


# Whole runs


def of(small: Config, compression: str, **changes: Any) -> Config:
    """Matrices of the tiny encoder are large enough from rank 8 on."""
    common = {"federation": {"compression": compression, "rounds": 3}, "lora": {"rank": 8}}
    return build_config(merge(merge(to_dict(small), common), changes))


@pytest.mark.parametrize(("method", "compression"), [("fedavg-lora", "int8"), ("fibecfed", "top-k")])
def test_a_run_that_stops_goes_on_bit_for_bit(small: Config, tmp_path: Path, method: str, compression: str) -> None:
    config = of(small, compression, method=method, federation={"rounds": 4})
    fibecfed.run(config, tmp_path / "whole")
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(3)])
    fibecfed.resume(tmp_path / "cut")
    whole = content(tmp_path / "whole")
    assert content(tmp_path / "cut") == whole
    assert any("/residual/" in name for name in whole)


def test_residuals_in_memory_cannot_be_resumed(small: Config, tmp_path: Path) -> None:
    config = of(small, "int8", runtime={"device_states": "memory"})
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(1)])
    with pytest.raises(InputError, match="cannot be resumed"):
        fibecfed.resume(tmp_path / "cut")


def test_a_lost_residual_is_told_and_the_run_goes_on(small: Config, tmp_path: Path) -> None:
    config = of(small, "int8", federation={"sampled": 6})
    with pytest.raises(Crash):
        fibecfed.run(config, tmp_path / "cut", callbacks=[CrashAt(1)])
    shutil.rmtree(tmp_path / "cut" / "devices" / "2" / "residual")
    lost = fibecfed.resume(tmp_path / "cut").summary["lost"]
    assert lost["replies"] == 0
    assert lost["states"] == [{"round": 2, "stage": "train", "device": 2, "reason": "missing"}]


def test_without_compression_devices_of_fedavg_keep_nothing(small: Config) -> None:
    """Bit equality to before is pinned by tests/golden."""
    state = fibecfed.run(of(small, "none")).state
    assert not state.residual_versions
    kept = fibecfed.run(of(small, "int8")).state
    assert set(kept.residual_versions.values()) <= {1, 2, 3} and not kept.device_versions
    assert not all(torch.equal(state.tensors[name], tensor) for name, tensor in kept.tensors.items())
    for name, tensor in state.tensors.items():  # a few steps of the grid
        torch.testing.assert_close(kept.tensors[name], tensor, rtol=0, atol=0.02)


def test_pruned_triplets_travel_packed(small: Config) -> None:
    plain, packed = (
        fibecfed.run(of(small, kind, method="adalora", adalora={"init_rank": 16}, federation={"rounds": 6})).summary
        for kind in ("none", "int8")
    )
    assert packed["lost"]["replies"] == 0
    assert packed["bytes"]["up"] < 0.6 * plain["bytes"]["up"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"federation": {"compression": "int8", "top_share": 0.1}}, "only applies to federation.compression=top-k"),
        ({"method": "local-only"}, "has no rounds in which parameters travel"),
        ({"method": "head-only"}, "has no rounds in which parameters travel"),
        ({"lora": {"rank": 2}}, "no parameter that trains is a matrix of 128 entries"),
    ],
    ids=["top_share", "local-only", "head-only", "too small"],
)
def test_settings_that_would_change_nothing_are_refused(small: Config, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        assemble(of(small, "bf16", **changes))
