"""Soft prompts and prefixes in Hugging Face PEFT's format.

PEFT keeps the virtual tokens as they enter the model, and not the network that they come from. Beside them kpeft writes
that network's variables, under names that PEFT passes over, so that training can go on from the file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_config import COMMON, check_fields
from kpeft.adapters.peft_format import PeftFormat, require_same
from kpeft.adapters.peft_modules import head_fields, saves_head
from kpeft.adapters.peft_names import BASE, PeftName
from kpeft.layers.prefix import PrefixAttention
from kpeft.layers.prompt import PromptEmbedding
from kpeft.methods import Method, Prefix, Prompt, PTuning
from kpeft.methods.fields import check_types
from kpeft.sites import Layout
from kpeft.targets import layer_numbers, named_layers

EMBEDDINGS = "prompt_embeddings"
_HEAD, _NETWORK = "base_model.", "kpeft."
_STARTS = {"random": "RANDOM", "vocabulary": "SAMPLE_VOCAB"}
_SHAPES = ("num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim")
_KNOWN = {*COMMON, *_SHAPES, "modules_to_save", "peft_type", "task_type"}


class _VirtualTokens(PeftFormat):
    """What prompts and prefixes have in common: one tensor of virtual tokens, and the head without `.model`."""

    own_fields: tuple[str, ...] = ()
    unused: Mapping[str, Any] = {}

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
        check_fields(config, unused=self.unused, known=_KNOWN | set(self.own_fields))
        if not saves_head(layout, config):
            raise ValueError(f"{self.peft_type} adapters are supported with a saved head (task_type SEQ_CLS).")
        values = {"tokens": config.get("num_virtual_tokens")}
        check_types(Prompt, values)
        network = any(key.startswith(_NETWORK) for key in tensors)
        return self.with_network(values, config) if network else self.plain(values)

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
        attention = [layer for path, layer in layout.layers.items() if path.endswith("self_attention_layer")]
        return {
            **COMMON,
            "num_attention_heads": getattr(attention[0], "base", attention[0]).num_heads,
            "num_layers": max(layer_numbers(layout).values()) + 1,
            "num_transformer_submodules": 1,
            "num_virtual_tokens": tokens,
            "peft_type": self.peft_type,
            "token_dim": width,
            **head_fields(layout, train_head=True),
        }


class PromptFormat(_VirtualTokens):
    """`PROMPT_TUNING`: virtual tokens before the word embeddings."""

    peft_type = "PROMPT_TUNING"
    methods: ClassVar[tuple[type[Method], ...]] = (Prompt,)
    own_fields = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path")

    def writes(self, adaptation: Adaptation) -> bool:
        method = adaptation.method
        if not isinstance(method, Prompt | PTuning) or (method.place, method.pool) != ("front", "first"):
            return False
        return super().writes(adaptation)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method = adaptation.method
        assert isinstance(method, Prompt)
        return {
            **self._common(adaptation, method.tokens, _prompt(adaptation)[1].base.output_dim),
            "prompt_tuning_init": _STARTS[method.init],
            "prompt_tuning_init_text": None,
            "tokenizer_kwargs": None,
            "tokenizer_name_or_path": None,
        }

    def method_for(self, layout: Layout, config: Mapping[str, Any], tensors: Tensors) -> Method:
        method = super().method_for(layout, config, tensors)
        sampled = config.get("prompt_tuning_init") == "SAMPLE_VOCAB"
        return Prompt(tokens=method.tokens, init="vocabulary") if isinstance(method, Prompt) and sampled else method

    def plain(self, values: dict[str, Any]) -> Method:
        return Prompt(**values)

    def with_network(self, values: dict[str, Any], config: Mapping[str, Any]) -> Method:
        return Prompt(**values)

    def embeddings(self, adaptation: Adaptation) -> np.ndarray[Any, Any]:
        return np.asarray(ops.convert_to_numpy(ops.convert_to_tensor(_prompt(adaptation)[1].prompt())))

    def from_embeddings(self, adaptation: Adaptation, embeddings: np.ndarray[Any, Any]) -> Tensors:
        return {f"{_prompt(adaptation)[0]}/prompt": embeddings}


class PTuningFormat(PromptFormat):
    """`P_TUNING`: virtual tokens before the word embeddings, from a network; without its variables a plain prompt."""

    peft_type = "P_TUNING"
    methods = (PTuning,)
    own_fields = (
        "encoder_dropout",
        "encoder_hidden_size",
        "encoder_num_layers",
        "encoder_reparameterization_type",
    )

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method = adaptation.method
        assert isinstance(method, PTuning)
        width = _prompt(adaptation)[1].base.output_dim
        return {
            **self._common(adaptation, method.tokens, width),
            "encoder_dropout": method.dropout,
            "encoder_hidden_size": method.hidden or width,
            "encoder_num_layers": method.encoder_layers,
            "encoder_reparameterization_type": method.encoder.upper(),
        }

    def with_network(self, values: dict[str, Any], config: Mapping[str, Any]) -> Method:
        values = {
            **values,
            "encoder": str(config.get("encoder_reparameterization_type")).lower(),
            "hidden": config.get("encoder_hidden_size"),
            "encoder_layers": config.get("encoder_num_layers"),
            "dropout": config.get("encoder_dropout"),
        }
        check_types(PTuning, values)
        return PTuning(**values)


class PrefixFormat(_VirtualTokens):
    """`PREFIX_TUNING`: keys and values of all layers, (n, 2·layers·d); without the projection's variables, unprojected.

    PEFT has it for models that take past keys and values: BERT, RoBERTa, XLM-RoBERTa and ELECTRA.
    """

    peft_type = "PREFIX_TUNING"
    methods = (Prefix,)
    own_fields = ("encoder_hidden_size", "init_weights", "prefix_projection")
    families = ("bert", "roberta", "xlm_roberta", "electra")

    def writes(self, adaptation: Adaptation) -> bool:
        method, family = adaptation.method, Layout.of(adaptation.model).family
        if not isinstance(method, Prefix) or method.gated or family is None:
            return False
        return family.name in self.families and super().writes(adaptation)

    def config(self, adaptation: Adaptation) -> dict[str, Any]:
        method = adaptation.method
        assert isinstance(method, Prefix)
        base = next(iter(_prefixes(adaptation).values())).base
        width = base.num_heads * base.key_dim
        return {
            **self._common(adaptation, method.tokens, width),
            "encoder_hidden_size": method.hidden or width,
            "init_weights": None,
            "prefix_projection": method.projection,
        }

    def plain(self, values: dict[str, Any]) -> Method:
        return Prefix(**values)

    def with_network(self, values: dict[str, Any], config: Mapping[str, Any]) -> Method:
        values = {**values, "projection": True, "hidden": config.get("encoder_hidden_size")}
        check_types(Prefix, values)
        return Prefix(**values)

    def embeddings(self, adaptation: Adaptation) -> np.ndarray[Any, Any]:
        layers = [ops.convert_to_tensor(layer.prefix()) for layer in _prefixes(adaptation).values()]
        return np.concatenate([ops.convert_to_numpy(each).reshape(len(each), -1) for each in layers], axis=1)

    def from_embeddings(self, adaptation: Adaptation, embeddings: np.ndarray[Any, Any]) -> Tensors:
        layers = _prefixes(adaptation)
        shapes = [tuple(layer.own_prefix.shape) for layer in layers.values()]
        expected = (shapes[0][0], sum(int(np.prod(shape[1:])) for shape in shapes))
        if embeddings.shape != expected:
            raise ValueError(f"tensor {EMBEDDINGS} has shape {embeddings.shape}, but the model needs {expected}.")
        parts = np.split(embeddings, len(layers), axis=1)
        return {f"{path}/prefix": part.reshape(s) for path, part, s in zip(layers, parts, shapes, strict=True)}


def _prompt(adaptation: Adaptation) -> tuple[str, PromptEmbedding]:
    return next((path, layer) for path, layer in adaptation.adapters.items() if isinstance(layer, PromptEmbedding))


def _prefixes(adaptation: Adaptation) -> dict[str, PrefixAttention]:
    return {path: layer for path, layer in adaptation.adapters.items() if isinstance(layer, PrefixAttention)}
