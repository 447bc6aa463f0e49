"""Does BitFit want a larger or a smaller learning rate than full fine-tuning?

    python -m experiments.learning_rates --data-dir GLUE_FOLDER

Two course reports say a larger one, a third a smaller one. Full fine-tuning from 1e-6 to 1e-3, BitFit and LoRA from
1e-5 to 1e-2, half a decade apart, 3 epochs, all else as `kpeft.run` has it by default; the page draws score against
rate. The curves are of the validation rows: they answer the question, and no rate is chosen by them.

Reached with MiniLM (22.7 M parameters, no BERT-base) on MRPC's 408 validation rows, seed 0, on two EPYC cores: a larger
one. Best accuracy, by these rows, of full fine-tuning .826 at 1e-4, of LoRA .789 at 1e-3, of BitFit .782 at 3e-3;
BitFit has the constant answer's .684 up to 3e-4. By `--preset minilm --precision bfloat16 --jobs 2 --tasks mrpc --seeds
0`; all runs are in experiments/results/learning_rates.
"""

from __future__ import annotations

import argparse

from experiments.pivot import pivot
from experiments.recipe import Sweep, main

RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
METHODS = {"full": RATES[:7], "bitfit": RATES[2:], "lora": RATES[2:]}


def sweeps(options: argparse.Namespace) -> list[Sweep]:
    return [
        Sweep(f"{task}-{method}", f"--task {task} --epochs 3 --method {method}", learning_rates=rates)
        for task in options.tasks
        for method, rates in METHODS.items()
    ]


if __name__ == "__main__":
    main(__doc__, sweeps, tasks=("mrpc", "rte"), summary=pivot("learning_rate"))
