"""A model's outputs with other values of some variables for each row."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from kpeft.named.placed import Placed, Values
from kpeft.named.room import Room


@final
class RowModel:
    """The model under a `Room` as a function that takes the room's variables from a table, a line of it for each row.

    `jax.vmap` turns a product with a frozen kernel into one product over all rows; only what differs between adapters
    is computed row by row. Compiled once for a shape of the inputs and a size of the table, a power of two. (Taking
    the adapters in turn needs a pass for each, and another shape for each number of rows.)

    Args:
        model: The model; its variables are read and never changed.
        room: What is on it.
    """

    def __init__(self, model: Any, room: Room) -> None:
        self._model = model
        self._room = room
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        self._trainable = len(model.trainable_variables)
        places = {id(variable): place for place, variable in enumerate(variables)}
        self._differing = [places[id(variable)] for variable in room.variables.values()]
        self._common = sorted(set(places.values()) - set(self._differing))
        self._common_variables = [variables[place] for place in self._common]
        self._mapped = jax.jit(jax.vmap(self._row, in_axes=(None, None, 0, 0)))
        self._lines: list[Values | None] = []
        self._table: list[Any] = []

    def predict(
        self, inputs: Any, members: Sequence[Placed | None], lines: np.ndarray[Any, Any], batch_size: int
    ) -> Any:
        """Returns the model's outputs.

        Args:
            inputs: What the model takes, arrays of N rows.
            members: The adapters; `None` is the model without one.
            lines: Which of them each row is for, int32 (N,).
            batch_size: Rows of a pass; the last is filled up with copies of the last row.
        """
        self._fill_table(members)
        common = [variable.value for variable in self._common_variables]
        size = min(batch_size, len(lines))
        parts = []
        for start in range(0, len(lines), size):
            rows = np.minimum(np.arange(start, start + size), len(lines) - 1)
            batch = jax.tree.map(lambda array, rows=rows: np.asarray(array)[rows], inputs)
            parts.append(jax.tree.map(np.asarray, self._mapped(self._table, common, lines[rows], batch)))
        return jax.tree.map(lambda *each: np.concatenate(each)[: len(lines)], *parts)

    def _fill_table(self, members: Sequence[Placed | None]) -> None:
        lines = [member and member.kept for member in members]
        if len(lines) == len(self._lines) and all(map(operator.is_, lines, self._lines)):
            return
        values = [self._room.values(member) for member in members]
        values += [values[0]] * ((1 << (len(values) - 1).bit_length()) - len(values))
        self._table = [jnp.asarray(np.stack([line[path] for line in values])) for path in self._room.variables]
        self._lines = lines

    def _row(self, table: list[Any], common: list[Any], line: Any, inputs: Any) -> Any:
        differing = [values[line] for values in table]
        values = dict(zip([*self._common, *self._differing], [*common, *differing], strict=True))
        ordered = [values[place] for place in range(len(values))]
        one = jax.tree.map(lambda array: array[None], inputs)
        outputs, _ = self._model.stateless_call(ordered[: self._trainable], ordered[self._trainable :], one)
        return jax.tree.map(lambda array: array[0], outputs)
