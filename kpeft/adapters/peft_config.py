"""What kpeft makes of the fields of a Hugging Face PEFT configuration: acted on, refused, or passed over."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kpeft.methods.fields import fits

logger = logging.getLogger("kpeft")

PEFT_VERSION = "0.21.2"
"""The release whose formats these are."""

COMMON: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "peft_version": PEFT_VERSION,
    "revision": None,
}
"""Fields of every config that say nothing about the adapter, as kpeft writes them."""

PASSED_OVER: dict[str, str] = {
    "auto_mapping": "names the torch class of the base",
    "base_model_name_or_path": "names the base, which the caller has chosen and the tensors' shapes check",
    "inference_mode": "whether torch is to train the adapter",
    "peft_version": "the release that wrote the file",
    "revision": "the revision of the base",
}
"""Fields of every config that do not matter to an adapter that is there, with the reason."""

Names = str | list[str] | None
"""Type of a field that names modules: a regular expression, or names."""


@dataclass(frozen=True)
class Fields:
    """The fields of one format.

    Attributes:
        read: Fields that kpeft acts on, by the type that each must have.
        refused: Fields that kpeft does not act on, by the value that asks for nothing.
        passed_over: Fields that do not matter to an adapter that is there, by the reason; those of every format apart.
    """

    read: Mapping[str, Any]
    refused: Mapping[str, Any]
    passed_over: Mapping[str, str]

    def check(self, config: Mapping[str, Any]) -> None:
        """Checks that a config asks for nothing that kpeft does not do.

        A field that no format of this release has is named once in the log, as PEFT does.

        Raises:
            ValueError: If a field is of the wrong type or asks for something else, or looks like a known one misspelt.
        """
        read = {"peft_type": str, "task_type": str | None, "modules_to_save": list[str] | None, **self.read}
        known = {*read, *self.refused, *self.passed_over, *PASSED_OVER}
        for field, value in config.items():
            if field in read:
                _check_type(field, value, read[field])
            elif field in self.refused and value and value != self.refused[field]:
                raise ValueError(f"adapter_config.json: {field}={_shown(value)} is not supported.")
            elif field not in known and value not in (None, False, [], {}):
                near = difflib.get_close_matches(field, set(read) - config.keys(), n=1, cutoff=0.9)
                if near:
                    raise ValueError(f"adapter_config.json: {field} is no field of PEFT's; did you mean {near[0]}?")
                _warn(field, value)


def _check_type(field: str, value: Any, kind: Any) -> None:
    if not fits(kind, value):
        name = kind.__name__ if isinstance(kind, type) else str(kind).replace("NoneType", "null")
        raise ValueError(f"adapter_config.json: {field} must be of type {name}. Received: {field}={_shown(value)}")
    for pattern in _patterns(kind, value):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"adapter_config.json: {field}={pattern!r} is no regular expression: {error}") from error


def _patterns(kind: Any, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [rf"(.*\.)?({key})$" for key in value]
    if kind != Names or value is None:
        return []
    return [value] if isinstance(value, str) else value


_warned: set[str] = set()


def _warn(field: str, value: Any) -> None:
    if field not in _warned:
        _warned.add(field)
        logger.warning(
            "adapter_config.json: kpeft knows PEFT %s, and not its field %s=%s, which is left out of account; what a "
            "newer release computes may differ.",
            *(PEFT_VERSION, field, _shown(value)),
        )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
