"""A finished run's model as one folder that plain transformers loads."""

from pathlib import Path

from fibecfed.errors import InputError
from fibecfed.results import RunDirectory, merged_card
from fibecfed.runs.prediction import loaded
from fibecfed.tuning import read_description, save_merged


def export_merged(directory: Path | str, out: Path | str, device: int | str | None = None) -> Path:
    """Write base and LoRA of the global model, or of one device's own, as one new folder; its path.

    A classifier with a pooled head has it in a file beside the weights. README.md there has the lines that load it.
    Raises InputError if the folder is there and not empty, as ``load``, and for what cannot be merged.
    """
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"'{target}' already exists; name a new folder with --out.")
    run = RunDirectory.open(Path(directory))
    found = loaded(directory, device)
    description = read_description(run.adapter)
    with run.replace_folder(target) as folder:
        save_merged(folder, found.model, found.tokenizer, description)
        (folder / "README.md").write_text(merged_card(found.config, description, device), encoding="utf-8")
    return target
