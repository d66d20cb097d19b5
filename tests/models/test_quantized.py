"""A base in 4 bits: refused where it cannot be had, and what is asked of transformers where it can."""

import importlib.util
from typing import Any

import pytest
import torch

from fibecfed import InputError, load_config
from fibecfed.config import ModelConfig
from fibecfed.models import quantized

FOUR = ModelConfig(quantization="4bit")
DATA = {"name": "gsm8k"}


def test_none_asks_for_nothing() -> None:
    assert quantized.loading_settings(ModelConfig()) == {}


def test_without_cuda_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="needs CUDA, and torch finds none here"):
        quantized.loading_settings(FOUR)


def test_without_the_package_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the extra of that name"):
        quantized.loading_settings(FOUR)


def test_it_is_nf4_with_bf16_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(quantized, "BitsAndBytesConfig", lambda **settings: made.append(settings) or "settings")
    assert quantized.loading_settings(FOUR) == {"quantization_config": "settings", "device_map": {"": 0}}
    assert made[0]["bnb_4bit_quant_type"] == "nf4" and made[0]["bnb_4bit_compute_dtype"] is torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": DATA}, "needs a CUDA device; set runtime.device"),
        ({"runtime": {"device": "auto"}}, "model.quantization is for task.kind=causal-lm"),
    ],
)
def test_where_it_means_nothing_it_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_config(model={"quantization": "4bit"}, **settings)
