"""Contestant: KerasHub as it comes: its own LoRA, `fit`, every row padded to the same length."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import keras_hub
import numpy as np

from experiments.benchmarks.rows import read_rows
from experiments.benchmarks.turns import EVAL_BATCH, Turns
from kpeft.glue.tokens import EncodedRows

_ALL_LINEAR = [
    "query",
    "key",
    "value",
    "attention_output",
    "feedforward_intermediate_dense",
    "feedforward_output_dense",
]


def make_model(folder: str, method: str) -> keras.Model:
    """Returns a classifier with what `method` trains set to be trained."""
    backbone = keras_hub.models.BertBackbone.from_preset(folder)
    task = keras_hub.models.BertTextClassifier(backbone, num_classes=2)
    if method == "lora":
        backbone.enable_lora(8)
    elif method == "lora_all_linear":
        backbone.enable_lora(8, target_layer_names=_ALL_LINEAR)
    elif method == "head":
        backbone.trainable = False
    model = keras.Model(task.inputs, task.outputs)  # the task's own fit needs TensorFlow
    if method == "bitfit":
        for variable in model.trainable_variables:
            variable.trainable = variable.name == "bias" or variable.path.startswith("logits")
    return model


class Batches(keras.utils.PyDataset):
    """Batches of one length in random order, for ever."""

    def __init__(self, rows: EncodedRows, batch_size: int, length: int) -> None:
        super().__init__(workers=1)
        self.rows, self.batch_size, self.length = rows, batch_size, length
        self.order = np.random.default_rng(0).permutation(len(rows))

    def __len__(self) -> int:
        return 1_000_000

    def indices(self, index: int) -> np.ndarray:
        start = index * self.batch_size
        return np.take(self.order, range(start, start + self.batch_size), mode="wrap")

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        indices = self.indices(index)
        return self.rows.batch(indices, self.length), self.rows.labels[indices]


class TakeTurns(keras.callbacks.Callback):
    """Ends a turn after so many steps, and evaluates between turns."""

    def __init__(self, turns: Turns, batches: Batches, validation: EncodedRows | None) -> None:
        super().__init__()
        self._turns, self._batches, self._validation = turns, batches, validation

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._turns.wait = lambda: jax.block_until_ready(logs)
        self._turns.evaluate = self._evaluate
        tokens = int(self._batches.rows.lengths[self._batches.indices(batch)].sum())
        if not self._turns.after_step(self._batches.batch_size, tokens):
            self.model.stop_training = True

    def _evaluate(self) -> np.ndarray:
        assert self._validation is not None
        inputs = self._validation.batch(range(len(self._validation)), self._batches.length)
        logits: np.ndarray = self.model.predict(inputs, batch_size=EVAL_BATCH, verbose=0)
        return logits


def main() -> None:
    options = json.loads(sys.argv[1])
    rows = read_rows(options["rows"])
    validation = read_rows(options["validation"]) if "validation" in options else None
    model = make_model(options["preset"], options["method"])
    model.compile(
        keras.optimizers.AdamW(1e-3, clipnorm=1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    turns, batches = Turns(), Batches(rows, options["batch_size"], options["max_length"])
    turns.begin()
    model.fit(batches, shuffle=False, verbose=0, callbacks=[TakeTurns(turns, batches, validation)])


if __name__ == "__main__":
    main()
