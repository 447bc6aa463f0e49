"""A VeRA adapter in Hugging Face PEFT's format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_config import COMMON, Fields, Names
from kpeft.adapters.peft_format import PeftFormat
from kpeft.adapters.peft_modules import head_fields, linear_targets, short_names, trained_head
from kpeft.adapters.peft_names import BASE, PeftName, hugging_face_modules
from kpeft.layers.vera import VeRALinear, VeRAProjection
from kpeft.methods import Method, VeRA
from kpeft.methods.fields import check_types
from kpeft.sites import Layout
from kpeft.targets import NamedLayer

FIELDS = Fields(
    read={
        "d_initial": float,
        "layers_pattern": Names,
        "layers_to_transform": int | list[int] | None,
        "projection_prng_key": int,
        "r": int,
        "save_projection": bool,
        "target_modules": Names,
        "vera_dropout": float,
    },
    refused={"bias": "none"},
    passed_over={
        "fan_in_fan_out": "PEFT sets it to false for every linear layer of an encoder",
        "init_weights": "how the vectors started",
    },
)
_DEFAULT_TARGETS = {"distilbert": ["q_lin", "v_lin"], "deberta_v3": ["query_proj", "value_proj"]}
_MATRICES = ("base_model.vera_A", "base_model.vera_B")


class VeRAFormat(PeftFormat):
    """`VERA`: λ_d and λ_b of each adapted layer, and once for all A (r, in) and B (out, r)."""

    peft_type = "VERA"
    methods = (VeRA,)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method = adaptation.method
        assert isinstance(method, VeRA)
        layout = Layout.of(adaptation.model)
        modules = hugging_face_modules(layout)
        adapted = {module for module, path in modules.items() if path in adaptation.adapters}
        return {
            **COMMON,
            "bias": "none",
            "d_initial": method.d_initial,
            "fan_in_fan_out": False,
            "init_weights": True,
            "layers_pattern": None,
            "layers_to_transform": None,
            "peft_type": self.peft_type,
            "projection_prng_key": method.projection_prng_key,
            "r": method.rank,
            "save_projection": True,
            "target_modules": short_names(adapted, set(modules)),
            "vera_dropout": method.dropout,
            **head_fields(layout, method.train_head),
        }

    def method_for(self, layout: Layout, config: Mapping[str, Any], tensors: Tensors) -> Method:
        method = super().method_for(layout, config, tensors)
        assert isinstance(method, VeRA)
        held, saved = _MATRICES[0] in tensors, config.get("save_projection", True)
        if saved and not held:
            raise ValueError(f"the adapter lacks {_MATRICES[0]}, but adapter_config.json says save_projection=True.")
        if held and not saved:
            raise ValueError(f"adapter_config.json: save_projection=False, but the adapter holds {_MATRICES[0]}.")
        shape = tensors[_MATRICES[0]].shape if held else (method.rank,)
        if shape[:1] != (method.rank,):  # known before matrices of that rank are drawn
            raise ValueError(f"adapter_config.json: r={method.rank}, but tensor {_MATRICES[0]} has shape {shape}.")
        return method

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        FIELDS.check(config)
        train_head = trained_head(layout, config)
        usual = _DEFAULT_TARGETS.get(layout.family.name if layout.family else "", ["query", "value"])
        values = {
            "rank": config.get("r", 256),
            "dropout": config.get("vera_dropout", 0.0),
            "targets": linear_targets(layout, config, usual, train_head=train_head),
            "d_initial": config.get("d_initial", 0.1),
            "projection_prng_key": config.get("projection_prng_key", 0),
            "train_head": train_head,
        }
        check_types(VeRA, values)
        return VeRA(**values)

    def name(self, path: str, layers: Mapping[str, NamedLayer], adaptation: Adaptation) -> PeftName | None:
        layer, _, variable = path.rpartition("/")
        if variable in ("vera_lambda_b", "vera_lambda_d") and layer in layers:
            return PeftName(f"{BASE}{layers[layer].hugging_face}.{variable}", False)
        return super().name(path, layers, adaptation)

    def tensors(self, adaptation: Adaptation) -> Tensors:
        shared = _projection(adaptation)
        matrices = [ops.convert_to_numpy(each.value).T for each in (shared.vera_a, shared.vera_b)]
        return {**super().tensors(adaptation), **dict(zip(_MATRICES, matrices, strict=True))}

    def values(self, adaptation: Adaptation, tensors: Tensors) -> Tensors:
        shared = _projection(adaptation)
        shapes = [tuple(reversed(variable.shape)) for variable in (shared.vera_a, shared.vera_b)]
        if tensors.keys().isdisjoint(_MATRICES):  # save_projection=False
            tensors = {**tensors, **dict(zip(_MATRICES, _draw(shapes, shared.seed), strict=True))}
        for key, shape in zip(_MATRICES, shapes, strict=True):
            if key not in tensors:
                raise ValueError(f"the adapter lacks {key}.")
            if tensors[key].shape != shape:
                raise ValueError(f"tensor {key} has shape {tensors[key].shape}, but the model needs {shape}.")
        values = super().values(adaptation, {key: value for key, value in tensors.items() if key not in _MATRICES})
        shared.vera_a.assign(tensors[_MATRICES[0]].T)
        shared.vera_b.assign(tensors[_MATRICES[1]].T)
        return values


def _draw(shapes: list[tuple[int, ...]], seed: int) -> list[np.ndarray[Any, Any]]:
    """Returns the matrices as PEFT draws them: uniform in ±sqrt(6 / columns), with torch's Mersenne Twister."""
    random = np.random.RandomState(seed)
    drawn = []
    for shape in shapes:
        bound = np.float32(math.sqrt(6 / shape[1]))
        bits = random.randint(0, 2**32, size=shape, dtype=np.uint32) & np.uint32(2**24 - 1)
        drawn.append(bits.astype("float32") * np.float32(2**-24) * (2 * bound) - bound)
    return drawn


def _projection(adaptation: Adaptation) -> VeRAProjection:
    """Returns the matrices that all adapters share."""
    layer = next(iter(adaptation.adapters.values()))
    assert isinstance(layer, VeRALinear)
    return layer.projection
