"""ALBERTs that share only attention or only the feed-forward layers: transformers computes the same from what is saved."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from bertorch.encoder import Encoder, EncoderConfig, TokenBatch, load_config, load_encoder
from bertorch.encoder.weights import encoder_tensors
from bertorch.errors import UserError
from bertorch.training.tricks import freeze, has_own_layers
from tests.closeness import assert_close
from tests.scripts.launch import as_flags, call

SIZES = {
    "model_type": "albert", "vocab_size": 60, "hidden_size": 16, "embedding_size": 8, "num_hidden_layers": 3,
    "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 40, "num_hidden_groups": 3,
    "hidden_act": "gelu_new",
}  # fmt: skip
ATTENTION = ("attention.query", "attention.key", "attention.value", "attention.dense", "attention.LayerNorm")
FEED_FORWARD = ("ffn", "ffn_output", "full_layer_layer_norm")
PARTS = {"attention": (ATTENTION, FEED_FORWARD), "feed_forward": (FEED_FORWARD, ATTENTION)}


def encoder_of(sharing: str) -> Encoder:
    """Every weight drawn, norms and biases too."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig.from_dict({**SIZES, "sharing": sharing}))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return encoder.eval()


@pytest.mark.parametrize("sharing", PARTS)
def test_transformers_computes_the_same(sharing, tmp_path):
    encoder = encoder_of(sharing)
    tensors = encoder_tensors(encoder, prefix="")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(encoder.config.to_dict()))
    theirs, report = transformers.AlbertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["unexpected_keys"] and all("pooler" in name for name in report["missing_keys"])
    shared, own = PARTS[sharing]
    layers = [{name: x for name, x in tensors.items() if f"layer_groups.{number}." in name} for number in range(3)]
    for first, other in ((0, 1), (0, 2)):
        for name, tensor in layers[first].items():
            there = tensors[name.replace(f"layer_groups.{first}.", f"layer_groups.{other}.")]
            part = name.split("albert_layers.0.")[1].rsplit(".", 1)[0]
            assert torch.equal(tensor, there) == (part in shared) and part in (*shared, *own), name
    ids = torch.randint(5, 60, (1, 30), generator=torch.Generator().manual_seed(1))
    batch = TokenBatch.from_lengths(ids[0], torch.zeros(30, dtype=torch.long), [30])
    with torch.no_grad():
        assert_close(encoder(batch), theirs.eval()(ids).last_hidden_state[0])
    again, rest = load_encoder(tmp_path)
    assert not rest and torch.equal(again.eval()(batch), encoder(batch))


@pytest.mark.parametrize("sharing", PARTS)
def test_the_gradient_is_the_sum_over_layers(sharing):
    encoder = encoder_of(sharing).double()
    apart = Encoder(EncoderConfig.from_dict(SIZES)).double().eval()
    apart.load_state_dict({name: x.clone() for name, x in encoder.named_parameters(remove_duplicate=False)})
    batch = TokenBatch.from_lengths(torch.arange(5, 35), torch.zeros(30, dtype=torch.long), [20, 10])
    for model in (encoder, apart):
        model(batch).sin().sum().backward()
    every = dict(apart.named_parameters())
    sums: dict[int, torch.Tensor] = {}
    shared = dict(encoder.named_parameters(remove_duplicate=False))
    for name, parameter in shared.items():
        sums[id(parameter)] = sums.get(id(parameter), 0) + every[name].grad
    for name, parameter in encoder.named_parameters():
        assert_close(parameter.grad, sums[id(parameter)], 1e-12, of=max(1e-3, float(sums[id(parameter)].abs().max())))
        assert parameter.grad.abs().max() > 0 or name.endswith("key.bias"), name


@pytest.mark.parametrize("sharing", PARTS)
def test_weights_are_counted_once(sharing):
    encoder = encoder_of(sharing)
    assert encoder.config.num_parameters == sum(parameter.numel() for parameter in encoder.parameters())
    assert encoder.config._num_saved == sum(x.numel() for x in encoder_tensors(encoder).values())
    assert encoder.config.num_parameters < EncoderConfig.from_dict(SIZES).num_parameters
    assert not has_own_layers(encoder)
    with pytest.raises(UserError, match="share their weights"):
        freeze(encoder, False, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"sharing": "half"}, "sharing must be attention or feed_forward"), ({"sharing": ["attention"]}, "sharing must be"),
     ({"sharing": "attention", "num_hidden_groups": 1}, "num_hidden_groups must be num_hidden_layers")],
)  # fmt: skip
def test_refused(change, says):
    with pytest.raises(UserError, match=says):
        EncoderConfig.from_dict({**SIZES, **change})


def test_weights_that_are_not_shared(tmp_path):
    config = EncoderConfig.from_dict(SIZES)
    save_file(encoder_tensors(Encoder(config)), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "sharing": "attention"}))
    with pytest.raises(UserError, match="says sharing attention, but layers differ: .*query.weight"):
        load_encoder(tmp_path)


def test_from_scratch(tiny_model, tmp_path, monkeypatch):
    """Trained, saved, resumed bit for bit; what is shared stays so."""
    source, scratch = tiny_model("bert"), tmp_path / "scratch"
    scratch.mkdir()
    words = (source / "vocab.txt").read_text(encoding="utf-8")
    (scratch / "vocab.txt").write_text(words, encoding="utf-8")
    config = {**SIZES, "vocab_size": len(words.splitlines()), "sharing": "feed_forward"}
    (scratch / "config.json").write_text(json.dumps(config))
    text = tmp_path / "text.txt"
    text.write_text("房间干净。\n服务员不好。\n早餐便宜。\n\n酒店推荐。\n电影喜欢。\n" * 20, encoding="utf-8")
    flags = {
        "pretrained_model_name_or_path": scratch, "train_data_file": text, "objectives": "mlm,sop", "max_seq_length": 40,
        "device": "cpu", "seed": 1, "learning_rate": 1e-3, "save_steps": 2,
    }  # fmt: skip
    whole = as_flags(**flags, saved_dir=tmp_path / "whole", max_steps=4, scheduler="constant")
    assert call("run_pretraining.py", whole, monkeypatch) == 0
    for steps, more in ((2, {}), (4, {"resume": True})):
        part = as_flags(**flags, saved_dir=tmp_path / "parts", max_steps=steps, scheduler="constant", **more)
        assert call("run_pretraining.py", part, monkeypatch) == 0
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    first, last = (f"albert.encoder.albert_layer_groups.{n}.albert_layers.0" for n in (0, 2))
    assert torch.equal(found[f"{first}.ffn.weight"], found[f"{last}.ffn.weight"])
    assert not torch.equal(found[f"{first}.attention.query.weight"], found[f"{last}.attention.query.weight"])
    assert load_config(tmp_path / "whole").sharing == "feed_forward"
