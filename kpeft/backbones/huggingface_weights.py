"""Copies a Hugging Face checkpoint's tensors into a classifier's variables, and back, by the names in
kpeft/families.py.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kpeft.backbones.safetensors_files import SafetensorsFolder
from kpeft.families import FAMILIES
from kpeft.sites import Layout, variable_paths, walk
from kpeft.targets import named_layers

# Structural path in the backbone -> module, for what is no place to adapt. RoBERTa's positions are read apart.
_SEGMENTED = {
    "token_embedding": "word_embeddings",
    "position_embedding": "position_embeddings",
    "segment_embedding": "token_type_embeddings",
}
_TOKENS_AND_POSITIONS = {"token_embedding": "word_embeddings", "position_embedding": "position_embeddings"}
EMBEDDINGS: dict[str, dict[str, str]] = {
    "bert": _SEGMENTED,
    "roberta": {"embeddings/token_embedding": "word_embeddings"},
    "distilbert": {f"token_and_position_embedding/{path}": name for path, name in _TOKENS_AND_POSITIONS.items()},
    "electra": _SEGMENTED,
    "albert": _SEGMENTED,
    "deberta_v3": {"token_embedding": "word_embeddings"},
    "xlm_roberta": {"embeddings/token_embedding": "word_embeddings"},
}
MODELS = {"deberta_v3": "deberta", "xlm_roberta": "roberta"}


def load_encoder(backbone: Any, family: str, tensors: SafetensorsFolder) -> None:
    """Assigns every variable of an encoder, pooler aside.

    Args:
        backbone: A KerasHub backbone of the checkpoint's sizes.
        family: Its family.
        tensors: The checkpoint, of any task or none.

    Raises:
        ValueError: If a tensor is missing or has another shape.
    """
    model = MODELS.get(family, family)
    prefixed = any(name.startswith(f"{model}.") for name in tensors.names)
    layers = dict(walk(backbone))

    def name_of(module: str) -> str:
        # A checkpoint of the bare encoder has no prefix.
        return module if prefixed else module.removeprefix(f"{model}.")

    for place in FAMILIES[family].places:
        if place.in_head or place.term == "pooler":
            continue
        for path, module in _expand(place.keras, place.hugging_face, layers):
            load_layer(layers[path], name_of(module), tensors)
    for path, module in EMBEDDINGS[family].items():
        (variable,) = layers[path].weights
        variable.assign(tensors.read(name_of(f"{model}.embeddings.{module}.weight"), tuple(variable.shape)))
    if model == "roberta":
        _load_roberta_positions(layers["embeddings/position_embedding"], name_of(f"{model}.embeddings"), tensors)
    if model == "deberta":
        table = layers["rel_embedding"].rel_embeddings
        table.assign(tensors.read(name_of(f"{model}.encoder.rel_embeddings.weight"), tuple(table.shape)))


def load_head(classifier: keras.Model, backbone: Any, family: str, tensors: SafetensorsFolder) -> list[str]:
    """Assigns the classification head, and the pooler where the encoder has one, if the checkpoint holds them.

    Args:
        classifier: The classifier, for its `pooled_dense` and `logits`.
        backbone: Its backbone, for its `pooled_dense`.
        family: Its family.
        tensors: The checkpoint.

    Returns:
        The layers that stay new: of the head, all or none; one for another number of labels is not loaded.

    Raises:
        ValueError: If a tensor of the pooler or of a head with as many labels has another shape.
    """
    model = MODELS.get(family, family)
    head, new = {}, []
    for place in FAMILIES[family].places:
        if place.in_head:
            head[place.hugging_face] = classifier.get_layer(place.keras)
        elif place.term == "pooler":
            names = (place.hugging_face, place.hugging_face.removeprefix(f"{model}."))
            module = next((name for name in names if f"{name}.weight" in tensors.names), None)
            if module is None:
                new.append(place.keras)
            else:
                load_layer(backbone.get_layer(place.keras), module, tensors)
    logits = next(module for module, layer in head.items() if layer.name == "logits")
    present = all(f"{module}.{part}" in tensors.names for module in head for part in ("weight", "bias"))
    if not present or tensors.shape(f"{logits}.bias") != tuple(head[logits].bias.shape):
        return [*new, *(layer.name for layer in head.values())]
    for module, layer in head.items():
        load_layer(layer, module, tensors)
    return new


def _expand(path: str, module: str, layers: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns (path, module) for every layer number, and inner number, that the model has."""
    found = []
    for number in range(len(layers)):
        for inner in range(len(layers)):
            numbered = path.replace("{L}", str(number)).replace("{I}", str(inner))
            if numbered not in layers:
                break
            found.append((numbered, module.replace("{L}", str(number)).replace("{I}", str(inner))))
            if "{I}" not in path:
                break
        if "{L}" not in path or path.replace("{L}", str(number)).replace("{I}", "0") not in layers:
            break
    return found


def load_layer(layer: Any, module: str, tensors: SafetensorsFolder) -> None:
    """Assigns the kernel and bias of a linear layer, or the scale and shift of a LayerNorm."""
    if isinstance(layer, keras.layers.LayerNormalization):
        for variable, part, old in ((layer.gamma, "weight", "gamma"), (layer.beta, "bias", "beta")):
            # Checkpoints converted from TensorFlow long ago kept its names.
            name = f"{module}.{old}" if f"{module}.{old}" in tensors.names else f"{module}.{part}"
            variable.assign(tensors.read(name, tuple(variable.shape)))
        return
    outputs = int(np.prod(layer.bias.shape))
    inputs = int(np.prod(layer.kernel.shape)) // outputs
    kernel = tensors.read(f"{module}.weight", (outputs, inputs))
    bias = tensors.read(f"{module}.bias", (outputs,))
    layer.kernel.assign(kernel.T.reshape(layer.kernel.shape))
    layer.bias.assign(bias.reshape(layer.bias.shape))


def _load_roberta_positions(layer: Any, embeddings: str, tensors: SafetensorsFolder) -> None:
    count, width = layer.position_embeddings.shape
    positions = tensors.read(f"{embeddings}.position_embeddings.weight", (count + 2, width))
    layer.position_embeddings.assign(positions[2:])
    token_type = f"{embeddings}.token_type_embeddings.weight"
    if token_type in tensors.names:
        rows = (tensors.shape(token_type) or (1,))[0]
        layer.token_type.assign(tensors.read(token_type, (rows, width))[0])  # every token is of type 0


def to_tensors(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Returns a classifier's weights as Hugging Face's model holds them, float32.

    RoBERTa's two position rows that are never read are zeros, and so is the token-type row of one that has none.

    Args:
        model: A classifier around an encoder of a known family, without adapters.

    Raises:
        ValueError: If Hugging Face's model has no place for one of the weights.
    """
    layout = Layout.of(model)
    assert layout.family is not None
    encoder = MODELS.get(layout.family.name, layout.family.name)
    placed: list[tuple[str, Any, np.ndarray[Any, Any]]] = []
    for path, named in named_layers(layout).items():
        placed += _of_layer(layout.layers[path], named.hugging_face)
    placed += _of_embeddings(dict(walk(layout.layers[layout.backbone])), layout.family.name, encoder)
    known = {id(variable) for _, variable, _ in placed}
    left = [path for path, variable in variable_paths(model).items() if id(variable) not in known]
    if left:
        raise ValueError(
            f"Hugging Face's {layout.family.architecture} has no place for {len(left)} weights, {left[0]} first."
        )
    return {name: np.ascontiguousarray(value, "float32") for name, _, value in placed}


def _of_layer(layer: Any, module: str) -> list[tuple[str, Any, np.ndarray[Any, Any]]]:
    """Returns (tensor's name, variable, value) for both variables of a layer."""
    first, bias = (
        (layer.gamma, layer.beta) if isinstance(layer, keras.layers.LayerNormalization) else (layer.kernel, layer.bias)
    )
    weight = _value(first)
    if first.name == "kernel":
        weight = weight.reshape(-1, int(np.prod(bias.shape))).T
    return [(f"{module}.weight", first, weight), (f"{module}.bias", bias, _value(bias).reshape(-1))]


def _of_embeddings(layers: dict[str, Any], family: str, encoder: str) -> list[tuple[str, Any, np.ndarray[Any, Any]]]:
    placed = []
    for path, module in EMBEDDINGS[family].items():
        (variable,) = layers[path].weights
        placed.append((f"{encoder}.embeddings.{module}.weight", variable, _value(variable)))
    if encoder == "roberta":
        layer = layers["embeddings/position_embedding"]
        positions = np.pad(_value(layer.position_embeddings), ((2, 0), (0, 0)))
        placed.append((f"{encoder}.embeddings.position_embeddings.weight", layer.position_embeddings, positions))
        own = getattr(layer, "token_type", None)  # KerasHub's own RoBERTa has it in the positions
        row = np.zeros((1, positions.shape[1])) if own is None else _value(own)[None]
        placed.append((f"{encoder}.embeddings.token_type_embeddings.weight", own, row))
    if encoder == "deberta":
        table = layers["rel_embedding"].rel_embeddings
        placed.append((f"{encoder}.encoder.rel_embeddings.weight", table, _value(table)))
    return placed


def _value(variable: Any) -> np.ndarray[Any, Any]:
    return np.asarray(keras.ops.convert_to_numpy(variable.value))
