"""A model's pass forward and its training step, mapped over runs that share what is frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax

from kpeft.training.batches import RowSource
from kpeft.training.prediction import EvalBatches


class Moving(NamedTuple):
    """What a step changes; every array has the runs in front.

    Attributes:
        trained: The trained variables, in the model's order.
        optimizer: optax's state.
        random: States of the seed generators.
    """

    trained: list[Any]
    optimizer: Any
    random: list[Any]


class Fixed(NamedTuple):
    """What differs between runs and stays as it is; every array has the runs in front.

    Attributes:
        frozen: Frozen variables that differ.
        rate: The peak learning rate, float32.
    """

    frozen: list[Any]
    rate: Any


@final
class MappedModel:
    """A model as functions of many runs, each compiled once for a shape.

    `jax.vmap` turns a frozen layer's product into one product over all runs' rows; only products with what is trained
    become one for each run.

    Args:
        model: The model; its variables are read and never changed.
        random_states: State variable of each of its seed generators.
        frozen: Its frozen variables that differ between runs.
        loss: As from `make_loss`.
        transformation: The optimiser, for a peak learning rate.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        random_states: Sequence[Any],
        frozen: Sequence[Any],
        loss: Any,
        transformation: Callable[[Any], optax.GradientTransformation],
    ) -> None:
        self._model = model
        self._loss = loss
        self._transformation = transformation
        positions = {id(variable): index for index, variable in enumerate(model.non_trainable_variables)}
        self._random = [positions[id(variable)] for variable in random_states]
        self._frozen = [positions[id(variable)] for variable in frozen]
        differing = {*self._random, *self._frozen}
        self._common = [index for index in range(len(positions)) if index not in differing]
        self._mapped_step = jax.jit(jax.vmap(self._step, in_axes=(0, 0, 0, None)), donate_argnums=0)
        self._mapped_logits = jax.jit(jax.vmap(self._logits, in_axes=(0, 0, 0, None, None)))
        self._of_run = jax.jit(lambda values, run: [value[run] for value in values])

    def start(self, trained: list[Any], random: list[Any]) -> Moving:
        """Returns the state before the first step, given the variables' values with the runs in front."""
        values = [jnp.array(value) for value in trained]
        optimizer = jax.jit(jax.vmap(self._transformation(0.0).init))(values)
        return Moving(values, optimizer, [jnp.array(state) for state in random])

    def step(self, moving: Moving, fixed: Fixed, batch: Any) -> tuple[Moving, Any]:
        """Takes one micro-batch of each run.

        Args:
            moving: The state, whose arrays are taken over.
            fixed: What differs and stays.
            batch: Inputs, labels and weights as `TrainBatches` has them, with the runs in front.

        Returns:
            The new state, and each run's loss, (runs,).
        """
        result: tuple[Moving, Any] = self._mapped_step(moving, fixed, batch, self._common_values())
        return result

    def predict(self, moving: Moving, fixed: Fixed, rows: RowSource, batch_size: int) -> np.ndarray:
        """Returns every run's logits of every row, float32 (runs, rows, C), rows in their own order."""
        batches, common = EvalBatches(rows, batch_size), self._common_values()
        parts = [
            self._mapped_logits(moving.trained, fixed.frozen, moving.random, batches[index][0], common)
            for index in range(len(batches))
        ]
        in_order = np.concatenate([np.asarray(part, np.float32) for part in parts], axis=1)[:, : len(rows)]
        logits = np.empty_like(in_order)
        logits[:, batches.order] = in_order
        return logits

    def weights(self, moving: Moving, run: int, paths: Sequence[str]) -> dict[str, np.ndarray]:
        """Copies one run's trained variables to host memory, under the paths given in their order."""
        values = self._of_run(moving.trained, run)
        return {path: np.array(value) for path, value in zip(paths, values, strict=True)}

    def _step(self, moving: Moving, fixed: Fixed, batch: Any, common: list[Any]) -> tuple[Moving, Any]:
        inputs, labels, weights = batch

        def loss(trained: list[Any]) -> tuple[Any, list[Any]]:
            logits, random = self._call(trained, fixed.frozen, moving.random, inputs, common, True)
            return self._loss(labels, logits, sample_weight=weights), random

        (value, random), gradients = jax.value_and_grad(loss, has_aux=True)(moving.trained)
        transformation = self._transformation(fixed.rate)
        updates, optimizer = transformation.update(gradients, moving.optimizer, moving.trained)
        return Moving(optax.apply_updates(moving.trained, updates), optimizer, random), value

    def _logits(self, trained: list[Any], frozen: list[Any], random: list[Any], inputs: Any, common: list[Any]) -> Any:
        return self._call(trained, frozen, random, inputs, common, False)[0]

    def _call(
        self,
        trained: list[Any],
        frozen: list[Any],
        random: list[Any],
        inputs: Any,
        common: list[Any],
        training: bool,
    ) -> tuple[Any, list[Any]]:
        """Returns the logits and the new states of the seed generators, for one run."""
        places = [*self._common, *self._frozen, *self._random]
        values = dict(zip(places, [*common, *frozen, *random], strict=True))
        others = [values[index] for index in range(len(places))]
        logits, others = self._model.stateless_call(trained, others, inputs, training=training)
        return logits, [others[index] for index in self._random]

    def _common_values(self) -> list[Any]:
        variables = self._model.non_trainable_variables
        return [variables[index].value for index in self._common]
