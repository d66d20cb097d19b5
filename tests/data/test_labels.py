"""Labels that look the same are one, whatever file, format or site they come from; sites that disagree are named."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.config import load_config
from fibecfed.data import label_list, load_splits, read_rows
from fibecfed.data.columns import Columns
from fibecfed.data.labels import label_name, number_text, visible
from fibecfed.errors import InputError

PLAIN = Columns("text", None, "label")


def csv(path: Path, labels: list[str], header: str = "text,label") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(f"{path.stem} {i},{label}" for i, label in enumerate(labels))]) + "\n")
    return str(path)


def parquet(path: Path, labels: Any) -> str:
    pq.write_table(pa.table({"text": [f"{path.stem} {i}" for i in range(len(labels))], "label": labels}), path)
    return str(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "1.0"),
        ("1", "1."),
        ("0", "-0.0"),
        ("0.1", "0.10000000149011612"),  # single precision, written out
        ("0.1", "0.0999755859375"),  # half precision
        ("caf\u00e9", "cafe\u0301"),
        ("very good", "very\u00a0good"),
        ("very good", " very  good\u2009"),
        ("good", "go\u00adod\u200b"),
        ("good", "\ufeffgood"),
        ("good", "good\u200e"),
        ("good", "good\x00"),
        ("e-mail", "e\u2011mail"),
        ("\u2764", "\u2764\ufe0f"),
    ],
)
def test_labels_that_look_the_same_have_one_name(one: str, other: str) -> None:
    assert label_name(one) == label_name(other) == one


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "01"),
        ("1.1", "1.10"),  # chapters
        ("yes", "Yes"),
        ("2", "\u00b2"),
        ("1e5", "100000"),  # a code
        ("0.3", "0.30000000000000004"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
    ],
)
def test_labels_that_look_different_stay_two(one: str, other: str) -> None:
    assert label_name(one) != label_name(other)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text())
def test_a_name_is_the_name_of_itself(text: str) -> None:
    name = label_name(text)
    assert label_name(name) == name
    assert label_name(unicodedata.normalize("NFD", text)) == label_name(unicodedata.normalize("NFC", text))
    assert visible(name) == name


@pytest.mark.parametrize("narrow", [np.float16, np.float32])
def test_a_number_of_any_width_is_written_as_it_was_meant(narrow: type) -> None:
    for text in ("0.1", "2.5", "0.7", "1e-05", "3.3", "-0.2"):
        assert number_text(float(narrow(text))) in (text, str(narrow(text)))
    assert [number_text(v) for v in (1.0, 0.1, 1e17, 0.30000000000000004)] == [
        "1", "0.1", "100000000000000000", "0.30000000000000004",
    ]  # fmt: skip


def test_one_set_of_labels_over_all_formats(tmp_path: Path) -> None:
    folder = tmp_path / "sites"
    csv(folder / "a.csv", ["0", "1", "0.1"])
    csv(folder / "b.csv", ["0.0", "1.0", "0.10000000149011612"])
    parquet(folder / "c.parquet", pa.array([0, 1, 0.1], pa.float32()))
    parquet(folder / "d.parquet", pa.array([0.0, 1.0, 0.1], pa.float64()))
    parquet(folder / "e.parquet", pa.array(["0", "1", "0.1"]))
    parquet(folder / "f.parquet", pa.array([0, 1, 0.1], pa.float16()))
    values: list[Any] = [0, 1.0, 0.1, "1", "0.0"]
    (folder / "g.jsonl").write_text("\n".join(json.dumps({"text": "g", "label": value}) for value in values))
    rows = read_rows(str(folder), PLAIN)
    assert rows.label_names == ("0", "0.1", "1")
    assert rows.labels.tolist() == [0, 2, 1] * 6 + [0, 2, 1, 2, 0]
    alone = {read_rows(str(path), PLAIN).label_names for path in folder.iterdir()}
    assert alone == {("0", "0.1", "1")}  # a site that sees no other file says the same


def test_devices_that_look_the_same_are_one(tmp_path: Path) -> None:
    lines = ["a,x,1", "b,y,1.0", "c,x,caf\u00e9", "d,y,cafe\u0301 "]
    (tmp_path / "x.csv").write_text("\n".join(["text,label,site", *lines]))
    rows = read_rows(str(tmp_path / "x.csv"), Columns("text", None, "label", "site"))
    assert rows.devices is not None and rows.devices.tolist() == ["1", "1", "caf\u00e9", "caf\u00e9"]
    decomposed = csv(tmp_path / "sites" / "cafe\u0301.csv", ["x", "y"])
    csv(tmp_path / "sites" / "b.csv", ["x", "y"])
    named = read_rows(str(Path(decomposed).parent), PLAIN)
    assert named.devices is not None and set(named.devices) == {"b", "caf\u00e9"}


@pytest.mark.parametrize(("north", "south"), [("Yes", "yes"), ("0.5", "0.50"), ("01", "1"), ("5e-1", "0.5")])
def test_sites_that_write_a_label_differently_are_named(tmp_path: Path, north: str, south: str) -> None:
    one, other = csv(tmp_path / "s" / "north.csv", ["no", north]), csv(tmp_path / "s" / "south.csv", ["no", south])
    with pytest.raises(InputError) as raised:
        read_rows(str(tmp_path / "s"), PLAIN)
    assert str(raised.value) == (
        f"'{one}' (device 'north') has the label '{north}' and '{other}' (device 'south') has '{south}': write it "
        "alike in both, or name both in data.labels if they are different labels."
    )
    assert read_rows(str(tmp_path / "s"), PLAIN, ("no", north, south)).labels.tolist() == [0, 1, 0, 2]
    csv(tmp_path / "s" / "south.csv", ["no", south, north])  # a site that has both tells them apart
    assert set(read_rows(str(tmp_path / "s"), PLAIN).label_names) == {"no", north, south}


def test_devices_of_one_file_that_write_a_label_differently_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label,site\na,Yes,n\nb,no,n\nc,yes,s\nd,no,s\n")
    with pytest.raises(InputError, match=r"\(device 'n'\) has the label 'Yes' and .* \(device 's'\) has 'yes'"):
        read_rows(str(tmp_path / "x.csv"), Columns("text", None, "label", "site"))
    assert len(read_rows(str(tmp_path / "x.csv"), PLAIN).label_names) == 3


def test_a_test_label_written_differently_says_how(tmp_path: Path) -> None:
    train, test = csv(tmp_path / "train.csv", ["0.5", "no"]), csv(tmp_path / "test.csv", ["no", "0.50"])
    with pytest.raises(InputError, match=r"row 2 \(line 3\) has the label '0.50', .* Write it '0.5'\."):
        read_rows(test, PLAIN, read_rows(train, PLAIN).label_names)


def test_labels_that_are_listed_have_the_same_names(tmp_path: Path) -> None:
    """What a server lists and what each site finds must meet without either seeing the other's file."""
    assert label_list(["1.0", "cafe\u0301 ", "2"]) == ("1", "caf\u00e9", "2")
    rows = read_rows(csv(tmp_path / "x.csv", ["1", "2.0"]), PLAIN, ("2", "1.0"))
    assert rows.label_names == ("2", "1") and rows.labels.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"A label is named twice \(data.labels\): '1' in 1, 1.0\."):
        label_list(["1", "1.0"])


def test_an_invisible_label_is_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 2 \(line 3\) has only invisible characters as 'label'"):
        read_rows(csv(tmp_path / "x.csv", ["a", "\u200b"]), PLAIN)


@pytest.mark.parametrize("column", ["text", "label"])
def test_half_a_character_names_its_row(tmp_path: Path, column: str) -> None:
    good, bad = {"text": "a", "label": "x"}, {"text": "b", "label": "y", column: "half \ud83d"}
    (tmp_path / "x.jsonl").write_text(json.dumps(good) + "\n\n" + json.dumps(bad))
    with pytest.raises(InputError, match=rf"row 2 \(line 3\) has .*half of a character .* in '{column}'"):
        read_rows(str(tmp_path / "x.jsonl"), PLAIN)


def many(path: Path, labels: list[str]) -> tuple[str, ...]:
    return load_splits(load_config(data={"file": csv(path, labels)})).notes


def test_answers_to_prompts_are_noticed(tmp_path: Path) -> None:
    (note,) = many(tmp_path / "x.csv", [f"answer {min(i, 892)}" for i in range(1000)])
    assert note == (
        "1000 rows have 893 distinct labels, 892 of them in one row only, like answers; to learn answers to "
        "prompts, name their column as data.response (task.kind=causal-lm)."
    )
    assert many(tmp_path / "y.csv", [f"answer {i // 2}" for i in range(99)])  # 50 labels, hardly two rows each
    assert many(tmp_path / "z.csv", [f"class {i % 150}" for i in range(450)]) == ()
    assert many(tmp_path / "few.csv", [f"class {i % 10}" for i in range(12)]) == ()
    with pytest.raises(
        InputError, match=r"1001 distinct labels .* \(data.label\)\? If so, .* 1,000 .* To learn answers"
    ):
        many(tmp_path / "v.csv", [f"{i % 1001}" for i in range(3000)])


def test_labels_of_one_file_that_differ_only_in_spelling_are_said_to_be_two(tmp_path: Path) -> None:
    notes = load_splits(load_config(data={"file": csv(tmp_path / "x.csv", ["Yes", "yes", "no", "+1", "1"] * 8)})).notes
    assert "The labels 'Yes' and 'yes' are two: write them alike if they should be one." in notes
    assert "The labels '+1' and '1' are two: write them alike if they should be one." in notes
    assert not load_splits(load_config(data={"file": csv(tmp_path / "y.csv", ["yes", "no"] * 20)})).notes


def test_a_whole_number_of_more_digits_than_python_reads_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"text": {"1" * 5000}, "label": 1}}\n{{"text": "b", "label": 2}}\n')
    assert read_rows(str(path), PLAIN).texts[0] == "1" * 5000


def test_a_key_that_a_json_object_has_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "x", "label": "y"}\n')
    with pytest.raises(InputError, match=r"row 2 has the key 'label' more than once"):
        read_rows(str(path), PLAIN)


@pytest.mark.parametrize(("one", "other"), [("-1", "\u22121"), ("don't", "don\u2019t"), ("a-b", "a\u2013b")])
def test_labels_that_differ_in_a_dash_or_a_quotation_mark_are_said_to_be_two(
    tmp_path: Path, one: str, other: str
) -> None:
    notes = load_splits(load_config(data={"file": csv(tmp_path / "x.csv", [one, other, "no"] * 8)})).notes
    assert any(f"'{one}'" in note and f"'{other}'" in note for note in notes)


def test_a_pair_is_two_columns() -> None:
    with pytest.raises(InputError, match=r"data.text and data.text_pair both name the column 'text'"):
        Columns("text", "text", "label")
