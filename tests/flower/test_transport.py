"""The transport over Flower's Grid: every request gets one answer, whatever the nodes do."""

import time
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra `flower`")

from flwr.app import Message

from fibecfed import RunFailed
from fibecfed.federation import Address, Delivery, Failure, Reply, Request, decode, encode
from fibecfed.flower import wire
from fibecfed.flower.serving import Refused
from fibecfed.flower.transport import FlowerTransport, introduction
from flower_grid import Nodes

Answer = Callable[[Request], Reply]


def device(number: int, answer: Answer | None = None) -> Callable[[str, bytes], bytes]:
    """A node that says which device it is, and answers by sending back what it got."""

    def node(kind: str, data: bytes) -> bytes:
        request = decode(data, Request)
        if kind == wire.JOIN:
            address = Address(request.address.run, 0, "join", number)
            return encode(Reply(address, {}, {"examples": 3, "held_out_examples": 1}))
        return encode((answer or (lambda r: Reply(r.address, r.tensors)))(request))

    return node


def requests(*devices: int) -> list[Request]:
    return [Request(Address("run", 2, "train", d), {"x": torch.full((4,), float(d))}) for d in devices]


def transport(nodes: Nodes, check: Callable[[Reply], str | None] = lambda reply: None) -> FlowerTransport:
    made = FlowerTransport(nodes, introduction("run", {}), check, lambda line: None)
    made.poll_seconds = 0.01
    return made


def exchange(nodes: Nodes, *devices: int, deadline: float = 20.0) -> dict[int, Delivery | Failure]:
    carrier = transport(nodes)
    carrier.gather(1, 1, 5)
    answers = list(carrier.exchange(requests(*devices), deadline))
    found = {a.device if isinstance(a, Failure) else a.reply.address.device: a for a in answers}
    assert len(found) == len(answers)
    assert set(found) == set(devices)
    return found


def raising(error: Exception) -> Answer:
    def answer(request: Request) -> Reply:
        raise error

    return answer


def test_nodes_are_found_by_the_device_they_say_they_are() -> None:
    nodes = Nodes({71: device(2), 72: device(0), 73: device(1)})
    found = exchange(nodes, 0, 1, 2)
    for number, answer in found.items():
        assert isinstance(answer, Delivery)
        assert answer.reply.tensors["x"].tolist() == [float(number)] * 4
        assert answer.bytes_down == len(encode(requests(number)[0]))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raising(Refused("it has not joined this run")), "it has not joined this run"),
        (raising(ValueError("boom")), "Flower reports: boom"),
        (lambda r: Reply(Address("run", 2, "train", 5), {}), "it answered in the name of device 5"),
    ],
)
def test_a_reply_that_cannot_be_used_is_a_failure_with_its_reason(answer: Answer, reason: str) -> None:
    found = exchange(Nodes({1: device(0, answer), 2: device(1)}), 0, 1)
    assert isinstance(found[0], Failure) and found[0].reason == reason
    assert isinstance(found[1], Delivery)


def test_bytes_that_are_no_reply() -> None:
    def garbage(kind: str, data: bytes) -> bytes:
        return device(0)(kind, data) if kind == wire.JOIN else b"not a message"

    answer = exchange(Nodes({1: garbage}), 0)[0]
    assert isinstance(answer, Failure) and answer.kind == "undecodable"


class Silent(Nodes):
    """A grid on which node 1 answers only to join as long as it is silent."""

    silent = True

    def answer(self, node: int, message: Message) -> list[Message]:
        asleep = self.silent and node == 1 and message.metadata.message_type == wire.TRAIN
        return [] if asleep else super().answer(node, message)


def test_a_late_device_is_given_up_at_the_deadline() -> None:
    found = exchange(Silent({1: device(0), 2: device(1)}), 0, 1, deadline=0.3)
    assert isinstance(found[0], Failure) and "no reply after" in found[0].reason and found[0].kind == "late"
    assert isinstance(found[1], Delivery)


def test_a_late_device_is_asked_again_once_it_has_answered() -> None:
    nodes = Silent({1: device(0), 2: device(1)})
    carrier = transport(nodes)
    carrier.gather(2, 2, 5)
    list(carrier.exchange(requests(0, 1), 0.2))
    started = time.monotonic()
    (late,) = (a for a in carrier.exchange(requests(0, 1), 60) if isinstance(a, Failure))
    assert (late.device, late.kind) == (0, "late") and "earlier request" in late.reason
    assert time.monotonic() - started < 30
    nodes.silent = False
    carrier.poll_seconds = 0.2
    answers = list(carrier.exchange(requests(0, 1), 60))
    assert all(isinstance(a, Delivery) for a in answers)


class Twice(Nodes):
    """A grid that delivers everything twice, and a message that nobody asked for."""

    def answer(self, node: int, message: Message) -> list[Message]:
        replies = super().answer(node, message)
        stray = Message(wire.content(b"x"), reply_to=message)
        stray.metadata.__dict__["_reply_to_message_id"] = "message 10000"
        return [stray, *replies, *replies]


def test_a_second_answer_and_one_to_nothing_are_dropped() -> None:
    found = exchange(Twice({1: device(0), 2: device(1)}), 0, 1)
    assert all(isinstance(answer, Delivery) for answer in found.values())


class Elsewhere(Nodes):
    """A grid on which replies seem to come from another node."""

    def answer(self, node: int, message: Message) -> list[Message]:
        replies = super().answer(node, message)
        for reply in replies:
            if message.metadata.message_type == wire.TRAIN:
                reply.metadata.__dict__["_src_node_id"] = 99
        return replies


def test_a_reply_from_another_node_is_refused() -> None:
    answer = exchange(Elsewhere({1: device(0)}), 0)[0]
    assert answer == Failure(0, "its reply came from another of Flower's nodes", "address")


def test_a_device_that_is_not_there_costs_no_waiting() -> None:
    found = exchange(Nodes({1: device(0)}), 0, 3)
    assert found[3] == Failure(3, "it is not connected", "absent")


def test_a_device_that_went_away_and_came_back_takes_part_again() -> None:
    nodes = Nodes({1: device(0), 2: device(1)})
    carrier = transport(nodes)
    carrier.gather(2, 2, 5)
    nodes.offline.add(2)
    gone = {type(a): a for a in carrier.exchange(requests(0, 1), 5)}
    assert gone[Failure] == Failure(1, "it is not connected", "absent")
    nodes.offline.clear()
    assert all(isinstance(a, Delivery) for a in carrier.exchange(requests(0, 1), 5))


def test_a_device_that_joins_in_mid_run_takes_part() -> None:
    nodes = Nodes({1: device(0)})
    carrier = transport(nodes)
    carrier.gather(1, 1, 5)
    nodes.nodes[2] = device(1)
    assert all(isinstance(a, Delivery) for a in carrier.exchange(requests(0, 1), 5))


def test_two_nodes_cannot_be_one_device() -> None:
    said: list[str] = []
    carrier = FlowerTransport(Nodes({1: device(0), 2: device(0)}), introduction("run", {}), lambda r: None, said.append)
    carrier.poll_seconds = 0.01
    carrier.gather(2, 1, 0.3)
    assert len(carrier.joined) == 1
    assert any("joined already" in line for line in said)


def test_too_few_devices_stop_the_run_with_a_sentence() -> None:
    with pytest.raises(RunFailed, match=r"Only 1 of 3 devices joined .* 2 are needed"):
        transport(Nodes({1: device(0)})).gather(3, 2, 0.2)


def test_a_device_that_does_not_fit_is_told_apart_and_never_asked() -> None:
    nodes = Nodes({1: device(0), 2: device(1)})
    carrier = transport(nodes, lambda reply: "its labels differ" if reply.address.device else None)
    carrier.gather(2, 1, 0.2)
    assert list(carrier.joined) == [0]
    assert {type(a) for a in carrier.exchange(requests(0, 1), 5)} == {Delivery, Failure}
    assert [node for node, kind, _ in nodes.sent if kind == wire.TRAIN] == [1]
