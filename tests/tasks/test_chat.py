"""Conversations of several turns with a finished run: the template of the training, and what is forgotten."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fibecfed
import tiny
from fibecfed import Chat, InputError
from fibecfed.cli.app import app
from fibecfed.tasks.causal_lm import Turn, end_tokens, with_template
from tasks.instructions import records, settings, write


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    file = write(folder / "asked.jsonl", records(24))
    fibecfed.run(settings(file, method="fedavg-lora", federation={"rounds": 2}), folder / "run")
    return folder / "run"


def test_an_answer_follows_the_whole_conversation(run: Path) -> None:
    model = fibecfed.load_language_model(run)
    chat = Chat(model, max_new_tokens=3)
    first = chat.ask("thank you")
    assert first == model.answer("thank you", max_new_tokens=3)
    before = [Turn("user", "thank you"), Turn("assistant", first)]
    assert chat.ask("lid") == model.answer([*before, Turn("user", "lid")], max_new_tokens=3)
    assert chat.turns[:2] == before and chat.forgotten == 0


def test_the_oldest_turns_are_forgotten(run: Path) -> None:
    model = fibecfed.load_language_model(run)
    chat = Chat(model, max_new_tokens=3)
    lengths = []
    for question in ("thank you", "the blue kettle", "the invoice", "my money", "back", "month"):
        chat.ask(question)
        lengths.append(model.prompt_ids(chat.turns[:-1]).shape[1])
    assert chat.forgotten > 0 and chat.forgotten % 2 == 0
    assert chat.turns[0].role == "user" and len(chat.turns) + chat.forgotten == 12
    assert max(lengths) + 3 <= model.places < max(lengths) + 3 + 20  # no more than it must
    kept = list(chat.turns)
    with pytest.raises(InputError, match="leaves no room"):
        chat.ask("thank you " * 60)
    with pytest.raises(InputError, match="empty"):
        chat.ask(" ")
    assert chat.turns == kept


def test_drawn_answers_repeat_and_turns_have_draws_of_their_own(run: Path) -> None:
    model = fibecfed.load_language_model(run)

    def two(seed: int) -> list[str]:
        chat = Chat(model, max_new_tokens=6, temperature=3.0, seed=seed)
        first = chat.ask("lid")
        chat.turns = []  # the same question, with the same turns before it
        return [first, chat.ask("lid")]

    assert two(1) == two(1) != two(2)
    assert two(1)[0] != two(1)[1]


def test_lines_from_a_pipe(run: Path) -> None:
    few = ["--max-new-tokens", "3"]
    done = CliRunner().invoke(app, ["chat", str(run), *few], input="thank you\n\nlid\n")
    assert done.exit_code == 0, done.output
    chat = Chat(fibecfed.load_language_model(run), max_new_tokens=3)
    expected = [{"prompt": text, "response": chat.ask(text)} for text in ("thank you", "lid")]
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected
    long = CliRunner().invoke(app, ["chat", str(run), *few], input="the blue kettle\n" * 9)
    assert long.exit_code == 0 and len(long.stdout.splitlines()) == 9
    assert long.stderr.count("its oldest turns are forgotten") == 1
    bad = CliRunner().invoke(app, ["chat", str(run), *few], input="lid\n" + "thank you " * 60 + "\n")
    assert bad.exit_code == 2 and "Standard input line 2: The prompt has" in " ".join(bad.stderr.split())


def test_at_a_terminal_the_conversation_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fibecfed.cli.answering_command import Generation
    from fibecfed.cli.chat_command import chat
    from fibecfed.screen import plain_console

    lines = iter(["thank you", "thank you " * 60, "", "lid"])

    def typed(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    chat(run, None, Generation(max_new_tokens=3), plain_console(stderr=True))
    shown = capsys.readouterr()
    other = Chat(fibecfed.load_language_model(run), max_new_tokens=3)
    assert shown.out == f"{other.ask('thank you')}\n{other.ask('lid')}\n\n"
    assert "leaves no room" in shown.err


def test_an_answer_also_ends_where_the_template_ends_responses() -> None:
    made: Any = tiny.byte_level(decoder=True)
    made.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    made.chat_template = (
        "{% for message in messages %}{{ message['role'] + ':' + message['content'] + '<turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    assert end_tokens(made) == sorted([made.eos_token_id, made.convert_tokens_to_ids("<turn>")])
    plain: Any = tiny.byte_level(decoder=True)
    with_template(plain)
    assert end_tokens(plain) == [plain.eos_token_id]
