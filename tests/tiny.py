"""Tiny random classifiers, one for each family, whose every weight is non-trivial."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kpeft.backbones.classifier import BACKBONES, classifier_from_backbone, private_random

FAMILIES = tuple(BACKBONES)
VOCABULARY = 100
POSITIONS = 32


def tiny_backbone(family: str, *, seed: int = 0, dropout: float = 0.0, **overrides: Any) -> Any:
    """Returns a KerasHub backbone with 2 layers of width 16; `overrides` go to its constructor."""
    size = "vocab_size" if family == "electra" else "vocabulary_size"
    config: dict[str, Any] = {
        size: VOCABULARY,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "intermediate_dim": 32,
    }
    config.update(max_sequence_length=POSITIONS, dropout=dropout)
    if family in ("electra", "albert"):
        config["embedding_dim"] = 12
    if family == "deberta_v3":
        config["bucket_size"] = 8
    with private_random(seed):
        return BACKBONES[family](**{**config, **overrides})


def slow_but(*names: str) -> list[Any]:
    """Returns all families for `parametrize`; all but these are left to `-m slow`."""
    return [pytest.param(family, marks=() if family in names else pytest.mark.slow) for family in FAMILIES]


def tiny_classifier(
    family: str, *, num_classes: int = 2, seed: int = 0, dropout: float = 0.0, **overrides: Any
) -> keras.Model:
    """Returns a plain classifier of one family with random biases, LayerNorms and kernels, decided by `seed`."""
    backbone = tiny_backbone(family, seed=seed, dropout=dropout, **overrides)
    model = classifier_from_backbone(backbone, num_classes, seed=seed, dropout=dropout)
    randomize(model, seed)
    return model


def randomize(model: keras.Model, seed: int) -> None:
    """Draws every weight anew: LayerNorm scales around 1, all else around 0, wide enough that each one matters."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        values = rng.normal(0.0, 0.3, weight.shape)
        weight.assign((1.0 if weight.name == "gamma" else 0.0) + values)


def tiny_batch(model: keras.Model, *, rows: int = 4, length: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns inputs for a tiny classifier, with padding on all rows but the first and both segments in use."""
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(5, VOCABULARY, (rows, length)).astype("int32")
    lengths = np.concatenate([[length], rng.integers(3, length, rows - 1)])
    mask = (np.arange(length) < lengths[:, None]).astype("int32")
    segments = mask * (np.arange(length) >= lengths[:, None] // 2)
    batch = {"token_ids": token_ids * mask, "padding_mask": mask, "segment_ids": segments.astype("int32")}
    return {name: batch[name] for name in model.input}
