"""Twenty updates exactly as torch, transformers and PEFT make them: tests/training/golden_run.py drives `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import pytest

import kpeft
from tests.training.golden_run import GOLDENS, run_golden

pytestmark = pytest.mark.skipif(GOLDENS is None, reason="KPEFT_GOLDENS_DIR is not set")


def full(model: keras.Model, case: Path) -> Any:
    del case
    return kpeft.adapt(model, kpeft.Full()).model


def bitfit(model: keras.Model, case: Path) -> Any:
    del case
    return kpeft.adapt(model, kpeft.BitFit()).model


def lora(model: keras.Model, case: Path) -> Any:
    return kpeft.load_adapter(model, case / "start").model


@pytest.mark.parametrize(
    ("case", "prepare"),
    [
        pytest.param("full_bert", full, marks=pytest.mark.slow),
        pytest.param("full_roberta", full, marks=pytest.mark.slow),
        ("bitfit_bert", bitfit),
        ("lora_query_value_bert", lora),
        pytest.param("lora_query_value_roberta", lora, marks=pytest.mark.slow),
        pytest.param("lora_all_linear_bert", lora, marks=pytest.mark.slow),
        ("lora_regression_bert", lora),
    ],
)
def test_twenty_updates(case: str, prepare: Any) -> None:
    run_golden(case, prepare, one_width=case != "full_bert")
