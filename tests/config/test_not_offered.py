"""What the tool does not do is said where a user asks for it."""

import pytest

from fibecfed.config import build_config, keys, load_config, not_offered
from fibecfed.errors import InputError
from fibecfed.methods import METHODS, method_class

PRIVACY, SECURE, GENERATION = (
    "adds no differential privacy",
    "has no secure aggregation",
    "tunes causal language models",
)
ASKED = {
    "privacy.epsilon=3": PRIVACY,
    "epsilon=3": PRIVACY,
    "training.dp=true": PRIVACY,
    "training.noise_multiplier=1.1": PRIVACY,
    "differential_privacy.delta=1e-5": PRIVACY,
    "secure_aggregation=true": SECURE,
    "federation.secure_aggregation=true": SECURE,
    "federation.secagg.threshold=3": SECURE,
    "encryption=homomorphic": SECURE,
    "task=generation": GENERATION,
    "model.task=causal-lm": GENERATION,
    "max_new_tokens=64": GENERATION,
    "model.head=causal-lm": GENERATION,
    "model.head=lm": GENERATION,
    "federation.asynchronous=true": "trains in rounds",
    "model.load_in_4bit=true": "quantizes none but",
    "model.load_in_8bit=true": "quantizes none but",
}


@pytest.mark.parametrize("setting", ASKED)
def test_a_setting_of_something_else_is_answered(setting: str) -> None:
    with pytest.raises(InputError) as raised:
        load_config(None, [setting])
    assert ASKED[setting] in str(raised.value)
    assert "Did you mean" not in str(raised.value)


@pytest.mark.parametrize("method", ["dp-fedavg", "secagg", "fedavg-lora-dp", "sft", "qlora"])
def test_so_is_a_method(method: str) -> None:
    with pytest.raises(InputError, match=r"fibecfed (adds|has|classifies|trains)"):
        method_class(method)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("prompt.lenght", "prompt.length"), ("delta.ratios", "delta.ratio"), ("training.noise", "sharing.noise")],
)
def test_a_slip_in_a_key_that_exists_is_still_a_slip(name: str, meant: str) -> None:
    section, last = name.split(".")
    with pytest.raises(InputError, match=f"Did you mean '{meant}'"):
        build_config({section: {last: 1}})


def test_nothing_that_exists_is_called_missing() -> None:
    for word in (*METHODS, *(key.name.rsplit(".", 1)[-1] for key in keys())):
        assert not not_offered(word), word
