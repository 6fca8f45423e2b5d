"""The parts of every family: embeddings, one transformer block, pooler.

Shapes: T total_tokens, D hidden_size, E embedding_size, H heads, B batch_size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.encoder.attention import attention
from bertorch.encoder.config import EncoderConfig
from bertorch.encoder.dropout import Dropout
from bertorch.encoder.tokens import TokenBatch
from bertorch.errors import UserError


def activation(name: str, x: Tensor) -> Tensor:
    """The activations that checkpoints of these families name in ``hidden_act``."""
    match name:
        case "gelu" | "gelu_python":
            return F.gelu(x)
        case "gelu_new" | "gelu_pytorch_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case "silu":
            return F.silu(x)
        case "tanh":
            return torch.tanh(x)
    raise ValueError(f"unknown activation {name!r}")


class Linear(nn.Linear):
    """``torch.nn.Linear``; on CPU the bias is added after the product, which takes half as long as starting with it."""

    def reset_parameters(self) -> None:
        """Do nothing: the encoder initialises."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or self.bias is None:
            return super().forward(x)
        return torch.mm(x, self.weight.t()).add_(self.bias)


class Embedding(nn.Embedding):
    """``torch.nn.Embedding``, initialised only by the encoder."""

    def reset_parameters(self) -> None:
        pass


def norm(config: EncoderConfig, width: int) -> nn.Module:
    """The norm of the family's blocks and embeddings."""
    if config.family.rms_norm:
        return nn.RMSNorm(width, eps=config.layer_norm_eps, elementwise_affine=False)
    return nn.LayerNorm(width, eps=config.layer_norm_eps)


class Embeddings(nn.Module):
    """Word + position + segment, normalised, and projected if the family's embeddings are narrower (or ALBERT's).

    ERNIE adds a task embedding, that of task 0 in all fine-tuning (Sun et al. 2020, section 4.2). Some families lack some
    of these.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.embedding_size
        self.word = Embedding(config.vocab_size, width)
        self.position = Embedding(config.max_position_embeddings, width) if config.has("embeddings.position") else None
        self.token_type = Embedding(config.type_vocab_size, width) if config.has("embeddings.token_type") else None
        self.task_type = Embedding(config.task_type_vocab_size, width) if config.has("embeddings.task_type") else None
        buckets, heads = config.relative_attention_num_buckets, config.num_attention_heads
        self.relative = Embedding(buckets, heads) if config.has("embeddings.relative") else None
        self.rotary: Embedding | None = None  # only where a checkpoint's table of sines was trained
        self.norm = norm(config, width) if config.has("embeddings.norm") else None
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.projection = Linear(width, config.hidden_size) if config.projects_embeddings else None
        self.position_offset = config.position_offset

    def forward(self, batch: TokenBatch) -> Tensor:
        x = self.word(batch.input_ids)  # [T, E]
        if self.token_type is not None:
            x = x + self.token_type(batch.token_type_ids)
        if self.position is not None:
            x = x + self.position(batch.position_ids + self.position_offset)
        if self.task_type is not None:
            x = x + self.task_type.weight[0]
        x = self.dropout(x if self.norm is None else self.norm(x))
        return x if self.projection is None else self.projection(x)  # [T, D]

    def sines(self, batch: TokenBatch, width: int) -> Tensor:
        """Sines and cosines of each token's position, to rotate heads of this width, ``[T, width]``.

        Raises:
            UserError: the positions were trained, and fewer than ``max_seqlen``.
        """
        if self.rotary is None:
            return sinusoids(batch.max_seqlen, width).to(batch.position_ids.device).index_select(0, batch.position_ids)
        if batch.max_seqlen > self.rotary.num_embeddings:
            raise UserError(
                f"a sequence of {batch.max_seqlen} tokens: this model has {self.rotary.num_embeddings} trained positions; "
                "give a lower --max_seq_length"
            )
        return self.rotary(batch.position_ids)

    def attention_bias(self, batch: TokenBatch) -> Tensor | None:
        """``attention``'s bias, which all layers share; None if the family has none."""
        if self.relative is None:
            return None
        away = torch.arange(1 - batch.max_seqlen, batch.max_seqlen, device=batch.input_ids.device)  # key - query
        return self.relative(buckets(away)).t()  # [H, 2 * max_seqlen - 1]


def buckets(away: Tensor) -> Tensor:
    """The 32 buckets of distances: 16 for each direction, of which the nearest 8 are exact and the others grow
    logarithmically, up to 128 (Raffel et al. 2020, section 2.1, as MPNet has them; Song et al. 2020).

    ``away``: how far the key comes after the query, LongTensor of any shape.
    """
    far = away.abs()
    # In single precision, as in transformers: that decides the bucket of a distance on the edge of two.
    grown = 8 + (torch.log(far.clamp(min=1).float() / 8) / math.log(128 / 8) * 8).long()
    return torch.where(far < 8, far, grown.clamp(max=15)) + 16 * (away > 0)


def sinusoids(length: int, width: int) -> Tensor:
    """Sines, followed by cosines, of position / 10000^(2i / width), ``[length, width]`` (Su et al. 2021, eq. 15)."""
    speeds = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.double) / width)
    angles = torch.arange(length, dtype=torch.double)[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def rotate(x: Tensor, sines: Tensor) -> Tensor:
    """Rotate each pair of neighbours in ``x``, ``[T, H, D/H]``, by its position's angles (Su et al. 2021, eq. 34).

    ``sines``: sines and cosines of each token's position, ``[T, D/H]``.
    """
    sin, cos = sines[:, None].chunk(2, dim=-1)  # [T, 1, D/H/2]
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


class Block(nn.Module):
    """Attention and feed-forward, each with dropout and residual.

    A layer norm comes after each of the two (Devlin et al. 2018), or, if the family has ``norm_first``, before each, off
    the residual path (Xiong et al. 2020).
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width, bias = config.hidden_size, config.family.biases
        self.heads = config.num_attention_heads
        self.query = Linear(width, width, bias)
        self.key = Linear(width, width, bias)
        self.value = Linear(width, width, bias)
        self.attention_output = Linear(width, width, bias)
        self.attention_norm = norm(config, width)
        self.intermediate = Linear(width, config.intermediate_size, bias)
        self.output = Linear(config.intermediate_size, width, bias)
        self.output_norm = norm(config, width)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.attention_dropout = config.attention_probs_dropout_prob
        self.hidden_act = config.hidden_act
        self.norm_first = config.family.norm_first
        self.rotary_value = config.rotary_value

    def forward(
        self,
        x: Tensor,
        batch: TokenBatch,
        first_only: bool = False,
        sines: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """States after the block: ``[total_tokens, D]`` -> the same shape, or with ``first_only`` only each sequence's first
        token, ``[batch_size, D]``: the others then serve as keys and values, and nothing more is computed for them.
        ``sines``: of each token's position, if positions are rotary, ``[total_tokens, D/H]``; ``bias``: see ``attention``.
        """
        seen = self.attention_norm(x) if self.norm_first else x
        k, v = (layer(seen).view(len(x), self.heads, -1) for layer in (self.key, self.value))  # [T, H, D/H]
        if first_only:
            x, seen = first_tokens(x, batch), first_tokens(seen, batch)
        q = self.query(seen).view(len(x), self.heads, -1)
        if sines is not None:
            q, k = rotate(q, first_tokens(sines, batch) if first_only else sines), rotate(k, sines)
            v = rotate(v, sines) if self.rotary_value else v
        context = attention(q, k, v, batch, self.attention_dropout if self.training else 0.0, bias=bias)
        x = x + self.dropout(self.attention_output(context.flatten(1)))
        x, seen = (x, self.output_norm(x)) if self.norm_first else [self.attention_norm(x)] * 2
        x = x + self.dropout(self.output(activation(self.hidden_act, self.intermediate(seen))))
        return x if self.norm_first else self.output_norm(x)


class Pooler(nn.Module):
    """BERT's sentence vector: tanh of a linear map of the first token's state."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_states: Tensor) -> Tensor:  # [B, D] -> [B, D]
        return torch.tanh(self.dense(first_states))


def first_tokens(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    """The state of each sequence's first token ([CLS], <s>): ``[total_tokens, D]`` -> ``[batch_size, D]``."""
    return hidden_states.index_select(0, batch.cu_seqlens[:-1])
