"""LoRA: a low-rank change of a frozen linear layer (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from kpeft.layers.adapter_layer import MergeableAdapter
from kpeft.layers.fast import FastDropout
from kpeft.layers.linear import finish, full
from kpeft.layers.linear_map import LinearMap
from kpeft.layers.starts import OUT_OF_KERNEL, start


class LoRALayer(MergeableAdapter):
    """What LoRA on `Dense` and on `EinsumDense` share; use one of those.

    Args:
        base: The linear layer to adapt, built or not.
        rank: Rank r of the change.
        alpha: Scale of the change: it is multiplied by s = alpha / r.
        dropout: Share of the adapter's input that is dropped in training.
        use_rslora: Take s = alpha / sqrt(r) instead (Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732).
        lora_bias: Add s·c to the outputs with a trained c (*out), which starts at zero.
        init: Where A and B start: `"default"` or as `kpeft.layers.starts` has it. With `"pissa"` and `"olora"` the
            base's kernel becomes W - s·A·B, so that the layer still starts out equal to its base; `disable` puts W
            back. Building makes the start: a layer that is loaded from a file has its residual as base.
        seed: Seed of the start and of the dropout.
        **kwargs: Of `MergeableAdapter`.
    """

    def __init__(
        self,
        base: Any,
        *,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        use_rslora: bool = False,
        lora_bias: bool = False,
        init: str = "default",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if rank < 1:
            raise ValueError(f"rank must be at least 1. Received: rank={rank}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={dropout}")
        if base.quantization_mode is not None or base.lora_enabled:
            raise ValueError(
                f"LoRA needs a plain base layer, but {base.name} is quantised or has Keras's own LoRA enabled."
            )
        super().__init__(base, **kwargs)
        self.linear_map = LinearMap(base, self.compute_dtype)
        self.rank = rank
        self.alpha = alpha
        self.use_rslora = use_rslora
        self.scaling = alpha / (math.sqrt(rank) if use_rslora else rank)
        self.dropout_rate = dropout
        self.lora_bias = lora_bias
        self.init = init
        self.seed = seed
        self.dropout = FastDropout(dropout, seed=seed, dtype=self.dtype_policy, name="dropout")
        # Of pissa and olora: the kernel itself and, while it stands in for it, its residual.
        self._whole_kernel: np.ndarray[Any, Any] | None = None
        self._residual: np.ndarray[Any, Any] | None = None
        self._bias_before_merge: np.ndarray[Any, Any] | None = None

    def build_adapter(self) -> None:
        shape_a, shape_b = self.linear_map.factor_shapes(self.base.kernel, self.rank)
        features_in, features_out = math.prod(shape_a[:-1]), math.prod(shape_b[1:])
        if self.init in OUT_OF_KERNEL and self.rank > min(features_in, features_out):
            raise ValueError(
                f"rank must be at most {min(features_in, features_out)} for init={self.init!r} of layer "
                f"{self.base.path}, which maps {features_in} features to {features_out}. Received: rank={self.rank}"
            )
        bound = 1 / math.sqrt(features_in)
        uniform = keras.initializers.RandomUniform(-bound, bound, seed=self.seed)
        self.lora_a = self.add_weight(name="lora_a", shape=shape_a, initializer=uniform, autocast=False)
        self.lora_b = self.add_weight(name="lora_b", shape=shape_b, initializer="zeros", autocast=False)
        if self.lora_bias:
            self.check_last_axes("lora_bias")
            self.lora_c = self.add_weight(name="lora_bias", shape=shape_b[1:], initializer="zeros", autocast=False)
        if self.init != "default":
            self._start_factors()

    def check_last_axes(self, what: str) -> None:
        """Checks that something of the shape *out fits the outputs.

        Raises:
            ValueError: If they do not end in *out.
        """
        if not self.linear_map.makes_last_axes:
            raise ValueError(
                f"{what} needs outputs that end in the kernel's last axes. Received: equation={self.base.equation!r}"
            )

    def _start_factors(self) -> None:
        kernel = np.array(ops.convert_to_numpy(self.base.kernel.value))
        matrix = kernel.reshape(math.prod(self.lora_a.shape[:-1]), -1)
        a, b = (x.astype("float32") for x in start(self.init, matrix, self.rank, self.scaling, self.seed))
        self.lora_a.assign(a.reshape(self.lora_a.shape))
        self.lora_b.assign(b.reshape(self.lora_b.shape))
        if self.init in OUT_OF_KERNEL:
            change = self.scaling * (a.astype("float64") @ b.astype("float64"))
            self.base.kernel.assign((matrix - change).astype(kernel.dtype).reshape(kernel.shape))
            self._whole_kernel = kernel

    def enable(self) -> None:
        super().enable()
        if self._residual is not None:
            self.base.kernel.assign(self._residual)
            self._residual = None

    def disable(self) -> None:
        super().disable()
        if self._whole_kernel is not None and self._residual is None:
            self._residual = np.array(ops.convert_to_numpy(self.base.kernel.value))
            self.base.kernel.assign(self._whole_kernel)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = self.linear_map.project(inputs, self.base.kernel)
        outputs = outputs + self.change(self.dropout(inputs, training=training))
        return ops.cast(finish(self.base, outputs), self.compute_dtype)

    def change(self, x: Any) -> Any:
        """Returns gate·s·((x A) B + c) along the split path, without ever forming A B."""
        scale = self.scaling * self.gate
        change = self.linear_map.low_rank(x, self.lora_a, self.lora_b, scale)
        return change + scale * full(self.lora_c) if self.lora_bias else change

    def kernel_change(self) -> Any:
        change = self.scaling * ops.tensordot(self.lora_a.value, self.lora_b.value, axes=1)
        return ops.cast(change, self.base.kernel.dtype)

    def merge(self) -> None:
        if self.lora_bias and self.base.bias is None:
            raise ValueError(f"Layer {self.path} has lora_bias, but its base has no bias to merge it into.")
        super().merge()
        if self.lora_bias:
            self._bias_before_merge = np.array(ops.convert_to_numpy(self.base.bias.value))
            self.base.bias.assign_add(self._bias_change())

    def unmerge(self) -> None:
        super().unmerge()
        if self._bias_before_merge is not None:
            self.base.bias.assign(self._bias_before_merge)
            self._bias_before_merge = None
        elif self.lora_bias:
            self.base.bias.assign_sub(self._bias_change())

    def _bias_change(self) -> Any:
        return ops.reshape(self.scaling * self.lora_c.value, self.base.bias.shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout_rate,
            "use_rslora": self.use_rslora,
            "lora_bias": self.lora_bias,
            "init": "default" if self.built else self.init,
            "seed": self.seed,
        }


class OnDense:
    """Of a `LoRALayer` that wraps a `keras.layers.Dense`, or makes one of so many units."""

    def __init__(self, base: Any, **kwargs: Any) -> None:
        if isinstance(base, int):
            base = keras.layers.Dense(base)
        if not isinstance(base, keras.layers.Dense):
            raise ValueError(
                f"{type(self).__name__} wraps a keras.layers.Dense or makes one of so many units. Received: {base!r}"
            )
        super().__init__(base, **kwargs)  # type: ignore[call-arg]


class OnEinsumDense:
    """Of a `LoRALayer` that wraps a `keras.layers.EinsumDense`."""

    def __init__(self, base: Any, **kwargs: Any) -> None:
        if not isinstance(base, keras.layers.EinsumDense):
            raise ValueError(f"{type(self).__name__} wraps a keras.layers.EinsumDense. Received: {base!r}")
        super().__init__(base, **kwargs)  # type: ignore[call-arg]


@keras.saving.register_keras_serializable("kpeft")
class LoRADense(OnDense, LoRALayer):
    """LoRA on a `keras.layers.Dense`: y = f(x W + s·(dropout(x) A) B + b).

    W (in, out) and b (out,) are the base's and frozen; f is the base's activation. A (in, r) starts uniform in
    ±1/sqrt(in), B (r, out) at zero, so the layer starts out equal to its base. Both have the layer's variable dtype.
    The two thin products take the place of the gradient of W, which is never computed.

    Args:
        base: A `keras.layers.Dense`, or the number of units of a new one.
        rank: See `LoRALayer`; so are `alpha`, `dropout`, `use_rslora`, `lora_bias`, `init` and `seed`.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> layer = LoRADense(keras.layers.Dense(64, activation="relu"), rank=4, alpha=8)
    """


@keras.saving.register_keras_serializable("kpeft")
class LoRAEinsumDense(OnEinsumDense, LoRALayer):
    """LoRA on a `keras.layers.EinsumDense`, as attention uses for query, key, value and output.

    The kernel is read as a matrix from all axes that the equation contracts to all axes that it makes, so that the
    change has rank r whatever the number of heads: for `abc,cde->abde` with a kernel (d, heads, head_dim), A is (d, r)
    and B (r, heads, head_dim); for `abcd,cde->abe` with (heads, head_dim, d), A is (heads, head_dim, r) and B (r, d).
    Formula, start and dtypes are those of `LoRADense`.

    Args:
        base: A `keras.layers.EinsumDense` whose kernel lists its contracted axes first.
        rank: See `LoRALayer`; so are `alpha`, `dropout`, `use_rslora`, `lora_bias`, `init` and `seed`.
        **kwargs: Of `keras.layers.Layer`.
    """
