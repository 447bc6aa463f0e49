"""Encoders of any size with random weights: both sides build them from one Hugging Face config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.benchmarks.cost import Encoder
from kpeft.files import write_json

# What the sizes do not say, as bert-base-uncased and roberta-base have it.
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {
        "vocab_size": 30_522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    },
    "roberta": {
        "vocab_size": 50_265,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
    },
}


def write_config(folder: Path, encoder: Encoder, *, family: str, heads: int) -> Path:
    """Writes config.json of an encoder into a folder, and returns the folder.

    Args:
        folder: Where; a new one is made.
        encoder: Its sizes.
        family: `"bert"` or `"roberta"`.
        heads: Attention heads of a layer.
    """
    sizes = {
        "num_hidden_layers": encoder.layers,
        "hidden_size": encoder.width,
        "intermediate_size": encoder.inner,
        "num_attention_heads": heads,
    }
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    model = {"model_type": family, "hidden_act": "gelu", **FAMILIES[family], **sizes, **rates}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", model)
    return folder
