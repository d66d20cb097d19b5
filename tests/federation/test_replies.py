"""Malformed replies: none changes the aggregate or stops the server, each is named with its reason."""

import dataclasses
import functools
import json
import struct
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fibecfed import Config, RunFailed, load_config
from fibecfed.federation import Delivery, Failure, Reply, Request, Server, ServerState, StageDone, encode, receive
from fibecfed.federation.codec import pack
from fibecfed.methods import METHODS, FederatedAveraging, resolve
from fibecfed.tuning import Layout, Parameter

LAYOUT = Layout(
    (
        Parameter("a.lora_A", (2, 3), 0, "lora_A"),
        Parameter("b.lora_A", (2, 3), 1, "lora_A"),
        Parameter("head.weight", (3, 2), None, "head"),
        Parameter("head.bias", (3,), None, "head"),
    ),
    2,
)
DEVICES = 5


def good(request: Request) -> Reply:
    """What an honest device answers; every device something else."""
    device = request.address.device
    tensors = {p.name: torch.full(p.shape, 0.1 * (device + 1)) for p in LAYOUT}
    info = {"examples": device + 2, "examples_trained": 4, "examples_scored": 0, "operations": 1e6, "loss": 0.5}
    return Reply(request.address, tensors, info)


def changed(reply: Reply, **fields: object) -> bytes:
    return encode(dataclasses.replace(reply, address=dataclasses.replace(reply.address, **fields)))  # type: ignore[arg-type]


def with_tensors(reply: Reply, **tensors: torch.Tensor | None) -> bytes:
    kept = {**reply.tensors, **tensors}
    return encode(dataclasses.replace(reply, tensors={n: t for n, t in kept.items() if t is not None}))


def with_info(reply: Reply, **info: object) -> bytes:
    return encode(dataclasses.replace(reply, info={**reply.info, **info}))


def replaced(tensor: torch.Tensor, place: int, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[place % tensor.numel()] = value
    return tensor


def with_one_changed(reply: Reply, data: st.DataObject, change: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    name = data.draw(names)
    return with_tensors(reply, **{name: change(reply.tensors[name])})


names = st.sampled_from([p.name for p in LAYOUT])
integers = st.integers(-(2**80), 2**80)
texts = st.text(max_size=200)  # lone surrogates, markup and line ends among them
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
places = st.integers(0, 99)
SHAPES = [p.shape for p in LAYOUT]
other_shapes = st.lists(st.integers(0, 9), max_size=4).filter(lambda shape: tuple(shape) not in SHAPES)
Malformed = Callable[[Reply, st.DataObject], bytes]


def wrong_number(reply: Reply, data: st.DataObject) -> bytes:
    name, value = data.draw(st.sampled_from(sorted(reply.info))), data.draw(json_values)
    whole = name.startswith("examples")
    bounds = {"examples": (1, 10**8), "operations": (0, 1e24), "loss": (-1e15, 1e15)}.get(name, (0, 1e15))
    fits = type(value) is int or (type(value) is float and not whole)
    if fits and bounds[0] <= value <= bounds[1]:
        value = "not a number"
    return with_info(reply, **{name: value})


def header_of(reply: Reply, data: st.DataObject) -> bytes:
    """Bytes with a header of the device's own making: lengths, offsets, shapes and dtypes that do not fit."""
    sides = st.integers(-(2**70), 2**70)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F64", "BF16", "F8_E4M3", "F4", "I64", "BOOL", "X", None]),
            "shape": st.lists(sides, max_size=3),
            "data_offsets": st.lists(sides, min_size=2, max_size=2),
        }
    )
    table = data.draw(st.dictionaries(names, entry | json_values, min_size=1, max_size=3))
    content = json.dumps({"address": dataclasses.asdict(reply.address), "info": reply.info})
    text = json.dumps({**table, "__metadata__": {"fibecfed": content}}).encode()
    length = data.draw(st.sampled_from([len(text), 0, 2**63, len(text) - 1, len(text) + 1]))
    return struct.pack("<Q", length) + text + data.draw(st.binary(max_size=64))


def wrong_content(reply: Reply, data: st.DataObject) -> bytes:
    fields = dataclasses.asdict(reply.address)
    which = data.draw(st.sampled_from([*fields, "info", "address", "all"]))
    value = data.draw(json_values)
    if which in fields and type(value) is not type(fields[which]):
        return pack(reply.tensors, {"address": {**fields, which: value}, "info": reply.info})
    if which == "info" and not isinstance(value, dict):
        return pack(reply.tensors, {"address": fields, "info": value})
    return pack(reply.tensors, {"address": value if not isinstance(value, dict) else None, "info": reply.info})


MALFORMED: dict[str, list[Malformed]] = {
    "undecodable": [
        lambda r, d: d.draw(st.binary(max_size=100)),
        lambda r, d: (whole := encode(r))[: d.draw(st.integers(0, len(whole) - 1))],
        lambda r, d: encode(r) + d.draw(st.binary(min_size=1, max_size=20)),
        wrong_content,
    ],
    "undecodable or tensors": [header_of],  # what it makes up may be in order, but is never what was asked for
    "address": [
        lambda r, d: changed(r, run=d.draw(texts.filter(lambda t: t != "run"))),
        lambda r, d: changed(r, round=d.draw(integers.filter(lambda i: i != 1))),
        lambda r, d: changed(r, stage=d.draw(texts.filter(lambda t: t != "train"))),
        lambda r, d: changed(r, attempt=d.draw(integers.filter(lambda i: i != 0))),
        lambda r, d: changed(r, device=d.draw(integers.filter(lambda i: i != r.address.device))),
    ],
    "state version": [lambda r, d: changed(r, state_version=d.draw(integers.filter(lambda i: i not in (0, 1))))],
    "tensors": [
        lambda r, d: with_tensors(r, **{d.draw(names): None}),
        lambda r, d: with_tensors(r, **{d.draw(st.text(min_size=1, max_size=90).filter(_is_new)): torch.zeros(1)}),
        lambda r, d: with_tensors(r, **{d.draw(names): torch.zeros(d.draw(other_shapes))}),
        lambda r, d: with_one_changed(r, d, lambda t: t.to(d.draw(st.sampled_from(DTYPES)))),
    ],
    "values": [lambda r, d: with_one_changed(r, d, lambda t: replaced(t, d.draw(places), d.draw(NOT_FINITE)))],
    "norm": [lambda r, d: with_one_changed(r, d, lambda t: replaced(t, d.draw(places), d.draw(ABSURD)))],
    "numbers": [
        wrong_number,
        lambda r, d: with_info(r, **{d.draw(texts.filter(_is_unknown)): d.draw(json_values)}),
        lambda r, d: with_info(r, examples=d.draw(st.integers(-(2**80), 0) | st.integers(10**8 + 1, 2**80))),
        lambda r, d: with_info(r, state_lost=d.draw(json_values.filter(_is_no_reason))),
        lambda r, d: encode(dataclasses.replace(r, info={n: v for n, v in r.info.items() if n != "examples"})),
    ],
}  # fmt: skip
DTYPES = (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.float8_e4m3fn)
NOT_FINITE = st.sampled_from([float("nan"), float("inf"), -float("inf")])
ABSURD = st.sampled_from([1.1e6, -3e38, 1e12])


def _is_new(name: str) -> bool:
    return name != "__metadata__" and name.isprintable() and all(p.name != name for p in LAYOUT)


def _is_no_reason(value: object) -> bool:
    return value not in ("missing", "damaged", "foreign")


def _is_unknown(name: str) -> bool:
    return name not in ("examples", "examples_trained", "examples_scored", "operations", "loss", "state_lost")


class Bytes:
    """A transport over the bytes that a test prepared: for each device one answer after another."""

    def __init__(self, answers: Callable[[Request], Sequence[bytes]]) -> None:
        self.answers = answers

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        for request in requests:
            for data in self.answers(request):
                yield receive(request, 10, data)


@functools.cache
def method_of(name: str, minimum: int) -> tuple[Config, FederatedAveraging]:
    federation = {"devices": DEVICES, "sampled": DEVICES, "rounds": 1, "minimum_replies": minimum}
    config = resolve(load_config(method=name, federation=federation))
    return config, METHODS[name](config, LAYOUT)


def one_round(transport: Bytes, name: str = "fedavg-lora", minimum: int = 1) -> StageDone:
    config, method = method_of(name, minimum)
    one = Server(config, method, transport, DEVICES, "run")
    (done,) = one.run(method.init({p.name: torch.zeros(p.shape) for p in LAYOUT}))
    return done


@functools.cache
def state_without(*left_out: int) -> ServerState:
    """After a round in which these devices did not answer."""
    done = one_round(Bytes(lambda r: [] if r.address.device in left_out else [encode(good(r))]))
    assert {(f.device, f.kind) for f in done.failures} == {(device, "late") for device in left_out}
    return done.state


def same(one: ServerState, other: ServerState) -> bool:
    return all(torch.equal(t, other.tensors[n]) for n, t in one.tensors.items()) and (
        one.device_versions == other.device_versions
    )


@pytest.mark.parametrize("kind", MALFORMED)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_malformed_reply_changes_the_aggregate_and_each_is_named(kind: str, data: st.DataObject) -> None:
    """In place of two devices' answers, and as a second answer of a third: 450 replies of each kind."""
    first, second, third = data.draw(st.permutations(range(DEVICES)))[:3]

    def malformed(request: Request) -> bytes:
        return data.draw(st.sampled_from(MALFORMED[kind]))(good(request), data)

    def answers(request: Request) -> Sequence[bytes]:
        device = request.address.device
        if device in (first, second):
            return [malformed(request)]
        return [encode(good(request)), malformed(request)] if device == third else [encode(good(request))]

    done = one_round(Bytes(answers))
    assert same(done.state, state_without(*sorted((first, second))))
    kinds = {failure.device: failure.kind for failure in done.failures}
    assert len(done.failures) == 3
    # A second answer that cannot be read is still a second one.
    assert kinds.pop(third) == "repeated"
    assert kinds.keys() == {first, second}
    assert set(kinds.values()) <= set(kind.split(" or "))
    for failure in done.failures:
        assert failure.reason.isprintable()
        assert len(failure.reason) < 400


def test_too_many_malformed_replies_stop_the_round_with_the_reason() -> None:
    def answers(request: Request) -> Sequence[bytes]:
        return [b"garbage" if request.address.device < 2 else encode(good(request))]

    assert len(one_round(Bytes(answers), minimum=3).failures) == 2
    with pytest.raises(RunFailed, match=r"only 3 of 5 devices gave a usable reply .*could not be read"):
        one_round(Bytes(answers), minimum=4)


@pytest.mark.parametrize("wrong", ["counts", "half", "negative", "product", "sums", "other", "singular"])
def test_sums_that_contradict_themselves_are_left_out(wrong: str) -> None:
    def sums(device: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(device)
        features = torch.cat([torch.randn(6, 2, generator=generator), torch.ones(6, 1)], dim=1).double()
        labels = torch.nn.functional.one_hot(torch.arange(6) % 3, 3).double()
        triangle = (features.T @ features)[*torch.triu_indices(3, 3)].float()  # 00 01 02 11 12 22
        found = {"label_counts": labels.sum(0), "triangle": triangle, "moment": (features.T @ labels).float()}
        if device != 1:
            return found
        if wrong == "counts":
            found["label_counts"] = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
        elif wrong == "half":
            found["label_counts"] = torch.tensor([2.5, 1.5, 2.0], dtype=torch.float64)
        elif wrong == "negative":
            found["triangle"][0] = -1e9
        elif wrong == "product":
            found["triangle"][1] += 100  # more than the two squares allow
        elif wrong == "sums":
            found["moment"][0, 0] += 1
        elif wrong == "other":
            found["moment"][-1] = 0
        else:
            found["triangle"] = torch.zeros(6)
        return found

    def answers(request: Request) -> Sequence[bytes]:
        return [encode(Reply(request.address, sums(request.address.device), {"examples": 6}))]

    def without(request: Request) -> Sequence[bytes]:
        return [] if request.address.device == 1 else answers(request)

    done = one_round(Bytes(answers), "ridge-head")
    assert [(f.device, f.kind) for f in done.failures] == [(1, "sums")]
    assert same(done.state, one_round(Bytes(without), "ridge-head").state)
