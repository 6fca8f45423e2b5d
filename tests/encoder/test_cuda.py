"""What only a GPU can show: the CUDA backends agree with the CPU's, and the encoder with itself."""

import pytest
import torch

from bertorch.encoder import TokenBatch, load_encoder
from bertorch.encoder.attention import attention, choose_backend, varlen_kernel
from tests.closeness import assert_close

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")]

LENGTHS = [33, 7, 7, 1]


def batch(vocab_size: int = 100) -> TokenBatch:
    total = sum(LENGTHS)
    return TokenBatch.from_lengths(torch.randint(5, vocab_size, (total,)), torch.zeros(total, dtype=torch.long), LENGTHS)


@pytest.mark.parametrize("queries", ["all", "first tokens"])
@pytest.mark.parametrize(
    ("backend", "dtype", "tolerance"),
    [("padded", torch.float32, 1e-5), ("grouped", torch.float32, 1e-5), ("varlen", torch.bfloat16, 2e-2)],
)
def test_attention_agrees_with_the_cpu(backend, dtype, tolerance, queries):
    if backend == "varlen" and varlen_kernel() is None:
        pytest.skip("this torch has no varlen attention")
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


def test_the_backend_that_follows_bert_is_chosen():
    query = torch.empty(3, 4, 16, device="cuda", dtype=torch.bfloat16)
    assert choose_backend(query, 0.1) == "padded"
    assert choose_backend(query.float(), 0.0) == "padded"
    assert choose_backend(query[..., :13], 0.0) == "padded"
    assert choose_backend(query, 0.0) == ("padded" if varlen_kernel() is None else "varlen")


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("first_only", [False, True])
def test_encoder_agrees_with_the_cpu(tiny_model, precision, tolerance, first_only):
    encoder, _ = load_encoder(tiny_model("bert"))
    encoder.eval()
    tokens = batch(encoder.config.vocab_size)
    with torch.no_grad():
        expected = encoder(tokens, first_only=first_only)
        cuda = torch.device("cuda")
        with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            found = encoder.to(cuda)(tokens.to(cuda), first_only=first_only)
    assert_close(found, expected, tolerance)
