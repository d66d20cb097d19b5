"""Named random streams: every random choice says what it is for, so adding one never moves another."""

import zlib

import numpy as np


def stream(seed: int, purpose: str, *keys: int) -> np.random.Generator:
    """A generator that depends only on the seed, the purpose and the keys (round, device, epoch).

    The purpose is hashed with CRC-32, so streams of different purposes are independent and
    the order in which they are made does not matter. Source: project decision (docs/method.md section 1).
    """
    entropy = [seed, zlib.crc32(purpose.encode()), *keys]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def torch_seed(seed: int, purpose: str, *keys: int) -> int:
    """A 63-bit seed for ``torch.manual_seed``, drawn from the same named streams."""
    return int(stream(seed, purpose, *keys).integers(2**63 - 1))
