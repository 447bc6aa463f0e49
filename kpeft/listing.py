"""What --list prints: methods with their trainable parameters, and tasks."""

from __future__ import annotations

import sys

from kpeft.glue.tasks import TASKS
from kpeft.methods import METHODS

TRAINABLE: dict[str, tuple[int, int]] = {
    "full": (109_483_778, 124_644_866),
    "head": (1_538, 592_130),
    "bitfit": (104_450, 694_274),
    "layernorm": (39_938, 630_530),
    "freeze": (21_855_746, 21_855_746),
    "lora": (296_450, 887_042),
    "dora": (314_882, 905_474),
    "qlora": (296_450, 887_042),
    "adalora": (444_194, 1_034_786),
    "ia3": (66_050, 656_642),
    "vera": (26_114, 616_706),
    "loha": (591_362, 1_181_954),
    "lokr": (27_650, 618_242),
    "prompt": (16_898, 607_490),
    "p-tuning": (1_788_674, 2_379_266),
    "prefix": (370_178, 960_770),
    "bottleneck": (2_419_202, 3_009_794),
    "compacter": (97_026, 687_618),
}
"""Trainable parameters of each method as it comes, with two labels, on BERT-base and RoBERTa-base in KerasHub."""


def print_list() -> None:
    """Prints the tables on standard output."""
    lines = [f"{'method':<12}{'BERT-base':>14}{'RoBERTa-base':>14}  trains (two labels, the method's defaults)"]
    for name, method in METHODS.items():
        bert, roberta = TRAINABLE[name]
        lines.append(f"{name:<12}{bert:>14,}{roberta:>14,}  {method.summary}")
    lines += ["", f"{'task':<8}{'labels':<40}  best by"]
    for task in TASKS.values():
        labels = ", ".join(task.labels) if task.labels else "score from 0 to 5"
        best = "predicted only" if task.train is None else " and ".join(task.selection)
        lines.append(f"{task.name:<8}{labels:<40}  {best}")
    lines += [
        "",
        "minilm and every KerasHub preset of BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, DeBERTa-v3 and XLM-RoBERTa",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
