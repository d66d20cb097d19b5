"""`fibecfed config` and `--version`: what a new user asks first."""

import io
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import fibecfed
from fibecfed.cli.app import app
from fibecfed.cli.config_command import show_config
from fibecfed.config import Config, keys, load_config, section_meanings


def printed(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "60"})
    return result.exit_code, result.stdout, result.stderr


def test_the_version_is_printed() -> None:
    assert printed("--version") == (0, f"fibecfed {fibecfed.__version__}\n", "")


def test_redirected_it_is_a_configuration_file_with_headings(tmp_path: Path) -> None:
    code, text, _ = printed("config")
    assert code == 0
    path = tmp_path / "all.yaml"
    path.write_text(text)
    assert load_config(path) == Config()
    assert {key for key, value in yaml.safe_load(text).items() if isinstance(value, dict) and key != "settings"} == {
        name for name in section_meanings() if "." not in name
    }
    flat = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
    for meaning in section_meanings().values():
        assert meaning in flat
    for key in keys():
        assert key.meaning in flat, key.name
    assert "it begins with no zero (010 would be eight or ten)" in flat


@pytest.mark.parametrize("section", ["lora", "data", "data.partition", "seed", "training.learning_rate"])
def test_a_section_or_a_key_alone(section: str, tmp_path: Path) -> None:
    code, text, _ = printed("config", section)
    assert code == 0
    path = tmp_path / "part.yaml"
    path.write_text(text)
    assert load_config(path) == Config()
    content = yaml.safe_load(text)
    for part in section.split("."):
        (only,) = content
        assert only == part
        content = content[only]


def test_a_section_that_is_not_there_names_the_nearest() -> None:
    code, _, said = printed("config", "trainign")
    assert code == 2
    assert said == "Error: There is no section or key 'trainign'. Did you mean 'training'?\n"


def shown_on_a_terminal() -> list[str]:
    written = io.StringIO()
    show_config(None, Console(file=written, force_terminal=True, width=80, color_system=None, markup=False))
    return written.getvalue().splitlines()


def test_a_terminal_shows_the_names_that_the_command_line_takes() -> None:
    lines = shown_on_a_terminal()
    assert max(map(len, lines)) <= 80
    for key in keys():
        assert any(line.startswith(f"{key.name} = ") for line in lines), key.name
    for name, meaning in section_meanings().items():
        assert any(line.startswith(f"{name}  {meaning[:20]}") for line in lines), name


def test_the_marks_are_explained_before_the_keys() -> None:
    for marks in (printed("config")[1].splitlines()[0], shown_on_a_terminal()[0]):
        assert all(f"[{mark}]: " in marks for mark in "PLD")


def test_help_says_what_an_argument_is() -> None:
    code, text, _ = printed("evaluate", "--help")
    assert code == 0
    assert "The directory of a run." in " ".join(text.split())
