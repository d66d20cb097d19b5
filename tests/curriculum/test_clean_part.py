"""The part of a device's data that is mislabelled, told from its difficulties alone."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from fibecfed.config import CurriculumConfig
from fibecfed.curriculum.clean_part import clean_part, two_components
from fibecfed.curriculum.selection import select


def noisy(seed: int, examples: int = 100, share: float = 0.3, apart: float = 5.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wrong = np.arange(examples) < share * examples
    return np.exp(rng.normal(-3, 1, examples) + apart * wrong)


@pytest.mark.parametrize("seed", range(8))
def test_thirty_percent_noise_is_found(seed: int) -> None:
    assert 0.6 <= clean_part(noisy(seed)) <= 0.8


@pytest.mark.parametrize("seed", range(8))
def test_scores_of_one_kind_are_all_kept(seed: int) -> None:
    assert clean_part(noisy(seed, share=0)) == 1
    assert clean_part(noisy(seed, apart=1.0)) == 1  # not apart
    assert clean_part(noisy(seed, share=0.8)) == 1  # what most examples are is no noise


@pytest.mark.parametrize("values", [np.zeros(30), np.ones(30), np.array([1e-300, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])])
def test_scores_that_no_mixture_fits_are_all_kept(values: np.ndarray) -> None:
    assert 0.5 < clean_part(values) <= 1
    assert clean_part(values[:2]) == 1


def test_the_mixture_is_scikit_learns() -> None:
    logs = np.log(noisy(3))
    found = two_components(logs)
    known = GaussianMixture(2, n_init=5, random_state=0, tol=1e-9, max_iter=500, reg_covar=1e-12).fit(logs[:, None])
    order = np.argsort(known.means_[:, 0])
    assert found.shares == pytest.approx(known.weights_[order], abs=1e-3)
    assert found.means == pytest.approx(known.means_[order, 0], abs=1e-3)
    assert found.log_likelihood == pytest.approx(known.score(logs[:, None]) * 100, abs=1e-4)


def test_an_automatic_cap_drops_the_noisy_part_for_good() -> None:
    difficulty = noisy(0)
    settings = CurriculumConfig(cap="auto", start=1.0, stratified=False)
    found = select(
        settings, difficulty, np.zeros(100, int), step=9, steps=10, batch_size=4, seed=0, device=0
    ).positions  # fmt: skip
    assert set(found) < set(range(100)) and len(found) == int(clean_part(difficulty) * 100)
    assert np.mean(found < 30) < 0.05  # the first thirty are the mislabelled
