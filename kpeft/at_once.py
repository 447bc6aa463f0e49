"""Which runs can be trained at once, and the folder of each; no Keras in sight."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kpeft.config import RunConfig, TrainingConfig
from kpeft.methods import LoRA, Method


def combine(config: RunConfig, several: Mapping[str, Sequence[Any]], folder: str | Path) -> list[RunConfig]:
    """Returns the runs of all combinations of some values, each in a folder named after its own.

    Args:
        config: What they have in common.
        several: Values by name: seed, learning_rate, rank, in this order.
        folder: Holds the folders, such as `seed=0,learning_rate=0.001`.

    Raises:
        ValueError: If they cannot be trained at once.
    """
    configs = []
    for values in itertools.product(*several.values()):
        own = dict(zip(several, values, strict=True))
        name = ",".join(f"{name}={value}" for name, value in own.items())  # the shortest text that is that number
        method = config.method
        if "rank" in own:
            if not isinstance(method, LoRA) or method.init in ("pissa", "olora"):
                raise ValueError(
                    "several ranks at once are for method lora that leaves the base's kernels as they are (init other "
                    "than pissa and olora): start the runs singly."
                )
            method = replace(method, rank=own.pop("rank"))
        training = replace(config.training, **own)
        configs.append(replace(config, method=method, training=training, output_dir=str(Path(folder, name))))
    check_at_once(configs)
    return configs


def check_at_once(configs: Sequence[RunConfig]) -> None:
    """Checks that runs can be trained at once.

    Raises:
        ValueError: If they differ in more than seed, learning rate, LoRA rank and folder, two are the same, or they ask
            for what only a single run can do.
    """
    first = configs[0]
    for option, asked in {
        "--resume": first.resume,
        "--adapter": first.adapter is not None,
        "--teacher": first.distillation is not None,
        "--text": first.masked_text is not None,
        "--save-steps": first.training.save_steps is not None,
        "--keep": first.training.keep != TrainingConfig().keep,
    }.items():
        if asked:
            raise ValueError(f"{option} does not go with several runs at once: start them singly.")
    if any(_common(config) != _common(first) for config in configs):
        raise ValueError("runs at once may differ in seed, learning rate, rank and output folder only.")
    folders = [Path(config.output_dir).resolve() for config in configs]
    twice = sorted({config.output_dir for config, own in zip(configs, folders, strict=True) if folders.count(own) > 1})
    if twice:
        raise ValueError(f"several runs would write to {', '.join(twice)}: give each value, or folder, once.")


def _common(config: RunConfig) -> RunConfig:
    method = replace(config.method, rank=1) if isinstance(config.method, LoRA) else config.method
    training = replace(config.training, seed=0, learning_rate=1.0)
    return replace(config, method=method, training=training, output_dir="")


def rank_of(method: Method | None) -> int | None:
    """Returns LoRA's rank; other methods have none."""
    return method.rank if isinstance(method, LoRA) else None
