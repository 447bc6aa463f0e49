"""What a format of Hugging Face PEFT is: one `peft_type`, its configuration and its tensors, both ways."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_modules import can_save, modules_to_save
from kpeft.adapters.peft_names import BASE, PeftName, from_peft, peft_name, to_peft
from kpeft.methods import Method
from kpeft.sites import Layout
from kpeft.targets import NamedLayer, head_layers, named_layers

logger = logging.getLogger("kpeft")


class PeftFormat(ABC):
    """How adapters of some methods lie in PEFT's two files.

    A format with tensors that are no trained variable overrides `extra`; one whose tensors are not the variables at all
    overrides `tensors` and `values`.
    """

    peft_type: ClassVar[str]
    methods: ClassVar[tuple[type[Method], ...]]

    @abstractmethod
    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        """Returns adapter_config.json."""

    @abstractmethod
    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        """Returns the method that a PEFT config describes, for a given model.

        Raises:
            ValueError: If the config asks for what kpeft does not do, or does not fit the model.
        """

    def method_for(self, layout: Layout, config: Mapping[str, Any], tensors: Tensors) -> Method:
        """Returns the method of a file's config, for a format where the tensors matter, too."""
        return self.method(layout, config)

    def reads(self, config: Mapping[str, Any]) -> bool:
        """Whether a config is of this format."""
        return bool(config["peft_type"] == self.peft_type)

    def writes(self, adaptation: Adaptation) -> bool:
        """Whether this format can hold all that an adaptation trained."""
        method = adaptation.method
        return (
            isinstance(method, self.methods)
            and can_save(Layout.of(adaptation.model), method.train_head)
            and self.names(adaptation) is not None
        )

    def name(self, path: str, layers: Mapping[str, NamedLayer], adaptation: Adaptation) -> PeftName | None:
        """Returns where a trained variable lies in the file, or `None` where PEFT has no place for it."""
        return peft_name(path, layers, adaptation.adapters)

    def extra(self, adaptation: Adaptation, names: Mapping[str, PeftName], tensors: Tensors) -> Tensors:
        """Returns what the file holds beside the trained variables.

        Args:
            adaptation: What is saved or loaded.
            names: Where each trained variable lies.
            tensors: The tensors of the trained variables.
        """
        return {}

    def names(self, adaptation: Adaptation) -> dict[str, PeftName] | None:
        """Returns where each trained variable lies, or `None` where PEFT's format cannot hold them all."""
        layers = named_layers(Layout.of(adaptation.model))
        names = {path: self.name(path, layers, adaptation) for path in adaptation.trained_variables()}
        found = {path: name for path, name in names.items() if name is not None}
        return found if len(found) == len(names) else None

    def tensors(self, adaptation: Adaptation) -> Tensors:
        """Returns the tensors of the file."""
        names = self._all_names(adaptation)
        variables = adaptation.trained_variables()
        tensors = {name.key: to_peft(name, ops.convert_to_numpy(variables[p].value)) for p, name in names.items()}
        return {**tensors, **self.extra(adaptation, names, tensors)}

    def values(self, adaptation: Adaptation, tensors: Tensors) -> Tensors:
        """Returns the value of each trained variable by structural path, from the tensors of a file.

        Raises:
            ValueError: If the tensors do not fit the model.
        """
        names = self._all_names(adaptation)
        variables = adaptation.trained_variables()
        kept = _unsaved_head(adaptation, names, tensors)
        names = {path: name for path, name in names.items() if path not in kept}
        keys = {name.key for name in names.values()}
        require_same(keys, set(tensors) - set(self.extra(adaptation, names, tensors)))
        values = {p: from_peft(name, tensors[name.key], tuple(variables[p].shape)) for p, name in names.items()}
        return {**values, **{path: ops.convert_to_numpy(variables[path].value) for path in kept}}

    def _all_names(self, adaptation: Adaptation) -> dict[str, PeftName]:
        names = self.names(adaptation)
        if names is None:
            raise ValueError("the model has adapted layers that Hugging Face's model has not.")
        return names


def _unsaved_head(adaptation: Adaptation, names: Mapping[str, PeftName], tensors: Tensors) -> set[str]:
    """Returns the variables of the head that a file leaves out with their whole module, where it holds another one.

    Such a file is one of DeBERTa's pooler without its classifier.
    """
    head = head_layers(Layout.of(adaptation.model), adaptation.method.train_head)
    tops = {path: modules_to_save(name.key.removeprefix(BASE)) for path, name in names.items() if _layer(path) in head}
    held = {modules_to_save(key.removeprefix(BASE)) for key in tensors}
    if held.isdisjoint(tops.values()):
        return set()
    for top in sorted(set(tops.values()) - held):
        logger.warning("the adapter holds no %s, a part of the head: the model keeps its own.", top)
    return {path for path, top in tops.items() if top not in held}


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


def require_same(expected: set[str], received: set[str]) -> None:
    """Checks that a file holds the tensors that a model needs.

    Raises:
        ValueError: If one is missing or too many.
    """
    missing, surplus = sorted(expected - received), sorted(received - expected)
    if missing:
        raise ValueError(f"the adapter lacks {len(missing)} tensors that the model needs, {missing[0]} first.")
    if surplus:
        raise ValueError(
            f"the adapter holds {len(surplus)} tensors that the model has no place for, {surplus[0]} first."
        )
