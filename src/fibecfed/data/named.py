"""The data sets that are known by name: ten public benchmarks and the support messages shipped with the package."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from fibecfed.commands import extra_install
from fibecfed.data.rows import Rows
from fibecfed.errors import InputError

SUPPORT_DIR = Path(__file__).parent / "support"
_ONE = ("sentence",)
_TWO = ("sentence1", "sentence2")


@dataclass(frozen=True)
class NamedDataset:
    """A data set by name: its columns, classes, official splits and origin."""

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    train: str | None  # split file that is trained on; None: the only split is divided
    test: str | None  # split file that is tested on; None: a stratified part of the training split
    sizes: Mapping[str, int]  # rows of each split in the folder layout
    source: str
    licence: str
    note: str = ""
    extra_metrics: tuple[str, ...] = ()
    hub: tuple[str, str | None] | None = None  # hub repository and configuration
    hub_columns: Mapping[str, str] = field(default_factory=dict)  # hub column -> ours

    @property
    def only(self) -> str:
        """The first split."""
        return next(iter(self.sizes))

    @property
    def first_file(self) -> str:
        """The file without which the set is not there."""
        return f"{self.train or self.only}.parquet"


_GLUE_LICENCE = "none stated by the source; GLUE's own terms apply"
_NO_LICENCE = "none stated by the source"

DATASETS: dict[str, NamedDataset] = {
    d.name: d
    for d in (
        NamedDataset(
            "qnli", _TWO, ("entailment", "not_entailment"), "train", "validation", {"train": 10293, "validation": 5463},
            "GLUE (Wang et al. 2018), from SQuAD", "CC BY-SA 4.0 (upstream SQuAD)",
            "The folder layout holds 10,293 of the 104,743 official training rows.",
            hub=("nyu-mll/glue", "qnli"), hub_columns={"question": "sentence1", "sentence": "sentence2"},
        ),
        NamedDataset(
            "sst2", _ONE, ("negative", "positive"), "train", "validation", {"train": 67349, "validation": 872},
            "GLUE; Socher et al. 2013", _GLUE_LICENCE, "Training rows are phrases.", hub=("nyu-mll/glue", "sst2"),
        ),
        NamedDataset(
            "cola", _ONE, ("unacceptable", "acceptable"), "train", "validation", {"train": 8551, "validation": 1043},
            "GLUE; Warstadt et al. 2019", _GLUE_LICENCE, extra_metrics=("matthews",), hub=("nyu-mll/glue", "cola"),
        ),
        NamedDataset(
            "mrpc", _TWO, ("not_equivalent", "equivalent"), "train", "validation", {"train": 3668, "validation": 408},
            "GLUE; Dolan and Brockett 2005", "Microsoft Research download terms", extra_metrics=("f1",),
            hub=("nyu-mll/glue", "mrpc"),
        ),
        NamedDataset(
            "rte", _TWO, ("entailment", "not_entailment"), "train", "validation", {"train": 2490, "validation": 277},
            "GLUE; Dagan et al. 2006 and later", _GLUE_LICENCE, hub=("nyu-mll/glue", "rte"),
        ),
        NamedDataset(
            "boolq", _TWO, ("false", "true"), None, None, {"validation": 3270},
            "SuperGLUE; Clark et al. 2019", "CC BY-SA 3.0",
            "Only the official validation split is used; it is divided into training and test.",
            hub=("google/boolq", None),
            hub_columns={"question": "sentence1", "passage": "sentence2", "answer": "label"},
        ),
        NamedDataset(
            "mpqa", _ONE, ("negative", "positive"), "train", None, {"train": 10603},
            "Wiebe et al. 2005", _NO_LICENCE, "Short phrases, 2,265 exact duplicates.",
        ),
        NamedDataset(
            "subj", _ONE, ("subjective", "objective"), "train", None, {"train": 10000},
            "Pang and Lee 2004", _NO_LICENCE,
        ),
        NamedDataset(
            "trec", _ONE, ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"), "train", "test", {"train": 5452, "test": 500},
            "Li and Roth 2002", _NO_LICENCE,
        ),
        NamedDataset(
            "mr", _ONE, ("negative", "positive"), "train", None, {"train": 10662}, "Pang and Lee 2005", _NO_LICENCE,
        ),
    )
}  # fmt: skip

SUPPORT = NamedDataset(
    "support",
    ("text",),
    ("account", "billing", "cancellation", "delivery", "feedback", "product_question", "refund", "technical"),
    "train",
    "test",
    {"train": 1140, "test": 240},
    "written for this project: messages to six invented companies",
    "Apache-2.0",
    "Shipped in the package; the company is the device column (partition.kind=column, 6 devices).",
)


def dataset_names() -> list[str]:
    """Every known name, the shipped set first."""
    return [SUPPORT.name, *DATASETS]


def read_named(name: str, folder: str, allow_download: bool) -> tuple[Rows, Rows | None, str]:
    """Training rows, test rows (None: to be split off) and where they come from, for a sentence.

    Reads ``folder/name/SPLIT.parquet``; the hub only when ``allow_download``.
    Raises InputError if the files are missing or do not hold the columns and labels expected.
    """
    if name == SUPPORT.name:
        return _support("train"), _support("test"), "support: shipped with the package, its own test split"
    spec = DATASETS[name]
    if find_dataset(name, folder):
        read: Callable[[str], Rows] = partial(_from_parquet, spec, Path(folder) / name)
        origin = f"{name}: parquet files of the data folder"
    elif allow_download and spec.hub:
        read = partial(_from_hub, spec)
        origin = f"{name}: Hugging Face hub, {spec.hub[0]}"
    else:
        advice = " or set data.allow_download=true to fetch it from the hub" if spec.hub else ""
        raise InputError(
            f"Data set '{name}' is not in '{folder}' (expected '{Path(folder) / name / spec.first_file}'); "
            f"set data.dir (or FIBECFED_DATA_DIR) to the folder that holds it{advice}."
        )
    if spec.train is None:
        return read(spec.only), None, f"{origin}; only its {spec.only} split is used"
    if spec.test is None:
        return read(spec.train), None, f"{origin}; no official test split"
    return read(spec.train), read(spec.test), f"{origin}; tested on its {spec.test} split"


def find_dataset(name: str, folder: str) -> bool:
    """Whether a named data set can be read without the network."""
    return name == SUPPORT.name or (Path(folder) / name / DATASETS[name].first_file).is_file()


def _support(split: str) -> Rows:
    records = [
        (path.stem, record)
        for path in sorted(SUPPORT_DIR.glob("*.jsonl"))
        for record in map(json.loads, path.read_text(encoding="utf-8").strip().split("\n"))
        if record["split"] == split
    ]
    return Rows(
        texts=[record["text"] for _, record in records],
        pairs=None,
        labels=np.array([SUPPORT.labels.index(record["intent"]) for _, record in records], dtype=np.int64),
        label_names=SUPPORT.labels,
        devices=np.array([company for company, _ in records]),
    )


def _from_parquet(spec: NamedDataset, directory: Path, split: str) -> Rows:
    path = directory / f"{split}.parquet"
    if not path.is_file():
        raise InputError(f"Data set '{spec.name}' lacks its file '{path}'.")
    try:
        table = pyarrow.parquet.read_table(path, partitioning=None)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"'{path}' cannot be read as parquet: {' '.join(str(error).split())}") from None
    return _rows(spec, table.column_names, lambda name: table[name].to_pylist(), str(path))


def _from_hub(spec: NamedDataset, split: str) -> Rows:
    try:
        import datasets
    except ImportError:
        raise InputError(f"data.allow_download needs the extra `hub`: {extra_install('hub')}") from None
    assert spec.hub is not None
    try:
        loaded = datasets.load_dataset(spec.hub[0], spec.hub[1], split=split)
    except (OSError, ValueError) as error:
        raise InputError(f"Data set '{spec.name}' could not be fetched from the hub: {error}") from None
    loaded = loaded.rename_columns(dict(spec.hub_columns))
    return _rows(spec, loaded.column_names, lambda name: list(loaded[name]), f"hub:{spec.hub[0]}")


def _rows(spec: NamedDataset, present: Sequence[str], column: Callable[[str], list[Any]], where: str) -> Rows:
    missing = [c for c in (*spec.columns, "label") if c not in present]
    if missing:
        raise InputError(f"'{where}' lacks the columns {missing} of data set '{spec.name}'; it has {list(present)}.")
    labels = column("label")
    row = next((i for i, label in enumerate(labels, 1) if label not in range(len(spec.labels))), None)
    if row is not None:
        raise InputError(
            f"'{where}' row {row} has the label {labels[row - 1]!r}, not one of 0..{len(spec.labels) - 1}; "
            f"it is not the '{spec.name}' set."
        )
    texts = [column(c) for c in spec.columns]
    for name, cells in zip(spec.columns, texts, strict=True):
        row = next((i for i, cell in enumerate(cells, 1) if not isinstance(cell, str) or not cell.strip()), None)
        if row is not None:
            raise InputError(f"'{where}' row {row} has no text in '{name}'; it is not the '{spec.name}' set.")
    return Rows(texts[0], texts[1] if len(texts) > 1 else None, np.array(labels, dtype=np.int64), spec.labels)
