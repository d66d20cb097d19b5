"""Data sets, tokenising, batches, and who holds what."""

from fibecfed.data.batches import evaluation_batches, training_batches
from fibecfed.data.columns import Columns
from fibecfed.data.federated import FederatedData, Splits, build_data, load_splits, partition_rows
from fibecfed.data.files import read_rows
from fibecfed.data.named import DATASETS, SUPPORT, NamedDataset, dataset_names, find_dataset
from fibecfed.data.partition import Partition
from fibecfed.data.rows import Rows, hold_out
from fibecfed.data.tokens import WITHOUT_EMBEDDING, TokenizedSet, tokenize
from fibecfed.data.unlabelled import Asked, columns_of, from_arguments, from_file, from_lines

__all__ = [
    "DATASETS",
    "SUPPORT",
    "WITHOUT_EMBEDDING",
    "Asked",
    "Columns",
    "FederatedData",
    "NamedDataset",
    "Partition",
    "Rows",
    "Splits",
    "TokenizedSet",
    "build_data",
    "columns_of",
    "dataset_names",
    "evaluation_batches",
    "find_dataset",
    "from_arguments",
    "from_file",
    "from_lines",
    "hold_out",
    "load_splits",
    "partition_rows",
    "read_rows",
    "tokenize",
    "training_batches",
]
