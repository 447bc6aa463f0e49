"""What works with 1,000 labelled rows, and what overfits?

    python -m experiments.small_data --data-dir GLUE_FOLDER

Full fine-tuning (as it comes, with layer-wise rates, and stopped early), three quarters of the layers frozen, the head
alone, LoRA, a prompt, bottleneck adapters, and LoRA that learns from the full fine-tuning of the same seed, on 1,000
training rows, 20 epochs, evaluated after each. Of those rows, 200 are held out: they choose the best evaluation and
stop early; the validation rows choose nothing. Where the held-out loss rises while the training loss goes on falling, a
method overfits; the page draws both.

With `--text FILE` (plain text) and a preset whose checkpoint has its masked-LM head, such as
hf://google-bert/bert-base-uncased (KerasHub's presets and `minilm` have none), the page also draws the masked-LM loss
of the encoder, which rises where it forgets its pretraining, and a full fine-tuning that rehearses masked text, a row
for every four of the task's, stands beside the others.

Reached with MiniLM (22.7 M parameters, no BERT-base) on MRPC's 408 validation rows, seed 0, on two Xeon cores, by
accuracy of the chosen evaluation: LoRA distilled .750, LoRA .745, full with layer-wise rates .733, bottleneck .728,
full .721 (stopped early the same), prompt .706, frozen .699, head .689. All overfit, head and prompt little.
By `--preset minilm --precision bfloat16 --jobs 2 --tasks mrpc --seeds 0`; all runs: experiments/results/small_data.
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


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", help="plain text to measure forgetting on, and to rehearse")


def sweeps(options: argparse.Namespace) -> list[Sweep]:
    found = []
    for task in options.tasks:
        common = f"--task {task} {COMMON}"
        if options.text:
            common += f" --text {shlex.quote(options.text)}"
            found.append(Sweep(f"{task}-full-rehearsal", f"{common} --method full --rehearsal 0.25"))
        found += [Sweep(f"{task}-{name}", f"{common} {method}") for name, method in METHODS.items()]
        teacher = options.output / f"{task}-full" / "seed={seed}" / "adapter"
        taught = f"{common} --method lora --teacher {shlex.quote(str(teacher))}"
        found.append(Sweep(f"{task}-lora-distilled", taught, stage=1))
    return found


if __name__ == "__main__":
    main(__doc__, sweeps, tasks=("mrpc", "rte"), evaluation="best", add_flags=add_flags)
