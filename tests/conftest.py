"""What tests share: tiny models, a small labelled file, and the data folder where there is one."""

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tiny
from fibecfed import Config, load_config

# pytest-xdist sets it in its workers, and a console made under it would keep that width in every test.
os.environ.pop("COLUMNS", None)

# Where a user's own models lie is said in messages, which tests compare.
os.environ.pop("FIBECFED_MODEL_DIR", None)

# Printed commands name `fibecfed` where PATH finds it, and CI does not activate its environment.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

# Whoever starts tests in the background may have Ctrl-C ignored, and then so do the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The longest first. Dealt to the workers in turn, so that no process waits for another's long test at the end.
_LONG = (
    "test_deployment.py", "test_smoke.py", "test_simulation.py",  # which wait most: one for each of three workers
    "test_examples.py", "test_scale.py", "test_quickstart.py", "test_readme.py", "test_clean.py", "test_resume.py",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker starts with an equal part of the tests in their order; one that has none left takes from another.

    xdist's own choice gives the first worker the first tests: all the long ones.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Side by side every worker's part begins with long tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items[:] = _dealt(items, int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def _dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The parts of the workers, one behind another and as long as the scheduler cuts them."""
    rest = [item for item in items if item.path.name not in _LONG]
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    for number, name in enumerate(_LONG):
        parts[number % workers] += [item for item in items if item.path.name == name]
    left = len(items)
    for number, part in enumerate(parts):
        more = max(0, left // (workers - number) - len(part))
        part += rest[:more]
        rest = rest[more:]
        left -= len(part)
    return [item for part in parts for item in part] + rest


LABELS = ("billing", "delivery", "praise")
_PHRASES = {
    "billing": ["charged twice", "the invoice is wrong", "my money back please", "a refund for the month"],
    "delivery": ["the parcel never arrived", "where is my kettle", "it came late", "the box was open"],
    "praise": ["great service", "thank you so much", "I love the blue one", "it works well"],
}


def pytest_collection_finish() -> None:
    """Keep the garbage collector from what was imported, which it would go through again and again in every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny encoder: 2 layers, 16 wide."""
    return tiny.save("bert", tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module", params=["tiny", pytest.param("as it stands", marks=pytest.mark.long)])
def stand_in(request: pytest.FixtureRequest, bert: Path) -> Path | None:
    """The model that is put in MiniLM's place; None: none is."""
    return bert if request.param == "tiny" else None


@pytest.fixture(scope="session")
def _pictures() -> Iterator[list[bool]]:
    """Whether pictures are drawn now; where not, their files stay empty, and runs leave no report.html."""
    from matplotlib.figure import Figure

    from fibecfed.runs import run, writing

    drawn = [False]
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, nothing in (
            (Figure, "savefig", None), (writing, "curves_png", b""), (writing, "decisions_png", b""),
            (run, "write_run_report", None),
        ):  # fmt: skip
            patch.setattr(owner, name, _where_drawn(getattr(owner, name), drawn, nothing))
        yield drawn


def _where_drawn(draw: Callable[..., Any], drawn: list[bool], nothing: bytes | None) -> Callable[..., Any]:
    return lambda *given, **named: draw(*given, **named) if drawn[0] else nothing


@pytest.fixture(autouse=True)
def _draw(request: pytest.FixtureRequest, _pictures: list[bool]) -> None:
    """To draw them takes half of a tiny run, so only tests marked `drawn` do, and processes of their own."""
    _pictures[0] = request.node.get_closest_marker("drawn") is not None


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny decoder: 2 layers, 16 wide."""
    return tiny.save("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 120 short messages with three labels."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        label = LABELS[number % len(LABELS)]
        words = rng.choice(_PHRASES[label], size=int(rng.integers(1, 4)))
        rows.append({"text": " and ".join(words), "label": label})
    path = tmp_path_factory.mktemp("rows") / "messages.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def small(bert: Path, rows_file: Path) -> Config:
    """fedavg-lora on six devices, three a round, two rounds, the tiny encoder: under a second."""
    return load_config(
        method="fedavg-lora",
        model={"name": str(bert)},
        data={"file": str(rows_file), "max_length": 32},
        federation={"devices": 6, "sampled": 3, "rounds": 2},
        training={"learning_rate": 0.01, "schedule": "constant"},
        lora={"rank": 2, "alpha": 4},
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the ten public sets; skips where there is none."""
    folder = Path(os.environ.get("FIBECFED_DATA_DIR", ""))
    if not os.environ.get("FIBECFED_DATA_DIR") or not folder.is_dir():
        pytest.skip("FIBECFED_DATA_DIR names no folder of public data sets")
    return folder
