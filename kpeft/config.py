"""What a run is asked to do: frozen dataclasses, checked across fields, with no Keras in sight."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kpeft.glue.tasks import get_task
from kpeft.methods import Method

SCHEDULES = ("linear", "constant", "cosine")
SPLITS = ("validation", "test")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained; a *step* is one optimiser update throughout.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Rows of one micro-batch.
        learning_rate: Peak rate.
        schedule: `"linear"` (decay to 0), `"cosine"` (decay to 0) or `"constant"`, each after the warm-up.
        warmup: Below 1 a share of all steps, else a number of steps.
        weight_decay: Decoupled decay; never on biases and LayerNorms.
        adam_epsilon: Adam's epsilon.
        clip_norm: Largest global gradient norm, or `None`.
        gradient_accumulation: Micro-batches of one step.
        max_steps: Stop after this many steps, or `None`. The schedule is laid over the steps that will be made.
        eval_steps: Evaluate every so many steps; `None` means at the end of each epoch.
        patience: Stop after so many evaluations without a better selection score, or `None`.
        save_steps: Save a checkpoint every so many steps; `None` means at the end of each epoch.
        keep: How many checkpoints to keep.
        seed: Decides the order of rows and the dropout.
    """

    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 1e-3
    schedule: str = "linear"
    warmup: float = 0.06
    weight_decay: float = 0.01
    adam_epsilon: float = 1e-8
    clip_norm: float | None = 1.0
    gradient_accumulation: int = 1
    max_steps: int | None = None
    eval_steps: int | None = None
    patience: int | None = None
    save_steps: int | None = None
    keep: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "gradient_accumulation", "keep"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("max_steps", "eval_steps", "patience", "save_steps"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "at least 1", value)
        for name in ("weight_decay", "warmup", "seed"):
            _require(0 <= getattr(self, name) < math.inf, name, "0 or more", getattr(self, name))
        for name in ("learning_rate", "adam_epsilon"):
            _require(0 < getattr(self, name) < math.inf, name, "above 0", getattr(self, name))
        _require(self.clip_norm is None or 0 < self.clip_norm < math.inf, "clip_norm", "above 0", self.clip_norm)
        _require(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}", self.schedule)
        _require(self.warmup < 1 or self.warmup == int(self.warmup), "warmup", "below 1 or whole", self.warmup)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where rows come from.

    Attributes:
        data_dir: A folder of GLUE TSVs. Without it tensorflow-datasets loads them, or `offline` makes sample rows.
        tfds_dir: Where tensorflow-datasets keeps what it prepared.
        offline: Touch no network: use the bundled sample rows unless `data_dir` says otherwise.
        max_length: Longest row in tokens, special tokens included.
        limit: Use only so many training rows, or `None`.
        split: What is evaluated: `"validation"`, or `"test"` where its labels are public.
        holdout: Share of the training rows, or their number if not below 1, that is not trained on and decides the best
            evaluation instead of the split that is evaluated. The same rows for every seed.
    """

    data_dir: str | None = None
    tfds_dir: str | None = None
    offline: bool = False
    max_length: int = 128
    limit: int | None = None
    split: str = "validation"
    holdout: float | None = None

    def __post_init__(self) -> None:
        _require(self.max_length >= 8, "max_length", "at least 8", self.max_length)
        _require(self.limit is None or self.limit >= 1, "limit", "at least 1", self.limit)
        _require(self.split in SPLITS, "split", f"one of {', '.join(SPLITS)}", self.split)
        share = (
            self.holdout is None or 0 < self.holdout < 1 or (self.holdout >= 1 and self.holdout == int(self.holdout))
        )
        _require(share, "holdout", "above 0, and below 1 or whole", self.holdout)
        _require(not (self.data_dir and self.tfds_dir), "data_dir", "left out where tfds-dir is given", self.data_dir)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What a run learns from another (Hinton et al., 2015, https://arxiv.org/abs/1503.02531).

    With the teacher's logits t and the model's z, the loss of a row with label y is (1 - w)·CE(y, z) +
    w·T²·KL(softmax(t/T) || softmax(z/T)); in a regression (1 - w)·(y - z)² + w·(t - z)², up to a constant.

    Attributes:
        teacher: The adapter of a finished run on the same preset and task, as `kpeft.load_adapter` takes it. That of a
            full fine-tuning holds the whole model.
        weight: w.
        temperature: T; a regression has none.
    """

    teacher: str
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        _require(0 < self.weight <= 1, "distillation_weight", "above 0 and at most 1", self.weight)
        _require(0 < self.temperature < math.inf, "temperature", "above 0", self.temperature)


@dataclass(frozen=True, kw_only=True)
class MaskedText:
    """Text that shows what training makes the encoder forget of its pretraining; see `kpeft.masked_lm`.

    Attributes:
        text: A file of plain text in UTF-8. A part gives the masked-LM loss, before training and at evaluations.
        rehearsal: Rows of masked text beside each row of the task, from the rest of it; 0 for none.
    """

    text: str
    rehearsal: float = 0.0

    def __post_init__(self) -> None:
        _require(0 <= self.rehearsal < math.inf, "rehearsal", "0 or more", self.rehearsal)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run.

    Attributes:
        task: A GLUE task, such as `"mrpc"`.
        method: How to fine-tune. With `adapter` it may be `None`, and may not differ from the adapter's own.
        preset: Which pretrained model, as `kpeft.load_classifier` takes it.
        data: Where rows come from.
        training: How to train.
        precision: `"float32"`, or `"bfloat16"`: bfloat16 arithmetic on float32 weights.
        adapter: An adapter to start from, as `kpeft.load_adapter` takes it, or `None`.
        distillation: What to learn from another run, or `None`.
        masked_text: Text to measure forgetting on, and to rehearse, or `None`.
        output_dir: Where the run's files go.
        overwrite: Replace a run that is there already.
        resume: Go on with the run that is there from its last saved step.
    """

    task: str
    method: Method | None
    output_dir: str
    preset: str = "bert_base_en_uncased"
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    precision: str = "float32"
    adapter: str | None = None
    distillation: Distillation | None = None
    masked_text: MaskedText | None = None
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        task = get_task(self.task)
        _require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        if task.train is None and self.adapter is None:
            raise ValueError(f"task {task.name} has no training rows: give the adapter of an MNLI run with --adapter.")
        if self.method is None and self.adapter is None:
            raise ValueError("a run needs a --method, or an --adapter to start from.")
        if self.overwrite and self.resume:
            raise ValueError("--overwrite and --resume exclude each other.")
        if task.train is None:
            for flag, asked in {
                "--resume": self.resume,
                "--teacher": self.distillation is not None,
                "--text": self.masked_text is not None,
                "--holdout": self.data.holdout is not None,
                "--split": self.data.split != DataConfig().split,
            }.items():
                if asked:
                    raise ValueError(f"task {task.name} is only predicted, which {flag} does not go with.")
        local = self.preset == "minilm" or Path(self.preset).expanduser().is_dir()
        _require(local or not self.data.offline, "preset", "minilm or a folder with --offline", self.preset)
        for name, adapter in {
            "adapter": self.adapter,
            "teacher": self.distillation and self.distillation.teacher,
        }.items():
            local = "://" not in (adapter or "")
            _require(local or not self.data.offline, name, "a folder or a file with --offline", adapter)

    def to_json(self) -> dict[str, Any]:
        """Returns the configuration as a JSON object."""
        from kpeft.methods.fields import method_to_json

        method = None if self.method is None else method_to_json(self.method)
        return {
            "task": self.task,
            "method": method,
            "preset": self.preset,
            "data": asdict(self.data),
            "training": asdict(self.training),
            "precision": self.precision,
            "adapter": self.adapter,
            "distillation": self.distillation and asdict(self.distillation),
            "masked_text": self.masked_text and asdict(self.masked_text),
        }


def _require(holds: bool, name: str, expected: str, received: object) -> None:
    if not holds:
        raise ValueError(f"{name.replace('_', '-')} must be {expected}. Received: {received!r}")
