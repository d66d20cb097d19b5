"""Requests and replies over Flower's Grid, and the joining of devices before it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid
from torch import Tensor

from fibecfed.errors import RunFailed
from fibecfed.federation import Address, Delivery, Failure, Reply, Request, Undecodable, decode, encode, receive
from fibecfed.flower import wire
from fibecfed.flower.resending import Sent
from fibecfed.flower.traffic import Traffic

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


@dataclass(frozen=True)
class _Open:
    """A request without an answer so far: all of it, however short it was sent."""

    request: Request
    node: int


class FlowerTransport:
    """Carries requests to the nodes that said which device they are.

    A node that appears is asked to join (``introduction``, whose reply's address names the device); ``check`` says why
    its description does not fit, None if it does. A refused node is asked again only after it has been away. One that
    was late is left alone until it answers, or for a minute: by then Flower knows whether it was killed, so that a dead
    device costs one deadline and not one a stage. Nothing is remembered between runs of the server: it asks everybody
    anew. ``initial``: what every device has before training. All that crosses is counted in ``traffic``.
    """

    def __init__(
        self,
        grid: Grid,
        introduction: Request,
        check: Check,
        report: Callable[[str], None] = print,
        initial: Mapping[str, Tensor] | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self._grid = grid
        self._introduction = introduction
        self._check = check
        self._report = report
        self._joining: dict[str, tuple[int, float]] = {}  # node, and when it was asked, by message id
        self._asked: set[int] = set()
        self._refused: dict[int, str] = {}  # why, by device
        self._owing: dict[int, str] = {}  # what a device was late with and has not answered since
        self._late: dict[str, tuple[int, float]] = {}  # node, and until when it is left alone, by message id
        self._sent = Sent(initial or {})
        self._traffic = traffic or Traffic()
        self.joined: dict[int, Joined] = {}  # by device
        self.poll_seconds = 0.5

    def gather(self, devices: int, enough: int, seconds: float) -> None:
        """Wait until ``devices`` have joined, at most so long. Raises RunFailed if fewer than ``enough`` have."""
        ends, told = time.monotonic() + seconds, -1
        while len(self.joined) < devices and time.monotonic() < ends:
            if len(self.joined) > told:
                told = len(self.joined)
                self._report(f"Waiting for {devices - told} of {devices} devices to join, at most {seconds:.0f} s.")
            self._let_in()
            if len(self.joined) < devices:
                time.sleep(self.poll_seconds)
        if len(self.joined) < enough:
            raise RunFailed(
                f"Only {len(self.joined)} of {devices} devices joined within {seconds:.0f} s "
                f"(federation.deadline_seconds), and {enough} are needed (federation.minimum_replies)."
                f"{self._who_did_not()}"
            )

    def _who_did_not(self) -> str:
        refused = "".join(f" Device {device} was refused: {why}." for device, why in sorted(self._refused.items()))
        silent = len({node for node, _ in self._joining.values()})
        if not silent:
            return refused
        return (
            f"{refused} Connected, but without an answer so far: {silent}. Such a device loads its model, is busy with "
            "another run, or hangs."
        )

    def exchange(self, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """Answers as they come; a device that is not there, fails, or is late is a Failure."""
        return self.ask(wire.TRAIN, requests, deadline)

    def ask(self, kind: str, requests: Sequence[Request], deadline: float) -> Iterator[Delivery | Failure]:
        """One answer for each request, within ``deadline`` seconds; ``kind`` is a message type of wire.py."""
        ends, tell = time.monotonic() + deadline, time.monotonic() + _UNSAID
        unsent = {request.address.device: request for request in requests}
        waiting: dict[str, _Open] = {}  # by message id
        while unsent or waiting:
            online = self._let_in()
            busy = self._busy(online)
            for device in [d for d in unsent if d in self.joined and self.joined[d].node in online]:
                if self.joined[device].node in busy:
                    del unsent[device]
                    yield Failure(device, "it has not answered an earlier request yet", "late")
                else:
                    yield from self._send(kind, unsent.pop(device), deadline, waiting)
            if not self._on_the_way_in(deadline):
                for device in list(unsent):
                    del unsent[device]
                    yield self._absence(device)
            yield from self._receive(kind, deadline, waiting)
            if not (unsent or waiting):
                return
            now = time.monotonic()
            if now >= ends:
                break
            if now >= tell:
                tell = now + _UNSAID
                self._say_who(
                    requests[0].address, [*unsent, *(o.request.address.device for o in waiting.values())], ends
                )
            time.sleep(self.poll_seconds)
        for device in unsent:
            absence = self._absence(device)
            late = f"it had not joined after {deadline:.0f} s (federation.deadline_seconds)"
            yield Failure(device, late, "late") if absence.kind == "absent" else absence
        for sent, still in waiting.items():
            request = still.request
            self._late[sent] = still.node, time.monotonic() + _UNNOTICED
            self._owing[request.address.device] = f"round {request.address.round}, {request.address.stage}"
            reason = f"no reply after {deadline:.0f} s (federation.deadline_seconds)"
            yield Failure(request.address.device, reason, "late")

    def _on_the_way_in(self, seconds: float) -> bool:
        """Whether a node was asked to join less than ``seconds`` ago and has not answered."""
        return any(time.monotonic() - asked < seconds for _, asked in self._joining.values())

    def _absence(self, device: int) -> Failure:
        """Why a device that cannot be asked cannot."""
        if device in self._refused:
            return Failure(device, f"it was refused: {self._refused[device]}", "refused")
        if device in self._owing:
            return Failure(
                device, f"it has not answered since it was late ({self._owing[device]}); its connection is lost", "late"
            )
        return Failure(device, "it is not connected", "absent")

    def _say_who(self, about: Address, devices: Sequence[int], ends: float) -> None:
        who = ", ".join(map(str, sorted(devices)[:10])) + (" and more" if len(devices) > 10 else "")
        left = max(0.0, ends - time.monotonic())
        self._report(f"Round {about.round}, {about.stage}: waiting for device {who}, at most {left:.0f} s.")

    def _busy(self, online: set[int]) -> set[int]:
        """The nodes that are left alone."""
        for message in self._pull(self._late):
            node, _ = self._late.pop(message.metadata.reply_to_message_id, (None, 0.0))  # too late for its round
            self._owing = {d: what for d, what in self._owing.items() if self.joined[d].node != node}
        now = time.monotonic()
        self._late = {sent: (node, end) for sent, (node, end) in self._late.items() if node in online and now < end}
        return {node for node, _ in self._late.values()}

    def _send(
        self, kind: str, request: Request, seconds: float, waiting: dict[str, _Open], whole: bool = False
    ) -> Iterator[Failure]:
        joined = self.joined[request.address.device]
        keeps = joined.said.get(wire.KEEPS) is True and not whole
        data = encode(self._sent.shortened(joined.node, kind, request) if keeps else request)
        sent = self._push(kind, joined.node, data, seconds, str(request.address.round))
        if sent is None:
            yield Failure(request.address.device, "its request could not be handed to Flower")
        else:
            waiting[sent] = _Open(request, joined.node)

    def _receive(self, kind: str, seconds: float, waiting: dict[str, _Open]) -> Iterator[Delivery | Failure]:
        for message in self._pull(waiting):
            asked = waiting.pop(message.metadata.reply_to_message_id, None)
            if asked is None:
                self._report("A message that answers no open request was dropped.")
                continue
            self._owing.pop(asked.request.address.device, None)
            answer = _answer(asked.request, asked.node, message)
            if isinstance(answer, Failure) and answer.reason == wire.LACKS:
                self._sent.forget(asked.node)
                yield from self._send(kind, asked.request, seconds, waiting, whole=True)
                continue
            if isinstance(answer, Delivery):
                self._sent.confirmed(asked.node, kind, asked.request)
            yield answer

    def _push(self, kind: str, node: int, data: bytes, seconds: float, group: str) -> str | None:
        message = Message(wire.content(data), node, kind, ttl=seconds + _SKEW, group_id=group)
        (sent,) = self._grid.push_messages([message])
        if sent:
            self._traffic.sent(kind, len(data))
        return sent or None

    def _pull(self, ids: Mapping[str, Any]) -> list[Message]:
        found = list(self._grid.pull_messages(list(ids))) if ids else []
        for message in found:
            self._traffic.received(message.metadata.message_type, len(wire.payload(message)))
        return found

    def _let_in(self) -> set[int]:
        """Ask every node that is new which device it is, and take in what they answer; the nodes that are online."""
        online = set(self._grid.get_node_ids())
        self._asked &= online | {joined.node for joined in self.joined.values()}
        self._joining = {sent: (node, asked) for sent, (node, asked) in self._joining.items() if node in online}
        for node in online - self._asked:
            self._asked.add(node)
            sent = self._push(wire.JOIN, node, encode(self._introduction), 3600.0, "join")
            if sent is not None:
                self._joining[sent] = node, time.monotonic()
        for message in self._pull(self._joining):
            node, _ = self._joining.pop(message.metadata.reply_to_message_id, (None, 0.0))
            if node is not None:
                self._take_in(node, message)
        return online

    def _take_in(self, node: int, message: Message) -> None:
        found = self._welcome(node, message)
        if isinstance(found, str):
            self._report(f"A device was refused (Flower's node {node}): {found}.")
        elif isinstance(found, Failure):
            self._refused[found.device] = found.reason
            self._report(f"Device {found.device} was refused: {found.reason}.")
        else:
            self._refused.pop(found.device, None)
            self.joined[found.device] = found
            self._report(f"Device {found.device} joined.")

    def _welcome(self, node: int, message: Message) -> Joined | Failure | str:
        """A device that joins, one that must not, or why it is not known which it is."""
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
        why = (
            wire.plain(str(reply.info[wire.REFUSAL])).rstrip(".") if wire.REFUSAL in reply.info else self._check(reply)
        )
        return Joined(node, device, reply.info) if why is None else Failure(device, why, "refused")


def _answer(request: Request, node: int, message: Message) -> Delivery | Failure:
    device = request.address.device
    data = wire.payload(message)
    if isinstance(data, str):
        return Failure(device, data)
    if message.metadata.src_node_id != node:
        return Failure(device, "its reply came from another of Flower's nodes", "address")
    return receive(request, len(encode(request)), data)


def introduction(run: str, info: Mapping[str, Any]) -> Request:
    """What the server says of the run when it asks a node which device it is (device -1: not known yet)."""
    return Request(Address(run, 0, "join", -1), {}, info)
