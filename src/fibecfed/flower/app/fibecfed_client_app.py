"""Flower starts a process with this file for every message; it hands the bytes to the device's own process.

Only Flower and the standard library are imported here: the model is loaded in the device's process, once. In Flower's
simulation there are no such processes, and the device is served here.
"""

from multiprocessing.connection import Client

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
NAME = "fibecfed"


@app.train()
@app.evaluate()
@app.query("join")
@app.query("save")
def relay(message: Message, context: Context) -> Message:
    """Raises an error, which the server is told, if the device's process is not there."""
    kind, data = message.metadata.message_type, message.content.array_records[NAME][NAME].data
    if "socket" in context.node_config:
        answered, answer = _ask(str(context.node_config["socket"]), kind, data)
    else:
        from fibecfed.flower.resident import serve_here

        answered, answer = serve_here(str(context.run_config["devices"]), context.node_config, kind, data)
    if answered:
        content = RecordDict({NAME: ArrayRecord({NAME: Array("uint8", (len(answer),), "safetensors", answer)})})
    else:
        content = RecordDict({"failure": ConfigRecord({"reason": answer.decode()})})
    return Message(content, reply_to=message)


def _ask(socket: str, kind: str, data: bytes) -> tuple[bool, bytes]:
    with Client(socket, family="AF_UNIX") as connection:
        connection.send_bytes(kind.encode())
        connection.send_bytes(data)
        return connection.recv_bytes() == b"reply", connection.recv_bytes()
