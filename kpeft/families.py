"""Where things are in each encoder family: KerasHub's layer paths beside Hugging Face's module names, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """One named layer of a family.

    Attributes:
        term: The name that users give (`"query"`); several places may share one.
        keras: Structural path; `{L}` stands for the layer's number, `{I}` for ALBERT's inner number. Relative to the
            backbone, or to what holds the backbone where `in_head` is true.
        hugging_face: Module name in the Hugging Face sequence classifier.
        in_head: Whether the layer belongs to the classification head.
    """

    term: str
    keras: str
    hugging_face: str
    in_head: bool = False


@dataclass(frozen=True)
class Family:
    """An encoder family.

    Attributes:
        name: Ours, e.g. `"deberta_v3"`.
        backbone: KerasHub's backbone class.
        architecture: The Hugging Face sequence classifier.
        layer: Path of a numbered transformer layer, relative to the backbone.
        places: All named layers.
    """

    name: str
    backbone: str
    architecture: str
    layer: str
    places: tuple[Place, ...]

    @property
    def terms(self) -> tuple[str, ...]:
        """The names that this family knows, each once."""
        return tuple(dict.fromkeys(place.term for place in self.places))


_ENCODER = {
    "query": "self_attention_layer/query",
    "key": "self_attention_layer/key",
    "value": "self_attention_layer/value",
    "attention_output": "self_attention_layer/attention_output",
    "intermediate": "feedforward_intermediate_dense",
    "output": "feedforward_output_dense",
    "attention_layernorm": "self_attention_layer_norm",
    "output_layernorm": "feedforward_layer_norm",
}
_BERT_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "attention_layernorm": "attention.output.LayerNorm",
    "output_layernorm": "output.LayerNorm",
}
_DISTILBERT_NAMES = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attention_output": "attention.out_lin",
    "intermediate": "ffn.lin1",
    "output": "ffn.lin2",
    "attention_layernorm": "sa_layer_norm",
    "output_layernorm": "output_layer_norm",
}
_ALBERT_NAMES = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "attention_output": "attention.dense",
    "intermediate": "ffn",
    "output": "ffn_output",
    "attention_layernorm": "attention.LayerNorm",
    "output_layernorm": "full_layer_layer_norm",
}
_DEBERTA_NAMES = _BERT_NAMES | {term: f"attention.self.{term}_proj" for term in ("query", "key", "value")}

HEADS: tuple[bool | str, ...] = (False, "logits", True, "pooler")
"""What a method's `train_head` may be, from nothing to the head with the pooler."""

_BERT_LAYER = "transformer_layer_{L}"
_DEBERTA_LAYER = "disentangled_attention_encoder_layer_{L}"
_TWO_LAYER_HEAD = (
    Place("head", "pooled_dense", "classifier.dense", in_head=True),
    Place("head", "logits", "classifier.out_proj", in_head=True),
)
_LOGITS = Place("head", "logits", "classifier", in_head=True)


def _encoder(keras_layer: str, hugging_face_layer: str, names: dict[str, str]) -> tuple[Place, ...]:
    return tuple(
        Place(term, f"{keras_layer}/{path}", f"{hugging_face_layer}.{names[term]}") for term, path in _ENCODER.items()
    )


def _embeddings_layernorm(model: str) -> Place:
    return Place("embeddings_layernorm", "embeddings_layer_norm", f"{model}.embeddings.LayerNorm")


_ROBERTA_PLACES = (
    _embeddings_layernorm("roberta"),
    *_encoder(_BERT_LAYER, "roberta.encoder.layer.{L}", _BERT_NAMES),
    *_TWO_LAYER_HEAD,
)

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "bert",
            "BertBackbone",
            "BertForSequenceClassification",
            _BERT_LAYER,
            (
                _embeddings_layernorm("bert"),
                *_encoder(_BERT_LAYER, "bert.encoder.layer.{L}", _BERT_NAMES),
                Place("pooler", "pooled_dense", "bert.pooler.dense"),
                _LOGITS,
            ),
        ),
        Family(
            "roberta",
            "RobertaBackbone",
            "RobertaForSequenceClassification",
            _BERT_LAYER,
            _ROBERTA_PLACES,
        ),
        Family(
            "xlm_roberta",
            "XLMRobertaBackbone",
            "XLMRobertaForSequenceClassification",
            _BERT_LAYER,
            _ROBERTA_PLACES,
        ),
        Family(
            "distilbert",
            "DistilBertBackbone",
            "DistilBertForSequenceClassification",
            _BERT_LAYER,
            (
                _embeddings_layernorm("distilbert"),
                *_encoder(_BERT_LAYER, "distilbert.transformer.layer.{L}", _DISTILBERT_NAMES),
                Place("head", "pooled_dense", "pre_classifier", in_head=True),
                _LOGITS,
            ),
        ),
        Family(
            "electra",
            "ElectraBackbone",
            "ElectraForSequenceClassification",
            _BERT_LAYER,
            (
                _embeddings_layernorm("electra"),
                Place("embeddings_projection", "embeddings_projection", "electra.embeddings_project"),
                *_encoder(_BERT_LAYER, "electra.encoder.layer.{L}", _BERT_NAMES),
                *_TWO_LAYER_HEAD,
            ),
        ),
        Family(
            "albert",
            "AlbertBackbone",
            "AlbertForSequenceClassification",
            "group_{L}_inner_layer_{I}",
            (
                _embeddings_layernorm("albert"),
                Place("embeddings_projection", "embedding_projection", "albert.encoder.embedding_hidden_mapping_in"),
                *_encoder(
                    "group_{L}_inner_layer_{I}",
                    "albert.encoder.albert_layer_groups.{L}.albert_layers.{I}",
                    _ALBERT_NAMES,
                ),
                Place("pooler", "pooled_dense", "albert.pooler"),
                _LOGITS,
            ),
        ),
        Family(
            "deberta_v3",
            "DebertaV3Backbone",
            "DebertaV2ForSequenceClassification",
            _DEBERTA_LAYER,
            (
                _embeddings_layernorm("deberta"),
                Place(
                    "embeddings_layernorm",
                    "rel_embedding/rel_embeddings_layer_norm",
                    "deberta.encoder.LayerNorm",
                ),
                *_encoder(_DEBERTA_LAYER, "deberta.encoder.layer.{L}", _DEBERTA_NAMES),
                Place("head", "pooled_dense", "pooler.dense", in_head=True),
                _LOGITS,
            ),
        ),
    )
}
