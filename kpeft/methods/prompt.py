"""Prompt tuning: learned vectors before the words (Lester et al., 2021, https://arxiv.org/abs/2104.08691)."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kpeft.methods.method import Lengthening

if TYPE_CHECKING:
    from kpeft.layers.adapter_layer import AdapterLayer
    from kpeft.layers.prompt import PromptEmbedding
    from kpeft.sites import Layout

POOLS, PLACES, STARTS = ("first", "cls"), ("front", "inside"), ("random", "vocabulary")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}. Received: {name}={value!r}")


@dataclass(frozen=True, kw_only=True)
class SoftPrompt(Lengthening):
    """What prompt tuning and P-tuning share: where the virtual tokens are, and which token the head reads.

    Attributes:
        tokens: Number n of virtual tokens. With segment 0, they take positions like any others.
        place: `"front"`, before [CLS], as in Hugging Face PEFT; or `"inside"`, after it.
        pool: Which token the head reads: `"first"` of the longer sequence, in front a virtual one, as in Hugging Face
            PEFT, or `"cls"`.
    """

    tokens: int = field(default=20, metadata={"help": "number of virtual tokens"})
    place: str = field(default="front", metadata={"help": "the virtual tokens' place: front (of [CLS]) or inside"})
    pool: str = field(default="first", metadata={"help": "the token that the head reads: first, maybe virtual, or cls"})

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1. Received: tokens={self.tokens}")
        check_choice("place", self.place, PLACES)
        check_choice("pool", self.pool, POOLS)

    @property
    def positions(self) -> int:
        return self.tokens

    @abstractmethod
    def embed(self, embedding: Any, seed: int) -> PromptEmbedding:
        """Returns the layer that puts virtual tokens among what `embedding` gives."""

    def lengthen(self, layout: Layout, seed: int) -> tuple[Any, Mapping[str, AdapterLayer]]:
        from kpeft.lengthened import lengthen

        own = zlib.crc32(f"{seed}/prompt".encode())
        return lengthen(layout, lambda embedding: self.embed(embedding, own), pool_first=self.pool == "first")

    def trained(self, layout: Layout) -> set[str]:
        return set()


@dataclass(frozen=True, kw_only=True)
class Prompt(SoftPrompt):
    """Learns n vectors that stand before the word embeddings of every row.

    Attributes:
        init: Where they start: `"random"`, from N(0, 1) as in Hugging Face PEFT, or `"vocabulary"`, from the embeddings
            of random tokens.
    """

    name: ClassVar[str] = "prompt"
    summary: ClassVar[str] = "virtual tokens before the words"

    init: str = field(default="random", metadata={"help": "the virtual tokens' start: random or vocabulary"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("init", self.init, STARTS)

    def embed(self, embedding: Any, seed: int) -> PromptEmbedding:
        from kpeft.layers.prompt import PromptEmbedding

        index = PLACES.index(self.place)
        return PromptEmbedding(
            embedding, tokens=self.tokens, index=index, init=self.init, seed=seed, name=embedding.name
        )
