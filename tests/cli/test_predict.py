"""What goes into `predict` is what was meant, and what cannot be labelled is named."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import fibecfed
import tiny
from fibecfed import InputError, load_config
from fibecfed.cli.app import app

SETTINGS: dict[str, Any] = {
    "method": "local-only",
    "federation": {"devices": 2, "sampled": 2, "rounds": 1},
    "lora": {"rank": 2, "alpha": 4},
}


def predict(*arguments: str, given: bytes | None = None) -> tuple[int, str, str]:
    """Exit code, standard output, and standard error with line breaks made spaces."""
    result = CliRunner().invoke(app, ["predict", *arguments], input=given, env={"COLUMNS": "300"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def texts_of(output: str) -> list[str]:
    return [json.loads(line)["text"] for line in output.split("\n") if line]


@pytest.fixture(scope="module")
def run(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one text, in column "body" of a file separated by semicolons; devices named east and west."""
    folder = tmp_path_factory.mktemp("one")
    rows = [f"{tiny.TEXTS[i % 5]} {i};{('no', 'yes')[i % 2]};{('west', 'east')[i // 2 % 2]}" for i in range(40)]
    (folder / "rows.csv").write_text("\n".join(["body;label;site", *rows]))
    data = {"file": str(folder / "rows.csv"), "text": "body", "device": "site", "separator": ";",
            "partition": {"kind": "column"}}  # fmt: skip
    fibecfed.run(load_config(model={"name": str(bert)}, data=data, **SETTINGS), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def pairs(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    rows = [{"q": f"{tiny.TEXTS[i % 5]} {i}", "a": tiny.PAIRS[i % 4], "label": ("no", "yes")[i % 2]} for i in range(40)]
    pd.DataFrame(rows).to_json(folder / "rows.jsonl", orient="records", lines=True)
    data = {"file": str(folder / "rows.jsonl"), "text": "q", "text_pair": "a"}
    fibecfed.run(load_config(model={"name": str(bert)}, data=data, **SETTINGS), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfthank you\n", ["thank you"]),
        ("you\u2028much\nthe lid\fand\x85more\x0b\x1c\n".encode(), ["you\u2028much", "the lid\fand\x85more\x0b\x1c"]),
        (b"thank\tyou\nmuch\n", ["thank\tyou", "much"]),
        (b"thank you\r\nmuch", ["thank you", "much"]),
        (b"thank you\n\n  \nmuch\n", ["thank you", "", "  ", "much"]),
    ],
    ids=["byte order mark", "no line ends", "tab", "windows", "blank lines"],
)  # fmt: skip
@pytest.mark.parametrize("way", ["file", "standard input"])
def test_lines_are_what_was_meant(run: Path, tmp_path: Path, content: bytes, expected: list[str], way: str) -> None:
    (tmp_path / "texts.txt").write_bytes(content)
    if way == "file":
        code, output, _ = predict(str(run), "--file", str(tmp_path / "texts.txt"))
    else:
        code, output, _ = predict(str(run), given=content)
    assert code == 0
    assert texts_of(output) == expected
    for record in map(json.loads, filter(None, output.split("\n"))):
        assert (record["label"] is None) == (not record["text"].strip())


def test_a_bad_line_is_named_and_the_others_are_labelled(run: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes(b"thank you\nhalf \xf0\x9f\n\nmuch\n")
    code, output, said = predict(str(run), "--file", str(tmp_path / "texts.txt"))
    assert code == 0
    records = [json.loads(line) for line in output.split("\n") if line]
    assert [r["label"] is None for r in records] == [False, True, True, False]
    assert "texts.txt' line 2 is not UTF-8 text" in said
    assert "line 3 is empty" in said
    assert "line 2" in records[1]["error"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"half \xf0\x9f\n", "line 1 is not UTF-8 text"),
        (b"\n\n", "line 1 is empty (2 texts, and none can be predicted)."),
        (b"", "There is no text to predict"),
        ("thank you".encode("utf-16"), "is no UTF-8 text (perhaps UTF-16"),
        ("thank you".encode("utf-16-le"), "is no UTF-8 text (perhaps UTF-16"),
    ],
    ids=["bad", "blank", "nothing", "UTF-16", "UTF-16 without a mark"],
)
def test_where_nothing_can_be_labelled(run: Path, content: bytes, sentence: str) -> None:
    code, output, said = predict(str(run), given=content)
    assert (code, output) == (2, "")
    assert sentence in said


def test_probabilities_are_rounded_for_people(run: Path) -> None:
    code, output, _ = predict(str(run), "thank you")
    assert code == 0
    assert all(p == round(p, 4) for p in json.loads(output)["probabilities"].values())


FRAME = pd.DataFrame(
    {"label": ["yes", "no", "yes", "maybe", None], "body": [*tiny.TEXTS[:3], "thank you", "  "], "other": 1}
)


def write(path: Path) -> Path:
    if path.suffix == ".csv":
        FRAME.to_csv(path, index=False, sep=";")
    elif path.suffix == ".jsonl":
        FRAME.to_json(path, orient="records", lines=True)
    else:
        FRAME.to_parquet(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_labelled_file(run: Path, tmp_path: Path, ending: str) -> None:
    code, output, said = predict(str(run), "--file", str(write(tmp_path / f"new.{ending}")))
    assert code == 0, said
    assert texts_of(output) == [*tiny.TEXTS[:3], "thank you", ""]
    predicted = [p.label for p in fibecfed.load(run).predict(tiny.TEXTS[:3])]
    right = sum(a == b for a, b in zip(predicted, ("yes", "no", "yes"), strict=True))
    assert f"Accuracy {right / 3:.4f}: {right} of 3 labelled rows." in said
    assert "1 rows have labels that the model does not have ('maybe')" in said
    assert "row 5" in said
    assert "true label by predicted" in said


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_predictions_in_a_file_are_whole(run: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"predictions.{ending}"
    arguments = [str(run), "--file", str(write(tmp_path / "new.jsonl")), "--out", str(out)]
    code, output, _ = predict(*arguments)
    assert code == 0
    assert f"4 predictions in {out}" in output and "Accuracy" in output
    expected = fibecfed.load(run).predict([*tiny.TEXTS[:3], "thank you"])
    if ending == "csv":
        rows = list(csv.DictReader(io.StringIO(out.read_text())))
        found = [float(row["probability_yes"]) for row in rows[:4]]
        assert [row["true_label"] for row in rows] == ["yes", "no", "yes", "maybe", ""]
    else:
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        found = [row["probabilities"]["yes"] for row in rows[:4]]
    assert [str(row["row"]) for row in rows] == list("12345")
    assert [row["label"] for row in rows[:4]] == [p.label for p in expected]
    assert "row 5" in rows[4]["error"] and not rows[4]["label"]
    np.testing.assert_allclose(found, [p.probabilities["yes"] for p in expected], rtol=1e-5)
    assert any(p != round(p, 4) for p in found)

    code, _, said = predict(*arguments)
    assert code == 2 and "already exists; use --force" in said
    assert predict(*arguments, "--force")[0] == 0


def test_out_is_checked_first(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write(tmp_path / "new.csv")

    def not_yet(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("fibecfed.cli.predict_command.load", not_yet)
    (tmp_path / "folder.csv").mkdir()
    for out, sentence in (
        ("p.xlsx", "are written as .csv or .jsonl"),
        ("nowhere/p.csv", "nowhere' of --out does not exist"),
        ("folder.csv", "is a folder"),
        ("new.csv", "is the file that the texts come from"),
    ):
        code, _, said = predict(str(run), "--file", str(rows), "--out", str(tmp_path / out), "--force")
        assert code == 2 and sentence in said, said


def test_a_file_without_the_runs_column_and_one_of_another_kind(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("text;label\nthank you;no\n")
    code, _, said = predict(str(run), "--file", str(path))
    assert code == 2
    assert "has no column 'body'" in said and "name them so" in said and "data.text=" not in said
    path = tmp_path / "new.xlsx"
    path.write_bytes(b"PK")
    code, _, said = predict(str(run), "--file", str(path))
    assert code == 2 and "save the sheet as CSV UTF-8" in said


def test_a_pair_model_says_that_it_wants_two_texts(pairs: Path, tmp_path: Path) -> None:
    code, _, said = predict(str(pairs), "thank you")
    assert code == 2
    assert "this model reads two, 'q' and 'a': put one tab between them" in said
    code, output, _ = predict(str(pairs), "thank you\tmuch")
    assert code == 0
    record = json.loads(output)
    assert (record["text"], record["text_pair"]) == ("thank you", "much")
    code, output, said = predict(str(pairs), given=b"thank you\tmuch\none\na\tb\tc\nthank you\t\n")
    assert code == 0
    assert [json.loads(line)["label"] is None for line in output.split("\n") if line] == [False, True, True, True]
    assert "line 2 has one text" in said and "line 3 has 3 texts" in said and "line 4 has a text that is empty" in said
    path = tmp_path / "new.csv"
    path.write_text('a,q\nmuch,"thank you"\n')
    code, output, _ = predict(str(pairs), "--file", str(path))
    assert code == 0 and json.loads(output) == record


def test_python_asks_for_what_the_model_reads(run: Path, pairs: Path) -> None:
    one, two = fibecfed.load(run), fibecfed.load(pairs)
    for call, sentence in (
        (lambda: one.predict("thank you"), "Give a list of texts"),
        (lambda: one.predict(["thank you"], ["much"]), r"reads one text \('body'\)"),
        (lambda: two.predict(["thank you"]), "reads two texts, 'q' and 'a'"),
        (lambda: two.predict(["thank you"], []), "1 first texts and 0 second ones"),
        (lambda: one.predict(["thank you", 3]), "Text 2 is a int"),
        (lambda: one.predict(["thank you", "half \ud83d"]), "Text 2 holds half a character"),
        (lambda: one.predict(["thank you", " "]), "Text 2 is empty"),
    ):
        with pytest.raises(InputError, match=sentence):
            call()


def test_a_text_that_begins_with_a_dash(run: Path) -> None:
    for text in ("-5 degrees", "--no thanks"):
        code, _, said = predict(str(run), text)
        assert code == 2
        assert f"goes behind '--': fibecfed predict DIR -- '{text}'" in said
        code, output, _ = predict(str(run), "--", text)
        assert code == 0 and texts_of(output) == [text]


def test_a_device_by_its_name(run: Path) -> None:
    names = json.loads((run / "partition.json").read_text())["names"]
    assert sorted(names) == ["east", "west"]
    answers = [predict(str(run), "--device", name, "thank you") for name in (*names, "0", "1")]
    assert [code for code, *_ in answers] == [0] * 4
    assert answers[:2] == answers[2:] and answers[0] != answers[1]
    east = fibecfed.load(run, "east").logits(["thank you"])
    np.testing.assert_array_equal(east, fibecfed.load(run, names.index("east")).logits(["thank you"]))
    code, _, said = predict(str(run), "--device", "easst", "thank you")
    assert code == 2 and "has no device 'easst'. Did you mean 'east'? Its devices: " in said


def test_a_console_that_knows_ascii_only(run: Path) -> None:
    result = CliRunner(charset="ascii").invoke(app, ["predict", str(run), "thank you é"])
    assert result.exit_code == 0 and json.loads(result.stdout)["text"] == "thank you é"


def test_a_broken_partition_file_is_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "partition.json").write_text("{")
    code, _, said = predict(str(tmp_path / "run"), "a text", "--device", "east")
    assert code == 2
    assert "partition.json' cannot be read" in said


@pytest.mark.parametrize("content", ["[]", "{}", '{"labels": "x"}'])
def test_a_task_file_that_describes_nothing_is_named(run: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "adapter" / "task.json").write_text(content)
    code, _, said = predict(str(tmp_path / "run"), "a text")
    assert code == 2
    assert "does not describe an adapter: 'labels' is missing or wrong" in said


def test_out_follows_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    assert predict(str(run), "a text", "--out", str(tmp_path / "link.csv"), "--force")[0] == 0
    assert (tmp_path / "link.csv").is_symlink() and "a text" in (tmp_path / "real.csv").read_text()
