"""The bricks of every family: embeddings, one transformer block, pooler.

Shapes: T total_tokens, D hidden_size, E embedding_size, H heads, B batch_size.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.encoder.attention import attention
from bertorch.encoder.config import EncoderConfig
from bertorch.encoder.dropout import Dropout
from bertorch.encoder.tokens import TokenBatch


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


class Embeddings(nn.Module):
    """Word + position + segment, normalised, and projected where the family's embeddings are narrower (or ALBERT's)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.embedding_size
        self.word = nn.Embedding(config.vocab_size, width)
        self.position = nn.Embedding(config.max_position_embeddings, width)
        self.token_type = nn.Embedding(config.type_vocab_size, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.projection = nn.Linear(width, config.hidden_size) if config.projects_embeddings else None
        self.position_offset = config.position_offset

    def forward(self, batch: TokenBatch) -> Tensor:
        x = self.word(batch.input_ids) + self.token_type(batch.token_type_ids)
        x = x + self.position(batch.position_ids + self.position_offset)  # [T, E]
        x = self.dropout(self.norm(x))
        return x if self.projection is None else self.projection(x)  # [T, D]


class Block(nn.Module):
    """Attention and feed-forward, each with dropout, residual and layer norm after it (Devlin et al. 2018)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.attention_dropout = config.attention_probs_dropout_prob
        self.hidden_act = config.hidden_act

    def forward(self, x: Tensor, batch: TokenBatch) -> Tensor:  # [T, D] -> [T, D]
        split = (x.shape[0], self.heads, -1)
        q, k, v = self.query(x).view(split), self.key(x).view(split), self.value(x).view(split)  # [T, H, D/H]
        context = attention(q, k, v, batch, self.attention_dropout if self.training else 0.0)
        x = self.attention_norm(x + self.dropout(self.attention_output(context.flatten(1))))
        hidden = activation(self.hidden_act, self.intermediate(x))  # [T, intermediate_size]
        return self.output_norm(x + self.dropout(self.output(hidden)))


class Pooler(nn.Module):
    """BERT's sentence vector: tanh of a linear map of the first token."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor, batch: TokenBatch) -> Tensor:  # [T, D] -> [B, D]
        return torch.tanh(self.dense(first_tokens(hidden_states, batch)))


def first_tokens(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    """The state of each sequence's first token ([CLS], <s>): ``[total_tokens, D]`` -> ``[batch_size, D]``."""
    return hidden_states.index_select(0, batch.cu_seqlens[:-1])
