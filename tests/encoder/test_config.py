"""config.json in and out; what the encoder cannot be is refused in words."""

import json
import time
from dataclasses import asdict

import pytest
from transformers import AutoConfig, AutoModel

from bertorch import memory
from bertorch.encoder import Encoder, EncoderConfig, load_config
from bertorch.encoder import config as config_module
from bertorch.encoder.families import FAMILIES
from bertorch.encoder.weights import hugging_face_names
from bertorch.errors import UserError

BERT = {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 99}


def written(directory, config) -> None:
    (directory / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")


def test_round_trip_through_transformers(family, tiny_model, tmp_path):
    directory = tiny_model(family)
    config = load_config(directory)
    written(tmp_path, config.to_dict())
    original, back = AutoConfig.from_pretrained(directory), AutoConfig.from_pretrained(tmp_path)
    assert type(back) is type(original)
    # What describes the saved file or a head is for whoever saves to write. A key that transformers reads only if it is
    # there says what its absence says.
    left = {"_name_or_path", "architectures", "dtype", "transformers_version"}
    usual = EncoderConfig(model_type=config.model_type, hidden_size=config.hidden_size)
    left |= {
        key for key in config.family.own_keys if not hasattr(original, key) and getattr(back, key) == getattr(usual, key)
    }
    assert {key: value for key, value in back.to_dict().items() if key not in left} == {
        key: value for key, value in original.to_dict().items() if key not in left
    }
    assert asdict(EncoderConfig.from_dict(config.to_dict())) == asdict(config)


@pytest.mark.parametrize(
    "model_type", [family for family in FAMILIES if family not in ("roformer_v2", "nezha")]
)  # it has none
def test_defaults_are_transformers(model_type, tmp_path):
    """A config that names only its family describes the same model on both sides, sizes that do not matter aside."""
    sizes = {key: BERT[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size")}
    if model_type == "distilbert":
        sizes = {"dim": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 99}
    if model_type == "xlnet":
        sizes = {"d_model": 32, "n_head": 4, "n_layer": 2, "vocab_size": 99, "d_inner": 8}
    if model_type == "modernbert":
        sizes["pad_token_id"] = 0  # the usual one lies beyond so small a vocabulary
    written(tmp_path, {"model_type": model_type, "intermediate_size": 8, "hidden_dim": 8, **sizes})
    ours = Encoder(load_config(tmp_path))
    theirs = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))
    shapes = {
        name: parameter.shape
        for name, parameter in theirs.named_parameters()
        if not name.startswith(("pooler", "encoder.embed_pos", "mask_emb"))
    }
    parameters = dict(ours.named_parameters())
    names = hugging_face_names(ours.config, list(parameters))
    assert {theirs: parameters[mine].shape for mine, theirs in names.items()} == shapes


def test_keys_the_encoder_has_no_use_for_survive():
    raw = {**BERT, "classifier_dropout": 0.3, "directionality": "bidi", "architectures": ["BertModel"], "id2label": {}}
    saved = EncoderConfig.from_dict(raw).to_dict()
    assert (saved["classifier_dropout"], saved["directionality"]) == (0.3, "bidi")
    assert "architectures" not in saved and "id2label" not in saved


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": ["bert"]}, "model_type"),
        ({"hidden_act": "swishy"}, "swishy"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 5}, "num_attention_heads"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": 31.5}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"vocab_size": "99"}, "vocab_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"type_vocab_size": 0}, "type_vocab_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"intermediate_size": None}, "intermediate_size"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob"),
        ({"hidden_dropout_prob": None}, "hidden_dropout_prob"),
        ({"attention_probs_dropout_prob": 1.0}, "attention_probs_dropout_prob"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
        ({"initializer_range": -0.02}, "initializer_range"),
        ({"pad_token_id": "0"}, "pad_token_id"),
        ({"pad_token_id": True}, "pad_token_id"),
        ({"model_type": "xlm-roberta", "pad_token_id": -3}, "pad_token_id"),
        ({"model_type": "xlm-roberta", "pad_token_id": 10**12}, "pad_token_id"),
        ({"classifier_dropout": "0.3"}, "classifier_dropout"),
        ({"model_type": "albert", "classifier_dropout_prob": 7}, "classifier_dropout_prob"),
        ({"model_type": "distilbert", "qa_dropout": 1.5}, "qa_dropout"),
        ({"model_type": "distilbert", "n_layers": 0}, "n_layers"),
        ({"model_type": "distilbert", "dim": 30, "n_heads": 4}, "n_heads 4"),
        ({"model_type": "distilbert", "activation": "swish"}, "activation 'swish'"),
        ({"model_type": "ernie", "use_task_id": "yes"}, "use_task_id"),
        ({"model_type": "mpnet", "pad_token_id": 0}, "pad_token_id must be 1"),
        ({"model_type": "mpnet", "relative_attention_num_buckets": 16}, "at least 32"),
        ({"model_type": "roformer", "rotary_value": 1}, "rotary_value"),
        ({"model_type": "roformer", "norm_type": "rms_norm"}, "RoFormer-v2"),
        ({"model_type": "roformer", "use_bias": False}, "RoFormer-v2"),
        ({"model_type": "roformer", "hidden_size": 36, "num_attention_heads": 4}, "even"),
        ({"model_type": "nezha", "hidden_size": 36, "num_attention_heads": 4}, "even"),
        ({"model_type": "nezha", "max_relative_position": 0}, "max_relative_position"),
        ({"model_type": "deberta-v2", "pos_att_type": "p2c|p2p"}, "pos_att_type 'p2c|p2p'"),
        ({"model_type": "deberta-v2", "pos_att_type": 7}, "pos_att_type 7"),
        ({"model_type": "deberta-v2", "pos_att_type": [["c2p"]]}, "pos_att_type [['c2p']]"),
        ({"model_type": "deberta-v2", "relative_attention": True}, "pos_att_type names neither"),
        ({"model_type": "deberta-v2", "norm_rel_ebd": None}, "norm_rel_ebd"),
        ({"model_type": "deberta-v2", "relative_attention": "yes"}, "relative_attention"),
        ({"model_type": "deberta-v2", "share_att_key": 1}, "share_att_key"),
        ({"model_type": "deberta-v2", "position_biased_input": None}, "position_biased_input"),
        ({"model_type": "deberta-v2", "type_vocab_size": -1}, "type_vocab_size"),
        ({"model_type": "deberta-v2", "position_buckets": -2}, "position_buckets"),
        ({"model_type": "deberta-v2", "position_buckets": 1}, "position_buckets"),
        ({"model_type": "deberta-v2", "max_relative_positions": 0.5}, "max_relative_positions"),
        ({"model_type": "deberta-v2", "attention_head_size": 64}, "attention_head_size 64"),
        ({"model_type": "deberta-v2", "conv_kernel_size": 2}, "conv_kernel_size 2"),
        ({"model_type": "deberta-v2", "conv_kernel_size": 3, "conv_groups": 5}, "conv_groups 5"),
        ({"model_type": "deberta-v2", "conv_kernel_size": 3, "conv_act": "swish"}, "conv_act 'swish'"),
        ({"model_type": "deberta-v2", "pooler_hidden_act": None}, "pooler_hidden_act None"),
        ({"model_type": "deberta-v2", "pooler_dropout": 2}, "pooler_dropout"),
        ({"model_type": "deberta-v2", "cls_dropout": "0.1"}, "cls_dropout"),
        ({"model_type": "xlnet", "attn_type": "uni"}, "attn_type 'uni'"),
        ({"model_type": "xlnet", "summary_type": "mean"}, "summary_type 'mean'"),
        ({"model_type": "xlnet", "summary_use_proj": False}, "summary_use_proj"),
        ({"model_type": "xlnet", "bi_data": True}, "bi_data"),
        ({"model_type": "xlnet", "d_head": 7}, "d_head 7"),
        ({"model_type": "xlnet", "clamp_len": "5"}, "clamp_len"),
        ({"model_type": "xlnet", "dropout": 1.0}, "dropout"),
        ({"model_type": "xlnet", "n_layer": 0}, "n_layer"),
        ({"model_type": "modernbert", "hidden_size": 36, "num_attention_heads": 4}, "even"),
        ({"model_type": "modernbert", "hidden_activation": "swish"}, "hidden_activation 'swish'"),
        ({"model_type": "modernbert", "classifier_activation": "swish"}, "classifier_activation 'swish'"),
        ({"model_type": "modernbert", "classifier_pooling": "max"}, "classifier_pooling 'max'"),
        ({"model_type": "modernbert", "norm_bias": "no"}, "norm_bias"),
        ({"model_type": "modernbert", "norm_eps": None}, "norm_eps"),
        ({"model_type": "modernbert", "embedding_dropout": 1.0}, "embedding_dropout"),
        ({"model_type": "modernbert", "classifier_dropout": 7}, "classifier_dropout"),
        ({"model_type": "modernbert", "local_attention": 0}, "local_attention"),
        ({"model_type": "modernbert", "global_attn_every_n_layers": 0}, "global_attn_every_n_layers"),
        ({"model_type": "modernbert", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "modernbert", "layer_types": ["full_attention", ["x"]]}, "layer_types"),
        ({"model_type": "modernbert", "layer_types": "full_attention"}, "layer_types"),
        ({"model_type": "modernbert", "rope_parameters": [1]}, "scaled"),
        ({"model_type": "modernbert", "rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "scaled"),
        ({"model_type": "modernbert", "rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled"),
        ({"model_type": "modernbert", "global_rope_theta": "1e5"}, "base"),
        ({"model_type": "modernbert", "rope_parameters": {"sliding_attention": {"rope_theta": 0}}}, "base"),
    ],
    ids=str,
)
def test_refused(tmp_path, change, says):
    written(tmp_path, {**BERT, **change})
    with pytest.raises(UserError) as caught:
        load_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value) and says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_are_counted_exactly(family, tiny_model):
    """Shared layers once, narrow embeddings as narrow as they are."""
    config = load_config(tiny_model(family))
    assert config.num_parameters == sum(parameter.numel() for parameter in Encoder(config).parameters())


@pytest.mark.parametrize(
    ("change", "named", "gigabytes"),
    [
        ({"vocab_size": 10**12}, ["vocab_size 1000000000000"], "128,000"),
        ({"max_position_embeddings": 10**12}, ["max_position_embeddings 1000000000000"], "128,000"),
        ({"type_vocab_size": 10**12}, ["type_vocab_size 1000000000000"], "128,000"),
        ({"hidden_size": 10**7}, ["hidden_size 10000000"], "3,"),
        ({"intermediate_size": 10**12}, ["intermediate_size 1000000000000"], "520,000"),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers 1000000000"], ""),
        ({"model_type": "albert", "num_hidden_layers": 10**9}, ["num_hidden_layers 1000000000"], ""),
        ({"model_type": "albert", "num_hidden_groups": 10**9}, ["num_hidden_groups 1000000000"], ""),
        ({"model_type": "albert", "inner_group_num": 10**9}, ["inner_group_num 1000000000"], ""),
        ({"model_type": "albert", "embedding_size": 10**12}, ["embedding_size 1000000000000"], ""),
        ({"vocab_size": 10**12, "hidden_size": 10**7}, ["vocab_size 1000000000000", "hidden_size 10000000"], ""),
        ({"vocab_size": 10**400}, ["vocab_size"], ""),
        ({"model_type": "roformer", "max_position_embeddings": 10**12}, ["max_position_embeddings 1000000000000"], ""),
        ({"model_type": "distilbert", "dim": 10**7, "n_heads": 4}, ["dim 10000000"], ""),
        (
            {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": "p2c", "position_buckets": 10**12},
            ["position_buckets 1000000000000"],
            "",
        ),
        ({"model_type": "deberta-v2", "conv_kernel_size": 10**12 + 1}, ["conv_kernel_size 1000000000001"], ""),
        ({"hidden_size": 2**62, "vocab_size": 2**62}, [f"vocab_size {2**62}", f"hidden_size {2**62}"], ""),
    ],
    ids=str,
)
def test_a_config_that_asks_for_too_much_is_refused_by_name(tmp_path, change, named, gigabytes):
    """Before any memory is taken, and without counting through a billion layers."""
    written(tmp_path, {**BERT, "intermediate_size": 64, **change})
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        load_config(tmp_path)
    said = str(caught.value)
    assert time.monotonic() - start < 60  # a billion takes minutes
    assert said.startswith(f"{tmp_path / 'config.json'}: ") and "\n" not in said
    assert all(one in said for one in named) and f"would take {gigabytes}" in said + "would take "
    assert "max_position" not in said or "max_position_embeddings" in change  # what is not at fault is not blamed


def test_the_machine_decides_what_is_too_large(tmp_path, monkeypatch):
    """A large model that is meant so is refused where memory is too small, and only there."""
    xxl = {
        "model_type": "xlm-roberta", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 48,
        "intermediate_size": 16384, "max_position_embeddings": 514, "type_vocab_size": 1, "vocab_size": 250880,
    }  # fmt: skip
    written(tmp_path, xxl)
    needed = 4 * EncoderConfig(**{**xxl, "pad_token_id": 1}).num_parameters
    assert 40e9 < needed < 44e9  # 10.7 billion weights
    for module in (memory, config_module):
        monkeypatch.setattr(module, "total_memory", lambda: needed)
    assert load_config(tmp_path).hidden_size == 4096
    for module in (memory, config_module):
        monkeypatch.setattr(module, "total_memory", lambda: needed - 1)
    with pytest.raises(UserError, match="43 GB of memory, and this machine has 43 GB"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '"bert"', "null", "[" * 100_000])
def test_not_a_json_object(tmp_path, text):
    written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_not_utf8(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"model_type": "b\xff\xfe"}')
    with pytest.raises(UserError, match="config.json"):
        load_config(tmp_path)


def test_no_config(tmp_path):
    with pytest.raises(UserError, match="no config.json") as caught:
        load_config(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("files", "model_type", "offset"),
    [(["vocab.txt"], "bert", 0), (["vocab.json", "merges.txt"], "roberta", 2), (["vocab.txt", "merges.txt"], "roberta", 2)],
    ids=str,
)
def test_roberta_beside_word_pieces_is_bert(tmp_path, files, model_type, offset):
    """Chinese RoBERTa-wwm says roberta and is a BERT; a RoBERTa of its own kind has merges."""
    written(tmp_path, {**BERT, "model_type": "roberta", "pad_token_id": 1})
    for name in files:
        (tmp_path / name).touch()
    config = load_config(tmp_path)
    assert (config.model_type, config.position_offset) == (model_type, offset)
    assert config.max_seq_length == config.max_position_embeddings - offset


def test_model_type_missing():
    assert EncoderConfig.from_dict({"hidden_size": 32, "num_attention_heads": 4}).model_type == "bert"
    assert EncoderConfig.from_dict({"num_hidden_groups": 1, "embedding_size": 128}).model_type == "albert"


def test_bert_ignores_an_embedding_size():
    config = EncoderConfig.from_dict({**BERT, "embedding_size": 7, "num_hidden_groups": 1, "inner_group_num": 3})
    assert (config.embedding_size, config.num_hidden_groups, config.inner_group_num) == (32, 2, 1)
    assert not config.projects_embeddings


@pytest.mark.parametrize(("model_type", "embedding_size"), [("bert", 32), ("albert", 128), ("electra", 128)])
def test_null_where_the_family_decides(model_type, embedding_size):
    config = EncoderConfig.from_dict({**BERT, "model_type": model_type, "embedding_size": None, "num_hidden_groups": None})
    assert (config.embedding_size, config.num_hidden_groups) == (embedding_size, 1 if model_type == "albert" else 2)


@pytest.mark.parametrize(("model_type", "pad"), [("bert", 0), ("roberta", 1), ("electra", 0)])
def test_pad_token_of_null(model_type, pad):
    assert EncoderConfig.from_dict({**BERT, "model_type": model_type, "pad_token_id": None}).pad_token_id == pad
