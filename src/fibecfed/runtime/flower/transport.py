"""Requests and replies over Flower's Grid, and the joining of devices before it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fibecfed.errors import RunFailed
from fibecfed.federation import Address, Delivery, Failure, Reply, Request, Undecodable, decode, encode, receive
from fibecfed.runtime.flower import wire

_UNNOTICED = 60.0  # seconds for which Flower takes a killed device for connected
_UNSAID = 20.0  # seconds of waiting before it is said for whom, and then every so often
_SKEW = 600.0  # seconds by which a device's clock may be wrong before Flower takes its replies for expired

Check = Callable[[Reply], str | None]


@dataclass(frozen=True)
class Joined:
    """A device that takes part, on one of Flower's nodes."""

    node: int
    device: int
    said: Mapping[str, Any]  # its description of itself


class FlowerTransport:
    """Carries requests to the nodes that said which device they are.

    A node that appears is asked to join (``introduction``, whose reply's address names the device); ``check`` says why
    its description does not fit, None if it does. A refused node is not asked again. One that was late is left alone
    until it answers, or for a minute: by then Flower knows whether it was killed, so that a dead device costs one
    deadline and not one a stage. Nothing is remembered between runs of the server: it asks everybody anew.
    """

    def __init__(self, grid: Grid, introduction: Request, check: Check, report: Callable[[str], None] = print) -> None:
        self._grid = grid
        self._introduction = introduction
        self._check = check
        self._report = report
        self._joining: dict[str, int] = {}  # node by id of the message that asked it
        self._asked: set[int] = set()
        self._late: dict[str, tuple[int, float]] = {}  # node, and until when it is left alone, by message id
        self.joined: dict[int, Joined] = {}  # by device
        self.poll_seconds = 0.5

    def gather(self, devices: int, enough: int, seconds: float) -> None:
        """Wait until ``devices`` have joined, at most so long. Raises RunFailed if fewer than ``enough`` have."""
        ends, told = time.monotonic() + seconds, -1
        while len(self.joined) < devices and time.monotonic() < ends:
            if len(self.joined) > told:
                told = len(self.joined)
                self._report(f"Waiting for {devices - told} of {devices} devices to join, at most {seconds:.0f} s.")
            self._invite()
            self._receive_joined()
            if len(self.joined) < devices:
                time.sleep(self.poll_seconds)
        if len(self.joined) < enough:
            raise RunFailed(
                f"Only {len(self.joined)} of {devices} devices joined within {seconds:.0f} s "
                f"(federation.deadline_seconds), and {enough} are needed (federation.minimum_replies)."
            )

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """Answers as they come; a device that is not there, fails, or is late is a Failure."""
        return self.ask(wire.TRAIN, requests, deadline)

    def ask(self, kind: str, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """One answer for each request, within ``deadline`` seconds; ``kind`` is a message type of wire.py."""
        ends, tell = time.monotonic() + deadline, time.monotonic() + _UNSAID
        unsent = {request.address.device: request for request in requests}
        waiting: dict[str, tuple[Request, int, int]] = {}  # request, node and bytes sent by message id
        while unsent or waiting:
            self._invite()
            self._receive_joined()
            online = set(self._grid.get_node_ids())
            busy = self._busy(online)
            for device in [d for d in unsent if d in self.joined and self.joined[d].node in online]:
                if self.joined[device].node in busy:
                    del unsent[device]
                    yield Failure(device, "it has not answered an earlier request yet", "late")
                else:
                    yield from self._send(kind, unsent.pop(device), deadline, waiting)
            if not self._joining:  # nobody is on the way in
                for device in list(unsent):
                    del unsent[device]
                    yield Failure(device, "it is not connected", "absent")
            yield from self._receive(waiting)
            if not (unsent or waiting):
                return
            now = time.monotonic()
            if now >= ends:
                break
            if now >= tell:
                tell = now + _UNSAID
                self._say_who(requests[0].address, [*unsent, *(r.address.device for r, _, _ in waiting.values())], ends)
            time.sleep(self.poll_seconds)
        for device in unsent:
            yield Failure(device, f"it had not joined after {deadline:.0f} s (federation.deadline_seconds)", "absent")
        for sent, (request, node, _) in waiting.items():
            self._late[sent] = node, time.monotonic() + _UNNOTICED
            reason = f"no reply after {deadline:.0f} s (federation.deadline_seconds)"
            yield Failure(request.address.device, reason, "late")

    def _say_who(self, about: Address, devices: Sequence[int], ends: float) -> None:
        who = ", ".join(map(str, sorted(devices)[:10])) + (" and more" if len(devices) > 10 else "")
        left = max(0.0, ends - time.monotonic())
        self._report(f"Round {about.round}, {about.stage}: waiting for device {who}, at most {left:.0f} s.")

    def _busy(self, online: set[int]) -> set[int]:
        """The nodes that are left alone."""
        for message in self._pull(self._late):
            self._late.pop(message.metadata.reply_to_message_id, None)  # too late for its round
        now = time.monotonic()
        self._late = {sent: (node, end) for sent, (node, end) in self._late.items() if node in online and now < end}
        return {node for node, _ in self._late.values()}

    def _send(
        self, kind: str, request: Request, deadline: float, waiting: dict[str, tuple[Request, int, int]]
    ) -> Iterator[Failure]:
        node, data = self.joined[request.address.device].node, encode(request)
        sent = self._push(kind, node, data, deadline, str(request.address.round))
        if sent is None:
            yield Failure(request.address.device, "its request could not be handed to Flower")
        else:
            waiting[sent] = (request, node, len(data))

    def _receive(self, waiting: dict[str, tuple[Request, int, int]]) -> Iterator[Delivery | Failure]:
        for message in self._pull(waiting):
            asked = waiting.pop(message.metadata.reply_to_message_id, None)
            if asked is None:
                self._report("A message that answers no open request was dropped.")
                continue
            request, node, down = asked
            yield _answer(request, node, down, message)

    def _push(self, kind: str, node: int, data: bytes, seconds: float, group: str) -> str | None:
        message = Message(wire.content(data), node, kind, ttl=seconds + _SKEW, group_id=group)
        (sent,) = self._grid.push_messages([message])
        return sent or None

    def _pull(self, ids: Mapping[str, Any]) -> list[Message]:
        return list(self._grid.pull_messages(list(ids))) if ids else []

    def _invite(self) -> None:
        """Ask every node that has not been asked which device it is."""
        for node in self._grid.get_node_ids():
            if node in self._asked:
                continue
            self._asked.add(node)
            sent = self._push(wire.JOIN, node, encode(self._introduction), 3600.0, "join")
            if sent is not None:
                self._joining[sent] = node

    def _receive_joined(self) -> None:
        for message in self._pull(self._joining):
            node = self._joining.pop(message.metadata.reply_to_message_id, None)
            if node is None:
                continue
            found = self._welcome(node, message)
            if isinstance(found, str):
                self._report(f"A device was refused (Flower's node {node}): {found}.")
            else:
                self.joined[found.device] = found
                self._report(f"Device {found.device} joined.")

    def _welcome(self, node: int, message: Message) -> Joined | str:
        data = wire.payload(message)
        if isinstance(data, str):
            return data
        try:
            reply = decode(data, Reply)
        except Undecodable as error:
            return str(error)
        device = reply.address.device
        other = self.joined.get(device)
        if other is not None and other.node != node and other.node in set(self._grid.get_node_ids()):
            return f"it says that it is device {device}, which has joined already"
        return self._check(reply) or Joined(node, device, reply.info)


def _answer(request: Request, node: int, down: int, message: Message) -> Delivery | Failure:
    device = request.address.device
    data = wire.payload(message)
    if isinstance(data, str):
        return Failure(device, data)
    if message.metadata.src_node_id != node:
        return Failure(device, "its reply came from another of Flower's nodes", "address")
    return receive(request, down, data)


def introduction(run: str, info: Mapping[str, Any]) -> Request:
    """What the server says of the run when it asks a node which device it is (device -1: not known yet)."""
    return Request(Address(run, 0, "join", -1), {}, info)
