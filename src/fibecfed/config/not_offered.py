"""What this tool does not do, said where a user asks for it by a key or a value that does not exist."""

import re

_GENERATION = (
    "fibecfed classifies texts, and tunes causal language models on instructions (task.kind=causal-lm with data.prompt "
    "and data.response, or data.messages): no masked or sequence-to-sequence language modelling, no learning from "
    "preferences, no regression and no labels of single tokens."
)
_PRIVACY = (
    "fibecfed adds no differential privacy: there is no epsilon, no noise and no clipping of single examples, and no "
    "bound on what an adapter reveals; docs/threat-model.md says what a server can learn."
)
_SECURE = (
    "fibecfed has no secure aggregation and no encryption of adapters against the server: it sees every device's "
    "parameters (TLS protects them on the way); docs/threat-model.md says what it can learn."
)
_ASYNCHRONOUS = (
    "fibecfed trains in rounds: the server waits for the devices of a round, at most federation.deadline_seconds."
)
_FULL = (
    "fibecfed trains adapters on a frozen model (LoRA, prompts, bottlenecks; see fibecfed methods), not all of the "
    "weights, and quantizes none but a language model's (model.quantization=4bit, on CUDA). runtime.precision and "
    "training.gradient_checkpointing save memory."
)
# The whole of a key or value, or a part of it between hyphens, dots and the like; the first that fits is said.
_WHOLE = ((_PRIVACY, r"delta"),)
_PARTS = (
    (_SECURE, r"secure|secagg|secagg_?plus|encrypt(ed|ion)?|homomorphic|mpc|ckks|paillier"),
    (_PRIVACY, r"privacy|private|dp|ldp|cdp|epsilon|eps|dpsgd|noise_?multiplier|opacus|rdp|accountant|"
               r"differential(ly)?"),
    (_GENERATION, r"tasks?|task_?type|generati(on|ve)|causal|causal_?lm|clm|mlm|lm|seq2seq|seq_2_seq_lm|"
                  r"language_?model(l?ing)?|max_?new_?tokens|prompt_?template|instructions?|"
                  r"completions?|answers?|chat(_?template)?|sft|dpo|rlhf|ppo|summarization|translation|regression|ner|"
                  r"token_?classification|question_?answering"),
    (_ASYNCHRONOUS, r"async(hronous)?|staleness|buffer_?size|fedbuff|fedasync"),
    (_FULL, r"quantized?|qlora|load_in_(4|8)bit|bits|bnb|bitsandbytes|full_?fine_?tun(e|ing)"),
)  # fmt: skip
_PATTERNS = [
    *((sentence, re.compile(words, re.IGNORECASE), True) for sentence, words in _WHOLE),
    *((sentence, re.compile(rf"(^|[ ._-])({words})($|[ ._-])", re.IGNORECASE), False) for sentence, words in _PARTS),
]


def not_offered(word: str) -> str:
    """A sentence, with a space before it, if an unknown key or value asks for what is not done; else an empty text."""
    for sentence, pattern, whole in _PATTERNS:
        if pattern.fullmatch(word) if whole else pattern.search(word):
            return f" {sentence}"
    return ""
