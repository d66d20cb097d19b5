"""Which task a user's file is for, told by its columns where they leave no doubt."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from fibecfed.config import CAUSAL_LM, CLASSIFICATION, COLUMNS, Config
from fibecfed.data.locations import find_files
from fibecfed.errors import InputError


def told_by_columns(config: Config) -> Config:
    """With task.kind=causal-lm where data.file has columns for it, and none of those that a classifier would read.

    That is: prompt and response, or messages, and neither data.text nor data.label; the settings must leave the task
    open. Where they say causal-lm and name no columns, messages are taken if there is no prompt with a response. A
    file that cannot be read changes nothing here; reading it for real says why.
    """
    data, kind = config.data, config.task.kind
    named = any(getattr(data, key) is not None for key in COLUMNS)
    if data.file is None or named or kind == CLASSIFICATION:
        return config
    try:
        present = set(_columns(find_files(data.file).paths[0], data.separator))
    except (InputError, OSError, ValueError, csv.Error, pyarrow.ArrowException):
        return config
    if kind is None and {data.text, data.label} & present:
        return config
    found: dict[str, Any] = {}
    if {"prompt", "response"} <= present:
        found = {} if kind is not None else {"prompt": "prompt", "response": "response"}
    elif "messages" in present:
        found = {"messages": "messages"}
    if not found:
        return config
    task = dataclasses.replace(config.task, kind=CAUSAL_LM)
    method = "auto" if config.left_method_open else config.method
    return dataclasses.replace(config, method=method, task=task, data=dataclasses.replace(data, **found))


def _columns(path: Path, separator: str) -> Sequence[str]:
    """The columns of a file by its first line; none of a format that has no such line."""
    ending = path.suffix.lower()
    if ending == ".parquet":
        names: list[str] = pyarrow.parquet.read_schema(path).names
        return names
    if ending not in (".csv", ".tsv", ".jsonl"):
        return ()
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next((line for line in file if line.strip()), "")
    if ending == ".jsonl":
        record = json.loads(first)
        return list(record) if isinstance(record, dict) else ()
    return [name.strip() for name in next(csv.reader([first], delimiter="\t" if ending == ".tsv" else separator), [])]
