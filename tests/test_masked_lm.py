"""Runs beside a text: the masked-LM loss in float64, forgetting, rehearsal, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, assert_refused, basic_arguments, history, result, run_in_process
from scipy.special import log_softmax
from tiny_preset import sample_texts, write_preset

from kpeft.backbones.loading import load_backbone
from kpeft.config import DataConfig, MaskedText, RunConfig, TrainingConfig
from kpeft.masked_lm import MaskedLM
from kpeft.methods import Freeze, Full, LoRA
from kpeft.placing import adapt

NAME = "masked_lm_loss"


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preset with a masked-LM head."""
    return write_preset(tmp_path_factory.mktemp("presets") / "tiny", masked_lm=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(sample_texts()[:200]), encoding="utf-8")
    return path


def flags(preset: Path, text: Path, folder: Path, *more: str) -> list[str]:
    return [*basic_arguments(preset), "--text", str(text), "--output-dir", str(folder), *more]


def masked_lm(preset: Path, text: Path, method: Any, rehearsal: float = 0.0) -> tuple[MaskedLM, Any]:
    backbone = load_backbone(str(preset), 2)
    adaptation = adapt(backbone.classifier, method, seed=0)
    config = RunConfig(
        task="mrpc",
        method=method,
        preset=str(preset),
        data=DataConfig(max_length=16),
        training=TrainingConfig(batch_size=8),
        masked_text=MaskedText(text=str(text), rehearsal=rehearsal),
        output_dir="",
    )
    return MaskedLM(backbone, adaptation, config), adaptation


def test_the_loss_of_a_step_is_the_task_s_and_the_text_s(preset: Path, text: Path) -> None:
    masked, adaptation = masked_lm(preset, text, Full(), rehearsal=0.5)
    for variable in (v for v in masked.model.variables if v.name == "kernel"):
        variable.assign(variable + 0.1)
    model = masked.rehearsing_model()
    beside = dict(masked.batch(3, 0.25))
    assert beside["text_token_ids"].shape == (4, 16)
    np.testing.assert_allclose(beside["text_weights"], [0.5 * 0.25 / 4] * 4)
    rows = {name: beside[f"text_{name}"][:2] for name in adaptation.model.input}
    for layer in model._flatten_layers():
        if type(layer).__name__.endswith("Dropout"):
            layer.rate = 0.0
    logits = model({**rows, **beside}, training=True)
    np.testing.assert_allclose(logits, adaptation.model(rows), atol=1e-6)
    (added,) = model.losses
    inputs = {name: beside[f"text_{name}"] for name in masked.model.encoder.input}
    sequence = masked.model.encoder(inputs)["sequence_output"]
    scores = np.asarray(masked.model.head(sequence, mask_positions=beside["text_positions"]), "float64")
    each = -np.take_along_axis(log_softmax(scores, -1), beside["text_labels"][..., None], -1)[..., 0]
    np.testing.assert_allclose(added, 0.5 * 0.25 * each.mean(), rtol=1e-5)


def test_batches_are_decided_by_their_number(preset: Path, text: Path) -> None:
    masked, _ = masked_lm(preset, text, LoRA(), rehearsal=0.5)
    first, same, other = masked.batch(0, 1.0), masked.batch(0, 1.0), masked.batch(1, 1.0)
    np.testing.assert_array_equal(first["text_token_ids"], same["text_token_ids"])
    assert (first["text_token_ids"] != other["text_token_ids"]).any()


@pytest.mark.parametrize(
    "method", ["head", *(pytest.param(m, marks=pytest.mark.slow) for m in ("full", "prompt", "prefix", "qlora"))]
)
def test_forgetting_is_measured(preset: Path, text: Path, tmp_path: Path, method: str) -> None:
    run = tmp_path / "run"
    assert run_in_process(flags(preset, text, run, "--method", method, "--learning-rate", "1e-2")) == 0
    before = result(run)[NAME]
    after = [line["metrics"][NAME] for line in history(run) if "metrics" in line]
    assert after[-1] == result(run)["last"]["metrics"][NAME]
    if method == "head":
        assert after[-1] == before
    else:
        assert after[-1] != before
    assert 3 < before < 12


def test_rehearsal_is_learnt_from_and_resumes_to_the_bit(
    preset: Path, text: Path, tmp_path: Path, kpeft_run: Run
) -> None:
    common = ["--method", "full", "--learning-rate", "1e-2", "--save-steps", "2", "--keep", "9"]
    losses = {}
    for share in ("0", "1"):
        run = tmp_path / share
        assert run_in_process(flags(preset, text, run, *common, "--rehearsal", share)) == 0
        losses[share] = result(run)["last"]["metrics"][NAME]
    assert losses["1"] < losses["0"] - 0.05
    assert losses["0"] != result(tmp_path / "0")[NAME]
    whole, broken = tmp_path / "1", tmp_path / "broken"
    shutil.copytree(whole, broken)
    (broken / "result.json").unlink()
    steps = sorted((broken / "checkpoints").iterdir())
    for later in steps[1:]:
        shutil.rmtree(later) if later.is_dir() else later.unlink()
    other = tmp_path / "text.txt"
    other.write_text("\n".join(sample_texts()[100:200]), encoding="utf-8")
    shutil.copy(text, tmp_path / "kept.txt")
    shutil.copy(other, text)
    refused = kpeft_run(*flags(preset, text, broken, *common, "--rehearsal", "1", "--resume"))
    shutil.copy(tmp_path / "kept.txt", text)
    assert (refused.status, "must be set up as the run it goes on from: text was" in refused.err) == (2, True)
    assert run_in_process(flags(preset, text, broken, *common, "--rehearsal", "1", "--resume")) == 0
    assert result(broken)["last"] == result(whole)["last"]


def test_rehearsal_leaves_the_task_s_frozen_layers_without_dropout(preset: Path, text: Path) -> None:
    masked, adaptation = masked_lm(preset, text, Freeze(layers=1), rehearsal=0.5)
    classifier = masked.rehearsing_model().classifier
    assert classifier is not adaptation.model
    assert {id(v) for v in classifier.trainable_variables} == {id(v) for v in adaptation.model.trainable_variables}


def test_what_is_refused(preset: Path, text: Path, tmp_path: Path, tiny_preset: Path, kpeft_run: Run) -> None:
    folder = tmp_path / "run"
    assert_refused(kpeft_run(*flags(preset, text, folder), "--rehearsal", "-1"), "rehearsal must be 0 or more")
    assert_refused(kpeft_run("--rehearsal", "0.5", "--output-dir", folder), "--rehearsal needs a --text")
    assert_refused(kpeft_run(*flags(tiny_preset, text, folder)), "has no masked-LM head", "leave out --text")
    assert_refused(kpeft_run(*flags(preset, tmp_path, folder)), "--text", "cannot be read")
    assert_refused(kpeft_run(*flags(preset, text, folder), "--seed", "0,1"), "--text does not go with several runs")
    head = kpeft_run(*flags(preset, text, folder), "--method", "head", "--rehearsal", "0.5")
    assert_refused(head, "this one trains nothing there")
    assert not folder.exists()
