"""Attention over packed sequences: one function with three backends that agree, and the choice among them.

``grouped``  matrix products over groups of sequences of similar length; the fastest on CPU (``grouped_attention.py``).
``packed``   flash and memory-efficient attention over the packed tokens, on CUDA (``packed_attention.py``). Used after it
             has proved right on the GPU at hand (``self_check.py``).
``padded``   scaled_dot_product_attention over a padded rectangle (``padded_attention.py``): the plain reference, used on
             CUDA where ``packed`` cannot compute what a family does (a bias, tables, some windows).

All compute softmax(q k^T / sqrt(head_dim) + bias) v, with the bias if a family has one, over the keys in the window if a
layer has one, with the tables by distance if a family has those (``relative.py``), and with dropout on the probabilities
(Vaswani et al. 2017, section 3.2.1; the dropout is BERT's ``attention_probs_dropout_prob``).
"""

import functools

import torch
from loguru import logger
from torch import Tensor

from bertorch.encoder.grouped_attention import grouped_attention
from bertorch.encoder.packed_attention import packed_attention, packed_fits
from bertorch.encoder.padded_attention import padded_attention
from bertorch.encoder.relative import Relative
from bertorch.encoder.self_check import Backend, find_fault
from bertorch.encoder.tokens import TokenBatch


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: TokenBatch,
    dropout_p: float = 0.0,
    backend: str | None = None,
    bias: Tensor | None = None,
    window: int | None = None,
    relative: Relative | None = None,
) -> Tensor:
    """Self-attention within each sequence of ``batch``.

    Args:
        query: ``[total_tokens, num_heads, head_dim]``; or only the first token of each sequence,
            ``[batch_size, num_heads, head_dim]``.
        key, value: ``[total_tokens, num_heads, head_dim]``.
        batch: gives the sequence boundaries.
        dropout_p: share of the attention probabilities that is set to zero; 0 outside training.
        backend: a key of ``BACKENDS``; None: ``choose_backend`` decides.
        bias: added to the scores, by the distance of key and query, ``[num_heads, 2 * max_seqlen - 1]``: column
            ``key - query + max_seqlen - 1``. None: no bias. ``packed`` supports none.
        window: how far from a query the keys may be that it sees, on either side; None: it sees its whole sequence.
            ``packed`` supports none for first tokens alone, and none with memory-efficient attention.
        relative: tables by distance: a score is ``(q k + q keys + k queries) / sqrt(head_dim) + bias``, and values are
            ``v + values``. None: no tables. ``packed`` supports none.

    Returns:
        As many rows as ``query``.
    """
    beyond_packed = bias is not None or relative is not None or (window is not None and len(query) != len(key))
    chosen = backend or choose_backend(query, window is not None, beyond_packed)
    return BACKENDS[chosen](query, key, value, batch, dropout_p, bias, window, relative)


def choose_backend(query: Tensor, windowed: bool = False, beyond_packed: bool = False) -> str:
    """The fastest backend that computes what BERT computes for this tensor."""
    if query.device.type == "cpu":
        return "grouped"
    return "padded" if beyond_packed else _packed_or_padded(query.device, query.dtype, query.shape[-1], windowed)


def _packed_or_padded(device: torch.device, dtype: torch.dtype, head_size: int, windowed: bool) -> str:
    return _proved(device, dtype, head_size, windowed)  # a function of its own for ``leave_uncompiled``


@functools.cache
def _proved(device: torch.device, dtype: torch.dtype, head_size: int, windowed: bool) -> str:
    """``packed`` where it is right, else ``padded``, with a warning if ``packed`` should have been right."""
    if not packed_fits(device, dtype, head_size, windowed):
        return "padded"
    fault = find_fault(BACKENDS["packed"], device, dtype, head_size, windowed)
    if fault is None:
        return "packed"
    kind = f"{str(dtype).removeprefix('torch.')}, heads of {head_size}" + " and windows" * windowed
    logger.warning(
        f"torch's attention over packed tokens is wrong on {device} for {kind} ({fault}); "
        "attention is padded instead, which is slower"
    )
    return "padded"


BACKENDS: dict[str, Backend] = {
    "grouped": grouped_attention,
    "packed": packed_attention,
    "padded": padded_attention,
}


def leave_uncompiled() -> None:
    """Keep ``torch.compile`` off the grouped backend, which loops over lengths that change with each batch, off the padded
    one, which computes other things for the first layer and for full batches, and off the self-check: its answer is a
    constant.

    Called when a model is compiled instead of used as decorators: ``torch.compiler`` loads torch's compiler, a second of
    start-up.
    """
    for name, backend in (("grouped", grouped_attention), ("padded", padded_attention)):
        BACKENDS[name] = torch.compiler.disable(backend)
    torch.compiler.assume_constant_result(_packed_or_padded)
