"""Prompts and responses as they are read, written by a template, cut, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from fibecfed import InputError, load_config
from fibecfed.data import deal, load_splits
from fibecfed.data.told import told_by_columns
from fibecfed.tasks import Conversation
from fibecfed.tasks.causal_lm import Turn, with_template
from fibecfed.tasks.causal_lm.template import note_on_template
from tasks.instructions import learned_text, tokenised, tokens, write

CHAT = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture
def tokenizer() -> Any:
    made = tiny.byte_level(decoder=True)
    made.model_max_length = 200
    with_template(made)
    return made


def rows_of(file: Path, **data: Any) -> Any:
    config = load_config(data={"file": str(file), "validation_fraction": 0.0, "test_fraction": 0.5, **data})
    splits = load_splits(config)
    return splits.train, splits.test


def everything(file: Path, **data: Any) -> list[Conversation]:
    train, test = rows_of(file, **data)
    return sorted([*train.examples, *test.examples], key=lambda one: int(one.place.split(" row ")[1].split(" ")[0]))


# Reading


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_prompts_with_context_and_system_message(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    records = [
        {"ask": "what", "extra": "a kettle", "be": "short", "say": "yes"},
        {"ask": "who", "extra": "", "be": "", "say": "me"},
    ]
    if ending == ".jsonl":
        write(path, records)
    elif ending == ".csv":
        path.write_text("ask,extra,be,say\nwhat,a kettle,short,yes\nwho,,,me\n")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path)
    found = everything(path, prompt="ask", response="say", context="extra", system="be")
    assert found[0].turns == (Turn("system", "short"), Turn("user", "what\n\na kettle"), Turn("assistant", "yes"))
    assert found[1].turns == (Turn("user", "who"), Turn("assistant", "me"))


TURNS = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "great"},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "much"},
]


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_conversations_of_several_turns(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"data{ending}"
    if ending == ".jsonl":
        write(path, [{"messages": TURNS}] * 2)
    else:
        cell = json.dumps(TURNS).replace('"', '""')
        path.write_text(f'messages\n"{cell}"\n"{cell}"\n')
    found = everything(path, messages="messages")
    assert [turn.role for turn in found[0].turns] == ["user", "assistant"] * 2
    assert found[0].response == "much" and found[0].prompt == "hello\n\ngreat\n\nthanks"


def test_files_are_devices_and_a_column_holds_groups(tmp_path: Path) -> None:
    for site in ("north", "south"):
        records = [{"prompt": f"{site} {i}", "response": "yes", "kind": "ab"[i % 2]} for i in range(8)]
        write(tmp_path / f"{site}.jsonl", records)
    train, test = rows_of(tmp_path, prompt="prompt", group="kind")
    assert train.label_names == ("a", "b") and set(train.devices) == {"north", "south"}
    assert np.bincount(test.labels).tolist() == [4, 4]  # the draw is stratified by group


def test_a_device_column(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", [{"prompt": "a b", "response": str(i), "site": "ns"[i % 2]} for i in range(8)])
    train, _ = rows_of(file, prompt="prompt", device="site")
    assert sorted(set(train.devices)) == ["n", "s"] and train.label_names == ("all",)


def test_dirichlet_follows_the_groups(tmp_path: Path) -> None:
    records = [{"prompt": f"p {i}", "response": "yes", "kind": "ab"[i % 2]} for i in range(200)]
    file = write(tmp_path / "data.jsonl", records)
    config = load_config(
        data={"file": str(file), "prompt": "prompt", "group": "kind", "partition": {"alpha": 0.05}},
        federation={"devices": 2, "sampled": 1},
    )
    splits = load_splits(config)
    owned = deal(config, splits).devices
    counts = owned.label_counts(splits.train.labels, 2)
    assert counts.max(axis=1).sum() / counts.sum() > 0.9  # each device has nearly one group only


@pytest.mark.parametrize(("name", "groups"), [("dolly15k", 8), ("gsm8k", 1)])
def test_named_sets_from_their_folder(tmp_path: Path, name: str, groups: int) -> None:
    import pyarrow
    import pyarrow.parquet

    names = {"dolly15k": ("instruction", "context", "response", "category"), "gsm8k": ("question", "answer")}[name]
    records = [{column: f"{column} {i % 8}" for column in names} for i in range(16)]
    (tmp_path / name).mkdir()
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / name / f"{split}.parquet")
    splits = load_splits(load_config(data={"name": name, "dir": str(tmp_path)}))
    assert len(splits.train.label_names) == groups and len(splits.train.examples) == len(splits.train)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_columns_tell_the_task_where_they_leave_no_doubt(tmp_path: Path, ending: str) -> None:
    import pandas

    def told(**cells: str) -> Any:
        path = tmp_path / f"data{ending}"
        table = pandas.DataFrame([cells] * 4)
        if ending == ".jsonl":
            table.to_json(path, orient="records", lines=True)
        elif ending == ".csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path)
        return told_by_columns(load_config(data={"file": str(path)}))

    assert told(prompt="a", response="b").task.kind == "causal-lm"
    assert told(messages="[]").data.messages == "messages"
    for cells in ({"text": "a", "label": "b"}, {"prompt": "a", "response": "b", "label": "c"}, {"prompt": "a"}):
        config = told(**cells)
        assert (config.task.kind, config.data.prompt) == (None, None)


# Tokens


def test_only_responses_are_learned_with_their_end(tokenizer: Any) -> None:
    data = tokens(tokenizer, [("the lid", "great service")])
    text = tokenizer.decode(data.ids)
    assert text == "<|endoftext|>### Instruction:\nthe lid\n\n### Response:\ngreat service<|endoftext|>"
    assert learned_text(tokenizer, data, 0) == "great service<|endoftext|>"
    all_of_it = tokens(tokenizer, [("the lid", "great service")], everything=True)
    assert (all_of_it.by_token >= 0).tolist() == [False] + [True] * (len(all_of_it.ids) - 1)


def test_every_response_of_a_conversation_is_learned(tokenizer: Any) -> None:
    conversation = Conversation(tuple(Turn(**turn) for turn in TURNS), "row 1")
    data = tokenised(tokenizer, [conversation], limit=200)
    assert learned_text(tokenizer, data, 0) == "great<|endoftext|>much<|endoftext|>"


def test_the_tokenizers_own_template_is_used(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT
    with_template(tokenizer)
    assert note_on_template(tokenizer) is None
    data = tokens(tokenizer, [("the lid", "great")])
    assert tokenizer.decode(data.ids) == "<user>the lid\n<assistant>great<|endoftext|>"  # it ends no response itself
    assert learned_text(tokenizer, data, 0) == "great<|endoftext|>"


def test_the_plain_template_is_said() -> None:
    tokenizer = tiny.byte_level(decoder=True)
    with_template(tokenizer)
    said = note_on_template(tokenizer)
    assert said is not None and "### Instruction:" in said and "saved with the adapter" in said


def test_a_template_with_a_date_is_said(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + CHAT
    assert "writes the date of the day" in str(note_on_template(tokenizer))


def test_a_long_prompt_is_cut_from_its_left_and_the_template_stays(tokenizer: Any) -> None:
    whole = tokens(tokenizer, [("one two three four five six seven", "great")], limit=200)
    cut = tokens(tokenizer, [("one two three four five six seven", "great")], limit=len(whole.ids) - 6)
    text = tokenizer.decode(cut.ids)
    assert len(cut.ids) == len(whole.ids) - 6 and (cut.truncated, cut.tokens_cut) == (1, 6)
    assert text.startswith("<|endoftext|>### Instruction:\n") and text.endswith(
        " seven\n\n### Response:\ngreat<|endoftext|>"
    )
    assert "one" not in text and learned_text(tokenizer, cut, 0) == "great<|endoftext|>"


def test_then_the_response_is_cut_at_its_end(tokenizer: Any) -> None:
    whole = tokens(tokenizer, [("a", "great service so much")], limit=200)
    cut = tokens(tokenizer, [("a", "great service so much")], limit=len(whole.ids) - 4)
    kept = learned_text(tokenizer, cut, 0)
    assert "great service so much<|endoftext|>".startswith(kept) and kept.startswith("great")


# Ten wrong inputs, one sentence each

GOOD = {"prompt": "a", "response": "b"}
Wrong = tuple[Callable[[Path], dict[str, Any]], str]


def file_of(*records: dict[str, Any], **keys: Any) -> Callable[[Path], dict[str, Any]]:
    keys = keys or {"prompt": "prompt"}
    return lambda folder: {"data": {"file": str(write(folder / "data.jsonl", [*records])), **keys}}


def mixed(folder: Path) -> dict[str, Any]:
    write(folder / "a.jsonl", [GOOD] * 4)
    write(folder / "b.jsonl", [{"text": "a", "label": "b"}] * 4)
    return {"data": {"file": str(folder), "prompt": "prompt"}}


USER = {"role": "user", "content": "a"}
WRONG: dict[str, Wrong] = {
    "no response column": (file_of({"prompt": "a"}), r"has no column 'response' \(data.response\)"),
    "empty response": (file_of(GOOD, {"prompt": "a", "response": " "}), r"row 2 has an empty or missing 'response'"),
    "a role that does not exist": (
        file_of({"m": [USER, {"role": "bot", "content": "b"}]}, messages="m"),
        r"row 1 has the role 'bot' in turn 2 of 'm'; roles are",
    ),
    "no response at the end": (file_of({"m": [USER]}, messages="m"), r"row 1 ends 'm' with the role 'user'"),
    "no list of turns": (file_of({"m": "hello"}, messages="m"), r"row 1 has no list of turns as 'm'"),
    "a turn without content": (file_of({"m": [{"role": "user"}]}, messages="m"), r"turn 1 in 'm' without role and"),
    "a system message in the middle": (
        file_of({"m": [USER, {"role": "system", "content": "b"}]}, messages="m"),
        r"row 1 has a system message that is not the first",
    ),
    "mixed files": (mixed, r"b.jsonl' has no columns 'prompt' \(data.prompt\), 'response'"),
    "both forms": (file_of(GOOD, messages="m", prompt="prompt"), r"data.messages holds whole conversations"),
    "labels": (file_of(GOOD, prompt="prompt", labels=["a", "b"]), r"data.labels is for task.kind=classification"),
    "one column for two": (file_of(GOOD, prompt="prompt", response="prompt"), r"both name the column 'prompt'"),
    "a set with labels": (lambda _: {"task": {"kind": "causal-lm"}}, r"which the data set 'support' has not"),
    "an instruction set to classify": (
        lambda _: {"task": {"kind": "classification"}, "data": {"name": "gsm8k"}},
        r"'gsm8k' has prompts and responses; it needs task.kind=causal-lm",
    ),
    "prompts read as labelled text": (
        lambda folder: {"data": {"file": str(write(folder / "data.jsonl", [GOOD]))}},
        r"seems to hold prompts and responses: set",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_said(wrong: str, tmp_path: Path) -> None:
    make, said = WRONG[wrong]
    with pytest.raises(InputError, match=said) as raised:
        load_splits(load_config(**make(tmp_path)))
    assert "\n" not in str(raised.value)


def test_no_token_of_a_response_left_is_said_with_its_place(tokenizer: Any) -> None:
    shortest = len(tokens(tokenizer, [("a", "b")], limit=200).ids)
    with pytest.raises(InputError, match=r"row 1 has no token of its response left in \d+ tokens"):
        tokens(tokenizer, [("a", "b")], limit=shortest - 3)  # the prompt's one token, the end and the response


def test_a_template_that_refuses_is_said(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('no system message here') }}"
    with pytest.raises(InputError, match=r"row 1: .*refuses this conversation: no system message here"):
        tokens(tokenizer, [("a", "b")])


def test_a_template_that_rewrites_earlier_turns_is_said(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    conversation = Conversation(tuple(Turn(**turn) for turn in TURNS), "row 1")
    with pytest.raises(InputError, match=r"row 1: .*writes earlier turns otherwise"):
        tokenised(tokenizer, [conversation])


def test_a_tokenizer_without_an_end_is_said(tokenizer: Any) -> None:
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end token"):
        with_template(tokenizer)
