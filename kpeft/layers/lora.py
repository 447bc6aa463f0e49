"""LoRA: a low-rank change of a frozen linear layer (Hu et al., 2021, https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import keras
from keras import ops

from kpeft.layers.adapter_layer import MergeableAdapter
from kpeft.layers.fast import FastDropout
from kpeft.layers.linear import finish, linear, matrix_axes


class LoRALayer(MergeableAdapter):
    """What LoRA on `Dense` and on `EinsumDense` share; use one of those.

    Args:
        base: The linear layer to adapt, built or not.
        rank: Rank r of the change.
        alpha: Scale of the change: it is multiplied by s = alpha / r.
        dropout: Share of the adapter's input that is dropped in training.
        use_rslora: Take s = alpha / sqrt(r) instead (Kalajdzievski, 2023, https://arxiv.org/abs/2312.03732).
        seed: Seed of the start of A and of the dropout.
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
        self.rank = rank
        self.alpha = alpha
        self.use_rslora = use_rslora
        self.scaling = alpha / (math.sqrt(rank) if use_rslora else rank)
        self.dropout_rate = dropout
        self.seed = seed
        self.dropout = FastDropout(dropout, seed=seed, dtype=self.dtype_policy, name="dropout")

    @abstractmethod
    def factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the shapes of A and B, for the built base."""

    @abstractmethod
    def project(self, x: Any) -> Any:
        """Returns the base's linear map of `x`, before bias and activation."""

    @abstractmethod
    def low_rank(self, x: Any) -> Any:
        """Returns s·gate·(x A) B along the split path, without ever forming A B."""

    def build_adapter(self) -> None:
        shape_a, shape_b = self.factor_shapes()
        features_in, features_out = math.prod(shape_a[:-1]), math.prod(shape_b[1:])
        if self.rank > min(features_in, features_out):
            raise ValueError(
                f"rank must be at most {min(features_in, features_out)} for layer {self.base.path}, which maps "
                f"{features_in} features to {features_out}. Received: rank={self.rank}"
            )
        bound = 1 / math.sqrt(features_in)
        uniform = keras.initializers.RandomUniform(-bound, bound, seed=self.seed)
        self.lora_a = self.add_weight(name="lora_a", shape=shape_a, initializer=uniform, autocast=False)
        self.lora_b = self.add_weight(name="lora_b", shape=shape_b, initializer="zeros", autocast=False)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        outputs = self.project(inputs)
        outputs = outputs + self.low_rank(self.dropout(inputs, training=training))
        return ops.cast(finish(self.base, outputs), self.compute_dtype)

    def kernel_change(self) -> Any:
        change = self.scaling * ops.tensordot(self.lora_a.value, self.lora_b.value, axes=1)
        return ops.cast(change, self.base.kernel.dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout_rate,
            "use_rslora": self.use_rslora,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("kpeft")
class LoRADense(LoRALayer):
    """LoRA on a `keras.layers.Dense`: y = f(x W + s·(dropout(x) A) B + b).

    W (in, out) and b (out,) are the base's and frozen; f is the base's activation. A (in, r) starts uniform in
    ±1/sqrt(in), B (r, out) at zero, so the layer starts out equal to its base. Both have the layer's variable dtype.
    The two thin products take the place of the gradient of W, which is never computed.

    Args:
        base: A `keras.layers.Dense`, or the number of units of a new one.
        rank: See `LoRALayer`; so are `alpha`, `dropout`, `use_rslora` and `seed`.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> layer = LoRADense(keras.layers.Dense(64, activation="relu"), rank=4, alpha=8)
    """

    def __init__(self, base: Any, **kwargs: Any) -> None:
        if isinstance(base, int):
            base = keras.layers.Dense(base)
        if not isinstance(base, keras.layers.Dense):
            raise ValueError(f"LoRADense wraps a keras.layers.Dense or makes one of so many units. Received: {base!r}")
        super().__init__(base, **kwargs)

    def factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        features_in, features_out = self.base.kernel.shape
        return (features_in, self.rank), (self.rank, features_out)

    def project(self, x: Any) -> Any:
        return linear(x, self.base.kernel)

    def low_rank(self, x: Any) -> Any:
        hidden = linear(x, self.lora_a) * (self.scaling * self.gate)
        return linear(ops.cast(hidden, self.compute_dtype), self.lora_b)


@keras.saving.register_keras_serializable("kpeft")
class LoRAEinsumDense(LoRALayer):
    """LoRA on a `keras.layers.EinsumDense`, as attention uses for query, key, value and output.

    The kernel is read as a matrix from all axes that the equation contracts to all axes that it makes, so that the
    change has rank r whatever the number of heads: for `abc,cde->abde` with a kernel (d, heads, head_dim), A is (d, r)
    and B (r, heads, head_dim); for `abcd,cde->abe` with (heads, head_dim, d), A is (heads, head_dim, r) and B (r, d).
    Formula, start and dtypes are those of `LoRADense`.

    Args:
        base: A `keras.layers.EinsumDense` whose kernel lists its contracted axes first.
        rank: See `LoRALayer`; so are `alpha`, `dropout`, `use_rslora` and `seed`.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, base: Any, **kwargs: Any) -> None:
        if not isinstance(base, keras.layers.EinsumDense):
            raise ValueError(f"LoRAEinsumDense wraps a keras.layers.EinsumDense. Received: {base!r}")
        self._contracted, self._down, self._up = _split_equation(base.equation)
        self._is_matrix = matrix_axes(base.equation) is not None
        super().__init__(base, **kwargs)

    def factor_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        shape = tuple(self.base.kernel.shape)
        return (*shape[: self._contracted], self.rank), (self.rank, *shape[self._contracted :])

    def project(self, x: Any) -> Any:
        if self._is_matrix:
            return linear(x, self.base.kernel, self._contracted)
        return ops.einsum(self.base.equation, x, ops.cast(self.base.kernel, x.dtype))

    def low_rank(self, x: Any) -> Any:
        scale = self.scaling * self.gate
        if self._is_matrix:
            hidden = linear(x, self.lora_a, self._contracted) * scale
            return linear(ops.cast(hidden, self.compute_dtype), self.lora_b)
        hidden = ops.einsum(self._down, x, ops.cast(self.lora_a, x.dtype)) * scale
        return ops.einsum(self._up, ops.cast(hidden, x.dtype), ops.cast(self.lora_b, x.dtype))


def _split_equation(equation: str) -> tuple[int, str, str]:
    """Splits `x,w->y` into `x,a->h` and `h,b->y`; returns the number of contracted kernel axes and both equations."""
    inputs, rest = equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    contracted = [label for label in kernel if label not in outputs]
    made = [label for label in kernel if label in outputs]
    if not contracted or any(label in inputs for label in made) or kernel != "".join(contracted + made):
        raise ValueError(
            "LoRAEinsumDense needs an equation whose kernel first lists the axes it contracts, then those it makes, "
            f"such as 'abc,cde->abde'. Received: equation={equation!r}"
        )
    rank = next(label for label in "rstuvwxyzabcdefghijklmnopq" if label not in equation)
    hidden = "".join(label for label in inputs if label not in contracted) + rank
    return (
        len(contracted),
        f"{inputs},{''.join(contracted)}{rank}->{hidden}",
        f"{hidden},{rank}{''.join(made)}->{outputs}",
    )
