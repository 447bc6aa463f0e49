"""What all adapter_config.json files of Hugging Face PEFT have in common."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

COMMON: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "peft_version": "0.21.2",  # the release whose formats these are
    "revision": None,
}
"""Fields of every config that say nothing about the adapter, as kpeft writes them."""


def check_fields(config: Mapping[str, Any], *, unused: Mapping[str, Any], known: Set[str]) -> None:
    """Checks that a config asks for nothing that kpeft does not do.

    Args:
        config: What the file holds.
        unused: Fields that kpeft does not act on, with the values that ask for nothing.
        known: Fields that it acts on, or that do not matter.

    Raises:
        ValueError: If a field asks for something else, or is not known and set.
    """
    for field, usual in unused.items():
        if field in config and config[field] != usual and config[field]:
            raise ValueError(f"adapter_config.json: {field}={config[field]!r} is not supported.")
    unknown = sorted(set(config) - known - set(unused))
    unknown = [field for field in unknown if config[field] not in (None, False, [], {})]
    if unknown:
        raise ValueError(
            f"adapter_config.json: {unknown[0]}={config[unknown[0]]!r} is not known to this version of kpeft."
        )
