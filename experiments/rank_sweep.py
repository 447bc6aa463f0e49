"""How large must LoRA's rank be, and does it help to adapt all linear layers?

    python -m experiments.rank_sweep --data-dir GLUE_FOLDER

LoRA on all linear layers and on the query alone, r = 1, 4, 8, 16, 32, on MRPC (10 epochs) and SST-2 (1 epoch), and
BitFit beside it: a course report on BERT-base found hardly any difference between ranks (MRPC accuracy .858, .855, .860
for r = 8, 16, 32; SST-2 .917, .916, .925). Its settings: alpha 32, dropout .1, batches of 4 times 16, weight decay .01;
its BitFit trains variables named "bias" only, so that the head's kernel stays random. LoRA's learning rate, warm-up and
clipping are not given: kpeft's defaults stand in for them. Evaluated is after the last step only.

Reached with MiniLM (22.7 M parameters, no BERT-base) on MRPC's 408 validation rows, 5 epochs, seed 0, on two Xeon
cores: accuracy .792, .816, .816, .809, .816 on all linear layers, .701, .696, .703, .699, .703 on the query, BitFit
.684, which is the constant answer. By `--preset minilm --precision bfloat16 --jobs 2 --tasks mrpc --epochs 5 --seeds
0`; all runs are in experiments/results/rank_sweep.
"""

from __future__ import annotations

import argparse

from experiments.pivot import pivot
from experiments.recipe import Sweep, main

EPOCHS = {"mrpc": 10, "sst2": 1}
BITFIT_RATES = {"mrpc": 5e-4, "sst2": 5e-3}
RANKS = (1, 4, 8, 16, 32)
REPORTED = "--batch-size 16 --gradient-accumulation 4 --weight-decay 0.01 --eval-steps 1000000"


def sweeps(options: argparse.Namespace) -> list[Sweep]:
    found = []
    for task in options.tasks:
        common = f"--task {task} --epochs {EPOCHS[task]} {REPORTED}"
        for targets in ("all-linear", "query"):
            lora = f"--method lora --targets {targets} --alpha 32 --dropout 0.1"
            found.append(Sweep(f"{task}-lora-{targets}", f"{common} {lora}", ranks=RANKS))
        bitfit = f"{common} --method bitfit --learning-rate {BITFIT_RATES[task]}"
        found.append(Sweep(f"{task}-bitfit", bitfit))
        found.append(Sweep(f"{task}-bitfit-random-head", f"{bitfit} --train-head false"))
    return found


if __name__ == "__main__":
    main(__doc__, sweeps, tasks=tuple(EPOCHS), summary=pivot("rank"))
