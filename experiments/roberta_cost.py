"""What do LoRA and BitFit save on RoBERTa, and why did they fail on RTE?

    python -m experiments.roberta_cost --data-dir GLUE_FOLDER

RoBERTa-base on SST-2, 3 epochs of batches of 16, LoRA r = 8, alpha 8 on query and value: a course report measured full
.940 in 3,139 s, LoRA .912 in 1,923 s, BitFit .893 in 1,769 s (64.4, 105.1 and 114.2 examples/s). On RTE it got full
.693, LoRA .527 and BitFit .487. There LoRA was given a task type that trains no head, and BitFit froze the head's
kernels, so a random head stayed; the learning rate is not stated. The runs on RTE tell the two apart: head trained or
not, times a rate for full fine-tuning (5e-5) or for few parameters (1e-3).

`experiments.benchmarks.speed` compares times in one go and `experiments/benchmarks/cost.py` counts operations; times in
these runs' results are those of runs of their own.
"""

from __future__ import annotations

import argparse

from experiments.recipe import Sweep, main

COMMON = "--preset roberta_base_en --epochs 3 --batch-size 16"
METHODS = {"lora": "--method lora --rank 8 --alpha 8", "bitfit": "--method bitfit"}
RATES = (5e-5, 1e-3)


def sweeps(options: argparse.Namespace) -> list[Sweep]:
    found = []
    for task in options.tasks:
        found.append(Sweep(f"{task}-full", f"--task {task} {COMMON} --method full"))
        for name, method in METHODS.items():
            flags = f"--task {task} {COMMON} {method}"
            if task == "rte":
                found += [
                    Sweep(f"rte-{name}-{head}-head", f"{flags} --train-head {trained}", learning_rates=RATES)
                    for head, trained in (("trained", "true"), ("random", "false"))
                ]
            else:
                found.append(Sweep(f"{task}-{name}", flags))
    return found


if __name__ == "__main__":
    main(__doc__, sweeps, tasks=("sst2", "rte"))
