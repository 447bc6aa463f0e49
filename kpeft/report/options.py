"""The options of a run, one by one and comparable."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from kpeft.config import DataConfig, TrainingConfig
from kpeft.methods.fields import method_from_json, method_to_json
from kpeft.results import RunResult

UNSET = "none"


def options_of(result: RunResult) -> dict[tuple[str, str], Any]:
    """Returns every option but the seed, with those that older versions did not have at their defaults.

    Returns:
        Values by (scope, name); the scope is the method whose field it is, or "".
    """
    config = result.config
    method = config["method"]
    try:
        method = method_to_json(method_from_json(method))
    except (ValueError, TypeError, AttributeError):  # of another version; what it says is what is compared
        method = dict(method)
    flat: dict[tuple[str, str], Any] = {("", "task"): result.task, ("", "preset"): result.preset}
    parts = method.get("parts") if isinstance(method.get("parts"), list) else [method]
    for part in (part for part in parts if isinstance(part, Mapping)):
        name = str(part.get("name", result.method))
        prefix = f"{name} " if len(parts) > 1 else ""
        flat |= {(name, prefix + field): value for field, value in part.items() if field != "name"}
    flat[("", "method")] = result.method
    for kind, place in ((TrainingConfig, "training"), (DataConfig, "data")):
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        flat |= {("", name): value for name, value in {**defaults, **config[place]}.items() if name != "seed"}
    flat |= {("", name): config.get(name) for name in ("precision", "adapter")}
    taught, masked = (_mapping(config.get(name)) for name in ("distillation", "masked_text"))
    names = {"teacher": "teacher", "distillation_weight": "weight", "temperature": "temperature"}
    flat |= {("", name): taught.get(field) for name, field in names.items()}
    for own in (("", "adapter"), ("", "teacher")):  # a run's own, where each seed has one
        if isinstance(flat[own], str):
            flat[own] = re.sub(rf"\bseed={result.seed}\b", "seed=…", flat[own])
    flat |= {("", "text"): masked.get("text"), ("", "rehearsal"): masked.get("rehearsal", 0)}
    return {name: _plain(value) for name, value in flat.items()}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    """Equal values as one: tuples as lists, whole numbers as int."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sortable(options: Mapping[tuple[str, str], Any]) -> list[tuple[str, float, str]]:
    """Returns what puts configurations in order: numbers by size, all else as text."""
    numbers = (int, float)
    return [
        (name, value if isinstance(value, numbers) else 0, "" if isinstance(value, numbers) else option_text(value))
        for (_, name), value in sorted(options.items())
    ]


def option_text(value: Any) -> str:
    """Writes an option's value for people."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: UNSET}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={option_text(each)}" for name, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(option_text, value)) or "none"
    return str(value)
