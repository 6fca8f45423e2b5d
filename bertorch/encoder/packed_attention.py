"""Attention over packed tokens on a GPU, with dropout: two operators of torch itself, those that
scaled_dot_product_attention uses for a rectangle.

``_flash_attention_forward``      fp16 and bf16, on compute capability 8.0 and newer (Dao 2023).
``_efficient_attention_forward``  fp32, and fp16 on older GPUs (Rabe & Staats 2021).

Both take the starts of the sequences, and both store the state of the random generator instead of the dropout mask, so that
the backward draws the same mask again. Where ``torch.use_deterministic_algorithms(True)`` was called, the backward of both
adds up in a fixed order (read in torch's sources, ``attention_backward.cu``); otherwise its sums depend on timing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bertorch.encoder.relative import Relative
from bertorch.encoder.tokens import TokenBatch

_SIXTEEN_BITS = (torch.float16, torch.bfloat16)
_WIDEST = 256  # of a head, in flash attention


def packed_fits(device: torch.device, dtype: torch.dtype, head_size: int, windowed: bool = False) -> bool:
    """Whether one of the two operators should compute this."""
    if device.type != "cuda" or head_size > _WIDEST:
        return False
    if dtype in _SIXTEEN_BITS and _has_flash(device):
        return True
    return dtype in (torch.float16, torch.float32) and not windowed


def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: TokenBatch,
    dropout_p: float,
    bias: Tensor | None = None,
    window: int | None = None,
    relative: Relative | None = None,
) -> Tensor:
    """See ``attention.attention``.

    Raises:
        ValueError: there is a bias or a table, or a window that the operator does not support.
    """
    if bias is not None or relative is not None:
        raise ValueError("the packed backend has no bias; use the padded backend")
    starts, longest = batch.cu_seqlens, batch.max_seqlen
    if len(query) != len(key):  # the queries are the first tokens alone: sequences of one
        if window is not None:  # flash attention counts the queries from the end of the keys
            raise ValueError("the packed backend has no window for first tokens alone; use the padded backend")
        starts, longest = torch.arange(len(query) + 1, dtype=starts.dtype, device=starts.device), 1
    places = (starts, batch.cu_seqlens, longest, batch.max_seqlen)
    width = query.shape[-1]
    missing = -width % 8  # the kernels load eight numbers at a time
    flash = query.dtype in _SIXTEEN_BITS and _has_flash(query.device)
    if missing:
        if not flash:  # it divides by the root of the padded width
            query = query * ((width + missing) / width) ** 0.5
        query, key, value = (F.pad(x, (0, missing)) for x in (query, key, value))
    if flash:
        out = torch.ops.aten._flash_attention_forward(
            query, key, value, *places, dropout_p, is_causal=False, return_debug_mask=False, scale=width**-0.5,
            window_size_left=window, window_size_right=window,
        )[0]  # fmt: skip
    elif window is not None:
        raise ValueError("memory-efficient attention has no window in both directions; use the padded backend")
    else:  # with an argument ``scale``, torch 2.6 to 2.13 cannot differentiate fake tensors, which compiling needs
        out = torch.ops.aten._efficient_attention_forward(
            query[None], key[None], value[None], None, *places, dropout_p, custom_mask_type=0,
            compute_log_sumexp=torch.is_grad_enabled(),
        )[0].squeeze(0)  # fmt: skip
    return out[..., :width]
