"""AdaLoRA: a low-rank change as a sum of weighted directions, which training can drop one by one.

Zhang et al., 2023, https://arxiv.org/abs/2303.10512
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kpeft.layers.linear import full
from kpeft.layers.lora import LoRALayer, OnDense, OnEinsumDense

_STDDEV = 0.02


class AdaLoRALayer(LoRALayer):
    """What AdaLoRA on `Dense` and on `EinsumDense` share; use one of those.

    With e (r) beside LoRA's factors A (*in, r) and B (r, *out), and s = alpha / r for the rank r at the start::

        y = f(x W + s·((dropout(x) A) ⊙ e) B + b)

    e starts at zero, so the layer starts out equal to its base; A and B are normal with a standard deviation of 0.02,
    as in Hugging Face PEFT. What the paper has beside the layer is `kpeft.training.rank_budget`: it keeps A and B near
    orthogonal, and sets the e of what matters least to zero. The scale s stays what it is then.

    Args:
        base: See `LoRALayer`; so are the other arguments.
        rank: Rank r at the start.
        **kwargs: Of `LoRALayer`, but for `use_rslora`, `lora_bias` and `init`.
    """

    def __init__(self, base: Any, *, rank: int = 12, **kwargs: Any) -> None:
        for option, usual in {"use_rslora": False, "lora_bias": False, "init": "default"}.items():
            if kwargs.get(option, usual) != usual:
                raise ValueError(f"AdaLoRA has no {option}. Received: {option}={kwargs[option]!r}")
        super().__init__(base, rank=rank, **kwargs)

    def build_adapter(self) -> None:
        super().build_adapter()
        self.lora_e = self.add_weight(name="lora_e", shape=(self.rank,), initializer="zeros", autocast=False)
        generator = keras.random.SeedGenerator(self.seed)
        for factor in (self.lora_a, self.lora_b):
            factor.assign(keras.random.normal(factor.shape, stddev=_STDDEV, dtype=factor.dtype, seed=generator))

    def change(self, x: Any) -> Any:
        """Returns gate·s·((x A) ⊙ e) B along the split path, without ever forming A B."""
        scale = self.scaling * self.gate * full(self.lora_e)
        return self.linear_map.low_rank(x, self.lora_a, self.lora_b, scale)

    def kernel_change(self) -> Any:
        weighted = self.scaling * self.lora_e.value * self.lora_a.value
        return ops.cast(ops.tensordot(weighted, self.lora_b.value, axes=1), self.base.kernel.dtype)


@keras.saving.register_keras_serializable("kpeft")
class AdaLoRADense(OnDense, AdaLoRALayer):
    """AdaLoRA on a `keras.layers.Dense`; the formula is in `AdaLoRALayer`.

    Args:
        base: A `keras.layers.Dense`, or the number of units of a new one.
        **kwargs: Of `AdaLoRALayer`.

    Example:
        >>> layer = AdaLoRADense(keras.layers.Dense(64, activation="relu"), rank=6, alpha=8)
    """


@keras.saving.register_keras_serializable("kpeft")
class AdaLoRAEinsumDense(OnEinsumDense, AdaLoRALayer):
    """AdaLoRA on a `keras.layers.EinsumDense`, its kernel read as a matrix as in `kpeft.layers.LoRAEinsumDense`.

    Args:
        base: A `keras.layers.EinsumDense` whose kernel lists its contracted axes first.
        **kwargs: Of `AdaLoRALayer`.
    """
