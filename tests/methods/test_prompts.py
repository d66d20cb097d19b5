"""The six prompt and prefix baselines as federated methods."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
import forking
from every_tuning import TEXTS as SHORT
from every_tuning import check_modes, check_run, plain_steps
from fibecfed import Config, InputError
from fibecfed.config import build_config, merge, to_dict
from fibecfed.runs.estimate import estimate
from fibecfed.runtime import assemble
from fibecfed.tuning.attentive_prompt import Mixture

P, W, D, C, L = 4, 5, 16, 3, 2
TEXTS = [*SHORT, "the parcel never arrived " * 60]  # the last is longer than the model has positions
SECTIONS: dict[str, dict[str, Any]] = {
    "prompt-tuning": {"prompt": {"length": P}},
    "fedprompt": {"prompt": {"length": P}},
    "p-tuning-v2": {"prefix": {"length": P}},
    "lpt": {"prompt": {"length": P}, "lpt": {"width": W}},
    "idpg": {"prompt": {"length": P}, "idpg": {"width": W}},
    "attempt": {"prompt": {"length": P}, "attempt": {"width": W}},
}
# Each on an encoder; those whose pass differs most on a decoder too.
ON_MODELS = [*((m, "bert") for m in SECTIONS), ("prompt-tuning", "llama"), ("p-tuning-v2", "llama"), ("lpt", "llama")]
PARAMETERS = {
    "prompt-tuning": P * D,
    "fedprompt": P * D,
    "p-tuning-v2": 2 * L * P * D,
    "lpt": W * (D + 1) + P * D * (W + 1),
    "idpg": W * (D + 1) + P * D * (W + 1),
    "attempt": P * D + 2 * D * W + 2 * D,
}
METHODS = tuple(SECTIONS)
IN_PEFT = ("prompt-tuning", "fedprompt", "p-tuning-v2")


def changed(config: Config, **values: Any) -> Config:
    return build_config(merge(to_dict(config), values))


def of(small: Config, method: str, **values: Any) -> Config:
    return changed(small, method=method, **merge(SECTIONS[method], {"federation": {"rounds": 3}, **values}))


@pytest.mark.parametrize("method", METHODS)
def test_parameters_and_bytes_by_formula(small: Config, method: str) -> None:
    config = of(small, method, federation={"rounds": 1})
    experiment = assemble(config)
    assert experiment.layout.size == PARAMETERS[method] + C * (D + 1)
    found = estimate(experiment)
    assert found.round.parameters_trained == found.round.parameters_sent == experiment.layout.size
    spent = fibecfed.run(config).summary["bytes"]
    for direction in ("up", "down"):
        assert 0 < spent[direction] - 3 * 4 * experiment.layout.size < 3 * 2000
    assert found.round.bytes_down * found.round.devices == pytest.approx(spent["down"], abs=100)


@pytest.mark.parametrize(("method", "kind"), ON_MODELS)
def test_run_evaluate_predict(
    small: Config, tmp_path: Path, request: pytest.FixtureRequest, method: str, kind: str
) -> None:
    check_run(of(small, method, model={"name": str(request.getfixturevalue(kind))}), tmp_path, cut=False)
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "lora" not in card.lower()
    assert ("PeftModel" in card) == (method in IN_PEFT)
    assert ("fibecfed.load" in card) == (method not in IN_PEFT)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("p-tuning-v2", "llama"),
        pytest.param("prompt-tuning", "bert", marks=pytest.mark.long),
        pytest.param("idpg", "bert", marks=pytest.mark.long),
    ],
)
def test_the_cards_lines_give_the_runs_logits(
    small: Config, tmp_path: Path, request: pytest.FixtureRequest, method: str, kind: str
) -> None:
    values: dict[str, Any] = {"model": {"name": str(request.getfixturevalue(kind))}, "federation": {"rounds": 1}}
    fibecfed.run(of(small, method, data={"max_length": 400}, **values), tmp_path / "run")
    expected = fibecfed.load(tmp_path / "run").logits(TEXTS)
    np.testing.assert_allclose(logits_by_card(tmp_path / "run", block=method in IN_PEFT), expected, atol=1e-5, rtol=0)


def logits_by_card(directory: Path, block: bool) -> np.ndarray:
    """Run the card's own code for these texts; ``block``: where fibecfed cannot be imported."""
    card = (directory / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace('["a text"]', repr(TEXTS))
    hide = "import sys\nsys.modules['fibecfed'] = None\n" if block else ""
    script = hide + code + "\nimport json as j\nprint('LOGITS', j.dumps(logits.tolist()))\n"
    done = forking.run(["-c", script], cwd=directory, timeout=250)
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.rsplit("LOGITS", 1)[1]), dtype=np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_a_round_by_a_plain_loop(small: Config, method: str) -> None:
    plain_steps(of(small, method, federation={"rounds": 1, "devices": 2, "sampled": 2}))


@pytest.mark.parametrize(("method", "kind"), ON_MODELS)
def test_micro_batches_recomputation_and_a_solved_head(
    small: Config, request: pytest.FixtureRequest, method: str, kind: str
) -> None:
    values: dict[str, Any] = {"model": {"name": str(request.getfixturevalue(kind))}, "federation": {"rounds": 1}}
    check_modes(of(small, method, **values, training={"optimizer": "sgd", "learning_rate": 0.1}))


def test_where_the_two_prompts_differ(small: Config) -> None:
    words, random = (assemble(of(small, m)).start.tensors for m in ("prompt-tuning", "fedprompt"))
    for name in words:
        assert torch.equal(words[name], random[name]) == name.startswith("head."), name
    other = of(small, "prompt-tuning", prompt={"length": P, "init": "random"})
    same = assemble(other).start.tensors
    assert all(torch.equal(same[name], random[name]) for name in random)


def test_a_second_forward_pass_is_counted(small: Config) -> None:
    counter = {m: assemble(of(small, m)).site.executor.operations for m in ("prompt-tuning", "idpg", "lpt")}
    lora = assemble(small).site.executor.operations
    sizes = [(4, 12)]
    prompt, idpg, lpt = (counter[m].prediction(sizes) for m in ("prompt-tuning", "idpg", "lpt"))
    plain = lora.prediction(sizes)
    network = 2 * 4 * (D * W + W * P * D)
    assert idpg - prompt == pytest.approx(frozen_forward(small, sizes) + network, rel=1e-6)
    assert prompt > frozen_forward(small, sizes)
    # One layer on the text alone, one on prompt and text, and no pass of its own.
    half = frozen_forward(small, sizes) / 2
    assert half < lpt - network < prompt
    assert plain > 0


def frozen_forward(small: Config, sizes: list[tuple[int, int]]) -> float:
    """Operations of the plain backbone, without LoRA and head: 2 x multiplications."""
    total = 0.0
    for b, t in sizes:
        maps = 4 * D * D + 2 * D * 32
        total += b * L * 2 * (t * maps + 2 * t * t * D) + b * 2 * D * D  # BERT's pooler reads one token
    return total


def test_sources_of_attempt(small: Config, tmp_path: Path, rows_file: Path) -> None:
    text = rows_file.read_text().splitlines()
    other, copy = tmp_path / "other.csv", tmp_path / "copy.csv"
    other.write_text("\n".join(text[:60]) + "\n")
    copy.write_bytes(rows_file.read_bytes())
    one = of(small, "prompt-tuning", data={"file": str(other)}, federation={"rounds": 1})
    fibecfed.run(one, tmp_path / "source")
    fibecfed.run(of(small, "fedprompt", data={"file": str(other)}, federation={"rounds": 1}), tmp_path / "source 2")
    sources = [str(tmp_path / "source"), str(tmp_path / "source 2")]
    config = of(small, "attempt", attempt={"width": W, "sources": sources})
    experiment = assemble(config)
    mixed = experiment.model.get_buffer("mixture.sources")
    source = fibecfed.load(sources[0]).model.get_parameter("backbone.prompt_encoder.default.embedding.weight")
    assert mixed.shape == (2, P, D) and torch.equal(mixed[0], source)
    check_run(config, tmp_path / "runs")
    before = fibecfed.load(tmp_path / "runs" / "whole").logits(TEXTS)
    for name in sources:
        Path(name).rename(name + " elsewhere")
    assert np.array_equal(fibecfed.load(tmp_path / "runs" / "whole").logits(TEXTS), before)
    with pytest.raises(InputError, match="not the directory of a finished run"):
        assemble(config)
    for name in sources:
        Path(name + " elsewhere").rename(name)

    def refused(said: str, **values: Any) -> None:
        with pytest.raises(InputError, match=said):
            assemble(changed(config, **values))

    refused("target's own data set", data={"file": str(other)})
    refused("same prompt.length", prompt={"length": 2})
    refused(r"attempt\.drawn counts only without", attempt={"drawn": 2})
    fibecfed.run(changed(one, data={"file": str(copy)}), tmp_path / "seen")
    refused("target's own data set", attempt={"sources": [str(tmp_path / "seen")]})
    fibecfed.run(changed(small, data={"file": str(other)}), tmp_path / "lora")
    refused("tuning=lora", attempt={"sources": [str(tmp_path / "lora")]})


def test_sources_of_another_model_are_refused(small: Config, tmp_path: Path, rows_file: Path, llama: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("\n".join(rows_file.read_text().splitlines()[:60]) + "\n")
    values: dict[str, Any] = {"data": {"file": str(other)}, "federation": {"rounds": 1}, "model": {"name": str(llama)}}
    fibecfed.run(of(small, "prompt-tuning", **values), tmp_path / "source")
    with pytest.raises(InputError, match="another model"):
        assemble(of(small, "attempt", attempt={"sources": [str(tmp_path / "source")]}))


@pytest.mark.parametrize("method", METHODS)
def test_settings_without_effect_are_refused(small: Config, method: str) -> None:
    with pytest.raises(InputError, match="'adapter' belong"):
        assemble(of(small, method, adapter={"width": 2}))
    with pytest.raises(InputError, match=r"curriculum\.score"):
        assemble(of(small, method, curriculum={"score": "fisher"}))
    with pytest.raises(InputError, match="cannot have tuning=lora"):
        assemble(of(small, method, tuning="lora"))


@pytest.mark.parametrize("scale", [0.02, 1.0, 20.0])
def test_attention_over_prompts_lives_whatever_the_scale_of_the_embeddings(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    table = scale * torch.randn(200, 32, generator=generator)
    sources = table[torch.randint(200, (6, 5), generator=generator)]
    torch.manual_seed(0)
    mixture = Mixture(sources, table[:5].clone(), 8)
    texts, mask = table[torch.randint(200, (4, 7), generator=generator)], torch.ones(4, 7)
    weights = mixture.weights(texts, mask)
    entropy = -(weights * weights.log()).sum(dim=1)
    assert (entropy > 0.3).all() and (entropy < 0.97 * math.log(7)).all()  # neither one prompt nor all alike
    assert (weights.amax(dim=0) - weights.amin(dim=0)).max() > 0.01  # it depends on the text
    weights[:, 0].sum().backward()
    gradient = mixture.up.weight.grad
    assert gradient is not None and mixture.norm.weight.grad is not None
    assert mixture.norm.weight.grad.norm() > 0.01 and gradient.norm() > 0
