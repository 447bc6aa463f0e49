"""DoRA: a low-rank change of a kernel's direction beside a trained magnitude of each output.

Liu et al., 2024, https://arxiv.org/abs/2402.09353
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kpeft.layers.linear import finish, full
from kpeft.layers.lora import LoRALayer, OnDense, OnEinsumDense


class DoRALayer(LoRALayer):
    """What DoRA on `Dense` and on `EinsumDense` share; use one of those.

    With the norm of each output's weights, n = ||W + s·A·B|| over the inputs, through which no gradient flows
    (section 4.3 of the paper), and a trained magnitude m (*out) that starts at n::

        y = f(m/n·(x W + s·(x A) B) + b)

    Under dropout only the change of what the base computes sees the dropped input x', as in Hugging Face PEFT; that
    takes a second product with W in each training step::

        y = f(x W + (m/n - 1)·x' W + m/n·s·(x' A) B + b)

    Args:
        base: See `LoRALayer`; so are the other arguments.
        **kwargs: Of `LoRALayer`, but for `lora_bias`.
    """

    def __init__(self, base: Any, **kwargs: Any) -> None:
        if kwargs.get("lora_bias"):
            raise ValueError("DoRA has no lora_bias. Received: lora_bias=True")
        super().__init__(base, **kwargs)

    def build_adapter(self) -> None:
        self.check_last_axes("DoRA")
        super().build_adapter()
        self.magnitude = self.add_weight(
            name="magnitude",
            shape=self.lora_b.shape[1:],
            initializer=lambda shape, dtype: ops.cast(self.norms(), dtype),
            autocast=False,
        )

    def norms(self) -> Any:
        """Returns n = ||W + s·A·B|| of each output, shape (*out).

        From n² = ||w||² + 2s·<Aᵀw, b> + s²·<AᵀA b, b> by columns, which takes thin products only and never forms A B.
        """
        a, b = self.linear_map.matrix(full(self.lora_a)), full(self.lora_b)
        w, b = self.linear_map.matrix(full(self.base.kernel)), ops.reshape(b, (self.rank, -1))
        a, b, w = (ops.stop_gradient(ops.cast(each, "float32")) for each in (a, b, w))
        at, s = ops.transpose(a), self.scaling
        change = 2 * s * ops.matmul(at, w) + s * s * ops.matmul(ops.matmul(at, a), b)
        square = ops.sum(ops.square(w), axis=0) + ops.sum(change * b, axis=0)
        # An output without weights has magnitude 0, too, and stays as it is.
        return ops.reshape(ops.sqrt(ops.maximum(square, 1e-30)), self.lora_b.shape[1:])

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = self.linear_map.project(inputs, self.base.kernel)
        factor = 1 + self.gate * (full(self.magnitude) / self.norms() - 1)
        if training and self.dropout_rate:
            dropped = self.dropout(inputs, training=True)
            base = self.linear_map.project(dropped, self.base.kernel)
            outputs = outputs + (factor - 1) * base + factor * self.change(dropped)
        else:
            outputs = factor * (outputs + self.change(inputs))
        return ops.cast(finish(self.base, outputs), self.compute_dtype)

    def kernel_change(self) -> Any:
        kernel = self.base.kernel
        factor = self.magnitude.value / self.norms()
        return factor * (kernel.value + super().kernel_change()) - kernel.value

    def unmerge(self) -> None:
        if self.merged and self._kernel_before_merge is None:
            raise ValueError(
                f"Layer {self.path} was loaded merged: DoRA's norms are lost in the merged kernel. Keep the adapter."
            )
        super().unmerge()


@keras.saving.register_keras_serializable("kpeft")
class DoRADense(OnDense, DoRALayer):
    """DoRA on a `keras.layers.Dense`; the formula is in `DoRALayer`, what A and B are in `kpeft.layers.LoRADense`.

    Args:
        base: A `keras.layers.Dense`, or the number of units of a new one.
        **kwargs: Of `DoRALayer`.

    Example:
        >>> layer = DoRADense(keras.layers.Dense(64, activation="relu"), rank=4, alpha=8)
    """


@keras.saving.register_keras_serializable("kpeft")
class DoRAEinsumDense(OnEinsumDense, DoRALayer):
    """DoRA on a `keras.layers.EinsumDense`, its kernel read as a matrix as in `kpeft.layers.LoRAEinsumDense`.

    For `abc,cde->abde` with a kernel (d, heads, head_dim) the magnitude is (heads, head_dim).

    Args:
        base: A `keras.layers.EinsumDense` whose kernel lists its contracted axes first.
        **kwargs: Of `DoRALayer`.
    """
