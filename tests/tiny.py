"""Tiny random models with tokenizers trained on the spot, for tests that exercise code and not quality."""

import atexit
import functools
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    T5Config,
)
from transformers.utils import logging

from fibecfed import load_config
from fibecfed.config import Config
from fibecfed.data import Rows, TokenizedSet, tokenize
from fibecfed.models import Pretrained, load_pretrained
from fibecfed.tasks import Batch, Classification
from fibecfed.training import Resident
from fibecfed.tuning import TUNINGS, Layout

ENCODERS = ("bert", "roberta", "deberta", "modernbert", "distilbert")
DECODERS = ("gpt2", "llama", "qwen2", "qwen3", "mistral", "opt", "gpt_neox")
KINDS = ENCODERS + DECODERS
# Every architecture for parametrized tests, alone and with each kind of head; the less usual ones run as slow tests.
_MARKS = {kind: [pytest.mark.slow] for kind in ("distilbert", "mistral", "opt", "gpt_neox")}
EVERY_KIND = [pytest.param(kind, id=kind, marks=_MARKS.get(kind, ())) for kind in KINDS]
EVERY_MODEL = [
    pytest.param(kind, head, id=f"{kind}-{head}", marks=_MARKS.get(kind, ()))
    for kind in KINDS
    for head in ("pooled", "native")
]

WORDS = [
    "the parcel never arrived and I want my money back",
    "how do I change the password of my account",
    "your invoice charges me twice for the same month",
    "does the blue kettle come with a lid",
    "great service, thank you so much!",
]
LENGTH = 64  # positions of every model
WITH_TYPES = ["input_ids", "token_type_ids", "attention_mask"]


def tokenizer(decoder: bool) -> PreTrainedTokenizerFast:
    """A word-piece tokenizer of about 200 tokens, with a pad token."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    # The trainer numbers the pieces inside words in random order, unless it is given them.
    inner = sorted({f"##{letter}" for word in WORDS for letter in word.lower() if letter != " "})
    trained = _word_pieces({})
    trained.train_from_iterator(
        WORDS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special + inner, show_progress=False)
    )
    core = _word_pieces(trained.get_vocab())
    if not decoder:
        core.post_processor = _bert_template("[CLS]", "[SEP]", core)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="[SEP]", model_max_length=LENGTH, model_input_names=WITH_TYPES,
    )  # fmt: skip


def _word_pieces(vocabulary: dict[str, int]) -> Tokenizer:
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return core


def byte_level(decoder: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE: as RoBERTa has it, or as GPT-2 has it, which ends no text and has no pad token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>"] if decoder else ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    if decoder:
        end = "<|endoftext|>"
        return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end, model_max_length=LENGTH)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>", sep_token="</s>",
        unk_token="<unk>", model_max_length=LENGTH, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def unigram() -> PreTrainedTokenizerFast:
    """A SentencePiece-like unigram model of words and letters, scored by frequency, as DeBERTa-v3 has it."""
    words = Counter(f"▁{word}" for line in WORDS for word in line.split())
    letters = Counter("".join(words))
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    scores = {piece: math.log(count / words.total()) for piece, count in words.items()}
    scores |= {piece: math.log(count / letters.total()) - 10 for piece, count in letters.items()}
    pieces = [(token, 0.0) for token in special] + sorted(scores.items())
    core = Tokenizer(models.Unigram(pieces, unk_id=special.index("[UNK]")))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.post_processor = _bert_template("[CLS]", "[SEP]", core)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="[SEP]", mask_token="[MASK]", model_max_length=LENGTH, model_input_names=WITH_TYPES,
    )  # fmt: skip


def byte_fallback() -> PreTrainedTokenizerFast:
    """BPE with a begin token before every text, as Llama 2 and Mistral have it; no pad token."""
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    core.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False))
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=LENGTH
    )


def _bert_template(begin: str, end: str, core: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(token, core.token_to_id(token)) for token in (begin, end)],
    )


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """The kind of tokenizer that the architecture usually comes with."""
    if kind == "deberta":
        return unigram()
    if kind == "mistral":
        return byte_fallback()
    if kind in ("roberta", "modernbert"):
        return byte_level(decoder=False)
    if kind in ("gpt2", "qwen2", "qwen3", "opt", "gpt_neox"):
        return byte_level(decoder=True)
    return tokenizer(decoder=kind == "llama")


def config(kind: str, vocabulary: int, layers: int = 2) -> PretrainedConfig:
    """The configuration of a tiny model: 16 wide, 2 heads, 64 positions."""
    common: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": LENGTH, "pad_token_id": 0,
    }  # fmt: skip
    grouped = {**common, "num_key_value_heads": 1, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0}
    if kind == "bert":
        return BertConfig(**common)
    if kind == "roberta":  # its positions start after the pad token's id
        return RobertaConfig(
            **{**common, "pad_token_id": 1, "max_position_embeddings": LENGTH + 2, "type_vocab_size": 1}
        )
    if kind == "deberta":  # as DeBERTa-v3: relative positions in log buckets, shared with the content's maps
        return DebertaV2Config(
            **common, relative_attention=True, position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True,
            pos_att_type=["p2c", "c2p"], position_biased_input=False, type_vocab_size=0, pooler_hidden_size=16,
        )  # fmt: skip
    if kind == "modernbert":  # a window so narrow that padding lies outside of it
        return ModernBertConfig(
            **{**common, "pad_token_id": 1}, bos_token_id=0, eos_token_id=2, cls_token_id=0, sep_token_id=2,
            local_attention=4, global_attn_every_n_layers=2,
        )  # fmt: skip
    if kind == "distilbert":
        return DistilBertConfig(
            vocab_size=vocabulary, dim=16, n_layers=layers, n_heads=2, hidden_dim=32, max_position_embeddings=LENGTH
        )
    if kind == "gpt2":
        return GPT2Config(
            vocab_size=vocabulary, n_embd=16, n_layer=layers, n_head=2, n_inner=32, n_positions=LENGTH,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    if kind == "qwen2":
        return Qwen2Config(**grouped)
    if kind == "qwen3":
        return Qwen3Config(**grouped, head_dim=8)
    if kind == "mistral":
        return MistralConfig(**{**grouped, "bos_token_id": 1, "eos_token_id": 2}, sliding_window=4)
    if kind == "opt":  # dropout inside the block itself
        return OPTConfig(
            vocab_size=vocabulary, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, ffn_dim=32,
            max_position_embeddings=LENGTH, word_embed_proj_dim=16, dropout=0.5, pad_token_id=None,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
    if kind == "gpt_neox":
        return GPTNeoXConfig(**{**common, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0})
    if kind == "t5":
        return T5Config(vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=32, num_layers=layers, num_heads=2)
    if kind == "llama":
        return LlamaConfig(**common, num_key_value_heads=2, bos_token_id=2, eos_token_id=3)
    raise ValueError(kind)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save(kind: str, folder: Path, layers: int = 2, auto: Any = AutoModel) -> Path:
    """Save a tiny random model and its tokenizer; returns the folder.

    ``auto`` is the class whose weights the folder holds: a bare model, or one with a head.
    """
    words = tokenizer_of(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config(kind, len(words), layers))
    with _no_progress_bar():
        model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


_FOLDERS = Path(tempfile.mkdtemp(prefix="tiny-models-"))
atexit.register(shutil.rmtree, _FOLDERS, ignore_errors=True)


@functools.cache
def folder(kind: str, layers: int = 2, auto: Any = AutoModel) -> Path:
    """A folder of ``save`` that all tests of this process share; nobody writes into it."""
    return save(kind, _FOLDERS / f"{kind}-{layers}-{auto.__name__}", layers, auto)


TEXTS = (
    "thank you",
    "does the blue kettle come with a lid and where is my money",
    "great service",
    "how do I change the month of my invoice",
    "the same parcel never arrived",
)
PAIRS = ("the lid", "my account", "how do I change the password and where is the blue kettle", "service", "much")
LABELS = ("billing", "delivery", "praise")


@dataclass(frozen=True)
class Built:
    """A tiny model ready to train, and five tokenised examples of different lengths."""

    config: Config
    pretrained: Pretrained
    model: Any
    layout: Layout
    data: TokenizedSet

    @property
    def task(self) -> Classification:
        return Classification(LABELS)

    @property
    def resident(self) -> Resident:
        return Resident(self.model, self.layout, self.task, self.data, self.config)

    def batch(self, *positions: int) -> Batch:
        """The examples at these positions; all without any."""
        return self.data.batch(np.array(positions or range(len(self.data))))

    @torch.no_grad()
    def logits(self, *positions: int) -> torch.Tensor:
        return self.model(self.batch(*positions))

    @torch.no_grad()
    def randomize(self, roles: Collection[str] | None = None, std: float = 0.2) -> None:
        """Draw trained parameters (of some roles) so large that what goes wrong shows in the logits."""
        generator = torch.Generator().manual_seed(1)
        parameters = dict(self.model.named_parameters())
        for entry in self.layout:
            if roles is None or entry.role in roles:
                parameters[entry.name].copy_(std * torch.randn(entry.shape, generator=generator))


def build(
    kind: str,
    head: str = "pooled",
    layers: int = 2,
    *,
    pairs: bool = False,
    path: Path | None = None,
    seed: int = 0,
    tuning: str = "lora",
    **settings: Any,
) -> Built:
    """A tiny model with LoRA (or another ``tuning``) and a head for three labels; ``settings`` are sections of the
    configuration.

    ``seed`` draws what is trained.
    """
    settings["lora"] = {"rank": 2, "alpha": 4, "targets": "auto", **settings.get("lora", {})}
    model = {"name": str(path or folder(kind, layers)), "head": head, **settings.pop("model", {})}
    chosen = load_config(model=model, **settings)
    kind = TUNINGS[tuning]
    pretrained = load_pretrained(
        chosen.model, len(LABELS), chosen.runtime.precision, seed, reserved=kind.positions(chosen)
    )
    tuned = kind.attach(pretrained, len(LABELS), chosen, seed)
    labels = np.arange(len(TEXTS)) % len(LABELS)
    rows = Rows(TEXTS, PAIRS if pairs else None, labels, LABELS)
    data = tokenize(rows, pretrained.tokenizer, chosen.data.max_length)
    return Built(chosen, pretrained, tuned, kind.layout(tuned, pretrained.config), data)
