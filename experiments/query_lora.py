"""How far does LoRA in the query alone go, against BitFit?

    python -m experiments.query_lora --data-dir GLUE_FOLDER

BERT-base, r = 1, 4, 16, alpha 16, learning rate 1e-3, batches of 16, 5 epochs, weight decay .01. A course report got
about .90 on SST-2's validation rows and .80 on MRPC's test rows from both methods at any rank; it does not give alpha
or BitFit's rate. MRPC's test labels are in `MRPC/msr_paraphrase_test.txt` of the data folder; the bundled sample has
none, so `--offline` takes validation rows.

Reached with MiniLM (22.7 M parameters, no BERT-base), seed 0, on two EPYC cores, accuracy at r = 1, 4, 16, and of
BitFit: MRPC's 1,725 test rows .710, .712, .726, .763 (constant answer .665); SST-2's 872 validation rows, 8,000
training rows, .805, .821, .815, .825. By `--preset minilm --precision bfloat16 --jobs 2 --seeds 0` and `--tasks mrpc`,
or `--tasks sst2 --limit 8000` with an `--output` of its own; all runs are in experiments/results/query_lora and
query_lora-sst2.
"""

from __future__ import annotations

import argparse

from experiments.pivot import pivot
from experiments.recipe import Sweep, main

COMMON = "--epochs 5 --learning-rate 1e-3 --batch-size 16 --weight-decay 0.01"
METHODS = {"lora": "--method lora --targets query", "bitfit": "--method bitfit"}


def sweeps(options: argparse.Namespace) -> list[Sweep]:
    if "mrpc" in options.tasks and options.data_dir is None and not options.offline:
        raise ValueError(
            "MRPC's test labels are in no tensorflow-datasets: give --data-dir with MRPC/msr_paraphrase_test.txt, or "
            "--tasks sst2."
        )
    found = []
    for task in options.tasks:
        split = "test" if task == "mrpc" and not (options.offline and options.data_dir is None) else "validation"
        for name, method in METHODS.items():
            flags = f"--task {task} {COMMON} {method} --split {split}"
            found.append(Sweep(f"{task}-{name}", flags, ranks=(1, 4, 16) if name == "lora" else ()))
    return found


if __name__ == "__main__":
    main(__doc__, sweeps, tasks=("sst2", "mrpc"), summary=pivot("rank"))
