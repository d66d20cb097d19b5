"""Every method on an encoder and a decoder, on one and on two texts, through the command line's own code."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import fibecfed
import forking
from fibecfed.cli.app import app
from fibecfed.methods import METHODS
from fibecfed.tuning import TUNINGS

SHORT, LONG = "where is it", "the parcel never arrived and I want my money back, " * 3


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 96 pairs of texts: whether the second answers the first."""
    asked = ["where is my kettle", "I was charged twice", "how do I change my password", "is there a lid"]
    rows = [
        {"first": asked[n % 4], "second": asked[(n + n // 4 % 2) % 4] + " please", "label": ["yes", "no"][n // 4 % 2]}
        for n in range(96)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def arguments(method: str, model: Path, data: Path, out: Path) -> list[str]:
    texts = ["data.text=first", "data.text_pair=second"] if data.name == "pairs.csv" else []
    return [
        "run", f"method={method}", f"model.name={model}", f"data.file={data}", *texts, "data.max_length=32",
        "data.train_examples=24", "data.test_examples=16", "federation.devices=4", "federation.sampled=2",
        "federation.rounds=2", "evaluation.every=2", "training.learning_rate=0.01", "lora.rank=2", "lora.alpha=4",
        "--out", str(out),
    ]  # fmt: skip


# Whether padding is read is up to the tuning: the first method of each sees every combination. All the others see both
# architectures, and both one text and two.
OF_A_TUNING = {method.tuning: name for name, method in reversed(METHODS.items())}
COMBINATIONS = [
    pytest.param(name, architecture, texts, id=f"{name}-{architecture}-{texts}")
    for name in METHODS
    for architecture in ("bert", "llama")
    for texts in ("one text", "two texts")
    if name in OF_A_TUNING.values() or (architecture == "bert") is (texts == "one text")
]


def test_every_tuning_is_one_whose_padding_is_tried() -> None:
    assert set(OF_A_TUNING) == set(TUNINGS)


@pytest.mark.parametrize(("method", "architecture", "texts"), COMBINATIONS)
def test_it_trains_is_saved_and_reads_padding_as_nothing(
    method: str, architecture: str, texts: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = request.getfixturevalue(architecture)
    data = request.getfixturevalue("rows_file" if texts == "one text" else "pairs_file")
    result = CliRunner().invoke(app, arguments(method, model, data, tmp_path / "run"), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(0 <= summary["accuracy"][protocol] <= 1 for protocol in ("global", "personalized"))
    classifier = fibecfed.load(tmp_path / "run")
    seconds = None if texts == "one text" else ["the kettle", LONG]
    together = classifier.logits([SHORT, LONG], seconds)
    alone = classifier.logits([SHORT], seconds and seconds[:1])
    assert np.isfinite(together).all()
    np.testing.assert_allclose(alone[0], together[0], atol=1e-5)
    if seconds is not None:  # the second text is read, too (a model without training reads nothing)
        swapped = classifier.logits([SHORT, LONG], seconds[::-1])
        assert method == "device-majority" or not np.allclose(swapped, together)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", ["fibecfed", *(pytest.param(name, marks=pytest.mark.long) for name in ("fedavg-lora", "fedavg+prior"))]
)
def test_it_trains_in_a_process_of_its_own(method: str, bert: Path, rows_file: Path, tmp_path: Path) -> None:
    command = ["-m", "fibecfed"]
    ran = forking.run([*command, *arguments(method, bert, rows_file, tmp_path / "run")])
    assert ran.returncode == 0, ran.stderr
    said = forking.run([*command, "predict", str(tmp_path / "run"), SHORT])
    assert json.loads(said.stdout)["label"] in ("billing", "delivery", "praise")
