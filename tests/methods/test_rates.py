"""Which variables a method trains faster, slower or later, and that training does so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import kpeft
from kpeft.methods import Rate
from kpeft.sites import Layout
from tests.tiny import tiny_classifier
from tests.training.small_model import make_model, make_rows, run, weights_of


def test_lora_plus_groups_as_in_peft() -> None:
    """peft.optimizers.create_loraplus_optimizer: "lora_B" and all that has one dimension go at the higher rate."""
    adaptation = kpeft.adapt(tiny_classifier("bert"), kpeft.DoRA(rank=2, bias="lora_only", lr_ratio=16))
    rates = adaptation.rates()
    trained = adaptation.trained_variables()
    faster = {path.rpartition("/")[2] for path in trained if rates.get(path) == Rate(16)}
    as_the_run = {path.rpartition("/")[2] for path in trained if path not in rates}
    assert (faster, as_the_run) == ({"lora_b", "magnitude", "bias"}, {"lora_a", "kernel"})
    assert kpeft.adapt(tiny_classifier("bert"), kpeft.LoRA(rank=2)).rates() == {}
    with pytest.raises(ValueError, match="lr_ratio=0"):
        kpeft.LoRA(lr_ratio=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "deberta_v3"])
def test_layers_by_depth(family: Any) -> None:
    layout = Layout.of(tiny_classifier(family))
    rates = kpeft.Full(layer_decay=0.5, unfreeze_every=10).rates(layout)
    assert rates.keys() == layout.variables.keys()
    layers = 1 if family == "albert" else 2  # ALBERT's one group of layers is shared
    found = {kind: {rate for path, rate in rates.items() if kind in path} for kind in ("logits", "_0", "_1", "embed")}
    assert found["logits"] == {Rate(1.0, 0)}
    assert {rate for path, rate in rates.items() if "pooled_dense" in path} <= {Rate(1.0, 0)}
    assert found["embed"] == {Rate(0.5 ** (layers + 1), 10 * (layers + 1))}
    assert set(rates.values()) == {Rate(0.5**depth, 10 * depth) for depth in range(layers + 2)}
    if family == "bert":
        assert (found["_0"], found["_1"]) == ({Rate(0.25, 20)}, {Rate(0.5, 10)})
    assert kpeft.Full().rates(layout) == {}


def test_a_model_without_layers_has_no_depth() -> None:
    for method in (kpeft.Full(layer_decay=0.9), kpeft.Full(unfreeze_every=5)):
        with pytest.raises(ValueError, match="need a KerasHub encoder"):
            kpeft.adapt(make_model(), method)
    for options in ({"layer_decay": 0.0}, {"layer_decay": 1.5}, {"unfreeze_every": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            kpeft.Full(**options)


def test_training_holds_and_scales() -> None:
    """One update of Adam moves each weight by about the rate; what is held does not move at all before its step."""
    rows = make_rows(16)
    moved: list[dict[str, float]] = []
    for steps in (1, 2):
        model = make_model()
        config = kpeft.TrainingConfig(
            batch_size=8, max_steps=steps, learning_rate=1e-3, schedule="constant", warmup=0, weight_decay=0.0
        )
        before = weights_of(model)
        run(model, rows, config, rates={"dense/kernel": Rate(10.0, 0), "embeddings/embeddings": Rate(1.0, 1)})
        after = weights_of(model)
        moved.append({path: float(np.abs(after[path] - before[path]).max()) for path in before})
    assert moved[0]["embeddings/embeddings"] == 0
    assert moved[0]["dense/kernel"] == pytest.approx(1e-2, rel=0.01)
    assert moved[0]["logits/kernel"] == pytest.approx(1e-3, rel=0.01)
    assert moved[1]["embeddings/embeddings"] == pytest.approx(1e-3, rel=0.01)


def test_what_is_never_trained_is_said(caplog: Any) -> None:
    rows, config = make_rows(16), kpeft.TrainingConfig(batch_size=8, max_steps=2)
    run(make_model(), rows, config, rates={"dense/kernel": Rate(1.0, 1)})
    assert "never trained" not in caplog.text
    run(make_model(), rows, config, rates={"dense/kernel": Rate(1.0, 2), "dense/bias": Rate(1.0, 9)})
    message = "2 of 7 variables are never trained: their first step comes after the run's 2 (--unfreeze-every)."
    assert [record.getMessage() for record in caplog.records] == [message]
