"""One training from start to end: everything that `model.fit` is given is made here."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from kpeft.config import Distillation, TrainingConfig
from kpeft.glue.tokens import EncodedRows
from kpeft.methods import RankBudget, Rate
from kpeft.ops import NUMERICS
from kpeft.recast import fast_dropout
from kpeft.results import CHECKPOINTS, HISTORY
from kpeft.training.batches import Beside, TrainBatches
from kpeft.training.callbacks import (
    Evaluation,
    Evaluations,
    Evaluator,
    FitState,
    History,
    Interruption,
    LossLog,
    Progress,
    StepCallback,
    StepEvents,
)
from kpeft.training.callbacks.checkpoints import Checkpoints
from kpeft.training.callbacks.evaluation import Evaluate, Score
from kpeft.training.checkpoint import Checkpoint, check_identity, load_checkpoint
from kpeft.training.features import FrozenRows
from kpeft.training.losses import MicroBatchLoss, TaskLoss, make_loss
from kpeft.training.optimizer import AdamW, OptaxOptimizer, Rates
from kpeft.training.plan import Plan
from kpeft.training.rank_budget import Allocation, allocation_of
from kpeft.training.schedules import Schedule, warmup_steps
from kpeft.training.state import fingerprint, seed_random_states, state_variables, trained_variables, write_state
from kpeft.training.timing import Timer, Timing

logger = logging.getLogger("kpeft")


@final
@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a training came to. The model itself is left at the last step.

    Attributes:
        best: The evaluation with the highest score; `None` where the run was interrupted before the first.
        last: The evaluation after the last step, or the latest before an interruption.
        best_weights: The trained variables at the best evaluation, by structural path.
        steps: Steps done, those before a resume included.
        epochs: Passes over the rows done.
        interrupted: Whether SIGINT or SIGTERM ended it.
        timing: Where the time went.
    """

    best: Evaluation | None
    last: Evaluation | None
    best_weights: Mapping[str, np.ndarray] | None
    steps: int
    epochs: float
    interrupted: bool
    timing: Timing


def train(
    model: keras.Model,
    variables: Mapping[str, Any],
    train_rows: EncodedRows | FrozenRows,
    *,
    random_states: Mapping[str, Any],
    config: TrainingConfig,
    task_loss: TaskLoss,
    evaluate: Evaluate,
    score: Score,
    rates: Mapping[str, Rate] | None = None,
    budget: RankBudget | None = None,
    distillation: Distillation | None = None,
    output_dir: Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    shuffle: bool = True,
    beside: Beside | None = None,
    progress: bool = True,
    callbacks: Sequence[StepCallback] = (),
) -> TrainingResult:
    """Trains what is trainable in a model. The same arguments on the same machine give the same result to the bit.

    Args:
        model: Takes what the rows' batches hold and gives logits, shape (batch, C).
        variables: Every variable of the model by structural path. There may be others, as of a model of which this
            one is the trained part.
        train_rows: The training rows; `FrozenRows` for the trained part of a model, as from `trained_part`.
        random_states: State variable of each of the model's seed generators by structural path, others likewise.
        config: How to train.
        task_loss: `"classification"` or `"regression"`.
        evaluate: Gives the metrics of the model as it stands.
        score: What of the metrics decides the best; higher is better.
        rates: Of variables that are trained faster, slower or later than `config` says, by structural path.
        budget: What of low-rank changes is dropped as training goes on.
        distillation: For rows of a classification whose labels hold a teacher's logits, see `make_loss`.
        output_dir: Gets history.jsonl and checkpoints; `None` keeps neither.
        resume: Go on from the last checkpoint in `output_dir`.
        identity: What else a resumed run must have in common with the first, such as its method; plain JSON.
        shuffle: Without it, rows come in their own order in every epoch.
        beside: Gives the model further inputs while it trains, see `TrainBatches`.
        progress: Show progress on standard error.
        callbacks: Called after each step, before the evaluation.

    Returns:
        The result.

    Raises:
        ValueError: No rows, nothing to train, nothing to resume, or a resumed run that is set up differently.
        NonFiniteLossError: The loss of a step was NaN or infinite.
    """
    if len(train_rows) == 0:
        raise ValueError("There is nothing to train on. Received: 0 training rows")
    plan = make_plan(config, len(train_rows))
    trained = trained_variables(model, variables)
    schedule = make_schedule(config, plan)
    own_rates = rates_of(trained, rates)
    warn_of_never_trained(own_rates, plan.total_steps)
    allocation = None if budget is None else allocation_of(trained, budget, plan.total_steps)
    optimizer = OptaxOptimizer(make_recipe(config, plan, schedule, own_rates, allocation))
    compile_model(model, make_loss(task_loss, distillation), optimizer)
    model.optimizer.build(model.trainable_variables)
    seed_random_states(random_states, config.seed)
    state = FitState(model=model, plan=plan, timer=Timer())
    moving = state_variables(model, trained, random_states)
    same = {
        **(identity or {}),
        "numerics": NUMERICS,
        "frozen_outputs_kept": isinstance(train_rows, FrozenRows),
        "training": dataclasses.asdict(config),
        "task_loss": task_loss,
        "shuffle": shuffle,
        "train_rows": fingerprint(train_rows.rows if isinstance(train_rows, FrozenRows) else train_rows)
        if output_dir
        else "",
        "trained_variables": list(trained),
        "rates": [list(each) for each in own_rates],
        "allocation": allocation and {**dataclasses.asdict(allocation), "triplets": [*map(list, allocation.triplets)]},
    }
    older = _prepare(output_dir, resume, same)
    evaluations, history_length = Evaluations(), 0
    if older is not None:
        write_state(moving, older.arrays)
        state.step, evaluations, history_length = older.step, older.evaluations, older.history_length
        if older.timing is not None:
            state.timer.go_on(older.timing)
    done = state.finished or (config.patience is not None and evaluations.since_best >= config.patience)
    if isinstance(train_rows, FrozenRows) and not done:
        train_rows.fill(state.timer, progress=progress)
    history = History(output_dir / HISTORY if output_dir else None, length=history_length)
    losses, interruption = LossLog(history, schedule), Interruption()
    steps: list[StepCallback] = [losses, *callbacks]
    steps.append(
        Evaluator(
            evaluate=evaluate,
            score=score,
            every=config.eval_steps,
            patience=config.patience,
            trained=trained,
            history=history,
            losses=losses,
            record=evaluations,
        )
    )
    steps.append(interruption)
    if output_dir is not None:
        steps.append(
            Checkpoints(
                output_dir / CHECKPOINTS,
                every=config.save_steps,
                keep=config.keep,
                identity=same,
                variables=moving,
                evaluations=evaluations,
                history=history,
                losses=losses,
            )
        )
    if progress:
        steps.append(Progress(plan.total_steps, start=state.step))
    batches = TrainBatches(
        train_rows,
        plan,
        seed=config.seed,
        start=plan.micro_batches_before(state.step),
        shuffle=shuffle,
        beside=beside,
    )
    try:
        if not done:
            with fast_dropout(model), interruption.watch():
                # One Keras epoch holds the whole run: see TrainBatches.
                model.fit(batches, shuffle=False, verbose=0, callbacks=StepEvents(state, batches, steps))
    finally:
        for callback in steps:
            callback.on_end(state)
        history.close()
    state.timer.switch(None)
    return TrainingResult(
        best=evaluations.best,
        last=evaluations.last,
        best_weights=evaluations.best_weights,
        steps=state.step,
        epochs=state.epoch,
        interrupted=interruption.requested,
        timing=state.timer.read(),
    )


def make_plan(config: TrainingConfig, rows: int) -> Plan:
    """The counts of a run over so many rows."""
    return Plan(
        rows=rows,
        batch_size=config.batch_size,
        accumulation=config.gradient_accumulation,
        epochs=config.epochs,
        max_steps=config.max_steps,
    )


def make_schedule(config: TrainingConfig, plan: Plan) -> Schedule:
    """The learning rate of each step of a run."""
    return Schedule(
        kind=config.schedule,
        peak=config.learning_rate,
        warmup_steps=warmup_steps(config.warmup, plan.total_steps),
        total_steps=plan.total_steps,
    )


def rates_of(paths: Iterable[str], rates: Mapping[str, Rate] | None) -> Rates:
    """The rates of the variables at some paths, in their order; empty where none is trained in a way of its own."""
    own = [(rates or {}).get(path, Rate()) for path in paths]
    return tuple((rate.factor, rate.first_step) for rate in own) if set(own) != {Rate()} else ()


def warn_of_never_trained(rates: Rates, steps: int) -> None:
    """Says how many variables have their first step after the last of the run."""
    never = sum(first >= steps for _, first in rates)
    if never:
        logger.warning(
            "%d of %d variables are never trained: their first step comes after the run's %d (--unfreeze-every).",
            *(never, len(rates), steps),
        )


def make_recipe(
    config: TrainingConfig, plan: Plan, schedule: Schedule, rates: Rates = (), allocation: Allocation | None = None
) -> AdamW:
    """What an update of a run does.

    Args:
        config: How to train.
        plan: The counts of the run.
        schedule: The learning rate of each step.
        rates: Of each trained variable, see `rates_of`.
        allocation: Of the trained variables, see `allocation_of`.
    """
    return AdamW(
        schedule=schedule,
        weight_decay=config.weight_decay,
        epsilon=config.adam_epsilon,
        clip_norm=config.clip_norm,
        gradient_accumulation=config.gradient_accumulation,
        micro_batches_per_epoch=plan.micro_batches_per_epoch,
        rates=rates,
        allocation=allocation,
    )


def compile_model(model: keras.Model, loss: Any, optimizer: OptaxOptimizer) -> None:
    """Compiles a model for `TrainBatches` and `StepEvents`, with a loss that sums over weighted rows."""
    model.compile(optimizer=optimizer, loss=loss, weighted_metrics=[MicroBatchLoss(loss)], jit_compile=True)


def _prepare(output_dir: Path | None, resume: bool, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Loads the checkpoint to go on from, or clears away those of an older run."""
    if output_dir is None:
        if resume:
            raise ValueError("There is no folder to resume from. Received: output_dir=None")
        return None
    if not resume:
        shutil.rmtree(output_dir / CHECKPOINTS, ignore_errors=True)
        return None
    checkpoint = load_checkpoint(output_dir / CHECKPOINTS)
    check_identity(checkpoint.identity, identity)
    return checkpoint
