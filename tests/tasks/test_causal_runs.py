"""Language models from the first round to an answer: the same losses as a plain loop, methods, resume, adapter."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments
from typer.testing import CliRunner

import fibecfed
import forking
from crash import Crash, CrashAt
from fibecfed import InputError, RunResult
from fibecfed.cli.app import app
from fibecfed.data import training_batches
from fibecfed.runtime import assemble
from fibecfed.tasks.causal_lm import Turn
from fibecfed.training import ScoreJob, TrainJob
from run_content import content
from tasks.instructions import records, settings, write

RUNS = ("fedavg-lora", "fibecfed", "centralized-lora", "local-only")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("instructions") / "asked.jsonl", records(40))


@pytest.fixture(scope="module", params=RUNS)
def finished(request: pytest.FixtureRequest, file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    config = settings(file, method=request.param, data={"group": "topic"}, federation={"rounds": 4})
    return fibecfed.run(config, tmp_path_factory.mktemp("causal") / request.param)


def test_it_learns_responses(finished: RunResult) -> None:
    first, last = finished.metrics[0], finished.metrics[-1]
    assert last["metric"] == "loss" and last["loss_personalized"] < first["loss_personalized"]
    assert last["perplexity_personalized"] == pytest.approx(np.exp(last["loss_personalized"]))
    assert 0 <= finished.summary["token_accuracy"]["global"] <= 1


def test_it_is_judged_again(finished: RunResult) -> None:
    assert finished.directory is not None
    again = fibecfed.evaluate_run(finished.directory)
    assert again["global"]["token_accuracy"] == finished.summary["token_accuracy"]["global"]
    partition = json.loads((finished.directory / "partition.json").read_text())
    assert partition["groups"] == ["a", "b"] and np.shape(partition["train"])[1] == 2


@pytest.mark.parametrize("finished", ["fibecfed"], indirect=True)
def test_a_warm_up_ends_by_the_fall_of_the_loss(finished: RunResult, file: Path) -> None:
    assert finished.directory is not None
    decided = json.loads((finished.directory / "method.json").read_text())
    assert len(decided["warm_up_token_probability"]) == decided["warm_up_rounds"] == 1  # a fifth of the rounds at most
    assert decided["layers"] is not None


def test_the_fall_that_ends_a_warm_up() -> None:
    from fibecfed.tasks import CausalLanguageModel

    config = settings(Path("none.jsonl"), warm_up={"fall": 0.2})
    probabilities = [np.exp(-loss) for loss in (4.0, 3.3, 3.2)]
    assert [CausalLanguageModel.is_warm(config, probabilities[:n], 0) for n in (1, 2, 3)] == [False, False, True]


@pytest.mark.parametrize("method", ["fedavg-lora", "fibecfed"])
def test_a_stopped_run_goes_on_bit_for_bit(method: str, file: Path, tmp_path: Path) -> None:
    fibecfed.run(settings(file, method=method), tmp_path / "whole")
    with pytest.raises(Crash):
        fibecfed.run(settings(file, method=method), tmp_path / "cut", callbacks=[CrashAt(2)])
    fibecfed.resume(tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_with_everything_off_fibecfed_is_fedavg(file: Path) -> None:
    off = {"curriculum": {"score": "none"}, "sharing": {"layers": "all", "rows": "dense", "head": "shared"}}
    one = fibecfed.run(settings(file, method="fedavg-lora"))
    other = fibecfed.run(settings(file, method="fibecfed", **off))
    assert [m["loss_global"] for m in one.metrics] == [m["loss_global"] for m in other.metrics]


@pytest.mark.parametrize("saving", [{"gradient_checkpointing": True}, {"micro_batch_size": 1}])
def test_savings_change_no_loss(saving: dict[str, Any], file: Path) -> None:
    one = fibecfed.run(settings(file, method="fedavg-lora"))
    other = fibecfed.run(settings(file, method="fedavg-lora", training=saving))
    assert other.metrics[-1]["loss_global"] == pytest.approx(one.metrics[-1]["loss_global"], rel=1e-4)


# The same losses as a plain loop


class Ordered(Trainer):
    """A Trainer that takes the examples in their order, and notes each step's loss."""

    noted: list[float]

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(*args, **kwargs)
        self.noted.append(float(loss.detach()))
        return loss


def test_one_device_and_one_epoch_is_a_plain_trainer(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        file, method="centralized-lora", data={"validation_fraction": 0.0},
        training={"schedule": "constant", "micro_batch_size": 3},
        federation={"rounds": 1},
    )  # fmt: skip
    experiment = assemble(config)
    data, plain = experiment.data.train, copy.deepcopy(experiment.model.backbone)
    size = config.training.batch_size
    assert len(data) % size == 0
    job = TrainJob(
        device=0, round=1, tensors=dict(experiment.start.tensors), trained=dict.fromkeys(experiment.layout.names),
        batches=training_batches(
            np.arange(len(data)), data.lengths, size, seed=config.seed, round=1, device=0, epochs=1
        ),
        learning_rate=config.training.learning_rate, seed=0,
    )  # fmt: skip
    from fibecfed.training import local

    ours: list[float] = []
    accumulate = local._accumulate

    def noting(*args: Any) -> float:
        ours.append(accumulate(*args) / size)
        return ours[-1] * size

    monkeypatch.setattr(local, "_accumulate", noting)
    experiment.site.executor.result(job)
    pad_id = experiment.pretrained.tokenizer.pad_token_id
    order = [int(i) for batch in job.batches for i in batch]
    rows = [data.batch(np.array([i])) for i in order]
    examples = [{"input_ids": row.input_ids[0], "labels": row.targets[0]} for row in rows]

    def padded(features: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        join = torch.nn.utils.rnn.pad_sequence
        lengths = [torch.ones_like(f["input_ids"]) for f in features]
        return {
            "input_ids": join([f["input_ids"] for f in features], batch_first=True, padding_value=pad_id),
            "labels": join([f["labels"] for f in features], batch_first=True, padding_value=-100),
            "attention_mask": join(lengths, batch_first=True),
        }

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=size, num_train_epochs=1,
        learning_rate=config.training.learning_rate, lr_scheduler_type="constant", max_grad_norm=1.0, weight_decay=0.0,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    plain.train()
    trainer = Ordered(model=plain, args=arguments, train_dataset=examples, data_collator=padded)  # type: ignore[arg-type]
    trainer.noted = []
    trainer.train()
    assert len(ours) == len(trainer.noted) > 4 and ours[-1] < ours[0]
    assert ours == pytest.approx(trainer.noted, abs=1e-5)


# Scores


@pytest.mark.parametrize("kind", ["fisher", "loss"])
def test_scores_per_token_are_divided_by_learned_tokens(file: Path, kind: str) -> None:
    found = []
    for per_token in (False, True):
        config = settings(file, method="fibecfed", curriculum={"score": kind, "per_token": per_token})
        experiment = assemble(config)
        indices = experiment.data.devices.indices(0)
        job = ScoreJob(0, dict(experiment.start.tensors), kind, indices, np.random.default_rng(0), None, None)
        found.append(experiment.site.executor.result(job).scores.difficulty)
    train = experiment.data.train
    learned = [(train.by_token[train.offsets[i] : train.offsets[i + 1]] >= 0).sum() for i in indices]
    assert len(set(learned)) > 1
    assert found[1].tolist() == pytest.approx((found[0] / np.array(learned)).tolist())


@pytest.mark.parametrize("per_token", [False, True])
def test_scores_that_follow_training_are_those_of_a_pass(file: Path, per_token: bool) -> None:
    """Where nothing moves; training takes the mean over tokens, in micro-batches, and a score is of one example."""
    config = settings(
        file, method="fibecfed", training={"micro_batch_size": 3}, curriculum={"refresh": True, "per_token": per_token}
    )
    experiment = assemble(config)
    names = [p.name for p in experiment.layout if p.layer is not None]
    generator = torch.Generator().manual_seed(0)
    tensors = {n: 0.1 * torch.randn(t.shape, generator=generator) for n, t in experiment.start.tensors.items()}
    indices = experiment.data.devices.indices(0)
    passed = experiment.site.executor.result(
        ScoreJob(0, tensors, "fisher", indices, np.random.default_rng(0), None, None)
    ).scores.difficulty
    batches = [indices[start : start + 4] for start in range(0, len(indices), 4)]
    job = TrainJob(
        device=0, round=1, tensors=tensors, trained=dict.fromkeys(names), batches=batches, learning_rate=1e-12, seed=0,
        difficulty=(indices, np.full(len(indices), np.nan)),
    )  # fmt: skip
    followed = experiment.site.executor.result(job).difficulty
    assert followed.tolist() == pytest.approx(passed.tolist(), rel=1e-4)


# Settings of the other task


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "fisher-model": ({"curriculum": {"score": "fisher-model"}}, "takes the mean over all labels"),
    "sites": ({"sharing": {"count": "sites"}}, "compares mixes of groups; set data.group"),
    "own head": ({"personal": {"head": "fitted"}}, "personal.head is about a trained head"),
    "local head": ({"sharing": {"head": "local"}}, "the head of a language model is frozen"),
    "pooling": ({"model": {"pooling": "mean"}}, "a language model has its own head"),
    "prior": ({"training": {"loss": "prior_corrected"}}, "prior_corrected needs labels"),
    "accuracy": ({"warm_up": {"accuracy": 0.7}}, "set warm_up.fall"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_settings_of_classifiers_are_refused(wrong: str) -> None:
    others, said = REFUSED[wrong]
    with pytest.raises(InputError, match=said):
        fibecfed.load_config(data={"name": "gsm8k"}, **others)


@pytest.mark.parametrize(
    "others", [{"data": {"train_on": "all"}}, {"curriculum": {"per_token": True}}, {"warm_up": {"fall": 0.2}}]
)
def test_settings_of_language_models_are_refused_for_classifiers(others: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"is for task.kind=causal-lm"):
        fibecfed.load_config(**others)


# Answers


@pytest.mark.parametrize("finished", ["fedavg-lora"], indirect=True)
def test_answers_are_repeatable(finished: RunResult) -> None:
    assert finished.directory is not None
    model = fibecfed.load_language_model(finished.directory)
    pieces: list[str] = []
    whole = model.answer("thank you", max_new_tokens=8, say=pieces.append)
    assert whole == "".join(pieces) == model.answer("thank you", max_new_tokens=8)
    drawn = [model.answer("thank you", max_new_tokens=8, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(InputError, match="empty"):
        model.answer(" ")
    with pytest.raises(InputError, match="places, which leaves no room for 60 new ones"):
        model.answer("thank you", max_new_tokens=60)
    with pytest.raises(InputError, match=r"use fibecfed.load_language_model"):
        fibecfed.load(finished.directory)


@pytest.mark.parametrize("finished", ["fedavg-lora"], indirect=True)
def test_the_command_answers(finished: RunResult, tmp_path: Path) -> None:
    few = ["--max-new-tokens", "5"]
    run = str(finished.directory)
    model = fibecfed.load_language_model(run)
    one = CliRunner().invoke(app, ["predict", run, "thank you", *few])
    assert one.exit_code == 0 and one.stdout == model.answer("thank you", max_new_tokens=5) + "\n"
    asked = write(tmp_path / "asked.jsonl", [{"prompt": "thank you"}, {"prompt": "lid"}])
    several = CliRunner().invoke(app, ["predict", run, "--file", str(asked), *few])
    assert several.exit_code == 0, several.output
    assert json.loads(several.stdout.splitlines()[0]) == {"prompt": "thank you", "response": one.stdout[:-1]}
    typed = CliRunner().invoke(app, ["predict", run, *few], input="thank you\nlid\n")
    assert typed.stdout == several.stdout
    out = tmp_path / "answers.jsonl"
    assert CliRunner().invoke(app, ["predict", run, "thank you", *few, "--out", str(out)]).exit_code == 0
    assert json.loads(out.read_text())["response"] == one.stdout[:-1]


@pytest.mark.parametrize("finished", ["fedavg-lora"], indirect=True)
def test_the_card_runs_without_fibecfed(finished: RunResult) -> None:
    """With transformers and peft alone: the logits of the run's own model, to 1e-5."""
    assert finished.directory is not None
    card = (finished.directory / "README.md").read_text().split("```python\n")[1].split("```")[0]
    barred = "import sys\nsys.modules['fibecfed'] = None\n"
    shown = "\nprint('LOGITS', json.dumps([batch['input_ids'].tolist(), logits[0, -1].tolist()]))\n"
    done = forking.run(["-c", barred + card + shown], cwd=finished.directory)
    assert done.returncode == 0, done.stderr
    ids, logits = json.loads(done.stdout.split("LOGITS ")[1])
    model = fibecfed.load_language_model(finished.directory)
    assert model.prompt_ids([Turn("user", "a prompt")]).tolist() == ids
    with torch.no_grad():
        own = model.model.backbone(input_ids=torch.tensor(ids)).logits[0, -1]
    assert logits == pytest.approx(own.tolist(), abs=1e-5)
    assert (finished.directory / "adapter" / "chat_template.jinja").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    "others",
    [
        *({"sharing": {"layers": layers}} for layers in ("gain", "consensus", "reset_loss", "random")),
        *({"sharing": {"count": count}} for count in ("functional", "lossless", "plateau")),
        *({"curriculum": {"score": score}} for score in ("loss", "length", "rarity")),
        {"sharing": {"noise": "gaussian"}},
        {"sharing": {"anchored": True}},
        {"curriculum": {"importance": True}},
        {"curriculum": {"per_token": True}},
        *(
            {"curriculum": {"initialization": "training", "score": score}, "sharing": {"layers": "consensus"}}
            for score in ("fisher", "loss")
        ),
        {"curriculum": {"refresh": True, "per_token": True}},
        {"sharing": {"count": "sites"}, "data": {"group": "topic"}},
    ],
    ids=str,
)
def test_parts_of_the_method_run(others: dict[str, Any], file: Path) -> None:
    result = fibecfed.run(settings(file, method="fibecfed", **others))
    assert np.isfinite(result.metrics[-1]["loss_global"])
