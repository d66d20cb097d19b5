"""What every kind of tuning has in common: its name, what of the model it takes, how it is described."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import peft
import torch
from torch import Tensor, nn

from fibecfed.config import Config
from fibecfed.errors import InputError
from fibecfed.models import PooledClassifier, Pretrained, blocks_path, layer_of
from fibecfed.tuning.layout import Layout, Parameter

_OWN = "own_tensors"  # the attribute in which a model keeps the names of what PEFT does not save


@dataclass(frozen=True)
class SavedForm:
    """What of a model is saved, and how."""

    tensors: Mapping[str, Tensor]  # by PEFT's names, or by the model's where PEFT has no such kind
    settings: Any  # a PeftConfig; None: PEFT has no such kind


def own_form(model: Any) -> SavedForm:
    """The adapter that PEFT put into the model, or the tensors that ``keep_own`` noted."""
    if isinstance(model.backbone, peft.PeftModel):
        tensors = peft.get_peft_model_state_dict(model.backbone, save_embedding_layers=False)
        return SavedForm(tensors, model.backbone.peft_config["default"])
    state = model.state_dict()
    return SavedForm({name: state[name] for name in getattr(model, _OWN)}, None)


class Tuning(ABC):
    """One kind of parameter-efficient tuning."""

    name: ClassVar[str]
    sections: ClassVar[tuple[str, ...]]  # of the configuration that it reads
    reloads: ClassVar[bool] = True  # whether a model attached again takes what was saved; else it is an ordinary LoRA

    @abstractmethod
    def attach(self, pretrained: Pretrained, outputs: int, config: Config, seed: int) -> nn.Module:
        """The model with trainable parameters in fp32, all others frozen; everything random comes from ``seed``.

        Raises InputError for a model or head that this kind cannot work with.
        """

    @abstractmethod
    def role(self, name: str, layer: int | None) -> str:
        """What the trainable parameter of that name is to this kind, or "head"; ``layer`` None: outside the stack."""

    def positions(self, config: Config) -> int:
        """How many of the model's positions are taken from the text."""
        return 0

    def saved_form(self, model: Any) -> SavedForm:
        """The model's present tuning as it is saved."""
        return own_form(model)

    def for_loading(self, config: Config) -> Config:
        """The configuration to attach with when saved tensors will replace what training began with."""
        return config

    def layout(self, model: nn.Module, config: Any) -> Layout:
        """Trainable parameters in the order of the model; ``config`` is the Hugging Face configuration."""
        path = blocks_path(model, config)
        parameters = tuple(
            Parameter(name, tuple(p.shape), layer_of(name, path), self.role(name, layer_of(name, path)))
            for name, p in model.named_parameters()
            if p.requires_grad
        )
        return Layout(parameters, config.num_hidden_layers)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch draws from ``seed`` inside, and goes on as before after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def with_peft(pretrained: Pretrained, settings: peft.PeftConfig) -> Any:
    """The backbone inside a PEFT model, whose adapter names its base as a user would.

    Raises InputError where PEFT refuses the model.
    """
    with warnings.catch_warnings():
        # PEFT asks transformers by an old name; the executor checkpoints by itself.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        # An adapter names its base by the name a user can load, not by the folder it was read from.
        warnings.filterwarnings("ignore", "The PEFT config's `base_model_name_or_path`", UserWarning)
        try:
            wrapped = peft.get_peft_model(pretrained.backbone, settings)  # type: ignore[arg-type]
        except ValueError as error:
            raise InputError(f"PEFT refuses '{pretrained.name}': {' '.join(str(error).split())}") from None
    wrapped.peft_config["default"].base_model_name_or_path = pretrained.name
    return wrapped


def task_type(pretrained: Pretrained) -> peft.TaskType:
    """What PEFT calls a model of this kind, without a head of its own or with that of a language model."""
    return peft.TaskType.CAUSAL_LM if pretrained.generates else peft.TaskType.FEATURE_EXTRACTION


def train_in_fp32(model: nn.Module) -> None:
    """Trained parameters are fp32, whatever precision the backbone has."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def in_fp32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook for modules that are trained in fp32 above a backbone of another precision."""
    return tuple(value.float() if isinstance(value, Tensor) else value for value in inputs)


def pooling_of(config: Config, decoder: bool) -> str:
    """The pooling that model.pooling=auto stands for. Raises InputError for cls on a decoder."""
    if config.model.pooling == "cls" and decoder:
        raise InputError(
            "model.pooling=cls reads the first token, which in a decoder sees no other token; use last or mean."
        )
    if config.model.pooling != "auto":
        return config.model.pooling
    return "last" if decoder else "mean"


def keep_own(model: nn.Module) -> nn.Module:
    """Note in the model which tensors belong to its tuning (trained, and frozen ones outside the backbone).

    For kinds that PEFT does not hold; a pooled head is saved by itself.
    """
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    names |= {name for name in model.state_dict() if not name.startswith("backbone.")}
    if isinstance(model, PooledClassifier):
        names = {name for name in names if not name.startswith("head.")}
    setattr(model, _OWN, tuple(sorted(names)))
    return model
