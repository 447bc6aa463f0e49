"""Named adapters: each alone is the reference, on models of three families."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest

import kpeft
from kpeft.layers import LoRADense, LoRAEinsumDense
from kpeft.layers.lora import LoRALayer
from kpeft.sites import variable_paths
from tests.tiny import tiny_batch, tiny_classifier

# Two adapters of each method that differ in all that two may differ in.
PAIRS: dict[str, tuple[kpeft.Method, kpeft.Method]] = {
    "lora": (
        kpeft.LoRA(rank=2, alpha=3, dropout=0.2),
        kpeft.LoRA(rank=3, targets="all-linear", rank_pattern={"query": 1}, use_rslora=True, bias="all"),
    ),
    "gated": (
        kpeft.LoRA(rank=2, gated=True) + kpeft.Bottleneck(size=3, style="pfeiffer", gated=True),
        kpeft.LoRA(rank=3, gated=True, targets=("key", "value"))
        + kpeft.Bottleneck(size=3, style="pfeiffer", gated=True, train_layernorm=True),
    ),
    "compacter": (kpeft.Compacter(size=4), kpeft.Compacter(size=4, train_head=False)),
    "bitfit": (kpeft.BitFit(), kpeft.BitFit(terms=("query", "output"), train_head=False)),
    "layernorm": (kpeft.LayerNorm(), kpeft.LayerNorm(train_head=False)),
}


def everything(model: Any) -> Any:
    return {path: keras.ops.convert_to_numpy(v.value).copy() for path, v in variable_paths(model).items()}


def assert_same(values: Any, others: Any) -> None:
    assert values.keys() == others.keys()
    for path, value in values.items():
        np.testing.assert_array_equal(value, others[path], err_msg=path)


def assert_close(values: Any, others: Any) -> None:
    """But for another order of sums in float32: passes of one row, ranks padded with zeros."""
    np.testing.assert_allclose(values, others, rtol=1e-4, atol=1e-5)


def outputs(model: Any) -> Any:
    return np.asarray(model(tiny_batch(model)))


def predicted(model: Any) -> Any:
    return model.predict(tiny_batch(model), verbose=0)


def trained(family: str, method: Any, seed: int, folder: Path) -> Any:
    """Writes an adapter with random values; returns what its model gives, alone."""
    model = tiny_classifier(family)
    adaptation = kpeft.adapt(model, method, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in adaptation.trained_variables().values():
        variable.assign(variable.value + rng.normal(0, 0.3, variable.shape))
    kpeft.save_adapter(adaptation, folder)
    return outputs(model)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def no_compilation() -> Iterator[None]:
    traced: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        traced.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert traced == []


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(f, marks=pytest.mark.slow) for f in ("roberta", "distilbert"))]
)
@pytest.mark.parametrize("method", PAIRS)
def test_each_computes_what_it_does_alone(family: str, method: str, tmp_path: Path) -> None:
    alone: Any = {name: trained(family, PAIRS[method][i], i, tmp_path / name) for i, name in enumerate("ab")}
    model = tiny_classifier(family)
    before, alone[None] = everything(model), outputs(model)
    flags = [variable.trainable for variable in model.weights]
    adapters = kpeft.NamedAdapters(model)
    assert (adapters.names, adapters.active) == ((), None)
    adapters.add("a", tmp_path / "a")
    np.testing.assert_array_equal(outputs(model), alone["a"])
    adapters.add("b", tmp_path / "b")
    assert (adapters.names, adapters.active) == (("a", "b"), "a")
    assert_close(outputs(model), alone["a"])
    adapters.use("b")
    assert adapters.active == "b"
    assert_close(outputs(model), alone["b"])
    with adapters.disabled():
        assert adapters.active is None
        np.testing.assert_array_equal(outputs(model), alone[None])
    assert_close(outputs(model), alone["b"])
    assert np.abs(alone["a"] - alone["b"]).max() > 1e-2
    for name in "ab":
        adapters.save(name, tmp_path / "again" / name)
        assert files(tmp_path / "again" / name) == files(tmp_path / name)
    for name in "ab":
        adapters.delete(name)
    assert_same(everything(model), before)
    assert [variable.trainable for variable in model.weights] == flags


@pytest.mark.parametrize(
    ("family", "method"), [("bert", "lora"), ("bert", "gated"), ("roberta", "bitfit"), ("distilbert", "layernorm")]
)
def test_nothing_is_compiled_anew_and_each_row_has_its_own(family: str, method: str, tmp_path: Path) -> None:
    alone: Any = {name: trained(family, PAIRS[method][i], i, tmp_path / name) for i, name in enumerate("ab")}
    model = tiny_classifier(family)
    alone[None] = outputs(model)
    adapters = kpeft.NamedAdapters(model)
    for name in "ab":
        adapters.add(name, tmp_path / name)
        adapters.use(name)
    adapters.use(None)
    rows: list[list[str | None]] = [["b", None, "a", "a"], ["a", "a", None, "b"]]
    predicted(model)
    mixed = [adapters.predict(tiny_batch(model), rows[0])]
    with no_compilation():
        for used in ("b", None, "a", "b"):
            adapters.use(used)
            assert_close(predicted(model), alone[used])
        with adapters.disabled():
            assert_close(predicted(model), alone[None])
        adapters.save("a", tmp_path / "again")
        with adapters.training("a"):
            assert len(model.trainable_variables) > 0
        assert_close(predicted(model), alone["b"])
        mixed.append(adapters.predict(tiny_batch(model), rows[1]))
        adapters.delete("a")
        assert_close(predicted(model), alone["b"])
    for names, result in zip(rows, mixed, strict=True):
        for row, used in enumerate(names):
            assert_close(result[row], alone[used][row])


def test_what_hugging_face_peft_wrote(goldens_dir: Path) -> None:
    """Adapters of one base in one batch, each row with the logits that PEFT gave for its adapter."""
    folders = goldens_dir / "peft_goldens"
    names = ["lora_query_value_bert", "lora_all_linear_bert", "lora_bias_all_bert"]
    expected = {name: np.load(folders / name / "expected.npz") for name in names}
    bases = {(folders / name / "base.txt").read_text().strip() for name in names}
    assert len(bases) == 1
    model = kpeft.load_classifier(str(folders / "bases" / bases.pop()), 2)
    adapters = kpeft.NamedAdapters(model)
    for name in names:
        adapters.add(name, folders / name)
    inputs = {name: expected[names[0]][name] for name in model.input}
    rows = [names[row % 3] for row in range(len(expected[names[0]]["logits"]))]
    logits = adapters.predict(inputs, rows, batch_size=3)
    for row, name in enumerate(rows):
        np.testing.assert_array_equal(expected[name]["token_ids"], inputs["token_ids"])
        np.testing.assert_allclose(logits[row], expected[name]["logits"][row], atol=1e-5)


def fit(model: Any) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(tiny_batch(model, rows=8), np.arange(8) % 2, batch_size=8, epochs=2, verbose=0, shuffle=False)


def fail_in_training(adapters: Any, name: str) -> None:
    with adapters.training(name) as model:
        for variable in model.trainable_variables:
            variable.assign(np.zeros(variable.shape))
        raise ZeroDivisionError


def test_training_is_what_it_is_alone(tmp_path: Path) -> None:
    first, second = PAIRS["lora"]
    alone = tiny_classifier("bert", dropout=0.1)
    adaptation = kpeft.adapt(alone, first, seed=5)
    fit(alone)
    kpeft.save_adapter(adaptation, tmp_path / "alone")
    trained("bert", second, 1, tmp_path / "b")

    model = tiny_classifier("bert", dropout=0.1)
    adapters = kpeft.NamedAdapters(model)
    adapters.add("a", first, seed=5)
    adapters.add("b", tmp_path / "b")
    adapters.use("b")
    as_b = outputs(model)
    assert model.trainable_variables == []
    with adapters.training("a") as its_model:
        assert its_model is model
        assert len(model.trainable_variables) == len(alone.trainable_variables)
        fit(model)
        with pytest.raises(ValueError, match="'a' is in training"):
            adapters.use("b")
    assert adapters.active == "b"
    np.testing.assert_array_equal(outputs(model), as_b)
    adapters.save("a", tmp_path / "a")
    assert files(tmp_path / "a") == files(tmp_path / "alone")
    adapters.use("a")
    assert_close(outputs(model), outputs(alone))
    with pytest.raises(ZeroDivisionError):
        fail_in_training(adapters, "a")
    adapters.save("a", tmp_path / "again")
    assert files(tmp_path / "again") == files(tmp_path / "alone")
    assert_close(outputs(model), outputs(alone))


def test_delete_puts_the_first_of_the_others_to_use(caplog: pytest.LogCaptureFixture) -> None:
    adapters = kpeft.NamedAdapters(tiny_classifier("bert"))
    for name in "abc":
        adapters.add(name, PAIRS["bitfit"][0])
    adapters.use("b")
    adapters.delete("c")
    assert (adapters.names, adapters.active) == (("a", "b"), "b")
    assert not caplog.messages
    adapters.delete("b")
    assert adapters.active == "a"
    assert caplog.messages == ["adapter 'b' was in use and is deleted; 'a' is in use now."]


def test_adding_where_there_is_room_compiles_nothing(tmp_path: Path) -> None:
    alone = trained("bert", kpeft.LoRA(rank=2, alpha=7, targets="value"), 1, tmp_path)
    source = tiny_classifier("bert")
    adaptation = kpeft.load_adapter(source, tmp_path)
    model = tiny_classifier("bert")
    adapters = kpeft.NamedAdapters(model)
    adapters.add("large", kpeft.LoRA(rank=4))
    model.compile()
    predicted(model)
    function = model.predict_function
    adapters.add("small", adaptation)
    assert model.compiled
    assert model.predict_function is function
    assert adapters.active == "large"
    with no_compilation():
        adapters.use("small")
        assert_close(predicted(model), alone)
    adapters.add("larger", kpeft.LoRA(rank=5))
    assert not model.compiled
    assert adapters.active == "small"
    assert_close(outputs(model), alone)


class HalvingLayer(LoRALayer):
    """A layer that changes its base's kernel."""

    def build_adapter(self) -> None:
        super().build_adapter()
        self.base.kernel.assign(self.base.kernel * 0.5)


class HalvingDense(HalvingLayer, LoRADense):
    pass


class HalvingEinsumDense(HalvingLayer, LoRAEinsumDense):
    pass


class Halving(kpeft.LoRA):  # type: ignore[misc]  # final for all but tests
    """LoRA on half the kernel."""

    def _wrap(self, rank: int, alpha: float) -> Any:
        def wrap(layer: Any, seed: int) -> Any:
            kind = HalvingDense if isinstance(layer, keras.layers.Dense) else HalvingEinsumDense
            return kind(layer, rank=rank, alpha=alpha, seed=seed, name=layer.name)

        return wrap


def test_a_method_that_changes_the_kernels_of_what_it_wraps() -> None:
    methods = {"a": Halving(rank=2), "b": Halving(rank=3, targets="value")}
    model = tiny_classifier("bert")
    before = everything(model)
    alone: Any = {None: outputs(model)}
    for name, method in methods.items():
        changed = tiny_classifier("bert")
        kpeft.adapt(changed, method)
        alone[name] = outputs(changed)
    assert np.abs(alone["a"] - alone["b"]).max() > 1e-2
    adapters = kpeft.NamedAdapters(model)
    for name, method in methods.items():
        adapters.add(name, method)
    for used in ("a", "b", None):
        adapters.use(used)
        assert_close(outputs(model), alone[used])
    for name in methods:
        adapters.delete(name)
    assert_same(everything(model), before)


@pytest.fixture(scope="module")
def two() -> Any:
    """Adapters that each test leaves as they are."""
    adapters = kpeft.NamedAdapters(tiny_classifier("bert"))
    adapters.add("a", kpeft.LoRA(rank=2))
    adapters.add("b", kpeft.LoRA(rank=3))
    return adapters


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters that do not fit."""
    folder = tmp_path_factory.mktemp("others")
    lora = kpeft.LoRA(rank=2)
    kpeft.save_adapter(kpeft.adapt(tiny_classifier("roberta"), lora), folder / "roberta")
    kpeft.save_adapter(kpeft.adapt(tiny_classifier("bert", num_classes=3), lora), folder / "labels")
    kpeft.save_adapter(kpeft.adapt(tiny_classifier("bert", num_layers=1), lora), folder / "layers")
    return folder


BAD = {
    "taken": (lambda two, others: two.add("a", kpeft.LoRA()), "there is an adapter named 'a' already"),
    "no name": (lambda two, others: two.add(None, kpeft.LoRA()), "Received: name=None"),
    "another method": (lambda two, others: two.add("c", kpeft.BitFit()), "of one method, here 'lora'.*'bitfit'"),
    "no folder": (lambda two, others: two.add("c", others / "nothing"), "does not exist"),
    "no target": (lambda two, others: two.add("c", kpeft.LoRA(targets="quary")), "matches no layer"),
    "rank": (lambda two, others: two.add("c", kpeft.LoRA(rank=3, init="orthogonal")), "needs an even rank"),
    "family": (lambda two, others: two.add("c", others / "roberta"), "the adapter lacks"),
    "labels": (lambda two, others: two.add("c", others / "labels"), r"\(3,.*but the model needs \(2,"),
    "layers": (lambda two, others: two.add("c", others / "layers"), "the adapter lacks 4 tensors"),
    "use": (lambda two, others: two.use("c"), "no adapter named 'c'. Known: 'a', 'b'"),
    "delete": (lambda two, others: two.delete("c"), "no adapter named 'c'"),
    "save": (lambda two, others: two.save("c", others / "new"), "no adapter named 'c'"),
    "train": (lambda two, others: two.training("c").__enter__(), "no adapter named 'c'"),
    "row": (lambda two, others: two.predict(tiny_batch(two.model), ["a", None, "b", "c"]), "no adapter named 'c'"),
    "rows": (
        lambda two, others: two.predict(tiny_batch(two.model), ["a"] * 3),
        r"one name for each row.*shape \(4, 10\)",
    ),
    "text": (lambda two, others: two.predict(tiny_batch(two.model), "abab"), "in a list"),
    "twice": (lambda two, others: kpeft.NamedAdapters(two.model), "the model has an adapter at"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_leaves_the_model_as_it_was(case: str, two: Any, others: Path) -> None:
    act, message = BAD[case]
    before, active = everything(two.model), two.active
    rows = [None, "a", "b", "b"]
    expected = two.predict(tiny_batch(two.model), rows)
    with pytest.raises(ValueError, match=message) as caught:
        act(two, others)
    assert "\n" not in str(caught.value)
    assert_same(everything(two.model), before)
    assert (two.names, two.active) == (("a", "b"), active)
    assert not (others / "new").exists()
    with no_compilation():
        np.testing.assert_array_equal(two.predict(tiny_batch(two.model), rows), expected)


class Wide(LoRADense):
    """A layer with an option that values cannot make up for, and a layer that others share."""

    def get_config(self) -> Any:
        return {**super().get_config(), "width": self.rank, "shared": self.dropout}


class Widening(kpeft.LoRA):  # type: ignore[misc]  # final for all but tests
    """LoRA of such layers."""

    def _wrap(self, rank: int, alpha: float) -> Any:
        return lambda layer, seed: Wide(layer, rank=rank, seed=seed, name=layer.name)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Widening(rank=3, targets="intermediate"), r"intermediate_dense has width=2\. Received: width=3$"),
        (Widening(rank=2, targets="output"), "share weights between layers"),
    ],
)
def test_adapters_that_cannot_take_turns(other: kpeft.Method, message: str) -> None:
    adapters = kpeft.NamedAdapters(tiny_classifier("bert"))
    adapters.add("a", Widening(rank=2, targets="intermediate"))
    before = everything(adapters.model)
    with pytest.raises(ValueError, match=message):
        adapters.add("b", other)
    assert_same(everything(adapters.model), before)
    assert adapters.names == ("a",)


def test_predict_needs_an_adapter() -> None:
    model = tiny_classifier("bert")
    with pytest.raises(ValueError, match="add one first"):
        kpeft.NamedAdapters(model).predict(tiny_batch(model), [None] * 4)
