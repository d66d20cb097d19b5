"""experiments/smoke.yaml: its time, side by side or not, stopped by the clock, and killed.

As it stands it trains MiniLM; by default a tiny model is put in its place, and it is killed less often.
"""

import random
import re
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import forking
from fibecfed.cli.app import app
from fibecfed.comparison import build_report, write_report

ROOT = Path(__file__).resolve().parents[2]
RUNS, LIMIT = 14, 180.0


@pytest.fixture(scope="module")
def spec(stand_in: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's experiment, with the stand-in for its model."""
    shipped = ROOT / "experiments" / "smoke.yaml"
    if stand_in is None:
        return shipped
    content = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    content["base"]["model"] = {"name": str(stand_in)}
    path = tmp_path_factory.mktemp("experiments") / "smoke.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def process(spec: Path, out: Path, *options: str) -> forking.Popen:
    """The README's command, with another --out and more options."""
    command = ["-m", "fibecfed", "compare", str(spec), "--out", str(out), *options]
    return forking.Popen(command, cwd=ROOT, stdout=forking.PIPE, stderr=forking.STDOUT)


def finished(spec: Path, out: Path, *options: str) -> str:
    """What the command says: as it stands in a process of its own; else in this one, where its runs have their own."""
    if spec.parent != ROOT / "experiments":
        result = CliRunner().invoke(app, ["compare", str(spec), "--out", str(out), *options], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())
    running = process(spec, out, *options)
    said, _ = running.communicate(timeout=LIMIT)
    assert running.returncode == 0, said
    return " ".join(said.split())


def kill_when(spec: Path, out: Path, records: int, delay: float) -> None:
    """Kill -9 some time after so many runs have ended."""
    running = process(spec, out, "--jobs", "1")
    until = time.monotonic() + LIMIT
    while len(list((out / "records").glob("*.json"))) < records:
        assert running.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(delay)
    assert running.poll() is None
    running.kill()
    running.communicate()


def tables(out: Path) -> dict[str, bytes]:
    """All that must be equal: everything but what was measured."""
    write_report(build_report(out))
    return {p.name: p.read_bytes() for p in sorted((out / "report").iterdir()) if not p.name.startswith("measured")}


def test_it_is_the_documents_command() -> None:
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    assert ".venv/bin/fibecfed compare experiments/smoke.yaml --out runs/smoke\n" in page
    assert ".venv/bin/fibecfed report runs/smoke\n" in page


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.drawn
def test_smoke_ends_in_time_and_gives_the_same_tables_alone_stopped_and_killed(
    spec: Path, stand_in: Path | None, tmp_path: Path
) -> None:
    started = time.monotonic()
    said = finished(spec, tmp_path / "whole", "--jobs", "2")
    assert time.monotonic() - started < LIMIT
    assert f"{RUNS} of {RUNS} runs done" in said
    whole = tables(tmp_path / "whole")
    assert "## Final accuracy" in whole["report.md"].decode()

    out = tmp_path / "interrupted"
    said = finished(spec, out, "--jobs", "1", "--hours", str((4 if stand_in is None else 2) / 3600))
    found = re.search(r"(\d+) of 14 runs done. The time is up. Left: .*Go on with: fibecfed compare", said)
    assert found, said
    done = int(found.group(1))
    chance = random.Random(0)
    kills = 5 if stand_in is None else 1
    for records in sorted(chance.sample(range(done, RUNS - 1), kills)):
        kill_when(spec, out, records, delay=chance.uniform(0, 1.0 if stand_in is None else 0.2))
    said = finished(spec, out, "--jobs", "1")
    assert "14 of 14 runs done" in said
    assert tables(out) == whole
