"""kpeft: parameter-efficient fine-tuning of Keras 3 encoders on JAX.

Names are loaded when they are first used, so that `import kpeft` loads neither Keras nor JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kpeft._version import __version__

if TYPE_CHECKING:
    from kpeft.adaptation import Adaptation, ParameterCounts, adapt
    from kpeft.adapters import load_adapter, save_adapter
    from kpeft.backbones import load_classifier, load_model
    from kpeft.config import DataConfig, RunConfig, TrainingConfig
    from kpeft.experiment import run_experiment
    from kpeft.glue.tasks import TASKS
    from kpeft.methods import METHODS, BitFit, Freeze, Full, HeadOnly, LayerNorm, LoRA, Method, QLoRA
    from kpeft.results import RunResult

# In the order a user meets them.
_MODULES = {
    "load_classifier": "kpeft.backbones",
    "adapt": "kpeft.adaptation",
    "Adaptation": "kpeft.adaptation",
    "ParameterCounts": "kpeft.adaptation",
    "METHODS": "kpeft.methods",
    "Method": "kpeft.methods",
    "Full": "kpeft.methods",
    "HeadOnly": "kpeft.methods",
    "Freeze": "kpeft.methods",
    "BitFit": "kpeft.methods",
    "LayerNorm": "kpeft.methods",
    "LoRA": "kpeft.methods",
    "QLoRA": "kpeft.methods",
    "save_adapter": "kpeft.adapters",
    "load_adapter": "kpeft.adapters",
    "load_model": "kpeft.backbones",
    "TASKS": "kpeft.glue.tasks",
    "RunConfig": "kpeft.config",
    "DataConfig": "kpeft.config",
    "TrainingConfig": "kpeft.config",
    "run_experiment": "kpeft.experiment",
    "RunResult": "kpeft.results",
}
_SUBMODULES = ("layers",)

__all__ = [
    "METHODS",
    "TASKS",
    "Adaptation",
    "BitFit",
    "DataConfig",
    "Freeze",
    "Full",
    "HeadOnly",
    "LayerNorm",
    "LoRA",
    "Method",
    "ParameterCounts",
    "QLoRA",
    "RunConfig",
    "RunResult",
    "TrainingConfig",
    "__version__",
    "adapt",
    "load_adapter",
    "load_classifier",
    "load_model",
    "run_experiment",
    "save_adapter",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"kpeft.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'kpeft' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*_MODULES, *_SUBMODULES, "__version__"]
