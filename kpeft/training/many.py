"""Many trainings at once: one step for all runs on one frozen model, each with its own seed, rate and start."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, final

import jax
import keras
import numpy as np

from kpeft.glue.tokens import EncodedRows
from kpeft.methods import RankBudget, Rate
from kpeft.recast import fast_dropout
from kpeft.training.batches import RowSource, TrainBatches
from kpeft.training.callbacks import FitState, Interruption, Progress
from kpeft.training.callbacks.evaluation import Score
from kpeft.training.loop import TrainingResult, make_plan, make_recipe, make_schedule, rates_of, warn_of_never_trained
from kpeft.training.losses import TaskLoss, make_loss
from kpeft.training.mapped import Fixed, MappedModel, Moving
from kpeft.training.optimizer import is_decayed
from kpeft.training.rank_budget import allocation_of
from kpeft.training.record import RunRecord, Start
from kpeft.training.state import seed_random_states
from kpeft.training.timing import Timer

# A loss that is not ready after so many steps is waited for.
_MOST_PENDING = 32

MetricsOf = Callable[[Callable[[RowSource], np.ndarray]], Mapping[str, float]]
"""Computes metrics by name from a function that gives the logits (rows, C) of a split."""


def train_many(
    model: keras.Model,
    differing: Mapping[str, Any],
    train_rows: EncodedRows,
    starts: Sequence[Start],
    *,
    random_states: Mapping[str, Any],
    task_loss: TaskLoss,
    metrics_of: MetricsOf,
    score: Score,
    eval_batch: int,
    rates: Mapping[str, Rate] | None = None,
    budget: RankBudget | None = None,
) -> list[TrainingResult | Exception]:
    """Trains every run as `train` would, all at once; the model's weights stay as they are.

    In each step every run takes its own micro-batch, padded to the widest of them. A run that has ended, out of
    patience or by a loss that is not finite, is computed on and no longer recorded.

    Args:
        model: Takes token arrays and gives logits, shape (batch, C).
        differing: Those of its variables that differ between runs, by path: all that it trains in its own order, and
            frozen ones.
        train_rows: The training rows.
        starts: The runs; their configurations differ in seed and learning rate only.
        random_states: State variable of each of the model's seed generators by structural path.
        task_loss: `"classification"` or `"regression"`.
        metrics_of: Gives the metrics of one run.
        score: What of the metrics decides the best; higher is better.
        eval_batch: Rows of a batch in evaluations.
        rates: As in `train`.
        budget: As in `train`.

    Returns:
        How each run ended: its result, with `interrupted` set where a signal ended it, or the error that did. An error
        that ended the training, such as a lack of memory, is that of all runs that were still open. The seconds of its
        timing are those of all runs together, the rows its own.
    """
    config = starts[0].config
    plan = make_plan(config, len(train_rows))
    trained = {path: variable for path, variable in differing.items() if variable.trainable}
    frozen = {path: variable for path, variable in differing.items() if not variable.trainable}
    assert [id(v) for v in trained.values()] == [id(v) for v in model.trainable_variables]
    decayed = [is_decayed(variable) for variable in trained.values()]
    allocation = None if budget is None else allocation_of(trained, budget, plan.total_steps)

    own_rates = rates_of(trained, rates)
    warn_of_never_trained(own_rates, plan.total_steps)

    def transformation(rate: Any) -> Any:
        schedule = dataclasses.replace(make_schedule(config, plan), peak=rate)
        return make_recipe(config, plan, schedule, own_rates, allocation).transformation(decayed)

    mapped = MappedModel(
        model,
        random_states=list(random_states.values()),
        frozen=list(frozen.values()),
        loss=make_loss(task_loss),
        transformation=transformation,
    )
    peaks = np.array([start.config.learning_rate for start in starts], np.float32)
    fixed = jax.device_put(Fixed(_stacked(starts, frozen), peaks))
    batches = [TrainBatches(train_rows, plan, seed=start.config.seed) for start in starts]
    state = FitState(model=model, plan=plan, timer=Timer())
    records = [RunRecord(start, state, 1 / len(starts)) for start in starts]
    training = _Training(mapped, fixed, batches, state, records)
    moving = mapped.start(_stacked(starts, trained), _random_values(random_states, starts))

    def after_step(moving: Moving) -> None:
        if state.due(config.eval_steps) or state.finished:
            training.evaluate(moving, list(trained), metrics_of, score, eval_batch)

    failure: Exception | None = None
    try:
        with fast_dropout(model):
            training.run(moving, after_step)
    except Exception as error:  # runs that have ended keep their results
        failure = error
    finally:
        for record in records:
            record.close(failure)
    return [record.outcome for record in records if record.outcome is not None]


def _stacked(starts: Sequence[Start], paths: Iterable[str]) -> list[np.ndarray]:
    """All runs' values of each path, the runs in front."""
    return [np.stack([start.values[path] for start in starts]) for path in paths]


def _random_values(random_states: Mapping[str, Any], starts: Sequence[Start]) -> list[np.ndarray]:
    """What `train` would start each run's seed generators with, the runs in front."""
    values = []
    for start in starts:
        seed_random_states(random_states, start.config.seed)
        values.append([np.array(keras.ops.convert_to_numpy(state)) for state in random_states.values()])
    return [np.stack(each) for each in zip(*values, strict=True)]


@final
class _Training:
    """The steps of all runs, and the events between them in the order of `train`."""

    def __init__(
        self,
        mapped: MappedModel,
        fixed: Fixed,
        batches: Sequence[TrainBatches],
        state: FitState,
        records: Sequence[RunRecord],
    ) -> None:
        self._mapped, self._fixed, self._batches = mapped, fixed, batches
        self._state, self._records = state, records
        self._seen: set[int] = set()
        self._pending: deque[tuple[int, list[Any]]] = deque()

    def run(self, moving: Moving, after_step: Callable[[Moving], None]) -> None:
        """Makes steps until all runs have ended; `after_step` sees each state before the next step takes it over."""
        state, plan = self._state, self._state.plan
        interruption, progress = Interruption(), Progress(plan.total_steps)
        losses: list[Any] = []
        state.timer.switch("train")
        try:
            with interruption.watch():
                for micro_batch in range(plan.micro_batches_before(plan.total_steps)):
                    moving, loss = self._take(moving, micro_batch)
                    losses.append(loss)
                    if not plan.ends_step(micro_batch):
                        continue
                    state.step = plan.step_of(micro_batch) + 1
                    state.losses, losses = losses, []
                    self._pending.append((state.step, state.losses))
                    self._record(_MOST_PENDING)
                    after_step(moving)
                    interruption.on_step_end(state)
                    progress.on_step_end(state)
                    if state.stop or not self._open():
                        break
            self._record(0)
        finally:
            state.timer.switch(None)
            progress.on_end(state)

    def evaluate(
        self, moving: Moving, paths: Sequence[str], metrics_of: MetricsOf, score: Score, batch_size: int
    ) -> None:
        """Evaluates every run that has not ended."""
        state = self._state
        self._record(0)
        jax.block_until_ready(moving)
        lap = state.timer.switch("evaluate")
        logits: dict[int, np.ndarray] = {}  # of each split, all runs'
        scores = []

        def predict(run: int, rows: RowSource) -> np.ndarray:
            if id(rows) not in logits:
                logits[id(rows)] = self._mapped.predict(moving, self._fixed, rows, batch_size)
            return logits[id(rows)][run]

        for run, record in self._open():
            metrics = partial(metrics_of, partial(predict, run))
            scores.append(record.evaluate(metrics, score, partial(self._mapped.weights, moving, run, paths)))
        reached = [value for value in scores if value is not None]
        if reached:
            state.latest["mean score"] = sum(reached) / len(reached)
        state.timer.switch(lap)

    def _take(self, moving: Moving, micro_batch: int) -> tuple[Moving, Any]:
        """Takes a micro-batch; the first of a shape counts as compilation."""
        timer, plan = self._state.timer, self._state.plan
        width = max(batches.width(micro_batch) for batches in self._batches)
        each = [batches.padded(micro_batch, width) for batches in self._batches]
        batch = jax.tree.map(lambda *arrays: np.stack(arrays), *each)
        if width in self._seen:
            timer.count(plan.rows_of_micro_batch(micro_batch) * len(each))
            return self._mapped.step(moving, self._fixed, batch)
        jax.block_until_ready(moving)
        timer.switch("compile")
        self._seen.add(width)
        moving, loss = jax.block_until_ready(self._mapped.step(moving, self._fixed, batch))
        timer.switch("train")
        return moving, loss

    def _record(self, most: int) -> None:
        """Writes the losses that are ready, and waits for all but the `most` latest steps'."""
        while self._pending and (len(self._pending) > most or all(loss.is_ready() for loss in self._pending[0][1])):
            step, parts = self._pending.popleft()
            losses = [math.fsum(of_run) for of_run in zip(*(np.asarray(part).tolist() for part in parts), strict=True)]
            for record, loss in zip(self._records, losses, strict=True):
                record.take_loss(step, loss)
            finite = [loss for loss in losses if math.isfinite(loss)]
            if finite:
                self._state.latest["mean loss"] = sum(finite) / len(finite)

    def _open(self) -> list[tuple[int, RunRecord]]:
        return [(run, record) for run, record in enumerate(self._records) if record.outcome is None]
