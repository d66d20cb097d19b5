"""Mistakes with `fibecfed flower` end in a sentence and exit code 2, before anything is started."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("flwr", reason="needs the extra `flower`")

from fibecfed.cli.app import app


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["flower", *words])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.split())


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """The folder of a server that was started once."""
    (tmp_path / "server" / "flwr").mkdir(parents=True)
    (tmp_path / "server" / "flwr" / "config.toml").touch()
    return tmp_path / "server"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["method=fibecfed"], "name them, as data.labels="),
        (["method=centralized-lora", "data.labels=[a,b]"], "is no federation"),
        (["method=local-only", "data.labels=[a,b]"], "is no federation"),
        (["data.labels=[a,b]", "data.file=x.csv"], "data.file means nothing to the server"),
        (["data.labels=[a,b]", "data.label_noise=0.1"], "data.label_noise means nothing"),
        (["data.labels=[a,b]", "data.partition.alpha=3"], "data.partition means nothing"),
        (["data.labels=[a,b]", "data.test_file=t.csv", "evaluation.split=validation"], "would not use it"),
        (["data.labels=[a]"], "data.labels"),
    ],
)
def test_settings_that_mean_nothing_over_machines(
    tmp_path: Path, server: Path, settings: list[str], message: str
) -> None:
    assert message in said("run", *settings, "--out", str(tmp_path / "run"), "--server", str(server))
    assert not (tmp_path / "run").exists()


def test_run_without_a_server_or_a_place_for_results(tmp_path: Path, server: Path) -> None:
    assert "start it with: fibecfed flower server" in said("run", "data.labels=[a,b]", "--server", str(tmp_path))
    assert "--out DIR" in said("run", "data.labels=[a,b]", "--server", str(server))
    said_more = said("run", "mine.yaml", "--resume", "x", "--server", str(server))
    assert "takes its settings from its directory" in said_more
    assert "is not the directory of a run" in said("run", "--resume", str(tmp_path), "--server", str(server))


def test_plain_text_needs_the_flag(tmp_path: Path) -> None:
    assert "fibecfed flower certificates" in said("server", "--server", str(tmp_path / "none"))
    (tmp_path / "device.yaml").write_text("data: {file: text.csv}")
    assert "holds no ca.crt" in said("device", str(tmp_path / "device.yaml"))
    for name in ("ca.crt", "device.key"):
        (tmp_path / name).touch()
    assert "text.csv' does not exist" in said("device", str(tmp_path / "device.yaml"))
