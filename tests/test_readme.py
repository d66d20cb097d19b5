"""The README's commands and snippets, run in order (install lines aside).

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
COMPARING = re.compile(r"fibecfed (compare|report) ")
INSTALL = re.compile(r"python3 -m venv \S+ && \S+/pip install \S.*?' && ")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Every command of the README without its install part; the tests' own line cannot run itself.

    Those that compare are run by tests/comparison/test_smoke.py.
    """
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += re.findall(r"`(fibecfed run --resume \S+)`", README)
    return [INSTALL.sub("", line) for line in lines if "pytest" not in line and not COMPARING.search(line)]


@pytest.fixture(scope="module")
def place(stand_in: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the user's: a small file of their own, and mine.yaml."""
    folder = tmp_path_factory.mktemp("readme")
    rows = load_splits(fibecfed.load_config()).train
    names = [rows.label_names[label] for label in rows.labels]
    pd.DataFrame({"body": rows.texts, "topic": names}).head(160).to_csv(folder / "messages.csv", index=False)
    (folder / "mine.yaml").write_text(next(b for b in blocks("yaml") if b.startswith("# mine.yaml")))
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
    for command in commands():
        if stand_in is not None and "quickstart" in command:
            continue  # tests/cli/test_quickstart.py runs it on the tiny model
        trains = re.search(r"fibecfed (run (?!--resume)|methods \S)", command)
        name, *arguments = shlex.split(command)
        assert name.removeprefix(".venv/bin/") == "fibecfed"
        if stand_in is not None and trains:
            arguments += [f"model.name={stand_in}", "data.train_examples=90"]
        if arguments[0] == "predict":  # the installed command, from cold
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
    api, plain = blocks("python")
    if stand_in is not None:
        api = api.replace("load_config(", f"load_config(model={{'name': {str(stand_in)!r}}}, ")
        api = api.replace('"label": "topic"', '"label": "topic", "train_examples": 90')
    done = forking.run(["-c", api], cwd=place, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr
    target = place / "runs" / "plain"
    shutil.copytree(place / "runs" / "python", target)
    done = forking.run(["-c", plain], cwd=target, timeout=600, env=environment())
    assert done.returncode == 0, done.stderr
    label = done.stdout.strip()
    assert label == fibecfed.load(target).predict(["a text"])[0].label


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
    assert blocks("python")[1] == loading_code(plain)
