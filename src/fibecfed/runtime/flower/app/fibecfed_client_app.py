"""Flower starts a process with this file for every message; it hands the bytes to the device's own process.

Only Flower and the standard library are imported here: the model is loaded in the device's process, once.
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
    data = message.content.array_records[NAME][NAME].data
    with Client(str(context.node_config["socket"]), family="AF_UNIX") as connection:
        connection.send_bytes(message.metadata.message_type.encode())
        connection.send_bytes(data)
        answered = connection.recv_bytes() == b"reply"
        answer = connection.recv_bytes()
    if answered:
        content = RecordDict({NAME: ArrayRecord({NAME: Array("uint8", (len(answer),), "safetensors", answer)})})
    else:
        content = RecordDict({"failure": ConfigRecord({"reason": answer.decode()})})
    return Message(content, reply_to=message)
