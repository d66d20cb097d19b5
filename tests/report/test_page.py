"""What every report holds to: it loads nothing, stays small, escapes what users wrote, and shows its data."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fibecfed
from fibecfed import Config, load_config
from fibecfed.cli.app import app
from fibecfed.config import build_config, merge, to_dict
from fibecfed.errors import InputError
from fibecfed.report import Page, Score, Section, leave_report, run_page, score_chart, write_run_report
from fibecfed.report.svg import Axis, two_digits
from fibecfed.results import RunDirectory

HOSTILE = '</script><script>alert("1")</script><img src=x onerror=alert(1)> & \'"'
UNIT = re.compile(r"\(.+\)|^round$|examples|^layer$|^device$")


class Seen(HTMLParser):
    """The elements of a page with what they hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.axes: list[str] = []
        self._axis = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._axis = tag == "text" and dict(attrs).get("class") == "axis"

    def handle_data(self, data: str) -> None:
        if self._axis:
            self.axes.append(data)
            self._axis = False

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, bert: Path, rows_file: Path) -> Path:
    """A run of fibecfed that has decided something."""
    out = tmp_path_factory.mktemp("report") / "run"
    config = load_config(
        method="fibecfed",
        model={"name": str(bert)},
        data={"file": str(rows_file), "max_length": 32},
        federation={"devices": 6, "sampled": 3, "rounds": 3},
        warm_up={"rounds": 1},
        training={"learning_rate": 0.01, "schedule": "constant"},
        lora={"rank": 2, "alpha": 4},
    )
    fibecfed.run(config, out)
    write_run_report(out)
    return out


@pytest.mark.drawn
def test_a_run_leaves_its_report(small: Config, tmp_path: Path) -> None:
    fibecfed.run(small, tmp_path / "run")
    assert "fedavg-lora" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_report_loads_nothing(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert len(html) < 3_000_000
    seen = Seen(html)
    assert not re.search(r"https?://", html)
    assert all(not tag.get("src") for _, tag in seen.tags)
    assert {name for name, tag in seen.tags if tag.get("href")} <= {"a", "link"}
    assert all(str(tag["href"]).startswith(("#", "data:,")) for _, tag in seen.tags if tag.get("href"))
    assert "default-src 'none'" in html


def test_every_chart_has_a_title_axes_with_units_and_its_data(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    figures = re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL)
    assert len(figures) >= 6
    for figure in figures:
        title = re.search(r"<h3>(.+?)</h3>", figure)
        assert title is not None and len(title[1]) > 15
        assert figure.count("<table") == 1 and figure.count("<tr>") > 1
        assert re.search(r"<svg[^>]*role=\"img\"[^>]*><title>.+?</title>", figure)
        axes = Seen(figure).axes
        assert axes and all(UNIT.search(axis) for axis in axes), axes


def test_what_a_run_has_stands_in_it(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    for heading in ("Score", "Who holds what", "Devices", "What the method decided", "Costs", "What was lost"):
        assert f"<h2>{heading}</h2>" in html
    assert "What was taken for what" in html and "fibecfed run method=fibecfed " in html
    assert "Layer scores: layers" in html and "warm-up" in html
    assert html.count(" worst") >= 1


def test_what_single_devices_scored_is_kept(finished: Path) -> None:
    told = json.loads((finished / "evaluation.json").read_text())
    summary = json.loads((finished / "summary.json").read_text())
    devices = told["devices"].values()
    examples = sum(on["examples"] for on in devices)
    assert told["round"] == 3 and examples == summary["data"]["held_out_examples"]
    mean = sum(on["personalized"] * on["examples"] for on in devices) / examples
    assert mean == pytest.approx(summary["accuracy"]["personalized"])
    counts = told["answers"]["global"]
    right = sum(row[i] for i, row in enumerate(counts))
    assert right / sum(map(sum, counts)) == pytest.approx(summary["accuracy"]["global"])


def test_layer_scores_of_devices_stay_with_the_server(finished: Path) -> None:
    decided = json.loads((finished / "method.json").read_text())
    told = decided["layer_scores_by_device"]
    assert len(told) == 3 and all(len(scores) == len(decided["layer_scores"]) for scores in told.values())


def test_names_of_users_are_text_and_nothing_else(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "metrics.jsonl", "summary.json", "partition.json", "method.json", "evaluation.json"):
        (folder / name).write_bytes((finished / name).read_bytes())

    def change(name: str, **changes: Any) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(content))

    before = Seen((finished / "report.html").read_text(encoding="utf-8"))
    groups = json.loads((folder / "partition.json").read_text())["labels"]
    change("partition.json", names=[f"{HOSTILE}{k}" for k in range(6)], labels=[HOSTILE + name for name in groups])
    change("summary.json", dataset=HOSTILE, versions={HOSTILE: HOSTILE})
    change("method.json", count_reason=HOSTILE, warnings=[HOSTILE])
    html = write_run_report(folder).read_text(encoding="utf-8")
    after = Seen(html)
    assert "<img" not in html and html.count("</script>") == 1
    assert not any(name.startswith("on") for _, tag in after.tags for name in tag)
    assert after.count("script") == before.count("script") == 1


def test_scores_that_are_no_numbers_do_not_break_it(finished: Path) -> None:
    records = [dict(r) for r in RunDirectory(finished).metrics()]
    for record in records:
        record["metric_global"] = record["accuracy_global"] = float("nan")
    chart = score_chart("t", {"global": {"a": [records]}}, Score.of(records))
    html = Page("t", "", [], [Section("s", [chart])]).html()
    drawn = re.findall(r' d="[^"]*"', html)
    assert drawn and not any("nan" in path or "inf" in path for path in drawn)


def test_thirty_methods_in_nine_settings_stay_small(finished: Path) -> None:
    record = RunDirectory(finished).metrics()[-1]
    curve = [record | {"round": r, "simulated_seconds": 1.7 * r, "accuracy_global": r / 250} for r in range(200)]
    runs = {p: {f"method {n}": [curve, curve] for n in range(30)} for p in ("global", "personalized")}
    charts = [score_chart(f"setting {n}", runs, Score("accuracy", 1), charts=9) for n in range(9)]
    html = Page("t", "", [], [Section("s", charts)]).html()
    assert len(html.encode()) < 3_000_000
    looks = set(re.findall(r'<svg viewBox="0 0 30 12" class="swatch (c\d)"[^>]*>(<path[^>]*>)', html))
    assert len(looks) == 30  # each line has colour and dashes of its own


@pytest.mark.drawn
def test_a_report_that_fails_loses_nothing_but_itself(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no chart today")

    monkeypatch.setattr("fibecfed.report.writing.run_page", broken)
    with pytest.warns(UserWarning, match=r"complete, but report.html was not written .*no chart today.*report"):
        result = fibecfed.run(small, tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").is_file() and not (tmp_path / "run" / "report.html").exists()
    assert result.summary["rounds"] == 2


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    leave_report(lambda: (tmp_path / "missing" / "x").write_text("x"), tmp_path, said.append)
    assert len(said) == 1 and str(tmp_path) in said[0]


def test_a_run_that_has_not_ended_has_no_report(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((finished / "config.yaml").read_bytes())
    with pytest.raises(InputError, match="has not ended; go on with it"):
        run_page(RunDirectory(tmp_path))


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1, False), (0.123, 0.124, False), (5, 5, False), (0.0086, 0.029, True), (1e-6, 1e5, True), (0, 12345, False)],
    ids=["unit", "narrow", "single", "less than a decade", "decades", "large"],
)
def test_ticks_lie_on_their_axis_and_differ(low: float, high: float, log: bool) -> None:
    axis = Axis.over("x", [low, high], log=log)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12 and len({text for _, text in ticks}) == len(ticks)
    assert all(-1e-9 <= axis.part(value) <= 1 + 1e-9 for value, _ in ticks)


@pytest.mark.drawn
def test_sites_of_a_folder_are_counted(small: Config, rows_file: Path, tmp_path: Path) -> None:
    (tmp_path / "sites").mkdir()
    for name in ("east", "west"):
        (tmp_path / "sites" / f"{name}.csv").write_bytes(rows_file.read_bytes())
    changes = {"data": {"file": str(tmp_path / "sites")}, "federation": {"devices": None, "sampled": None}}
    fibecfed.run(build_config(merge(to_dict(small), changes)), tmp_path / "run")
    assert "2 devices, 2 a round" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_report_takes_a_run_and_says_what_else_it_takes(finished: Path, tmp_path: Path) -> None:
    (finished / "report.html").unlink()
    done = CliRunner().invoke(app, ["report", str(finished)])
    assert done.exit_code == 0 and (finished / "report.html").is_file()
    wrong = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert wrong.exit_code == 2 and "of a run (no config.yaml)" in wrong.output + wrong.stderr


@pytest.mark.parametrize(
    ("value", "text"), [(9312.0, "9,300"), (0.00421, "0.0042"), (1.0, "1"), (28_999.0, "29,000"), (1.23e7, "1.2e+07")]
)
def test_numbers_of_two_digits_are_written_out(value: float, text: str) -> None:
    assert two_digits(value) == text
