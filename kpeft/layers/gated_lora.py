"""LoRA behind a gate, as a part of UniPELT (Mao et al., 2022, https://arxiv.org/abs/2110.07577)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kpeft.layers.gate import InputGate
from kpeft.layers.linear import finish, kernel_axes
from kpeft.layers.lora import LoRALayer
from kpeft.layers.starts import OUT_OF_KERNEL


@keras.saving.register_keras_serializable("kpeft")
class GatedLoRA(LoRALayer):
    """LoRA on a `keras.layers.Dense` or `EinsumDense`, each row's change scaled by a gate that reads the layer's input.

    ::

        y = f(x W + G(x)·s·((dropout(x) A) B + c) + b)

    G is `kpeft.layers.InputGate`'s, one number for each row; the rest is `LoRALayer`'s, with s = alpha / r beside G,
    and c with `lora_bias` only. The change is then no change of a kernel: it cannot be merged.

    Args:
        base: A `keras.layers.Dense`, or an `EinsumDense` that is one matrix product.
        **kwargs: Of `LoRALayer`; `init` leaves the base's kernel as it is.

    Example:
        >>> layer = GatedLoRA(keras.layers.Dense(64, activation="relu"), rank=4, alpha=8)
    """

    def __init__(self, base: Any, **kwargs: Any) -> None:
        axes = kernel_axes(base)  # raises for what cannot be adapted
        init = kwargs.get("init", "default")
        if init in OUT_OF_KERNEL:
            raise ValueError(f"a gated LoRA starts beside the base's kernel, not out of it. Received: init={init!r}")
        super().__init__(base, **kwargs)
        self.input_gate = InputGate(axes, self.seed, dtype=self.dtype_policy, name="input_gate")

    def build_adapter(self) -> None:
        super().build_adapter()
        self.input_gate.build(self.base.kernel.shape[: self.linear_map.contracted])

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = self.linear_map.project(inputs, self.base.kernel)
        change = self.change(self.dropout(inputs, training=training))
        outputs = outputs + self.input_gate(inputs, ndim=len(outputs.shape)) * change
        return ops.cast(finish(self.base, outputs), self.compute_dtype)

    def check_mergeable(self) -> None:
        raise ValueError(
            f"layer {self.path} is gated: its change depends on each row's input and cannot be merged into a kernel; "
            "keep what was learned with save_adapter, or train without gated."
        )
