"""The reports of a real run and of a real comparison in headless Chromium, driven by its driver over plain HTTP."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fibecfed
from fibecfed import load_config
from fibecfed.comparison import build_report, comparison_page
from fibecfed.report import write_page, write_run_report

ROOT = Path(__file__).parents[2]
PORT = 9517
pytestmark = pytest.mark.slow


class Browser:
    """One tab of headless Chromium."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}"
        options = {
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"],
        }
        logged = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logged}
        self.session = self._send("POST", "/session", capabilities={"alwaysMatch": wanted})["sessionId"]

    def _send(self, way: str, path: str, **content: Any) -> Any:
        data = json.dumps(content).encode() if way == "POST" else None
        request = urllib.request.Request(f"{self.root}{path}", data, {"Content-Type": "application/json"}, method=way)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path) -> None:
        self._send("POST", f"/session/{self.session}/url", url=path.as_uri())

    def run(self, script: str) -> Any:
        """What the body of a function returns in the page."""
        return self._send("POST", f"/session/{self.session}/execute/sync", script=script, args=[])

    def resize(self, width: int) -> None:
        self._send("POST", f"/session/{self.session}/window/rect", width=width, height=900)

    def log(self, kind: str) -> list[dict[str, Any]]:
        return self._send("POST", f"/session/{self.session}/se/log", type=kind)

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requested(self) -> list[str]:
        """Addresses that were asked for, but for what is written in the page itself."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith("data:")]

    def close(self) -> None:
        self._send("DELETE", f"/session/{self.session}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not shutil.which("chromedriver") or not shutil.which("chromium"):
        pytest.skip("chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)")
    driver = subprocess.Popen(["chromedriver", f"--port={PORT}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/status", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        tab = Browser(PORT)
        yield tab
        tab.close()
    finally:
        driver.terminate()
        driver.wait()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, bert: Path, rows_file: Path) -> dict[str, Path]:
    """Of a run that is made here, and of the comparison that is committed."""
    folder = tmp_path_factory.mktemp("reports")
    config = load_config(
        method="fibecfed",
        model={"name": str(bert)},
        data={"file": str(rows_file), "max_length": 32},
        federation={"devices": 6, "sampled": 3, "rounds": 3},
        warm_up={"rounds": 1},
        lora={"rank": 2, "alpha": 4},
    )
    fibecfed.run(config, folder / "run")
    write_run_report(folder / "run")
    shutil.copytree(ROOT / "results" / "smoke", folder / "smoke")
    page = write_page(comparison_page(build_report(folder / "smoke")), folder / "smoke")
    return {"run": folder / "run" / "report.html", "comparison": page}


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_a_report_works_and_asks_for_nothing(kind: str, browser: Browser, reports: dict[str, Path]) -> None:
    browser.log("performance"), browser.log("browser")
    browser.open(reports[kind])

    # A line is switched off and on: in every picture of its chart, and in no other chart.
    name = {"run": "protocol-personalized", "comparison": "line-1"}[kind]
    shown = f"return document.querySelectorAll('.series[data-series=\"{name}\"]:not(.off)').length"
    before = browser.run(shown)
    assert before == {"run": 3, "comparison": 6}[kind]
    browser.run(f"document.querySelector('[data-switch=\"{name}\"]').click()")
    assert browser.run(shown) == 0
    assert browser.run("return document.querySelectorAll('.series:not(.off)').length") > 0
    browser.run(f"document.querySelector('[data-switch=\"{name}\"]').click()")
    assert browser.run(shown) == before

    # A table is sorted, up and then down.
    column = """
        const table = [...document.querySelectorAll('table.sortable')].find((t) => t.tBodies[0].rows.length > 4);
        const heads = [...table.querySelectorAll('th')];
        const at = heads.findIndex((h) => h.classList.contains('number')
          && new Set([...table.tBodies[0].rows].map((r) => r.cells[h.cellIndex].dataset.v)).size > 2);
        const values = () => [...table.tBodies[0].rows].map((r) => r.cells[at].dataset.v)
          .filter((v) => v !== undefined && v !== '').map(Number);
    """
    for falling in (False, True):
        browser.run(f"{column} heads[at].querySelector('button').click()")
        values = browser.run(f"{column} return values()")
        assert len(values) > 2 and values == sorted(values, reverse=falling)
        said = browser.run(f"{column} return heads[at].getAttribute('aria-sort')")
        assert said == ("descending" if falling else "ascending")

    # The theme goes round, and the page's ground with it.
    ground = "return getComputedStyle(document.body).backgroundColor"
    grounds = {}
    for _ in range(3):
        browser.run("document.getElementById('theme').click()")
        grounds[browser.run("return document.getElementById('theme').dataset.now")] = browser.run(ground)
    assert grounds.keys() == {"automatic", "light", "dark"} and grounds["light"] != grounds["dark"]

    # On a phone nothing is wider than the screen.
    browser.resize(400)
    wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    browser.resize(1280)
    assert wide[0] <= wide[1]

    browser.run("document.querySelector('.copy').click()")
    assert browser.errors() == []
    assert browser.requested() == [reports[kind].as_uri()]
