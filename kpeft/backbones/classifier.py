"""A KerasHub backbone and a classification head as one plain keras.Model, seeded without any global generator."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import keras
import keras_hub
import numpy as np

BACKBONES: dict[str, Any] = {
    "bert": keras_hub.models.BertBackbone,
    "roberta": keras_hub.models.RobertaBackbone,
    "distilbert": keras_hub.models.DistilBertBackbone,
    "electra": keras_hub.models.ElectraBackbone,
    "albert": keras_hub.models.AlbertBackbone,
    "deberta_v3": keras_hub.models.DebertaV3Backbone,
    "xlm_roberta": keras_hub.models.XLMRobertaBackbone,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The layers between a family's encoder and its logits.

    Args:
        pooled: Whether the backbone pools the first token itself (its `pooled_dense`), so that the head is one Dense.
        activation: Activation of the head's own `pooled_dense`.
        initializer: Kernel initializer of the head's own `pooled_dense`.
        first_dropout: Name of the dropout before `pooled_dense`, or None.
        last_dropout: Name of the dropout before `logits`.
        rate: Dropout rate where none is given.
    """

    pooled: bool = False
    activation: str | None = None
    initializer: str = "truncated_normal"
    first_dropout: str | None = None
    last_dropout: str = "output_dropout"
    rate: float = 0.0


# KerasHub's text classifiers, layer names and defaults included; ELECTRA, which it lacks, as in Hugging Face.
_ROBERTA = Head(activation="tanh", initializer="glorot_uniform", first_dropout="pooled_dropout")
HEADS: dict[str, Head] = {
    "bert": Head(pooled=True, last_dropout="classifier_dropout", rate=0.1),
    "roberta": _ROBERTA,
    "distilbert": Head(activation="relu", rate=0.2),
    "electra": Head(activation="gelu", first_dropout="pooled_dropout", rate=0.1),
    "albert": Head(pooled=True, rate=0.1),
    "deberta_v3": Head(
        activation="gelu",
        initializer="glorot_uniform",
        first_dropout="pooled_dropout",
        last_dropout="classifier_dropout",
    ),
    "xlm_roberta": _ROBERTA,
}


def family_of(backbone: Any) -> str:
    """Returns the family name of a KerasHub backbone.

    Args:
        backbone: An instance of one of the classes in `BACKBONES`.

    Raises:
        ValueError: If the backbone belongs to no supported family.
    """
    families = {cls: family for family, cls in BACKBONES.items()}
    for cls in type(backbone).__mro__:  # the nearest first: XLMRobertaBackbone derives from RobertaBackbone
        if cls in families:
            return families[cls]
    raise ValueError(
        f"unsupported backbone: use one of {', '.join(c.__name__ for c in BACKBONES.values())}. "
        f"Received: {type(backbone).__name__}"
    )


@contextlib.contextmanager
def private_random(seed: int) -> Iterator[None]:
    """Seeds Python's random state, from which Keras draws the seed of every initializer it builds, and restores it."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def classifier_from_backbone(
    backbone: Any,
    num_classes: int,
    *,
    seed: int = 0,
    dropout: float | None = None,
    pooler_dropout: float | None = None,
    hidden_dim: int | None = None,
) -> keras.Model:
    """Puts a new classification head on a backbone.

    With x the encoder's output for the first token, the head is `logits(dropout(x))` where the backbone pools (BERT,
    ALBERT) and `logits(dropout(activation(pooled_dense(dropout(x)))))` elsewhere. Logits are float32 under every dtype
    policy.

    Args:
        backbone: A KerasHub backbone of a supported family; the model shares its layers.
        num_classes: Number of logits, 1 for regression.
        seed: Decides the head's kernels and every dropout's stream. No global generator is read or moved.
        dropout: Rate of the head's dropouts. Defaults to that of KerasHub's classifier.
        pooler_dropout: Rate before the head's `pooled_dense`. Defaults to `dropout`.
        hidden_dim: Units of the head's `pooled_dense`. Defaults to the backbone's width.

    Returns:
        A functional model from {token_ids, padding_mask[, segment_ids]}, int32 (n, length), to logits (n, num_classes).

    Raises:
        ValueError: If the family is unsupported or num_classes is below 1.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1. Received: num_classes={num_classes}")
    family = family_of(backbone)
    head = HEADS[family]
    rate = head.rate if dropout is None else dropout
    last_rate = backbone.dropout if family == "deberta_v3" and dropout is None else rate
    first_rate = rate if pooler_dropout is None else pooler_dropout
    policy = backbone.dtype_policy
    first_seed, second_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
    with private_random(seed):
        inputs = dict(backbone.input)
        x = _features(backbone, family, head.pooled)(inputs)
        if head.pooled:
            x = x["pooled_output"]
        else:
            x = x[:, 0, :]
            if head.first_dropout is not None:
                x = keras.layers.Dropout(first_rate, dtype=policy, name=head.first_dropout)(x)
            x = keras.layers.Dense(
                hidden_dim or backbone.hidden_dim,
                activation=head.activation,
                kernel_initializer=_initializer(head.initializer, first_seed),
                dtype=policy,
                name="pooled_dense",
            )(x)
        x = keras.layers.Dropout(last_rate, dtype=policy, name=head.last_dropout)(x)
        outputs = keras.layers.Dense(
            num_classes,
            kernel_initializer=_initializer("truncated_normal", second_seed),
            dtype="float32",
            name="logits",
        )(x)
        model = keras.Model(inputs, outputs, name=f"{family}_classifier")
    seed_dropout(model, seed)
    return model


def _features(backbone: Any, family: str, pooled: bool) -> Any:
    """Returns the layer that gives the features; ELECTRA's without the pooler that its classifier does not use."""
    if family != "electra":
        return backbone
    return keras.Model(dict(backbone.input), backbone.output["sequence_output"], name="electra_backbone")


def _initializer(name: str, seed: int) -> Any:
    if name == "glorot_uniform":
        return keras.initializers.GlorotUniform(seed=seed)
    return keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)


def seed_dropout(model: keras.Model, seed: int) -> None:
    """Gives every seed generator of a model a stream of its own, decided by the seed and by its place in the model.

    Args:
        model: Any built model.
        seed: Any non-negative integer.
    """
    generators = [g for layer in model._flatten_layers() for g in layer._seed_generators]
    for index, generator in enumerate(dict.fromkeys(generators)):
        key = np.random.SeedSequence([seed, index]).generate_state(1)[0]
        generator.state.assign(np.array([key, 0], dtype="uint32"))
