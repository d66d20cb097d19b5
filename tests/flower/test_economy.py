"""What a device holds is not sent again; a device that does not hold it is sent all of it; all of it is counted."""

import dataclasses

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fibecfed.federation import Address, Delivery, Failure, Reply, Request, decode, encode
from fibecfed.flower import wire
from fibecfed.flower.resending import Held, Lacking
from fibecfed.flower.serving import Refused
from fibecfed.flower.traffic import Traffic
from fibecfed.flower.transport import FlowerTransport, introduction
from flower_grid import Nodes

START = {"b": torch.zeros(50_000), "a": torch.zeros(50_000)}  # two names for the same values


class Keeper:
    """A device that holds what it was sent, until it is started anew."""

    def __init__(self) -> None:
        self.held = Held(START)
        self.seen: list[Request] = []

    def __call__(self, kind: str, data: bytes) -> bytes:
        request = decode(data, Request)
        if kind == wire.JOIN:
            address = dataclasses.replace(request.address, device=0)
            return encode(Reply(address, {}, {wire.KEEPS: True}))
        try:
            self.seen.append(self.held.completed(kind, request))
        except Lacking:
            raise Refused(wire.LACKS) from None
        return encode(Reply(request.address, {}))


def test_what_a_device_holds_is_not_sent_again() -> None:
    device, traffic = Keeper(), Traffic()
    nodes = Nodes({7: device})
    carrier = FlowerTransport(nodes, introduction("run", {}), lambda r: None, lambda line: None, START, traffic)
    carrier.poll_seconds = 0.01
    carrier.gather(1, 1, 5)
    model = {**START, "a": torch.arange(50_000.0)}
    for number, kind in enumerate((wire.EVALUATE, wire.TRAIN, wire.TRAIN)):
        if number == 2:
            device.held = Held({})  # it was started anew, and began with other values, too
        request = Request(Address("run", number, kind, 0), model, {"x": 1})
        (answer,) = carrier.ask(kind, [request], 10)
        assert isinstance(answer, Delivery)
        assert answer.bytes_down == len(encode(request))  # what the method sends, as in a run in one process
        seen = device.seen[-1]
        assert seen.info == request.info
        assert seen.tensors.keys() == model.keys()
        assert all(seen.tensors[name].equal(tensor) for name, tensor in model.items())
    sizes = [len(data) for _, kind, data in nodes.sent if kind != wire.JOIN]
    assert [round(size / 200_000) for size in sizes] == [1, 0, 0, 2]  # tensors of 200,000 bytes
    found = traffic.content()
    assert found["all"]["down"] == sum(len(data) for _, _, data in nodes.sent)
    assert found["evaluation"]["down"] == sizes[0]
    assert found["training"]["messages"] == 6
    assert Traffic(found).content() == found  # a run that goes on


def test_a_refused_device_is_named_with_its_reason_and_asked_again_when_it_comes_back() -> None:
    said: list[str] = []
    fits = False

    def node(kind: str, data: bytes) -> bytes:
        request = decode(data, Request)
        address = dataclasses.replace(request.address, device=1)
        return encode(Reply(address, {}, {} if fits else {wire.REFUSAL: "its text has\n a label that is not named"}))

    nodes = Nodes({7: node})
    carrier = FlowerTransport(nodes, introduction("run", {}), lambda r: None, said.append)
    carrier.poll_seconds = 0.01
    carrier.gather(2, 0, 0.1)
    assert any("Device 1 was refused: its text has" in line for line in said)
    request = Request(Address("run", 1, wire.TRAIN, 1), {})
    (answer,) = carrier.ask(wire.TRAIN, [request], 0.2)
    assert isinstance(answer, Failure)
    assert answer.kind == "refused" and "it was refused: its text has" in answer.reason
    nodes.offline.add(7)
    list(carrier.ask(wire.TRAIN, [request], 0.2))
    nodes.offline.clear()
    fits = True
    assert isinstance(next(iter(carrier.ask(wire.TRAIN, [request], 5))), Delivery)


def test_a_late_device_that_is_lost_is_late_and_not_just_absent() -> None:
    class Asleep(Nodes):
        def answer(self, node: int, message):  # type: ignore[no-untyped-def]
            return super().answer(node, message) if message.metadata.message_type == wire.JOIN else []

    nodes = Asleep({7: Keeper()})
    carrier = FlowerTransport(nodes, introduction("run", {}), lambda r: None, lambda line: None)
    carrier.poll_seconds = 0.01
    carrier.gather(1, 1, 5)
    request = Request(Address("run", 3, wire.TRAIN, 0), {})
    list(carrier.ask(wire.TRAIN, [request], 0.1))
    nodes.offline.add(7)
    (answer,) = carrier.ask(wire.TRAIN, [request], 5)
    assert isinstance(answer, Failure)
    assert answer.kind == "late" and "round 3, train" in answer.reason
