"""Drives one case of train_goldens through `kpeft.training.train` and compares every number of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import keras
import numpy as np
import optax

from kpeft.backbones import load_classifier
from kpeft.config import TrainingConfig
from kpeft.glue.tokens import EncodedRows
from kpeft.sites import random_states, variable_paths
from kpeft.training import predict_logits, train

_FOLDER = os.environ.get("KPEFT_GOLDENS_DIR")
GOLDENS = Path(_FOLDER) if _FOLDER else None


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Largest differences from the golden: relative in loss, gradient norm and rate, absolute in logits."""

    loss: float
    gradient_norm: float
    rate: float
    logits: float


def run_golden(
    case: str, prepare_model: Callable[[keras.Model, Path], keras.Model], *, one_width: bool = True, **load_options: Any
) -> tuple[Differences, keras.Model]:
    """Trains as the case says and asserts that losses, rates, gradient norms and logits agree.

    Args:
        case: Folder in train_goldens.
        prepare_model: Gets the base classifier and the case's folder; gives the model to train.
        one_width: Pad all rows to the longest, which compiles one shape; otherwise as `train` chooses.
        load_options: For `load_classifier`.

    Returns:
        How large the differences were, and the trained model.
    """
    assert GOLDENS is not None
    folder = GOLDENS / "train_goldens" / case
    hyper = json.loads((folder / "hyper.json").read_text())
    golden = np.load(folder / "run.npz")
    num_classes = golden["final_logits_of_first_64"].shape[1]
    base = GOLDENS / "peft_goldens" / "bases" / hyper["base"]
    model = prepare_model(load_classifier(str(base), num_classes, **load_options), folder)
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert trainable + _left_out_by_kerashub(base, hyper) == hyper["trainable"]
    rows = encoded_rows(golden, segments="segment_ids" in model.input)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = hyper["dropout"]
    config = TrainingConfig(
        epochs=1,
        batch_size=hyper["batch_size"],
        gradient_accumulation=hyper["gradient_accumulation"],
        learning_rate=hyper["learning_rate"],
        warmup=hyper["warmup_steps"],
        weight_decay=hyper["weight_decay"],
        clip_norm=hyper["clip_norm"],
        adam_epsilon=hyper["epsilon"],
    )
    norms: list[float] = []
    with ExitStack() as stack:
        output = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(mock.patch("optax.clip_by_global_norm", recording_clip(norms)))
        if one_width:
            stack.enter_context(
                mock.patch("kpeft.training.batches.choose_widths", lambda lengths: (int(lengths.max()),))
            )
        result = train(
            model,
            variable_paths(model),
            rows,
            random_states=random_states(model),
            config=config,
            task_loss="regression" if num_classes == 1 else "classification",
            evaluate=lambda trained: {"accuracy": 0.0},
            score=lambda metrics: metrics["accuracy"],
            output_dir=Path(output),
            shuffle=False,
            progress=False,
        )
        jax.effects_barrier()
        lines = [json.loads(line) for line in (Path(output) / "history.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert result.steps == len(logged) == hyper["updates"]
    # The clip sees each micro-batch's partial sum; the second of each pair is the whole update's gradient.
    whole = np.array(norms[hyper["gradient_accumulation"] - 1 :: hyper["gradient_accumulation"]])
    logits = predict_logits(model, rows.take(np.arange(64)), 16)
    differences = Differences(
        loss=relative([line["loss"] for line in logged], golden["losses"]),
        gradient_norm=relative(whole, golden["gradient_norms"]),
        rate=relative([line["learning_rate"] for line in logged[1:]], golden["learning_rates"][1:]),
        logits=float(np.abs(logits - golden["final_logits_of_first_64"]).max()),
    )
    assert logged[0]["learning_rate"] == golden["learning_rates"][0] == 0.0
    assert differences.rate < 1e-14
    assert differences.loss < 1e-5
    assert differences.gradient_norm < 1e-4
    assert differences.logits < 1e-4
    return differences, model


def _left_out_by_kerashub(base: Path, hyper: dict[str, Any]) -> int:
    """In Hugging Face only, RoBERTa has two position rows that no token takes."""
    config = json.loads((base / "config.json").read_text())
    return 2 * config["hidden_size"] if (config["model_type"], hyper["method"]) == ("roberta", "full") else 0


def encoded_rows(golden: Any, *, segments: bool) -> EncodedRows:
    """The case's padded rows without their padding."""
    mask = golden["padding_mask"].astype(bool)
    return EncodedRows(
        tokens=golden["token_ids"][mask],
        segments=golden["segment_ids"][mask].astype(np.int8) if segments else None,
        offsets=np.append(0, mask.sum(axis=1).cumsum()).astype(np.int64),
        labels=golden["labels"],
        pad_id=int(golden["token_ids"][~mask][0]),
    )


def recording_clip(norms: list[float]) -> Callable[[float], optax.GradientTransformation]:
    """optax's clip that also notes the norm of what it is given."""
    clip_by_global_norm = optax.clip_by_global_norm

    def make(max_norm: float) -> optax.GradientTransformation:
        clip = clip_by_global_norm(max_norm)

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            jax.debug.callback(lambda norm: norms.append(float(norm)), optax.tree.norm(updates), ordered=True)
            return clip.update(updates, state, params)

        return optax.GradientTransformation(clip.init, update)

    return make


def relative(got: Any, want: np.ndarray) -> float:
    return float((np.abs(np.asarray(got) - want) / np.abs(want)).max())
