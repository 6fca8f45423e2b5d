"""What only a GPU can show: the CUDA backends agree with the CPU's, and the encoder with itself."""

import pytest
import torch

from bertorch.encoder import TokenBatch, load_encoder
from bertorch.encoder.attention import BACKENDS, attention, choose_backend
from bertorch.encoder.packed_attention import packed_fits
from bertorch.encoder.self_check import find_fault
from tests.closeness import assert_close

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")]

LENGTHS = [33, 7, 7, 1]
CUDA = torch.device("cuda", 0)


def batch(vocab_size: int = 100) -> TokenBatch:
    total = sum(LENGTHS)
    return TokenBatch.from_lengths(torch.randint(5, vocab_size, (total,)), torch.zeros(total, dtype=torch.long), LENGTHS)


@pytest.mark.parametrize("queries", ["all", "first tokens"])
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [
        ("padded", torch.float32, 1e-5), ("grouped", torch.float32, 1e-5), ("packed", torch.float32, 1e-4),
        ("packed", torch.float16, 5e-3), ("packed", torch.bfloat16, 2e-2),
    ],
)  # fmt: skip
def test_attention_agrees_with_the_cpu(backend, dtype, tolerance, queries):
    if backend == "packed" and not packed_fits(CUDA, dtype, 16):
        pytest.skip("this GPU has no kernel for that")
    tokens = batch()
    inputs = [torch.randn(sum(LENGTHS), 4, 16) for _ in range(4)]
    if queries == "first tokens":
        first = tokens.cu_seqlens[:-1].long()
        inputs = [inputs[0][first], *inputs[1:3], inputs[3][first]]
    results = []
    for device, chosen, kind in (("cpu", "grouped", torch.float32), ("cuda", backend, dtype)):
        query, key, value = (x.to(device, kind).requires_grad_() for x in inputs[:3])
        out = attention(query, key, value, tokens.to(torch.device(device)), backend=chosen)
        out.backward(inputs[3].to(device, kind))
        results.append([x.detach().float().cpu() for x in (out, query.grad, key.grad, value.grad)])
    for expected, found in zip(*results, strict=True):
        assert_close(found, expected, tolerance)


@pytest.mark.parametrize("head_size", [16, 20, 64, 128])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("backend", ["packed", "padded", "grouped"])
def test_backends_prove_right(backend, windowed, dtype, head_size):
    if backend == "packed" and not packed_fits(CUDA, dtype, head_size, windowed):
        pytest.skip("this GPU has no kernel for that")
    assert find_fault(BACKENDS[backend], CUDA, dtype, head_size, windowed) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_packed_computes_again_is_the_same_to_the_bit(dtype):
    """The gradients too, with dropout, where torch is asked for it."""
    if not packed_fits(CUDA, dtype, 64):
        pytest.skip("this GPU has no kernel for that")
    tokens = batch().to(CUDA)
    inputs = [torch.randn(sum(LENGTHS), 4, 64, device=CUDA, dtype=dtype, requires_grad=True) for _ in range(3)]
    grad_out, results = torch.randn_like(inputs[0]), []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(5):
            torch.manual_seed(0)
            out = attention(*inputs, tokens, 0.1, backend="packed")
            results.append([out.detach(), *torch.autograd.grad(out, inputs, grad_out)])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for result in results for one, other in zip(result, results[0], strict=True))


def test_the_fastest_backend_is_chosen():
    query = torch.empty(3, 4, 16, device=CUDA, dtype=torch.float16)
    assert choose_backend(query) == choose_backend(query.float()) == choose_backend(query[..., :13]) == "packed"
    assert choose_backend(query.double()) == choose_backend(query, beyond_packed=True) == "padded"


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("first_only", [False, True])
def test_encoder_agrees_with_the_cpu(tiny_model, precision, tolerance, first_only):
    encoder, _ = load_encoder(tiny_model("bert"))
    encoder.eval()
    tokens = batch(encoder.config.vocab_size)
    with torch.no_grad():
        expected = encoder(tokens, first_only=first_only)
        with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            found = encoder.to(CUDA)(tokens.to(CUDA), first_only=first_only)
    assert_close(found, expected, tolerance)
