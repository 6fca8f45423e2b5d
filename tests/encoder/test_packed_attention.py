"""The packed operators accept what the encoder gives them: shapes and types, on tensors without values."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import bertorch.encoder.attention as choice
import bertorch.encoder.packed_attention as module
from bertorch.encoder import EncoderConfig, TokenBatch
from bertorch.encoder.attention import attention, leave_uncompiled
from bertorch.encoder.layers import Block
from bertorch.encoder.packed_attention import packed_fits
from tests.encoder.packed_worker import CASES, LENGTHS
from tests.pretended_cuda import LIBRARY, ROOT, compiled
from tests.processes import finished

CUDA = torch.device("cuda", 0)


@pytest.fixture(params=[(7, 5), (9, 0)], ids=["Turing", "Hopper"])
def capability(request, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: request.param)
    return request.param


class _Called(TorchDispatchMode):
    """The names of the operators that were called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))

    def of_attention(self):
        return [name for name in self.names if "attention" in name]


def batch(device: torch.device) -> TokenBatch:
    zeros = torch.zeros(sum(LENGTHS), dtype=torch.long)
    return TokenBatch.from_lengths(zeros, zeros, LENGTHS).to(device)


def test_what_fits(capability):
    ampere = capability >= (8, 0)
    for dtype, fits in ((torch.float32, True), (torch.float16, True), (torch.bfloat16, ampere), (torch.float64, False)):
        assert packed_fits(CUDA, dtype, 64) is fits
        assert packed_fits(CUDA, dtype, 64, windowed=True) is (ampere and dtype in (torch.float16, torch.bfloat16))
    assert packed_fits(CUDA, torch.float32, 256) and not packed_fits(CUDA, torch.float32, 257)
    assert not packed_fits(torch.device("cpu"), torch.float32, 64)
    assert not packed_fits(torch.device("xpu", 0), torch.float32, 64)


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("head_size", [20, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_operator_for_the_gpu_is_called_and_differentiated(capability, dtype, head_size, first_only):
    if not packed_fits(CUDA, dtype, head_size):
        pytest.skip("has no kernel")
    kind = "flash" if capability >= (8, 0) and dtype != torch.float32 else "efficient"
    meta = torch.device("meta")
    shapes = [(len(LENGTHS) if first_only else sum(LENGTHS), 4, head_size), *[(sum(LENGTHS), 4, head_size)] * 2]
    leaves = [torch.empty(shape, device=meta, dtype=dtype, requires_grad=True) for shape in shapes]
    tokens = batch(meta)
    for dropout in (0.0, 0.1):
        with torch.no_grad(), _Called() as called:
            assert attention(*leaves, tokens, dropout, backend="packed").shape == leaves[0].shape
        assert called.of_attention() == [f"_{kind}_attention_forward"]
        with _Called() as called:
            out = attention(*leaves, tokens, dropout, backend="packed")
            grads = torch.autograd.grad(out, leaves, torch.empty_like(out))
        assert called.of_attention() == [f"_{kind}_attention_forward", f"_{kind}_attention_backward"]
        assert out.dtype == dtype and out.shape == leaves[0].shape
        assert [(grad.shape, grad.dtype) for grad in grads] == [(leaf.shape, dtype) for leaf in leaves]


@pytest.mark.parametrize("head_size", [20, 64])
@pytest.mark.parametrize("flash", [False, True])
def test_the_scale_is_that_of_the_heads_own_size(monkeypatch, flash, head_size):
    """Stand-ins compute what the operators are documented to compute, with padded heads as with others."""

    def by_formula(query, key, value, starts, key_starts, *others, scale):
        assert query.shape[-1] % 8 == 0
        rows = []
        for number in range(len(starts) - 1):
            own = slice(int(starts[number]), int(starts[number + 1]))
            keys = slice(int(key_starts[number]), int(key_starts[number + 1]))
            probs = torch.softmax(torch.einsum("qhd,khd->hqk", query[own], key[keys]) * scale, dim=-1)
            rows.append(torch.einsum("hqk,khd->qhd", probs, value[keys]))
        return torch.cat(rows)

    def flash_forward(query, key, value, starts, key_starts, longest, longest_keys, dropout, *, scale, **options):
        return (by_formula(query, key, value, starts, key_starts, scale=scale),)

    def efficient_forward(query, key, value, bias, starts, key_starts, longest, longest_keys, dropout, **options):
        scale = query.shape[-1] ** -0.5
        return (by_formula(query[0], key[0], value[0], starts, key_starts, scale=scale)[None],)

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", flash_forward)
    monkeypatch.setattr(torch.ops.aten, "_efficient_attention_forward", efficient_forward)
    monkeypatch.setattr(module, "_has_flash", lambda device: flash)
    monkeypatch.setattr(module, "_SIXTEEN_BITS", (torch.float64,))
    tokens = batch(torch.device("cpu"))
    query, key, value = (torch.randn(sum(LENGTHS), 4, head_size, dtype=torch.float64) for _ in range(3))
    for queries in (query, query[tokens.cu_seqlens[:-1].long()]):
        expected = attention(queries, key, value, tokens, backend="grouped")
        torch.testing.assert_close(attention(queries, key, value, tokens, backend="packed"), expected)


@pytest.mark.slow
def test_one_compiled_block_serves_all_numbers_of_tokens(monkeypatch):
    """The choice of the backend is a constant in it, and the self-check runs once, outside of it."""
    import torch._dynamo.testing

    checks = []
    monkeypatch.setitem(choice.BACKENDS, "grouped", choice.BACKENDS["grouped"])  # put back what compiling replaces
    monkeypatch.setattr(choice, "packed_fits", lambda *given: True)
    monkeypatch.setattr(choice, "find_fault", lambda *given: checks.append(given))
    choice._proved.cache_clear()
    config = EncoderConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    block = Block(config).to("meta")
    graphs = torch._dynamo.testing.CompileCounter()
    leave_uncompiled()
    compiled = torch.compile(block.forward, backend=graphs, dynamic=True, fullgraph=True)
    for lengths in ([5, 3, 1], [6, 2, 2], [9, 9, 1, 3], [4, 4]):
        zeros = torch.zeros(sum(lengths), dtype=torch.long)
        tokens = TokenBatch.from_lengths(zeros, zeros, lengths).to(torch.device("meta"))
        x = torch.empty(sum(lengths), 16, device="meta", requires_grad=True)
        compiled(x, tokens).sum().backward()
    choice._proved.cache_clear()
    assert (graphs.frame_count, len(checks)) == (1, 1)


@pytest.fixture(scope="module")
def on_pretended_gpus(tmp_path_factory):
    """What ``packed_worker`` says of each of its cases, and whether it computed gradients, which takes a C++ compiler."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        environment[LIBRARY] = str(compiled(tmp_path_factory.mktemp("library")))
    except (OSError, subprocess.CalledProcessError):
        environment.pop(LIBRARY, None)
    done = finished([sys.executable, "-m", "tests.encoder.packed_worker"], env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True)), LIBRARY in environment


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA: test_cuda.py")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_packed_runs_on_pretended_gpus(on_pretended_gpus, case):
    results, with_gradients = on_pretended_gpus
    found, (capability, dtype, head_size, first_only, training) = results[case], case
    if capability < (8, 0) and dtype == "bfloat16":
        assert found["error"] == "padded is chosen"
        return
    assert found["error"] is None and found["findings"] == []
    flash = capability >= (8, 0) and dtype != "float32"
    kind, directions = (
        "flash" if flash else "efficient",
        ["forward", "backward"] if training and with_gradients else ["forward"],
    )
    assert found["operators"] == [f"_{kind}_attention_{direction}" for direction in directions]
    rows = [len(LENGTHS) if first_only else sum(LENGTHS), sum(LENGTHS), sum(LENGTHS)]
    shapes = [[[n, 4, head_size], dtype, "cuda:0"] for n in rows]
    assert found["out"] == shapes[0]
    assert found["gradients"] == (shapes if len(directions) == 2 else [])
