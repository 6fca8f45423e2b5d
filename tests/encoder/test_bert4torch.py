"""State dicts under bert4torch's names load as they would under Hugging Face's."""

import re

import pytest
import torch
from safetensors.torch import load_file

from bertorch.encoder import load_config
from bertorch.encoder.weights import read_model, read_weights
from bertorch.heads.loading import load_head
from bertorch.tasks.classification.head import load_classifier
from bertorch.tasks.pretraining.head import LanguageModel
from tests.scripts.launch import DATA, as_flags, call

# What ``variable_mapping`` of its models says, read backwards, in this order.
TO_BERT4TORCH = [
    (r"^(bert|ernie|roformer|albert|electra)\.", ""),
    (r"token_type_embeddings", "segment_embeddings"),
    (r"embeddings\.LayerNorm", "embeddings.layerNorm"),
    (r"^(encoder\.embedding_hidden_mapping_in|embeddings_project)", "embeddings.embedding_hidden_mapping_in"),
    (r"^encoder\.(?:layer|albert_layer_groups)\.(\d+)\.(?:albert_layers\.0\.)?", r"encoderLayer.\1."),
    (r"attention\.(?:self\.)?(q|k|v)(?:uery|ey|alue)\.", r"multiHeadAttention.\1."),
    (r"attention\.(?:output\.)?dense\.", "multiHeadAttention.o."),
    (r"attention\.(?:output\.)?LayerNorm", "attnLayerNorm"),
    (r"(encoderLayer\.\d+\.)(?:intermediate\.dense|ffn)\.", r"\1feedForward.intermediateDense."),
    (r"(encoderLayer\.\d+\.)(?:output\.dense|ffn_output)\.", r"\1feedForward.outputDense."),
    (r"(encoderLayer\.\d+\.)(?:output\.LayerNorm|full_layer_layer_norm)", r"\1ffnLayerNorm"),
    (r"^pooler\.dense", "pooler"),
    (r"^(cls\.seq_relationship|sop_classifier\.classifier)", "nsp"),
    (r"^(cls\.predictions\.transform\.dense|predictions\.dense)", "mlmDense"),
    (r"^(cls\.predictions\.transform\.LayerNorm|predictions\.LayerNorm)", "mlmLayerNorm"),
    (r"^(cls\.)?predictions\.bias", "mlmBias"),
    (r"^(cls\.)?predictions\.decoder", "mlmDecoder"),
]
MODELS = {
    "bert": "ForPreTraining", "ernie": "ForPreTraining", "albert": "ForPreTraining", "roformer": "ForMaskedLM",
    "electra": "Model",
}  # fmt: skip


def bert4torch_name(name: str) -> str:
    for pattern, replacement in TO_BERT4TORCH:
        name = re.sub(pattern, replacement, name)
    return name


def saved(directory, path, prefix: str = "", older: bool = False):
    """The weights of ``directory`` as bert4torch saves them, beside a layer of the user's own."""
    tensors = load_file(directory / "model.safetensors")
    computed = ("embed_positions.weight", "task_type_embeddings.weight", "position_ids")
    named = {prefix + bert4torch_name(name): x for name, x in tensors.items() if not name.endswith(computed)}
    if f"{prefix}mlmBias" in named:
        named |= {f"{prefix}mlmDecoder.bias": named[f"{prefix}mlmBias"]}
    if older:
        named = {
            name.replace("attnLayerNorm", "layerNorm1").replace("ffnLayerNorm", "layerNorm2"): x for name, x in named.items()
        }
    torch.save({**named, "dense.weight": torch.ones(2, 32)}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "bert.", "module.bert."])
@pytest.mark.parametrize("family", MODELS)
def test_names(family, prefix, tiny_model, tmp_path):
    own = {"use_task_id": False} if family == "ernie" else {}
    directory = tiny_model(family, MODELS[family], **own)
    path = saved(directory, tmp_path / "model.bin", prefix)
    assert f"{prefix}encoderLayer.0.feedForward.intermediateDense.weight" in read_weights(path)
    found, expected = read_model(path, load_config(directory)), load_file(directory / "model.safetensors")
    wrapper = "module." if prefix.startswith("module.") else ""
    base = load_config(directory).family.base_prefix
    for name, tensor in expected.items():
        if not name.endswith(("embed_positions.weight", "position_ids", "decoder.bias")):
            head = name.startswith(("cls.", "predictions.", "sop_classifier."))
            here = wrapper + name if head else prefix + name.removeprefix(base)
            assert torch.equal(found.pop(here), tensor), name
    assert set(found) == {"dense.weight"}


@pytest.mark.parametrize("older", [False, True], ids=["now", "first versions"])
def test_a_head_starts_from_it(older, tiny_model, tmp_path, messages):
    directory = tiny_model("bert", "ForPreTraining")
    path = saved(directory, tmp_path / "model.bin", "bert.", older)
    model = load_head(directory, LanguageModel, path)
    expected = load_head(directory, LanguageModel, directory)
    for (name, mine), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, other), name
    classifier = load_classifier(directory, 2, "linear", path)
    assert torch.equal(
        classifier.encoder.pooler.dense.weight, load_file(directory / "model.safetensors")["bert.pooler.dense.weight"]
    )
    assert any("unused weights" in line and "dense" in line for line in messages)


def test_a_script_starts_from_it(tiny_model, tmp_path, monkeypatch):
    directory = tiny_model("bert")
    path = saved(directory, tmp_path / "model.bin", "bert.")
    (tmp_path / "model").mkdir()
    for name in ("config.json", "vocab.txt"):
        (tmp_path / "model" / name).write_bytes((directory / name).read_bytes())
    flags = as_flags(
        pretrained_model_name_or_path=tmp_path / "model", init_from_ckpt=path, saved_dir=tmp_path / "saved",
        train_data_file=DATA / "reviews" / "train.tsv", max_steps=1, learning_rate=0, max_seq_length=64, device="cpu",
    )  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 0
    tensors, source = (load_file(place / "model.safetensors") for place in (tmp_path / "saved", directory))
    assert all(torch.equal(tensors[f"bert.{name}"], x) for name, x in source.items())
