"""Simulated time against numbers worked out by hand."""

import pytest

from fibecfed.config import CostConfig
from fibecfed.federation.exchange_time import device_seconds, device_speed


def test_seconds_are_compute_plus_transfer() -> None:
    config = CostConfig(device_gflops=10, network="wan")
    # 2e10 / 1e10 = 2 s; 8 * 6.25e6 / 50e6 = 1 s up; 8 * 2.5e6 / 100e6 = 0.2 s down; 2 * 0.05 s latency
    assert device_seconds(config, 0, 3, 2e10, 6_250_000, 2_500_000) == pytest.approx(2 + 1 + 0.2 + 0.1)
    mobile = CostConfig(device_gflops=10, network="mobile")
    assert device_seconds(mobile, 0, 3, 0, 625_000, 2_500_000) == pytest.approx(1 + 1 + 0.16)


def test_speeds_differ_only_when_asked_and_stay_the_same() -> None:
    assert device_speed(CostConfig(), 0, 4) == 1.0
    spread = CostConfig(speed_spread=0.5)
    speeds = [device_speed(spread, 0, device) for device in range(50)]
    assert speeds == [device_speed(spread, 0, device) for device in range(50)]
    assert len(set(speeds)) == 50
    assert device_seconds(spread, 0, 4, 50e9, 0, 0) == pytest.approx(1 / speeds[4] + 0.1)
