"""Twenty updates exactly as torch, transformers and PEFT make them: tests/training/golden_run.py drives `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import pytest
from golden_run import GOLDENS, add_token_type_row, run_golden

pytestmark = pytest.mark.skipif(GOLDENS is None, reason="KPEFT_GOLDENS_DIR is not set")


def train_all(model: keras.Model, case: Path) -> keras.Model:
    del case
    return model


def train_all_with_token_type(model: keras.Model, case: Path) -> keras.Model:
    assert GOLDENS is not None
    base = json.loads((case / "hyper.json").read_text())["base"]
    add_token_type_row(model, GOLDENS / "peft_goldens" / "bases" / base)
    return model


def train_biases_and_head(model: keras.Model, case: Path) -> keras.Model:
    del case
    head = {id(variable) for variable in model.get_layer("logits").variables}
    for variable in model.trainable_variables:
        variable.trainable = variable.name in ("bias", "beta") or id(variable) in head
    return model


@pytest.mark.parametrize(
    ("case", "prepare"),
    [("full_bert", train_all), ("full_roberta", train_all_with_token_type), ("bitfit_bert", train_biases_and_head)],
)
def test_twenty_updates(case: str, prepare: Any) -> None:
    run_golden(case, prepare, one_width=case != "full_bert")
