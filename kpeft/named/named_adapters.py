"""Several adapters, by name, on one frozen model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import keras
import numpy as np

from kpeft.adaptation import Adaptation
from kpeft.adapters import save_adapter
from kpeft.layers.adapter_layer import AdapterLayer
from kpeft.layers.linear import on_jax
from kpeft.methods.method import Method
from kpeft.named.placed import Placed, place
from kpeft.named.room import Room, check_alike
from kpeft.sites import clear_compilation, uncompiled, walk

logger = logging.getLogger("kpeft")


@final
class NamedAdapters:
    """Several adapters of one method, by name, on one frozen model.

    The model carries one adaptation with room for all of them: what any of them adapts, at the largest rank. To switch
    is to assign its variables, so what is compiled stays. The adapters may differ in rank, alpha, targets and in what
    they train of the model itself, head included; each is kept in host memory as it is on its own.

    Args:
        model: A built model without adapters. While it has named ones, nothing of it is trainable but in `training`.

    Raises:
        ValueError: If the model has adapters.

    Example:
        >>> adapters = NamedAdapters(model)
        >>> adapters.add("mrpc", "runs/mrpc/adapter")
        >>> adapters.add("qqp", kpeft.LoRA(rank=4))
        >>> with adapters.training("qqp"):
        ...     model.compile("adam", loss)
        ...     model.fit(x, y)
        >>> logits = adapters.predict(three_rows, ["mrpc", "qqp", None])
    """

    def __init__(self, model: Any) -> None:
        adapted = next((path for path, layer in walk(model) if isinstance(layer, AdapterLayer)), None)
        if adapted is not None:
            raise ValueError(f"the model has an adapter at {adapted}: save it, detach it, and add it by its folder.")
        self.model = model
        self._placed: dict[str, Placed] = {}
        self._active: str | None = None
        self._trained: str | None = None
        self._room: Room | None = None
        self._rows: Any = None  # a RowModel, which needs JAX

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names, in the order in which they were added."""
        return tuple(self._placed)

    @property
    def active(self) -> str | None:
        """Name of the adapter in use; `None` if the model computes what it does without any."""
        return self._active

    def add(self, name: str, adapter: str | Path | Method | Adaptation, *, seed: int = 0) -> None:
        """Adds an adapter; the first one is in use at once.

        The model is compiled anew if it had no room yet: for a layer that no other adapts, or a larger rank.

        Args:
            name: What to call it.
            adapter: Where a saved adapter is, as `load_adapter` takes it; a method, for an adapter to be trained; or
                the adaptation of another model of this architecture, to be copied.
            seed: Where a new adapter starts, as in `adapt`.

        Raises:
            ValueError: If the name is taken, the adapter does not fit the model, or it cannot take turns with the
                others. The model is then as it was.
        """
        self._check_idle()
        if not isinstance(name, str) or not name:
            raise ValueError(f"an adapter's name is a text that is not empty. Received: name={name!r}")
        if name in self._placed:
            raise ValueError(f"there is an adapter named {name!r} already: delete it first, or take another name.")
        with uncompiled(self.model), self._plain():
            new = place(self.model, adapter, seed)
            new.take_off()
        for other in self._placed.values():
            check_alike(other, new)
        if self._room is None or not self._room.holds(new):
            self._make_room([*self._placed.values(), new])
        self._placed[name] = new
        if len(self._placed) == 1:
            self.use(name)

    def use(self, name: str | None) -> None:
        """Puts an adapter to use, or none with `None`; nothing is compiled anew.

        Raises:
            ValueError: If there is no adapter of that name.
        """
        self._check_idle()
        placed = self._find(name)
        if self._room is not None:
            self._room.use(placed)
        self._active = name

    @contextmanager
    def disabled(self) -> Iterator[Any]:
        """Within the context no adapter is in use, then again the one that was.

        Yields:
            The model.
        """
        name = self._active
        self.use(None)
        try:
            yield self.model
        finally:
            self.use(name)

    def delete(self, name: str) -> None:
        """Forgets an adapter. If it was in use, the first of the others is, as in Hugging Face PEFT.

        With the last one the model is bit for bit what it was before the first, its compilation cleared.

        Raises:
            ValueError: If there is no adapter of that name.
        """
        self._check_idle()
        self._get(name)
        others = [other for other in self._placed if other != name]
        if not others:
            assert self._room is not None
            self._room.placed.take_off()
            clear_compilation(self.model)
            self._room, self._rows, self._active = None, None, None
        elif name == self._active:
            self.use(others[0])
            logger.warning("adapter %r was in use and is deleted; %r is in use now.", name, others[0])
        del self._placed[name]

    @contextmanager
    def training(self, name: str) -> Iterator[Any]:
        """Within the context the model is as `adapt` leaves it with this adapter's method: compile it and fit it.

        Rank, dropout and what is trainable are the adapter's own. At the end its values are kept, and the model is what
        it was before: the same adapter in use, compiled functions included. After an error nothing is kept.

        Yields:
            The model.

        Raises:
            ValueError: If there is no adapter of that name.
        """
        self._check_idle()
        placed = self._get(name)
        with uncompiled(self.model), self._plain(), placed.on():
            self._trained = name
            try:
                yield self.model
                placed.keep()
            finally:
                self._trained = None

    def save(self, name: str, folder: str | Path) -> None:
        """Writes an adapter as `save_adapter` does, at its own rank, targets and alpha.

        Args:
            name: Its name.
            folder: Where to write adapter_config.json and adapter_model.safetensors; made if need be.

        Raises:
            ValueError: If there is no adapter of that name.
        """
        self._check_idle()
        placed = self._get(name)
        with self._plain(), placed.on() as adaptation:
            save_adapter(adaptation, folder)

    def predict(self, inputs: Any, adapters: Sequence[str | None], *, batch_size: int = 32) -> Any:
        """Returns the model's outputs, each row's with an adapter of its own, head included.

        Compiled once for a shape of the inputs, whatever the names; again when the number of adapters outgrows a power
        of two. Each row of a batch has its own copy of what is trained: little for LoRA, a whole model for `Full`.

        Args:
            inputs: What the model takes: arrays of N rows.
            adapters: The name of each row's adapter; `None` for the model without any.
            batch_size: Rows to compute at once.

        Raises:
            ValueError: If there is no adapter of one of the names, or not one name for each row.
        """
        self._check_idle()
        if not on_jax():
            raise ValueError("a different adapter for each row needs Keras on JAX: set KERAS_BACKEND=jax.")
        if self._room is None:
            raise ValueError("there are no adapters to predict with: add one first.")
        shapes = sorted({np.shape(array) for array in keras.tree.flatten(inputs)})
        if isinstance(adapters, str) or not len(adapters) or {shape[:1] for shape in shapes} != {(len(adapters),)}:
            received = f"{adapters!r} for inputs of shape {', '.join(map(str, shapes))}"
            raise ValueError(f"predict takes one name for each row, in a list. Received: {received}")
        for name in adapters:
            self._find(name)
        if self._rows is None:
            from kpeft.named.rows import RowModel

            self._rows = RowModel(self.model, self._room)
        names = [None, *self._placed]
        lines = np.array([names.index(name) for name in adapters], np.int32)
        return self._rows.predict(inputs, [self._find(name) for name in names], lines, batch_size)

    def _check_idle(self) -> None:
        if self._trained is not None:
            raise ValueError(f"adapter {self._trained!r} is in training: leave the block of training() first.")

    def _get(self, name: str) -> Placed:
        if name not in self._placed:
            known = ", ".join(map(repr, self._placed)) or "none"
            raise ValueError(f"there is no adapter named {name!r}. Known: {known}")
        return self._placed[name]

    def _find(self, name: str | None) -> Placed | None:
        return None if name is None else self._get(name)

    def _make_room(self, members: Sequence[Placed]) -> None:
        if self._room is not None:
            self._room.placed.take_off()
        self._room, self._rows = Room(self.model, members), None
        self._room.use(self._find(self._active))

    @contextmanager
    def _plain(self) -> Iterator[None]:
        """Within the context the model is what it was before the first adapter; what is compiled stays for after it."""
        if self._room is None:
            yield
            return
        self._room.placed.take_off()
        try:
            yield
        finally:
            self._room.placed.put_on()
            self._room.use(self._find(self._active))
