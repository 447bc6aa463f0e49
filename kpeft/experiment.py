"""One run, in the order it happens: backbone, rows, method, training, scores, files."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kpeft.adaptation import Adaptation
from kpeft.adapters import adapter_method, load_adapter, save_adapter
from kpeft.backbones.loading import load_backbone
from kpeft.config import RunConfig
from kpeft.data import Data, load_data, selection
from kpeft.distillation import with_teacher
from kpeft.files import replacing
from kpeft.glue.metrics import compute_metrics
from kpeft.glue.sources import open_source
from kpeft.glue.tasks import Task, get_task
from kpeft.glue.tokens import EncodedRows
from kpeft.hardware import HARDWARE, write_hardware
from kpeft.masked_lm import MaskedLM
from kpeft.methods import Method
from kpeft.placing import adapt
from kpeft.results import CHECKPOINTS, FILE, HISTORY, MASKED_LM_LOSS, RUNS, RunResult, Score, listed_folders
from kpeft.sites import random_states, variable_paths
from kpeft.training import Evaluation, TrainingResult, predict_logits, train, trained_part
from kpeft.training.batches import RowSource
from kpeft.training.timing import Timer, process_seconds
from kpeft.warm_start import choose_head

ADAPTER = "adapter"
PREDICTIONS = "predictions.tsv"
EVAL_BATCH = 64
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


class InterruptedRun(Exception):  # noqa: N818  (it is no error)
    """The run ended at a signal; what was done is saved."""


def run_experiment(config: RunConfig) -> RunResult:
    """Runs what `config` asks for and leaves its result, hardware, history and adapter in its output folder.

    Args:
        config: The run.

    Returns:
        What result.json holds.

    Raises:
        ValueError: If the configuration, the data, the preset or the adapter does not fit; nothing is written then.
        InterruptedRun: At SIGINT or SIGTERM; `--resume` goes on from there.
    """
    check_backend()
    task, output = get_task(config.task), Path(config.output_dir)
    check_output(output, config)
    source = open_source(data_dir=config.data.data_dir, tfds_dir=config.data.tfds_dir, offline=config.data.offline)
    seed = config.training.seed
    backbone = load_backbone(config.preset, task.num_classes, seed=seed, dtype=POLICIES[config.precision])
    virtual = method_of(config, backbone.classifier).positions
    data = load_data(task, source, backbone, config.data, virtual)
    if task.regression and backbone.head_is_new and data.train is not None:
        start_at_mean(backbone.classifier, data.train)
    adaptation = place_method(backbone.classifier, config)
    masked_lm = MaskedLM(backbone, adaptation, config) if config.masked_text else None
    if config.distillation is not None:
        data = dataclasses.replace(
            data, train=with_teacher(_required(data.train), task, config, POLICIES[config.precision], EVAL_BATCH)
        )
    loss_before = masked_lm and masked_lm.loss()
    config = dataclasses.replace(config, method=adaptation.method)
    if config.overwrite:
        clear_output(output)
    if data.train is None:
        trained = None
        write_predictions(output, task, predict_logits(adaptation.model, _required(data.unlabelled), EVAL_BATCH))
    else:
        trained = fine_tune(adaptation, task, data, config, masked_lm)
        save_adapter(adaptation, output / ADAPTER)
        if trained.interrupted:
            raise InterruptedRun(f"interrupted at step {trained.steps}; --resume goes on from there.")
    result = dataclasses.replace(describe(config, adaptation, data, trained), masked_lm_loss=loss_before)
    write_hardware(output)
    result.write(output)
    return result


def check_backend() -> None:
    """Checks that Keras computes with JAX.

    Raises:
        ValueError: If it does not.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(f"kpeft runs on JAX, but Keras was started with KERAS_BACKEND={keras.backend.backend()}.")


def check_output(folder: Path, config: RunConfig, *, single: bool = True) -> None:
    """Checks that a run may write into its output folder.

    Args:
        folder: The folder.
        config: The run.
        single: Whether it is trained alone, and so could be resumed.

    Raises:
        ValueError: If it cannot be written to, holds a run that is to stay, or nothing to go on from.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"--output-dir {folder} cannot be a folder: {there} is a file.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--output-dir {folder} cannot be written to: no permission for {there}.")
    held = [name for name in (FILE, RUNS, HISTORY, ADAPTER, CHECKPOINTS, PREDICTIONS) if (folder / name).exists()]
    if config.resume and (folder / FILE).exists():
        raise ValueError(f"--output-dir {folder} holds a finished run; there is nothing to resume.")
    if config.resume and not (folder / CHECKPOINTS).is_dir():
        raise ValueError(f"--output-dir {folder} holds no checkpoint; there is nothing to resume.")
    if held and not (config.overwrite or config.resume):
        resume = ", --resume an interrupted run," if single else ""
        raise ValueError(
            f"--output-dir {folder} already holds a run ({', '.join(held)}): choose another folder{resume} or replace "
            "it with --overwrite."
        )
    if config.overwrite:
        listed_folders(folder)  # what cannot be cleared is known before anything is computed


def clear_output(folder: Path) -> None:
    """Removes an older run's files, and those of the runs that runs.json lists with their folders; nothing else."""
    listed = listed_folders(folder)
    for each in (*listed, folder):
        for name in (FILE, RUNS, HISTORY, HARDWARE, PREDICTIONS):
            (each / name).unlink(missing_ok=True)
        for name in (ADAPTER, CHECKPOINTS):
            shutil.rmtree(each / name, ignore_errors=True)
    for each in listed:
        if not any(each.iterdir()):
            each.rmdir()


def method_of(config: RunConfig, model: keras.Model) -> Method:
    """Returns the method of a run: the one asked for, or else the adapter's."""
    return _required(config.method) if config.adapter is None else adapter_method(model, config.adapter)


def start_at_mean(classifier: keras.Model, rows: EncodedRows) -> None:
    """Lets a new regression head start out with the mean label as its answer.

    From zero, the first steps bend the encoder into a constant that reaches the mean, and it may stay there.
    """
    classifier.get_layer("logits").bias.assign([rows.labels.mean()])


def place_method(model: keras.Model, config: RunConfig) -> Adaptation:
    """Puts the run's method on the model, with the weights of `config.adapter` if there is one.

    The head of an adapter of another task is left out.

    Raises:
        ValueError: If the method asked for is not the adapter's.
    """
    if config.adapter is None:
        return adapt(model, _required(config.method), seed=config.training.seed)
    adaptation = load_adapter(model, config.adapter, head=choose_head(model, config.adapter, get_task(config.task)))
    if config.method is not None and config.method.name != adaptation.method.name:
        raise ValueError(
            f"--method {config.method.name} does not fit --adapter {config.adapter}, "
            f"which holds {adaptation.method.name}."
        )
    if config.method not in (None, adaptation.method, adaptation.method.with_defaults()):
        raise ValueError(
            f"the options of --adapter {config.adapter} are {adaptation.method}. Received: {config.method}"
        )
    return adaptation


def fine_tune(
    adaptation: Adaptation, task: Task, data: Data, config: RunConfig, masked_lm: MaskedLM | None = None
) -> TrainingResult:
    """Trains, and leaves the model with the weights of the best evaluation."""
    variables = variable_paths(adaptation.model)
    rehearsing = masked_lm if masked_lm and masked_lm.share else None
    if rehearsing is None:
        model, rows, evaluated = trained_part(adaptation.model, _required(data.train), data.evaluated, config.training)
    else:  # the text needs the whole encoder
        model, rows, evaluated = rehearsing.rehearsing_model(), _required(data.train), data.evaluated
    result = train(
        model,
        variables,
        rows,
        random_states=random_states(adaptation.model),
        config=config.training,
        task_loss="regression" if task.regression else "classification",
        evaluate=lambda model: (
            evaluate(model, task, evaluated) | ({MASKED_LM_LOSS: masked_lm.loss()} if masked_lm else {})
        ),
        score=selection(task, data),
        rates=adaptation.rates(),
        budget=adaptation.budget(),
        distillation=None if task.regression else config.distillation,
        beside=rehearsing and rehearsing.batch,
        output_dir=Path(config.output_dir),
        resume=config.resume,
        identity=config.to_json() | ({"text": masked_lm.identity} if masked_lm else {}),
    )
    for path, value in (result.best_weights or {}).items():
        variables[path].assign(value)
    return result


def evaluate(model: keras.Model, task: Task, validation: Mapping[str, RowSource]) -> dict[str, float]:
    """Returns the task's metrics over each whole validation split."""
    return metrics_of(lambda rows: predict_logits(model, rows, EVAL_BATCH), task, validation)


def metrics_of(
    predict: Callable[[RowSource], np.ndarray], task: Task, validation: Mapping[str, RowSource]
) -> dict[str, float]:
    """Returns the task's metrics over each whole validation split, from a function that gives its logits."""
    metrics: dict[str, float] = {}
    for prefix, rows in validation.items():
        values = compute_metrics(task, predict(rows), rows.labels)
        metrics |= {f"{prefix}/{name}" if prefix else name: value for name, value in values.items()}
    return metrics


def write_predictions(folder: Path, task: Task, logits: np.ndarray[Any, Any]) -> None:
    """Writes predicted labels in the form that GLUE's server takes: index and prediction, tab-separated."""
    lines = ["index\tprediction", *(f"{i}\t{task.labels[label]}" for i, label in enumerate(logits.argmax(axis=-1)))]
    with replacing(folder / PREDICTIONS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe(config: RunConfig, adaptation: Adaptation, data: Data, trained: TrainingResult | None) -> RunResult:
    """Gathers what result.json holds."""
    counts = adaptation.parameter_counts()
    timing = Timer().read() if trained is None else trained.timing
    return RunResult(
        task=config.task,
        method=adaptation.method.name,
        preset=config.preset,
        seed=config.training.seed,
        config=config.to_json(),
        parameters={"trainable": counts.trainable, "total": counts.total},
        data={
            "source": data.source,
            "train_examples": len(data.train or ()),
            "validation_examples": sum(len(rows) for rows in data.validation.values()),
        },
        best=score_of(trained and trained.best),
        last=score_of(trained and trained.last),
        timing={
            "total_seconds": timing.earlier_seconds + process_seconds(),
            "train_seconds": timing.train_seconds,
            "train_examples_per_second": timing.train_examples_per_second,
            "compile_seconds": timing.compile_seconds,
        },
    )


def score_of(evaluation: Evaluation | None) -> Score | None:
    if evaluation is None:
        return None
    return Score(step=evaluation.step, epoch=evaluation.epoch, metrics=evaluation.metrics)


def _required(value: Any) -> Any:
    assert value is not None
    return value
