"""(IA)³: a linear layer whose inputs or outputs are scaled one by one.

Liu et al., 2022, https://arxiv.org/abs/2205.05638
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from kpeft.layers.adapter_layer import MergeableAdapter
from kpeft.layers.linear import activate, add_bias, full, kernel_axes, project


@keras.saving.register_keras_serializable("kpeft")
class IA3Linear(MergeableAdapter):
    """(IA)³ on a `keras.layers.Dense` or `EinsumDense`.

    With a scale l that starts at one, so that the layer starts out equal to its base::

        y = f(l ⊙ (x W + b))      l (*out), the default
        y = f((l ⊙ x) W + b)      l (*in), with scale_inputs

    W and b are the base's and frozen; f is its activation. For attention's `abc,cde->abde` with a kernel (d, heads,
    head_dim), out is (heads, head_dim). l has the layer's variable dtype and multiplies in float32.

    Args:
        base: The linear layer to adapt, built or not.
        scale_inputs: Scale the inputs, as (IA)³ does in the feed-forward, in place of the outputs.
        **kwargs: Of `MergeableAdapter`.

    Example:
        >>> layer = IA3Linear(keras.layers.Dense(64, activation="relu"))
    """

    def __init__(self, base: Any, *, scale_inputs: bool = False, **kwargs: Any) -> None:
        kernel_axes(base)  # raises for what cannot be adapted
        super().__init__(base, **kwargs)
        self.scale_inputs = scale_inputs
        self._bias_before_merge: np.ndarray[Any, Any] | None = None

    def build_adapter(self) -> None:
        axes, shape = kernel_axes(self.base), tuple(self.base.kernel.shape)
        if self._scales_bias() and self.base.bias.shape != shape[axes:]:
            raise ValueError(
                f"IA3Linear needs a bias of shape {shape[axes:]} in layer {self.base.path}. "
                f"Received: {self.base.bias.shape}"
            )
        self.scale = self.add_weight(
            name="ia3_scale",
            shape=shape[:axes] if self.scale_inputs else shape[axes:],
            initializer="ones",
            autocast=False,
        )

    def call(self, inputs: Any) -> Any:
        scale = 1 + self.gate * (full(self.scale) - 1)
        if self.scale_inputs:
            scaled = ops.cast(inputs * scale, self.compute_dtype)
            outputs = add_bias(self.base, project(self.base, scaled))
        else:
            outputs = scale * add_bias(self.base, project(self.base, inputs))
        return activate(self.base, outputs)

    def kernel_change(self) -> Any:
        kernel, scale = self.base.kernel, self._kernel_scale()
        return kernel.value * (1 - 1 / scale if self.merged else scale - 1)

    def _kernel_scale(self) -> Any:
        scale = self.scale.value
        if self.scale_inputs:
            rest = len(self.base.kernel.shape) - len(scale.shape)
            return ops.reshape(scale, (*scale.shape, *(1 for _ in range(rest))))
        return scale

    def merge(self) -> None:
        super().merge()
        if self._scales_bias():
            self._bias_before_merge = np.array(ops.convert_to_numpy(self.base.bias.value))
            self.base.bias.assign(self.base.bias.value * self.scale.value)

    def unmerge(self) -> None:
        loaded = self.merged and self._kernel_before_merge is None
        if loaded and not np.all(ops.convert_to_numpy(self.scale.value)):
            raise ValueError(f"Layer {self.path} was loaded merged, and a scale of 0 cannot be taken out again.")
        super().unmerge()
        if self._bias_before_merge is not None:
            self.base.bias.assign(self._bias_before_merge)
            self._bias_before_merge = None
        elif self._scales_bias():
            self.base.bias.assign(self.base.bias.value / self.scale.value)

    def _scales_bias(self) -> bool:
        return not self.scale_inputs and self.base.bias is not None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale_inputs": self.scale_inputs}
