"""Pretrained encoders: a preset's name to a classifier and its tokenizer; Keras is imported with the first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpeft.backbones.loading import Backbone, check_max_length, load_backbone, load_classifier, load_model

__all__ = ["Backbone", "check_max_length", "load_backbone", "load_classifier", "load_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from kpeft.backbones import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
