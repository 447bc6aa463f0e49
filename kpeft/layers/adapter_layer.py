"""What every adapter layer is: a Keras layer around a base layer, with a gate that switches its change on and off."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import keras
import numpy as np
from keras import ops


class AdapterLayer(keras.layers.Layer):
    """Wraps `base` and adds a learned change to what it computes.

    The change is multiplied by `gate`, a scalar variable that is 1 when the adapter is on and 0 when it is off or
    merged. It is a variable and no Python flag, so that functions which JAX has compiled follow it.

    The base layer is frozen when the adapter is made. As everywhere in Keras, setting `trainable` on a layer resets the
    flags of all variables below it, the base's included.

    Args:
        base: The layer to adapt, built or not.
        **kwargs: Of `keras.layers.Layer`. `dtype` is the base's unless given.
    """

    def __init__(self, base: Any, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", base.dtype_policy)
        super().__init__(**kwargs)
        base.trainable = False
        self.base = base
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        if not self.base.built:
            self.base.build(input_shape)
        self.base.trainable = False  # variables made by the line above do not inherit the flag
        self.gate = self.add_weight(
            name="gate", shape=(), initializer="ones", trainable=False, dtype="float32", autocast=False
        )
        self.build_adapter()

    @abstractmethod
    def build_adapter(self) -> None:
        """Makes the adapter's own variables; the base is built by then."""

    @property
    def own_trainable_variables(self) -> list[Any]:
        """The variables that training moves, the base's left out."""
        own = (child for child in self._layers if child is not self.base)
        return [*self._trainable_variables, *(v for child in own for v in child.trainable_variables)]

    def enable(self) -> None:
        """Switches the change on."""
        self.gate.assign(1.0)

    def disable(self) -> None:
        """Switches the change off: the layer computes what `base` computes."""
        self.gate.assign(0.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.base.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "base": keras.saving.serialize_keras_object(self.base)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        config["base"] = keras.saving.deserialize_keras_object(config["base"])
        return cls(**config)


class MergeableAdapter(AdapterLayer):
    """An adapter whose change can be folded into the base's kernel.

    Args:
        base: A layer with a `kernel`.
        merged: Whether the base's kernel already holds the change (set when a merged layer is loaded).
        **kwargs: Of `AdapterLayer`.
    """

    def __init__(self, base: Any, *, merged: bool = False, **kwargs: Any) -> None:
        super().__init__(base, **kwargs)
        self._merged = merged
        self._kernel_before_merge: np.ndarray[Any, Any] | None = None

    @abstractmethod
    def kernel_change(self) -> Any:
        """Returns the change of the base's kernel, in the kernel's shape and dtype."""

    def check_mergeable(self) -> None:
        """Checks that the layer's options make it a change of a kernel.

        Raises:
            ValueError: If not.
        """

    @property
    def merged(self) -> bool:
        """Whether the base's kernel holds the change."""
        return self._merged

    def merge(self) -> None:
        """Adds the change to the base's kernel and closes the gate.

        Raises:
            ValueError: If the layer is merged already, or cannot be.
        """
        self.check_mergeable()
        if self._merged:
            raise ValueError(f"Layer {self.path} is merged already; call unmerge() first.")
        kernel = self.base.kernel
        self._kernel_before_merge = np.array(ops.convert_to_numpy(kernel.value))
        kernel.assign_add(self.kernel_change())
        self.gate.assign(0.0)
        self._merged = True

    def unmerge(self) -> None:
        """Takes the change out of the base's kernel again and opens the gate.

        The kernel is then bit for bit what it was before `merge`; in a layer that was loaded merged, up to rounding.

        Raises:
            ValueError: If the layer is not merged.
        """
        if not self._merged:
            raise ValueError(f"Layer {self.path} is not merged; there is nothing to unmerge.")
        kernel = self.base.kernel
        if self._kernel_before_merge is None:
            kernel.assign_sub(self.kernel_change())
        else:
            kernel.assign(self._kernel_before_merge)
            self._kernel_before_merge = None
        self.gate.assign(1.0)
        self._merged = False

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "merged": self._merged}
