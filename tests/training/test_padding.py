"""What training drops does not depend on how far its batches are padded."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import kpeft
from kpeft.config import TrainingConfig
from kpeft.recast import recast
from kpeft.sites import walk
from tests.tiny import VOCABULARY, tiny_classifier
from tests.training.small_model import make_rows, run, weights_of


def test_with_dropout_another_width_gives_the_same_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout stands in the embeddings, attention, blocks, head and adapters."""
    rows = make_rows(16, longest=12)
    assert rows.tokens.max() < VOCABULARY
    config = TrainingConfig(epochs=2, batch_size=8, learning_rate=1e-2, warmup=0)
    losses, weights = [], []
    for width in (12, 24):
        model = tiny_classifier("roberta", dropout=0.2)
        recast(model)
        kpeft.adapt(model, kpeft.LoRA(rank=2, dropout=0.2, targets="all-linear"))
        classes = [type(layer) for _, layer in walk(model)]
        assert keras.layers.Dropout in classes
        monkeypatch.setattr("kpeft.training.batches.choose_widths", lambda lengths, width=width: (width,))
        run(model, rows, config, output_dir=tmp_path / str(width), evaluate=lambda model: {"accuracy": 0.5})
        assert [type(layer) for _, layer in walk(model)] == classes
        lines = (tmp_path / str(width) / "history.jsonl").read_text().splitlines()
        losses.append([json.loads(line).get("loss", 0.0) for line in lines])
        weights.append(weights_of(model))
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)
    for path, weight in weights[0].items():
        np.testing.assert_allclose(weight, weights[1][path], atol=2e-4, err_msg=path)
