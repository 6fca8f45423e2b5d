"""``--compile``: what is compiled once serves all layers and all batches, and computes the same."""

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from bertorch.encoder import Encoder, TokenBatch, load_encoder, to_padded
from bertorch.encoder import attention as attention_module
from bertorch.encoder.tokens import padded_places
from bertorch.training.run import Run
from tests.closeness import assert_close
from tests.scripts.launch import DATA, call, training_flags

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    """Trace as always, but run the graphs without a C++ compiler, which takes longer; count from zero."""
    monkeypatch.setattr(attention_module, "BACKENDS", dict(attention_module.BACKENDS))
    compile = Encoder.compile
    monkeypatch.setattr(Encoder, "compile", lambda encoder, **options: compile(encoder, backend="aot_eager", **options))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def batches(encoder, count, seed=0):
    """Of two sequences and more, of all lengths."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        lengths = sorted(rng.integers(2, 40, rng.integers(2, 12)).tolist(), reverse=True)
        ids = torch.from_numpy(rng.integers(5, encoder.config.vocab_size, sum(lengths)))
        yield TokenBatch.from_lengths(ids, torch.zeros_like(ids), lengths)


def traced(query, key, value, batch, dropout_p, *_):
    """Attention that is compiled with its block, as the packed backend is, from what that one takes of a batch."""
    padded, mask = to_padded(torch.stack([query, key, value], dim=1), batch)
    q, k, v = padded.permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None], dropout_p=dropout_p)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, padded_places(batch))


@pytest.mark.parametrize("backend", ["padded", "packed"])
def test_one_block_is_compiled_for_all_layers_and_batches(tiny_model, monkeypatch, backend):
    """With the backends of other devices."""
    monkeypatch.setattr(attention_module, "choose_backend", lambda *_: backend)
    monkeypatch.setitem(attention_module.BACKENDS, "packed", traced)
    needed = []
    for layers in (2, 4):
        torch._dynamo.reset()
        counters.clear()
        encoder, _ = load_encoder(tiny_model("bert", num_hidden_layers=layers))
        encoder.train()
        encoder.compile(dynamic=True)
        seen = []
        for batch in batches(encoder, 8):
            encoder(batch).sum().backward()
            seen.append(graphs())
        assert seen == [seen[0]] * len(seen)
        needed.append(seen[0])
    assert needed[0] == needed[1] > 0
    if backend == "packed":  # all of a block is one graph, in which bias, GELU, dropout, residual and norm can be fused
        assert needed == [1, 1]


@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_compiled_blocks_compute_the_same(tiny_model, family):
    """Forward and backward without dropout; with only the first tokens of the last layer, too."""
    encoder, _ = load_encoder(tiny_model(family))
    encoder.set_dropout(0.0)
    encoder.train()
    given, results = list(batches(encoder, 2)), []
    for compiled in (False, True):
        if compiled:
            encoder.compile(dynamic=True)
        found = []
        for batch in given:
            for first_only in (False, True):
                encoder.zero_grad()
                out = encoder(batch, first_only=first_only)
                out.cumsum(1).square().mean().backward()  # a norm would make simpler sums constant
                gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
                found += [out.detach(), torch.cat([gradient.flatten() for gradient in gradients])]
        results.append(found)
    assert graphs() > 0
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected, 1e-4)


def test_nothing_is_compiled_anew_over_an_epoch_of_real_batches(small_model, tmp_path, monkeypatch):
    """With evaluations: the first one compiles for itself, and then no batch of the epoch is a reason to."""
    seen, step, record = [], Run.step, Run.record
    monkeypatch.setattr(Run, "step", lambda run: (step(run), seen.append(("step", graphs()))))
    monkeypatch.setattr(Run, "record", lambda run, found: (record(run, found), seen.append(("evaluation", graphs()))))
    flags = training_flags(
        small_model, tmp_path / "out", compile=True, max_steps=None, epochs=1, batch_size=16, eval_steps=10, device="cpu"
    )
    assert call("run_classifier.py", flags, monkeypatch) == 0
    steps = [count for kind, count in seen if kind == "step"]
    assert len(steps) == 30 and steps[0] > 0
    assert steps[:10] == [steps[0]] * 10
    assert [count for _, count in seen[11:]] == [seen[11][1]] * (len(seen) - 11)


@pytest.fixture
def small_model(tmp_path):
    """The sample encoder, two layers of it, with dropout and without weights."""
    directory = tmp_path / "encoder"
    shutil.copytree(DATA / "tiny-encoder", directory)
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    (directory / "config.json").write_text(json.dumps(config))
    return directory
