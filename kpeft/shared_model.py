"""One model for runs of several seeds and LoRA ranks: what they have in common once, what differs for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kpeft.adaptation import Adaptation
from kpeft.adapters import save_adapter
from kpeft.at_once import rank_of
from kpeft.backbones.loading import load_backbone
from kpeft.config import RunConfig
from kpeft.data import Data, load_data
from kpeft.experiment import ADAPTER, POLICIES, describe, method_of, place_method, start_at_mean
from kpeft.frontier import split
from kpeft.glue.sources import open_source
from kpeft.glue.tasks import Task
from kpeft.hardware import write_hardware
from kpeft.layers.lora import LoRALayer
from kpeft.results import RunResult
from kpeft.sites import variable_paths
from kpeft.training import TrainingResult
from kpeft.training.state import trained_variables

Values = dict[str, np.ndarray]


class SharedModel:
    """The model of the first seed, with LoRA of the largest rank, and where each run starts on it.

    A smaller rank r is padded: columns of A and rows of B that are zero have no gradient and stay zero, and a gate of
    s_r / s in place of 1 turns the scale s of the largest rank into the run's own. Every seed's model is loaded as a
    run of its own would load it, and what differs from the first is kept.

    Args:
        task: The task.
        configs: The runs.

    Attributes:
        data: The rows.
        classifier: The model. Training must leave its variables as they are.
        trainee: What to train in its place: the same, with frozen lower layers as in inference, as in a single run.
        differing: Those of its variables that differ between runs, by path.
        rates: Of variables that are trained faster, slower or later, by path.
        budget: What of low-rank changes is dropped as training goes on.

    Raises:
        ValueError: If the preset, the data or the method does not fit.
    """

    def __init__(self, task: Task, configs: Sequence[RunConfig]) -> None:
        self._starts: dict[tuple[int, int | None], Values] = {}
        self._scalings: dict[int | None, dict[str, float]] = {}
        largest = max(configs, key=lambda config: rank_of(config.method) or 0)
        source = open_source(
            data_dir=largest.data.data_dir, tfds_dir=largest.data.tfds_dir, offline=largest.data.offline
        )
        frozen: set[str] = set()
        shared: dict[str, Any] = {}
        for seed in dict.fromkeys(config.training.seed for config in configs):
            backbone = load_backbone(largest.preset, task.num_classes, seed=seed, dtype=POLICIES[largest.precision])
            if not shared:
                virtual = method_of(largest, backbone.classifier).positions
                self.data: Data = load_data(task, source, backbone, largest.data, virtual)
            if task.regression and backbone.head_is_new and self.data.train is not None:
                start_at_mean(backbone.classifier, self.data.train)
            own = [config for config in configs if config.training.seed == seed]
            adaptation = self._place_each(backbone.classifier, own, _with_seed(largest, seed))
            variables = variable_paths(adaptation.model)
            if not shared:
                shared, self._adaptation, self._placed = variables, adaptation, rank_of(largest.method)
            unlike = _values({p: v for p, v in variables.items() if not v.trainable and _differ(v, shared[p])})
            for config in own:
                self._starts[_kind(config)] |= unlike
            frozen |= set(unlike)
        self.classifier: keras.Model = self._adaptation.model
        parts = split(self.classifier)
        self.trainee: keras.Model = parts.joined if parts else self.classifier
        self.differing: dict[str, Any] = {
            **trained_variables(self.trainee, shared),
            **{path: shared[path] for path in sorted(frozen)},
        }
        if len(self._scalings) > 1:
            self.differing |= {_gate(path): layer.gate for path, layer in _lora_layers(self._adaptation)}
        self.rates, self.budget = self._adaptation.rates(), self._adaptation.budget()
        self._common = _values(self.differing)
        self._largest = rank_of(largest.method)

    def _place_each(self, classifier: keras.Model, configs: Iterable[RunConfig], largest: RunConfig) -> Adaptation:
        """Notes where runs of one seed start; leaves the largest rank on the model."""
        by_rank = {rank_of(config.method): config for config in configs}
        by_rank.pop(rank_of(largest.method), None)
        for config in [*by_rank.values(), largest]:
            adaptation = place_method(classifier, config)
            self._starts[_kind(config)] = _values(adaptation.trained_variables())
            self._scalings[rank_of(config.method)] = {p: layer.scaling for p, layer in _lora_layers(adaptation)}
            if config is not largest:
                adaptation.detach()
        return adaptation

    def start(self, config: RunConfig) -> Values:
        """Returns where a run starts: its value of each variable in `differing`, in that variable's shape."""
        values = self._common | self._starts[_kind(config)]
        scalings, largest = self._scalings[rank_of(config.method)], self._scalings[self._largest]
        values |= {_gate(path): np.array(scaling / largest[path], np.float32) for path, scaling in scalings.items()}
        return {path: _padded(values[path], variable.shape) for path, variable in self.differing.items()}

    def write(self, config: RunConfig, trained: TrainingResult) -> RunResult:
        """Writes what a run that has ended leaves. The model is of no use for training afterwards."""
        if rank_of(config.method) != self._placed:
            self._adaptation.detach()
            self._adaptation, self._placed = place_method(self.classifier, config), rank_of(config.method)
        weights = trained.best_weights
        assert weights is not None
        for path, variable in self._adaptation.trained_variables().items():
            variable.assign(weights[path][tuple(slice(size) for size in variable.shape)])
        save_adapter(self._adaptation, Path(config.output_dir) / ADAPTER)
        result = describe(config, self._adaptation, self.data, trained)
        write_hardware(config.output_dir)
        result.write(config.output_dir)
        return result


def _kind(config: RunConfig) -> tuple[int, int | None]:
    return config.training.seed, rank_of(config.method)


def _with_seed(config: RunConfig, seed: int) -> RunConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, seed=seed))


def _lora_layers(adaptation: Adaptation) -> list[tuple[str, LoRALayer]]:
    return [(path, layer) for path, layer in adaptation.adapters.items() if isinstance(layer, LoRALayer)]


def _gate(path: str) -> str:
    return f"{path}/gate"


def _values(variables: dict[str, Any]) -> Values:
    return {path: np.array(keras.ops.convert_to_numpy(variable.value)) for path, variable in variables.items()}


def _differ(variable: Any, other: Any) -> bool:
    first, second = (keras.ops.convert_to_numpy(each.value) for each in (variable, other))
    return variable is not other and not np.array_equal(first, second)


def _padded(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`value` with zeros after it."""
    whole = np.zeros(shape, value.dtype)
    whole[tuple(slice(size) for size in value.shape)] = value
    return whole
