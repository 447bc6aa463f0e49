"""A tiny BERT in a Hugging Face folder that knows the words of the sample rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from kpeft.glue.sample import SampleSource
from kpeft.glue.tasks import get_task

POSITIONS = 32
_HIDDEN, _INTERMEDIATE = 16, 32


def write_preset(folder: Path, *, masked_lm: bool = False) -> Path:
    """Writes config.json, vocab.txt and random weights, with a masked-LM head or not; returns the folder."""
    texts = [text.lower() for text in sample_texts()]
    words = sorted({word for text in texts for word in text.replace(".", " . ").replace(",", " , ").split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = {
        "model_type": "bert",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INTERMEDIATE,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "vocab_size": len(vocabulary),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    rng = np.random.default_rng(0)
    tensors = {
        name: (1.0 if name.endswith("LayerNorm.weight") else 0.0) + rng.normal(0, 0.1, shape)
        for name, shape in _shapes(len(vocabulary), masked_lm).items()
    }
    float32 = {name: value.astype(np.float32) for name, value in tensors.items()}
    safetensors.numpy.save_file(float32, folder / "model.safetensors")
    return folder


def sample_texts() -> list[str]:
    """Returns texts of the sample rows."""
    return [
        text
        for name in ("mrpc", "stsb", "mnli")
        for column in SampleSource().rows(get_task(name), get_task(name).splits[0]).texts
        for text in column
    ]


def _shapes(vocabulary_size: int, masked_lm: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (vocabulary_size, _HIDDEN),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, _HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (2, _HIDDEN),
    }
    dense = {"bert.pooler.dense": (_HIDDEN, _HIDDEN)}
    norms = ["bert.embeddings.LayerNorm"]
    if masked_lm:
        dense["cls.predictions.transform.dense"] = (_HIDDEN, _HIDDEN)
        norms.append("cls.predictions.transform.LayerNorm")
        shapes["cls.predictions.bias"] = (vocabulary_size,)
    for layer in ("bert.encoder.layer.0", "bert.encoder.layer.1"):
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            dense[f"{layer}.attention.{name}"] = (_HIDDEN, _HIDDEN)
        dense[f"{layer}.intermediate.dense"] = (_INTERMEDIATE, _HIDDEN)
        dense[f"{layer}.output.dense"] = (_HIDDEN, _INTERMEDIATE)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (_HIDDEN,), f"{name}.bias": (_HIDDEN,)}
    return shapes
