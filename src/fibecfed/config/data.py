"""Settings of the data: the text, its labels, and who holds what."""

import os
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from fibecfed.config.instructions import InstructionColumns
from fibecfed.config.paths import HOME, from_home
from fibecfed.errors import InputError

_STRICT_KEYS = ConfigDict(extra="forbid")

Fraction = Annotated[float, Field(ge=0, le=1)]


def _default_data_dir() -> str:
    return from_home(os.environ.get("FIBECFED_DATA_DIR", "data"))


@dataclass(config=_STRICT_KEYS, frozen=True)
class PartitionConfig:
    """Who holds which training example."""

    kind: Annotated[
        Literal["dirichlet", "dirichlet-hsu", "iid", "shards", "quantity", "column"] | None,
        Field(
            description="dirichlet: label proportions drawn from Dirichlet(alpha x C x global proportions) for C "
            "labels, so alpha for each where they are balanced; dirichlet-hsu: from Dirichlet(alpha x global "
            "proportions), far more skewed at the same alpha; iid: shuffled; shards: each device gets a few "
            "label-sorted shards; quantity: sizes drawn from Dirichlet(alpha); column: the device column of the data, "
            "or one file per device. None: column where data.file names several devices so, else dirichlet."
        ),
    ] = None
    alpha: Annotated[
        float,
        Field(gt=0, description="Concentration: small is skewed, large is even (dirichlet, dirichlet-hsu, quantity)."),
    ] = 0.5
    size_alpha: Annotated[
        float | None,
        Field(
            gt=0,
            description="Sizes of devices drawn from Dirichlet(size_alpha), no fewer than minimum (dirichlet, "
            "dirichlet-hsu, iid). None: equal sizes.",
        ),
    ] = None
    examples_per_device: Annotated[
        int | None,
        Field(
            ge=1,
            description="Each device draws so many of the training examples for itself, with label proportions as kind "
            "says (dirichlet, dirichlet-hsu, iid), so that several may hold the same one and there may be a million "
            "devices. None: each example belongs to one device.",
        ),
    ] = None
    habits: Annotated[
        Fraction,
        Field(
            description="Fraction of devices that take two labels for each other, a seeded pair each, in training and "
            "in their own part of the test data; the test data as a whole stays as it is. 0: none."
        ),
    ] = 0.0
    shards_per_device: Annotated[int, Field(ge=1, description="Label-sorted shards a device gets (shards).")] = 2
    minimum: Annotated[int, Field(ge=1, description="Fewest training examples a device may hold.")] = 1

    def __post_init__(self) -> None:
        """Raise InputError for sizes where the kind decides them, or where every device draws as many."""
        self._check_draws()
        if self.size_alpha is not None and self.kind in ("shards", "quantity", "column"):
            whose = {
                "shards": "shards_per_device makes them equal",
                "quantity": "alpha draws them",
                "column": "the data says who holds what",
            }
            raise InputError(
                f"data.partition.size_alpha draws the sizes of devices, but with kind={self.kind} {whose[self.kind]}; "
                "leave it out, or use kind=dirichlet, dirichlet-hsu or iid."
            )

    def _check_draws(self) -> None:
        drawn = self.examples_per_device
        if drawn is None:
            return
        said = f"data.partition.examples_per_device={drawn} lets devices draw common examples"
        if self.kind in ("shards", "quantity", "column"):
            raise InputError(
                f"{said}, and with kind={self.kind} each example belongs to one; leave it out, or use kind=dirichlet, "
                "dirichlet-hsu or iid."
            )
        if self.size_alpha is not None:
            raise InputError(f"{said}, as many for each; leave data.partition.size_alpha out.")
        if self.habits:
            raise InputError(f"{said}, which have one label each; leave data.partition.habits out.")
        if drawn < self.minimum:
            raise InputError(f"{said}, fewer than data.partition.minimum={self.minimum}; raise it.")


@dataclass(config=_STRICT_KEYS, frozen=True)
class DataConfig(InstructionColumns):
    """The text, its labels, and how it is split over devices."""

    name: Annotated[
        str,
        Field(
            description="A data set by name (`fibecfed datasets` lists them), or several with the same labels, joined "
            "by + (mr+sst2+mpqa): each device then holds rows of one of them. Ignored when data.file is set."
        ),
    ] = "support"
    dir: Annotated[str, HOME] = Field(
        default_factory=_default_data_dir,
        description="Folder with one sub-folder per named data set. Default: $FIBECFED_DATA_DIR, else ./data.",
    )
    file: Annotated[
        str | None,
        HOME,
        Field(
            description="Your own training data: a CSV, TSV, JSONL or Parquet file, a folder saved by `datasets`, or a "
            "folder or glob with one file per device."
        ),
    ] = None
    test_file: Annotated[
        str | None,
        HOME,
        Field(
            description="Test data in the same columns (but for data.device), or one file per device, named as in "
            "data.file. None: a stratified part of data.file."
        ),
    ] = None
    text: Annotated[str, Field(description="Column with the (first) text of data.file.")] = "text"
    text_pair: Annotated[str | None, Field(description="Column with the second text; None: one text a row.")] = None
    label: Annotated[str, Field(description="Column with the label of data.file.")] = "label"
    labels: Annotated[
        list[str] | None,
        Field(
            min_length=2,
            description="The labels of data.file, in the order that outputs have. None: those found, sorted. Needed "
            "where devices are on machines of their own, since none sees the others' labels.",
        ),
    ] = None
    separator: Annotated[
        str, Field(min_length=1, max_length=1, description="What separates the columns of a CSV file.")
    ] = ","
    device: Annotated[
        str | None,
        Field(description="Column that names the device a row belongs to; None: the file does, if there is one each."),
    ] = None
    allow_download: Annotated[
        bool, Field(description="Whether a named data set may be fetched from the Hugging Face hub (extra `hub`).")
    ] = False
    train_examples: Annotated[
        int | None, Field(ge=1, description="Use this many training examples, a seeded stratified draw. None: all.")
    ] = None
    test_examples: Annotated[
        int | None, Field(ge=1, description="Use this many test examples, a seeded stratified draw. None: all.")
    ] = None
    test_fraction: Annotated[
        float, Field(gt=0, lt=1, description="Part of the data held out for testing where no test split exists.")
    ] = 0.2
    validation_fraction: Annotated[
        float, Field(ge=0, lt=1, description="Part of the training data kept for tuning decisions, never trained on.")
    ] = 0.1
    label_noise: Annotated[
        Fraction, Field(description="Fraction of training labels replaced by another label, seeded.")
    ] = 0.0
    max_length: Annotated[
        int, Field(ge=4, description="Tokens an example is cut to; how many were cut is printed.")
    ] = 128
    partition: PartitionConfig = Field(default_factory=PartitionConfig)
