"""P-tuning: prompt tuning through a small network (Liu et al., 2021, https://arxiv.org/abs/2103.10385)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kpeft.methods.prompt import PLACES, SoftPrompt, check_choice

if TYPE_CHECKING:
    from kpeft.layers.prompt import PromptEmbedding

ENCODERS = ("mlp", "lstm")


@dataclass(frozen=True, kw_only=True)
class PTuning(SoftPrompt):
    """Learns n vectors and the network that makes the virtual tokens of them.

    Attributes:
        encoder: `"mlp"`, three linear layers, or `"lstm"`, bidirectional LSTMs and two linear layers.
        hidden: Width of that network. `None` is the width of the word embeddings.
        encoder_layers: How many LSTMs.
        dropout: Share that is dropped between LSTMs in training.
    """

    name: ClassVar[str] = "p-tuning"
    summary: ClassVar[str] = "virtual tokens from a small network"

    encoder: str = field(default="mlp", metadata={"help": "what makes the virtual tokens: mlp or lstm"})
    hidden: int | None = field(default=None, metadata={"help": "width of what makes the virtual tokens"})
    encoder_layers: int = field(default=2, metadata={"help": "number of LSTMs"})
    dropout: float = field(default=0.0, metadata={"help": "dropout between LSTMs"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("encoder", self.encoder, ENCODERS)
        for name in ("hidden", "encoder_layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {name}={value}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Received: dropout={self.dropout}")

    def embed(self, embedding: Any, seed: int) -> PromptEmbedding:
        from kpeft.layers.p_tuning import EncodedPrompt

        return EncodedPrompt(
            embedding,
            tokens=self.tokens,
            index=PLACES.index(self.place),
            seed=seed,
            encoder=self.encoder,
            hidden=self.hidden,
            layers=self.encoder_layers,
            dropout=self.dropout,
            name=embedding.name,
        )
