"""Every method on every family: passing this battery is how a method gets in."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.sites import variable_paths
from tests.tiny import FAMILIES, randomize, tiny_batch, tiny_classifier

CASES = {
    "full": kpeft.Full(),
    "full-frozen-head": kpeft.Full(train_head=False),
    "head": kpeft.HeadOnly(),
    "freeze": kpeft.Freeze(layers=1),
    "bitfit": kpeft.BitFit(),
    "bitfit-terms": kpeft.BitFit(terms=("query", "output_layernorm"), train_head=False),
    "layernorm": kpeft.LayerNorm(),
    "lora": kpeft.LoRA(rank=2, dropout=0.1),
    "lora-all": kpeft.LoRA(rank=3, alpha=5, targets="all-linear", bias="all", rank_pattern={"query": 1}),
    "lora-rs": kpeft.LoRA(rank=4, use_rslora=True, targets=("key", "output"), bias="lora_only", train_head=False),
    "qlora-int8": kpeft.QLoRA(rank=2, quantization="int8", bias="lora_only"),
    "qlora-nf4": kpeft.QLoRA(rank=3, alpha=5, targets="all-linear"),
}
ONE_EACH = ("full", "head", "freeze", "bitfit", "layernorm", "lora-all", "qlora-nf4")
JITTED = [(family, "lora") for family in FAMILIES] + [(f, name) for f in ("bert", "roberta") for name in ONE_EACH]


def values(model: Any) -> Any:
    return {path: keras.ops.convert_to_numpy(v.value).copy() for path, v in variable_paths(model).items()}


def fit_one_step(model: Any, *, eager: Any) -> None:
    batch = tiny_batch(model, rows=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=eager)
    model.fit(batch, np.arange(8) % 2, batch_size=8, verbose=0)


def disturb(adaptation: Any, seed: Any = 1) -> None:
    """Gives every trained variable a random value, so that nothing is zero."""
    rng = np.random.default_rng(seed)
    for variable in adaptation.trained_variables().values():
        variable.assign(keras.ops.convert_to_numpy(variable.value) + rng.normal(0, 0.3, variable.shape))


@pytest.fixture(params=CASES)
def method(request: Any) -> Any:
    return CASES[request.param]


@pytest.fixture(params=FAMILIES)
def family(request: Any) -> Any:
    return request.param


def check_training(family: Any, method: Any, *, eager: Any) -> None:
    model = tiny_classifier(family)
    start = model(tiny_batch(model))
    before = values(model)
    adaptation = kpeft.adapt(model, method, seed=3)
    assert adaptation.model is model
    quantized = isinstance(method, kpeft.QLoRA)
    assert np.array_equal(model(tiny_batch(model)), start) != quantized
    trained = adaptation.trained_variables()
    assert {id(v) for v in trained.values()} == {id(v) for v in model.trainable_variables}
    counts = adaptation.parameter_counts()
    assert counts.trainable == sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    at_start = values(model)
    fit_one_step(model, eager=eager)
    moved = {path for path, value in values(model).items() if not np.array_equal(value, at_start[path])}
    # B starts at zero, so the first step moves no A; some biases of the keys never matter to softmax.
    still = {path for path in set(trained) - moved if not path.endswith(("/lora_a", "/key/bias"))}
    assert moved <= set(trained)
    assert not still, f"declared trainable, but did not move: {sorted(still)}"
    adaptation.detach()
    after = values(model)
    assert after.keys() == before.keys()
    changed = {path for path in before if not np.array_equal(after[path], before[path])}
    assert {path.rpartition("/")[2] for path in changed} == ({"kernel", "embeddings"} if quantized else set())


def test_only_what_is_declared_moves(family: Any, method: Any) -> None:
    check_training(family, method, eager=True)


@pytest.mark.parametrize(("family", "case"), JITTED)
def test_only_what_is_declared_moves_in_a_jitted_step(family: Any, case: Any) -> None:
    check_training(family, CASES[case], eager=False)


@pytest.mark.slow
def test_whole_matrix_jitted(family: Any, method: Any) -> None:
    check_training(family, method, eager=False)


def test_saved_adapter_gives_the_same_outputs_on_a_fresh_model(family: Any, method: Any, tmp_path: Any) -> None:
    model = tiny_classifier(family)
    adaptation = kpeft.adapt(model, method, seed=3)
    disturb(adaptation)
    kpeft.save_adapter(adaptation, tmp_path)
    fresh = tiny_classifier(family)
    batch = tiny_batch(fresh)
    assert np.abs(np.asarray(fresh(batch) - model(batch))).max() > 1e-3
    loaded = kpeft.load_adapter(fresh, tmp_path)
    np.testing.assert_array_equal(fresh(batch), model(batch))
    assert loaded.parameter_counts() == adaptation.parameter_counts()
    assert loaded.trained_variables().keys() == adaptation.trained_variables().keys()


def check_states(family: Any, method: Any, run: Any) -> None:
    """Merged and disabled give what they should through the same warm function."""
    model = tiny_classifier(family)
    batch = tiny_batch(model)
    original = run(model, batch)
    adaptation = kpeft.adapt(model, method, seed=3)
    if isinstance(method, kpeft.QLoRA):  # what it was is given up; it now is the quantised model
        original = run(model, batch)
    disturb(adaptation)
    adapted = run(model, batch)
    assert np.abs(adapted - original).max() > 1e-3
    with adaptation.disabled():
        np.testing.assert_array_equal(run(model, batch), original)
    np.testing.assert_array_equal(run(model, batch), adapted)
    adaptation.merge()
    np.testing.assert_allclose(run(model, batch), adapted, rtol=1e-4, atol=2e-5)
    with adaptation.disabled():
        np.testing.assert_array_equal(run(model, batch), original)
    with pytest.raises(ValueError, match="merged already"):
        adaptation.merge()
    adaptation.unmerge()
    np.testing.assert_array_equal(run(model, batch), adapted)
    with pytest.raises(ValueError, match="not merged"):
        adaptation.unmerge()
    adaptation.merge()
    adaptation.detach()
    np.testing.assert_allclose(run(model, batch), adapted, rtol=1e-4, atol=2e-5)


def test_merged_and_disabled(family: Any, method: Any) -> None:
    check_states(family, method, lambda model, batch: np.asarray(model(batch)))


@pytest.mark.parametrize(("family", "case"), JITTED)
def test_merged_and_disabled_through_a_warm_predict(family: Any, case: Any) -> None:
    check_states(family, CASES[case], lambda model, batch: model.predict(batch, verbose=0))


@pytest.mark.parametrize("case", ["bitfit", "lora-all", "qlora-nf4"])
def test_saved_model_reloads_to_the_same_outputs(family: Any, case: Any, tmp_path: Any) -> None:
    model = tiny_classifier(family)
    adaptation = kpeft.adapt(model, CASES[case], seed=3)
    disturb(adaptation)
    before, flags = values(model), [v.trainable for v in model.weights]
    expected = np.asarray(model(tiny_batch(model)))
    adaptation.save_model(tmp_path / "model.keras")
    assert [v.trainable for v in model.weights] == flags
    assert all(np.array_equal(value, before[path]) for path, value in values(model).items())
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(reloaded(tiny_batch(model)), expected, rtol=1e-4, atol=2e-5)
    assert all(v.trainable for v in reloaded.trainable_variables)
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]


def test_same_seed_same_start(family: Any) -> None:
    starts = []
    for seed in (0, 0, 1):
        adaptation = kpeft.adapt(tiny_classifier(family), CASES["lora"], seed=seed)
        starts.append(
            np.concatenate([np.ravel(v) for p, v in values(adaptation.model).items() if p.endswith("lora_a")])
        )
    np.testing.assert_array_equal(starts[0], starts[1])
    assert np.abs(starts[0] - starts[2]).max() > 0.01


def test_a_target_that_matches_nothing_names_near_paths(family: Any) -> None:
    model = tiny_classifier(family)
    before = values(model)
    with pytest.raises(ValueError, match=r"targets='quary' matches no layer.*self_attention_layer/query"):
        kpeft.adapt(model, kpeft.LoRA(targets="quary"))
    assert values(model).keys() == before.keys()


def test_two_adaptations_in_turn_do_not_disturb_each_other(family: Any) -> None:
    model = tiny_classifier(family)
    batch = tiny_batch(model)
    original = np.asarray(model(batch))
    for method in [method for method in CASES.values() if not isinstance(method, kpeft.QLoRA)]:
        adaptation = kpeft.adapt(model, method)
        disturb(adaptation)
        assert adaptation.detach() is model
        np.testing.assert_array_equal(model(batch), original)


def test_randomize_leaves_nothing_trivial(family: Any) -> None:
    model = tiny_classifier(family)
    randomize(model, 5)
    assert all(np.abs(value).min() > 0 for value in values(model).values())
