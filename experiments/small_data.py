"""What works with 1,000 labelled rows, and what overfits?

    python -m experiments.small_data --data-dir GLUE_FOLDER

Full fine-tuning (as it comes, with layer-wise rates, and stopped early), three quarters of the layers frozen, the head
alone, LoRA, a prompt, bottleneck adapters, and LoRA that learns from the full fine-tuning of the first seed, on 1,000
training rows, 20 epochs, evaluated after each. Of those rows, 200 are held out: they choose the best evaluation and
stop early; the validation rows choose nothing. Where the held-out loss rises while the training loss goes on falling, a
method overfits; the page draws both.
"""

from __future__ import annotations

import argparse
import shlex

from experiments.recipe import Sweep, main

COMMON = "--epochs 20 --limit 800 --holdout 200"
METHODS = {
    "full": "--method full",
    "full-layer-decay": "--method full --layer-decay 0.85",
    "full-early-stop": "--method full --patience 3",
    "freeze": "--method freeze",
    "head": "--method head --learning-rate 1e-2",
    "lora": "--method lora",
    "prompt": "--method prompt --tokens 20",
    "bottleneck": "--method bottleneck",
}


def sweeps(options: argparse.Namespace) -> list[Sweep]:
    found = []
    for task in options.tasks:
        common = f"--task {task} {COMMON}"
        found += [Sweep(f"{task}-{name}", f"{common} {method}") for name, method in METHODS.items()]
        teacher = options.output / f"{task}-full" / f"seed={options.seeds[0]}" / "adapter"
        taught = f"{common} --method lora --teacher {shlex.quote(str(teacher))}"
        found.append(Sweep(f"{task}-lora-distilled", taught, stage=1))
    return found


if __name__ == "__main__":
    main(__doc__, sweeps, tasks=("mrpc", "rte"), evaluation="best")
