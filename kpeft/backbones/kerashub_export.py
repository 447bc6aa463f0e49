"""A classifier, adapters merged, as a KerasHub preset: KerasHub's own classes, nothing of kpeft's."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras_hub

from kpeft.adaptation import Adaptation
from kpeft.backbones.classifier import BACKBONES, HEADS, private_random
from kpeft.backbones.description import describe
from kpeft.backbones.huggingface_config import EncoderConfig
from kpeft.backbones.kerashub import keras_hub_tokenizer
from kpeft.backbones.presets import resolve
from kpeft.files import new_folder
from kpeft.sites import Layout, variable_paths

_CLASSIFIERS: dict[str, Any] = {
    "bert": keras_hub.models.BertTextClassifier,
    "roberta": keras_hub.models.RobertaTextClassifier,
    "distilbert": keras_hub.models.DistilBertTextClassifier,
    "albert": keras_hub.models.AlbertTextClassifier,
    "deberta_v3": keras_hub.models.DebertaV3TextClassifier,
    "xlm_roberta": keras_hub.models.XLMRobertaTextClassifier,
}
_OTHERWISE = "kpeft.save_huggingface writes such a model"


def save_kerashub(adaptation: Any, folder: str | Path, *, preset: str | None = None) -> None:
    """Writes a model as a KerasHub preset, that of a text classifier.

    `keras_hub.models.TextClassifier.from_preset` and `load_classifier` load it and give the same logits, without kpeft.
    KerasHub has one activation and one LayerNorm epsilon for each family; its BERT computes tanh-GELU. A model with
    others, as Hugging Face's BERT is, cannot be such a preset.

    Args:
        adaptation: An adaptation, which is merged in what is written and afterwards is what it was, or a classifier
            without adapters.
        folder: Where to write; it must not exist, or be empty.
        preset: Where the model's tokenizer is, as `load_classifier` takes it. Without it, no tokenizer is written.

    Raises:
        ValueError: If the model is no classifier of a known family, KerasHub has no classifier that computes the
            same, or its adapters cannot be merged. Nothing is written then.
    """
    with adaptation.plain() if isinstance(adaptation, Adaptation) else nullcontext(adaptation) as model:
        config = describe(model)
        task = _task(model, config)
    if preset is not None:
        tokenizer = keras_hub_tokenizer(resolve(preset).location)
        task.preprocessor = type(task).preprocessor_cls(tokenizer, sequence_length=config.max_length)
    with new_folder(Path(folder)) as temporary:
        task.save_to_preset(str(temporary))


def _task(model: Any, config: EncoderConfig) -> Any:
    """Returns KerasHub's classifier with the weights of `model`."""
    if config.family not in _CLASSIFIERS:
        raise ValueError(f"KerasHub has no classifier of family {config.family}; {_OTHERWISE}.")
    layout = Layout.of(model)
    with private_random(0):
        backbone = BACKBONES[config.family](**config.backbone_options(), dropout=config.dropout, dtype="float32")
        options = {} if HEADS[config.family].pooled else {"hidden_dim": model.get_layer("pooled_dense").units}
        classes = int(model.get_layer("logits").bias.shape[0])
        task = _CLASSIFIERS[config.family](backbone, classes, dropout=config.pooler_dropout, **options)
    own = describe(task)
    for name in ("activation", "epsilon"):
        wanted, found = getattr(config, name), getattr(own, name)
        if wanted != found:
            raise ValueError(
                f"KerasHub's {type(backbone).__name__} has {name} {found}, and the model {wanted}; {_OTHERWISE}."
            )
    values = variable_paths(layout.layers[layout.backbone])
    for path, variable in variable_paths(backbone).items():
        variable.assign(values[path].value)
    added = values.get("embeddings/position_embedding/token_type")
    if added is not None:  # KerasHub's RoBERTa has that row in the positions
        backbone.embeddings.position_embedding.position_embeddings.assign_add(added.value)
    for name in ("pooled_dense", "logits"):
        if name in {layer.name for layer in model.layers}:
            task.get_layer(name).set_weights(model.get_layer(name).get_weights())
    return task
