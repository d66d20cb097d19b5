"""Reading a user's own files: every format, and every mistake with its file, its row and what to do."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fibecfed.commands import at_a_shell
from fibecfed.config import load_config
from fibecfed.config.loading import parse_overrides
from fibecfed.data import Rows, load_splits
from fibecfed.data.columns import Columns, setting
from fibecfed.data.files import read_rows
from fibecfed.errors import InputError

PLAIN = Columns("text", None, "label")
TEXTS = ["a first", 'she said "no", then left', "two\nlines", "naïve café 🙂", " padded ", '5" pipe; tab\there']
LABELS = ["yes", "no", "no", "yes", "maybe", "no"]


def file(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def refusal(location: str, columns: Columns = PLAIN, label_names: tuple[str, ...] | None = None) -> str:
    with pytest.raises(InputError) as raised, at_a_shell():
        read_rows(location, columns, label_names)
    message = str(raised.value)
    assert "\n" not in message
    return message


def parquet(path: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


# Formats


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


def as_csv(folder: Path) -> str:
    lines = [f"{quoted(t)},{label}" for t, label in zip(TEXTS, LABELS, strict=True)]
    return file(folder, "x.csv", "text,label\n" + "\n".join(lines) + "\n")


def as_crlf_with_bom(folder: Path) -> str:
    lines = [f"{label},{quoted(t)}" for t, label in zip(TEXTS, LABELS, strict=True)]
    return file(folder, "X.CSV", ("\ufefflabel,text\r\n" + "\r\n".join(lines) + "\r\n").encode())


def as_quoted_tsv(folder: Path) -> str:
    lines = [f"{quoted(t)}\t{label}" for t, label in zip(TEXTS, LABELS, strict=True)]
    return file(folder, "x.tsv", "text\tlabel\n" + "\n".join(lines))


def as_jsonl(folder: Path) -> str:
    lines = [json.dumps({"n": 1, "label": la, "text": t}) for t, la in zip(TEXTS, LABELS, strict=True)]
    return file(folder, "x.jsonl", "\n\n".join(lines) + "\n\n")


def as_parquet(folder: Path) -> str:
    return parquet(folder / "x.parquet", {"text": TEXTS, "more": [None] * 6, "label": LABELS})


def as_datasets_folder(folder: Path) -> str:
    datasets = pytest.importorskip("datasets")
    names = ["no", "yes", "maybe"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=features).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


@pytest.mark.parametrize("write", [as_csv, as_crlf_with_bom, as_quoted_tsv, as_jsonl, as_parquet, as_datasets_folder])
def test_every_format_gives_the_same_rows(write: Callable[[Path], str], tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path), PLAIN)
    assert list(rows.texts) == TEXTS
    assert rows.label_names == ("maybe", "no", "yes")
    assert [rows.label_names[i] for i in rows.labels] == LABELS
    assert rows.labels.dtype == np.int64
    assert rows.pairs is None and rows.devices is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip),
        min_size=2, max_size=6,
    )
)  # fmt: skip
def test_any_text_survives_csv_and_jsonl(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    labels = ["a", "b", *["a"] * (len(texts) - 2)]
    lines = [f"{quoted(t)},{label}" for t, label in zip(texts, labels, strict=True)]
    assert list(read_rows(file(folder, "x.csv", "text,label\n" + "\n".join(lines)), PLAIN).texts) == texts
    objects = [json.dumps({"text": t, "label": la}, ensure_ascii=False) for t, la in zip(texts, labels, strict=True)]
    assert list(read_rows(file(folder, "x.jsonl", "\n".join(objects)), PLAIN).texts) == texts


def test_columns_are_mapped(tmp_path: Path) -> None:
    location = file(tmp_path, "x.csv", "Site;Frage;Antwort;gut?\nA;was;das;1\nB;wer;der;0\n")
    rows = read_rows(location, Columns("Frage", "Antwort", "gut?", "Site", ";"))
    assert (list(rows.texts), list(rows.pairs or ())) == (["was", "wer"], ["das", "der"])
    assert rows.devices is not None and rows.devices.tolist() == ["A", "B"]
    assert rows.label_names == ("0", "1") and rows.labels.tolist() == [1, 0]


def test_blanks_around_names_labels_and_separators_do_not_count(tmp_path: Path) -> None:
    rows = read_rows(
        file(tmp_path, "x.csv", 'text , label\none,  very good\n"two, too", very good \nthree,bad\n'), PLAIN
    )
    assert rows.label_names == ("bad", "very good")
    assert list(rows.texts) == ["one", "two, too", "three"]
    turned = read_rows(file(tmp_path, "y.csv", 'label, text\ngood, "one, two"\nbad, three\n'), PLAIN)
    assert list(turned.texts) == ["one, two", "three"]


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    lines = "".join(f"t{n},{n}\n" for n in (10, 9, -1, 2))
    assert read_rows(file(tmp_path, "x.csv", "text,label\n" + lines), PLAIN).label_names == ("-1", "2", "9", "10")
    words = "".join(f"t,{n}\n" for n in ("10", "9", "x"))
    assert read_rows(file(tmp_path, "y.csv", "text,label\n" + words), PLAIN).label_names == ("10", "9", "x")
    equal = read_rows(file(tmp_path, "v.csv", "text,label\na,01\nb,1\nc,0001\nd,001\ne,00001\n"), PLAIN)
    assert equal.label_names == ("00001", "0001", "001", "01", "1")  # the same in every process
    odd = read_rows(file(tmp_path, "z.csv", "text,label\na,01\nb,1\nc,²\n"), PLAIN)
    assert odd.label_names == ("01", "1", "²")


def test_numbers_and_booleans_of_typed_formats_are_labels(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a.parquet", {"text": ["a", "b"], "label": pa.array([1, 0], pa.int8())})
    assert read_rows(whole, PLAIN).label_names == ("0", "1")
    gaps = parquet(tmp_path / "b.parquet", {"text": ["a", "b"], "label": [1.0, 0.0]})  # pandas made floats of these
    assert read_rows(gaps, PLAIN).label_names == ("0", "1")
    truth = file(tmp_path, "c.jsonl", '{"text": "a", "label": true}\n{"text": 5, "label": false}\n')
    assert read_rows(truth, PLAIN).label_names == ("False", "True")
    assert list(read_rows(truth, PLAIN).texts) == ["a", "5"]
    category = pa.array(["x", "y"]).dictionary_encode()
    assert read_rows(parquet(tmp_path / "d.parquet", {"text": ["a", "b"], "label": category}), PLAIN).labels.sum() == 1


def test_unquoted_tab_separated_text_keeps_its_quotation_marks(tmp_path: Path) -> None:
    """As GLUE's own files: a mark that is never closed must not swallow the rows after it."""
    content = 'text\tlabel\n"Never, he said\t0\nnobody knows"\t1\n"quite "so\t1\n"a ""whole"" one"\t0\n'
    rows = read_rows(file(tmp_path, "x.tsv", content), PLAIN)
    assert list(rows.texts) == ['"Never, he said', 'nobody knows"', '"quite "so', 'a "whole" one']


def test_trailing_separators_and_blank_rows_are_no_columns_and_rows(tmp_path: Path) -> None:
    rows = read_rows(file(tmp_path, "x.csv", "text,label\na,0,,\n\n   \n,\nb,1\n,,,\n"), PLAIN)
    assert list(rows.texts) == ["a", "b"]


def test_very_long_texts_are_read(tmp_path: Path) -> None:
    long = "word " * 100_000
    rows = read_rows(file(tmp_path, "x.csv", f"text,label\n{long},0\nb,1\n"), PLAIN)
    assert len(rows.texts[0]) == len(long)


# Several files


def test_one_file_per_device(tmp_path: Path) -> None:
    file(tmp_path, "sites/south.csv", "text,label\na,0\nb,1\n")
    file(tmp_path, "sites/north.jsonl", '{"text": "c", "label": 2}\n')
    file(tmp_path, "sites/notes.md", "not data")
    for location in (str(tmp_path / "sites"), str(tmp_path / "sites" / "*")):
        rows = read_rows(location, PLAIN)
        assert rows.devices is not None and rows.devices.tolist() == ["north", "south", "south"]
        assert list(rows.texts) == ["c", "a", "b"] and rows.labels.tolist() == [2, 0, 1]
    only = read_rows(str(tmp_path / "sites" / "*.csv"), PLAIN)
    assert only.devices is not None and only.devices.tolist() == ["south", "south"]


def test_one_folder_per_device(tmp_path: Path) -> None:
    for site in ("north", "south"):
        file(tmp_path, f"{site}/train.csv", f"text,label\nfrom {site},0\nb,1\n")
        file(tmp_path, f"{site}/test.csv", f"text,label\ntest of {site},0\n")
    rows = read_rows(str(tmp_path / "*" / "train.csv"), PLAIN)
    assert rows.devices is not None and rows.devices.tolist() == ["north", "north", "south", "south"]
    test = read_rows(str(tmp_path / "*" / "test.csv"), PLAIN, rows.label_names)
    assert test.devices is not None and test.devices.tolist() == ["north", "south"]
    everything = read_rows(str(tmp_path / "*" / "*.csv"), PLAIN)
    assert everything.devices is not None
    assert sorted(set(everything.devices)) == ["north/test", "north/train", "south/test", "south/train"]


def test_two_files_for_one_device(tmp_path: Path) -> None:
    file(tmp_path, "a.csv", "text,label\na,0\nb,1\n")
    file(tmp_path, "a.jsonl", '{"text": "c", "label": 2}\n')
    message = refusal(str(tmp_path))
    assert "a.csv' and '" in message and "would both be the device 'a'; rename one." in message


def test_several_datasets_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for site in ("n", "s"):
        datasets.Dataset.from_dict({"text": [site, "x"], "label": [0, 1]}).save_to_disk(str(tmp_path / site))
    rows = read_rows(str(tmp_path), PLAIN)
    assert rows.devices is not None and rows.devices.tolist() == ["n", "n", "s", "s"]


def test_labels_are_those_of_all_files_and_a_mistake_names_its_own(tmp_path: Path) -> None:
    file(tmp_path, "a.csv", "text,label\na,x\n")
    file(tmp_path, "b.csv", "text,label\nb,y\n,y\n")
    assert refusal(str(tmp_path)).startswith(f"'{tmp_path}/b.csv' row 2 (line 3) has an empty or missing 'text'")
    file(tmp_path, "b.csv", "text,label\nb,y\n")
    assert read_rows(str(tmp_path), PLAIN).label_names == ("x", "y")
    assert read_rows(str(tmp_path), PLAIN, ("z", "y", "x")).labels.tolist() == [2, 1]


def test_a_test_file_may_lack_the_device_column(tmp_path: Path) -> None:
    columns = Columns("text", None, "label", "site")
    train = file(tmp_path, "train.csv", "text,label,site\na,0,n\nb,1,s\n")
    test = file(tmp_path, "test.csv", "text,label\na,0\n")
    assert read_rows(test, columns, ("0", "1")).devices is None
    assert "has no column 'site' (data.device)" in refusal(test, columns)
    file(tmp_path, "many/a.csv", "text,label,site\na,0,n\n")
    lacking = file(tmp_path, "many/b.csv", "text,label\na,0\n")
    message = refusal(str(tmp_path / "many"), columns, ("0", "1"))
    assert message == f"'{lacking}' has no column 'site' (data.device), which the other files have."
    assert read_rows(train, columns).devices is not None


# Mistakes users really make


def applied(message: str, **values: Any) -> Rows:
    """The rows after the settings that a message suggests are given as arguments of a shell."""
    start = re.search(r" [Ss]et (?=data|'data)", message)
    assert start, message
    suggested = shlex.split(message[start.end() :])
    config = load_config(overrides=suggested, **values)
    data = config.data
    assert data.file is not None
    return read_rows(data.file, Columns(data.text, data.text_pair, data.label, data.device, data.separator))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("header", ["TEXT{s}LABEL", '"Text"{s}"Label"', "label{s}text", "n{s} Texts {s}labels"])
def test_a_file_with_another_separator_says_which_settings_work(tmp_path: Path, separator: str, header: str) -> None:
    names = header.replace("{s}", separator)
    columns = [name.strip().strip('"').lower().rstrip("s") for name in names.split(separator)]
    cells = {"text": ["one, two", "three"], "label": ["good", "bad"], "n": ["1", "2"]}
    lines = [separator.join(cells[c][i] for c in columns) for i in range(2)]
    location = file(tmp_path, "x.csv", "\n".join([names, *lines]))
    message = refusal(location)
    assert f"'{location}' has no columns 'text' (data.text), 'label' (data.label)" in message
    assert f"seems to be separated by {separator!r}" in message
    rows = applied(message, data={"file": location})
    assert list(rows.texts) == ["one, two", "three"]
    assert rows.label_names == ("bad", "good")


def test_a_comma_file_read_with_another_separator(tmp_path: Path) -> None:
    location = file(tmp_path, "x.csv", "text,label\na,0\nb,1\n")
    message = refusal(location, Columns("text", None, "label", separator=";"))
    assert "seems to be separated by ','" in message
    assert len(applied(message, data={"file": location, "separator": ";"})) == 2


def test_a_tsv_that_is_none(tmp_path: Path) -> None:
    message = refusal(file(tmp_path, "x.tsv", "text;label\na;0\nb;1\n"))
    assert "give it the ending .csv and set 'data.separator=;'" in message


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_columns_with_other_names_say_which_settings_work(tmp_path: Path, name: str) -> None:
    columns = {"My Text": ["a", "b"], "LABELS": ["0", "1"], "yes": ["n", "s"]}
    location = str(tmp_path / name)
    if name == "x.csv":
        file(tmp_path, name, "My Text,LABELS,yes\na,0,n\nb,1,s\n")
    elif name == "x.jsonl":
        file(tmp_path, name, "\n".join(json.dumps({k: v[i] for k, v in columns.items()}) for i in range(2)))
    else:
        parquet(tmp_path / name, columns)
    message = refusal(location, Columns("text", None, "label", "yess"))
    assert "its columns are: My Text, LABELS, yes." in message
    assert 'data.device="yes"' in message  # YAML would make a truth value of it
    assert len(applied(message, data={"file": location, "device": "yess"})) == 2


def test_one_column_is_not_suggested_for_two_keys(tmp_path: Path) -> None:
    message = refusal(file(tmp_path, "x.csv", "Question1,label\na,0\n"), Columns("question", "questions", "label"))
    assert message.endswith("its columns are: Question1, label. Set data.text=Question1")


def test_columns_with_quite_other_names(tmp_path: Path) -> None:
    message = refusal(file(tmp_path, "x.csv", "I was charged twice,billing\nwhere is it,delivery\n"))
    assert message.endswith(
        "its columns are: I was charged twice, billing. Say which of them (its first line must name them) to use: "
        "data.text=COLUMN data.label=COLUMN"
    )


def test_python_is_told_what_load_config_takes(tmp_path: Path) -> None:
    for header, columns, told in [
        ("My Text,LABELS", PLAIN, "Set data={'text': 'My Text', 'label': 'LABELS'}"),
        ("aa,bb", PLAIN, "to use: data={'text': 'COLUMN', 'label': 'COLUMN'}"),
        ("text;label", PLAIN, "set data={'separator': ';'}"),
    ]:
        with pytest.raises(InputError) as raised:
            read_rows(file(tmp_path, "x.csv", f"{header}\na,0\n"), columns)
        assert str(raised.value).endswith(told)


def test_a_long_header_is_cut(tmp_path: Path) -> None:
    message = refusal(file(tmp_path, "x.csv", ",".join(f"column {i} {'x' * 200}" for i in range(500)) + "\n"))
    assert "and 480 more." in message
    assert len(message) < 2500


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_a_suggested_setting_survives_shell_and_yaml(word: str) -> None:
    (argument,) = shlex.split(setting("data.text", word))
    assert parse_overrides([argument]) == {"data": {"text": word}}


def seventeen(skip_label: bool) -> list[str]:
    records: list[dict[str, str]] = [{"text": f"message {i}", "label": "ab"[i % 2]} for i in range(20)]
    if skip_label:
        del records[16]["label"]
    return [json.dumps(record) for record in records]


def test_a_missing_label_in_row_17_of_a_jsonl_file(tmp_path: Path) -> None:
    location = file(tmp_path, "x.jsonl", "\n".join(seventeen(skip_label=True)))
    assert refusal(location) == f"'{location}' row 17 has an empty or missing 'label'; fill it in or remove the row."
    with_blanks = file(tmp_path, "y.jsonl", "\n\n".join(seventeen(skip_label=True)))
    assert "row 17 (line 33) has an empty or missing 'label'" in refusal(with_blanks)
    assert len(read_rows(file(tmp_path, "z.jsonl", "\n".join(seventeen(skip_label=False))), PLAIN)) == 20


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("x.csv", "text,label\na,0\n ,1\n,0\n", "row 2 (line 3) has an empty or missing 'text' (2 such rows in all)"),
        ("x.csv", "text,label\na,0\nb\n", "row 2 (line 3) has an empty or missing 'label'"),
        ("x.csv", 'text,label\n"a\nb\nc",0\n\nd,\n', "row 2 (line 6) has an empty or missing 'label'"),
        ("x.csv", "\n\ntext,label\na,0\nb,\n", "row 2 (line 5) has an empty or missing 'label'"),
        ("x.tsv", "text\tlabel\na\t0\n\t1\n", "row 2 (line 3) has an empty or missing 'text'"),
        ("x.jsonl", '{"text": "a", "label": 0}\n{"text": null, "label": 1}\n', "row 2 has an empty or missing 'text'"),
        ("x.jsonl", '{"text": "a", "label": 0}\n{"text": "", "label": 1}\n', "row 2 has an empty or missing 'text'"),
        ("x.jsonl", '{"text": "a", "label": NaN}\n', "row 1 has an empty or missing 'label'"),
    ],
)  # fmt: skip
def test_empty_cells_name_row_and_line(tmp_path: Path, name: str, content: str, place: str) -> None:
    location = file(tmp_path, name, content)
    assert refusal(location).startswith(f"'{location}' {place}")
    assert refusal(location).endswith("; fill it in or remove the row.")


def test_gaps_in_parquet(tmp_path: Path) -> None:
    location = parquet(tmp_path / "x.parquet", {"text": ["a", None, "c"], "label": [0, 1, 2]})
    assert "row 2 has an empty or missing 'text'" in refusal(location)
    location = parquet(tmp_path / "y.parquet", {"text": ["a", "b", "c"], "label": [0.0, 1.0, float("nan")]})
    assert "row 3 has an empty or missing 'label'" in refusal(location)


def test_gaps_in_a_datasets_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"text": ["x", "y", "z"], "label": [0, 1, -1]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "saved"))
    assert "row 3 has an empty or missing 'label'" in refusal(str(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"text": ["a", "b"], "label": 0}, "row 2 has a list as 'text'"),
        ({"text": "a", "label": [0, 1]}, "row 2 has a list as 'label'"),
        ({"text": {"body": "a"}, "label": 0}, "row 2 has a dict as 'text'"),
    ],
)
def test_cells_that_are_no_text(tmp_path: Path, record: dict[str, Any], what: str) -> None:
    good = json.dumps({"text": "x", "label": 1})
    assert what in refusal(file(tmp_path, "x.jsonl", good + "\n" + json.dumps(record)))


def test_bytes_in_parquet_are_no_text(tmp_path: Path) -> None:
    location = parquet(tmp_path / "x.parquet", {"text": [b"a", b"b"], "label": [0, 1]})
    assert "row 1 has a bytes as 'text'; one text or number is needed." in refusal(location)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.csv", "", "is empty"),
        ("x.tsv", "\n \n", "is empty"),
        ("x.jsonl", "\n\n", "is empty"),
        ("x.csv", "text,label\n", "has no rows"),
        ("x.csv", "text,label\n\n,\n", "has no rows"),
        ("x.csv", "text,label,text\na,0,b\n", "has more than one column 'text'; rename all but one"),
        ("x.csv", "text,label, label\na,0,b\n", "has more than one column 'label'"),
        ("x.csv", "text,label\na,0\nhello, you,1\n", "row 2 (line 3) has 3 columns where the header has 2"),
        ("x.csv", "text,label\nhello, you,1\n", "row 1 (line 2) has 3 columns"),
        ("x.csv", 'text,label\na,0\n"b,1\nc,0\n', "row 2 (line 3) has quotation marks that do not match"),
        ("x.csv", 'text,label\na,0\n"b" c,1\n', "row 2 (line 3) has quotation marks that do not match"),
        ("x.csv", '"text,label\na,0\n', "header has quotation marks that do not match"),
        ("x.tsv", 'text\tlabel\n"a\tb\t0\nc\t1\n', "has quotation marks that do not match"),
        ("x.jsonl", '{"text": "a", "label": 0}\n\n{"text": "b", ', "row 2 (line 3) is not valid JSON ("),
        ("x.jsonl", '[{"text": "a", "label": 0}]', "row 1 must be a JSON object such as"),
        ("x.jsonl", '{\n"text": "a"\n}', "row 1 is not valid JSON ("),
        ("x.jsonl", '{"text": "a", "label": 0}\n"b"\n', "row 2 must be a JSON object"),
        ("x.parquet", "PAR1 but not really", "cannot be read as parquet: "),
        ("x.csv", "text,label\na,0\nb,0\n", "has one label only in column 'label': '0'; a classifier needs"),
        ("x.json", "[]", "'.json'; data files are .csv, .tsv, .jsonl, .parquet; write one JSON object a line"),
        ("x.xlsx", "PK", "'.xlsx'; data files are .csv, .tsv, .jsonl, .parquet; save the sheet as CSV UTF-8."),
        ("x.csv.gz", "..", "'.gz'; data files are .csv, .tsv, .jsonl, .parquet; unpack it first."),
        ("x.docx", "..", "'.docx'; data files are .csv, .tsv, .jsonl, .parquet."),
        ("data", "..", "the ending ''; data files are"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    location = file(tmp_path, name, content)
    message = refusal(location)
    assert message.startswith(f"'{location}' ")
    assert sentence in message


def test_doubled_columns_in_parquet(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"], [0]], names=["text", "text", "label"])
    pq.write_table(table, tmp_path / "x.parquet")
    assert "has more than one column 'text'" in refusal(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
def test_latin_1_names_the_line(tmp_path: Path, name: str) -> None:
    lines = {
        "x.csv": ["text,label", "plain,0", "café,1"],
        "x.tsv": ["text\tlabel", "plain\t0", "café\t1"],
        "x.jsonl": ['{"text": "a", "label": 0}', "", '{"text": "café", "label": 1}'],
    }
    content = "\n".join(lines[name])
    message = refusal(file(tmp_path, name, content.encode("latin-1")))
    assert "line 3 is not UTF-8 text (perhaps Latin-1 or Windows-1252); save the file as UTF-8." in message
    assert len(read_rows(file(tmp_path, name, content), PLAIN)) == 2


def test_utf_16_is_recognised(tmp_path: Path) -> None:
    assert "is UTF-16 text; save it as UTF-8." in refusal(file(tmp_path, "x.csv", "text,label\na,0\n".encode("utf-16")))


def test_a_byte_order_mark_is_no_part_of_a_json_line(tmp_path: Path) -> None:
    content = '\ufeff{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n'
    assert list(read_rows(file(tmp_path, "x.jsonl", content), PLAIN).texts) == ["a", "b"]


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert refusal("nowhere.csv") == "Data file 'nowhere.csv' does not exist."
    assert "does not exist" in refusal(str(tmp_path / "*.csv"))
    assert "holds no .csv, .tsv, .jsonl, .parquet file and is no folder saved by `datasets`" in refusal(str(tmp_path))
    note = file(tmp_path, "note.txt", "..")
    assert f"matches {note}; data files are" in refusal(str(tmp_path / "*.txt"))


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file(tmp_path, "x.csv", "text,label\na,0\nb,1\n")
    assert len(read_rows("~/x.csv", PLAIN)) == 2


def test_a_datasets_folder_with_several_splits_says_which_to_take(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "saved"))
    message = refusal(str(tmp_path / "saved"))
    assert "holds several splits (train, test); set data.file=" in message
    assert len(applied(message)) == 2


def test_a_broken_datasets_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    file(tmp_path, "saved/dataset_info.json", "{}")
    assert "cannot be read by `datasets`" in refusal(str(tmp_path / "saved"))


def test_an_unknown_label_in_the_test_file(tmp_path: Path) -> None:
    location = file(tmp_path, "x.csv", "text,label\na,good\nb,awful\n")
    assert refusal(location, label_names=("bad", "good")) == (
        f"'{location}' row 2 (line 3) has the label 'awful', which the training data does not have; "
        "known labels: bad, good."
    )
    many = tuple(str(i) for i in range(50))
    assert refusal(location, label_names=many).endswith("18, 19 and 30 more.")


def test_a_label_column_that_is_none(tmp_path: Path) -> None:
    lines = "".join(f"billing,message number {i}\n" for i in range(30))
    message = refusal(file(tmp_path, "x.csv", "text,label\n" + lines))
    assert "has 30 distinct labels in 30 rows in column 'label'; is it the label column (data.label)?" in message
    lines = "".join(f"t,{i % 1001}\n" for i in range(3000))
    assert "has 1001 distinct labels in 3000 rows" in refusal(file(tmp_path, "y.csv", "text,label\n" + lines))


def test_a_configuration_reads_the_same(tmp_path: Path) -> None:
    lines = "".join(f"text {i};{'ab'[i % 2]}\n" for i in range(50))
    location = file(tmp_path, "x.csv", "body;topic\n" + lines)
    splits = load_splits(load_config(data={"file": location, "text": "body", "label": "topic", "separator": ";"}))
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (36, 4, 10)
    found = sorted(
        int(re.sub(r"\D", "", t)) for part in (splits.train, splits.validation, splits.test) for t in part.texts
    )
    assert found == list(range(50))
