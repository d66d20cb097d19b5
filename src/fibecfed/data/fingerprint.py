"""What data was, in a few digests that hold no text: enough to notice that it is not the same, and to say how."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fibecfed.data.holding import Holding
from fibecfed.data.rows import Rows

_MODULUS = 2**256


def rows_print(rows: Rows | None) -> dict[str, Any] | None:
    """How many rows, and digests of their texts and labels in order, of both in any order, and of their devices."""
    if rows is None:
        return None
    names = [rows.label_names[label] for label in rows.labels]
    texts = [_sha256([text]) for text in rows.texts]
    if rows.pairs is not None:
        texts = [first + _sha256([second]) for first, second in zip(texts, rows.pairs, strict=True)]
    # A sum of digests does not depend on the order of the rows.
    total = sum(int(_sha256([text, name]), 16) for text, name in zip(texts, names, strict=True)) % _MODULUS
    return {
        "rows": len(rows),
        "texts": _sha256(texts),
        "labels": _sha256(names),
        "in_any_order": f"{total:064x}",
        "devices": None if rows.devices is None else _sha256(rows.devices.tolist()),
    }


@dataclass(frozen=True)
class DataPrint:
    """The data of a run: the labels, the rows as read, the parts they were split into, and who holds what.

    ``source`` and ``parts`` hold what ``rows_print`` makes of each part.
    """

    labels: tuple[str, ...]
    source: Mapping[str, Any]  # train, test (None: no test rows of their own)
    parts: Mapping[str, Any]  # train, validation, test
    devices: str  # which row is whose
    shares: str  # how many examples of each label each device holds, by which held-out rows are dealt

    def to_content(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "labels": list(self.labels)}


def data_print(source: Mapping[str, Any], train: Rows, validation: Rows, test: Rows, devices: Holding) -> DataPrint:
    """The data of a run; ``source``: the prints of the rows as they were read."""
    parts = {"train": rows_print(train), "validation": rows_print(validation), "test": rows_print(test)}
    shares = devices.shares(train.labels, len(train.label_names))
    return DataPrint(train.label_names, source, parts, _sha256(devices.described()), _sha256(shares))


def source_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How the rows that were read differ; [] if they do not."""
    what = {"train": "the training data", "test": "the test data"}
    return [s for key, name in what.items() for s in _rows_differ(name, then.get(key), now.get(key))]


def part_differences(then: Mapping[str, Any], now: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """How these parts (train, validation, test) differ; [] if they do not."""
    return [s for part in parts for s in _rows_differ(f"the {_ADJECTIVE[part]} part", then.get(part), now.get(part))]


_ADJECTIVE = {"train": "training", "validation": "validation", "test": "test"}


def data_differences(
    before: Mapping[str, Any], after: Mapping[str, Any], parts: Sequence[str], whole: bool
) -> list[str]:
    """How what ``Fingerprint.to_content`` says of two data sets differs, the causes first; [] if it does not.

    ``parts`` are those that count; ``whole``: which row is whose counts, too, and not only each device's shares.
    """
    names = target_difference(target_names(before), target_names(after))
    if names is not None:
        return [names]
    found = part_differences(before["parts"], after["parts"], parts)
    owners = "devices" if whole else "shares"
    if not found and before[owners] != after[owners]:
        found = ["the devices hold other training rows"]
    return source_differences(before["source"], after["source"]) or found if found else []


def target_names(content: Mapping[str, Any]) -> list[str]:
    """What targets could be called in the data that a fingerprint's content is of."""
    return list(content["labels"])


def target_difference(then: Sequence[str], now: Sequence[str]) -> str | None:
    """A sentence's part about labels that differ; None if they do not."""
    if list(then) == list(now):
        return None
    gone, new = ([name for name in a if name not in b] for a, b in ((then, now), (now, then)))
    if not gone and not new:
        first = next(i for i, (a, b) in enumerate(zip(then, now, strict=True)) if a != b)
        return f"the labels are in another order (number {first + 1} was '{then[first]}' and is '{now[first]}')"
    said = [f"{word} {_listed(names)}" for word, names in (("gone:", gone), ("new:", new)) if names]
    return f"the labels differ ({'; '.join(said)})"


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(f"'{name}'" for name in names[:most]) + (", ..." if len(names) > most else "")


def _rows_differ(name: str, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Iterator[str]:
    if then is None or now is None:
        if then is not now:
            yield f"{name} {'was' if now is None else 'is'} in a file of its own, and {_not(now)}"
    elif then["rows"] != now["rows"]:
        yield f"{name} had {then['rows']:,} rows and has {now['rows']:,}"
    elif then["in_any_order"] == now["in_any_order"]:
        if then["texts"] != now["texts"] or then["labels"] != now["labels"]:
            yield f"{name} has the same rows in another order"
        elif then["devices"] != now["devices"]:
            yield f"{name} names other devices for the same rows"
    elif then["texts"] == now["texts"]:
        yield f"{name} has other labels for the same texts"
    else:
        yield f"{name} has other texts"


def _not(now: Mapping[str, Any] | None) -> str:
    return "is not" if now is None else "was not"


def _sha256(words: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for word in words:
        data = word.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()
