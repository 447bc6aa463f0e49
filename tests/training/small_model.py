"""A classifier that compiles in a moment, and rows for it."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np

from kpeft.config import TrainingConfig
from kpeft.glue.tokens import EncodedRows
from kpeft.sites import random_states, variable_paths
from kpeft.training import TrainingResult, predict_logits, train

VOCABULARY = 30


def make_rows(number: int, *, seed: int = 0, longest: int = 40, regression: bool = False) -> EncodedRows:
    """Rows whose label can be learnt: whether more tokens are above the middle of the vocabulary than below."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, number)
    tokens = rng.integers(1, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    high = np.array([(tokens[a:b] > VOCABULARY / 2).mean() for a, b in itertools.pairwise(offsets)])
    labels = high.astype(np.float32) if regression else (high > 0.5).astype(np.int32)
    return EncodedRows(tokens=tokens, segments=None, offsets=offsets, labels=labels, pad_id=0)


def make_model(*, num_classes: int = 2, dropout: float = 0.0, seed: int = 0) -> keras.Model:
    """Embeddings, their mean over real tokens, dropout, a LayerNorm and two dense layers."""
    tokens = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    x = keras.layers.Embedding(VOCABULARY, 8, name="embeddings")(tokens)
    x = keras.layers.Dropout(dropout, name="first_dropout")(x)
    weights = keras.ops.expand_dims(keras.ops.cast(mask, "float32"), -1)
    x = keras.ops.sum(x * weights, axis=1) / keras.ops.sum(weights, axis=1)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.Dense(8, activation="tanh", name="dense")(x)
    x = keras.layers.Dropout(dropout, name="second_dropout")(x)
    model = keras.Model({"token_ids": tokens, "padding_mask": mask}, keras.layers.Dense(num_classes, name="logits")(x))
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign((1.0 if weight.name == "gamma" else 0.0) + rng.normal(0, 0.3, weight.shape))
    return model


def accuracy(model: keras.Model, rows: EncodedRows) -> dict[str, float]:
    logits = predict_logits(model, rows, 16)
    return {"accuracy": float((logits.argmax(-1) == rows.labels).mean())}


def run(model: keras.Model, rows: EncodedRows, config: TrainingConfig, **changes: Any) -> TrainingResult:
    """Trains with what most tests have in common; the rows themselves are the validation split."""
    settings: dict[str, Any] = {
        "task_loss": "classification",
        "evaluate": lambda trained: accuracy(trained, rows),
        "score": lambda metrics: metrics["accuracy"],
        "progress": False,
        **changes,
    }
    return train(model, variable_paths(model), rows, random_states=random_states(model), config=config, **settings)


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {path: keras.ops.convert_to_numpy(variable) for path, variable in variable_paths(model).items()}
