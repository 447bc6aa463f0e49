"""AdaLoRA's budget against a reference in numpy and PEFT's own RankAllocator, and in whole runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import optax
import pytest

import kpeft
from kpeft.training.checkpoint import load_checkpoint
from kpeft.training.optimizer import AdamW, OptaxOptimizer
from kpeft.training.rank_budget import Allocation, allocation_of, keeping_orthogonal, within_budget
from kpeft.training.schedules import Schedule
from tests.tiny import tiny_classifier
from tests.training.small_model import make_rows, run, weights_of
from tests.training.test_resume import _Crash

STEPS = Path(__file__).parent.parent / "goldens" / "peft" / "adalora_steps" / "steps.npz"
# Another variable stands between the triplets of two layers, of ranks 4 and 3.
SHAPES = [(2, 3, 4), (4, 5), (4,), (7, 2), (6, 3), (3,), (3, 2, 2)]
ALLOCATION = Allocation(
    triplets=((0, 2, 1), (4, 5, 6)),
    target_rank=2,
    start=3,
    end=14,
    every=2,
    beta1=0.7,
    beta2=0.8,
    orth_reg_weight=0.4,
)


def reference(weights: list[Any], gradients: list[list[Any]], allocation: Allocation, rate: float) -> list[list[Any]]:
    """Plain descent, and the paper's algorithm by columns and rows, with a threshold in place of a ranking."""
    weights, trajectory = [weight.astype("float64") for weight in weights], []
    mean, spread = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    total = sum(len(weights[e]) for _, e, _ in allocation.triplets)
    target = allocation.target_rank * len(allocation.triplets)
    gone = [np.zeros(len(weights[e]), bool) for _, e, _ in allocation.triplets]
    for update, gradient in enumerate(gradients, start=1):
        weights = [weight - rate * g for weight, g in zip(weights, gradient, strict=True)]
        if update < allocation.end:
            for i, weight in enumerate(weights):
                now = np.abs(weight * gradient[i])
                mean[i] = allocation.beta1 * mean[i] + (1 - allocation.beta1) * now
                spread[i] = allocation.beta2 * spread[i] + (1 - allocation.beta2) * np.abs(now - mean[i])
        left = (allocation.end - update) / (allocation.end - allocation.start)
        due = allocation.start < update < allocation.end and update % allocation.every == 0
        if due or update == allocation.end:
            out = total - int((total - target) * left**3 + target)
            score = [m * s for m, s in zip(mean, spread, strict=True)]
            scores = [
                np.array([score[e][i] + score[a][..., i].mean() + score[b][i].mean() for i in range(len(score[e]))])
                for a, e, b in allocation.triplets
            ]
            threshold = np.sort(np.concatenate(scores))[out - 1]
            gone = [each <= threshold for each in scores]
        if due or update >= allocation.end:
            for (_, e, _), each in zip(allocation.triplets, gone, strict=True):
                weights[e][each] = 0
        trajectory.append([weight.copy() for weight in weights])
    return trajectory


@pytest.mark.parametrize("changes", [{}, {"start": 0, "end": 16, "every": 1}, {"target_rank": 1, "every": 5}])
def test_equals_the_algorithm_in_float64(changes: Any) -> None:
    allocation = dataclasses.replace(ALLOCATION, **changes)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    gradients = [[rng.normal(size=shape).astype("float32") for shape in SHAPES] for _ in range(17)]
    expected = reference(weights, gradients, allocation, 0.1)
    transformation = within_budget(optax.sgd(0.1), allocation)
    state, step = transformation.init(weights), jax.jit(transformation.update)
    counts = []
    for gradient, wanted in zip(gradients, expected, strict=True):
        updates, state = step(gradient, state, weights)
        weights = optax.apply_updates(weights, updates)
        for weight, each in zip(weights, wanted, strict=True):
            np.testing.assert_allclose(weight, each, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(weight == 0, each == 0)
        counts.append(sum(int((np.asarray(weights[e]) != 0).sum()) for _, e, _ in allocation.triplets))
    assert counts[0] == 7 or allocation.start == 0
    assert counts[-1] == 2 * allocation.target_rank
    assert len(set(counts)) > 2


def test_equal_scores_do_not_fall_out_together() -> None:
    """A first update whose rate is zero, and e at zero: every score is zero, and PEFT would drop all."""
    allocation = dataclasses.replace(ALLOCATION, start=0, end=2, every=1)
    weights = [np.ones(shape, "float32") for shape in SHAPES]
    transformation = within_budget(optax.sgd(0.1), allocation)
    state, nothing = transformation.init(weights), [np.zeros(shape, "float32") for shape in SHAPES]
    for _ in range(3):
        updates, state = transformation.update(nothing, state, weights)
        weights = optax.apply_updates(weights, updates)
    assert [int((np.asarray(weights[e]) != 0).sum()) for _, e, _ in allocation.triplets] == [1, 3]


def test_the_pull_is_the_gradient_of_the_distance() -> None:
    rng = np.random.default_rng(1)
    weights = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    nothing = [np.zeros(shape, "float32") for shape in SHAPES]
    pulls, _ = keeping_orthogonal(ALLOCATION).update(nothing, optax.EmptyState(), weights)

    def distance(values: list[Any]) -> float:
        flat = [values[0].reshape(6, 4).T, values[1], values[4].T, values[6].reshape(3, 4)]
        return 0.4 * float(np.mean([np.linalg.norm(p @ p.T - np.eye(len(p))) for p in flat]))

    for place, pull in enumerate(pulls):
        along = rng.normal(size=SHAPES[place])
        ends = []
        for side in (1e-5, -1e-5):
            moved = [weight.astype("float64") for weight in weights]
            moved[place] += side * along
            ends.append(distance(moved))
        assert float((pull * along).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-8)
        assert np.any(pull) == (place in (0, 1, 4, 6))
    orthogonal = [np.eye(8, 4, dtype="float32"), np.zeros(4, "float32"), np.eye(4, 8, dtype="float32")]
    alone = dataclasses.replace(ALLOCATION, triplets=((0, 1, 2),))
    pulls, _ = keeping_orthogonal(alone).update(orthogonal, optax.EmptyState(), orthogonal)
    assert all(np.isfinite(pull).all() for pull in pulls)


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("three_phases", {"start": 2, "end": 9, "every": 2, "beta1": 0.85, "beta2": 0.85, "orth_reg_weight": 0.5}),
        ("to_the_end", {"start": 0, "end": 12, "every": 1, "beta1": 0.6, "beta2": 0.4, "orth_reg_weight": 3.0}),
    ],
)
def test_equals_peft(case: str, changes: Any) -> None:
    """AdamW with clipping and orthogonality, and RankAllocator behind it, step for step."""
    golden = np.load(STEPS)
    names = [f"{layer}.lora_{part}.default" for layer in ("first", "second") for part in "AEB"]
    triplets = ((0, 1, 2), (3, 4, 5))
    allocation = Allocation(triplets=triplets, target_rank=2, **changes)
    schedule = Schedule(kind="constant", peak=0.05, warmup_steps=0, total_steps=12)
    recipe = AdamW(schedule=schedule, weight_decay=0.1, clip_norm=4.0, allocation=allocation)
    transformation = recipe.transformation([True] * 6)

    def ours(name: str, step: int, what: str = "") -> Any:  # A (in, r), e (r), B (r, out)
        value = golden[f"{case}/{name}{what}"][step]
        return value[:, 0] if "lora_E" in name else value.T

    weights = [ours(name, 0) for name in names]
    state, step = transformation.init(weights), jax.jit(transformation.update)
    zeros = []
    for number in range(1, 13):
        gradients = [ours(name, number - 1, "/gradients") for name in names]
        updates, state = step(gradients, state, weights)
        weights = optax.apply_updates(weights, updates)
        for weight, name in zip(weights, names, strict=True):
            wanted = ours(name, number)
            np.testing.assert_allclose(weight, wanted, rtol=2e-5, atol=2e-6, err_msg=f"step {number}: {name}")
            np.testing.assert_array_equal(weight == 0, wanted == 0)
        zeros.append(sum(int((weights[e] == 0).sum()) for _, e, _ in triplets))
    assert zeros[-1] == 4
    assert len(set(zeros)) > 2


def test_survives_serialisation() -> None:
    schedule = Schedule(kind="constant", peak=0.05, warmup_steps=0, total_steps=12)
    optimizer = OptaxOptimizer(AdamW(schedule=schedule, allocation=ALLOCATION))
    assert keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)).recipe == optimizer.recipe


METHOD = kpeft.AdaLoRA(rank=5, target_rank=2, tinit=0.2, tfinal=3, delta_t=2)
ROWS = make_rows(44, longest=8)


def train_once(folder: Path, **changes: Any) -> tuple[Any, Any]:
    model = tiny_classifier("roberta", dropout=0.1)
    adaptation = kpeft.adapt(model, METHOD)
    config = kpeft.TrainingConfig(
        epochs=3, batch_size=8, gradient_accumulation=2, learning_rate=0.01, save_steps=4, keep=2
    )
    result = run(model, ROWS, config, output_dir=folder, budget=adaptation.budget(), **changes)
    return result, {path: weights_of(model)[path] for path in adaptation.trained_variables()}


@pytest.mark.slow
def test_a_run_ends_at_the_budget_and_resumes_to_the_bit(tmp_path: Path) -> None:
    result, whole = train_once(tmp_path / "whole")
    assert result.steps == 9
    kept = [int((value != 0).sum()) for path, value in whole.items() if path.endswith("lora_e")]
    assert (len(kept), sum(kept)) == (4, 8)
    with pytest.raises(KeyboardInterrupt):
        train_once(tmp_path / "parts", callbacks=[_Crash(6)])
    assert load_checkpoint(tmp_path / "parts" / "checkpoints").step == 4
    _, resumed = train_once(tmp_path / "parts", resume=True)
    for path, value in whole.items():
        np.testing.assert_array_equal(resumed[path], value, err_msg=path)


def test_the_phases_of_a_run() -> None:
    adaptation = kpeft.adapt(tiny_classifier("bert"), METHOD)
    budget, paths = adaptation.budget(), list(adaptation.trained_variables())
    assert budget is not None
    assert len(budget.triplets) == 4
    assert {path for triplet in budget.triplets for path in triplet} == {path for path in paths if "lora_" in path}
    allocation = allocation_of(paths, budget, 10)
    assert [[paths[place] for place in each] for each in allocation.triplets] == [
        list(each) for each in budget.triplets
    ]
    assert (allocation.start, allocation.end) == (2, 7)
    # The budget after updates 3 to 7, from 20 to 8: 8 + 12·(1 - 1/5)³ = 14.1, 10.6, 8.8, 8.1, 8.
    assert [20 - int((allocation.cuts(20) <= update).sum()) for update in range(2, 8)] == [20, 14, 10, 8, 8, 8]
    with pytest.raises(ValueError, match=r"tinit=0.2 and tfinal=3 leave none of the run's 3 steps"):
        allocation_of(paths, budget, 3)
    for updates in (1, 2, 3):
        shares = dataclasses.replace(budget, tinit=0.1, tfinal=0.5)
        assert allocation_of(paths, shares, updates).start < allocation_of(paths, shares, updates).end
    assert kpeft.adapt(tiny_classifier("bert"), kpeft.LoRA()).budget() is None
    union = kpeft.LoRA(targets="key") + METHOD
    assert kpeft.adapt(tiny_classifier("bert"), union).budget() == budget


@pytest.mark.parametrize(
    "options",
    [
        {"target_rank": 13},
        {"target_rank": 0},
        {"tinit": -0.1},
        {"tinit": 0.5, "tfinal": 0.5},
        {"delta_t": 0},
        {"beta1": 1.0},
        {"beta2": 0.0},
        {"orth_reg_weight": -1.0},
        {"dropout": 1.0},
    ],
)
def test_options_that_do_not_fit(options: Any) -> None:
    with pytest.raises(ValueError, match=f"Received: .*{next(iter(options))}={next(iter(options.values()))}"):
        kpeft.AdaLoRA(**options)
    assert kpeft.AdaLoRA(tinit=5, tfinal=0.5).tinit == 5
