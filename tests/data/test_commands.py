"""`fibecfed datasets` and `fibecfed partition`: what they print at any width, and the picture."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.colors import to_rgb
from rich.console import Console
from typer.testing import CliRunner

import fibecfed
from fibecfed.cli.app import app
from fibecfed.cli.tables import partition_table, spread
from fibecfed.data import DATASETS, Habits, Partition
from fibecfed.data.instructions import SETS
from fibecfed.results.palette import COLOURS
from fibecfed.results.partition_plot import partition_png


def command(*arguments: str, width: int = 80) -> tuple[int, list[str]]:
    """Exit code and the printed lines."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(width), "TERM": "dumb"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output.splitlines()


def printed(owned: Partition, labels: np.ndarray, names: list[str], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(partition_table(owned, labels, names))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split("[│┃|]", line)[1:-1]]


def dealt(devices: int, classes: int, each: int = 10) -> tuple[Partition, np.ndarray]:
    """Device k holds ``each`` examples of label k modulo classes, and one of the next."""
    labels = np.concatenate([[k % classes] * each + [(k + 1) % classes] for k in range(devices)])
    return Partition(np.arange(len(labels)), np.arange(devices + 1) * (each + 1)), labels


# datasets


def test_every_data_set_is_listed_with_its_facts(tmp_path: Path) -> None:
    code, lines = command("datasets", f"data.dir={tmp_path}", width=300)
    assert code == 0
    rows = {row[0]: row for row in map(cells, lines) if len(row) == 6}
    assert set(rows) == {"name", "support", *DATASETS, *SETS}
    assert rows["gsm8k"][1:5] == ["7,473", "1,319", "-", "no"]
    assert rows["support"][1:5] == ["1,140", "240", "8", "yes"]
    assert rows["trec"][1:5] == ["5,452", "500", "6", "no"]
    assert rows["mr"][1:5] == ["10,662", "-", "2", "no"]
    for name, spec in DATASETS.items():
        about = rows[name][5]
        assert (
            spec.source in about and f"Licence: {spec.licence.rstrip('.')}" in about and spec.note.rstrip(".") in about
        )
    assert str(tmp_path) in "".join(lines)


def test_found_sets_are_marked(tmp_path: Path) -> None:
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "train.parquet").touch()
    (tmp_path / "boolq").mkdir()
    (tmp_path / "boolq" / "validation.parquet").touch()
    _, lines = command("datasets", f"data.dir={tmp_path}", width=300)
    found = {row[0]: row[4] for row in map(cells, lines) if len(row) == 6}
    assert [name for name, answer in found.items() if answer == "yes"] == ["support", "rte", "boolq"]


@pytest.mark.parametrize("width", [60, 80])
def test_the_list_fits_a_narrow_terminal(width: int) -> None:
    code, lines = command("datasets", width=width)
    assert code == 0 and max(map(len, lines)) <= width
    assert {row[0] for row in map(cells, lines) if len(row) == 6} >= {"support", *DATASETS}  # no name is broken


# partition


def test_the_partition_is_the_runs(bert: Path, rows_file: Path, tmp_path: Path) -> None:
    shared = [f"data.file={rows_file}", "federation.devices=4", "federation.sampled=2", "data.partition.alpha=0.3"]
    run = fibecfed.run(fibecfed.load_config(overrides=[*shared, f"model.name={bert}", "federation.rounds=1",
                                                       "lora.rank=2"]), tmp_path / "out")  # fmt: skip
    code, lines = command("partition", *shared, "model.name=no/such-model")  # no model is needed
    assert code == 0
    written = json.loads((tmp_path / "out" / "partition.json").read_text())
    table = [row for row in map(cells, lines) if len(row) == 5]
    assert table[0] == ["device", *written["labels"], "all"]
    assert [[int(c) for c in row[1:]] for row in table[1:5]] == [[*row, sum(row)] for row in written["train"]]
    assert table[5][0] == "all" and int(table[5][-1]) == sum(map(sum, written["train"]))
    text = " ".join(" ".join(lines).split())
    assert f"Data: {run.summary['data']['origin']}." in text
    assert f"Held out (test): {sum(map(sum, written['held_out']))} examples" in text
    assert f"Validation: {run.summary['data']['validation_examples']} examples, never trained on." in text


def test_a_yaml_file_and_the_validation_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("federation: {devices: 6}\ndata: {partition: {kind: column}}\nevaluation: {split: validation}\n")
    code, lines = command("partition", str(path))
    assert code == 0
    assert "Held out (validation): 114 examples, 19 a device." in lines
    assert any("nordvale_energy" in line for line in lines)


def test_a_method_that_pools_shows_one_device() -> None:
    _, lines = command("partition", "method=centralized-lora")
    assert "1 device, 1,026 training examples" in lines[1]


def test_devices_without_held_out_examples_are_counted() -> None:
    _, lines = command("partition", "federation.devices=300", "data.partition.alpha=0.1")
    held_out = next(line for line in lines if line.startswith("Held out"))
    assert held_out == "Held out (test): 240 examples, 0 to 1 (median 1) a device; 60 devices have none."


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_shipped_data_is_readable(width: int) -> None:
    _, lines = command("partition", width=width)
    table = "\n".join(lines)
    assert "product_question" in table
    assert ("most of them" in table) == (width < 200)


def test_few_labels_are_counted_each() -> None:
    owned, labels = dealt(3, 4)
    lines = printed(owned, labels, ["a", "b", "c", "d"], 80)
    rows = [cells(line) for line in lines if len(cells(line)) == 6]
    assert rows == [
        ["device", "a", "b", "c", "d", "all"],
        ["0", "10", "1", "0", "0", "11"],
        ["1", "0", "10", "1", "0", "11"],
        ["2", "0", "0", "10", "1", "11"],
        ["all", "10", "11", "11", "1", "33"],
    ]
    assert lines[-1] == "A device holds 11 examples of 2 labels."


def test_many_labels_and_devices_at_80_columns() -> None:
    owned, labels = dealt(50_000, 300)
    lines = printed(owned, labels, [f"a rather long label {c}" for c in range(300)], 80)
    assert len(lines) < 60
    text = "\n".join(lines)
    assert "50,000 devices, 550,000 training examples" in text and "... 49,980 more" in text
    rows = {row[0]: row for row in map(cells, lines) if len(row) == 4}
    assert rows["7"] == ["7", "11", "2", "a rather long label 7:10, a rather long"]  # and goes on below
    assert rows["all"][1:3] == ["550000", "300"]


def test_the_layout_follows_the_width() -> None:
    owned, labels = dealt(5, 10)
    names = [f"label{c}" for c in range(10)]
    assert "most of them" in "\n".join(printed(owned, labels, names, 80))
    wide = "\n".join(printed(owned, labels, names, 130))
    assert "most of them" not in wide and all(name in wide for name in names)


def test_names_are_shown_as_they_are() -> None:
    owned, labels = dealt(2, 2)
    named = Partition(owned.order, owned.offsets, ("[red]north[/red]", "[/oops]"))
    for width in (40, 120):
        text = "\n".join(printed(named, labels, ["[bold]", "[link=x]y[/link]"], width))
        assert "[/oops]" in text and "[bold]" in text


def test_spread() -> None:
    assert spread(np.array([4, 4])) == "4"
    assert spread(np.array([1, 2, 1500])) == "1 to 1,500 (median 2)"
    assert spread(np.array([1, 2])) == "1 to 2 (median 1.5)"


# The picture


def picture(data: bytes) -> np.ndarray:
    assert data.startswith(b"\x89PNG")
    return image.imread(io.BytesIO(data))


@pytest.mark.drawn
def test_the_picture_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "who.png"
    target.write_bytes(b"earlier")
    code, lines = command("partition", "--plot", str(target), width=200)
    assert code == 0 and f"Picture in {target}" in lines
    assert picture(target.read_bytes()).shape[1] > 400
    assert [p.name for p in tmp_path.iterdir()] == ["who.png"]

    def broken(*_: object) -> bytes:
        raise KeyboardInterrupt

    before = target.read_bytes()
    monkeypatch.setattr("fibecfed.results.partition_plot.partition_png", broken)
    assert command("partition", "--plot", str(target))[0] == 130
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("who.pdf", "must end in .png"), ("no/folder/who.png", "does not exist (--plot)"), ("dir.png", "is a folder")],
)
def test_a_target_that_cannot_be_written_is_refused_first(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "dir.png").mkdir()
    code, lines = command("partition", "--plot", str(tmp_path / name), width=300)
    assert code == 2
    assert len(lines) == 1 and sentence in lines[0]


@pytest.mark.drawn
def test_every_label_has_a_colour_of_its_own_or_hatching() -> None:
    """The eighth label has the first one's colour, with white strokes over it."""

    def used(labels: int) -> list[int]:
        drawn = picture(partition_png(np.eye(labels, dtype=int), list("abcdefgh"[:labels]), None, "t"))[..., :3]
        pixels = (drawn * 255).round()
        return [int((np.abs(pixels - np.array(to_rgb(c)) * 255).max(axis=-1) < 1).sum()) for c in COLOURS]

    seven, eight = used(7), used(8)
    assert min(seven) > 5000
    assert 1.2 * eight[1] < eight[0] < 1.9 * eight[1]


@pytest.mark.drawn
def test_bars_are_stacked_to_the_size_of_the_device() -> None:
    """20 examples of each of two labels, and 20 of one: the first bar has twice the pixels."""
    pixels = picture(partition_png(np.array([[20, 20], [20, 0]]), ["a", "b"], None, "t"))[..., :3]
    coloured = np.zeros(pixels.shape[:2], bool)
    for colour in map(to_rgb, COLOURS[:2]):
        coloured |= np.abs(pixels - np.array(colour)).max(axis=-1) < 0.02
    columns = np.flatnonzero(coloured.sum(axis=0) > 100)
    heights = coloured.sum(axis=0)[columns]
    gap = int(np.argmax(np.diff(columns))) + 1
    assert heights[:gap].max() == pytest.approx(2 * heights[gap:].max(), rel=0.02)


@pytest.mark.drawn
@pytest.mark.parametrize(("devices", "classes"), [(1, 2), (41, 3), (5000, 6), (30, 200)])
def test_any_size_can_be_drawn(devices: int, classes: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (devices, classes))
    names = [f"$5 or $10 {k}" for k in range(devices)]  # no formula
    shape = picture(partition_png(counts, [f"label $_{c}" for c in range(classes)], names, "$title")).shape
    assert 300 < shape[0] < 1500 and 300 < shape[1] < 2500


def test_domains_and_habits_are_shown() -> None:
    owned, labels = dealt(devices=22, classes=3)
    owned = Partition(owned.order, owned.offsets, domains=("mr",) * 10 + ("sst2",) * 12)
    pairs = np.zeros((22, 2), np.int64)
    pairs[[2, 11]] = [[0, 2], [1, 0]]
    for width in (100, 45):  # a column for each label, and the largest labels
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(partition_table(owned, labels, ["refund", "technical", "praise"], Habits(pairs)))
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        table = [row for line in text.splitlines() if "│" in line and (row := cells(line))[0]]
        assert [row[1] for row in table[:20]] == ["mr"] * 10 + ["sst2"] * 10
        assert all(len(row) == len(table[0]) for row in table)
        said = " ".join(text.split())
        assert "2 of 22 devices take two labels for each other: 2 (refund, praise), 11 (technical, refund)." in said
