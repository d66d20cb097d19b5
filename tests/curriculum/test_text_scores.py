"""Length and rarity, by hand."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fibecfed.curriculum import length, rarity
from fibecfed.data import TokenizedSet


def tokens(*texts: list[int]) -> TokenizedSet:
    flat = np.array([t for text in texts for t in text], dtype=np.int32)
    return TokenizedSet(flat, np.cumsum([0, *map(len, texts)]), *2 * [np.zeros(len(texts), np.int64)], 0)


def test_by_hand() -> None:
    data = tokens([7, 7, 9], [9, 9, 9, 9, 9, 9, 9], [7, 5], [7])
    chosen = np.array([2, 0, 3])
    assert length(data, chosen).tolist() == [2.0, 3.0, 1.0]
    # Of these examples' six tokens, 7 has four, 5 and 9 one each; the second text counts for nothing.
    wanted = [math.log(6 / 4) + math.log(6), 2 * math.log(6 / 4) + math.log(6), math.log(6 / 4)]
    np.testing.assert_allclose(rarity(data, chosen), wanted, rtol=1e-15)


@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=1, max_size=9), st.randoms())
def test_rarity_only_knows_the_named_examples(texts: list[list[int]], random: object) -> None:
    alone = rarity(tokens(*texts), np.arange(len(texts)))
    among = rarity(tokens([1, 2, 3], *texts, [4] * 20), np.arange(1, len(texts) + 1))
    np.testing.assert_array_equal(alone, among)
    reversed_order = rarity(tokens(*texts), np.arange(len(texts))[::-1])
    np.testing.assert_allclose(reversed_order, alone[::-1], rtol=1e-12)
    # Together they are the entropy of the tokens, times their number.
    counts = np.unique([t for text in texts for t in text], return_counts=True)[1]
    np.testing.assert_allclose(alone.sum(), -(counts * np.log(counts / counts.sum())).sum(), rtol=1e-9, atol=1e-9)


def test_nothing_named_gives_nothing() -> None:
    empty = np.empty(0, np.int64)
    assert len(rarity(tokens([1]), empty)) == len(length(tokens([1]), empty)) == 0
