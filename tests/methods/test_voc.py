"""voc: the competence curriculum draws what Platanios et al. say, as often as FibecFed trains."""

import math
from typing import Any

import numpy as np
import pytest

import fibecfed
from baselines import changed, same_run, watched
from fibecfed import Config, InputError
from fibecfed.config import CurriculumConfig
from fibecfed.curriculum import draw, rarity
from fibecfed.curriculum.selection import select
from fibecfed.federation import Device
from fibecfed.methods import resolve


def test_a_round_draws_from_the_competence_prefix_by_hand() -> None:
    settings = CurriculumConfig(pacing="competence", competence=0.1, stratified=False, start=0.6, full_at=0.8)
    difficulty = np.random.default_rng(1).permutation(40).astype(float)
    for step in range(10):
        found = select(
            settings, difficulty, np.zeros(40, int), step=step, steps=10, batch_size=4, seed=0, device=1
        ).positions
        competence = min(1.0, math.sqrt(step * (1 - 0.1**2) / 8 + 0.1**2))
        pool = math.ceil(round(competence * 40, 9))
        assert set(difficulty[found]) <= set(range(pool))
        linear = min(1.0, 0.6 + 0.4 * step / 8)
        assert len(found) == math.ceil(round(linear * 40, 9))
        times = np.bincount(found, minlength=40)[np.argsort(difficulty)[:pool]]
        assert times.max() - times.min() <= 1


def test_draws_are_uniform() -> None:
    rng = np.random.default_rng(0)
    times = np.zeros(10)
    for _ in range(2000):
        np.add.at(times, draw(np.arange(10), 4, rng).positions, 1)
    assert np.abs(times / 2000 - 0.4).max() < 5 * math.sqrt(0.24 / 2000)


def test_frequent_words_come_first(small: Config) -> None:
    config = changed(small, method="voc", warm_up={"rounds": 0}, federation={"rounds": 5, "sampled": 6})
    run = watched(config)
    means: dict[int, list[float]] = {1: [], 5: []}
    for request, _ in run.of("train"):
        if request.address.round in means:
            device = Device(run.experiment.site, request.address.device, 0)
            job: Any = run.job(device, request)
            values = rarity(run.experiment.data.train, device.indices)
            trained = values[np.searchsorted(device.indices, np.concatenate(job.batches))]
            means[request.address.round].append(float(trained.mean() / values.mean()))
    assert max(means[1]) < 0.9  # the easiest example only
    assert np.mean(means[5]) == pytest.approx(1, abs=0.05)


def test_as_many_steps_as_fibecfed(small: Config) -> None:
    values: dict[str, Any] = {"federation": {"rounds": 5}, "warm_up": {"rounds": 1}}
    trained = [
        fibecfed.run(changed(small, values, method=method)).summary["examples_trained"]
        for method in ("fibecfed", "voc")
    ]
    assert trained[0] == trained[1]


def test_full_competence_from_the_first_round_is_fedavg(small: Config) -> None:
    rounds = {"federation": {"rounds": 3}}
    full = {"curriculum": {"competence": 1.0, "start": 1.0}, "warm_up": {"rounds": 0}}
    voc = fibecfed.run(changed(small, rounds, full, method="voc"))
    same_run(
        fibecfed.run(changed(small, rounds)), voc, but=("bytes_down", "simulated_seconds")
    )  # says which step it is


def test_competence_means_nothing_to_other_pacings(small: Config) -> None:
    with pytest.raises(InputError, match=r"only applies to curriculum\.pacing=competence"):
        resolve(changed(small, method="fibecfed", curriculum={"competence": 0.5}))
    with pytest.raises(InputError, match="draws single examples by itself"):
        changed(small, curriculum={"pacing": "competence", "unit": "batch"})
