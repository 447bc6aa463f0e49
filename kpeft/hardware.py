"""hardware.json: what a run was made on, beside result.json, whose schema is fixed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from kpeft.files import write_json
from kpeft.runtime import processor

HARDWARE = "hardware.json"
TYPES = {"platform": str, "device": str, "devices": int, "processor": str, "cores": int}


def write_hardware(folder: str | Path) -> None:
    """Writes what this process computes on into `folder`: JAX's devices, the processor, the cores it may use."""
    import jax

    devices = jax.devices()
    value = {
        "platform": devices[0].platform,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processor": processor()[0],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    }
    write_json(Path(folder) / HARDWARE, value)


def read_hardware(folder: str | Path) -> dict[str, Any] | None:
    """Reads hardware.json from `folder`; `None` where it was not recorded.

    Raises:
        ValueError: If it is damaged.
    """
    path = Path(folder) / HARDWARE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(value[name], kind) for name, kind in TYPES.items()):
            return {name: value[name] for name in TYPES}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    raise ValueError(f"{path} does not say {', '.join(TYPES)}.")
