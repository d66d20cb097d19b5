"""Data sets, tokenising, batches, and who holds what."""

from fibecfed.data.batches import evaluation_batches, training_batches
from fibecfed.data.columns import Columns
from fibecfed.data.federated import FederatedData, Splits, build_data, load_splits, partition_rows
from fibecfed.data.files import read_rows
from fibecfed.data.fingerprint import (
    DataPrint,
    data_print,
    label_difference,
    part_differences,
    rows_print,
    source_differences,
)
from fibecfed.data.named import DATASETS, SUPPORT, NamedDataset, dataset_names, find_dataset
from fibecfed.data.partition import Partition
from fibecfed.data.rows import Rows, hold_out
from fibecfed.data.tokens import TokenizedSet, tokenize

__all__ = [
    "DATASETS",
    "SUPPORT",
    "Columns",
    "DataPrint",
    "FederatedData",
    "NamedDataset",
    "Partition",
    "Rows",
    "Splits",
    "TokenizedSet",
    "build_data",
    "data_print",
    "dataset_names",
    "evaluation_batches",
    "find_dataset",
    "hold_out",
    "label_difference",
    "load_splits",
    "part_differences",
    "partition_rows",
    "read_rows",
    "rows_print",
    "source_differences",
    "tokenize",
    "training_batches",
]
