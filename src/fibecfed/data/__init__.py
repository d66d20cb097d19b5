"""Data sets, tokenising, batches, and who holds what."""

import importlib
from typing import TYPE_CHECKING, Any

from fibecfed.data.batches import evaluation_batches, steps_of_epoch, training_batches
from fibecfed.data.columns import Columns
from fibecfed.data.dealing import Dealt, deal, partition_rows
from fibecfed.data.domains import named_sets
from fibecfed.data.files import label_list, read_rows
from fibecfed.data.fingerprint import (
    DataPrint,
    data_differences,
    data_print,
    rows_print,
    source_differences,
    target_difference,
    target_names,
)
from fibecfed.data.habits import Habits
from fibecfed.data.holding import MOST_LISTED, Holding, Owners
from fibecfed.data.named import DATASETS, SUPPORT, NamedDataset, dataset_names, find_dataset
from fibecfed.data.partition import Partition
from fibecfed.data.rows import Rows, hold_out
from fibecfed.data.splits import Splits, load_splits
from fibecfed.data.unlabelled import Asked, columns_of, from_arguments, from_file, from_lines, text_columns

if TYPE_CHECKING:
    from fibecfed.data.federated import FederatedData, build_data
    from fibecfed.data.tokens import WITHOUT_EMBEDDING, TokenizedSet, tokenize

__all__ = [
    "DATASETS",
    "MOST_LISTED",
    "SUPPORT",
    "WITHOUT_EMBEDDING",
    "Asked",
    "Columns",
    "DataPrint",
    "Dealt",
    "FederatedData",
    "Habits",
    "Holding",
    "NamedDataset",
    "Owners",
    "Partition",
    "Rows",
    "Splits",
    "TokenizedSet",
    "build_data",
    "columns_of",
    "data_differences",
    "data_print",
    "dataset_names",
    "deal",
    "evaluation_batches",
    "find_dataset",
    "from_arguments",
    "from_file",
    "from_lines",
    "hold_out",
    "label_list",
    "load_splits",
    "named_sets",
    "partition_rows",
    "read_rows",
    "rows_print",
    "source_differences",
    "steps_of_epoch",
    "target_difference",
    "target_names",
    "text_columns",
    "tokenize",
    "training_batches",
]

# What imports torch (seconds) is imported when it is first used, so that a mistake in a file is said before.
_WHERE = {
    **dict.fromkeys(("FederatedData", "build_data"), "federated"),
    **dict.fromkeys(("WITHOUT_EMBEDDING", "TokenizedSet", "tokenize"), "tokens"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"fibecfed.data.{_WHERE[name]}"), name)
