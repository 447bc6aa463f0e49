"""What soft prompts and prefixes have in common in Hugging Face PEFT's format.

PEFT keeps the virtual tokens as they enter the model, and not the network that they come from. Beside them kpeft writes
that network's variables, under names that PEFT passes over, so that training can go on from the file.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_config import COMMON, Fields
from kpeft.adapters.peft_format import PeftFormat, require_same
from kpeft.adapters.peft_modules import head_fields, trained_head
from kpeft.adapters.peft_names import BASE, PeftName
from kpeft.methods import Method, Prompt
from kpeft.methods.fields import check_types
from kpeft.sites import Layout
from kpeft.targets import layer_numbers, named_layers

EMBEDDINGS = "prompt_embeddings"
_HEAD, _NETWORK = "base_model.", "kpeft."
READ: dict[str, Any] = {"num_virtual_tokens": int, "token_dim": int | None}
REFUSED = {"num_transformer_submodules": 1}
# Reasons why a field does not matter.
INITIAL = "how the virtual tokens started"
MADE = "how the virtual tokens were made; matters only where kpeft wrote what makes them beside them"
OF_PREFIXES = "PEFT follows it in prefix tuning only"


class VirtualTokens(PeftFormat):
    """What prompts and prefixes have in common: one tensor of virtual tokens, and the head without `.model`."""

    fields: ClassVar[Fields]
    widths: ClassVar[tuple[str, ...]] = ("token_dim",)  # the fields whose product, so many times, is a token's width
    parts: ClassVar[int] = 1

    @abstractmethod
    def embeddings(self, adaptation: Adaptation) -> np.ndarray[Any, Any]:
        """Returns the virtual tokens, (n, …)."""

    @abstractmethod
    def from_embeddings(self, adaptation: Adaptation, embeddings: np.ndarray[Any, Any]) -> Tensors:
        """Returns the values of the adapter's own variables by structural path.

        Raises:
            ValueError: If the shape does not fit.
        """

    @abstractmethod
    def plain(self, values: dict[str, Any]) -> Method:
        """Returns the method without a network: its virtual tokens are variables."""

    @abstractmethod
    def with_network(self, values: dict[str, Any], config: Mapping[str, Any]) -> Method:
        """Returns the method that a config describes, network included."""

    def method(self, layout: Layout, config: Mapping[str, Any]) -> Method:
        return self.method_for(layout, config, {})

    def method_for(self, layout: Layout, config: Mapping[str, Any], tensors: Tensors) -> Method:
        self.fields.check(config)
        head = trained_head(layout, config)
        if not head or config.get("task_type") not in (None, "SEQ_CLS"):
            raise ValueError(
                f"{self.peft_type} adapters are supported with a saved head (task_type SEQ_CLS). "
                f"Received: task_type={config.get('task_type')!r}"
            )
        self.check_sizes(layout, config, tensors)
        values = {"tokens": config.get("num_virtual_tokens"), "train_head": head}
        check_types(Prompt, values)
        network = any(key.startswith(_NETWORK) for key in tensors)
        return self.with_network(values, config) if network else self.plain(values)

    def check_sizes(self, layout: Layout, config: Mapping[str, Any], tensors: Tensors) -> None:
        """Checks that the sizes that a config names are those of the virtual tokens.

        Raises:
            ValueError: If one is not.
        """
        names = ("num_virtual_tokens", *self.widths)
        if EMBEDDINGS not in tensors or any(config.get(name) is None for name in names):
            return
        shape = tensors[EMBEDDINGS].shape
        if shape != (config[names[0]], self.parts * math.prod(config[name] for name in self.widths)):
            said = ", ".join(f"{name}={config[name]}" for name in names)
            raise ValueError(f"adapter_config.json: {said} do not fit tensor {EMBEDDINGS} of shape {shape}.")

    def names(self, adaptation: Adaptation) -> dict[str, PeftName] | None:
        """Returns where each trained variable of the head lies; all others are the adapters'."""
        layers, own = named_layers(Layout.of(adaptation.model)), self._own(adaptation)
        names = {
            path: self.name(path, layers, adaptation) for path in adaptation.trained_variables() if path not in own
        }
        found = {path: name for path, name in names.items() if name is not None}
        return found if found and len(found) == len(names) and adaptation.method.train_head else None

    def tensors(self, adaptation: Adaptation) -> Tensors:
        head = {_HEAD + key.removeprefix(BASE): value for key, value in super().tensors(adaptation).items()}
        return {EMBEDDINGS: self.embeddings(adaptation), **head, **self._network(adaptation)}

    def values(self, adaptation: Adaptation, tensors: Tensors) -> Tensors:
        if EMBEDDINGS not in tensors:
            raise ValueError(f"the adapter lacks {EMBEDDINGS}.")
        head = {BASE + k.removeprefix(_HEAD): v for k, v in tensors.items() if k.startswith(_HEAD)}
        network = {key: value for key, value in tensors.items() if key.startswith(_NETWORK)}
        surplus = sorted(set(tensors) - {EMBEDDINGS, *network, *(_HEAD + k.removeprefix(BASE) for k in head)})
        if surplus:
            raise ValueError(f"the adapter holds {surplus[0]}, which the model has no place for.")
        if network:
            keys = self._keys(adaptation)
            require_same(set(keys.values()), set(network))
            own = {path: network[key] for path, key in keys.items()}
        else:
            own = dict(self.from_embeddings(adaptation, tensors[EMBEDDINGS]))
        return {**super().values(adaptation, head), **own}

    def _own(self, adaptation: Adaptation) -> set[str]:
        own = {id(v) for adapter in adaptation.adapters.values() for v in adapter.own_trainable_variables}
        return {path for path, variable in adaptation.trained_variables().items() if id(variable) in own}

    def _keys(self, adaptation: Adaptation) -> dict[str, str]:
        start = len(Layout.of(adaptation.model).backbone) + 1
        return {path: _NETWORK + path[start:].replace("/", ".") for path in sorted(self._own(adaptation))}

    def _network(self, adaptation: Adaptation) -> Tensors:
        keys, variables = self._keys(adaptation), adaptation.trained_variables()
        if all(path.endswith(("/prompt", "/prefix")) for path in keys):  # the virtual tokens themselves
            return {}
        return {key: ops.convert_to_numpy(variables[path].value) for path, key in keys.items()}

    def _common(self, adaptation: Adaptation, tokens: int, width: int) -> dict[str, Any]:
        layout = Layout.of(adaptation.model)
        return {
            **COMMON,
            "num_attention_heads": heads(layout),
            "num_layers": max(layer_numbers(layout).values()) + 1,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": tokens,
            "peft_type": self.peft_type,
            "token_dim": width,
            **head_fields(layout, adaptation.method.train_head),
        }


def heads(layout: Layout) -> int:
    """Returns the number of attention heads.

    Raises:
        ValueError: If the model has no attention layers.
    """
    for path, layer in layout.layers.items():
        if path.endswith("self_attention_layer"):
            return int(getattr(layer, "base", layer).num_heads)
    raise ValueError(f"model {layout.model.name!r} has no attention layers.")
