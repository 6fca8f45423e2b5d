"""TensorFlow checkpoints become directories that transformers opens with the same logits; what is wrong is one line.

Where TensorFlow is not installed, its one function is replaced, and everything but that function is tested.
"""

import io
import json
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file

import bertorch.encoder.tensorflow as module
from bertorch.data.tokenizing import load_tokenizer
from bertorch.encoder import TokenBatch, load_config, load_encoder
from bertorch.encoder.tensorflow import convert_checkpoint, converted_directory
from bertorch.encoder.tensorflow_names import hugging_face_config, hugging_face_tensors
from bertorch.errors import UserError
from tests.closeness import assert_close
from tests.damage import Malice
from tests.encoder.test_nezha import RECORDED as NEZHA
from tests.encoder.test_roformer import RECORDED
from tests.scripts.launch import call, complaint

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "type_vocab_size": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
# Of each layout: transformers' class prefix, what its config says besides, and the keys that Google's file has besides.
LAYOUTS = {
    "bert": ("Bert", {"hidden_act": "gelu"}, {}),
    "bert, relu": ("Bert", {"hidden_act": "relu"}, {"hidden_act": "relu"}),
    "albert": (
        "Albert", {"embedding_size": 16, "hidden_act": "gelu_new"},
        {"embedding_size": 16, "num_hidden_groups": 1, "net_structure_type": 0, "inner_group_num": 1, "gap_size": 0},
    ),
    "albert, groups": (
        "Albert", {"embedding_size": 16, "hidden_act": "gelu_new", "num_hidden_groups": 2, "inner_group_num": 2},
        {"embedding_size": 16, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "albert, equal widths": (
        "Albert", {"embedding_size": 32, "hidden_act": "relu"}, {"embedding_size": 32, "hidden_act": "relu"},
    ),
    "factorised": (
        "Albert", {"embedding_size": 16, "hidden_act": "gelu", "num_hidden_groups": 4}, {"embedding_size": 16},
    ),
    "albert_zh": (
        "Albert", {"embedding_size": 32, "hidden_act": "gelu_new"}, {"embedding_size": 16, "ln_type": "postln"},
    ),
}  # fmt: skip

# The names that the authors' modeling.py and run_pretraining.py give, after Hugging Face's, in this order.
ALBERT_TO_GOOGLE = [
    (r"^albert\.", "bert."),
    (r"\.albert_layer_groups\.(\d)\.albert_layers\.(\d)\.", r".transformer.group_\1.inner_group_\2."),
    (r"(inner_group_\d)\.attention\.(query|key|value)\.", r"\1.attention_1.self.\2."),
    (r"(inner_group_\d)\.attention\.dense\.", r"\1.attention_1.output.dense."),
    (r"(inner_group_\d)\.attention\.LayerNorm\.", r"\1.LayerNorm."),
    (r"(inner_group_\d)\.ffn\.", r"\1.ffn_1.intermediate.dense."),
    (r"(inner_group_\d)\.ffn_output\.", r"\1.ffn_1.intermediate.output.dense."),
    (r"(inner_group_\d)\.full_layer_layer_norm\.", r"\1.LayerNorm_1."),
    (r"^bert\.pooler\.", "bert.pooler.dense."),
    (r"^predictions\.(dense|LayerNorm)\.", r"cls.predictions.transform.\1."),
    (r"^predictions\.bias", "cls.predictions.bias"),
    (r"^sop_classifier\.classifier\.", "cls.seq_relationship."),
]
GROUPS_TO_LAYERS = [
    (r"transformer\.group_(\d)\.inner_group_0\.", r"layer_\1."),
    (r"(layer_\w+)\.attention_1\.self\.", r"\1.attention.self."),
    (r"(layer_\w+)\.attention_1\.output\.", r"\1.attention.output."),
    (r"(layer_\w+)\.LayerNorm\.", r"\1.attention.output.LayerNorm."),
    (r"(layer_\w+)\.ffn_1\.intermediate\.dense", r"\1.intermediate.dense"),
    (r"(layer_\w+)\.ffn_1\.intermediate\.output\.dense", r"\1.output.dense"),
    (r"(layer_\w+)\.LayerNorm_1\.", r"\1.output.LayerNorm."),
]
TO_TENSORFLOW = [
    (r"\.layer\.(\d)\.", r".layer_\1."),
    (r"(LayerNorm(_1)?)\.weight$", r"\1.gamma"),
    (r"(LayerNorm(_1)?)\.bias$", r"\1.beta"),
    (r"_embeddings\.weight$", "_embeddings"),
    (r"cls\.predictions\.bias$", "cls.predictions.output_bias"),
    (r"cls\.seq_relationship\.weight$", "cls.seq_relationship.output_weights"),
    (r"cls\.seq_relationship\.bias$", "cls.seq_relationship.output_bias"),
    (r"\.weight$", ".kernel"),
    (r"\.", "/"),
]


def as_google_names_it(name: str, layout: str) -> str:
    rules = [
        *(ALBERT_TO_GOOGLE if layout[:4] != "bert" else ()),
        *(GROUPS_TO_LAYERS if layout in ("factorised", "albert_zh") else ()),
    ]
    for pattern, replacement in (*rules, *TO_TENSORFLOW):
        name = re.sub(pattern, replacement, name)
    return name.replace("layer_0", "layer_shared") if layout == "albert_zh" else name


def model_of(layout: str) -> transformers.PreTrainedModel:
    prefix, traits, _ = LAYOUTS[layout]
    config = getattr(transformers, f"{prefix}Config")(**SIZES, **traits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{prefix}ForPreTraining")(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            if layout in ("albert, equal widths", "albert_zh"):
                mapping = model.albert.encoder.embedding_hidden_mapping_in
                mapping.weight.copy_(torch.eye(32)), mapping.bias.zero_()
            if layout == "albert_zh":
                torch.manual_seed(1)
                words = torch.randn(50, 16) @ torch.randn(16, 32) / 4
                model.albert.embeddings.word_embeddings.weight.copy_(words)
    return model


def variables_of(model: transformers.PreTrainedModel, layout: str) -> dict[str, np.ndarray]:
    variables = {}
    for name, parameter in model.named_parameters():
        theirs, value = as_google_names_it(name, layout), parameter.detach().numpy()
        variables[theirs] = value.T.copy() if theirs.endswith("/kernel") else value
    if layout in ("albert, equal widths", "albert_zh"):
        for kind in ("kernel", "bias"):
            del variables[f"bert/encoder/embedding_hidden_mapping_in/{kind}"]
    if layout == "albert_zh":
        generator = torch.Generator().manual_seed(1)
        variables["bert/embeddings/word_embeddings"] = torch.randn(50, 16, generator=generator).numpy()
        variables["bert/embeddings/word_embeddings_2"] = (torch.randn(16, 32, generator=generator) / 4).numpy()
    return variables


def google_config(layout: str) -> dict:
    return {**SIZES, "hidden_act": "gelu", "initializer_range": 0.02, **LAYOUTS[layout][2]}


VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "\u2028",
    "é",
    "e",
    "E",
    "在",
    "\u2028\u2028",
    *(f"字{i}" for i in range(39)),
]


BOTH = pytest.mark.parametrize("write", ["stub", "tensorflow"], indirect=True)
TENSORFLOW = pytest.mark.parametrize("write", ["tensorflow"], indirect=True)


@pytest.fixture
def write(request, monkeypatch):
    """``write(prefix, variables)`` makes a checkpoint: one that a stand-in of the reader reads, or TensorFlow's own."""
    if getattr(request, "param", "stub") == "stub":
        monkeypatch.setattr(module, "read_variables", lambda prefix: dict(np.load(f"{prefix}.data-00000-of-00001")))
        return write_stub
    tensorflow = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

    def write_checkpoint(prefix: Path, variables: dict[str, np.ndarray]) -> None:
        names = list(variables)
        tensors = [tensorflow.constant(variables[name]) for name in names]
        tensorflow.raw_ops.SaveV2(
            prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
        )

    return write_checkpoint


def write_stub(prefix: Path, variables: dict[str, np.ndarray]) -> None:
    Path(f"{prefix}.index").write_text(" ".join(variables))
    with open(f"{prefix}.data-00000-of-00001", "wb") as handle:
        np.savez(handle, **variables)


@pytest.fixture
def released(write, tmp_path):
    """``released(layout, **variables)`` -> the folder of a checkpoint as it is released; None leaves a variable out."""

    def make(layout: str = "bert", folder: str = "chinese_L-4_H-32_A-4", **changed: np.ndarray | None) -> Path:
        directory = tmp_path / folder
        directory.mkdir()
        variables = {**variables_of(model_of(layout), layout), **changed}
        write(directory / "bert_model.ckpt", {name: value for name, value in variables.items() if value is not None})
        kind = "albert" if layout.startswith("albert") else "bert"
        (directory / f"{kind}_config.json").write_text(json.dumps(google_config(layout)))
        (directory / "vocab.txt").write_bytes("".join(f"{word}\n" for word in VOCABULARY).encode())
        return directory

    return make


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        convert_checkpoint(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@BOTH
@pytest.mark.parametrize("layout", LAYOUTS)
def test_same_logits(released, tmp_path, layout):
    """Of both heads in transformers, and the same states in our encoder; optimizer slots and dtypes make no difference."""
    original = model_of(layout)
    word = "bert/embeddings/word_embeddings"
    double = {name: value.astype(np.float64) for name, value in variables_of(original, layout).items() if name == word}
    slots = {f"{word}/adam_m": np.zeros(3), f"{word}/adam_v": np.zeros(3), "global_step": np.array(7)}
    folder = released(layout, **double, **slots)
    directory = convert_checkpoint(folder, tmp_path / "out")
    opened, report = type(original).from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    batch = TokenBatch.from_lengths(
        torch.randint(5, 50, (30,), generator=torch.Generator().manual_seed(0)), torch.tensor([0] * 14 + [1] * 16), [30]
    )
    given = {"input_ids": batch.input_ids[None], "token_type_ids": batch.token_type_ids[None]}
    with torch.no_grad():
        expected, found = original(**given, output_hidden_states=True), opened.eval()(**given)
        encoder, rest = load_encoder(directory, with_pooler=True)
        states = encoder.eval()(batch)
    for head in (0, 1):
        assert found[head].abs().max() > 0.1
        assert_close(found[head], expected[head])
    assert_close(states, expected.hidden_states[-1][0])
    assert all("predictions" in name or "classifier" in name or "relationship" in name for name in rest)


def roformer_variables(names: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """As bert4keras names a RoFormer's weights: like BERT's, without the table of sines, which it computes."""
    variables = {}
    for name, tensor in names.items():
        if not name.endswith(("embed_positions.weight", "decoder.weight", "decoder.bias")):
            theirs = as_google_names_it(name.replace("roformer.", "bert.").replace("embeddings_project.", MAPPING), "bert")
            variables[theirs] = tensor.detach().numpy().T.copy() if theirs.endswith("/kernel") else tensor.detach().numpy()
    return variables


MAPPING = "encoder.embedding_hidden_mapping_in."


@BOTH
@pytest.mark.parametrize("width", [32, 16])
def test_roformer(write, tmp_path, tiny_model, width):
    original = transformers.RoFormerForMaskedLM.from_pretrained(tiny_model("roformer", "ForMaskedLM", embedding_size=width))
    config = original.config.to_dict()
    kept = {key: config[key] for key in (*SIZES, "embedding_size", "hidden_act")}
    tmp_path.joinpath("bert_config.json").write_text(json.dumps({**kept, "hidden_act": "gelu_new"}))
    shutil.copy(tiny_model("roformer") / "vocab.txt", tmp_path)
    write(tmp_path / "bert_model.ckpt", roformer_variables(dict(original.named_parameters())))
    directory = convert_checkpoint(tmp_path, tmp_path / "out")
    assert load_config(directory).model_type == "roformer"
    opened, report = type(original).from_pretrained(directory, output_loading_info=True)
    assert report["missing_keys"] <= {"roformer.encoder.embed_positions.weight"} and not report["unexpected_keys"], report
    ids = torch.randint(5, config["vocab_size"], (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(opened.eval()(ids).logits, original.eval()(ids).logits)


@BOTH
def test_roformer_v2(write, tmp_path):
    with safe_open(RECORDED, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    recorded = load_file(RECORDED)
    raw = {key: value for key, value in config.items() if key in SIZES or key == "hidden_act"}
    tmp_path.joinpath("bert_config.json").write_text(json.dumps(raw))
    tmp_path.joinpath("vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY[:40]))
    variables = roformer_variables({name: x for name, x in recorded.items() if name.startswith("roformer.")})
    write(tmp_path / "bert_model.ckpt", variables)
    encoder, rest = load_encoder(convert_checkpoint(tmp_path, tmp_path / "out"))
    batch = TokenBatch.from_lengths(recorded["input_ids"], recorded["token_type_ids"], [1, 9, 32, 4, 9])
    assert encoder.config.family.rms_norm and not rest
    assert_close(encoder.eval()(batch), recorded["states"])


@BOTH
@pytest.mark.parametrize("model", ["short", "long"])
def test_nezha(write, tmp_path, model):
    """The names of Huawei's ``modeling.py``, which are BERT's without positions, and its activation, the tanh formula."""
    with safe_open(NEZHA, framework="pt") as file:
        said = json.loads(file.metadata()[model])
    recorded = {name.split("/")[1]: x for name, x in load_file(NEZHA).items() if name.startswith(f"{model}/")}
    config = {**said["config"], "use_relative_position": True}
    del config["model_type"]
    config["hidden_act"] = {"gelu_new": "gelu", "gelu": "relu"}[config["hidden_act"]]
    tmp_path.joinpath("bert_config.json").write_text(json.dumps(config))
    tmp_path.joinpath("vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY[:40]))
    named = {name: x for name, x in recorded.items() if name.startswith(("nezha.", "cls."))}
    variables = {}
    for name, tensor in named.items():
        theirs, value = as_google_names_it(name.replace("nezha.", "bert."), "bert"), tensor.numpy()
        variables[theirs] = value.T.copy() if theirs.endswith("/kernel") else value
    write(tmp_path / "model.ckpt-900000", variables)
    directory = convert_checkpoint(tmp_path, tmp_path / "out")
    read = load_config(directory)
    assert (read.model_type, read.max_relative_position) == ("nezha", config["max_relative_position"])
    assert read.hidden_act == {"gelu": "gelu_new", "relu": "relu"}[config["hidden_act"]]
    found = load_file(directory / "model.safetensors")
    assert found.keys() == named.keys() and all(torch.equal(found[name], x) for name, x in named.items())
    if model == "short":
        encoder, _ = load_encoder(directory)
        batch = TokenBatch.from_lengths(recorded["input_ids"], recorded["token_type_ids"], said["lengths"])
        assert_close(encoder.eval()(batch), recorded["states"])


def test_nezha_cuts_distances_at_64(tmp_path):
    """What its code says; its configuration says nothing of it."""
    variables = {"bert/embeddings/word_embeddings": np.zeros((50, 32))}
    assert (
        hugging_face_config({**google_config("bert"), "use_relative_position": True}, variables, "x").max_relative_position
        == 64
    )


@BOTH
def test_directory(released, tmp_path, messages):
    folder = released()
    before = sorted(path.name for path in tmp_path.iterdir())
    directory = convert_checkpoint(folder, tmp_path / "new" / "out")
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "new"])
    assert len({path.stat().st_mode for path in directory.iterdir()}) == 1
    assert [path.name for path in directory.parent.iterdir()] == ["out"]
    assert (directory / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"]
    assert (config["layer_norm_eps"], config["model_type"]) == (1e-12, "bert")
    tokenizer = load_tokenizer(directory)
    assert tokenizer("\u2028 É 在").input_ids == [2, 7, 9, 3]
    assert all(tokenizer.convert_tokens_to_ids(word) == index for index, word in enumerate(VOCABULARY) if word.strip())
    assert tokenizer.model_max_length == 40
    assert sum(str(directory) in line for line in messages) == 1
    assert type(transformers.AutoTokenizer.from_pretrained(directory)).__name__ == "BertTokenizer"


def test_albert_with_wordpieces_opens_with_berts_tokenizer(released, tmp_path):
    directory = convert_checkpoint(released("albert"), tmp_path / "out")
    for tokenizer in (load_tokenizer(directory), transformers.AutoTokenizer.from_pretrained(directory)):
        assert tokenizer("E 在").input_ids == [2, 7, 9, 3]


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001"])
def test_any_name_of_the_checkpoint(released, tmp_path, ending):
    convert_checkpoint(f"{released()}/bert_model.ckpt{ending}", tmp_path / "out")
    load_encoder(tmp_path / "out")


@TENSORFLOW
def test_tf_hub_prefix(write, tmp_path):
    variables = {f"module/{name}": value for name, value in variables_of(model_of("albert"), "albert").items()}
    write(tmp_path / "variables", variables)
    assert module.read_variables(tmp_path / "variables").keys() == variables_of(model_of("albert"), "albert").keys()


@pytest.mark.parametrize(
    ("layout", "act", "expected"),
    [("bert", "gelu", "gelu"), ("factorised", "gelu", "gelu"), ("albert", "gelu", "gelu_new"), ("albert", "relu", "relu"),
     ("albert_zh", "GELU", "gelu_new")],
)  # fmt: skip
def test_activation(layout, act, expected):
    variables = variables_of(model_of(layout), layout)
    raw = {**google_config(layout), "hidden_act": act}
    assert hugging_face_config(raw, variables, "x").hidden_act == expected


@pytest.mark.parametrize("layout", ["bert", "albert", "factorised"])
def test_names_are_those_that_transformers_saves(layout, tmp_path):
    model = model_of(layout)
    model.save_pretrained(tmp_path)
    variables = variables_of(model, layout)
    tensors = hugging_face_tensors(variables, hugging_face_config(google_config(layout), variables, "x"), "x")
    saved = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == saved.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, saved[name]) and tensor.is_contiguous(), name


def test_what_has_no_place_is_reported_in_one_line(messages):
    model = model_of("bert")
    slots = dict.fromkeys(
        ("bert/pooler/dense/kernel/adam_m", "bert/pooler/dense/kernel/AdamWeightDecayOptimizer", "beta1_power",
         "x/lamb_m", "global_step", "bert/pooler/dense/bias/Adam_1", "loss_scale"), np.zeros(2),
    )  # fmt: skip
    variables = {**variables_of(model, "bert"), **slots, "output_weights": np.zeros(2), "output_bias": np.zeros(2)}
    hugging_face_tensors(variables, hugging_face_config(google_config("bert"), variables, "x"), "here.ckpt")
    assert messages == ["here.ckpt: left out, as the model does not use them: output_bias; output_weights"]


@pytest.mark.parametrize("layout", ["bert", "factorised"])
@pytest.mark.parametrize(
    ("gone", "kind"),
    [("cls/seq_relationship/", "ForMaskedLM"), ("cls/", "Model"), (("cls/", "bert/pooler/"), "Model"),
     ("bert/pooler/", "ForPreTraining")],
)  # fmt: skip
def test_pooler_and_heads_may_be_missing(released, tmp_path, messages, layout, gone, kind):
    names = variables_of(model_of(layout), layout)
    folder = released(layout, **{name: None for name in names if name.startswith(gone)})
    directory = convert_checkpoint(folder, tmp_path / "out")
    assert load_config(directory).num_hidden_layers == 4
    architecture = json.loads((directory / "config.json").read_text())["architectures"][0]
    assert architecture == LAYOUTS[layout][0] + kind
    assert "missing entirely" in messages[0]
    load_encoder(directory)


@BOTH
def test_missing_variables_are_named(released, tmp_path):
    gone = ["bert/encoder/layer_2/attention/self/key/bias", "cls/predictions/transform/LayerNorm/beta"]
    message = refusal(released(**dict.fromkeys(gone)), tmp_path / "out")
    assert "2 variables" in message and all(name in message for name in gone)
    assert not (tmp_path / "out").exists()


def test_fewer_layers_than_the_configuration_says(released, tmp_path):
    names = [name for name in variables_of(model_of("bert"), "bert") if "layer_3/" in name]
    assert f"{len(names)} variables are missing: bert/encoder/layer_3/" in refusal(
        released(**dict.fromkeys(names)), tmp_path / "out"
    )


@pytest.mark.parametrize("layout", ["bert", "albert", "factorised", "albert_zh"])
def test_sizes_that_disagree(released, tmp_path, layout):
    folder = released(layout)
    file = next(folder.glob("*config.json"))
    for key, value, name, numbers in (
        ("vocab_size", 60, "word_embeddings", ("[50, ", "[60, ")),
        ("intermediate_size", 44, "kernel", ("[32, 48]", "[32, 44]")),
        ("hidden_size", 36, "kernel", ("[32, 32]", "[36, 36]")),
    ):  # fmt: skip
        file.write_text(json.dumps({**google_config(layout), key: value}))
        message = refusal(folder, tmp_path / "out")
        assert name in message and all(number in message for number in numbers), message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("layout", "changed", "says"),
    [
        (
            "albert_zh",
            {"bert/embeddings/word_embeddings_2": np.zeros((15, 32))},
            "have sizes that do not match: [50, 16] and [15, 32]",
        ),
        ("albert_zh", {"bert/embeddings/word_embeddings_2": np.zeros(16)}, "do not match"),
        ("bert", {"bert/pooler/dense/bias": np.full(32, b"text")}, "bert/pooler/dense/bias holds no numbers"),
    ],
    ids=["widths", "dimensions", "text"],
)
def test_variables_that_nothing_can_be_computed_with(released, tmp_path, layout, changed, says):
    assert says in refusal(released(layout, **changed), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001", "bert_config.json"])
def test_a_pickle_in_place_of_a_checkpoint_runs_no_code(tmp_path, name):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "bert_model.ckpt.index").write_bytes(b"")
    (folder / "bert_config.json").write_text(json.dumps(google_config("bert")))
    (folder / "vocab.txt").write_text("[PAD]\n")
    (folder / name).write_bytes(pickle.dumps(Malice(tmp_path / "trace")))
    assert str(folder) in refusal(folder, tmp_path / "out")  # TensorFlow's reader, or that it is not installed
    assert not (tmp_path / "trace").exists() and not (tmp_path / "out").exists()
    pickle.loads((folder / name).read_bytes())
    assert (tmp_path / "trace").exists()  # the file was armed


@pytest.mark.parametrize(
    "variables", [{"electra/embeddings/word_embeddings": np.zeros(2)}, {"x/.ATTRIBUTES/VARIABLE_VALUE": np.zeros(2)}]
)
def test_neither_bert_nor_albert(write, tmp_path, variables):
    write(tmp_path / "model.ckpt", variables)
    (tmp_path / "config.json").write_text(json.dumps(google_config("bert")))
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    message = refusal(tmp_path, tmp_path / "out")
    assert "no bert/embeddings/word_embeddings" in message and next(iter(variables)) in message


@pytest.mark.parametrize(
    "change", [{"net_structure_type": 1}, {"ln_type": "preln"}, {"hidden_act": "linear"}, {"num_hidden_layers": "4"},
               {"num_attention_heads": 5}, {"hidden_size": None}]
)  # fmt: skip
def test_configuration_of_another_net(released, tmp_path, change):
    folder = released("albert_zh")
    (folder / "albert_config.json").write_text(json.dumps({**google_config("albert_zh"), **change}))
    message = refusal(folder, tmp_path / "out")
    assert next(iter(change)) in message and "albert_config.json" in message


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff{}", ""])
def test_broken_configuration(released, tmp_path, text):
    folder = released()
    (folder / "bert_config.json").write_text(text, encoding="utf-8")
    assert "bert_config.json" in refusal(folder, tmp_path / "out")


def test_files_that_are_not_there(tmp_path):
    assert "not a TensorFlow checkpoint" in refusal(tmp_path / "nowhere" / "model.ckpt", tmp_path / "out")
    assert "found none" in refusal(tmp_path, tmp_path / "out")
    (tmp_path / "a.ckpt.index").touch()
    assert "one *config*.json is expected" in refusal(tmp_path, tmp_path / "out")
    (tmp_path / "bert_config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert "one *vocab*.txt or *.model is expected" in refusal(tmp_path, tmp_path / "out")
    (tmp_path / "vocab_chinese.txt").touch()
    assert "mine.txt: no such file" in refusal(tmp_path, tmp_path / "out", vocab_file=tmp_path / "mine.txt")
    (tmp_path / "b.ckpt.index").touch()
    message = refusal(tmp_path, tmp_path / "out")
    assert "a.ckpt.index" in message and "b.ckpt.index" in message


def test_files_of_other_places(released, tmp_path):
    folder = released()
    (folder / "bert_config.json").rename(tmp_path / "mine.json")
    (folder / "vocab.txt").rename(tmp_path / "words")
    convert_checkpoint(folder, tmp_path / "out", config_file=tmp_path / "mine.json", vocab_file=tmp_path / "words")
    assert load_tokenizer(tmp_path / "out")("E 在").input_ids == [2, 7, 9, 3]


def test_vocabulary_of_another_model(released, tmp_path, messages):
    folder = released()
    with open(folder / "vocab.txt", "ab") as handle:
        handle.write("多\n".encode())
    message = refusal(folder, tmp_path / "out")
    assert "51 words" in message and "embeddings for 50" in message
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in VOCABULARY[:5]))
    convert_checkpoint(folder, tmp_path / "out")
    assert "5 words for 50 embeddings" in messages[0]


@pytest.mark.parametrize(
    ("folder", "says", "cased", "lower"),
    [("uncased_L-4", None, None, True), ("multi_cased_L-4", None, None, False), ("Cased_L-4", None, None, False),
     ("L-4", None, None, True), ("L-4", False, None, False), ("cased_L-4", True, None, True),
     ("cased_L-4", None, False, True), ("L-4", True, True, False)],
)  # fmt: skip
def test_cased(released, tmp_path, folder, says, cased, lower):
    directory = released(folder=folder)
    if says is not None:
        (directory / "bert_config.json").write_text(json.dumps({**google_config("bert"), "do_lower_case": says}))
    convert_checkpoint(directory, tmp_path / "out", cased=cased)
    assert load_tokenizer(tmp_path / "out")("É E e").input_ids == ([2, 7, 7, 7, 3] if lower else [2, 1, 8, 7, 3])


def test_sentencepiece(released, tmp_path):
    """As Google releases English ALBERT: symbols of the model's own, and ids of Google's tokenizer."""
    folder, pieces = released("albert"), io.BytesIO()
    (folder / "vocab.txt").unlink()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a cat sat on the mat 9,", "the cat and the mat and a hat"] * 5), model_writer=pieces,
        vocab_size=50, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>", minloglevel=2, hard_vocab_limit=False,
        control_symbols=["[CLS]", "[SEP]", "[MASK]"], user_defined_symbols=["(", "."],
    )  # fmt: skip
    (folder / "30k-clean.model").write_bytes(pieces.getvalue())
    directory = convert_checkpoint(folder, tmp_path / "out")
    assert (directory / "spiece.model").read_bytes() == pieces.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=pieces.getvalue())
    wanted = [2, *processor.encode("the (cat. sat on a hat.a"), 3]
    assert load_tokenizer(directory)("The (C\u00c1T. sat on a hat.a").input_ids == wanted and 1 not in wanted
    assert transformers.AutoTokenizer.from_pretrained(directory)("The (C\u00c1T. sat on a hat.a").input_ids == wanted
    assert load_tokenizer(directory)("\u00c1", "CAT").input_ids == [
        2,
        *processor.encode("a"),
        3,
        *processor.encode("cat"),
        3,
    ]
    assert load_tokenizer(converted_directory(folder))("The (C\u00c1T. sat on a hat.a").input_ids == wanted


def test_sentencepiece_of_another_model(released, tmp_path):
    folder = released("albert")
    (folder / "vocab.txt").unlink()
    (folder / "30k-clean.model").write_bytes(b"not a model")
    assert str(folder / "30k-clean.model") in refusal(folder, tmp_path / "out")


@pytest.mark.parametrize("occupied", ["file in it", "a file"])
def test_output_dir_in_use(released, tmp_path, occupied):
    folder, output_dir = released(), tmp_path / "out"
    if occupied == "a file":
        output_dir.write_text("mine")
    else:
        output_dir.mkdir()
        (output_dir / "mine").touch()
    assert "in use" in refusal(folder, output_dir)
    assert output_dir.read_text() == "mine" if occupied == "a file" else [x.name for x in output_dir.iterdir()] == ["mine"]


def test_empty_output_dir(released, tmp_path, monkeypatch):
    folder = released()
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    load_encoder(convert_checkpoint(folder, "."))


def test_no_place_to_write(released, tmp_path):
    folder = released()
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(folder, tmp_path / "file" / "out")


def test_nothing_is_left_behind(released, tmp_path, monkeypatch):
    folder = released()
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(module.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert "No space left" in refusal(folder, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_without_tensorflow(tmp_path, monkeypatch):
    write_stub(tmp_path / "bert_model.ckpt", {})
    (tmp_path / "bert_config.json").write_text("{}")
    (tmp_path / "vocab.txt").touch()
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert refusal(tmp_path, tmp_path / "out").endswith("pip install tensorflow-cpu")


@TENSORFLOW
@pytest.mark.parametrize(
    "damage", ["half the data", "no data", "half the index", "empty index", "other bytes", "a web page"]
)
def test_damaged_checkpoint(released, tmp_path, damage):
    folder = released()
    index, data = (folder / f"bert_model.ckpt.{name}" for name in ("index", "data-00000-of-00001"))
    if damage == "half the data":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif damage == "no data":
        data.unlink()
    elif damage == "half the index":
        index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])
    elif damage == "empty index":
        index.write_bytes(b"")
    elif damage == "a web page":
        index.write_text("<!DOCTYPE html><html><body>Sign in</body></html>\n" * 20)
    else:
        data.write_bytes(bytes(1000) + data.read_bytes()[1000:])
    message = refusal(folder, tmp_path / "out")
    assert "bert_model.ckpt: damaged" in message
    assert not (tmp_path / "out").exists()


@BOTH
def test_converted_once(released, tmp_path, monkeypatch):
    folder, read = released(), []
    reader = module.read_variables
    monkeypatch.setattr(module, "read_variables", lambda prefix: read.append(prefix) or reader(prefix))
    directory = converted_directory(folder, tmp_path / "cache")
    assert directory.is_relative_to(tmp_path / "cache")
    load_encoder(directory), load_tokenizer(directory)
    monkeypatch.setenv("BERTORCH_CACHE", str(tmp_path / "cache"))
    assert converted_directory(f"{folder}/bert_model.ckpt") == directory
    assert len(read) == 1
    moved = folder.rename(tmp_path / "elsewhere")
    assert converted_directory(moved) == directory
    moved = moved.rename(tmp_path / "cased")
    others = {directory, converted_directory(moved)}
    (moved / "bert_config.json").write_text(json.dumps({**google_config("bert"), "initializer_range": 0.01}))
    others.add(converted_directory(moved))
    (moved / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    others.add(converted_directory(moved))
    assert len(others) == 4
    assert {path.name for path in (tmp_path / "cache" / "tensorflow").iterdir()} == {path.name for path in others}


def test_converted_by_two_processes_at_once(released, tmp_path, monkeypatch):
    """While the one reads the checkpoint, the other does all its work."""
    folder, reader, faster = released(), module.read_variables, []

    def slowly(prefix):
        if not faster:
            faster.append(None)
            faster[0] = converted_directory(folder, tmp_path / "cache")
        return reader(prefix)

    monkeypatch.setattr(module, "read_variables", slowly)
    directory = converted_directory(folder, tmp_path / "cache")
    assert [directory] == faster
    assert list((tmp_path / "cache" / "tensorflow").iterdir()) == [directory]
    load_encoder(directory)


@BOTH
def test_one_of_two_configs_is_named(released, tmp_path):
    folder = released()
    expected = converted_directory(folder, tmp_path / "cache")
    (folder / "other_config.json").write_bytes((folder / "bert_config.json").read_bytes())
    with pytest.raises(UserError, match=r"other_config\.json; name it with --config_file"):
        converted_directory(folder, tmp_path / "cache")
    assert converted_directory(folder, tmp_path / "cache", folder / "bert_config.json") == expected


@BOTH
def test_script(released, tmp_path, monkeypatch, capfd):
    folder = released()
    assert call("scripts/convert_tf_checkpoint.py", [str(folder), str(tmp_path / "out"), "--cased"], monkeypatch) == 0
    assert str(tmp_path / "out") in capfd.readouterr().err
    assert load_tokenizer(tmp_path / "out")("E").input_ids == [2, 8, 3]
    assert call("scripts/convert_tf_checkpoint.py", [str(folder), str(tmp_path / "out")], monkeypatch) == 2
    assert "in use" in complaint(capfd.readouterr().err)
