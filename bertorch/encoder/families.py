"""Families: one row for each kind of encoder, with all its differences from the others.

A new family is a row here, plus a kind of layer or attention if its mathematics are new. The tables of names are read
in both directions: our module -> Hugging Face's; ``.weight`` and ``.bias`` are the same on both sides. ``{block}`` is the
number of a block, ``{group}`` and ``{inner}`` are ALBERT's two numbers for it. XLNet's tables name single weights.
"""

from dataclasses import dataclass, field, replace

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

_ERNIE = {**_BERT, "embeddings.task_type": "embeddings.task_type_embeddings"}

_MEGATRON = {  # norms before attention and feed-forward, none on the embeddings, one on the last states
    **{ours: theirs for ours, theirs in _BERT.items() if ours != "embeddings.norm"},
    "blocks.{block}.attention_norm": "encoder.layer.{block}.attention.ln",
    "blocks.{block}.output_norm": "encoder.layer.{block}.ln",
    "norm": "encoder.ln",
}

_DISTILBERT = {
    **{ours: theirs for ours, theirs in _EMBEDDINGS.items() if ours != "embeddings.token_type"},
    "blocks.{block}.query": "transformer.layer.{block}.attention.q_lin",
    "blocks.{block}.key": "transformer.layer.{block}.attention.k_lin",
    "blocks.{block}.value": "transformer.layer.{block}.attention.v_lin",
    "blocks.{block}.attention_output": "transformer.layer.{block}.attention.out_lin",
    "blocks.{block}.attention_norm": "transformer.layer.{block}.sa_layer_norm",
    "blocks.{block}.intermediate": "transformer.layer.{block}.ffn.lin1",
    "blocks.{block}.output": "transformer.layer.{block}.ffn.lin2",
    "blocks.{block}.output_norm": "transformer.layer.{block}.output_layer_norm",
    "pooler.dense": "pooler.dense",
}

_ROFORMER = {
    **{ours: theirs for ours, theirs in _BERT.items() if ours != "embeddings.position"},
    "embeddings.projection": "embeddings_project",
    "embeddings.rotary": "encoder.embed_positions",
}

_MPNET = {
    **{ours: theirs for ours, theirs in _BERT.items() if ours != "embeddings.token_type"},
    "embeddings.relative": "encoder.relative_attention_bias",
    "blocks.{block}.query": "encoder.layer.{block}.attention.attn.q",
    "blocks.{block}.key": "encoder.layer.{block}.attention.attn.k",
    "blocks.{block}.value": "encoder.layer.{block}.attention.attn.v",
    "blocks.{block}.attention_output": "encoder.layer.{block}.attention.attn.o",
    "blocks.{block}.attention_norm": "encoder.layer.{block}.attention.LayerNorm",
}

_NEZHA = {ours: theirs for ours, theirs in _BERT.items() if ours != "embeddings.position"}

_DEBERTA = {
    **_BERT,
    "embeddings.distance": "encoder.rel_embeddings",
    "embeddings.distance_norm": "encoder.LayerNorm",
    "embeddings.projection": "embeddings.embed_proj",
    "blocks.{block}.query": "encoder.layer.{block}.attention.self.query_proj",
    "blocks.{block}.key": "encoder.layer.{block}.attention.self.key_proj",
    "blocks.{block}.value": "encoder.layer.{block}.attention.self.value_proj",
    "blocks.{block}.distance_key": "encoder.layer.{block}.attention.self.pos_key_proj",
    "blocks.{block}.distance_query": "encoder.layer.{block}.attention.self.pos_query_proj",
    "blocks.{block}.convolution.kernel": "encoder.conv.conv",  # of the first block alone
    "blocks.{block}.convolution.norm": "encoder.conv.LayerNorm",
}

_MODERNBERT = {  # fused layers; the norm of the embeddings serves the first attention too
    "embeddings.word": "embeddings.tok_embeddings",
    "embeddings.norm": "embeddings.norm",
    "blocks.{block}.query_key_value": "layers.{block}.attn.Wqkv",
    "blocks.{block}.attention_output": "layers.{block}.attn.Wo",
    "blocks.{block}.attention_norm": "layers.{block}.attn_norm",
    "blocks.{block}.intermediate": "layers.{block}.mlp.Wi",
    "blocks.{block}.output": "layers.{block}.mlp.Wo",
    "blocks.{block}.output_norm": "layers.{block}.mlp_norm",
    "norm": "final_norm",
    "pooler.dense": "pooler.dense",
}

_XLNET = {
    "embeddings.word": "word_embedding",
    "embeddings.mask": "mask_emb",
    "blocks.{block}.query.weight": "layer.{block}.rel_attn.q",
    "blocks.{block}.key.weight": "layer.{block}.rel_attn.k",
    "blocks.{block}.value.weight": "layer.{block}.rel_attn.v",
    "blocks.{block}.attention_output.weight": "layer.{block}.rel_attn.o",
    "blocks.{block}.others.distance.weight": "layer.{block}.rel_attn.r",
    "blocks.{block}.others.token_bias": "layer.{block}.rel_attn.r_w_bias",
    "blocks.{block}.others.distance_bias": "layer.{block}.rel_attn.r_r_bias",
    "blocks.{block}.others.segment_bias": "layer.{block}.rel_attn.r_s_bias",
    "blocks.{block}.others.segments": "layer.{block}.rel_attn.seg_embed",
    "blocks.{block}.attention_norm": "layer.{block}.rel_attn.layer_norm",
    "blocks.{block}.intermediate": "layer.{block}.ff.layer_1",
    "blocks.{block}.output": "layer.{block}.ff.layer_2",
    "blocks.{block}.output_norm": "layer.{block}.ff.layer_norm",
    "pooler.dense": "pooler.dense",
}

_BERT_PRETRAINING = {
    "transform": "cls.predictions.transform.dense", "norm": "cls.predictions.transform.LayerNorm",
    "bias": "cls.predictions.bias", "decoder": "cls.predictions.decoder.weight", "order": "cls.seq_relationship",
}  # fmt: skip
_ALBERT_PRETRAINING = {
    "transform": "predictions.dense", "norm": "predictions.LayerNorm", "bias": "predictions.bias",
    "decoder": "predictions.decoder.weight", "order": "sop_classifier.classifier",
}  # fmt: skip
_ROFORMER_PRETRAINING = {ours: theirs for ours, theirs in _BERT_PRETRAINING.items() if ours != "order"}
_ROBERTA_PRETRAINING = {
    "transform": "lm_head.dense", "norm": "lm_head.layer_norm", "bias": "lm_head.bias", "decoder": "lm_head.decoder.weight",
}  # fmt: skip
_DISTILBERT_PRETRAINING = {
    "transform": "vocab_transform", "norm": "vocab_layer_norm", "bias": "vocab_projector.bias",
    "decoder": "vocab_projector.weight",
}  # fmt: skip
_ELECTRA_PRETRAINING = {
    "transform": "generator_predictions.dense", "norm": "generator_predictions.LayerNorm",
    "bias": "generator_lm_head.bias", "decoder": "generator_lm_head.weight",
}  # fmt: skip
_MODERNBERT_PRETRAINING = {
    "transform": "head.dense", "norm": "head.norm", "bias": "decoder.bias", "decoder": "decoder.weight",
}  # fmt: skip

_DEBERTA_PRETRAINING = {ours: theirs for ours, theirs in _BERT_PRETRAINING.items() if ours != "order"}
_DEBERTA_OWN_PRETRAINING = {
    "transform": "lm_predictions.lm_head.dense", "norm": "lm_predictions.lm_head.LayerNorm",
    "bias": "lm_predictions.lm_head.bias",
}  # fmt: skip

_POOLED_CLASSIFIER = {"classifier": "classifier"}
_DENSE_CLASSIFIER = {"dense": "classifier.dense", "classifier": "classifier.out_proj"}
_SUMMARY_CHOICE = {"dense": "sequence_summary.summary", "classifier": "classifier"}


@dataclass(frozen=True)
class Family:
    """How a family differs from BERT, whose values are the defaults.

    Attributes:
        class_prefix: how transformers' class names begin, for example ``Bert`` in ``BertModel``.
        base_prefix: what a model with a head puts before the names of the encoder's weights.
        weights: the encoder's modules -> their names; the model has no embedding or norm that is not listed here.
        pretraining: layers of the pretraining heads -> their names; ``bias`` and ``decoder`` name a tensor; ``order`` is
            present if the family is pretrained with two segments. None at all: the family is fine-tuned alone.
        classifier: layers of the sequence classifier -> their names.
        choice: layers of the multiple-choice head -> their names, without ``dense`` if it uses the encoder's pooler; None:
            those of the sequence classifier.
        choice_act, choice_dropout: of that head, as ``classifier_act`` and ``text_classifier_dropout``; None:
            ``classifier_act``, and ``hidden_dropout_prob``. Without ``choice``, everything is the classifier's.
        reader: the layer that scores the ends of an answer -> its name.
        token_head: tagger and reader have the dense layer and norm of the sequence classifier before their output.
        pretraining_act: the activation of the masked-token head, as ``classifier_act``; None: ``hidden_act`` of the
            configuration.
        own_pretraining: layers of that head, always with the decoder tied to the word embedding, if the configuration says
            ``legacy: false``; None: there is no such choice.
        own_keys: keys of the configuration that BERT's lacks.
        usual: values of missing keys where BERT's are others.
        renamed_keys: keys of the configuration whose names differ from BERT's; None: there is no such key, and BERT's
            default applies.
        embedding_size: the usual width of the embeddings; None: the width of the model.
        projects_first: embeddings are mapped to the hidden width before their norm instead of after it, without a bias.
        always_projects: embeddings are mapped to the hidden width even if the two widths are equal.
        shares_blocks: the configuration says how many groups of blocks there are, usually one.
        positions_after_padding: positions are counted from ``pad_token_id + 1``, which is 2 by default.
        rotary: the weight under which transformers saves its table of sines for rotary positions, which rotate queries
            and keys in every layer (Su et al. 2021); here the table is computed, and a weight only if a checkpoint's
            table was trained. None: none is saved.
        rotates: what rotary positions turn as pairs: ``neighbours``, or the places of the ``halves`` of a head. None:
            positions are others.
        local_layers: layers see their whole sequence or a window of it, and turn by another base there.
        gated: the feed-forward layer multiplies its activations by as many linear ones (Shazeer 2020).
        transformer_xl: attention has terms of distances and of segments (``transformer_xl.py``).
        cls_last: the classification token is the last of a sequence, and a segment of its own.
        inner_dropout: dropout is also between the two maps of the feed-forward layer.
        architectures: endings of transformers' class names -> those that this family has instead.
        distance_sines: sines of the distance of key and query are added to keys and values (Wei et al. 2019, section 2.2).
        classifier_act: the activation of a dense layer that the sequence classifier puts before its output,
            ``hidden_act`` for the configuration's, or another key of it with its usual value; None: the encoder's own
            pooler is used instead.
        classifier_input_dropout: key (None: there is none) and usual value of a separate dropout of the states before that
            dense layer; None: the dropout before a text classifier.
        classifier_dropout: the key of the configuration for the dropout before a classifier; without a key or a
            value, ``hidden_dropout_prob`` applies.
        text_classifier_dropout, reader_dropout: key and usual value of a separate dropout before a text classifier, and of
            one before the scores of an answer's ends; None, the whole or the value: the usual classifier dropout, and no
            dropout.
        norm_first: layer norms come before attention and feed-forward, inside the residual branch (Xiong et al. 2020).
        rms_norm: norms divide by the root of the mean square, without weights of their own (Zhang & Sennrich 2019).
        scaled_initialisation: new weights have the deviation 1 / sqrt(width * layers) and end at twice that
            (RoFormer-v2's authors' code in bert4keras); ``initializer_range`` is not used.
    """

    class_prefix: str
    base_prefix: str
    weights: dict[str, str]
    pretraining: dict[str, str]
    classifier: dict[str, str]
    choice: dict[str, str] | None = None
    choice_act: str | tuple[str, str] | None = None
    choice_dropout: tuple[str, float | None] | None = None
    reader: dict[str, str] = field(default_factory=lambda: {"qa_outputs": "qa_outputs"})
    token_head: bool = False
    pretraining_act: str | tuple[str, str] | None = None
    own_pretraining: dict[str, str] | None = None
    own_keys: tuple[str, ...] = ()
    usual: dict[str, float] = field(default_factory=dict)
    renamed_keys: dict[str, str | None] = field(default_factory=dict)
    embedding_size: int | None = None
    projects_first: bool = False
    always_projects: bool = False
    shares_blocks: bool = False
    positions_after_padding: bool = False
    rotary: str | None = None
    rotates: str | None = None
    local_layers: bool = False
    gated: bool = False
    transformer_xl: bool = False
    cls_last: bool = False
    inner_dropout: bool = False
    architectures: dict[str, str] = field(default_factory=dict)
    distance_sines: bool = False
    classifier_act: str | tuple[str, str] | None = None
    classifier_input_dropout: tuple[str | None, float] | None = None
    classifier_dropout: str | None = "classifier_dropout"
    text_classifier_dropout: tuple[str, float | None] | None = None
    reader_dropout: tuple[str, float] | None = None
    norm_first: bool = False
    rms_norm: bool = False
    scaled_initialisation: bool = False


_ROBERTA = Family(
    "Roberta", "roberta.", _BERT, _ROBERTA_PRETRAINING, _DENSE_CLASSIFIER, choice=_POOLED_CLASSIFIER,
    pretraining_act="gelu", positions_after_padding=True, classifier_act="tanh",
)  # fmt: skip
_ROFORMER_V1 = Family(
    "RoFormer", "roformer.", _ROFORMER, _ROFORMER_PRETRAINING, _DENSE_CLASSIFIER, choice=_SUMMARY_CHOICE,
    choice_act=("summary_activation", "gelu"), choice_dropout=("summary_last_dropout", 0.1),
    own_keys=("embedding_size", "rotary_value"), rotary="encoder.embed_positions.weight", rotates="neighbours",
    classifier_act="hidden_act", classifier_dropout=None,
)  # fmt: skip
FAMILIES = {
    "bert": Family("Bert", "bert.", _BERT, _BERT_PRETRAINING, _POOLED_CLASSIFIER),
    "roberta": _ROBERTA,
    "xlm-roberta": replace(_ROBERTA, class_prefix="XLMRoberta"),
    "albert": Family(
        "Albert", "albert.", _ALBERT, _ALBERT_PRETRAINING, _POOLED_CLASSIFIER,
        own_keys=("embedding_size", "num_hidden_groups", "inner_group_num"), embedding_size=128, always_projects=True,
        shares_blocks=True, classifier_dropout="classifier_dropout_prob",
    ),
    "electra": Family(
        "Electra", "electra.", {**_BERT, "embeddings.projection": "embeddings_project"}, _ELECTRA_PRETRAINING,
        _DENSE_CLASSIFIER, choice=_SUMMARY_CHOICE, choice_act=("summary_activation", "gelu"),
        choice_dropout=("summary_last_dropout", 0.1), pretraining_act="gelu", own_keys=("embedding_size",),
        embedding_size=128, classifier_act="gelu",
    ),
    "ernie": Family(
        "Ernie", "ernie.", _ERNIE, _BERT_PRETRAINING, _POOLED_CLASSIFIER, own_keys=("use_task_id", "task_type_vocab_size"),
    ),
    "camembert": replace(_ROBERTA, class_prefix="Camembert"),
    "distilbert": Family(
        "DistilBert", "distilbert.", _DISTILBERT, _DISTILBERT_PRETRAINING,
        {"dense": "pre_classifier", "classifier": "classifier"},
        renamed_keys={
            "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
            "intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout", "type_vocab_size": None, "layer_norm_eps": None,
        },
        classifier_act="relu", classifier_input_dropout=(None, 0.0), classifier_dropout=None,
        text_classifier_dropout=("seq_classif_dropout", 0.2), reader_dropout=("qa_dropout", 0.1),
    ),
    "megatron-bert": Family(
        "MegatronBert", "bert.", _MEGATRON, _BERT_PRETRAINING, _POOLED_CLASSIFIER,
        classifier_dropout=None, norm_first=True,
    ),
    "roformer": _ROFORMER_V1,
    # transformers has no RoFormer-v2; weights and keys have the names of the authors' PyTorch code (RoFormer_pytorch).
    "roformer_v2": replace(
        _ROFORMER_V1, pretraining={"decoder": "cls.predictions.decoder.weight"}, own_keys=("rotary_value",),
        usual={"attention_bias": False, "mlp_bias": False}, rms_norm=True, scaled_initialisation=True,
    ),
    "mpnet": Family(
        "MPNet", "mpnet.", _MPNET, _ROBERTA_PRETRAINING, _DENSE_CLASSIFIER, choice=_POOLED_CLASSIFIER,
        pretraining_act="gelu", own_keys=("relative_attention_num_buckets",), renamed_keys={"type_vocab_size": None},
        positions_after_padding=True, classifier_act="tanh", classifier_dropout=None,
    ),
    "nezha": Family(
        "Nezha", "nezha.", _NEZHA, _BERT_PRETRAINING, _POOLED_CLASSIFIER,
        own_keys=("max_relative_position",), distance_sines=True,
    ),
    "deberta-v2": Family(
        "DebertaV2", "deberta.", _DEBERTA, _DEBERTA_PRETRAINING, {"dense": "pooler.dense", "classifier": "classifier"},
        own_pretraining=_DEBERTA_OWN_PRETRAINING,
        own_keys=(
            "embedding_size", "relative_attention", "pos_att_type", "share_att_key", "max_relative_positions",
            "position_buckets", "norm_rel_ebd", "position_biased_input", "conv_kernel_size", "conv_groups", "conv_act",
        ),
        usual={"type_vocab_size": 0, "layer_norm_eps": 1e-7}, projects_first=True,
        classifier_act=("pooler_hidden_act", "gelu"), classifier_input_dropout=("pooler_dropout", 0.0),
        classifier_dropout=None, text_classifier_dropout=("cls_dropout", None),
    ),
    "modernbert": Family(
        "ModernBert", "model.", _MODERNBERT, _MODERNBERT_PRETRAINING,
        {"dense": "head.dense", "norm": "head.norm", "classifier": "classifier"},
        reader={"qa_outputs": "classifier"}, token_head=True, pretraining_act=("classifier_activation", "gelu"),
        own_keys=(
            "embedding_dropout", "attention_bias", "mlp_bias", "norm_bias", "classifier_bias", "decoder_bias",
            "local_attention",
        ),
        usual={
            "vocab_size": 50368, "num_hidden_layers": 22, "intermediate_size": 1152, "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5, "pad_token_id": 50283, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
            "embedding_dropout": 0.0, "attention_bias": False, "mlp_bias": False, "norm_bias": False,
            "classifier_bias": False,
        },
        renamed_keys={
            "hidden_act": "hidden_activation", "hidden_dropout_prob": "mlp_dropout", "layer_norm_eps": "norm_eps",
            "attention_probs_dropout_prob": "attention_dropout", "type_vocab_size": None,
        },
        rotates="halves", local_layers=True, gated=True, classifier_act=("classifier_activation", "gelu"),
        classifier_input_dropout=(None, 0.0), text_classifier_dropout=("classifier_dropout", 0.0),
        reader_dropout=("classifier_dropout", 0.0), norm_first=True,
    ),
    "xlnet": Family(
        "XLNet", "transformer.", _XLNET, {}, {"dense": "sequence_summary.summary", "classifier": "logits_proj"},
        usual={
            "vocab_size": 32000, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "pad_token_id": 5, "type_vocab_size": 3, "attention_bias": False,
        },
        renamed_keys={
            "hidden_size": "d_model", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
            "intermediate_size": "d_inner", "hidden_act": "ff_activation", "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "dropout", "max_position_embeddings": None, "type_vocab_size": None,
        },
        transformer_xl=True, cls_last=True, inner_dropout=True,
        architectures={"ForQuestionAnswering": "ForQuestionAnsweringSimple"}, classifier_act=("summary_activation", "tanh"),
        classifier_dropout=None, classifier_input_dropout=("dropout", 0.1),
        text_classifier_dropout=("summary_last_dropout", 0.1), reader_dropout=("dropout", 0.1),
    ),
}  # fmt: skip
