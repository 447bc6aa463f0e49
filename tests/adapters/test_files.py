"""Adapter files: keys and shapes as Hugging Face PEFT names them, and damaged or foreign files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import kpeft
from kpeft.sites import variable_paths
from tests.tiny import tiny_batch, tiny_classifier


def values(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {path: np.array(keras.ops.convert_to_numpy(v.value)) for path, v in variable_paths(model).items()}


def saved(folder: Path, method: kpeft.Method, family: str = "bert") -> Any:
    model = tiny_classifier(family)
    adaptation = kpeft.adapt(model, method)
    rng = np.random.default_rng(0)
    for variable in adaptation.trained_variables().values():
        variable.assign(rng.normal(size=variable.shape))
    kpeft.save_adapter(adaptation, folder)
    return adaptation


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path)


def test_keys_and_shapes_of_lora(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.LoRA(rank=3, targets=("query", "attention_output"), layers=(1,)))
    shapes = {key: value.shape for key, value in load_file(tmp_path / "adapter_model.safetensors").items()}
    layer = "base_model.model.bert.encoder.layer.1.attention"
    assert shapes == {
        f"{layer}.self.query.lora_A.weight": (3, 16),
        f"{layer}.self.query.lora_B.weight": (16, 3),
        f"{layer}.output.dense.lora_A.weight": (3, 16),
        f"{layer}.output.dense.lora_B.weight": (16, 3),
        "base_model.model.classifier.weight": (2, 16),
        "base_model.model.classifier.bias": (2,),
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == [
        "bert.encoder.layer.1.attention.output.dense",
        "bert.encoder.layer.1.attention.self.query",
    ]


@pytest.mark.parametrize(
    "method",
    [
        kpeft.LoRA(rank=2, targets=r".*/transformer_layer_1/.*/(key|value)"),
        kpeft.LoRA(rank=4, alpha=3.5, rank_pattern={"query": 2}, alpha_pattern={"value": 9}, use_rslora=True),
        kpeft.LoRA(targets=("intermediate", "pooler"), bias="lora_only", train_head=False),
        kpeft.LoRA(layers=(0,), bias="all"),
        kpeft.LoRA(lora_bias=True, targets=("query", "output")),
        kpeft.LoRA(init="olora", alpha=8, targets="all-linear"),
        kpeft.DoRA(rank=2, use_rslora=True, targets=("query", "attention_output"), init="gaussian"),
        kpeft.DoRA(init="pissa", bias="lora_only", rank_pattern={"query": 2}),
    ],
)
def test_options_survive(method: Any, tmp_path: Path) -> None:
    adaptation = saved(tmp_path, method)
    fresh = tiny_classifier("bert")
    loaded: Any = kpeft.load_adapter(fresh, tmp_path)
    batch = tiny_batch(fresh)
    np.testing.assert_array_equal(fresh(batch), adaptation.model(batch))
    assert type(loaded.method) is type(method)
    assert loaded.method.init == method.init
    scales = {path: layer.scaling for path, layer in adaptation.adapters.items()}
    assert {path: layer.scaling for path, layer in loaded.adapters.items()} == scales


def test_a_merged_adapter_is_saved_as_it_was(tmp_path: Path) -> None:
    """Its bias is trained, and holds the change's bias while merged."""
    adaptation = saved(tmp_path / "plain", kpeft.LoRA(rank=2, lora_bias=True, bias="lora_only"))
    adaptation.merge()
    kpeft.save_adapter(adaptation, tmp_path / "merged")
    assert adaptation.merged
    plain, merged = (tmp_path / name / "adapter_model.safetensors" for name in ("plain", "merged"))
    assert merged.read_bytes() == plain.read_bytes()


def test_a_model_of_no_family_uses_structural_paths(tmp_path: Path) -> None:
    def make() -> Any:
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5), keras.layers.Dense(4), keras.layers.Dense(2)]
        )

    adaptation = kpeft.adapt(make(), kpeft.LoRA(rank=2, targets="all-linear"))
    kpeft.save_adapter(adaptation, tmp_path)
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {
        "dense/lora_a", "dense/lora_b", "dense_1/lora_a", "dense_1/lora_b", "dense_2/kernel", "dense_2/bias"
    }  # fmt: skip
    assert kpeft.load_adapter(make(), tmp_path).parameter_counts() == adaptation.parameter_counts()


def test_an_adapter_in_a_subfolder_of_its_name(tmp_path: Path) -> None:
    saved(tmp_path / "mrpc", kpeft.LoRA())
    kpeft.load_adapter(tiny_classifier("bert"), tmp_path)
    saved(tmp_path / "rte", kpeft.LoRA())
    with pytest.raises(ValueError, match=r"several adapters .mrpc, rte"):
        kpeft.load_adapter(tiny_classifier("bert"), tmp_path)


def shorten(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def set_tensor(part: str, value: Callable[[Any], Any]) -> Callable[[Path], None]:
    def change(tensors: dict[str, Any]) -> None:
        key = next(key for key in tensors if part in key)
        tensors[key] = value(tensors[key])

    return lambda folder: edit_tensors(folder, change)


def drop_tensor(tensors: dict[str, Any]) -> None:
    del tensors[next(key for key in tensors if "lora_A" in key)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shorten, "damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 64), "damaged"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "does not exist"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "names no peft_type"),
        (set_tensor("lora_B", lambda value: value[:, :1]), r"lora_B.weight has shape \(16, 1\).*\(16, 8\)"),
        (set_tensor("classifier.weight", lambda value: np.zeros((3, 16), "float32")), r"\(3, 16\).*\(2, 16\)"),
        (set_tensor("lora_A", lambda value: value * np.nan), "lora_A.weight' holds numbers that are not finite"),
        (lambda folder: edit_tensors(folder, drop_tensor), "lacks 1 tensors"),
        (lambda folder: edit_config(folder, target_modules=["query"]), "no place for"),
        (lambda folder: edit_config(folder, target_modules=["c_attn"]), "'c_attn'.* match no layer"),
        (lambda folder: edit_config(folder, use_dora=True), "lora_magnitude_vector"),
        (lambda folder: edit_config(folder, use_dora=True, lora_bias=True), "lora_bias=True does not go with use_dora"),
        (lambda folder: edit_config(folder, use_qalora=True), "use_qalora=True is not supported"),
        (lambda folder: edit_config(folder, init_lora_weights="corda"), "init_lora_weights='corda' is not supported"),
        (lambda folder: edit_config(folder, init_lora_weights="pissa_niter_4"), "init_lora_weights='pissa_niter_4'"),
        (lambda folder: edit_config(folder, init_lora_weights="pissa", r=4), r"lora_A.weight has shape"),
        (lambda folder: edit_config(folder, peft_type="OFT"), "peft_type 'OFT' is not supported"),
        (lambda folder: edit_config(folder, bias="some"), "bias='some'"),
        (
            lambda folder: edit_config(folder, modules_to_save=["pooler"]),
            r"=\['pooler'\] is the pooler without",
        ),
        (
            lambda folder: edit_config(folder, modules_to_save=["dense"]),
            "modules_to_save='dense' is neither",
        ),
        (lambda folder: edit_config(folder, modules_to_save=["lstm"]), "modules_to_save='lstm' is neither"),
    ],
)
def test_bad_files_leave_the_model_as_it_was(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    saved(tmp_path, kpeft.LoRA())
    damage(tmp_path)
    model = tiny_classifier("bert")
    before = values(model)
    with pytest.raises(ValueError, match=message):
        kpeft.load_adapter(model, tmp_path)
    after = values(model)
    assert after.keys() == before.keys()
    assert all(np.array_equal(after[path], before[path]) for path in before)
    assert all(variable.trainable for variable in model.trainable_variables)
    assert len(model.trainable_variables) == len(before)


def test_another_architecture_or_label_count_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, kpeft.LoRA())
    with pytest.raises(ValueError, match="no place for"):
        kpeft.load_adapter(tiny_classifier("bert", num_layers=1), tmp_path)
    with pytest.raises(ValueError, match="classifier"):
        kpeft.load_adapter(tiny_classifier("bert", num_classes=3), tmp_path)
    saved(tmp_path / "bitfit", kpeft.BitFit())
    with pytest.raises(ValueError, match="match no layer of model 'roberta_classifier'"):
        kpeft.load_adapter(tiny_classifier("roberta"), tmp_path / "bitfit")
