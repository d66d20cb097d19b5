"""Messages survive the codec exactly, and nothing else is accepted."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fibecfed.federation import Address, Reply, Request, Undecodable, decode, encode
from fibecfed.federation.codec import pack, unpack

ADDRESS = Address("run", 3, "train", 7, 1, 2)


@given(
    st.dictionaries(st.text(min_size=1, max_size=20).filter(lambda n: n != "__metadata__"), st.integers(0, 4)),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bfloat16]),
    st.dictionaries(st.text(max_size=5), st.none() | st.integers(-(2**40), 2**40) | st.text(max_size=5)),
)
def test_a_message_comes_back_bit_for_bit(sizes: dict[str, int], dtype: torch.dtype, info: dict[str, object]) -> None:
    rng = np.random.default_rng(0)
    tensors = {n: torch.from_numpy(rng.normal(size=(s, 2)) * 100).to(dtype) for n, s in sizes.items()}
    for kind in (Request, Reply):
        back = decode(encode(kind(ADDRESS, tensors, info)), kind)
        assert back.address == ADDRESS
        assert dict(back.info) == info
        assert set(back.tensors) == set(tensors)
        for name, tensor in tensors.items():
            assert back.tensors[name].dtype == dtype
            assert torch.equal(back.tensors[name], tensor)


def test_a_message_shares_no_memory() -> None:
    tensor = torch.ones(3)
    back = decode(encode(Request(ADDRESS, {"a": tensor})), Request)
    back.tensors["a"].zero_()
    assert tensor.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"address": {}, "info": {}},
        {"address": {"run": "r"}, "info": {}},
        {"address": {"run": "r", "round": "1", "stage": "train", "device": 0}, "info": {}},
        {"address": {"run": "r", "round": True, "stage": "train", "device": 0}, "info": {}},
        {"address": {"run": "r", "round": 1, "stage": "train", "device": 0, "extra": 1}, "info": {}},
        {"address": {"run": "r", "round": 1, "stage": "train", "device": 0}, "info": []},
        {"address": {"run": "r", "round": 1, "stage": "train", "device": 0}},
    ],
)
def test_a_wrong_header_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(Undecodable):
        decode(pack({}, content), Reply)


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Undecodable):
        unpack(data)


@given(st.data())
def test_damaged_messages_are_refused_or_still_whole(data: st.DataObject) -> None:
    good = bytearray(encode(Reply(ADDRESS, {"a": torch.arange(6.0)}, {"examples": 3})))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= data.draw(st.integers(1, 255))
    try:
        reply = decode(bytes(good), Reply)
    except Undecodable:
        return
    assert isinstance(reply.address, Address)  # a changed digit or weight: well-formed, judged by validation.judge


def test_a_cut_message_is_refused() -> None:
    whole = encode(Reply(ADDRESS, {"a": torch.arange(6.0)}, {"examples": 3}))
    for length in range(len(whole)):
        with pytest.raises(Undecodable):
            decode(whole[:length], Reply)


def test_a_deeply_nested_header_is_refused() -> None:
    header = json.dumps({"__metadata__": {"fibecfed": "[" * 100_000}}).encode()
    with pytest.raises(Undecodable):
        unpack(len(header).to_bytes(8, "little") + header)
