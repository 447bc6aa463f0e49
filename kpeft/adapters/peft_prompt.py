"""Soft prompts in Hugging Face PEFT's format: prompt tuning and P-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from keras import ops

from kpeft.adaptation import Adaptation
from kpeft.adapters.folder import Tensors
from kpeft.adapters.peft_config import Fields
from kpeft.adapters.peft_virtual_tokens import INITIAL, MADE, OF_PREFIXES, READ, REFUSED, VirtualTokens
from kpeft.layers.prompt import PromptEmbedding
from kpeft.methods import Method, Prompt, PTuning
from kpeft.methods.fields import check_types
from kpeft.sites import Layout

_STARTS = {"random": "RANDOM", "vocabulary": "SAMPLE_VOCAB"}


class PromptFormat(VirtualTokens):
    """`PROMPT_TUNING`: virtual tokens before the word embeddings."""

    peft_type = "PROMPT_TUNING"
    methods: ClassVar[tuple[type[Method], ...]] = (Prompt,)
    fields = Fields(
        read={**READ, "prompt_tuning_init": str},
        refused=REFUSED,
        passed_over={
            "num_attention_heads": OF_PREFIXES,
            "num_layers": OF_PREFIXES,
            "prompt_tuning_init_text": INITIAL,
            "tokenizer_kwargs": INITIAL,
            "tokenizer_name_or_path": INITIAL,
        },
    )

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
    fields = Fields(
        read=READ,
        refused=REFUSED,
        passed_over={
            "encoder_dropout": MADE,
            "encoder_hidden_size": MADE,
            "encoder_num_layers": MADE,
            "encoder_reparameterization_type": MADE,
            "num_attention_heads": OF_PREFIXES,
            "num_layers": OF_PREFIXES,
        },
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


def _prompt(adaptation: Adaptation) -> tuple[str, PromptEmbedding]:
    return next((path, layer) for path, layer in adaptation.adapters.items() if isinstance(layer, PromptEmbedding))
