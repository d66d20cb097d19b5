"""`fibecfed methods` and `--dry-run`: what a round of each method takes."""

import dataclasses

import pytest
from typer.testing import CliRunner

import fibecfed
from fibecfed.cli.app import app
from fibecfed.config import Config
from fibecfed.estimate import estimate, ordinary_round
from fibecfed.methods import METHODS
from fibecfed.runtime import assemble


@pytest.fixture
def one_text(small: Config) -> Config:
    return dataclasses.replace(small, federation=dataclasses.replace(small.federation, rounds=6))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_estimated(method: str, one_text: Config) -> None:
    found = estimate(assemble(dataclasses.replace(one_text, method=method)))
    assert found.seconds > 0
    assert (found.round.job is None) == (found.round.bytes_down == 0)
    if found.round.job is not None:
        assert 0 < found.round.parameters_trained <= sum(t.numel() for t in found.round.job.tensors.values())


@pytest.mark.parametrize("loss", ["cross_entropy", "prior_corrected"])
def test_an_estimated_round_is_the_real_one(loss: str, small: Config) -> None:
    config = dataclasses.replace(small, training=dataclasses.replace(small.training, loss=loss))
    found = ordinary_round(assemble(config))
    result = fibecfed.run(config)
    train = result.summary["stages"]["train"]
    # What a message says beside its tensors differs: the run's name, the costs of a reply.
    messages = config.federation.sampled * config.federation.rounds
    assert train["bytes_up"] / messages == pytest.approx(found.bytes_up, abs=200)
    assert train["bytes_down"] / messages == pytest.approx(found.bytes_down, abs=200)
    assert found.parameters_trained == found.parameters_sent == assemble(config).layout.size


def fibecfed_methods(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["methods", *arguments], env={"COLUMNS": "300"})
    return result.exit_code, result.output


def test_the_list_needs_no_model() -> None:
    code, output = fibecfed_methods()
    assert code == 0
    for name, method in METHODS.items():
        (line,) = [line for line in output.splitlines() if line.startswith(f"│ {name} ")]
        assert method.paper.split(";")[0][:20] in line


def test_with_a_model_it_says_what_a_round_takes(small: Config) -> None:
    code, output = fibecfed_methods(
        f"model.name={small.model.name}", f"data.file={small.data.file}", "model.head=native", "lora.rank=2",
        "federation.devices=3", "federation.sampled=1",
    )  # fmt: skip
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if line.startswith("│ fedavg-lora ")]
    config = dataclasses.replace(
        small, model=dataclasses.replace(small.model, head="native"), lora=dataclasses.replace(small.lora, alpha=16.0)
    )
    assert f" {assemble(config).layout.size:,} " in line
    (refused,) = [line for line in output.splitlines() if line.startswith("│ ridge-head ")]
    assert "needs model.head=pooled" in refused


def test_a_model_that_is_not_there_is_an_error() -> None:
    code, output = fibecfed_methods("model.name=no/such")
    assert code == 2
    assert "Model 'no/such' is neither a folder" in " ".join(output.split())
