"""Every example, run as its text says.

As they stand they train MiniLM; by default a tiny model is put in its place, and nothing is said about quality.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import fibecfed
import forking
from fibecfed.cli.app import app
from fibecfed.data import load_splits, partition_rows

ROOT = Path(__file__).resolve().parent.parent.parent
INSTRUCTIONS = ROOT / "examples" / "instructions"
TWO_SITES = ROOT / "examples" / "two_sites"
SITES = sorted((TWO_SITES / "sites").glob("*.csv"))


@pytest.fixture(scope="module")
def place(stand_in: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples where the root of the checkout has them."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    if stand_in is not None:
        for path, settings, same in (
            ("walkthrough.py", "SETTINGS = {", f'SETTINGS = {{"model": {{"name": {str(stand_in)!r}}},'),
            ("two_sites/two_sites.yaml", "data:", f"model: {{name: {stand_in}}}\ndata:"),
        ):
            file = folder / "examples" / path
            text = file.read_text()
            assert text.count(settings) == 1
            file.write_text(text.replace(settings, same))
    return folder


def run(command: str, place: Path) -> str:
    """The command as it stands, with this Python; its standard output."""
    program, *words = shlex.split(command)
    before = {"python": [], "fibecfed": ["-m", "fibecfed"]}[program]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    done = forking.run([*before, *words], cwd=place, timeout=400, env=environment)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_example_is_listed_and_every_listed_one_is_there() -> None:
    listed = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "examples" / "README.md").read_text()))
    assert all((ROOT / "examples" / name).exists() for name in listed)
    present = {p.name for p in (ROOT / "examples").iterdir() if p.name != "README.md" and "cache" not in p.name}
    assert {name.split("/")[0] for name in listed} == present


def test_the_sites_hold_no_row_twice_and_differ_in_their_label_mix() -> None:
    frames = {p.stem: pd.read_csv(p) for p in SITES}
    assert len(frames) == 2
    together = pd.concat(frames.values())
    assert together["message"].str.lower().is_unique
    shares = pd.DataFrame({name: f["topic"].value_counts(normalize=True) for name, f in frames.items()})
    assert shares.notna().all().all()
    assert shares.diff(axis=1).iloc[:, 1].abs().sum() > 0.5
    assert all(60 <= len(f) <= 80 for f in frames.values())


def test_each_file_is_a_device_and_keeps_its_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = fibecfed.load_config(TWO_SITES / "two_sites.yaml")
    splits = load_splits(config)
    owned, owners = partition_rows(config, splits.train, splits.test)
    assert owned.names == owners.names == tuple(p.stem for p in SITES)
    assert len(splits.test) == 26  # the README says so
    assert owners.sizes.tolist() == [13, 13]


def test_the_configuration_is_headed_by_the_command_of_the_readme() -> None:
    first = (TWO_SITES / "two_sites.yaml").read_text().splitlines()[0].removeprefix("# ")
    assert first in (TWO_SITES / "README.md").read_text().splitlines()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_sites(place: Path) -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (TWO_SITES / "README.md").read_text(), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    dry, train, evaluate, predict, alone = commands
    assert "nothing was trained or written" in run(dry, place)
    assert not (place / "runs").exists()
    assert "Results in runs/two_sites" in run(train, place)
    assert '"global"' in run(evaluate, place)
    assert run(predict, place).count('"label"') == 2
    run(alone, place)
    assert (place / "runs" / "two_sites_alone" / "summary.json").is_file()


def test_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines in one process, since each new one would import torch for seconds."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```bash\n(.*?)```", (INSTRUCTIONS / "README.md").read_text(), re.DOTALL)
    made, *commands = block.splitlines()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", made.split()[1:])
        runpy.run_path(made.split()[1], run_name="__main__")
    shown = []
    for command in commands:
        asked, _, called = command.rpartition(" | ")
        _, *arguments = shlex.split(called)
        given = shlex.split(asked)[1].replace("\\n", "\n") if asked else None
        done = CliRunner().invoke(app, arguments, input=given, env={"COLUMNS": "120"})
        assert done.exit_code == 0, f"{command}\n{done.output}"
        shown.append(done.stdout)
    train, predict, chat, export = shown
    assert "Results in runs/instructions" in train and "exact_match of answers" in train
    assert predict.endswith("\n")
    assert [json.loads(line)["prompt"] for line in chat.splitlines()] == ["May I bring my dog?", "And a canoe?"]
    assert "runs/instructions_merged" in export
    assert (tmp_path / "runs" / "instructions_merged" / "model.safetensors").is_file()
    first = (INSTRUCTIONS / "instructions.yaml").read_text().splitlines()[0].removeprefix("# ")
    assert first in commands


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walkthrough(place: Path, stand_in: Path | None) -> None:
    text = (ROOT / "examples" / "walkthrough.py").read_text()
    (command,) = re.findall(r"^# +(python examples/\S+)$", text, re.MULTILINE)
    printed = run(command, place)
    table = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if re.search(r"\d\.\d{3}", line)}
    assert set(table) == {"fedavg-lora", "local-only"}
    if stand_in is None:
        assert float(table["fedavg-lora"][0]) > float(table["local-only"][0])
    assert (place / "runs" / "walkthrough" / "fedavg-lora" / "adapter").is_dir()
    if stand_in is None:
        run(command, place)  # again, as people do
