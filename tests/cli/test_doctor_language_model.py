"""The doctor on a language model: columns, rows without responses, length, template, memory, and the wrong model."""

from pathlib import Path

import pytest

import tiny
from cli.test_doctor import doctor
from fibecfed.doctor import language_model
from tasks.instructions import folder, records, write


def base(here: Path, *rows: dict[str, str]) -> list[str]:
    write(here / "asked.jsonl", rows or records(30))
    settings = ["federation.devices=2", "federation.sampled=1", "method=fedavg-lora", "--out", str(here / "out")]
    return [f"data.file={here / 'asked.jsonl'}", f"model.name={folder('llama')}", *settings]


def test_what_is_read_and_what_it_takes(tmp_path: Path) -> None:
    long = {"prompt": "thank you " * 20, "response": "no"}
    code, output = doctor(*base(tmp_path, *records(29), long), "data.max_length=40", "data.validation_fraction=0")
    assert code == 0, output
    for said in (
        "ok template: The tokenizer has no chat template; this plain one is used",
        "ok columns: prompt 'prompt', response 'response'; responses are learned",
        "1 of 30 are cut to 40 tokens, the prompt from its beginning first",
        "ok memory: training takes about",
        "(8 examples of ",
    ):
        assert said in output
    assert "ok groups" not in output  # there are none


def test_rows_that_have_no_response_are_counted_and_named(tmp_path: Path) -> None:
    rows = [{"question": "a", "answer": " " if number % 7 == 3 else "b"} for number in range(30)]
    code, output = doctor(*base(tmp_path, *rows), "data.prompt=question", "data.response=answer")
    assert code == 2
    assert "ok columns: prompt 'question', response 'answer'" in output
    assert "fix rows: 4 of the 30 rows of" in output
    assert "row 11 has no answer." in output and "And 1 more." in output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("encoder", "fix model: MODEL cannot be used -> Model 'MODEL' (bert) is an encoder, which cannot answer"),
        ("too long", "fix examples: they cannot be learned by this model with these settings -> "),
        ("too large", "and 0 MiB on this machine are free -> lower training.micro_batch_size or data.max_length"),
    ],
    ids=["encoder", "too long", "too large"],
)
def test_what_must_be_fixed(change: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if change == "too large":
        monkeypatch.setattr(language_model, "_free", lambda config: (1000, "on this machine"))
    changes = {"encoder": [f"model.name={tiny.folder('bert')}"], "too long": ["data.max_length=6"], "too large": []}
    code, output = doctor(*base(tmp_path), *changes[change])
    assert code == 2
    assert said.replace("MODEL", str(tiny.folder("bert"))) in output, output
    assert output.endswith("1 to fix.")
