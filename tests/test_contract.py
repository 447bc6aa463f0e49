"""Every method on every family: passing this battery is how a method gets in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import pytest

import kpeft
from kpeft.layers import MergeableAdapter
from kpeft.methods.method import Lengthening
from kpeft.sites import variable_paths
from kpeft.training.optimizer import is_decayed
from tests.tiny import FAMILIES, randomize, tiny_batch, tiny_classifier

CASES = {
    "full": kpeft.Full(),
    "full-frozen-head": kpeft.Full(train_head=False),
    "head": kpeft.HeadOnly(),
    "freeze": kpeft.Freeze(layers=1),
    "bitfit": kpeft.BitFit(),
    "bitfit-terms": kpeft.BitFit(terms=("value", "output_layernorm"), train_head=False),
    "layernorm": kpeft.LayerNorm(),
    "layernorm-terms": kpeft.LayerNorm(terms=("output_layernorm",), train_head=False),
    "lora": kpeft.LoRA(rank=2, dropout=0.1),
    "lora-all": kpeft.LoRA(rank=3, alpha=5, targets="all-linear", bias="all", rank_pattern={"query": 1}),
    "lora-pissa": kpeft.LoRA(rank=2, init="pissa", targets=("query", "attention_output", "output")),
    "lora-plus": kpeft.LoRA(rank=2, lr_ratio=16, lora_bias=True),
    "dora": kpeft.DoRA(rank=3, alpha=4, dropout=0.1, targets="all-linear"),
    "adalora": kpeft.AdaLoRA(rank=4, target_rank=2, dropout=0.1),
    "lora-gated": kpeft.LoRA(rank=2, gated=True, targets=("value", "output"), dropout=0.1),
    "lora-rs": kpeft.LoRA(rank=4, use_rslora=True, targets=("key", "output"), bias="lora_only", train_head=False),
    "vera": kpeft.VeRA(rank=5, dropout=0.1),
    "vera-all": kpeft.VeRA(rank=3, targets="all-linear", projection_prng_key=7, train_head="logits"),
    "loha": kpeft.LoHa(rank=2),
    "lokr": kpeft.LoKr(rank=2),
    "lokr-both": kpeft.LoKr(rank=1, decompose_both=True, targets="all-linear", train_head=False),
    "union": kpeft.LoRA(rank=2, train_head=False) + kpeft.BitFit(terms=("output",)),
    "ia3": kpeft.IA3(),
    "ia3-some": kpeft.IA3(targets=("query", "intermediate", "output"), feedforward="intermediate", train_head="pooler"),
    "prompt": kpeft.Prompt(tokens=3),
    "prompt-cls": kpeft.Prompt(tokens=1, pool="cls", init="vocabulary", train_head=False),
    "p-tuning": kpeft.PTuning(tokens=2),
    "prefix": kpeft.Prefix(tokens=2),
    "prefix-projection": kpeft.Prefix(tokens=3, projection=True, hidden=5, dropout=0.1, train_head=False),
    "qlora": kpeft.QLoRA(rank=3, alpha=5, targets="all-linear"),
    "qlora-int8": kpeft.QLoRA(rank=2, quantization="int8", bias="lora_only"),
    "bottleneck": kpeft.Bottleneck(size=3),
    "bottleneck-pfeiffer": kpeft.Bottleneck(size=2, style="pfeiffer", activation="relu", train_layernorm=True),
    "bottleneck-parallel": kpeft.Bottleneck(size=3, style="parallel", scale=4.0, train_head=False),
    "compacter": kpeft.Compacter(size=8),
    "compacter-pfeiffer": kpeft.Compacter(size=4, phm_dim=2, rank=2, style="pfeiffer", train_head=False),
    "bottleneck-gated": kpeft.Bottleneck(size=3, style="parallel", gated=True),
    "unipelt": kpeft.LoRA(rank=2, gated=True)
    + kpeft.Prefix(tokens=2, gated=True)
    + kpeft.Bottleneck(size=3, style="pfeiffer", gated=True),
}
# What a step may leave where it is: softmax takes no notice of a number that is added to all scores of a query.
IDLE = "/key/bias"
ONE_EACH = (
    "full",
    "head",
    "freeze",
    "bitfit",
    "layernorm",
    "lora-all",
    "dora",
    "qlora",
    "adalora",
    "ia3",
    "vera",
    "loha",
    "lokr",
    "bottleneck",
    "bottleneck-parallel",
    "compacter",
    "prompt",
    "p-tuning",
    "prefix",
    "unipelt",
)
# One of each way to change a model; the rest differ in the layer that is placed, which knows of no family.
EVERYWHERE = ("bitfit", "lora-all", "bottleneck", "prompt", "prefix")
VIRTUAL_TOKENS = (Lengthening, kpeft.Prefix)
WARM = [(family, "lora") for family in FAMILIES] + [
    pytest.param("bert", name, marks=() if name in ONE_EACH else pytest.mark.slow) for name in CASES if name != "lora"
]


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


def includes(method: Any, kinds: Any) -> bool:
    return any(isinstance(part, kinds) for part in getattr(method, "parts", (method,)))


def fits(family: Any, method: Any) -> bool:
    return family != "deberta_v3" or not includes(method, kpeft.Prefix)


@pytest.fixture(params=FAMILIES)
def family(request: Any) -> Any:
    return request.param


def case_rounds(method: Any) -> bool:
    return isinstance(method, kpeft.LoRA) and method.init == "pissa"


# Some cases on BERT, some of them on all families; the rest where there is time.
def pairs(on_bert: Iterable[str], *everywhere: str) -> list[Any]:
    return [
        pytest.param(
            family,
            case,
            marks=() if case in everywhere or (family == "bert" and case in on_bert) else pytest.mark.slow,
        )
        for family in FAMILIES
        for case in CASES
        if fits(family, CASES[case])
    ]


PAIRS = pairs(CASES, *EVERYWHERE)
SAVED = pairs(CASES, "bitfit", "lora-all", "prompt")
FEW = pairs(ONE_EACH, "lora-all")


def check_training(family: Any, method: Any, *, eager: Any) -> None:
    model = tiny_classifier(family)
    start = model(tiny_batch(model))
    before = values(model)
    adaptation = kpeft.adapt(model, method, seed=3)
    adapted = adaptation.model
    assert (adapted is model) is not isinstance(method, Lengthening)
    if not includes(method, kpeft.Prefix):  # which starts with random keys
        # PiSSA splits the kernel in two, which adds up to it up to rounding.
        near = np.allclose(model(tiny_batch(model)), start, rtol=0, atol=1e-5 if case_rounds(method) else 0)
        assert near is not isinstance(method, kpeft.QLoRA)
    trained = adaptation.trained_variables()
    assert {id(v) for v in trained.values()} == {id(v) for v in adapted.trainable_variables}
    counts = adaptation.parameter_counts()
    assert counts.trainable == sum(int(np.prod(v.shape)) for v in adapted.trainable_variables)
    decayed = {path for path, v in trained.items() if "bias" in v.name and is_decayed(v)}
    assert not decayed, f"weight decay on biases: {sorted(decayed)}"
    disturb(adaptation)  # else what is multiplied by zeros at the start has no gradient yet
    at_start = values(adapted)
    fit_one_step(adapted, eager=eager)
    moved = {path for path, value in values(adapted).items() if not np.array_equal(value, at_start[path])}
    still = {path for path in set(trained) - moved if not path.endswith(IDLE)}
    assert moved <= set(trained)
    assert not still, f"declared trainable, but did not move: {sorted(still)}"
    if adapted is not model:
        np.testing.assert_array_equal(model(tiny_batch(model)), start)
    assert adaptation.detach() is model
    after = values(model)
    assert after.keys() == before.keys()
    changed = {path.rpartition("/")[2] for path in before if not np.array_equal(after[path], before[path])}
    assert changed == ({"kernel", "embeddings"} if isinstance(method, kpeft.QLoRA) else set())


@pytest.mark.parametrize(("family", "case"), FEW)
def test_only_what_is_declared_moves(family: Any, case: Any) -> None:
    check_training(family, CASES[case], eager=False)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "case"), PAIRS)
def test_whole_matrix_eager(family: Any, case: Any) -> None:
    check_training(family, CASES[case], eager=True)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in ONE_EACH else pytest.mark.slow) for case in CASES]
)
def test_bfloat16_computes_nearly_the_same_with_float32_variables(case: str) -> None:
    outputs = []
    for dtype in ("float32", "mixed_bfloat16"):
        adaptation = kpeft.adapt(tiny_classifier("bert", dtype=dtype), CASES[case], seed=3)
        disturb(adaptation)
        assert {v.dtype for v in adaptation.trained_variables().values()} == {"float32"}
        outputs.append(np.asarray(adaptation.model(tiny_batch(adaptation.model)), np.float32))
    assert outputs[0].std() > 0.2
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=0, atol=0.06)


@pytest.mark.parametrize(("family", "case"), SAVED)
def test_saved_adapter_gives_the_same_outputs_on_a_fresh_model(family: Any, case: Any, tmp_path: Any) -> None:
    model = tiny_classifier(family)
    adaptation = kpeft.adapt(model, CASES[case], seed=3)
    disturb(adaptation)
    kpeft.save_adapter(adaptation, tmp_path)
    fresh = tiny_classifier(family)
    batch = tiny_batch(fresh)
    assert np.abs(np.asarray(fresh(batch) - adaptation.model(batch))).max() > 1e-3
    loaded = kpeft.load_adapter(fresh, tmp_path)
    np.testing.assert_array_equal(loaded.model(batch), adaptation.model(batch))
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
    adapted = run(adaptation.model, batch)
    assert np.abs(adapted - original).max() > 1e-3
    with adaptation.disabled() as disabled:
        if includes(method, VIRTUAL_TOKENS):  # zeros among the terms of attention's sums: another order of summing
            np.testing.assert_allclose(run(disabled, batch), original, rtol=1e-5, atol=3e-6)
        else:
            np.testing.assert_array_equal(run(disabled, batch), original)
    np.testing.assert_array_equal(run(adaptation.model, batch), adapted)
    if all(isinstance(adapter, MergeableAdapter) for adapter in adaptation.adapters.values()):
        check_merge(adaptation, lambda: run(model, batch), original, adapted)
        return
    with pytest.raises(ValueError, match=r"cannot be merged into a kernel; keep what was learned with save_adapter"):
        adaptation.merge()
    np.testing.assert_array_equal(run(adaptation.model, batch), adapted)
    assert adaptation.detach() is model
    np.testing.assert_array_equal(run(model, batch), original)


def check_merge(adaptation: Any, run: Any, original: Any, adapted: Any) -> None:
    adaptation.merge()
    np.testing.assert_allclose(run(), adapted, rtol=1e-4, atol=2e-5)
    with adaptation.disabled():
        np.testing.assert_array_equal(run(), original)
    with pytest.raises(ValueError, match="merged already"):
        adaptation.merge()
    adaptation.unmerge()
    np.testing.assert_array_equal(run(), adapted)
    with pytest.raises(ValueError, match="not merged"):
        adaptation.unmerge()
    adaptation.merge()
    adaptation.detach()
    np.testing.assert_allclose(run(), adapted, rtol=1e-4, atol=2e-5)


@pytest.mark.slow  # a warm predict is the harder case
@pytest.mark.parametrize(("family", "case"), FEW)
def test_merged_and_disabled(family: Any, case: Any) -> None:
    check_states(family, CASES[case], lambda model, batch: np.asarray(model(batch)))


@pytest.mark.parametrize(("family", "case"), WARM)
def test_merged_and_disabled_through_a_warm_predict(family: Any, case: Any) -> None:
    check_states(family, CASES[case], lambda model, batch: model.predict(batch, verbose=0))


@pytest.mark.parametrize("case", ["bitfit", "lora-all", "qlora"])
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


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name == "bert" else pytest.mark.slow) for name in FAMILIES]
)
def test_two_adaptations_in_turn_do_not_disturb_each_other(family: Any) -> None:
    model = tiny_classifier(family)
    batch = tiny_batch(model)
    original = np.asarray(model(batch))
    for method in (each for each in CASES.values() if fits(family, each) and not isinstance(each, kpeft.QLoRA)):
        adaptation = kpeft.adapt(model, method)
        disturb(adaptation)
        assert adaptation.detach() is model
        np.testing.assert_array_equal(model(batch), original)


def test_randomize_leaves_nothing_trivial(family: Any) -> None:
    model = tiny_classifier(family)
    randomize(model, 5)
    assert all(np.abs(value).min() > 0 for value in values(model).values())
