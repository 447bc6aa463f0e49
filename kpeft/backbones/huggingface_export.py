"""A classifier, adapters merged, as a Hugging Face folder that transformers loads and computes the same with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.numpy

from kpeft.adaptation import Adaptation
from kpeft.backbones.description import describe
from kpeft.backbones.huggingface_config import to_json
from kpeft.backbones.huggingface_weights import to_tensors
from kpeft.backbones.presets import resolve
from kpeft.backbones.tokenizer_export import hugging_face_files
from kpeft.families import FAMILIES
from kpeft.files import new_folder, write_json


def save_huggingface(
    adaptation: Any, folder: str | Path, *, preset: str | None = None, labels: Sequence[str] = ()
) -> None:
    """Writes a model as a Hugging Face folder: config.json, model.safetensors and the tokenizer's files.

    `AutoModelForSequenceClassification` and `load_classifier` load it and give the same logits. One logit makes it a
    regression. RoBERTa's first two position rows, which are never read, are zeros.

    Args:
        adaptation: An adaptation, which is merged in what is written and afterwards is what it was, or a classifier
            without adapters.
        folder: Where to write; it must not exist, or be empty.
        preset: Where the model's tokenizer is, as `load_classifier` takes it. Without it, no tokenizer is written.
        labels: Names of the classes, such as `kpeft.TASKS["mrpc"].labels`.

    Raises:
        ValueError: If the model is no classifier of a known family, holds weights or options that Hugging Face's has
            no place for, or its adapters cannot be merged. Nothing is written then.
    """
    with adaptation.plain() if isinstance(adaptation, Adaptation) else nullcontext(adaptation) as model:
        config, tensors = describe(model), to_tensors(model)
        count = int(model.get_layer("logits").bias.shape[0])
    if labels and (len(labels) != count or len(set(labels)) != count):
        raise ValueError(f"labels must be {count} different names, one for each class. Received: {list(labels)}")
    names = list(labels) or [f"LABEL_{index}" for index in range(count)]
    content = {
        "architectures": [FAMILIES[config.family].architecture],
        "dtype": "float32",
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "regression" if count == 1 else "single_label_classification",
        **to_json(config),
    }
    files = {} if preset is None else hugging_face_files(resolve(preset), config.family)
    with new_folder(Path(folder)) as temporary:
        safetensors.numpy.save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        for name, value in files.items():
            (temporary / name).write_bytes(value)
        write_json(temporary / "config.json", content)
