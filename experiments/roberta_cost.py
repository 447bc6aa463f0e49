"""What do LoRA and BitFit save on RoBERTa, and why did they fail on RTE?

    python -m experiments.roberta_cost --data-dir GLUE_FOLDER

RoBERTa-base on SST-2, 3 epochs of batches of 16, LoRA r = 8, alpha 8 on query and value: a course report measured full
.940 in 3,139 s, LoRA .912 in 1,923 s, BitFit .893 in 1,769 s (64.4, 105.1 and 114.2 examples/s). On RTE it got full
.693, LoRA .527 and BitFit .487. There LoRA was given a task type that trains no head, and BitFit froze the head's
kernels, so a random head stayed; the learning rate is not stated. The runs on RTE are to tell the two apart: head
trained or not, times a rate for full fine-tuning (5e-5) or for few parameters (1e-3). So are those on MRPC, which is
not in the report: a small encoder learns it and hardly learns RTE.

The table has the operations of a step, counted, and times as each run had them (all runs' together with --at-once);
`experiments.benchmarks.speed` compares times in one go. What the report does not state, such as the rates on SST-2 and
of full fine-tuning, is at kpeft's defaults.

Reached with MiniLM (22.7 M parameters, no RoBERTa-base), seed 0, on two EPYC cores, on the validation rows, full, LoRA,
BitFit: SST-2, 8,000 training rows, .859, .839, .817 at 121, 245 and 273 examples/s. MRPC, 5 epochs, full .821; LoRA
.814 and BitFit .777 at 1e-3, .775 and .684 with a random head; .684, the constant answer, of all four at 5e-5. RTE,
full .563, the others .477 to .549, about the constant answer's .527. By `--preset minilm --precision bfloat16 --jobs 2
--seeds 0` and `--tasks sst2 --limit 8000`, `--tasks mrpc --epochs 5` or `--tasks rte`, each with an `--output` of
its own; all runs are in experiments/results/roberta_cost-sst2, roberta_cost-mrpc and roberta_cost.
"""

from __future__ import annotations

import argparse
import statistics

from experiments.benchmarks.cost import Encoder, flops_per_token
from experiments.recipe import Run, Sweep, main
from kpeft.report.answer import table_of
from kpeft.report.document import Table
from kpeft.results import FILE, read_result

COMMON = "--preset roberta_base_en --epochs 3 --batch-size 16"
METHODS = {"lora": "--method lora --rank 8 --alpha 8", "bitfit": "--method bitfit"}
RATES = (5e-5, 1e-3)
SIZES = {
    "roberta_base_en": Encoder(layers=12, width=768, inner=3072),
    "bert_base_en_uncased": Encoder(layers=12, width=768, inner=3072),
    "minilm": Encoder(layers=6, width=384, inner=1536),
}
LENGTH = 64  # tokens of the rows that operations are counted for


def sweeps(options: argparse.Namespace) -> list[Sweep]:
    found = []
    for task in options.tasks:
        found.append(Sweep(f"{task}-full", f"--task {task} {COMMON} --method full"))
        for name, method in METHODS.items():
            flags = f"--task {task} {COMMON} {method}"
            if task == "sst2":
                found.append(Sweep(f"{task}-{name}", flags))
            else:
                found += [
                    Sweep(f"{task}-{name}-{head}-head", f"{flags} --train-head {trained}", learning_rates=RATES)
                    for head, trained in (("trained", "true"), ("random", "false"))
                ]
    return found


def summary(options: argparse.Namespace, runs: dict[str, list[Run]]) -> Table:
    rows = []
    for name, sweep in runs.items():
        results = [read_result(run.folder) for run in sweep if (run.folder / FILE).exists()]
        for rate in dict.fromkeys(result.config["training"]["learning_rate"] for result in results):
            of_rate = [result for result in results if result.config["training"]["learning_rate"] == rate]
            preset, method = of_rate[0].preset, of_rate[0].method
            size, rank = SIZES.get(preset), of_rate[0].config["method"].get("rank", 0)
            operations = f"{flops_per_token(size, method, LENGTH, rank) / 1e6:.0f}" if size else ""
            accuracy = [result.last.metrics["accuracy"] for result in of_rate if result.last is not None]
            times = [
                [result.timing[key] for result in of_rate] for key in ("train_examples_per_second", "train_seconds")
            ]
            cells = [
                *(name, f"{rate:g}", str(len(of_rate)), f"{of_rate[0].parameters['trainable']:,}", operations),
                *(f"{statistics.mean(values):.0f}" for values in times),
                f"{statistics.mean(accuracy):.3f}",
            ]
            rows.append(cells)
    operations = f"MFLOP per token of a step, rows of {LENGTH}"
    columns = ("runs", "learning rate", "seeds", "trained", operations, "examples/s", "training s", "accuracy")
    return table_of("Cost, and accuracy after the last step; means over seeds", columns, rows)


if __name__ == "__main__":
    main(__doc__, sweeps, tasks=("sst2", "rte", "mrpc"), summary=summary)
