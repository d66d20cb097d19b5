"""What `datasets` and `partition` do once their arguments are read."""

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fibecfed.cli.data_notes import say_notes
from fibecfed.cli.tables import partition_table, spread
from fibecfed.config import Config, settle
from fibecfed.data import DATASETS, SUPPORT, Holding, deal, find_dataset, load_splits
from fibecfed.data.instructions import SETS
from fibecfed.errors import InputError
from fibecfed.federation import write_atomically
from fibecfed.methods import method_class
from fibecfed.tasks import task_kind


def datasets_table(folder: str) -> Table:
    """Every data set that is known by name; ``folder`` is where those not shipped are looked for."""
    table = Table(
        title="Data sets", show_lines=True,
        caption=Text(f"found: shipped, or in data.dir ({folder}). Of a set without a test split, data.test_fraction "
                     "of the rows is held out."),
    )  # fmt: skip
    table.add_column("name", no_wrap=True)
    table.add_column("train", justify="right", no_wrap=True)
    table.add_column("test", justify="right", no_wrap=True)
    table.add_column("classes", justify="right", no_wrap=True)
    table.add_column("found", no_wrap=True)
    table.add_column("source, licence, note")
    for spec in (SUPPORT, *DATASETS.values()):
        about = [spec.source, f"Licence: {spec.licence}", spec.note]
        table.add_row(
            spec.name,
            f"{spec.sizes[spec.train or spec.only]:,}",
            f"{spec.sizes[spec.test]:,}" if spec.test else "-",
            str(len(spec.labels)),
            "yes" if find_dataset(spec.name, folder) else "no",
            Text(". ".join(part.rstrip(".") for part in about if part) + "."),
        )
    for found in SETS.values():
        there = (Path(folder) / found.name / "train.parquet").is_file()
        about = [found.source, f"Licence: {found.licence}", "Prompts and responses (task.kind=causal-lm)", found.note]
        table.add_row(
            found.name,
            f"{found.sizes['train']:,}",
            f"{found.sizes[found.test]:,}" if found.test else "-",
            "-",
            "yes" if there else "no",
            Text(". ".join(part.rstrip(".") for part in about if part) + "."),
        )
    return table


def show_partition(config: Config, plot: Path | None, console: Console) -> None:
    """Print who would hold what in a run of ``config``, and save the picture; needs no model."""
    if plot is not None:
        _check_target(plot)
    splits = load_splits(config)
    dealt = deal(config, splits, method_class(config.method).pooled_data)
    names, labels = splits.train.label_names, dealt.train.labels
    console.print(f"Data: {splits.origin}.", highlight=False, markup=False, soft_wrap=True)
    say_notes(splits.notes, console)
    table = partition_table(dealt.devices, labels, names, dealt.habits, task_kind(config).group)
    console.print(table, highlight=False)
    console.print(_held_out_line(dealt.owners, config.evaluation.split), highlight=False)
    console.print(f"Validation: {len(splits.validation):,} examples, never trained on.", highlight=False)
    config = settle(config, splits.sites)
    if plot is not None:
        from fibecfed.results.partition_plot import partition_png  # matplotlib is slow to import

        counts = dealt.devices.label_counts(labels, len(names), dealt.devices.countable)
        kind = config.data.partition.kind
        alpha = f", alpha={config.data.partition.alpha:g}" if kind in ("dirichlet", "dirichlet-hsu", "quantity") else ""
        first = f", the first {len(counts):,} devices" if len(counts) < dealt.devices.devices else ""
        title = f"{config.dataset}: {kind}{alpha}{first}"
        write_atomically(plot, partition_png(counts, names, dealt.devices.names, title))
        console.print(f"Picture in {plot}", highlight=False, markup=False, soft_wrap=True)


def _check_target(plot: Path) -> None:
    if plot.suffix.lower() != ".png":
        raise InputError(f"'{plot}' must end in .png (--plot).")
    if plot.is_dir():
        raise InputError(f"'{plot}' is a folder; --plot names a file.")
    if not plot.parent.is_dir():
        raise InputError(f"Folder '{plot.parent}' of '{plot}' does not exist (--plot).")


def _held_out_line(owners: Holding, split: str) -> str:
    line = f"Held out ({split}): {owners.sizes.sum():,} examples, {spread(owners.sizes)} a device"
    without = int(np.sum(owners.sizes == 0))
    return line + (f"; {without:,} devices have none." if without else ".")
