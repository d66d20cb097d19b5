"""The commands and snippets of the README and of the pages for users, run in order (install lines aside).

As they stand they train MiniLM for minutes; by default those that train are given a tiny model and ninety examples.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

import fibecfed
import forking
from fibecfed.data import load_splits

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README, *((ROOT / "docs" / f"{name}.md").read_text() for name in ("index", "your-data"))]
OTHERS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
BASH = re.compile(r"(?:<!-- (?P<why>[^>]+) -->\n)?```bash\n(?P<lines>.*?)```", re.DOTALL)
INSTALL = re.compile(r"python3 -m venv \S+ && \S+/pip install \S.*?' && ")


def blocks(language: str) -> list[str]:
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)]


def commands() -> list[str]:
    """Every command of these pages, once, without its install part; the tests' own line cannot run itself."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += [line for page in PAGES for line in re.findall(r"`(fibecfed run --resume [^`]+)`", page)]
    return list(dict.fromkeys(INSTALL.sub("", line) for line in lines if "pytest" not in line))


@pytest.fixture(scope="module")
def place(stand_in: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the user's: a small file of their own, and mine.yaml."""
    folder = tmp_path_factory.mktemp("readme")
    rows = load_splits(fibecfed.load_config()).train
    names = [rows.label_names[label] for label in rows.labels]
    pd.DataFrame({"body": rows.texts, "topic": names}).head(160).to_csv(folder / "messages.csv", index=False)
    (folder / "mine.yaml").write_text(next(b for b in blocks("yaml") if b.startswith("# mine.yaml")))
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}


def test_the_readme_has_its_two_set_up_lines() -> None:
    first, tests = (line for line in README.splitlines() if line.startswith("python3 -m venv"))
    assert "fibecfed" in INSTALL.sub("", first)
    assert INSTALL.sub("", tests) == ".venv-test/bin/pytest -n 3"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_works(place: Path, stand_in: Path | None) -> None:
    from_cold = False
    for command in commands():
        if stand_in is not None and "quickstart" in command:
            continue  # tests/cli/test_quickstart.py runs it on the tiny model
        trains = re.search(r"fibecfed (run (?!--resume)|methods \S)", command)
        name, *arguments = shlex.split(command)
        assert name.removeprefix(".venv/bin/") == "fibecfed"
        if stand_in is not None and trains:
            arguments += [f"model.name={stand_in}", "data.train_examples=90"]
        if arguments[0] == "predict" and not from_cold:  # the installed command, once
            from_cold = True
            done = subprocess.run(
                ["fibecfed", *arguments], cwd=place, capture_output=True, text=True, timeout=600, env=environment()
            )
        else:
            done = forking.run(["-m", "fibecfed", *arguments], cwd=place, timeout=600, env=environment())
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (place / "runs" / "first" / "summary.json").is_file()
    if stand_in is not None:
        return
    written = json.loads((place / "runs" / "quickstart" / "quickstart.json").read_text())
    rows = {row["method"]: row for row in written["rows"]}
    assert rows["fedavg-lora"]["accuracy_global"] > rows["local-only"]["accuracy_global"] + 0.1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_snippet_works(place: Path, stand_in: Path | None) -> None:
    shops, api, plain = blocks("python")
    if stand_in is not None:
        shops = shops.replace("load_config(", f"load_config(model={{'name': {str(stand_in)!r}}}, ")
        shops = shops.replace('"rounds": 15', '"rounds": 2')
        shops = shops.replace('"label": "topic"', '"label": "topic", "train_examples": 40')
        api = api.replace("load_config(", f"load_config(model={{'name': {str(stand_in)!r}}}, ")
        api = api.replace('"label": "topic"', '"label": "topic", "train_examples": 90')
    for snippet in (shops, api):
        done = forking.run(["-c", snippet], cwd=place, timeout=600, env=environment())
        assert done.returncode == 0, done.stderr
        if snippet is shops:
            check_the_printed(done.stdout, stand_in)
    target = place / "runs" / "plain"
    shutil.copytree(place / "runs" / "python", target)
    done = forking.run(["-c", plain], cwd=target, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr
    label = done.stdout.strip()
    assert label == fibecfed.load(target).predict(["a text"])[0].label


def check_the_printed(printed: str, stand_in: Path | None) -> None:
    """The README shows what is committed; a run today says the same in the same words, but for its numbers."""
    committed = (ROOT / "results" / "readme" / "shops.txt").read_text()
    assert f"```text\n{committed}```" in README
    if stand_in is None:
        without = re.compile(r"\d+(\.\d+)?(e-?\d+)?")
        assert without.sub("", printed) == without.sub("", committed)
    begins = [[re.findall(r"[A-Za-z]+", line)[0] for line in text.splitlines()] for text in (printed, committed)]
    assert begins[0] == begins[1]


def test_every_other_command_names_the_test_that_runs_it() -> None:
    seen = 0
    for path in OTHERS:
        if path.stem in ("index", "your-data"):
            continue
        for found in BASH.finditer(path.read_text()):
            seen += 1
            why = found["why"] or ""
            named = re.findall(r"tests/[\w/]+\.py", why)
            assert (named and all((ROOT / name).is_file() for name in named)) or why.startswith("not run"), (
                f"{path.name}: {found['lines']}"
            )
    assert seen > 5


def commands_in_the_text() -> set[str]:
    """What stands in backticks in running text as a command of fibecfed."""
    pages = [README, *(path.read_text() for path in OTHERS)]
    plain = [re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL) for page in pages]
    return {line for page in plain for line in re.findall(r"`(?:\.venv/bin/)?(fibecfed [a-z][^`]*)`", page)}


def test_commands_in_the_text_and_their_options_are_there() -> None:
    from typer.main import get_command

    from fibecfed.cli.app import app

    assert len(commands_in_the_text()) > 10
    for line in commands_in_the_text():
        command, words = get_command(app), line.split()[1:]
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, line


def test_the_readme_is_short_and_says_its_words_where_they_first_appear() -> None:
    assert len(README.splitlines()) < 200
    for word in ("global", "personalized"):
        first = re.search(word, README, re.IGNORECASE)
        assert first and README[first.start() - 2 : first.end() + 2] == f"**{first[0]}**"


def test_the_plain_snippet_is_the_model_cards() -> None:
    from fibecfed.results import loading_code

    plain = {
        "tuning": "lora",
        "head": "pooled",
        "pooling": "mean",
        "texts": ["text"],
        "task": "classification",
        "base_package": "a_package",
    }
    assert blocks("python")[2] == loading_code(plain)
