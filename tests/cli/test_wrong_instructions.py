"""Wrong inputs of a language model's run at the command line: one sentence each, exit code 2, no traceback."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import tiny
from cli.test_wrong_inputs import fibecfed
from tasks.instructions import folder, write

GOOD = {"prompt": "thank you", "response": "great service"}
USER = {"role": "user", "content": "a"}
SAID = {"role": "assistant", "content": "b"}
Wrong = tuple[Callable[[Path], Sequence[str]], str]


def of(*rows: Any, keys: Sequence[str] = ("data.prompt=prompt",)) -> Callable[[Path], Sequence[str]]:
    return lambda here: [f"data.file={write(here / 'asked.jsonl', rows)}", *keys]


def mixed(here: Path) -> Sequence[str]:
    write(here / "a.jsonl", [GOOD] * 4)
    write(here / "b.jsonl", [{"text": "a", "label": "b"}] * 4)
    return [f"data.file={here}", "data.prompt=prompt"]


def bad_template(here: Path) -> Sequence[str]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = folder("llama")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = "{{ raise_exception('no user may speak') }}"
    for part in (tokenizer, AutoModelForCausalLM.from_pretrained(path)):
        part.save_pretrained(here / "model")
    return [*of(*[GOOD] * 8)(here), f"model.name={here / 'model'}"]


WRONG: dict[str, Wrong] = {
    "no response column": (of({"prompt": "a"}), "has no column 'response' (data.response)"),
    "empty response": (of(GOOD, {"prompt": "a", "response": " "}), "row 2 has an empty or missing 'response'"),
    "a response that cannot be seen": (
        of(GOOD, {"prompt": "a", "response": "\u200b \u00a0"}),
        "row 2 has only invisible characters as 'response'",
    ),
    "a turn that cannot be seen": (
        of({"m": [USER, {"role": "assistant", "content": "\u200b"}]}, keys=["data.messages=m"]),
        "row 1 has nothing that can be seen as the content of turn 2 of 'm'",
    ),
    "an assistant that begins": (
        of({"m": [SAID, USER, SAID]}, keys=["data.messages=m"]),
        "row 1 begins 'm' with the role 'assistant'",
    ),
    "a role that does not exist": (
        of({"m": [USER, {"role": "bot", "content": "b"}]}, keys=["data.messages=m"]),
        "row 1 has the role 'bot' in turn 2 of 'm'; roles are",
    ),
    "a call of a tool": (
        of({"m": [USER, SAID | {"tool_calls": [{"name": "search"}]}]}, keys=["data.messages=m"]),
        "row 1 has 'tool_calls' in turn 2 of 'm', and calls of tools are not learned",
    ),
    "rows that are lists": (
        of([["a", "b"]], keys=["task.kind=causal-lm"]),
        'row 1 must be a JSON object such as {"prompt": ..., "response": ...}.',
    ),
    "rows that are numbers": (of(5, keys=[]), 'row 1 must be a JSON object such as {"text": ..., "label": ...}.'),
    "no answer at the end": (of({"m": [USER]}, keys=["data.messages=m"]), "row 1 ends 'm' with the role 'user'"),
    "messages that are none": (of({"m": "hello"}, keys=["data.messages=m"]), "row 1 has no list of turns as 'm'"),
    "template error": (bad_template, "refuses this conversation: no user may speak"),
    "prompt longer than the limit": (
        of(*[GOOD] * 8, keys=["data.prompt=prompt", "data.max_length=6"]),
        "has no token of its response left in 6 tokens",
    ),
    "an encoder": (
        lambda here: [*of(*[GOOD] * 8)(here), f"model.name={tiny.folder('bert')}"],
        "is an encoder, which cannot answer a prompt",
    ),
    "mixed files": (mixed, "b.jsonl' has no columns 'prompt' (data.prompt), 'response'"),
    "a method about labels": (of(*[GOOD] * 8, keys=["data.prompt=prompt", "method=fedrod"]), "method=fedrod is about"),
    "a set with labels": (lambda _: ["task.kind=causal-lm", "data.name=support"], "the data set 'support' has not"),
    "labels": (of(GOOD, keys=["data.prompt=prompt", "data.labels=[a,b]"]), "data.labels is for task.kind=classif"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence(case: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    make, said = WRONG[case]
    common = [f"model.name={folder('llama')}", "federation.devices=2", "federation.sampled=1"]
    code, output = fibecfed("run", "--out", str(tmp_path / "out"), *common, *make(tmp_path / "data"))
    assert code == 2 and said in output, output
    assert "Traceback" not in output and not (tmp_path / "out").exists(), output
    assert output.startswith("Error: ") and output.count("Error: ") == 1, output
