"""Lines that messages tell a reader to type: they can be pasted where the message is read."""

import shlex
import stat
import sys
from pathlib import Path

import pytest

import fibecfed
from fibecfed import commands
from fibecfed.commands import advice, at_a_shell, command_line, extra_install, going_on, pip_install
from fibecfed.results import loading_code


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment that is not activated: its programs are not on PATH."""
    for name in ("fibecfed", "pip", "python3"):
        script = tmp_path / "venv" / "bin" / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("#!/bin/sh\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "bin" / "python3"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "venv" / "bin" / "fibecfed"), "run"])
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_program_that_path_does_not_find_is_named_as_it_was_started(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command_line("methods") == f"{place}/venv/bin/fibecfed methods"
    monkeypatch.setattr(sys, "argv", ["venv/bin/fibecfed"])
    assert command_line("methods") == "venv/bin/fibecfed methods"
    monkeypatch.setenv("PATH", f"{place}/venv/bin:/usr/bin")
    assert command_line("methods") == "fibecfed methods"


def test_another_installation_on_path_is_not_taken_for_this_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = place / "other" / "fibecfed"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:/usr/bin")
    assert command_line("methods") == f"{place}/venv/bin/fibecfed methods"


def test_python_dash_m_is_named_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(fibecfed.__file__).parent / "__main__.py")])
    assert command_line("methods") == f"{place}/venv/bin/python3 -m fibecfed methods"
    monkeypatch.setattr(sys, "argv", ["script.py"])
    (place / "venv" / "bin" / "fibecfed").unlink()
    assert command_line("methods") == f"{place}/venv/bin/python3 -m fibecfed methods"


@pytest.mark.parametrize("name", ["my run", "lr=0.1", "it's", "$HOME", "-x", "a;b", "~", "[/x]", "{x}"])
def test_paths_and_texts_come_back_from_a_shell(name: str) -> None:
    words = shlex.split(command_line("predict", Path(name), "I'm late; where is $it?"))
    assert words[-1] == "I'm late; where is $it?"
    assert Path(words[-2]) == Path(name) and not words[-2].startswith("-")
    assert shlex.split(command_line("run", "--resume", Path(name)))[-2] == "--resume"


def test_packages_are_installed_where_this_process_looks_for_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pip_install("flwr>=1") == f"{place}/venv/bin/python3 -m pip install 'flwr>=1'"
    monkeypatch.setenv("PATH", f"{place}/venv/bin:/usr/bin")
    assert pip_install("flwr>=1") == "pip install 'flwr>=1'"


@pytest.mark.parametrize("extra", ["minilm", "hub", "tensorboard", "trackio", "flower", "simulation"])
def test_an_extra_is_its_packages_since_fibecfed_is_on_no_index(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = extra_install(extra)
    assert "fibecfed" not in line
    assert len(shlex.split(line)) > 2
    monkeypatch.setattr(commands.importlib.metadata, "requires", lambda _: None)
    assert extra_install(extra).endswith(f"install '.[{extra}]', in the checkout of fibecfed")


def test_nothing_says_that_fibecfed_is_on_an_index() -> None:
    root = Path(fibecfed.__file__).parents[2]
    texts = {path: path.read_text() for path in (root / "src").rglob("*.py")}
    texts |= {path: path.read_text() for path in [root / "README.md", *(root / "docs").glob("*.md")]}
    for path, text in texts.items():
        for claim in ("install fibecfed", "install 'fibecfed", "pypi.org/project/fibecfed"):
            assert claim not in text, path
    described = {
        "task": "classification",
        "tuning": "lora",
        "head": "pooled",
        "pooling": "mean",
        "texts": ["text"],
        "base_settings": {},
    }
    assert "fibecfed" not in loading_code({**described, "base_package": None})


def test_messages_speak_python_to_python_and_commands_to_a_shell() -> None:
    assert going_on("my run") == "fibecfed.resume('my run')"
    with at_a_shell():
        assert shlex.split(going_on("my run"))[-3:] == ["run", "--resume", "my run"]
        assert advice("--force", "force=True") == "--force"
    assert advice("--force", "force=True") == "force=True"
