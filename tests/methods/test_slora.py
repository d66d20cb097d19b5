"""slora: the sparse stage by hand, the factored change, what travels, and the second stage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

import fibecfed
import tiny
from baselines import ONE_DEVICE, batches_of, changed, entries, same_run, watched
from fibecfed import Config, InputError
from fibecfed.config import load_config
from fibecfed.federation import StageDone
from fibecfed.models import load_pretrained
from fibecfed.runtime import Experiment, assemble
from fibecfed.tuning import SparseLoraTuning, put_tensors, taken_over

DENSE: dict[str, Any] = {"sparse": {"rounds": 1, "density": 0.1}, "method": "slora"}


def maps(experiment: Experiment) -> dict[str, torch.nn.Module]:
    """Every weight under LoRA by the name of its sparse values."""
    return {
        p.name: experiment.model.get_submodule(p.name.removesuffix(".parametrizations.weight.0.values"))
        for p in experiment.layout
        if p.role == "sparse"
    }


def test_no_sparse_round_is_fedavg(small: Config) -> None:
    rounds = {"federation": {"rounds": 3}}
    none = fibecfed.run(changed(small, rounds, method="slora", sparse={"rounds": 0}))
    same_run(fibecfed.run(changed(small, rounds)), none)


def test_the_sparse_stage_is_sgd_on_the_masked_weights_by_hand(small: Config) -> None:
    """Against a plain copy of the backbone whose weights are trained whole and masked after every step."""
    sgd = {"training": {"optimizer": "sgd", "learning_rate": 0.1}}
    config = changed(small, ONE_DEVICE, DENSE, sgd, federation={"rounds": 2})
    experiment = assemble(config)
    state = next(iter(experiment.server.run(experiment.start))).state.replace(round=0)
    run = watched(config)
    reply = run.of("train")[0][1].tensors

    plain: Any = assemble(changed(config, method="fedavg-lora", sparse={"rounds": None, "density": 0.01}))
    put_tensors(plain.model, {n: t for n, t in experiment.start.tensors.items() if ".base_layer." not in n})
    weights = [m.get_base_layer().weight for m in plain.model.modules() if hasattr(m, "get_base_layer")]
    head = list(plain.model.head.parameters())
    before = [w.detach().clone() for w in weights]
    masks = []
    for module in maps(experiment).values():
        mask = torch.zeros(module.weight.numel())
        mask[module.parametrizations.weight[0].positions] = 1
        masks.append(mask.view(module.weight.shape))
    for parameter in (*weights, *head):
        parameter.requires_grad_(True)
    for chosen in batches_of(experiment, 0, 1):
        batch = plain.data.train.batch(chosen)
        loss = torch.nn.functional.cross_entropy(plain.model(batch), batch.targets)
        gradients = torch.autograd.grad(loss, [*weights, *head])
        with torch.no_grad():
            for weight, mask, gradient in zip(weights, masks, gradients, strict=False):
                weight -= 0.1 * mask * gradient
            for parameter, gradient in zip(head, gradients[len(weights) :], strict=True):
                parameter -= 0.1 * gradient
    for (name, module), weight, start in zip(maps(experiment).items(), weights, before, strict=True):
        positions = module.parametrizations.weight[0].positions
        expected = (weight - start).detach().flatten()[positions]
        torch.testing.assert_close(reply[name], expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(module.parametrizations.weight.original, start)  # the backbone is not written
        assert expected.abs().max() > 0
    assert state.info["change_kept"] == run.state.info["change_kept"]


def test_lora_takes_over_the_change_at_alpha_over_r_and_the_backbone_is_itself_again(small: Config) -> None:
    """At full rank nothing is lost, whatever alpha is: the logits before and after are the same."""
    config = changed(small, DENSE, lora={"rank": 16, "alpha": 80}, federation={"rounds": 2})
    experiment = assemble(config)
    values = torch.Generator().manual_seed(1)
    tensors = {
        n: 0.3 * torch.randn(t.shape, generator=values) if n.endswith(".values") else t
        for n, t in experiment.start.tensors.items()
    }
    batch = experiment.data.train.batch(np.arange(8))

    def logits(model: dict[str, torch.Tensor]) -> torch.Tensor:
        put_tensors(experiment.model, model)
        with torch.no_grad():
            return experiment.model(batch)

    sparse, plain = logits(tensors), logits(dict(experiment.start.tensors))
    assert (sparse - plain).abs().max() > 0.1
    after, kept = taken_over(tensors, experiment.layout, config)
    torch.testing.assert_close(logits(after), sparse, rtol=1e-4, atol=1e-4)
    assert kept == pytest.approx(1)
    for name, module in maps(experiment).items():
        assert not after[name].any()
        assert torch.equal(module.weight, module.parametrizations.weight.original)
        a, b = (after[name.split(".base_layer")[0] + f".lora_{s}.default.weight"] for s in "AB")
        torch.testing.assert_close((a @ a.T).diagonal(), (b.T @ b).diagonal(), rtol=1e-3, atol=1e-6)
    truncated, kept = taken_over(tensors, experiment.layout, changed(config, lora={"rank": 16, "alpha": 16}))
    assert kept == pytest.approx(1)
    assert not torch.equal(truncated[next(n for n in truncated if ".lora_A." in n)], a)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_positions_are_those_of_a_weight_out_by_in(kind: str) -> None:
    """GPT-2 stores its weights transposed; what LoRA takes over must not be."""
    config = load_config(
        model={"name": str(tiny.folder(kind, 2))}, lora={"rank": 16, "targets": "all-linear"},
        sparse={"rounds": 1, "density": 0.3}, method="slora", federation={"rounds": 2},
    )  # fmt: skip
    model: Any = SparseLoraTuning().attach(load_pretrained(config.model, 3, "fp32", 0), 3, config, 0)
    layout = SparseLoraTuning().layout(model, model.backbone.config)
    tensors = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    for p in layout:
        if p.role == "sparse":
            tensors[p.name] = torch.randn(p.shape)
    put_tensors(model, tensors)
    dense = {m: m.get_base_layer().weight.detach().clone() for m in model.modules() if hasattr(m, "lora_A")}
    after, kept = taken_over(tensors, layout, config)
    assert kept == pytest.approx(1)
    put_tensors(model, after)
    for module, weight in dense.items():
        module.requires_grad_(False)
        found = module.get_base_layer().weight + module.get_delta_weight("default")
        torch.testing.assert_close(found, weight, rtol=1e-4, atol=1e-4)


def test_only_the_masked_values_and_the_head_travel_in_stage_one(small: Config) -> None:
    run = watched(changed(small, method="slora", federation={"rounds": 4}, sparse={"rounds": 2, "density": 0.05}))
    layout = run.experiment.layout
    head = sum(p.size for p in layout if p.role == "head")
    weights = [m.weight.numel() for m in maps(run.experiment).values()]
    sparse = sum(max(1, round(0.05 * n)) for n in weights)
    lora = sum(p.size for p in layout if p.role.startswith("lora"))
    for exchange in run.of("train"):
        for message in exchange:
            stage_one = message.address.round <= 2
            assert entries(message.tensors.values()) == head + (sparse if stage_one else lora)
            assert all(t.dtype == torch.float32 for t in message.tensors.values())
    assert all(not run.state.tensors[n].any() for n in maps(run.experiment))
    decided = run.experiment.method.decisions(run.experiment.site, run.state)
    assert 0 < decided["change_kept"] < 1


def test_how_many_rounds_are_sparse(small: Config) -> None:
    for rounds, expected in ((1, 0), (2, 1), (9, 1), (20, 4)):
        method = assemble(changed(small, method="slora", federation={"rounds": rounds})).method
        assert method.midway(assemble(small).start).round == expected
    with pytest.raises(InputError, match="leaves no round for LoRA"):
        assemble(changed(small, method="slora", sparse={"rounds": 2}))


def test_a_run_stopped_in_stage_one_saves_what_would_have_taken_over(small: Config, tmp_path: Path) -> None:
    class Stop(fibecfed.Callback):
        def stage_done(self, done: StageDone, record: object) -> bool:
            return done.state.round == 1

    config = changed(small, DENSE, lora={"rank": 16}, federation={"rounds": 3}, sparse={"rounds": 2})
    result = fibecfed.run(config, tmp_path / "run", callbacks=[Stop()])
    experiment = assemble(config)
    put_tensors(experiment.model, result.state.tensors)
    assert any(parametrize.is_parametrized(m) for m in experiment.model.modules())
    saved = fibecfed.load(tmp_path / "run")
    for number in range(3):
        text = ["where is my kettle", "thank you", "charged twice"][number]
        ids = torch.tensor([saved.tokenizer(text)["input_ids"]])
        batch = experiment.data.train.batch(np.array([0]))
        batch = type(batch)(ids, torch.ones_like(ids), torch.tensor([0]))
        with torch.no_grad():
            expected = experiment.model(batch).numpy()
        np.testing.assert_allclose(saved.logits([text]), expected, atol=1e-4)
