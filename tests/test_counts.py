"""Trainable parameters of each method on BERT-base and RoBERTa-base, as published and as --list prints them."""

from __future__ import annotations

from typing import Any

import keras_hub
import pytest

import kpeft
from kpeft.backbones.classifier import classifier_from_backbone
from kpeft.listing import TRAINABLE

BASE: dict[str, Any] = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072}


@pytest.fixture(scope="module")
def bert() -> Any:
    return classifier_from_backbone(keras_hub.models.BertBackbone(vocabulary_size=30522, **BASE), 2)


@pytest.fixture(scope="module")
def roberta() -> Any:
    return classifier_from_backbone(keras_hub.models.RobertaBackbone(vocabulary_size=50265, **BASE), 2)


def trainable(model: Any, method: kpeft.Method) -> int:
    adaptation = kpeft.adapt(model, method)
    counts = adaptation.parameter_counts()
    assert counts.trainable == sum(v.value.size for v in adaptation.model.trainable_variables)
    adaptation.detach()
    return counts.trainable


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (kpeft.LoRA(rank=1, targets="query"), 19_970),
        (kpeft.LoRA(rank=4, targets="query"), 75_266),
        (kpeft.LoRA(rank=16, targets="query"), 296_450),
        (kpeft.LoRA(rank=8), 296_450),
        (kpeft.BitFit(), 104_450),
        (kpeft.BitFit(train_head=False), 102_914),
        (kpeft.BitFit(terms=("value",), train_head=False), 9_216),
        (kpeft.IA3(train_head=False), 64_512),
        (kpeft.HeadOnly(), 1_538),
        (kpeft.Full(), 109_483_778),
        (kpeft.Full(train_head=False), 109_483_778 - 1_536),
    ],
)
def test_bert_base(bert: Any, method: kpeft.Method, expected: int) -> None:
    assert trainable(bert, method) == expected


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (kpeft.LoRA(rank=8), 887_042),
        (kpeft.BitFit(), 694_274),
        (kpeft.BitFit(train_head=False), 102_914),
        (kpeft.Full(), 124_644_866),
    ],
)
def test_roberta_base(roberta: Any, method: kpeft.Method, expected: int) -> None:
    assert trainable(roberta, method) == expected


# Two encoders of that size are quantised in a quarter of a minute.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "qlora" else ()) for name in kpeft.METHODS]
)
def test_list_prints_what_is_so(bert: Any, roberta: Any, name: str) -> None:
    method = kpeft.METHODS[name]()
    assert (trainable(bert, method), trainable(roberta, method)) == TRAINABLE[name]
