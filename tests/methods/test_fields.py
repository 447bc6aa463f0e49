from __future__ import annotations

import dataclasses
import json
import typing
from typing import Any

import pytest

from kpeft.methods import METHODS, BitFit, Freeze, LoRA, Method
from kpeft.methods.fields import (
    describe_fields,
    field_types,
    is_switch,
    method_from_json,
    method_to_json,
    parse_field,
)


@pytest.mark.parametrize(
    ("method", "name", "text", "value"),
    [
        (LoRA, "rank", "16", 16),
        (LoRA, "alpha", "32", 32.0),
        (LoRA, "alpha", "1e-1", 0.1),
        (LoRA, "use_rslora", "true", True),
        (LoRA, "use_rslora", "No", False),
        (LoRA, "train_head", "0", False),
        (LoRA, "train_head", "logits", "logits"),
        (LoRA, "bias", "all", "all"),
        (LoRA, "targets", "all-linear", "all-linear"),
        (LoRA, "targets", "query", "query"),
        (LoRA, "targets", "query,value", ("query", "value")),
        (LoRA, "targets", " query , attention_output ", ("query", "attention_output")),
        (LoRA, "targets", "query,all-linear", ("query", "all-linear")),
        (LoRA, "targets", r".*/(query|value){1,2}_dense", r".*/(query|value){1,2}_dense"),
        (LoRA, "layers", "0,2", (0, 2)),
        (LoRA, "layers", "1", (1,)),
        (LoRA, "layers", "none", None),
        (LoRA, "rank_pattern", "query=4", {"query": 4}),
        (LoRA, "rank_pattern", "query=4, value=2", {"query": 4, "value": 2}),
        (LoRA, "rank_pattern", "(?=q).*=4", {"(?=q).*": 4}),
        (LoRA, "alpha_pattern", "query=0.5", {"query": 0.5}),
        (BitFit, "terms", "query", ("query",)),
        (BitFit, "terms", "query,intermediate", ("query", "intermediate")),
        (BitFit, "terms", "None", None),
        (Freeze, "layers", "3", 3),
        (Freeze, "layers", "none", None),
        (Freeze, "embeddings", "false", False),
    ],
)
def test_values_from_the_command_line(method: type[Method], name: str, text: str, value: Any) -> None:
    parsed = parse_field(method, name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("method", "name", "text", "message"),
    [
        (LoRA, "rank", "8.5", "--rank of method lora cannot be '8.5': expected a whole number"),
        (LoRA, "rank", "", "expected a whole number"),
        (LoRA, "rank", "none", "expected a whole number"),
        (LoRA, "alpha", "big", "--alpha of method lora cannot be 'big': expected a number"),
        (LoRA, "alpha", "inf", "expected a number"),
        (LoRA, "use_rslora", "2", "--use-rslora of method lora cannot be '2': expected true or false"),
        (LoRA, "layers", "0,one", "expected a whole number"),
        (LoRA, "rank_pattern", "query", "expected name=value pairs"),
        (LoRA, "rank_pattern", "query=x", "expected a whole number"),
        (BitFit, "terms", ",", "expected values separated by commas"),
    ],
)
def test_values_that_do_not_fit(method: type[Method], name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_field(method, name, text)


@pytest.mark.parametrize(
    "method",
    [
        *(method() for method in METHODS.values()),
        *(method(train_head=False) for method in METHODS.values()),
        LoRA(rank=4, targets="all-linear", layers=(0, 1), rank_pattern={"query": 2}, alpha_pattern={"value": 0.5}),
        LoRA(alpha=8, dropout=0.1, targets=("query",), use_rslora=True, bias="lora_only"),
        BitFit(terms=("query", "head")),
        Freeze(layers=2, embeddings=False),
    ],
    ids=str,
)
def test_json_round_trip(method: Method) -> None:
    value = json.loads(json.dumps(method_to_json(method)))
    assert value["name"] == method.name
    assert method_from_json(value) == method


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": "lroa"}, "unknown method 'lroa'; known are full, head"),
        ({}, "unknown method None"),
        ({"name": "lora", "rnak": 4}, "method lora has no field rnak"),
        ({"name": "lora", "rank": "8"}, "rank of method lora cannot be '8'"),
        ({"name": "lora", "rank": 2.5}, "rank of method lora cannot be 2.5"),
        ({"name": "lora", "rank": True}, "rank of method lora cannot be True"),
        ({"name": "lora", "alpha": None}, "alpha of method lora cannot be None"),
        ({"name": "lora", "alpha": float("nan")}, "alpha of method lora cannot be nan"),
        ({"name": "lora", "layers": [0, "1"]}, "layers of method lora cannot be"),
        ({"name": "lora", "rank_pattern": [1]}, "rank_pattern of method lora cannot be"),
        ({"name": "lora", "rank_pattern": {"query": "2"}}, "rank_pattern of method lora cannot be"),
        ({"name": "lora", "targets": 3}, "targets of method lora cannot be 3"),
        ({"name": "bitfit", "train_head": 1}, "train_head of method bitfit cannot be 1"),
        ({"name": "lora", "rank": 0}, "rank must be at least 1. Received: rank=0"),
    ],
)
def test_json_that_is_no_method(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_from_json(value)


def test_every_field_has_help_and_a_type_that_can_be_parsed() -> None:
    texts = describe_fields()
    for method in METHODS.values():
        for field in dataclasses.fields(method):
            assert texts[field.name]
            default = method_to_json(method())[field.name]
            kind = field_types(method)[field.name]
            assert is_switch(field.name) == (bool in (kind, *typing.get_args(kind)))
            assert is_switch(field.name) or not isinstance(default, bool)
    assert texts["terms"].startswith("bitfit: whose biases")
    assert texts["layers"].startswith("freeze: how many layers to freeze")
    assert not texts["train_head"].startswith("full")
