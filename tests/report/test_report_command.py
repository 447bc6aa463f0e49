"""The command of a run is read by kpeft.run's own parser, and gives the run again."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

import pytest
from report_folders import config

from kpeft.config import DataConfig, Distillation, MaskedText, RunConfig
from kpeft.methods import METHODS, BitFit, Bottleneck, LoRA, Method, Prefix, QLoRA, Union
from kpeft.report.command import command
from kpeft.run import make_configs, make_parser


def again(line: str) -> RunConfig:
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "kpeft.run"]
    (run,) = make_configs(make_parser().parse_args(words[3:]))
    return dataclasses.replace(run, output_dir="unused")


def written(run: RunConfig) -> Any:
    return json.loads(json.dumps(run.to_json()))  # as result.json has it: lists for tuples


RUNS = [
    *(config(method()) for method in METHODS.values()),
    config(LoRA(rank=4, alpha=32.5, targets="all-linear", layers=(0, 3), rank_pattern={"query": 2}, use_rslora=True)),
    config(LoRA(targets=r".*/(query|it's \$x)_dense", train_head=False, bias="lora_only", init="pissa")),
    config(QLoRA(dropout=0.1)),
    config(Union(parts=(LoRA(rank=4), BitFit()))),
    config(Union(parts=(LoRA(gated=True), Prefix(gated=True), Bottleneck(style="pfeiffer", gated=True)))),
    config(
        task="cola",
        epochs=7,
        batch_size=8,
        learning_rate=2.5e-5,
        schedule="cosine",
        warmup=10,
        weight_decay=0.0,
        adam_epsilon=1e-6,
        clip_norm=None,
        gradient_accumulation=2,
        max_steps=9,
        eval_steps=3,
        patience=2,
        save_steps=4,
        keep=2,
        seed=11,
        precision="bfloat16",
        data=DataConfig(data_dir="a folder/with 'quotes' & $signs", max_length=64, limit=10),
        preset="-odd",
    ),
    config(data=DataConfig(offline=True)),
    config(distillation=Distillation(teacher="runs/full/adapter", weight=0.7, temperature=1.5)),
    config(masked_text=MaskedText(text="some text.txt", rehearsal=0.25)),
    config(data=DataConfig(tfds_dir="tfds", split="test", holdout=0.1)),
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_the_command_gives_the_run_again(run: RunConfig) -> None:
    assert again(command(written(run))) == run


def test_only_what_differs_or_hangs_on_the_task_is_given() -> None:
    line = command(written(config(LoRA(rank=4), learning_rate=1e-3)))
    assert line == (
        "python -m kpeft.run --task mrpc --method lora --rank 4 --preset minilm --epochs 3 --learning-rate 0.001 "
        "--seed 0"
    )


def test_an_adapter_brings_its_method() -> None:
    run = config(BitFit(terms=("query",)), task="rte", adapter="some/adapter")
    assert again(command(written(run))) == dataclasses.replace(run, method=None)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LoRA(targets=("query",)), "targets=.* of method lora has no form on the command line"),
        (Union(parts=(LoRA(dropout=0.1), Prefix())), "dropout differs between the parts of lora"),
    ],
)
def test_what_no_command_gives_is_refused(method: Method, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command(written(config(method)))
