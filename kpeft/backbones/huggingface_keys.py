"""The keys of Hugging Face's config.json beside our names for them, family by family, as data."""

from __future__ import annotations

from typing import Any

MODEL_TYPES: dict[str, str] = {
    "bert": "bert",
    "roberta": "roberta",
    "distilbert": "distilbert",
    "electra": "electra",
    "albert": "albert",
    "deberta-v2": "deberta_v3",
    "xlm-roberta": "xlm_roberta",
}
"""Family name of each supported `model_type`."""

ACTIVATIONS: dict[str, str] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_approximate",
    "gelu_fast": "gelu_approximate",
    "gelu_pytorch_tanh": "gelu_approximate",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Ours for each supported activation: `gelu` is exact, x·Φ(x); `gelu_approximate` is the tanh formula."""

# Family -> our name -> its key, where the family does not call it what BERT does; None where it has no such key.
BERT_KEYS: dict[str, str | None] = {
    "vocabulary_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "positions": "max_position_embeddings",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "head_dropout": "classifier_dropout",
    "epsilon": "layer_norm_eps",
    "initializer_range": "initializer_range",
    "num_segments": "type_vocab_size",
}
KEYS: dict[str, dict[str, str | None]] = {
    "distilbert": {
        "num_layers": "n_layers",
        "num_heads": "n_heads",
        "hidden_dim": "dim",
        "intermediate_dim": "hidden_dim",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "head_dropout": "seq_classif_dropout",
        "epsilon": None,
        "num_segments": None,
    },
    "electra": {"embedding_dim": "embedding_size"},
    "albert": {
        "head_dropout": "classifier_dropout_prob",
        "embedding_dim": "embedding_size",
        "num_groups": "num_hidden_groups",
        "num_inner_repetitions": "inner_group_num",
    },
    "deberta_v3": {
        "head_dropout": "cls_dropout",
        "pooler_dropout": "pooler_dropout",
        "bucket_size": "position_buckets",
    },
}
# What Hugging Face assumes where the file is silent. A `head_dropout` of None is as `dropout`, a `pooler_dropout` of
# None as `head_dropout`.
DEFAULTS: dict[str, Any] = {
    "activation": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "head_dropout": None,
    "pooler_dropout": None,
    "epsilon": 1e-12,
    "initializer_range": 0.02,
    "embedding_dim": 128,
    "num_segments": 2,
    "num_groups": 1,
    "num_inner_repetitions": 1,
    "bucket_size": 256,
}
FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "distilbert": {"head_dropout": 0.2},
    "albert": {"activation": "gelu_new", "dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.1},
    "deberta_v3": {"epsilon": 1e-7, "pooler_dropout": 0.0},
}
# Other values of these change the forward pass in a way that KerasHub's backbones cannot follow.
FIXED: dict[str, dict[str, Any]] = {
    "deberta_v3": {
        "relative_attention": True,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "conv_kernel_size": 0,
        "type_vocab_size": 0,
        "pooler_hidden_act": "gelu",
    },
}
# What Hugging Face must be told beside `FIXED` to compute as those backbones do.
SAID: dict[str, dict[str, Any]] = {"deberta_v3": {"pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1}}
FIXED_EVERYWHERE: dict[str, Any] = {"position_embedding_type": "absolute", "is_decoder": False}
