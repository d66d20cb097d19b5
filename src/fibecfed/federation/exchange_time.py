"""Simulated time of an exchange: counted operations and bytes over configured speeds (docs/method.md section 9)."""

import math
from dataclasses import dataclass

from fibecfed.config import CostConfig
from fibecfed.seeding import stream


@dataclass(frozen=True)
class Link:
    """A device's connection: bits per second each way, and one-way latency in seconds."""

    up: float
    down: float
    latency: float


LINKS = {
    "lan": Link(1e9, 1e9, 0.0),
    "wan": Link(50e6, 100e6, 0.05),
    "mobile": Link(5e6, 20e6, 0.08),
}


def device_speed(config: CostConfig, seed: int, device: int) -> float:
    """A device's speed factor, log-normal around 1."""
    if not config.speed_spread:
        return 1.0
    return math.exp(config.speed_spread * float(stream(seed, "device speed", device).standard_normal()))


def compute_seconds(config: CostConfig, seed: int, device: int, operations: float) -> float:
    """How long a device computes."""
    return operations / (config.device_gflops * 1e9 * device_speed(config, seed, device))


def device_seconds(config: CostConfig, seed: int, device: int, operations: float, up: int, down: int) -> float:
    """Compute plus transfer of one device in one exchange, in seconds."""
    link = LINKS[config.network]
    return (
        compute_seconds(config, seed, device, operations) + 8 * up / link.up + 8 * down / link.down + 2 * link.latency
    )
