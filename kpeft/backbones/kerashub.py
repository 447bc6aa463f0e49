"""A classifier and a tokenizer from a KerasHub preset, the saved classifier's head included."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import keras
import keras_hub
from keras_hub.src.utils.preset_utils import check_file_exists, load_json

from kpeft.backbones.classifier import BACKBONES, classifier_from_backbone, family_of, private_random
from kpeft.backbones.presets import reading
from kpeft.backbones.tokenizers import TextTokenizer, from_keras_hub
from kpeft.hub import first_line


def classifier_from_preset(
    preset: str, num_classes: int, *, seed: int = 0, dtype: str | None = None, load_weights: bool = True
) -> tuple[keras.Model, str, Any, list[str]]:
    """Builds the classifier of a KerasHub preset.

    Args:
        preset: A preset name, a kaggle:// handle or a folder.
        num_classes: Number of logits; a saved classifier's head is loaded if it has as many.
        seed: Decides new layers and the dropouts' streams.
        dtype: Name of a Keras dtype policy.
        load_weights: False leaves every weight at its random start.

    Returns:
        The classifier, its family, its backbone, and the names of the layers that are new.

    Raises:
        ValueError: If the preset cannot be read or is of no supported family.
    """
    with reading(preset):
        config = load_json(preset)
    _check_architecture(config, preset)
    folder = Path(preset)
    if load_weights and folder.is_dir() and not any(folder.glob("model*.weights.h5")):
        raise ValueError(f"{folder}: no weights; expected model.weights.h5")
    options = {"load_weights": load_weights, "dtype": dtype}
    task_config = _task_config(preset)
    if task_config.get("num_classes") == num_classes and load_weights:
        task = _from_preset(keras_hub.models.TextClassifier, preset, seed, {**options, "preprocessor": None})
        classifier = classifier_from_backbone(
            task.backbone,
            num_classes,
            seed=seed,
            dropout=task_config.get("dropout"),
            hidden_dim=task_config.get("hidden_dim"),
        )
        for name, layer in {layer.name: layer for layer in classifier.layers}.items():
            if name in ("pooled_dense", "logits"):
                layer.set_weights(task.get_layer(name).get_weights())
        return classifier, family_of(task.backbone), task.backbone, []
    backbone = _from_preset(keras_hub.models.Backbone, preset, seed, options)
    classifier = classifier_from_backbone(backbone, num_classes, seed=seed)
    new = [layer.name for layer in classifier.layers if layer.name in ("pooled_dense", "logits")]
    return classifier, family_of(backbone), backbone, new if load_weights else ["all layers"]


def tokenizer_from_preset(preset: str, family: str) -> TextTokenizer:
    """Builds the tokenizer of a KerasHub preset.

    Args:
        preset: A preset name, a kaggle:// handle or a folder.
        family: Its family.

    Raises:
        ValueError: If the preset has no tokenizer, or an unreadable one.
    """
    tokenizer = keras_hub_tokenizer(preset)
    with reading(preset):
        return from_keras_hub(tokenizer, family)


def keras_hub_tokenizer(preset: str) -> Any:
    """Builds KerasHub's own tokenizer of a preset."""
    return _from_preset(keras_hub.models.Tokenizer, preset, 0, {})


def _check_architecture(config: Any, preset: str) -> None:
    name = config.get("class_name") if isinstance(config, dict) else None
    supported = [cls.__name__ for cls in BACKBONES.values()]
    if name not in supported:
        raise ValueError(
            f"preset {preset!r}: unsupported architecture; use one of {', '.join(supported)}. Received: {name}"
        )


def _task_config(preset: str) -> dict[str, Any]:
    """Returns the saved classifier's config, or nothing where there is none or no network to ask for it."""
    try:
        if not check_file_exists(preset, "task.json"):
            return {}
        task = load_json(preset, "task.json")
    except (OSError, ValueError):
        return {}
    is_classifier = str(task.get("class_name", "")).endswith(("TextClassifier", "Classifier"))
    config = task.get("config", {})
    return config if is_classifier and isinstance(config, dict) else {}


def _from_preset(cls: Any, preset: str, seed: int, options: dict[str, Any]) -> Any:
    with private_random(seed), reading(preset):
        try:
            return cls.from_preset(preset, **options)
        except (KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(f"damaged preset ({first_line(error)})") from error
