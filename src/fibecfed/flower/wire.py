"""Our bytes inside Flower's messages: one record, never unpickled, cut into pieces by Flower when it is large."""

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

TRAIN, EVALUATE, JOIN, SAVE = "train", "evaluate", "query.join", "query.save"  # Flower's message types
REFUSAL = "refusal"  # in the reply of a device that does not join: why
KEEPS = "keeps"  # in the reply of a device that joins: it holds on to what it was sent
LACKS = "it lacks what it was sent before"  # why a device does not answer a shortened request
_BYTES, _FAILURE = "fibecfed", "failure"
_FORM = "safetensors"
_LONGEST = 600  # characters of a reason that are kept


def content(data: bytes) -> RecordDict:
    """An encoded request or reply as the content of a Flower message."""
    return RecordDict({_BYTES: ArrayRecord({_BYTES: Array("uint8", (len(data),), _FORM, data)})})


def failed(reason: str) -> RecordDict:
    """What a device sends instead of a reply."""
    return RecordDict({_FAILURE: ConfigRecord({"reason": reason})})


def payload(message: Message) -> bytes | str:
    """The bytes that a message carries, or why it carries none."""
    if message.has_error():
        return plain(f"Flower reports: {message.error.reason or message.error.code}")
    records: Any = message.content
    if _FAILURE in records.config_records:
        return plain(str(records.config_records[_FAILURE].get("reason", "it gave no reason")))
    try:
        array = records.array_records[_BYTES][_BYTES]
    except KeyError:
        return "its message holds no reply"
    if array.stype != _FORM:
        return plain(f"its message is of another kind ({array.stype[:40]})")
    return bytes(array.data)


def plain(text: str) -> str:
    """A text from elsewhere, safe to print: one line without control characters, cut."""
    return "".join(c if c.isprintable() else " " for c in text[:_LONGEST])
