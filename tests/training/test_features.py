"""Vectors of texts are computed once for all heads that read them."""

from typing import Any

import numpy as np
import pytest
import torch

from baselines import changed
from fibecfed import Config
from fibecfed.runtime import Experiment, assemble
from fibecfed.tasks import HEAD_WEIGHT


@pytest.fixture
def experiment(small: Config) -> Experiment:
    return assemble(changed(small, method="fedavg-plus", data={"partition": {"alpha": 0.5}}))


def passed(experiment: Experiment) -> list[int]:
    """Grows by the texts of each forward pass of the backbone; single texts are what operations are counted with."""
    found: list[int] = []

    def note(module: object, inputs: object, output: Any) -> None:
        texts = len(output.last_hidden_state)
        found.extend([texts] if texts > 1 else [])

    backbone: Any = experiment.model.backbone
    backbone.register_forward_hook(note)
    return found


def test_each_text_passes_once_for_all_heads(experiment: Experiment) -> None:
    state, found = experiment.method.midway(experiment.start), passed(experiment)
    experiment.evaluate(state)
    everything = len(experiment.data.train) + len(experiment.data.held_out)
    assert sum(found) == everything
    experiment.evaluate(state)
    experiment.method.own_strengths(experiment.site, state)
    assert sum(found) == everything
    experiment.evaluate(state.replace(tensors={name: t.clone() for name, t in state.tensors.items()}))
    assert sum(found) == 2 * everything


def test_a_body_that_was_written_is_another(experiment: Experiment) -> None:
    features, tensors = experiment.site.executor.features, dict(experiment.start.tensors)
    features.share(tensors)
    assert features.is_shared({**tensors, HEAD_WEIGHT: tensors[HEAD_WEIGHT] + 1})
    name = next(n for n in tensors if "lora" in n)
    assert not features.is_shared({**tensors, name: tensors[name].clone()})
    tensors[name].add_(1)
    assert not features.is_shared(tensors)


def test_counts_are_those_of_the_model_itself(experiment: Experiment) -> None:
    executor, data = experiment.site.executor, experiment.data.held_out
    model = {**experiment.start.tensors, HEAD_WEIGHT: 3 * experiment.start.tensors[HEAD_WEIGHT]}
    some = np.array([7, 2, 20, 11])
    alone = executor.counts(model, data, some)
    executor.features.share(experiment.start.tensors)
    executor.counts(experiment.start.tensors, data, np.arange(len(data)))
    together = executor.counts(model, data, some)
    assert np.array_equal(alone.values["confusion"], together.values["confusion"])
    np.testing.assert_allclose(alone.values["loss"], together.values["loss"], rtol=1e-5)
    one = executor.features.vectors(model, data, some)
    executor.features.share({name: t.clone() for name, t in model.items()})
    torch.testing.assert_close(executor.features.vectors(model, data, some), one)
