"""Combined adapters against Hugging Face PEFT's add_weighted_adapter, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kpeft
from kpeft.adapters import combine

GOLDENS = Path(__file__).parents[1] / "goldens"
FOLDER = GOLDENS / "peft" / "combine"
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "cases.json").read_text())
EXPECTED = load_file(FOLDER / "expected.safetensors")


def combined(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    rest = {k: v for k, v in options.items() if k not in ("adapters", "weights")}
    kpeft.combine_adapters([FOLDER / name for name in options["adapters"]], options["weights"], folder, **rest)
    tensors = load_file(folder / "adapter_model.safetensors")
    return {key.removeprefix("base_model.model.").removesuffix(".weight"): value for key, value in tensors.items()}


def replay(case: str) -> Callable[..., Any]:
    """PEFT's own masks: the n-th of those that a module and part have."""

    def masks(seed: int, module: str, part: str, density: float) -> Any:
        names = [name for name in CASES[case]["adapters"] if f"{case}/mask/{module}/{part}/{name}" in EXPECTED]
        return lambda number, shape: EXPECTED[f"{case}/mask/{module}/{part}/{names[number]}"]

    return masks


@pytest.mark.parametrize("case", CASES)
def test_tensors_and_logits_are_pefts(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.startswith("dare"):
        monkeypatch.setattr(combine, "_masks", replay(case))
    found = combined(CASES[case], tmp_path)
    expected = {
        key.removeprefix(f"{case}/"): value
        for key, value in EXPECTED.items()
        if key.startswith(f"{case}/") and ".lora_" in key and "/mask/" not in key
    }
    assert found.keys() == expected.keys()
    for module in {key.rpartition(".")[0] for key in found}:
        a, b = f"{module}.lora_A", f"{module}.lora_B"
        assert (found[a].shape, found[b].shape) == (expected[a].shape, expected[b].shape)
        np.testing.assert_allclose(found[b] @ found[a], expected[b] @ expected[a], atol=3e-6)
        if "svd" not in case:  # whose vectors have no sign of their own
            np.testing.assert_allclose(found[a], expected[a], atol=3e-7)
            np.testing.assert_allclose(found[b], expected[b], atol=3e-7)
    if case not in ("one", "ties", "cat"):  # the files differ in their numbers only
        return
    model = kpeft.load_classifier(str(GOLDENS / "hf" / "bert"), 3)
    inputs = np.load(GOLDENS / "hf" / "bert" / "expected.npz")
    kpeft.load_adapter(model, tmp_path)
    logits = model({name: inputs[name] for name in model.input})
    np.testing.assert_allclose(logits, EXPECTED[f"{case}/logits"], atol=2e-5)


def test_the_result_has_a_scale_of_one(tmp_path: Path) -> None:
    combined({"adapters": ["third", "first"], "weights": [1, 1], "svd_rank": 3}, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["alpha_pattern"]) == (3, 3, False, {})


def test_masks_keep_their_share_and_follow_the_seed(tmp_path: Path) -> None:
    draw = combine._masks(0, "query", "lora_A", 0.3)
    assert abs(draw(0, (100, 100)).mean() - 0.3) < 0.02
    assert (draw(0, (100, 100)) != draw(1, (100, 100))).any()
    results = [combined(CASES["dare_ties"] | {"seed": seed}, tmp_path / str(n)) for n, seed in enumerate((3, 3, 4))]
    assert all((results[0][key] == results[1][key]).all() for key in results[0])
    assert any((results[0][key] != results[2][key]).any() for key in results[0])


def edited(tmp_path: Path, name: str, tensors: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A copy of a golden adapter, with another config or other tensors."""
    folder = Path(shutil.copytree(FOLDER / name, tmp_path / f"{name}_{len(list(tmp_path.iterdir()))}"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    if tensors is not None:
        old = load_file(folder / "adapter_model.safetensors")
        (folder / "adapter_model.safetensors").unlink()
        save_file({**old, **tensors}, folder / "adapter_model.safetensors")
    return folder


def test_heads_are_taken_from_one_adapter(tmp_path: Path) -> None:
    def head(value: float) -> dict[str, Any]:
        shapes = {"weight": (3, 8), "bias": (3,)}
        return {f"base_model.model.classifier.{k}": np.full(shape, value, "float32") for k, shape in shapes.items()}

    adapters = [edited(tmp_path, name, head(i), task_type="SEQ_CLS") for i, name in enumerate(("first", "second"))]
    for number, value in ((0, 0.0), (1, 1.0)):
        kpeft.combine_adapters(adapters, [1, 1], tmp_path / "out", combination_type="cat", head=number)
        model = kpeft.load_classifier(str(GOLDENS / "hf" / "bert"), 3)
        adaptation = kpeft.load_adapter(model, tmp_path / "out")
        assert adaptation.method.train_head
        assert (np.asarray(model.get_layer("logits").kernel) == value).all()
    kpeft.combine_adapters(adapters, [1, 1], tmp_path / "out", combination_type="cat", head=None)
    assert not any("classifier" in key for key in load_file(tmp_path / "out" / "adapter_model.safetensors"))


def test_a_head_whose_modules_end_alike_is_taken_whole(tmp_path: Path) -> None:
    """PEFT's `classifier` is DistilBERT's `pre_classifier` as well."""
    head = {f"base_model.model.{name}.weight": np.ones((3, 8), "float32") for name in ("classifier", "pre_classifier")}
    adapters = [edited(tmp_path, name, head, task_type="SEQ_CLS") for name in ("first", "second")]
    kpeft.combine_adapters(adapters, [1, 1], tmp_path / "out", combination_type="cat", head=0)
    assert head.keys() <= load_file(tmp_path / "out" / "adapter_model.safetensors").keys()


def test_adapters_in_memory_of_several_ranks_become_one_rank(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    key = "base_model.model.bert.encoder.layer.{}.attention.self.query.lora_{}.weight"

    def adapter() -> Any:
        shapes = {key.format(n, p): (r, 8) if p == "A" else (8, r) for n, r in ((0, 1), (1, 2)) for p in "AB"}
        tensors = {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "rank_pattern": {"layer.0.attention.self.query": 1}}
        return {**config, "target_modules": ["query"]}, tensors

    adapters = [adapter(), adapter()]
    kpeft.combine_adapters(adapters, [1.0, -2.0], tmp_path, combination_type="cat")
    found = load_file(tmp_path / "adapter_model.safetensors")
    for number, scale in ((0, 6.0), (1, 3.0)):
        a, b = key.format(number, "A"), key.format(number, "B")
        expected = sum(
            w * scale * tensors[b].astype(float) @ tensors[a] for w, (_, tensors) in zip((1, -2), adapters, strict=True)
        )
        assert found[a].shape == (4, 8)
        np.testing.assert_allclose(found[b] @ found[a], expected, atol=1e-5)
    kpeft.load_adapter(kpeft.load_classifier(str(GOLDENS / "hf" / "bert"), 3), tmp_path)


FIRST = ("base_model.model.bert.encoder.layer.1.attention.self.query.lora_A.weight", (3, 9))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combination_type": "mean"}, r"combination_type must be one of linear.*Received: 'mean'"),
        ({"weights": [1]}, "each adapter needs a weight. Received: 2 adapters, 1 weights"),
        ({"weights": [1, float("nan")]}, "weights must be finite"),
        ({"adapters": [], "weights": []}, "each adapter needs a weight. Received: 0 adapters"),
        ({"adapters": ["first", "first"]}, "first is named twice"),
        ({"combination_type": "ties"}, "ties needs a density above 0.*density=None"),
        ({"combination_type": "ties", "density": 1.5}, "ties needs a density above 0 and at most 1.*1.5"),
        ({"combination_type": "svd", "density": 0.5}, "svd prunes nothing"),
        ({"combination_type": "linear", "svd_rank": 2}, "svd_rank and svd_clamp are for svd"),
        ({"combination_type": "svd", "svd_rank": 9}, "svd_rank must be at most 8"),
        ({"combination_type": "svd", "svd_clamp": 2.0}, "svd_clamp must be above 0"),
        ({"majority_sign_method": "mean"}, "majority_sign_method must be one of total, frequency"),
        (
            {"adapters": ["first", "third"], "combination_type": "linear"},
            r"linear needs adapters of one rank.*third: 2",
        ),
        ({"head": 2}, "head must be the number of an adapter, 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        combined({"adapters": ["first", "second"], "weights": [1, 1], **options}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "changes", "message"),
    [
        (None, {"peft_type": "IA3"}, "peft_type is 'IA3'; only LoRA"),
        (None, {"use_dora": True}, "use_dora=True cannot be combined"),
        (None, {"bias": "all"}, "bias='all'"),
        (None, {"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4' changed the kernels"),
        ({FIRST[0]: np.ones((3, 9), "float32")}, {}, r"different models.*maps 8 features to 8 in .*first, and 9 to 8"),
        ({FIRST[0]: np.ones((2, 8), "float32")}, {}, "no pairs of lora_A"),
        ({"base_model.model.classifier.bias": np.ones(3, "float32")}, {}, "classifier.bias of shape .* is no factor"),
    ],
)
def test_adapters_of_another_kind_are_refused(tensors: Any, changes: Any, message: str, tmp_path: Path) -> None:
    other = edited(tmp_path, "first", tensors, **changes)
    with pytest.raises(ValueError, match=message):
        kpeft.combine_adapters([FOLDER / "first", other], [1, 1], tmp_path / "out")
    with pytest.raises(ValueError, match="one of the adapters to combine"):
        kpeft.combine_adapters([FOLDER / "first", other], [1, 1], other)
