"""Adapters that travel and come home, every format: through files, and through Hugging Face PEFT."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import kpeft
from kpeft.adapter_files import CONFIG, WEIGHTS
from tests.adapters.test_files import saved
from tests.tiny import FAMILIES, tiny_classifier

BASES = Path(__file__).parent.parent / "goldens" / "hf"
SCRIPT = Path(__file__).parent.parent / "peft_round_trip.py"
METHODS: dict[str, kpeft.Method] = {
    "lora": kpeft.LoRA(rank=3, alpha=5, targets="all-linear", rank_pattern={"query": 2}, use_rslora=True),
    "lora_biases": kpeft.LoRA(rank=2, targets=("query", "output"), bias="all"),
    "lora_bias": kpeft.LoRA(rank=2, lora_bias=True, bias="lora_only"),
    "dora": kpeft.DoRA(rank=2, targets=("query", "value", "intermediate")),
    "bitfit": kpeft.BitFit(),
    "ia3": kpeft.IA3(),
    "layernorm": kpeft.LayerNorm(),
    "vera": kpeft.VeRA(rank=4),
    "prompt": kpeft.Prompt(tokens=2),
    "p_tuning": kpeft.PTuning(tokens=2, hidden=5),
    "p_tuning_lstm": kpeft.PTuning(tokens=2, encoder="lstm", hidden=3, encoder_layers=1),
    "prefix": kpeft.Prefix(tokens=2),
    "prefix_projection": kpeft.Prefix(tokens=2, projection=True, hidden=5),
}
OF_KPEFT: dict[str, kpeft.Method] = {
    "bottleneck": kpeft.Bottleneck(size=3),
    "compacter": kpeft.Compacter(size=4),
    "full": kpeft.Full(),
    "head": kpeft.HeadOnly(),
    "union": kpeft.LoRA(rank=2) + kpeft.BitFit(),
}
WITHOUT_PREFIXES = ("albert", "deberta_v3", "distilbert")
ALWAYS = ("bert", "roberta")


def families(*every: str) -> list[Any]:
    return [pytest.param(family, marks=() if family in ALWAYS else pytest.mark.slow) for family in every]


def inner(tensors: dict[str, Any]) -> dict[str, Any]:
    """What PEFT knows of a file."""
    return {key: value for key, value in tensors.items() if not key.startswith("kpeft.")}


@pytest.mark.parametrize("family", families(*FAMILIES))
@pytest.mark.parametrize("name", [*METHODS, *OF_KPEFT])
def test_there_and_back(name: str, family: str, tmp_path: Path) -> None:
    if name.startswith("prefix") and family == "deberta_v3":
        pytest.skip("DeBERTa has no place for prefixes")
    method = {**METHODS, **OF_KPEFT}[name]
    saved(tmp_path / "first", method, family)
    again = kpeft.load_adapter(tiny_classifier(family), tmp_path / "first")
    kpeft.save_adapter(again, tmp_path / "second")
    for file in (CONFIG, WEIGHTS):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    said = json.loads((tmp_path / "first" / CONFIG).read_text())["peft_type"]
    in_peft = name in METHODS and not (name.startswith("prefix") and family in WITHOUT_PREFIXES)
    assert said.startswith("KPEFT_") != in_peft


@pytest.fixture(scope="module", params=families(*FAMILIES))
def travelled(request: pytest.FixtureRequest, peers_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each method, with what PEFT made of kpeft's adapter for one family."""
    family, folder = request.param, tmp_path_factory.mktemp("travelled")
    base = BASES / family
    rows = np.load(base / "expected.npz")
    names = {"token_ids": "input_ids", "padding_mask": "attention_mask", "segment_ids": "token_type_ids"}
    for name, method in METHODS.items():
        if name.startswith("prefix") and family in WITHOUT_PREFIXES:
            continue
        model = kpeft.load_classifier(str(base), 3)
        inputs = {key: rows[key] for key in model.input}
        adaptation = kpeft.adapt(model, method)
        rng = np.random.default_rng(1)
        for variable in adaptation.trained_variables().values():
            variable.assign_add(rng.normal(0, 0.3, variable.shape))
        kpeft.save_adapter(adaptation, folder / name / "adapter")
        np.save(folder / name / "ours.npy", np.asarray(adaptation.model(inputs)))
        np.savez(folder / name / "inputs.npz", **{names[key]: value for key, value in inputs.items()})
        (folder / name / "job.json").write_text(json.dumps({"base": str(base), "family": family}))
    subprocess.run([peers_python, str(SCRIPT), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", METHODS)
def test_through_peft(name: str, travelled: Path, tmp_path: Path) -> None:
    here = travelled / name
    if not here.is_dir():
        pytest.skip("PEFT has no prefixes for this family")
    family = json.loads((here / "job.json").read_text())["family"]
    np.testing.assert_allclose(np.load(here / "logits.npy"), np.load(here / "ours.npy"), rtol=1e-4, atol=2e-5)
    ours = inner(load_file(here / "adapter" / WEIGHTS))
    assert (here / "again" / WEIGHTS).read_bytes() == save(ours, metadata={"format": "pt"})
    model = kpeft.load_classifier(str(BASES / family), 3)
    home = kpeft.load_adapter(model, here / "again")
    rows = np.load(BASES / family / "expected.npz")
    logits = home.model({key: rows[key] for key in model.input})
    np.testing.assert_allclose(logits, np.load(here / "ours.npy"), rtol=1e-5, atol=1e-5)
    kpeft.save_adapter(home, tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (here / "again" / WEIGHTS).read_bytes()
