"""`fibecfed config`: every key, and what the marks beside them mean."""

from typer.testing import CliRunner

from fibecfed.cli.app import app
from fibecfed.config import keys


def test_the_marks_are_explained_before_the_keys() -> None:
    result = CliRunner().invoke(app, ["config"])
    assert result.exit_code == 0
    marks, first, *_ = result.output.splitlines()
    assert all(f"[{mark}]: " in marks for mark in "PLD")
    assert first.startswith(f"{next(iter(keys())).name} = ")
