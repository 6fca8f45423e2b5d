"""Families: one row for each kind of encoder, with everything in which it differs from the others.

A new family is a row here, and a kind of layer or attention where its mathematics are new. The tables of names are read
in both directions: our module -> Hugging Face's; ``.weight`` and ``.bias`` are the same on both sides. ``{block}`` is the
number of a block, ``{group}`` and ``{inner}`` are ALBERT's two.
"""

from dataclasses import dataclass, replace

_EMBEDDINGS = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.token_type": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
}

_BERT = {
    **_EMBEDDINGS,
    "blocks.{block}.query": "encoder.layer.{block}.attention.self.query",
    "blocks.{block}.key": "encoder.layer.{block}.attention.self.key",
    "blocks.{block}.value": "encoder.layer.{block}.attention.self.value",
    "blocks.{block}.attention_output": "encoder.layer.{block}.attention.output.dense",
    "blocks.{block}.attention_norm": "encoder.layer.{block}.attention.output.LayerNorm",
    "blocks.{block}.intermediate": "encoder.layer.{block}.intermediate.dense",
    "blocks.{block}.output": "encoder.layer.{block}.output.dense",
    "blocks.{block}.output_norm": "encoder.layer.{block}.output.LayerNorm",
    "pooler.dense": "pooler.dense",
}

_ALBERT_BLOCK = "encoder.albert_layer_groups.{group}.albert_layers.{inner}"
_ALBERT = {
    **_EMBEDDINGS,
    "embeddings.projection": "encoder.embedding_hidden_mapping_in",
    "blocks.{block}.query": f"{_ALBERT_BLOCK}.attention.query",
    "blocks.{block}.key": f"{_ALBERT_BLOCK}.attention.key",
    "blocks.{block}.value": f"{_ALBERT_BLOCK}.attention.value",
    "blocks.{block}.attention_output": f"{_ALBERT_BLOCK}.attention.dense",
    "blocks.{block}.attention_norm": f"{_ALBERT_BLOCK}.attention.LayerNorm",
    "blocks.{block}.intermediate": f"{_ALBERT_BLOCK}.ffn",
    "blocks.{block}.output": f"{_ALBERT_BLOCK}.ffn_output",
    "blocks.{block}.output_norm": f"{_ALBERT_BLOCK}.full_layer_layer_norm",
    "pooler.dense": "pooler",
}

_BERT_PRETRAINING = {
    "transform": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
    "bias": "cls.predictions.bias", "decoder": "cls.predictions.decoder.weight", "order": "cls.seq_relationship",
}  # fmt: skip
_ALBERT_PRETRAINING = {
    "transform": "predictions.dense", "norm": "predictions.LayerNorm", "bias": "predictions.bias",
    "decoder": "predictions.decoder.weight", "order": "sop_classifier.classifier",
}  # fmt: skip
_ROBERTA_PRETRAINING = {
    "transform": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias", "decoder": "lm_head.decoder.weight",
}  # fmt: skip
_ELECTRA_PRETRAINING = {
    "transform": "generator_predictions.dense", "norm": "generator_predictions.LayerNorm",
    "bias": "generator_lm_head.bias", "decoder": "generator_lm_head.weight",
}  # fmt: skip

_POOLED_CLASSIFIER = {"classifier": "classifier"}
_DENSE_CLASSIFIER = {"dense": "classifier.dense", "classifier": "classifier.out_proj"}


@dataclass(frozen=True)
class Family:
    """What tells a family from BERT, whose values are the defaults.

    Attributes:
        class_prefix: how transformers' class names begin, ``Bert`` of ``BertModel``.
        base_prefix: what a model with a head puts before the names of the encoder's weights.
        weights: the encoder's modules -> their names.
        pretraining: layers of the pretraining heads -> their names; ``bias`` and ``decoder`` name a tensor; ``order`` is
            there where the family is pretrained with two segments.
        classifier: layers of the sequence classifier -> their names.
        pretraining_act: the activation of the masked-token head; None: ``hidden_act`` of the configuration.
        embedding_size: the usual width of the embeddings; None: that of the model, whatever a configuration says.
        always_projects: embeddings are mapped to the hidden width even where the two are equal.
        shares_blocks: a configuration says how many groups of blocks there are, usually one.
        positions_after_padding: positions are counted from ``pad_token_id + 1``, which is 2 where nothing else is said.
        classifier_act: the activation of a dense layer that the sequence classifier puts before its output; None: the
            encoder's own pooler serves.
        classifier_dropout: the key of the configuration for the dropout before a classifier.
    """

    class_prefix: str
    base_prefix: str
    weights: dict[str, str]
    pretraining: dict[str, str]
    classifier: dict[str, str]
    pretraining_act: str | None = None
    embedding_size: int | None = None
    always_projects: bool = False
    shares_blocks: bool = False
    positions_after_padding: bool = False
    classifier_act: str | None = None
    classifier_dropout: str = "classifier_dropout"


_ROBERTA = Family(
    "Roberta", "roberta.", _BERT, _ROBERTA_PRETRAINING, _DENSE_CLASSIFIER, pretraining_act="gelu",
    positions_after_padding=True, classifier_act="tanh",
)  # fmt: skip
FAMILIES = {
    "bert": Family("Bert", "bert.", _BERT, _BERT_PRETRAINING, _POOLED_CLASSIFIER),
    "roberta": _ROBERTA,
    "xlm-roberta": replace(_ROBERTA, class_prefix="XLMRoberta"),
    "albert": Family(
        "Albert", "albert.", _ALBERT, _ALBERT_PRETRAINING, _POOLED_CLASSIFIER, embedding_size=128, always_projects=True,
        shares_blocks=True, classifier_dropout="classifier_dropout_prob",
    ),
    "electra": Family(
        "Electra", "electra.", {**_BERT, "embeddings.projection": "embeddings_project"}, _ELECTRA_PRETRAINING,
        _DENSE_CLASSIFIER, pretraining_act="gelu", embedding_size=128, classifier_act="gelu",
    ),
}  # fmt: skip
