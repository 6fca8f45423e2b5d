"""Every form that weights come in loads to the same encoder; what does not fit is named; no file runs code."""

import json
import pickle
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from bertorch.encoder import Encoder, load_config, load_encoder
from bertorch.encoder.weights import encoder_tensors, read_weights, report_unused
from bertorch.errors import UserError
from tests.conftest import WITHOUT_POOLER
from tests.damage import Malice


@pytest.fixture
def bert(tiny_model, tmp_path) -> Path:
    """A copy of the tiny BERT that a test may change."""
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "bert"))


def tensors_of(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


def save_shards(directory: Path, suffix: str, save) -> None:
    """Two shards and their index, in place of ``model.safetensors``."""
    tensors = tensors_of(directory)
    names = sorted(tensors)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05}-of-00002.{suffix}"
        save({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()


def as_bin(directory: Path, tensors: dict, **options) -> None:
    torch.save(tensors, directory / "pytorch_model.bin", **options)
    (directory / "model.safetensors").unlink()


FORMS = {
    "sharded safetensors": lambda directory: save_shards(directory, "safetensors", save_file),
    "bin": lambda directory: as_bin(directory, tensors_of(directory)),
    "bin of torch before 1.6": lambda directory: as_bin(
        directory, tensors_of(directory), _use_new_zipfile_serialization=False
    ),
    "bin with a state_dict inside": lambda directory: as_bin(directory, {"state_dict": tensors_of(directory)}),
    "sharded bin": lambda directory: save_shards(directory, "bin", torch.save),
}


def assert_equal(encoder: Encoder, expected: Encoder) -> None:
    theirs = dict(expected.named_parameters())
    assert dict(encoder.named_parameters()).keys() == theirs.keys()
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, theirs[name]), name


@pytest.mark.parametrize("form", FORMS)
def test_forms(bert, tiny_model, form):
    FORMS[form](bert)
    encoder, rest = load_encoder(bert, with_pooler=True)
    assert rest == {}
    assert_equal(encoder, load_encoder(tiny_model("bert"), with_pooler=True)[0])


def test_every_weight_goes_to_transformers(family, tiny_model, tmp_path):
    """Both ways through the name table: nothing missing, nothing unexpected, all values as they were."""
    directory = tiny_model(family)
    encoder, rest = load_encoder(directory, with_pooler=family not in WITHOUT_POOLER)
    assert rest == {}
    saved = encoder_tensors(encoder, prefix="")
    original = tensors_of(directory)
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], original[name]) for name in saved)
    shutil.copy(directory / "config.json", tmp_path)
    for prefix in ("", None):  # as a base model, and under the family's name as a model with a head has it
        save_file({name: tensor.clone() for name, tensor in encoder_tensors(encoder, prefix).items()},
                  tmp_path / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
        model, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(report.values()), report
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, original[name]), name


@pytest.mark.parametrize("prefix", ["", "bert.", "module.bert.", "encoder.", "module."])
def test_prefixes(bert, tiny_model, prefix):
    tensors = {prefix + name: tensor for name, tensor in tensors_of(bert).items()}
    save_file({**tensors, "classifier.weight": torch.zeros(2, 32)}, bert / "model.safetensors")
    encoder, rest = load_encoder(bert, with_pooler=True)
    assert list(rest) == ["classifier.weight"]
    assert_equal(encoder, load_encoder(tiny_model("bert"), with_pooler=True)[0])


def test_gamma_and_beta_are_renamed_under_layer_norm_only(bert, tiny_model):
    renamed = {}
    for name, tensor in tensors_of(bert).items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[f"bert.{old}"] = tensor
    assert sum("gamma" in name for name in renamed) == 7
    save_file({**renamed, "head.gamma": torch.zeros(1), "head.beta": torch.zeros(1)}, bert / "model.safetensors")
    encoder, rest = load_encoder(bert, with_pooler=True)
    assert sorted(rest) == ["head.beta", "head.gamma"]
    assert_equal(encoder, load_encoder(tiny_model("bert"), with_pooler=True)[0])


def test_half_precision_becomes_fp32(bert):
    save_file({name: tensor.half() for name, tensor in tensors_of(bert).items()}, bert / "model.safetensors")
    encoder, _ = load_encoder(bert)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_safetensors_come_first(bert, tiny_model):
    torch.save({name: tensor + 1 for name, tensor in tensors_of(bert).items()}, bert / "pytorch_model.bin")
    assert_equal(load_encoder(bert)[0], load_encoder(tiny_model("bert"))[0])


def test_missing_weight_is_named(bert):
    tensors = tensors_of(bert)
    gone = ["encoder.layer.1.attention.self.key.bias", "embeddings.LayerNorm.weight"]
    save_file({name: tensor for name, tensor in tensors.items() if name not in gone}, bert / "model.safetensors")
    with pytest.raises(UserError, match="2 weights") as caught:
        load_encoder(bert)
    assert all(name in str(caught.value) for name in gone)
    assert str(bert) in str(caught.value)


def test_half_a_pooler_is_an_error(bert):
    tensors = tensors_of(bert)
    del tensors["pooler.dense.bias"]
    save_file(tensors, bert / "model.safetensors")
    with pytest.raises(UserError, match="pooler.dense.bias"):
        load_encoder(bert, with_pooler=True)
    load_encoder(bert, with_pooler=False)


def test_wrong_shape_is_named(bert):
    tensors = tensors_of(bert)
    name = "encoder.layer.0.intermediate.dense.weight"
    save_file({**tensors, name: tensors[name][:-1].clone()}, bert / "model.safetensors")
    with pytest.raises(UserError) as caught:
        load_encoder(bert)
    assert f"{name} is [47, 32], expected [48, 32]" in str(caught.value)


def test_no_encoder_in_it(bert):
    save_file({"conv.weight": torch.zeros(3)}, bert / "model.safetensors")
    with pytest.raises(UserError, match="no encoder"):
        load_encoder(bert)


def test_missing_pooler_is_tolerated_and_said(bert, messages):
    tensors = tensors_of(bert)
    save_file({name: tensor for name, tensor in tensors.items() if "pooler" not in name}, bert / "model.safetensors")
    encoder, _ = load_encoder(bert, with_pooler=True)
    assert any("no pooler" in line and str(bert) in line for line in messages)
    assert 0.01 < encoder.pooler.dense.weight.std() < 0.03 and not encoder.pooler.dense.bias.any()
    messages.clear()
    load_encoder(bert, with_pooler=False)
    assert messages == []


def test_no_weights_trains_from_scratch_and_says_so(bert, messages):
    (bert / "model.safetensors").unlink()
    torch.manual_seed(0)
    encoder, rest = load_encoder(bert)
    assert rest == {}
    assert any("from scratch" in line and str(bert) in line for line in messages)
    config = load_config(bert)
    assert abs(encoder.embeddings.word.weight.std().item() / config.initializer_range - 1) < 0.05
    assert all((block.query.bias == 0).all() and (block.output_norm.weight == 1).all() for block in encoder.blocks)
    with pytest.raises(UserError, match="no weights"):
        read_weights(bert)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["plain pickle", "torch zip", "torch legacy"])
def test_a_pickle_runs_no_code(bert, tmp_path, form):
    trace, file = tmp_path / "trace", bert / "pytorch_model.bin"
    payload = {**tensors_of(bert), "malice": Malice(trace)}
    if form == "plain pickle":
        file.write_bytes(pickle.dumps({"malice": Malice(trace)}))
    else:
        torch.save(payload, file, _use_new_zipfile_serialization=form == "torch zip")
    (bert / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        load_encoder(bert)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not trace.exists()
    torch.load(file, weights_only=False) if form != "plain pickle" else pickle.loads(file.read_bytes())
    assert trace.exists()  # the file was armed


@pytest.mark.parametrize(
    "content", [{"weights": [1, 2]}, [torch.zeros(2)], {"state_dict": 3}, torch.zeros(2), {1: torch.zeros(2)}], ids=str
)
def test_bin_that_holds_no_state_dict(bert, content):
    as_bin(bert, content)
    with pytest.raises(UserError, match="named tensors"):
        load_encoder(bert)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_file(bert, name, share):
    if name == "pytorch_model.bin":
        as_bin(bert, tensors_of(bert))
    whole = (bert / name).read_bytes()
    (bert / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError) as caught:
        load_encoder(bert)
    assert str(bert / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_flipped_bytes_never_raise_anything_else(bert, zipped):
    as_bin(bert, {"embeddings.word_embeddings.weight": torch.ones(2, 3)}, _use_new_zipfile_serialization=zipped)
    file = bert / "pytorch_model.bin"
    whole = file.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            read_weights(file)
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_web_page_in_place_of_weights(bert, name):
    (bert / "model.safetensors").unlink()
    (bert / name).write_text("<!DOCTYPE html><html><body>Sign in</body></html>\n" * 20)
    with pytest.raises(UserError, match=name):
        load_encoder(bert)


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/outside.safetensors", "sub/outside.safetensors", ".."])
def test_index_points_outside(bert, shard):
    save_file(tensors_of(bert), bert.parent / "outside.safetensors")
    (bert / "model.safetensors").unlink()
    index = {"weight_map": {"embeddings.word_embeddings.weight": shard}}
    (bert / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="index.json"):
        load_encoder(bert)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": null}'])
def test_broken_index(bert, text):
    (bert / "model.safetensors").unlink()
    (bert / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="index.json"):
        load_encoder(bert)


def test_missing_shard_is_named(bert):
    save_shards(bert, "safetensors", save_file)
    (bert / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00002.safetensors is missing"):
        load_encoder(bert)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="nowhere.bin"):
        read_weights(tmp_path / "nowhere.bin")


def test_unused_weights_are_reported_in_one_line(messages):
    rest = {f"cls.{index}.{kind}": torch.zeros(1) for index in range(6) for kind in ("weight", "bias")}
    report_unused({**rest, "embeddings.position_ids": torch.zeros(1)}, "here")
    assert len(messages) == 1
    assert "here" in messages[0] and "cls.0" in messages[0] and "2 more" in messages[0]
    messages.clear()
    report_unused({"bert.embeddings.position_ids": torch.zeros(1)}, "here")
    assert messages == []


def test_a_bin_that_is_not_there_is_the_safetensors_beside_it(bert, messages):
    """Commands for the original bertorch name ``pytorch_model.bin``; a run saves the other."""
    named = bert / "pytorch_model.bin"
    assert not named.exists()
    expected = load_file(bert / "model.safetensors")
    found = read_weights(named)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert messages == [f"{named}: not found; reading {bert / 'model.safetensors'} instead"]
    (bert / "model.safetensors").rename(bert / "other.safetensors")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: no such file"):
        read_weights(named)
