"""P-tuning: a prompt that a small network makes (Liu et al., 2021, https://arxiv.org/abs/2103.10385)."""

from __future__ import annotations

import math
import zlib
from typing import Any

import keras
from keras import ops

from kpeft.layers.fast import FastDropout
from kpeft.layers.linear import full
from kpeft.layers.prompt import PromptEmbedding

ENCODERS = ("mlp", "lstm")


@keras.saving.register_keras_serializable("kpeft")
class EncodedPrompt(PromptEmbedding):
    """A prompt P = encoder(E) of learned E, (n, d), as in Hugging Face PEFT; all of it in float32.

    `"mlp"`: P = relu(relu(E W1 + b1) W2 + b2) W3 + b3. `"lstm"`: bidirectional LSTMs over the n rows, then
    P = relu(H W1 + b1) W2 + b2 with H, (n, 2·hidden).

    Args:
        base: See `PromptEmbedding`; so are `tokens`, `index` and `seed`.
        encoder: `"mlp"` or `"lstm"`.
        hidden: Width of the encoder. `None` is d.
        layers: How many LSTMs.
        dropout: Share that is dropped between LSTMs in training.
        **kwargs: Of `PromptEmbedding`.
    """

    def __init__(
        self,
        base: Any,
        *,
        encoder: str = "mlp",
        hidden: int | None = None,
        layers: int = 2,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if encoder not in ENCODERS:
            raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}. Received: encoder={encoder!r}")
        super().__init__(base, **kwargs)
        self.kind = encoder
        self.hidden = hidden or base.output_dim
        self.layer_count = layers
        self.dropout_rate = dropout
        self.encoder = keras.Sequential(self._layers_of_encoder(), name="encoder")

    def _layers_of_encoder(self) -> list[Any]:
        d, h, seed = self.base.output_dim, self.hidden, self.seed
        if self.kind == "mlp":
            return [
                dense(d, h, "first", seed, activation="relu"),
                dense(h, h, "second", seed, activation="relu"),
                dense(h, d, "last", seed),
            ]
        found: list[Any] = []
        for number in range(self.layer_count):
            if number and self.dropout_rate:
                found.append(FastDropout(self.dropout_rate, seed=seed, dtype="float32", name=f"dropout_{number}"))
            found.append(_lstm(h, f"lstm_{number}", seed))
        return [*found, dense(2 * h, 2 * h, "first", seed, activation="relu"), dense(2 * h, d, "last", seed)]

    def build_adapter(self) -> None:
        super().build_adapter()
        self.encoder.build((1, self.tokens, self.base.output_dim))

    def prompt(self, training: bool | None = None) -> Any:
        return self.encoder(ops.expand_dims(full(self.embedding), 0), training=training)[0]

    def get_config(self) -> dict[str, Any]:
        own = {"encoder": self.kind, "hidden": self.hidden, "layers": self.layer_count, "dropout": self.dropout_rate}
        return {**super().get_config(), **own}


def dense(inputs: int, outputs: int, name: str, seed: int | None, **kwargs: Any) -> Any:
    """Returns a float32 `Dense` whose weights and biases start as PyTorch's: uniform within ±1 / sqrt(inputs)."""
    return keras.layers.Dense(
        outputs,
        kernel_initializer=_uniform(inputs, seed, f"{name}/kernel"),
        bias_initializer=_uniform(inputs, seed, f"{name}/bias"),
        dtype="float32",
        name=name,
        **kwargs,
    )


def _lstm(hidden: int, name: str, seed: int | None) -> Any:
    def one_way(direction: str) -> Any:
        return keras.layers.LSTM(
            hidden,
            return_sequences=True,
            go_backwards=direction == "backward",
            unit_forget_bias=False,
            kernel_initializer=_uniform(hidden, seed, f"{name}/{direction}/kernel"),
            recurrent_initializer=_uniform(hidden, seed, f"{name}/{direction}/recurrent"),
            bias_initializer=_uniform(hidden, seed, f"{name}/{direction}/bias"),
            dtype="float32",
            name="lstm" if direction == "forward" else "backward_lstm",
        )

    return keras.layers.Bidirectional(
        one_way("forward"), backward_layer=one_way("backward"), dtype="float32", name=name
    )


def _uniform(inputs: int, seed: int | None, path: str) -> Any:
    limit = 1 / math.sqrt(inputs)
    own = None if seed is None else zlib.crc32(f"{seed}/{path}".encode())
    return keras.initializers.RandomUniform(-limit, limit, seed=own)
