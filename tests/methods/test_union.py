"""Several methods on one model."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import kpeft
from kpeft.families import HEADS
from kpeft.methods.fields import method_from_json, method_to_json
from tests.tiny import tiny_batch, tiny_classifier


def test_plus_makes_a_union_of_parts() -> None:
    union = kpeft.LoRA(rank=4) + kpeft.BitFit() + kpeft.IA3(targets="key", feedforward=())
    assert union.name == "lora+bitfit+ia3"
    assert union == kpeft.Union(parts=(kpeft.LoRA(rank=4), kpeft.BitFit(), kpeft.IA3(targets="key", feedforward=())))
    assert method_from_json(method_to_json(union)) == union


def test_what_any_part_trains_is_trained() -> None:
    alone = [set(kpeft.adapt(tiny_classifier("bert"), m).trained_variables()) for m in (kpeft.LoRA(), kpeft.BitFit())]
    together = set(kpeft.adapt(tiny_classifier("bert"), kpeft.LoRA() + kpeft.BitFit()).trained_variables())
    assert together == alone[0] | alone[1]


def test_of_the_head_the_most_that_a_part_asks_for_is_trained() -> None:
    for other, most in itertools.combinations(HEADS, 2):
        assert (kpeft.LoRA(train_head=other) + kpeft.BitFit(train_head=most)).train_head == most


@pytest.mark.parametrize("second", [True, False])
def test_one_part_that_trains_the_head_is_enough(second: bool) -> None:
    union = kpeft.LoRA(train_head=False) + kpeft.LayerNorm(train_head=second)
    assert union.train_head is second
    trained = kpeft.adapt(tiny_classifier("bert"), union).trained_variables()
    assert ("logits/kernel" in trained) is second


def test_the_parts_changes_add_up() -> None:
    """With LoRA on the query and a scale on the value, each as it is alone."""
    lora, ia3 = kpeft.LoRA(targets="query"), kpeft.IA3(targets="value", feedforward=())
    model, rng = tiny_classifier("bert"), np.random.default_rng(0)
    batch = tiny_batch(model)
    adaptation = kpeft.adapt(model, lora + ia3, seed=3)
    values = {p: rng.normal(1, 0.3, v.shape) for p, v in adaptation.trained_variables().items()}
    for path, variable in adaptation.trained_variables().items():
        variable.assign(values[path])
    expected = np.asarray(model(batch))
    adaptation.detach()
    for part in (lora, ia3):
        alone = kpeft.adapt(model, part)
        for path, variable in alone.trained_variables().items():
            variable.assign(values[path])
        alone.merge()
        alone.detach()
    np.testing.assert_allclose(np.asarray(model(batch)), expected, rtol=1e-4, atol=1e-5)


def test_rates_of_the_first_part_count() -> None:
    union = kpeft.LoRA(lr_ratio=16, bias="all") + kpeft.Full(layer_decay=0.5)
    rates = kpeft.adapt(tiny_classifier("bert"), union).rates()
    assert {rate.factor for path, rate in rates.items() if path.endswith("/lora_b")} == {16}
    assert len({rate.factor for path, rate in rates.items() if path.endswith("/kernel")}) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kpeft.LoRA() + kpeft.LoRA(rank=2), r"each once. Received: lora\+lora"),
        (lambda: kpeft.Union(parts=(kpeft.LoRA(),)), "two methods or more"),
        (lambda: kpeft.LoRA() + kpeft.Prompt(), "method prompt makes a new model and goes with no other"),
    ],
)
def test_what_does_not_go_together(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_two_parts_on_one_layer_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"methods lora and ia3 both adapt layer .*/value: give one other targets"):
        kpeft.adapt(tiny_classifier("bert"), kpeft.LoRA() + kpeft.IA3())
