"""kpeft: parameter-efficient fine-tuning of Keras 3 encoders on JAX.

Names are loaded when they are first used, so that `import kpeft` loads neither Keras nor JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kpeft._version import __version__

if TYPE_CHECKING:
    from kpeft.adaptation import Adaptation, ParameterCounts
    from kpeft.adapters import load_adapter, save_adapter
    from kpeft.adapters.combine import combine_adapters
    from kpeft.backbones import load_classifier, load_model
    from kpeft.backbones.huggingface_export import save_huggingface
    from kpeft.backbones.kerashub_export import save_kerashub
    from kpeft.config import DataConfig, RunConfig, TrainingConfig
    from kpeft.experiment import run_experiment
    from kpeft.glue.tasks import TASKS
    from kpeft.methods import (
        IA3,
        METHODS,
        AdaLoRA,
        BitFit,
        Bottleneck,
        Compacter,
        DoRA,
        Freeze,
        Full,
        HeadOnly,
        LayerNorm,
        LoHa,
        LoKr,
        LoRA,
        Method,
        Prefix,
        Prompt,
        PTuning,
        QLoRA,
        Union,
        VeRA,
    )
    from kpeft.named import NamedAdapters
    from kpeft.placing import adapt
    from kpeft.results import RunResult

# In the order a user meets them.
_MODULES = {
    "load_classifier": "kpeft.backbones",
    "adapt": "kpeft.placing",
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
    "IA3": "kpeft.methods",
    "DoRA": "kpeft.methods",
    "AdaLoRA": "kpeft.methods",
    "VeRA": "kpeft.methods",
    "LoHa": "kpeft.methods",
    "LoKr": "kpeft.methods",
    "Prompt": "kpeft.methods",
    "PTuning": "kpeft.methods",
    "Prefix": "kpeft.methods",
    "Union": "kpeft.methods",
    "Bottleneck": "kpeft.methods",
    "Compacter": "kpeft.methods",
    "QLoRA": "kpeft.methods",
    "save_adapter": "kpeft.adapters",
    "load_adapter": "kpeft.adapters",
    "NamedAdapters": "kpeft.named",
    "combine_adapters": "kpeft.adapters.combine",
    "load_model": "kpeft.backbones",
    "save_huggingface": "kpeft.backbones.huggingface_export",
    "save_kerashub": "kpeft.backbones.kerashub_export",
    "TASKS": "kpeft.glue.tasks",
    "RunConfig": "kpeft.config",
    "DataConfig": "kpeft.config",
    "TrainingConfig": "kpeft.config",
    "run_experiment": "kpeft.experiment",
    "RunResult": "kpeft.results",
}
_SUBMODULES = ("layers",)

__all__ = [
    "IA3",
    "METHODS",
    "TASKS",
    "AdaLoRA",
    "Adaptation",
    "BitFit",
    "Bottleneck",
    "Compacter",
    "DataConfig",
    "DoRA",
    "Freeze",
    "Full",
    "HeadOnly",
    "LayerNorm",
    "LoHa",
    "LoKr",
    "LoRA",
    "Method",
    "NamedAdapters",
    "PTuning",
    "ParameterCounts",
    "Prefix",
    "Prompt",
    "QLoRA",
    "RunConfig",
    "RunResult",
    "TrainingConfig",
    "Union",
    "VeRA",
    "__version__",
    "adapt",
    "combine_adapters",
    "load_adapter",
    "load_classifier",
    "load_model",
    "run_experiment",
    "save_adapter",
    "save_huggingface",
    "save_kerashub",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"kpeft.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module 'kpeft' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*_MODULES, *_SUBMODULES, "__version__"]
