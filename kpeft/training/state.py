"""The variables that a training moves: trained ones, the optimiser's, and those of random number generators."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from kpeft.glue.tokens import EncodedRows


def trained_variables(model: keras.Model, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `variables` that the model trains, by structural path, in the model's order.

    Args:
        model: The model.
        variables: Every variable of the model by structural path.

    Returns:
        The trained ones.

    Raises:
        ValueError: The model trains nothing, or a variable that has no path.
    """
    paths = {id(variable): path for path, variable in variables.items()}
    trained = model.trainable_variables
    if not trained:
        raise ValueError("The model has nothing to train: every variable is frozen. Received: trainable_variables=[]")
    missing = [variable.path for variable in trained if id(variable) not in paths]
    if missing:
        raise ValueError(f"Trained variables without a structural path. Received: {', '.join(missing)}")
    return {paths[id(variable)]: variable for variable in trained}


def seed_random_states(states: Mapping[str, Any], seed: int) -> None:
    """Starts every seed generator anew, each with a seed of its own.

    Args:
        states: State variable of each generator, in the model's order.
        seed: Decides them all.
    """
    seeds = np.random.SeedSequence(seed).generate_state(max(1, len(states)))
    for state, value in zip(states.values(), seeds, strict=False):
        # Keras's generator state is (seed, count); the seed must fit in a signed integer.
        state.assign(np.array([value >> 1, 0], state.dtype))


def state_variables(model: keras.Model, trained: Mapping[str, Any], random_states: Mapping[str, Any]) -> dict[str, Any]:
    """All that changes in training, under names that do not depend on what else the process has built.

    Args:
        model: Compiled, with its optimiser built.
        trained: As from `trained_variables`.
        random_states: State variable of each seed generator by structural path.

    Returns:
        Variables by name: `trained/<path>`, `optimizer/<position>`, `random/<path>`.
    """
    return {
        **{f"trained/{path}": variable for path, variable in trained.items()},
        **{f"optimizer/{position}": variable for position, variable in enumerate(model.optimizer.variables)},
        **{f"random/{path}": variable for path, variable in random_states.items()},
    }


def read_state(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Values by name; views where the device allows, so they must be used before the next step."""
    return {name: np.asarray(keras.ops.convert_to_numpy(variable)) for name, variable in variables.items()}


def write_state(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Puts values back.

    Args:
        variables: As from `state_variables`.
        arrays: As from `read_state`.

    Raises:
        ValueError: Names or shapes differ.
    """
    saved = {name: tuple(array.shape) for name, array in arrays.items()}
    for name in sorted(saved.keys() | variables.keys()):
        expected = tuple(variables[name].shape) if name in variables else None
        if saved.get(name) != expected:
            raise ValueError(
                f"The checkpoint does not fit the model at {name}: "
                f"expected shape {expected}. Received: {saved.get(name)}"
            )
    for name, variable in variables.items():
        variable.assign(arrays[name])


def fingerprint(rows: EncodedRows) -> str:
    """A digest of the training rows: the same rows in the same order give the same."""
    digest = hashlib.sha256()
    for array in (rows.tokens, rows.segments, rows.offsets, rows.labels):
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
