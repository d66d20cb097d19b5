"""Whether padding changes what a model makes of a text: one probe when the model is loaded."""

from typing import Any

import torch
from torch import Tensor

from fibecfed.errors import InputError
from fibecfed.models.pooled import model_inputs
from fibecfed.tasks import Batch

_TEXT = "One short text, alone."
_LONGEST = 128  # tokens that the probe is padded to, where the model has as many positions
# How far (relative, L2) rounding alone moves a result: in batches of another width, and of the same width.
# Project decision; measured 1e-7 to 1e-5 in fp32.
_ROUNDING = {torch.float32: (1e-3, 1e-5)}
_ROUNDING_OF_HALF = (0.1, 0.1)


def check_padding(name: str, backbone: Any, tokenizer: Any, native: bool) -> None:
    """Refuse a model that reads padding: its answers would depend on what a text is batched with.

    ``name`` is the model's for the message. Raises InputError; it names model.head=pooled if that does without.
    """
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            body, whole = _read(backbone.base_model, tokenizer), native and _read(backbone, tokenizer, head=True)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"Model '{name}' ({type(backbone).__name__}) cannot read a text of a few tokens: {first}"
        ) from None
    if body:
        raise InputError(
            f"Model '{name}' ({type(backbone).__name__}) reads padding: a text gets other vectors when it is padded "
            "beside a longer one, so that answers would depend on the batch. Use another model."
        )
    if whole:
        raise InputError(
            f"The own head of '{name}' ({type(backbone).__name__}) reads padding: a text gets another answer in a "
            "batch than alone. Set model.head=pooled, which reads the text only."
        )


def _read(backbone: Any, tokenizer: Any, head: bool = False) -> bool:
    """Whether a short text comes out otherwise if it is padded on the right, or padded with other tokens.

    The second shows small leaks, since nothing is rounded otherwise; a ``head`` may find the text's end by the pad
    token, so that only the first is asked of it.
    """
    longest = min(_LONGEST, tokenizer.model_max_length)
    text = torch.tensor([tokenizer(_TEXT)["input_ids"][: longest // 2]])
    if not text.numel():
        return False  # a tokenizer without letters; texts without a token are refused where they are read
    width = longest - text.shape[1]
    other = text[0, text.shape[1] // 2]
    padded = _made_of(backbone, text, torch.full((1, width), tokenizer.pad_token_id))
    alone = _made_of(backbone, text, torch.empty(1, 0, dtype=torch.long))
    of_padding, of_content = _ROUNDING.get(next(backbone.parameters()).dtype, _ROUNDING_OF_HALF)
    if _moved(padded, alone) > of_padding:
        return True
    return not head and _moved(padded, _made_of(backbone, text, other.expand(1, width))) > of_content


def _made_of(backbone: Any, text: Tensor, padding: Tensor) -> Tensor:
    """Logits, or the vectors of the text's own tokens."""
    length = text.shape[1]
    ids = torch.cat([text, padding], dim=1)
    mask = (torch.arange(ids.shape[1]) < length).long()[None]
    batch = Batch(ids, mask, torch.zeros(1, dtype=torch.long)).to(backbone.device)
    found = backbone(**model_inputs(batch, backbone.config))
    return (found.logits if "logits" in found else found.last_hidden_state[:, :length]).double()


def _moved(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm().clamp_min(torch.finfo(other.dtype).tiny))
