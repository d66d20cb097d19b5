"""How much sites differ, and how many layers are shared for it."""

from typing import Any

import numpy as np
import pytest

from baselines import changed, watched
from fibecfed import Config, InputError
from fibecfed.runtime import assemble
from fibecfed.sharing import divergence, site_count


def test_divergence_by_hand() -> None:
    one_each = {0: np.array([6, 0]), 1: np.array([0, 6])}
    assert divergence(one_each) == pytest.approx(1.0)
    # TV 1/4 each, M = 1/2; E|X - 2| of Binomial(4, 1/2) = (2 * 2 + 8 * 1) / 16 = 3/4, so E_k = 3/16
    mild = {0: np.array([3, 1]), 1: np.array([1, 3])}
    assert divergence(mild) == pytest.approx((1 / 4 - 3 / 16) / (1 / 2 - 3 / 16))
    assert divergence({0: np.array([2, 2]), 1: np.array([2, 2])}) == 0.0
    assert divergence({0: np.array([4, 0])}) == 0.0


def test_what_small_sites_differ_by_chance_does_not_count() -> None:
    rng = np.random.default_rng(0)
    alike = {k: rng.multinomial(10, [0.5, 0.3, 0.2]) for k in range(2000)}
    plain = np.mean([np.abs(c / 10 - np.array([0.5, 0.3, 0.2])).sum() / 2 for c in alike.values()])
    assert plain > 0.15
    assert divergence(alike) < 0.02


def test_the_count_goes_from_all_layers_to_the_least() -> None:
    assert [site_count(d, 6, 3) for d in (0.0, 0.1, 0.5, 1.0)] == [6, 6, 5, 3]


def test_a_run_shares_by_what_its_sites_hold(small: Config) -> None:
    def run(partition: dict[str, Any]) -> Any:
        settings = {"sharing": {"count": "sites"}, "warm_up": {"rounds": 1}, "data": {"partition": partition}}
        return watched(changed(small, settings, method="fibecfed"))

    alike, apart = run({"kind": "iid"}), run({"kind": "shards", "shards_per_device": 1})
    assert alike.state.info["layers"] == [0, 1]
    assert len(apart.state.info["layers"]) == 1
    assert "differ by" in apart.state.info["count_reason"]
    asked = apart.of("count layers")
    assert len(asked) == small.federation.devices
    assert all(not request.tensors for request, _ in asked)
    for request, reply in asked:
        mine = apart.experiment.data.group_counts()[request.address.device]
        assert reply.tensors["group_counts"].tolist() == mine.tolist()


def test_the_least_belongs_to_sites(small: Config) -> None:
    with pytest.raises(InputError, match=r"sharing\.least only applies"):
        assemble(changed(small, method="fibecfed", sharing={"least": 0.25}))
