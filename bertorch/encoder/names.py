"""The names Hugging Face gives the weights: one table, read in both directions.

Module names only; ``.weight`` and ``.bias`` are the same on both sides. ``{block}`` is the block's number, ``{group}``
and ``{inner}`` are ALBERT's two. A base model (BertModel) is saved under these names; a model with a head puts
``BASE_PREFIX`` before them.
"""

from bertorch.encoder.config import EncoderConfig

BASE_PREFIX = {"bert": "bert.", "roberta": "roberta.", "xlm-roberta": "roberta.", "albert": "albert.", "electra": "electra."}

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

_TABLES = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "albert": _ALBERT,
    "electra": {**_BERT, "embeddings.projection": "embeddings_project"},
}

_BERT_HEADS = {
    "transform": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
    "bias": "cls.predictions.bias", "decoder": "cls.predictions.decoder.weight", "order": "cls.seq_relationship",
}  # fmt: skip
_ALBERT_HEADS = {
    "transform": "predictions.dense", "norm": "predictions.LayerNorm", "bias": "predictions.bias",
    "decoder": "predictions.decoder.weight", "order": "sop_classifier.classifier",
}  # fmt: skip
_ROBERTA_HEADS = {
    "transform": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias", "decoder": "lm_head.decoder.weight",
}  # fmt: skip
_ELECTRA_HEADS = {
    "transform": "generator_predictions.dense", "norm": "generator_predictions.LayerNorm",
    "bias": "generator_lm_head.bias", "decoder": "generator_lm_head.weight",
}  # fmt: skip
# The heads of pretraining: where each layer is kept, and the one name of what has no weight and bias; "order" where a family
# has it.
LANGUAGE_MODEL_NAMES = {
    "bert": _BERT_HEADS, "albert": _ALBERT_HEADS, "roberta": _ROBERTA_HEADS, "xlm-roberta": _ROBERTA_HEADS,
    "electra": _ELECTRA_HEADS,
}  # fmt: skip


def hugging_face_names(config: EncoderConfig, parameters: list[str]) -> dict[str, str]:
    """Our parameter names (``blocks.3.query.weight``) -> Hugging Face's, without a base prefix."""
    table = _TABLES[config.model_type]
    names = {}
    for parameter in parameters:
        module, kind = parameter.rsplit(".", 1)
        parts = module.split(".")
        numbers = {}
        if parts[0] == "blocks":
            block = int(parts[1])
            numbers = {
                "block": block,
                "group": block // config.inner_group_num,
                "inner": block % config.inner_group_num,
            }
            module = ".".join(["blocks", "{block}", *parts[2:]])
        names[parameter] = f"{table[module].format(**numbers)}.{kind}"
    return names
