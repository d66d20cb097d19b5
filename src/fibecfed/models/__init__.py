"""Backbones, pooling and heads."""

from fibecfed.models.causal import PROBE, CausalModel, hidden_states, language_model_of, same_but_for_rounding
from fibecfed.models.entering import Entering, below, entering, starting_at
from fibecfed.models.loading import Pretrained, is_decoder, load_pretrained, resolve, weights_sha256
from fibecfed.models.pooled import NativeClassifier, PooledClassifier, model_inputs, pool
from fibecfed.models.structure import blocks, blocks_path, layer_of
from fibecfed.models.vocabulary import embedding_rows, words_without_embedding
from fibecfed.models.weightless import activation_bytes, is_weightless, lacks_weights, with_zeros

__all__ = [
    "PROBE",
    "CausalModel",
    "Entering",
    "NativeClassifier",
    "PooledClassifier",
    "Pretrained",
    "activation_bytes",
    "below",
    "blocks",
    "blocks_path",
    "embedding_rows",
    "entering",
    "hidden_states",
    "is_decoder",
    "is_weightless",
    "lacks_weights",
    "language_model_of",
    "layer_of",
    "load_pretrained",
    "model_inputs",
    "pool",
    "resolve",
    "same_but_for_rounding",
    "starting_at",
    "weights_sha256",
    "with_zeros",
    "words_without_embedding",
]
