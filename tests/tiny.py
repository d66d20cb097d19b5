"""Tiny random models with tokenizers trained on the spot, for tests that exercise code and not quality."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast

WORDS = [
    "the parcel never arrived and I want my money back",
    "how do I change the password of my account",
    "your invoice charges me twice for the same month",
    "does the blue kettle come with a lid",
    "great service, thank you so much!",
]


def tokenizer(decoder: bool) -> PreTrainedTokenizerFast:
    """A word-piece tokenizer of about 200 tokens."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core.train_from_iterator(WORDS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special))
    if not decoder:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        eos_token="[SEP]", model_max_length=64,
    )  # fmt: skip


def config(kind: str, vocabulary: int, layers: int = 2) -> PretrainedConfig:
    """The configuration of a tiny ``bert`` or ``llama``."""
    common = {
        "vocab_size": vocabulary, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "bert":
        return BertConfig(**common)
    return LlamaConfig(**common, num_key_value_heads=2, bos_token_id=2, eos_token_id=3)


def save(kind: str, folder: Path, layers: int = 2) -> Path:
    """Save a tiny random model and its tokenizer; returns the folder."""
    words = tokenizer(decoder=kind == "llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config(kind, len(words), layers))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
