"""What a run uses where the user says nothing: learning rates by method, epochs by task, as data with their sources.

Starting points, not tuned values: none was chosen by looking at a validation split. Where the published rate, meant
for many more passes, learns next to nothing in 5, that of two was taken whose training loss was lower on MRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Default:
    """A value and where it is from."""

    value: Any
    source: str


_BERT = "Devlin et al., 2019, arXiv 1810.04805, A.3 (2e-5 to 5e-5, 3 epochs)"
_LORA = "Hu et al., 2021, arXiv 2106.09685, table 9: RoBERTa-base"
_BITFIT = "the BitFit authors' code: 1e-3, where full fine-tuning takes 1e-5"
_ADALORA = "the AdaLoRA authors' scripts for DeBERTa-v3: CoLA and SST-2 8e-4, MNLI 5e-4, MRPC 1e-3"

LEARNING_RATES: dict[str, Default] = {
    "full": Default(2e-5, _BERT),
    "freeze": Default(5e-5, _BERT),
    "head": Default(1e-3, "the rate of the other methods that train few parameters"),
    "bitfit": Default(1e-3, _BITFIT),
    "layernorm": Default(1e-3, "as for BitFit, whose parameters it shares"),
    "lora": Default(5e-4, _LORA),
    "ia3": Default(3e-3, "Liu et al., 2022, arXiv 2205.05638: T-Few, with Adafactor"),
    "dora": Default(5e-4, "as for LoRA, whose settings Liu et al., 2024, arXiv 2402.09353, take over"),
    "adalora": Default(8e-4, _ADALORA),
    "vera": Default(5e-3, "ten times LoRA's: what is trained only scales a small random product"),
    "loha": Default(5e-4, "as for LoRA, whose place it takes"),
    "lokr": Default(5e-4, "as for LoRA, whose place it takes"),
    "prompt": Default(1e-3, "Hugging Face PEFT's example of prompt tuning: MRPC, 20 epochs"),
    "p-tuning": Default(1e-3, "Hugging Face PEFT's example of P-tuning: MRPC, 20 epochs"),
    "prefix": Default(1e-2, "the P-tuning v2 authors' scripts for BERT: RTE, 60 epochs"),
    "bottleneck": Default(3e-4, "the code of Houlsby et al., 2019, arXiv 1902.00751"),
    "compacter": Default(3e-3, "the authors' code of Karimi Mahabadi et al., 2021, arXiv 2106.04647: MRPC, 20 epochs"),
    "qlora": Default(5e-4, "as for LoRA, which it is on a quantised model"),
}
_LORA_BRIEF = "about twice the rate of Hu et al., 2021, who pass over these small sets 30 to 80 times, not 5 to 10"
_BY_TRAINING_LOSS = "training loss on MRPC with MiniLM, 5 epochs: docs/methods.md"
_BRIEF: dict[str, Default] = {
    **dict.fromkeys(("lora", "dora", "qlora", "loha"), Default(1e-3, _LORA_BRIEF)),
    "lokr": Default(5e-3, _BY_TRAINING_LOSS),
    "adalora": Default(1e-2, _BY_TRAINING_LOSS),
    "vera": Default(2e-2, _BY_TRAINING_LOSS),
    "prompt": Default(3e-2, _BY_TRAINING_LOSS),
    "p-tuning": Default(1e-2, _BY_TRAINING_LOSS),
}
TASK_LEARNING_RATES: dict[tuple[str, str], Default] = {
    **{(m, task): rate for m, rate in _BRIEF.items() for task in ("mrpc", "cola", "stsb", "rte", "wnli")},
    ("lora", "qnli"): Default(4e-4, _LORA),
}
EPOCHS: dict[str, Default] = {
    "cola": Default(5, "small training sets gain from more passes: Mosbach et al., 2021, arXiv 2006.04884"),
    "mrpc": Default(5, "as for cola"),
    "stsb": Default(5, "as for cola"),
    "rte": Default(10, "as for cola"),
    "wnli": Default(5, "as for cola"),
}
DEFAULT_EPOCHS = Default(3, _BERT)


def learning_rate(task: str, method: str) -> float:
    """Returns the default peak learning rate of a method on a task."""
    default = TASK_LEARNING_RATES.get((method, task)) or LEARNING_RATES[method]
    return float(default.value)


def epochs(task: str) -> int:
    """Returns the default number of epochs on a task."""
    return int(EPOCHS.get(task, DEFAULT_EPOCHS).value)
