"""The support messages that ship with the package: valid, varied, and each one of a kind."""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from fibecfed.data.named import SUPPORT, SUPPORT_DIR

COMPANIES = ("brightbasket", "harrow_pine", "lumo_mobile", "nordvale_energy", "pixelloom", "tidewater_ferries")
SAME_GRAMS = 0.5  # Jaccard overlap of word 3-grams from which two messages are near duplicates
SAME_LETTERS = 0.85  # 1 - edit distance / longer length, likewise
TYPOS = {
    "alot", "b4", "cant", "didnt", "doesnt", "dont", "hes", "im", "isnt", "ive", "lol", "n", "nite", "pls", "ppl", "ur",
    "whats", "wont", "youve",
}  # fmt: skip


@dataclass(frozen=True)
class Message:
    company: str
    text: str
    intent: str
    split: str


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    found = []
    for path in sorted(SUPPORT_DIR.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):
            record = json.loads(line)
            assert list(record) == ["text", "intent", "split"], line
            found.append(Message(path.stem, **record))
    return found


def edit_distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(diagonal + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def alike_in_grams(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Pairs whose word 3-grams overlap by SAME_GRAMS, found through the 3-grams they share."""
    grams = [set(zip(w, w[1:], w[2:], strict=False)) for w in map(words, texts)]
    having = defaultdict(list)
    for i, own in enumerate(grams):
        for gram in own:
            having[gram].append(i)
    shared = Counter(pair for places in having.values() for pair in itertools.combinations(places, 2))
    return {(a, b) for (a, b), n in shared.items() if n >= SAME_GRAMS * len(grams[a] | grams[b])}


def alike_in_letters(texts: Sequence[str]) -> set[tuple[int, int]]:
    """Pairs with an edit similarity of SAME_LETTERS.

    An edit changes at most two of the longer text's pairs of neighbouring letters, so most pairs of texts are ruled
    out by how many of those they share.
    """
    plain = [" ".join(words(text)) for text in texts]
    pairs = [Counter(itertools.pairwise(text)) for text in plain]
    places = {pair: i for i, pair in enumerate(sorted(set(itertools.chain(*pairs))))}
    bags = np.zeros((len(plain), len(places)), np.uint8)
    for i, own in enumerate(pairs):
        for pair, n in own.items():
            bags[i, places[pair]] = n
    lengths = np.array([len(text) for text in plain])
    found = set()
    for i in range(len(plain)):
        longest = np.maximum(lengths[i + 1 :], lengths[i])
        edits = np.floor((1 - SAME_LETTERS) * longest + 1e-9)
        near = np.flatnonzero(np.abs(lengths[i + 1 :] - lengths[i]) <= edits)
        shared = np.minimum(bags[i + 1 :][near], bags[i]).sum(axis=1, dtype=np.int64)
        for k in near[shared >= longest[near] - 1 - 2 * edits[near]]:
            if edit_distance(plain[i], plain[i + 1 + k]) <= edits[k]:
                found.add((i, int(i + 1 + k)))
    return found


def without_fillings(text: str) -> tuple[str, ...]:
    """The message with numbers and capitalised words as blanks; empty if nothing else is in it."""
    blanked = ["_" if re.search(r"\d", w) or w[0].isupper() else w for w in re.findall(r"\w+", text)]
    return tuple(blanked) if set(blanked) != {"_"} else ()


def repeated(keys: Iterable[Iterable[tuple[str, ...]]]) -> dict[tuple[str, ...], int]:
    """How many messages hold each key, where more than one does."""
    counts = Counter(key for own in keys for key in set(own) if key)
    return {key: n for key, n in counts.items() if n > 1}


def test_sizes_and_labels(messages: list[Message]) -> None:
    assert {m.company for m in messages} == set(COMPANIES)
    assert {m.intent for m in messages} == set(SUPPORT.labels) and len(SUPPORT.labels) == 8
    splits = Counter(m.split for m in messages)
    assert dict(splits) == dict(SUPPORT.sizes) and splits.total() >= 1000
    assert all(m.text == m.text.strip() and m.text for m in messages)


def test_every_company_has_every_intent_in_both_splits(messages: list[Message]) -> None:
    for split, fewest in (("train", 9), ("test", 2)):
        counts = Counter((m.company, m.intent) for m in messages if m.split == split)
        assert min(counts[c, i] for c in COMPANIES for i in SUPPORT.labels) >= fewest
        assert len({sum(counts[c, i] for i in SUPPORT.labels) for c in COMPANIES}) == 1  # equally many each


def test_every_two_companies_have_different_intents(messages: list[Message]) -> None:
    counts = Counter((m.company, m.intent) for m in messages)
    table = np.array([[counts[c, i] for i in SUPPORT.labels] for c in COMPANIES])
    assert chi2_contingency(table).pvalue < 1e-30
    for a, b in itertools.combinations(range(len(COMPANIES)), 2):
        assert chi2_contingency(table[[a, b]]).pvalue < 0.01, (COMPANIES[a], COMPANIES[b])


def test_the_splits_have_the_same_intents(messages: list[Message]) -> None:
    for company in COMPANIES:
        counts = Counter((m.split, m.intent) for m in messages if m.company == company)
        train, test = (np.array([counts[s, i] for i in SUPPORT.labels], float) for s in ("train", "test"))
        assert np.abs(test - train * test.sum() / train.sum()).max() < 2


def test_no_two_messages_are_nearly_the_same(messages: list[Message]) -> None:
    texts = [m.text for m in messages]
    assert len({tuple(words(text)) for text in texts}) == len(texts)
    for pairs in (alike_in_grams(texts), alike_in_letters(texts)):
        assert not [(texts[a], texts[b]) for a, b in pairs]


def test_near_duplicates_would_be_found() -> None:
    texts = [
        "where is my parcel, it was due on Tuesday",
        "Where is my parcel? It was due on Monday",
        "wheres my parcle it was due on tuesday",
        "please stop my subscription at the end of June",
        "my invoice is wrong, please stop my subscription at the end of June, thank you",
        "an unrelated question about the blue kettle",
    ]
    assert alike_in_grams(texts) == {(0, 1), (3, 4)}
    plain = [" ".join(words(text)) for text in texts]
    everything = {  # the definition, without the short cut
        (a, b)
        for a, b in itertools.combinations(range(len(texts)), 2)
        if 1 - edit_distance(plain[a], plain[b]) / max(len(plain[a]), len(plain[b])) >= SAME_LETTERS
    }
    assert alike_in_letters(texts) == everything >= {(0, 1), (0, 2)}
    assert edit_distance("kitten", "sitting") == 3


def test_no_message_is_a_filled_template(messages: list[Message]) -> None:
    assert not repeated([without_fillings(m.text)] for m in messages)
    assert repeated([without_fillings(t)] for t in ("Order 123 from Ada is late", "Order 77 from Bo is late"))


def test_no_long_sentence_is_shared(messages: list[Message]) -> None:
    sentences = ([tuple(words(part)) for part in re.split(r"[.!?;\n]+", m.text)] for m in messages)
    assert not repeated([s for s in own if len(s) >= 6] for own in sentences)
    runs = repeated(set(zip(*(w[k:] for k in range(6)), strict=False)) for w in (words(m.text) for m in messages))
    assert max(runs.values()) <= 2 and len(runs) < 20  # six words in a row, anywhere


def test_length_and_style_vary(messages: list[Message]) -> None:
    for company in COMPANIES:
        own = [m.text for m in messages if m.company == company]
        lengths = np.array([len(text.split()) for text in own])
        assert (lengths <= 6).sum() >= 5 and (lengths >= 40).sum() >= 15
        assert 0.1 < np.mean(["?" in text for text in own]) < 0.6
    for intent in SUPPORT.labels:  # no intent is given away by its length
        lengths = np.array([len(m.text.split()) for m in messages if m.intent == intent])
        assert (lengths <= 8).any() and (lengths >= 40).any()
    assert sum(bool(TYPOS & set(m.text.lower().split())) for m in messages) > 100
    assert sum(m.text[0].islower() for m in messages) > 200
    assert sum(not m.text.isascii() for m in messages) > 5


def test_no_single_word_labels_many_messages(messages: list[Message]) -> None:
    """No word stands in a quarter of an intent's messages and almost only there: labels must be understood."""
    of_word = defaultdict(Counter)
    for m in messages:
        for word in set(words(m.text)):
            of_word[word][m.intent] += 1
    intents = Counter(m.intent for m in messages)
    for word, counts in of_word.items():
        intent, most = counts.most_common(1)[0]
        assert most < 0.25 * intents[intent] or most < 0.8 * counts.total(), (word, intent)


def test_the_guidelines_state_the_sizes(messages: list[Message]) -> None:
    """The README's table of sizes is the one of the files."""
    lines = (SUPPORT_DIR / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    header = next(row for row in rows if row[0] == "company" and "refund" in row)
    table = {row[0].strip("`"): row[1:] for row in rows if len(row) == len(header)}
    counts = Counter((m.company, m.intent, m.split) for m in messages)
    for company in COMPANIES:
        for intent, cell in zip(header[1:], table[company], strict=True):
            splits = [sum(n for (c, i, s), n in counts.items() if (c, s) == (company, split) and intent in (i, "all"))
                      for split in ("train", "test")]  # fmt: skip
            assert cell == f"{splits[0]} + {splits[1]}", (company, intent)


def test_the_guidelines_ship_with_the_package() -> None:
    files = {path.name for path in SUPPORT_DIR.iterdir()}
    assert files == {f"{company}.jsonl" for company in COMPANIES} | {"README.md"}
