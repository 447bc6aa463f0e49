"""The points that the scaling sweep measures, and which of them a file already holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AXES: dict[str, tuple[int, ...]] = {
    "length": (32, 64, 128, 256, 512),
    "batch": (4, 8, 16, 32, 64),
    "rank": (1, 4, 16, 64, 256),
    "layers": (2, 4, 6, 12, 24),
}
LORA = ("lora", "lora_all_linear")


@dataclass(frozen=True)
class Point:
    """Sizes of a training step; the defaults are the point that every axis goes through."""

    precision: str
    length: int = 64
    batch: int = 16
    rank: int = 8
    layers: int = 6

    def __str__(self) -> str:
        return f"{self.precision}, length {self.length}, batch {self.batch}, rank {self.rank}, layers {self.layers}"


def axis_points(precision: str, axis: str) -> list[Point]:
    """The points of one axis, smallest first, the base point among them."""
    values = sorted({*AXES[axis], getattr(Point(precision), axis)})
    return [dataclasses.replace(Point(precision), **{axis: value}) for value in values]


def grid(precisions: Iterable[str], axes: Iterable[str]) -> list[Point]:
    """All points of some axes, each once, the base point first."""
    axes = list(axes)
    points = [p for precision in precisions for axis in axes for p in (Point(precision), *axis_points(precision, axis))]
    return list(dict.fromkeys(points))


def methods_at(point: Point, methods: Iterable[str]) -> list[str]:
    """The methods to measure at a point: only LoRA has a rank."""
    base_rank = point.rank == Point(point.precision).rank
    return [method for method in methods if base_rank or method in LORA]


def missing(result: dict[str, Any], point: Point, methods: Iterable[str]) -> list[str]:
    """Which of these methods a result holds no figures of at a point."""
    held = result["points"].get(str(point), {"methods": {}})["methods"]
    return [method for method in methods_at(point, methods) if method not in held]


def add(result: dict[str, Any], point: Point, figures: dict[str, dict[str, Any]]) -> None:
    """Puts methods' figures at a point into a result, beside those it holds."""
    entry = result["points"].setdefault(str(point), {**dataclasses.asdict(point), "methods": {}})
    entry["methods"].update(figures)


def figures_at(result: dict[str, Any], point: Point, method: str) -> dict[str, Any] | None:
    """What a result holds of a method at a point."""
    figures: dict[str, Any] | None = result["points"].get(str(point), {"methods": {}})["methods"].get(method)
    return figures


def load(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Reads a result to go on with, or begins one.

    Raises:
        ValueError: If the file's points were measured with other settings, or on another machine.
    """
    if not path.exists():
        return {"settings": settings, "points": {}}
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    held = result.get("settings", {})
    other = [name for name in {*settings, *held} if settings.get(name) != held.get(name)]
    if other:
        raise ValueError(
            f"{path} holds points of other settings, so that no new ones go with them: choose another --output. "
            f"Received: {', '.join(f'{n}={settings.get(n)!r}, the file has {held.get(n)!r}' for n in sorted(other))}"
        )
    return result
