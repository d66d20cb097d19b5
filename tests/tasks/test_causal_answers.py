"""Answers in evaluation: what they are judged by, by hand; which are drawn; the same as a finished run gives."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fibecfed
from fibecfed import InputError, load_config
from fibecfed.models import language_model_of
from fibecfed.runtime import assemble
from fibecfed.runtime.answers import drawn
from fibecfed.tasks import Counts
from fibecfed.tasks.causal_lm import SCORES, scoring
from fibecfed.tasks.causal_lm.answers import Answers
from tasks.instructions import build, records, settings, write

SAME = {"generate": ["exact_match", "final_number"], "generate_examples": 2, "generate_tokens": 1}


@pytest.mark.parametrize(
    ("answer", "wanted", "expected"),
    [
        ("She has 3 and 4.\n#### 1,042", "so 1042 in all\n#### 1042", 1),
        ("#### 42 and 7", "#### 42", 1),
        ("it is $42.00", "#### 42", 1),
        ("10-5", "5", 1),
        ("minus -5", "5", 0),
        ("#### none 3", "#### 4", 0),
        ("no number", "#### 4", 0),
        ("no number", "none", 0),
    ],
)
def test_final_numbers(answer: str, wanted: str, expected: float) -> None:
    assert SCORES["final_number"](answer, wanted) == expected
    assert scoring.number_of("1 then 2.50 #### 1,000.") == Decimal(1000)


def test_exact_match_leaves_white_space_out() -> None:
    assert SCORES["exact_match"](" great\nservice ", "great service") == 1
    assert SCORES["exact_match"]("Great service", "great service") == 0


def test_rouge_l_by_hand() -> None:
    pytest.importorskip("rouge_score")
    # the longest common subsequence is "the lid": 2 of 3 words and 2 of 4, so F1 = 2 * (2/3) * (2/4) / (2/3 + 2/4)
    assert SCORES["rouge_l"]("the blue lid", "The lid of steel") == pytest.approx(4 / 7)
    assert SCORES["rouge_l"]("чайник и крышка", "чайник") == pytest.approx(0.5)  # its own tokenizer knows no such word
    assert SCORES["rouge_l"]("", "no") == 0


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scoring._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    file = write(tmp_path / "asked.jsonl", records(16))
    with pytest.raises(InputError, match="needs the extra `rouge`"):
        assemble(settings(file, method="fedavg-lora", evaluation={"generate": ["rouge_l"]}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"evaluation": SAME}, "evaluation.generate is for task.kind=causal-lm"),
        ({"data": {"file": "a.jsonl", "prompt": "p", "train_on": "all"}, "evaluation": SAME}, "needs data.train_on"),
    ],
)
def test_settings_that_contradict_each_other(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config(**sections)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_answers_do_not_depend_on_what_shares_a_batch(kind: str) -> None:
    pairs = [("lid", "no"), ("the blue kettle", "great service"), ("thank " * (12 if kind == "gpt2" else 27), "no")]
    built = build(kind, pairs=pairs)
    config = settings(Path("none.jsonl"), kind, evaluation={**SAME, "generate_tokens": 12})
    answers = Answers(config, built.pretrained.tokenizer)
    prompts = [ids[: np.flatnonzero(learned >= 0)[0]] for ids, learned in built.data.learned(np.arange(3))]
    assert len(prompts[2]) + 12 > built.model.places > len(prompts[2])  # no room for all that is asked
    together = answers._answers(built.model, prompts)
    alone = [answers._answers(built.model, [prompt])[0] for prompt in prompts]
    assert all(np.array_equal(one, other) for one, other in zip(together, alone, strict=True))
    assert len(together[2]) <= built.model.places - len(prompts[2])
    language_model = language_model_of(built.model.backbone)
    logits = language_model(input_ids=built.batch(0).input_ids[:, : len(prompts[0])]).logits[0, -1]
    assert int(together[0][0]) == int(logits.argmax())  # greedy


def test_the_last_response_of_a_conversation_is_wanted() -> None:
    from fibecfed.tasks.causal_lm.answers import _last_response

    assert _last_response(np.array([-100, 5, 6, -100, -100, 7, 8])) == 5
    assert _last_response(np.array([-100, -100, 5, 6])) == 2


def test_each_device_draws_its_own() -> None:
    mine = np.arange(100, 120)
    first = drawn(0, 3, mine, 5)
    assert first.tolist() == drawn(0, 3, mine, 5).tolist() == sorted(set(first)) and len(first) == 5
    assert first.tolist() != drawn(1, 3, mine, 5).tolist() != drawn(0, 4, mine, 5).tolist()
    assert drawn(0, 3, mine[:2], 5).tolist() == [100, 101]


@pytest.mark.parametrize("method", ["local-only", "fibecfed"])
def test_they_are_those_of_the_finished_run(method: str, tmp_path: Path) -> None:
    """For each drawn prompt, what `load_language_model` answers; local models by their own adapters."""
    rows = [{**record, "response": "the"} for record in records(48)]
    file = write(tmp_path / "asked.jsonl", rows)
    common: dict[str, Any] = {"method": method, "federation": {"rounds": 2, "sampled": 4}}
    common["training"] = {"learning_rate": 0.03, "local_epochs": 3}
    plain = fibecfed.run(settings(file, **common), tmp_path / "plain")
    result = fibecfed.run(settings(file, **common, evaluation=SAME), tmp_path / "run")
    last = result.metrics[-1]
    assert last["loss_personalized"] == plain.metrics[-1]["loss_personalized"]  # nothing else moves
    assert "exact_match_global" not in plain.metrics[-1]
    assert result.summary["exact_match"] == {
        "global": last["exact_match_global"],
        "personalized": last["exact_match_personalized"],
    }
    experiment = assemble(settings(file, **common, evaluation=SAME))
    data, tokenizer = experiment.data, experiment.pretrained.tokenizer
    chosen = {k: drawn(0, k, data.held_out_owners.indices(k), 2) for k in range(4)}

    def right(device: int | None, of: int) -> float:
        model = fibecfed.load_language_model(tmp_path / "run", device)
        total = 0.0
        for ids, learned in data.held_out.learned(chosen[of]):
            begin = int(np.flatnonzero(learned >= 0)[0])
            found = model.model.generated([ids[:begin]], 1, tokenizer.pad_token_id, [tokenizer.eos_token_id])[0]
            texts = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (found, ids[begin:])]
            total += float(texts[0].split() == texts[1].split())
        return total

    number = sum(len(one) for one in chosen.values())
    devices = range(4)
    own = [right(k, k) for k in devices]
    assert last["exact_match_personalized"] == sum(own) / number
    if method == "local-only":
        expected = np.mean([sum(right(k, of) for of in devices) / number for k in devices])
    else:
        expected = sum(right(None, k) for k in devices) / number
    assert last["exact_match_global"] == pytest.approx(expected)
    assert sum(own) > 0  # some are right
    assert "exact_match of answers" in (tmp_path / "run" / "README.md").read_text()
    assert fibecfed.evaluate_run(tmp_path / "run")["global"]["exact_match"] == pytest.approx(last["exact_match_global"])


def test_totals_that_cannot_be_are_found() -> None:
    built = build("llama")
    answers = Answers(settings(Path("none.jsonl"), evaluation=SAME), built.pretrained.tokenizer)
    found = answers.counts(built.model, built.data.learned(np.arange(4)))
    import torch

    totals = {name: torch.from_numpy(value) for name, value in found.values.items()}
    assert {n: (tuple(t.shape), t.dtype) for n, t in totals.items()} == dict(answers.totals_form())
    assert answers.totals_problem(totals, 4) is None
    assert answers.totals_problem(totals, 3) is not None
    assert answers.totals_problem({**totals, "exact_match": torch.tensor([5.0])}, 4) is not None
    assert answers.totals_problem({**totals, "exact_match": torch.tensor([float("nan")])}, 4) is not None
    assert answers.metrics(Counts({})) == {}
