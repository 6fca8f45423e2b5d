"""SentenceEncoder: one vector per text; and gathering vectors over ranks, for losses over a whole batch."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertorch.encoder import Encoder, TokenBatch
from bertorch.encoder.layers import activation
from bertorch.heads.pooling import Pooling


class Dense(nn.Module):
    """A linear layer on the sentence vector, with or without an activation: sentence-transformers' Dense."""

    def __init__(self, in_features: int, out_features: int, act: str | None = None):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return x if self.act is None else activation(self.act, x)


class SentenceEncoder(nn.Module):
    """Pools token states, applies dense layers and, on request, scales to length 1 (Reimers & Gurevych 2019).

    Args:
        encoder: with a pooler if ``pooling_mode`` is ``linear``, otherwise without.
        pooling_mode, pooling_layers: of ``Pooling``.
        dense: layers on top of the pooled vector.
        normalize: divide the vector by its Euclidean norm.

    Attributes:
        chunk_size: while training, encode this many texts at a time and keep only their vectors; ``backward`` encodes each
            chunk again, with the same dropout masks (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under
            Memory Limited Setup"). It needs the memory of one chunk and gives the gradient of the whole batch.
    """

    def __init__(
        self,
        encoder: Encoder,
        pooling_mode: str = "linear",
        dense: Sequence[Dense] = (),
        normalize: bool = False,
        pooling_layers: int | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.pooling_mode = pooling_mode
        self.pooling = Pooling(encoder.config, pooling_mode, pooling_layers)
        self.dense = nn.ModuleList(dense)
        self.normalize = normalize
        self.chunk_size: int | None = None

    @property
    def output_size(self) -> int:
        """Width of the vectors."""
        return self.dense[-1].linear.out_features if len(self.dense) else self.pooling.width

    def forward(self, tokens: TokenBatch) -> Tensor:
        """The vectors of a batch, ``[batch_size, output_size]``."""
        if not self.training or self.chunk_size is None or tokens.batch_size <= self.chunk_size:
            return self._vectors(tokens)
        chunks = tokens.split(self.chunk_size)
        # Checkpoints share one graph, so each parameter's gradient is completed, and reduced over ranks, only once.
        return torch.cat([checkpoint(self._vectors, chunk, use_reentrant=False) for chunk in chunks])

    def _vectors(self, tokens: TokenBatch) -> Tensor:
        vectors = self.pooling(self.encoder, tokens)
        if self.pooling_mode == "linear":
            vectors = self.encoder.pooler(vectors)
        for dense in self.dense:
            vectors = dense(vectors)
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = own.new_zeros(max(sizes), *own.shape[1:])  # gloo needs equal shapes
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = sum(ctx.sizes[: dist.get_rank()])
        return gradient[start : start + ctx.sizes[dist.get_rank()]], None


def gather(own: Tensor, sizes: list[int]) -> Tensor:
    """Concatenate the rows of all ranks, in rank order: ``[sizes[rank], ...]`` -> ``[sum(sizes), ...]``.

    A row's gradient is summed over all ranks and goes back to the rank that it comes from. If each rank's loss covers its
    own share of the terms, the gradient summed over ranks is that of one process with the whole batch.

    Args:
        own: this rank's rows.
        sizes: how many rows each rank has (``sizes_over_ranks``); with one entry, nothing is exchanged.
    """
    return own if len(sizes) == 1 else _Gather.apply(own, sizes)


def sizes_over_ranks(*sizes: int) -> list[list[int]]:
    """For each of ``sizes``, the list of its values on all ranks."""
    if not dist.is_initialized():
        return [[size] for size in sizes]
    own = torch.tensor(sizes)
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    return torch.stack(parts).T.tolist()
