from __future__ import annotations

import itertools
from typing import Any

import jax
import keras
import numpy as np
import pytest

from kpeft.training.optimizer import AdamW, OptaxOptimizer, is_decayed
from kpeft.training.plan import Plan
from kpeft.training.schedules import Schedule

SHAPES = {"kernel": (3, 2, 2), "bias": (2, 2), "gamma": (4,), "lora_a": (3, 2), "embeddings": (5, 2), "beta": (4,)}
DECAYED = {"kernel", "lora_a", "embeddings"}


def make_variables(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(size=shape).astype("float32"), name=name) for name, shape in SHAPES.items()]


def make_recipe(**changes: Any) -> AdamW:
    schedule = Schedule(kind="linear", peak=0.05, warmup_steps=2, total_steps=8)
    settings = {"schedule": schedule, "weight_decay": 0.1, "clip_norm": 2.0, "epsilon": 1e-6}
    return AdamW(**{**settings, **changes})


def reference(weights: list[np.ndarray], gradients: list[list[np.ndarray]], recipe: AdamW) -> list[np.ndarray]:
    """AdamW as its paper has it, in float64."""
    first = [np.zeros_like(weight) for weight in weights]
    second = [np.zeros_like(weight) for weight in weights]
    rates = recipe.rates or ((1.0, 0),) * len(SHAPES)
    for step, gradient in enumerate(gradients):
        gradient = [part * (step >= start) for part, (_, start) in zip(gradient, rates, strict=True)]
        norm = np.sqrt(sum((part**2).sum() for part in gradient))
        scale = 1.0 if recipe.clip_norm is None else min(1.0, recipe.clip_norm / norm)
        for index, name in enumerate(SHAPES):
            factor, start = rates[index]
            if step < start:
                continue
            rate, age = factor * recipe.schedule.at(step), step + 1 - start
            g = gradient[index] * scale
            first[index] = recipe.beta_1 * first[index] + (1 - recipe.beta_1) * g
            second[index] = recipe.beta_2 * second[index] + (1 - recipe.beta_2) * g**2
            m_hat = first[index] / (1 - recipe.beta_1**age)
            v_hat = second[index] / (1 - recipe.beta_2**age)
            decay = recipe.weight_decay * weights[index] if name in DECAYED else 0.0
            weights[index] = weights[index] - rate * (m_hat / (np.sqrt(v_hat) + recipe.epsilon) + decay)
    return weights


def float64(variables: list[Any]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable).astype("float64") for variable in variables]


def make_gradients(number: int, seed: int = 1) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape).astype("float32") for shape in SHAPES.values()] for _ in range(number)]


def drive(optimizer: OptaxOptimizer, variables: list[Any], gradients: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Applies gradients as fit does, jitted and donating, and gives the variables' values after each."""
    optimizer.build(variables)
    step = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
    trajectory = []
    for gradient in gradients:
        state = [variable.value for variable in optimizer.variables]
        values, state = step(state, gradient, [variable.value for variable in variables])
        for variable, value in zip([*variables, *optimizer.variables], [*values, *state], strict=True):
            variable.assign(value)
        trajectory.append(float64(variables))
    return trajectory


def test_decay_is_decided_by_name_not_by_rank() -> None:
    assert {name for name, variable in zip(SHAPES, make_variables(), strict=True) if is_decayed(variable)} == DECAYED


@pytest.mark.parametrize("clip_norm", [None, 2.0, 100.0])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_equals_adamw_in_float64(clip_norm: float | None, weight_decay: float) -> None:
    recipe = make_recipe(clip_norm=clip_norm, weight_decay=weight_decay)
    variables, gradients = make_variables(), make_gradients(8)
    expected = reference(float64(variables), gradients, recipe)
    for got, want in zip(drive(OptaxOptimizer(recipe), variables, gradients)[-1], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


RATES = ((1.0, 0), (16.0, 0), (0.5, 3), (1.0, 5), (0.25, 0), (2.0, 1))


@pytest.mark.parametrize("clip_norm", [None, 2.0])
def test_rates_are_adamw_begun_later_and_scaled(clip_norm: float | None) -> None:
    recipe = make_recipe(clip_norm=clip_norm, rates=RATES)
    variables, gradients = make_variables(), make_gradients(8)
    start = float64(variables)
    expected = reference(start.copy(), gradients, recipe)
    trajectory = drive(OptaxOptimizer(recipe), variables, gradients)
    for got, want in zip(trajectory[-1], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)
    still = [
        [np.array_equal(now, then) for now, then in zip(values, start, strict=True)].count(True)
        for values in trajectory
    ]
    assert still == [6, 2, 2, 1, 1, 0, 0, 0]  # the first update's rate is 0: warm-up


def test_accumulates_to_the_epochs_smaller_last_update() -> None:
    """5 micro-batches an epoch, two to an update: updates of 2, 2 and 1 micro-batches, twice over."""
    recipe = make_recipe(gradient_accumulation=2, micro_batches_per_epoch=5)
    micro = make_gradients(10)
    groups = [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9]]
    summed = [[np.sum([micro[i][j] for i in group], axis=0) for j in range(len(SHAPES))] for group in groups]
    variables = make_variables()
    expected = reference(float64(variables), summed, recipe)
    trajectory = [float64(variables), *drive(OptaxOptimizer(recipe), variables, micro)]
    moved = [
        any((old != new).any() for old, new in zip(before, after, strict=True))
        for before, after in itertools.pairwise(trajectory)
    ]
    # The first update's rate is 0: warm-up.
    assert moved == [False, False, False, True, True, False, True, False, True, True]
    for got, want in zip(trajectory[-1], expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def test_eager_equals_jitted() -> None:
    eager, jitted = make_variables(), make_variables()
    optimizer, gradients = OptaxOptimizer(make_recipe()), make_gradients(2)
    for gradient in gradients:
        optimizer.apply(gradient, eager)
    drive(OptaxOptimizer(make_recipe()), jitted, gradients)
    for got, want in zip(jitted, eager, strict=True):
        np.testing.assert_allclose(np.asarray(got.value), np.asarray(want.value), rtol=1e-6, atol=1e-7)


def test_survives_serialisation_and_goes_on() -> None:
    recipe = make_recipe(rates=RATES, gradient_accumulation=2, micro_batches_per_epoch=3)
    first, gradients = make_variables(), make_gradients(6)
    one = OptaxOptimizer(recipe)
    drive(one, first, gradients[:3])
    second = [keras.Variable(keras.ops.copy(variable), name=variable.name) for variable in first]
    other = keras.optimizers.deserialize(keras.optimizers.serialize(one))
    assert isinstance(other, OptaxOptimizer)
    assert other.recipe == recipe
    other.build(second)
    store: dict[str, Any] = {}
    one.save_own_variables(store)
    other.load_own_variables(store)
    drive(one, first, gradients[3:])
    drive(other, second, gradients[3:])
    for left, right in zip([*first, *one.variables], [*second, *other.variables], strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(left), keras.ops.convert_to_numpy(right))


def test_learning_rate_of_the_next_update_shows() -> None:
    plan = Plan(rows=5, batch_size=1, accumulation=2, epochs=2)
    optimizer = OptaxOptimizer(make_recipe(gradient_accumulation=2, micro_batches_per_epoch=5))
    for micro_batch in range(10):
        expected = optimizer.recipe.schedule.at(plan.step_of(micro_batch))
        assert float(optimizer.learning_rate) == pytest.approx(expected, rel=1e-6)
        optimizer.iterations.assign_add(1)


def test_a_different_set_of_variables_is_refused() -> None:
    optimizer = OptaxOptimizer(make_recipe())
    variables = make_variables()
    optimizer.build(variables)
    with pytest.raises(ValueError, match="built with"):
        optimizer.apply(make_gradients(1)[0][:2], variables[:2])


def test_the_bias_correction_is_exact() -> None:
    """In float32, 1 - 0.999^k from a rounded 0.999 makes every step 6e-6 too short."""
    schedule = Schedule(kind="constant", peak=1.0, warmup_steps=0, total_steps=8)
    transformation = make_recipe(schedule=schedule, weight_decay=0.0, clip_norm=None).transformation([False])
    parameters, gradient = [np.zeros(1, "float32")], [np.full(1, 0.5, "float32")]
    state = transformation.init(parameters)
    for _ in range(5):
        updates, state = transformation.update(gradient, state, parameters)
        np.testing.assert_allclose(updates[0], -0.5 / (0.5 + 1e-6), rtol=1e-6)
