"""Contestant: kpeft's own training path, as `kpeft.run` uses it."""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from typing import Any
from unittest import mock

from kpeft import runtime

OPTIONS = json.loads(sys.argv[1])
if OPTIONS["own_malloc"]:
    mock.patch.object(runtime, "keep_memory").start()
runtime.prepare()

import jax  # noqa: E402
import numpy as np  # noqa: E402

import kpeft  # noqa: E402
from experiments.benchmarks.rows import read_rows  # noqa: E402
from experiments.benchmarks.turns import EVAL_BATCH, Turns  # noqa: E402
from kpeft.backbones import loading  # noqa: E402
from kpeft.config import TrainingConfig  # noqa: E402
from kpeft.experiment import POLICIES  # noqa: E402
from kpeft.methods.fields import method_from_json  # noqa: E402
from kpeft.sites import random_states, variable_paths  # noqa: E402
from kpeft.training import FitState, StepCallback, batches, loop, predict_logits, train, trained_part  # noqa: E402
from kpeft.training.batches import RowSource, TrainBatches  # noqa: E402
from kpeft.training.loop import make_plan  # noqa: E402
from kpeft.training.widths import choose_widths  # noqa: E402


def make_method(name: str | dict[str, Any], rank: int) -> kpeft.Method:
    if isinstance(name, dict):  # as in adapter_config.json
        return method_from_json(name)
    methods: dict[str, kpeft.Method] = {
        "lora": kpeft.LoRA(rank=rank, alpha=2 * rank, dropout=0.1),
        "lora_all_linear": kpeft.LoRA(rank=rank, alpha=2 * rank, dropout=0.1, targets="all-linear"),
        "bitfit": kpeft.BitFit(),
        "full": kpeft.Full(),
        "head": kpeft.HeadOnly(),
    }
    return methods[name]


def device_bytes() -> int:
    """Peak memory used on the device; 0 on a CPU, which keeps no count."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return int(statistics.get("peak_bytes_in_use", 0))


# Epochs over which the one pass of a frozen encoder over all rows is spread.
EPOCHS = 3


class TakeTurns(StepCallback):
    """Ends a turn after so many steps; after the first, steps that compile do not count.

    What frozen layers computed before the first step counts as a part of every step of three epochs.

    Args:
        turns: Says when.
        lengths: Tokens of each row.
        order: Row numbers of each batch.
        validation: What to evaluate between turns, if anything.
    """

    def __init__(self, turns: Turns, lengths: np.ndarray, order: Any, validation: RowSource | None) -> None:
        self._turns = turns
        self._lengths = lengths
        self._order = order
        self._validation = validation
        self._compiled = 0.0
        self._before = 0.0

    def on_step_end(self, state: FitState) -> None:
        self._turns.wait = lambda: jax.block_until_ready(state.losses)
        self._turns.evaluate = lambda: self._evaluate(state)
        indices = self._order(state.step - 1)
        rows, tokens = len(indices), int(self._lengths[indices].sum())
        timing = state.timer.read()
        if state.step == 1:
            self._before = timing.train_seconds / (EPOCHS * state.plan.steps_per_epoch)
        self._turns.exclude(-self._before, 0, 0)
        compiled = timing.compile_seconds
        if compiled > self._compiled and state.step > 1:
            self._turns.exclude(compiled - self._compiled, rows, tokens)
        self._compiled = compiled
        if not self._turns.after_step(rows, tokens):
            state.stop = True

    def _evaluate(self, state: FitState) -> np.ndarray:
        assert self._validation is not None
        state.sync()
        return predict_logits(state.model, self._validation, EVAL_BATCH)


def main() -> None:
    options: dict[str, Any] = OPTIONS
    rows = read_rows(options["rows"])
    validation = {"": read_rows(options["validation"])} if "validation" in options else {}
    if options["keras_layers"]:
        mock.patch.object(loading, "recast").start()
        mock.patch.object(loop, "fast_dropout", contextlib.nullcontext).start()
    if options["eights"]:
        mock.patch.object(batches, "choose_widths", partial(choose_widths, multiple=8)).start()
    model = kpeft.load_classifier(
        options["preset"],
        2,
        dtype=POLICIES[options["precision"]],
        load_weights=not options["random_weights"],
    )
    model = kpeft.adapt(model, make_method(options["method"], options["rank"])).model
    turns = Turns(device_bytes=device_bytes)
    turns.begin()
    config = TrainingConfig(epochs=1000, batch_size=options["batch_size"], eval_steps=10**9, save_steps=10**9)
    order = TrainBatches(rows, make_plan(config, len(rows)), seed=config.seed).indices
    trained, train_rows, kept = trained_part(model, rows, validation, config)
    train(
        trained,
        variable_paths(model),
        train_rows,
        random_states=random_states(model),
        config=config,
        task_loss="classification",
        evaluate=lambda model: {"accuracy": 0.0},
        score=lambda metrics: metrics["accuracy"],
        progress=False,
        callbacks=[TakeTurns(turns, rows.lengths, order, kept.get(""))],
    )


if __name__ == "__main__":
    main()
