"""How an answer is compared with the response that was wanted: one number of [0, 1] an example."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Any

from fibecfed.commands import extra_install
from fibecfed.errors import InputError

_NUMBER = re.compile(r"(?:(?<![\d.])-)?\d[\d,]*(?:\.\d+)?")
_MARK = "####"  # before the final number of gsm8k (Cobbe et al. 2021)
_WORD = re.compile(r"[^\W_]+")


def exact_match(answer: str, wanted: str) -> float:
    """1 if both have the same words and signs; white space does not count."""
    return float(answer.split() == wanted.split())


def final_number(answer: str, wanted: str) -> float:
    """1 if both end with the same number, which stands behind '####' or is the last one; 0 where one has none."""
    found, other = number_of(answer), number_of(wanted)
    return float(found is not None and found == other)


def number_of(text: str) -> Decimal | None:
    """The first number behind the last '####', else the last number of a text; None: there is none."""
    _, mark, behind = text.rpartition(_MARK)
    found = _NUMBER.findall(behind if mark else text)
    return Decimal(found[0 if mark else -1].replace(",", "")) if found else None


def rouge_l(answer: str, wanted: str) -> float:
    """ROUGE-L F1 (Lin 2004) over lower-case words of any script, without stemming, by the package rouge-score."""
    return float(_scorer().score(wanted, answer)["rougeL"].fmeasure)


class _Words:
    """As rouge-score's own tokenizer, which knows the letters of English only."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(text.lower())


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise InputError(f"evaluation.generate=[rouge_l] needs the extra `rouge`: {extra_install('rouge')}") from None
    return RougeScorer(["rougeL"], tokenizer=_Words())


SCORES: dict[str, Callable[[str, str], float]] = {
    "exact_match": exact_match,
    "final_number": final_number,
    "rouge_l": rouge_l,
}


def check_scores(names: Sequence[str]) -> None:
    """Raise InputError if the package of a score is missing."""
    if "rouge_l" in names:
        _scorer()
