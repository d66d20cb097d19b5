"""Which methods a language model can have, and that prompts and prefixes are read as PEFT itself reads them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fibecfed
from fibecfed import InputError
from fibecfed.config import ModelConfig, load_config
from fibecfed.methods import METHODS, resolve
from fibecfed.models import load_pretrained
from fibecfed.tasks import Batch
from fibecfed.tasks.causal_lm import with_template
from fibecfed.tuning import TUNINGS
from tasks.instructions import ARCHITECTURES, PAIRS, TASK, folder, records, settings, tokens, write

REFUSED = {
    "device-majority", "fedavg+prior", "ridge-head", "head-only", "fedavg+local-head", "fedavg-plus", "fedrod",
    "fibecfed-plus", "lpt", "idpg", "attempt",
}  # fmt: skip
PROMPTS = {"prompt": {"length": 3}, "prefix": {"length": 3}}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("methods") / "asked.jsonl", records(24))


@pytest.mark.parametrize("method", sorted(set(METHODS) - REFUSED))
def test_a_method_runs_and_is_loaded_again(method: str, file: Path, tmp_path: Path) -> None:
    own = {section: PROMPTS[section] for section in PROMPTS if METHODS[method].tuning == section}
    config = settings(
        file, method=method, training={"learning_rate": 0.003}, federation={"rounds": 2, "devices": 2}, **own
    )
    result = fibecfed.run(config, tmp_path / "run")
    assert np.isfinite(result.metrics[-1]["loss_personalized"])
    model = fibecfed.load_language_model(tmp_path / "run")
    assert isinstance(model.answer("thank you", max_new_tokens=2), str)


@pytest.mark.parametrize("method", sorted(REFUSED))
def test_a_method_without_meaning_is_refused_by_name(method: str, file: Path) -> None:
    with pytest.raises(InputError, match=rf"method={method.replace('+', '.')} .*for task.kind=causal-lm take another"):
        resolve(settings(file, method=method))


def built(kind: str, tuning: str) -> tuple[Any, Any]:
    config = load_config(model={"name": str(folder(kind))}, data={"file": "none", "prompt": "prompt"}, **PROMPTS)
    pretrained = load_pretrained(ModelConfig(name=str(folder(kind))), 0, generates=True)
    with_template(pretrained.tokenizer)
    model: Any = TUNINGS[tuning].attach(pretrained, 0, config, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.5)
    return model, tokens(pretrained.tokenizer, PAIRS)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("tuning", ["prompt", "prefix"])
@torch.no_grad()
def test_prompts_and_prefixes_are_read_as_peft_reads_them(kind: str, tuning: str) -> None:
    model, data = built(kind, tuning)
    together = TASK.losses(model, data.batch(np.arange(len(data))))
    for position in range(len(data)):
        batch = data.batch(np.array([position]))
        logits = model.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        logits = logits[0, -batch.input_ids.shape[1] :][:-1].float()
        plain = torch.nn.functional.cross_entropy(logits, batch.targets[0, 1:], ignore_index=-100, reduction="sum")
        assert float(together[position]) == pytest.approx(float(plain), rel=1e-4)


@pytest.mark.parametrize("tuning", ["prompt", "prefix"])
@torch.no_grad()
def test_an_answer_reads_the_prompt(tuning: str) -> None:
    """The first token of an answer is the most probable one under the trained prompt, not under the model alone."""
    model, data = built("llama", tuning)
    batch = data.batch(np.array([0]))
    own = model.backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[0, -1].argmax()
    made = model.generator.generate(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=1, do_sample=False
    )
    assert int(made[0, -1]) == int(own)


def test_short_texts_first_keep_what_is_learned() -> None:
    _, data = built("llama", "prompt")
    everything = np.arange(len(data))
    whole = data.batch(everything)
    for limit in range(data.shortest_cut, int(data.lengths.max()) + 1):
        cut: Batch = data.batch(everything, limit)
        assert int(cut.attention_mask.sum(dim=1).max()) <= limit
        for row in range(len(data)):
            before, after = (b.targets[row][b.targets[row] >= 0].tolist() for b in (whole, cut))
            assert after and after == before[: len(after)]
            assert len(after) == min(len(before), limit - 1)  # the prompt goes first, but for one token
            ids, targets = cut.input_ids[row], cut.targets[row]
            assert (ids[targets >= 0] == targets[targets >= 0]).all()
