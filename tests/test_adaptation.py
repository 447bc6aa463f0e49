"""Merging with a check, and what a failed merge leaves behind."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.sites import variable_paths
from tests.tiny import tiny_batch, tiny_classifier


def values(model: Any) -> Any:
    return {path: np.array(keras.ops.convert_to_numpy(v.value)) for path, v in variable_paths(model).items()}


@pytest.mark.parametrize("damage", [np.nan, np.inf, 1e38])
def test_a_safe_merge_changes_nothing_where_a_kernel_is_not_finite(damage: float) -> None:
    model = tiny_classifier("bert")
    adaptation = kpeft.adapt(model, kpeft.LoRA(rank=2))
    rng = np.random.default_rng(0)
    for variable in adaptation.trained_variables().values():
        variable.assign(rng.normal(size=variable.shape))
    batch = tiny_batch(model)
    outputs = np.asarray(model(batch))
    adaptation.merge(safe=True)
    np.testing.assert_allclose(model(batch), outputs, atol=1e-5)
    adaptation.unmerge()
    last = list(adaptation.adapters)[-1]
    adaptation.adapters[last].lora_b.assign(np.full((2, 2, 8), damage))  # 1e38 overflows in the sum over the rank
    before, outputs = values(model), np.asarray(model(batch))
    with pytest.raises(ValueError, match=f"merging layer {last} gives numbers that are not finite; nothing was merged"):
        adaptation.merge(safe=True)
    assert not adaptation.merged
    assert not any(adapter.merged for adapter in adaptation.adapters.values())
    after = values(model)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[path], before[path], equal_nan=True) for path in before)
    np.testing.assert_array_equal(model(batch), outputs)
    adaptation.merge()  # unchecked: it is the caller's wish
    assert adaptation.merged
