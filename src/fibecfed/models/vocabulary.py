"""Tokens that a tokenizer knows and the model has no embedding for."""

from typing import Any


def embedding_rows(backbone: Any) -> int | None:
    """How many token ids the model has a vector for; None where it makes them in another way."""
    try:
        return getattr(backbone.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # transformers' own answer for models without such a table
        return None


def words_without_embedding(tokenizer: Any, rows: int | None) -> list[str]:
    """The tokens beyond the table that ordinary text can turn into; special ones are only read where they are meant."""
    if rows is None or len(tokenizer) <= rows:
        return []
    special = set(tokenizer.all_special_tokens)
    special |= {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    return sorted(beyond.keys() - special, key=beyond.__getitem__)
