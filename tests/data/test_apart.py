"""Train and test stay apart: what is refused, what is counted, and what a header in the middle of a file is."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import fibecfed
import tiny
from fibecfed.cli.data_notes import say_notes
from fibecfed.config import load_config
from fibecfed.data import Splits, build_data, load_splits, read_rows
from fibecfed.data.columns import Columns
from fibecfed.errors import InputError
from fibecfed.flower.own_data import labels_of, own_data
from fibecfed.runtime import assemble


def csv(path: Path, numbers: range, name: str = "text") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text,label\n" + "".join(f"{name} {i},{'ab'[i % 2]}\n" for i in numbers))
    return str(path)


def splits(file: Path | str, test_file: Path | str, **data: Any) -> Splits:
    return load_splits(load_config(data={"file": str(file), "test_file": str(test_file), **data}))


def refused(file: Path | str, test_file: Path | str) -> str:
    with pytest.raises(InputError) as raised:
        splits(file, test_file)
    return str(raised.value)


def test_a_test_file_that_is_trained_on_is_refused(tmp_path: Path) -> None:
    sites = tmp_path / "sites"
    north = csv(sites / "north.csv", range(20))
    csv(sites / "south.csv", range(20, 50))
    assert "is also trained on" in refused(north, north)
    assert ", the device 'north')" in refused(sites, north)
    (tmp_path / "link.csv").symlink_to(north)
    assert ", the device 'north')" in refused(sites, tmp_path / "link.csv")
    assert ", the device 'north')" in refused(f"{sites}/*.csv", f"{sites}/nor*.csv")
    assert "is also trained on" in refused(sites, sites)
    assert len(splits(sites, csv(tmp_path / "test.csv", range(50, 60))).test) == 10


def test_a_copy_of_what_is_trained_on_is_refused(tmp_path: Path) -> None:
    """Under another name, in another format, in another order."""
    sites = tmp_path / "sites"
    north = csv(sites / "north.csv", range(20))
    csv(sites / "south.csv", range(20, 50))
    shutil.copy(north, tmp_path / "copy.csv")
    assert "is the training data (" in refused(north, tmp_path / "copy.csv")
    assert "is the training data of the device 'north' (" in refused(sites, tmp_path / "copy.csv")
    cells = [(f"text {i}", "ab"[i % 2]) for i in reversed(range(20))]
    pq.write_table(pa.table({"text": [t for t, _ in cells], "label": [la for _, la in cells]}), tmp_path / "x.parquet")
    assert "is the training data of the device 'north' (" in refused(sites, tmp_path / "x.parquet")
    csv(tmp_path / "test" / "north.csv", range(20))  # one site's test file is its training file
    csv(tmp_path / "test" / "south.csv", range(90, 95))
    assert "The test data of the device 'north'" in refused(sites, tmp_path / "test")


def test_a_folder_with_the_parts_of_one_data_set_is_no_folder_of_sites(tmp_path: Path) -> None:
    train, test = csv(tmp_path / "train.csv", range(40)), csv(tmp_path / "test.csv", range(40, 60))
    with pytest.raises(InputError) as raised:
        load_splits(load_config(data={"file": str(tmp_path)}))
    assert f"set data.file={train} data.test_file={test}, or rename them" in str(raised.value)
    assert len(splits(train, test).test) == 20


def test_texts_that_are_in_both_are_counted_and_said(tmp_path: Path) -> None:
    train, test = csv(tmp_path / "train.csv", range(40)), csv(tmp_path / "test.csv", range(37, 50))
    config = load_config(data={"file": train, "test_file": test, "validation_fraction": 0})
    found = load_splits(config)
    sentence = "3 of 13 test examples have a text that is also a training text, word for word."
    assert found.notes == (sentence,)
    assert build_data(config, found, tiny.tokenizer(decoder=False)).shared == 3
    other = load_splits(load_config(data={"file": train, "test_file": csv(tmp_path / "o.csv", range(50, 60))}))
    assert other.notes == ()
    console = Console(record=True, width=200)
    say_notes(found.notes, console)
    assert console.export_text() == f"Note: {sentence}\n"


def test_a_run_keeps_the_count_and_the_sentences(bert: Path, tmp_path: Path) -> None:
    train, test = csv(tmp_path / "train.csv", range(40)), csv(tmp_path / "test.csv", range(30, 50))
    config = load_config(
        data={"file": train, "test_file": test, "validation_fraction": 0}, model={"name": str(bert)}
    )  # fmt: skip
    said = assemble(config).data_summary()
    assert said["held_out_in_training"] == 10
    assert said["notes"] == ["10 of 20 test examples have a text that is also a training text, word for word."]


def test_pairs_are_compared_as_pairs(tmp_path: Path) -> None:
    lines = "".join(f"q,a {i},{'xy'[i % 2]}\n" for i in range(10))
    (tmp_path / "train.csv").write_text("text,more,label\n" + lines)
    (tmp_path / "test.csv").write_text("text,more,label\nq,a 3,x\nq,a 30,y\n")
    found = splits(tmp_path / "train.csv", tmp_path / "test.csv", text_pair="more", validation_fraction=0)
    assert found.notes[0].startswith("1 of 2 test examples")


@pytest.mark.parametrize("columns", [("label", None, "label"), ("text", "label", "label")])
def test_the_label_is_no_text(columns: tuple[str, str | None, str]) -> None:
    with pytest.raises(InputError, match=r"and data.label both name the column 'label': the model would read"):
        Columns(*columns)
    key = "text" if columns[0] == "label" else "text_pair"
    with pytest.raises(InputError, match=f"data.{key} and"):
        load_splits(load_config(data={"file": "any.csv", key: "label"}))


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("x.csv", "text,label"),
        ("x.csv", '"text",  label '),
        ("x.csv", "Text,LABEL"),
        ("x.csv", "label,text"),
        ("x.csv", "\ufefftext,label"),
        ("x.tsv", "text\tlabel"),
        ("x.jsonl", '{"text": "text", "label": "label"}'),
    ],
)
def test_a_header_in_the_middle_is_no_row(tmp_path: Path, name: str, second: str) -> None:
    if name == "x.jsonl":
        lines = ['{"text": "one", "label": "a"}', '{"text": "two", "label": "b"}', second]
        place = "row 3"
    else:
        separator = "\t" if name == "x.tsv" else ","
        lines = [separator.join(pair) for pair in (("text", "label"), ("one", "a"), ("two", "b"))] + [second]
        place = r"row 3 \(line 4\)"
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=f"{place} repeats the header, as where files were put together; remove"):
        read_rows(str(tmp_path / name), Columns("text", None, "label"))


def test_a_text_that_is_called_like_a_column_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label,more\ntext,a,\nlabel,b,text\n")
    assert list(read_rows(str(tmp_path / "x.csv"), Columns("text", None, "label")).texts) == ["text", "label"]


def test_the_shipped_messages_are_apart() -> None:
    assert load_splits(fibecfed.load_config()).notes == ()


def test_a_site_of_its_own_is_kept_to_the_same_rules(tmp_path: Path) -> None:
    file = csv(tmp_path / "x.csv", range(20))
    shutil.copy(file, tmp_path / "copy.csv")
    for test_file, sentence in ((file, "is also trained on"), (str(tmp_path / "copy.csv"), "is the training data")):
        config = load_config(data={"file": file, "test_file": test_file, "labels": ["a", "b"]})
        learner = SimpleNamespace(config=config)  # refused before the model is asked for anything
        with pytest.raises(InputError, match=sentence):
            own_data(learner, 0)  # type: ignore[arg-type]
    assert labels_of(load_config(data={"labels": ["1.0", "cafe\u0301"]})) == ("1", "caf\u00e9")
