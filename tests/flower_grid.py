"""Flower's Grid in this process: nodes are functions from message type and bytes to bytes."""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity  # private: Flower sets it in its own processes

from fibecfed.flower import wire
from fibecfed.flower.serving import Refused

Node = Callable[[str, bytes], bytes]
TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1


class Nodes(Grid):
    """Answers at once, in the reverse of the order asked, so that order of arrival is not order of devices."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes
        self.offline: set[int] = set()
        self.sent: list[tuple[int, str, bytes]] = []  # node, message type, bytes
        self.received: list[bytes] = []
        self._open: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in self.nodes if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            data = wire.payload(message)
            assert isinstance(data, bytes)
            self.sent.append((message.metadata.dst_node_id, message.metadata.message_type, data))
            ids.append(f"message {len(self.sent)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self._open[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies: list[Message] = []
        for name in sorted(message_ids, key=lambda i: int(i.split()[1]), reverse=True):
            message = self._open[name]
            node = message.metadata.dst_node_id
            if node not in self.offline:
                replies.extend(self.answer(node, message))
        for reply in replies:
            self._open.pop(reply.metadata.reply_to_message_id, None)
        return replies

    def answer(self, node: int, message: Message) -> list[Message]:
        """The node's messages to one request; none as long as it works."""
        data = wire.payload(message)
        assert isinstance(data, bytes)
        try:
            reply = self.nodes[node](message.metadata.message_type, data)
        except Refused as refused:
            return [Message(wire.failed(str(refused)), reply_to=message)]
        except Exception as error:
            return [Message(Error(code=1, reason=str(error)), reply_to=message)]
        self.received.append(reply)
        return [Message(wire.content(reply), reply_to=message)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        raise NotImplementedError
