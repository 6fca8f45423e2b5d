"""The parts of every family: embeddings, one transformer block, pooler.

Shapes: T total_tokens, D hidden_size, E embedding_size, H heads, B batch_size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.copies import to_device
from bertorch.encoder.attention import attention
from bertorch.encoder.config import EncoderConfig
from bertorch.encoder.dropout import Dropout
from bertorch.encoder.relative import Relative
from bertorch.encoder.rotation import rotate
from bertorch.encoder.tokens import TokenBatch, sequence_ids
from bertorch.encoder.transformer_xl import DistancesAndSegments, HeadsProjection
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


def side_by_side(layers: Sequence[Linear], x: Tensor) -> Sequence[Tensor]:
    """What each of some layers of one size makes of ``x``, ``[T, D]``; on a GPU by one product, but for XLNet's."""
    alone = x.device.type == "cpu" or isinstance(layers[0], HeadsProjection)
    return [layer(x) for layer in layers] if alone else one_product(layers, x)


def one_product(layers: Sequence[Linear], x: Tensor) -> Sequence[Tensor]:
    """``side_by_side`` with fewer kernels, which read ``x`` once."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return F.linear(x, weight, bias).chunk(len(layers), dim=-1)


class Embedding(nn.Embedding):
    """``torch.nn.Embedding``, initialised only by the encoder."""

    def reset_parameters(self) -> None:
        pass


def norm(config: EncoderConfig, width: int) -> nn.Module:
    """A norm as the family's blocks and embeddings have it."""
    if config.family.rms_norm:
        return nn.RMSNorm(width, eps=config.layer_norm_eps, elementwise_affine=False)
    return nn.LayerNorm(width, eps=config.layer_norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    """Word + position + segment, normalised, and projected if the family's embeddings are narrower (or ALBERT's).

    ERNIE adds a task embedding, that of task 0 in all fine-tuning (Sun et al. 2020, section 4.2). DeBERTa projects before
    the norm. Some families lack some of these.
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
        hidden = config.hidden_size
        self.distance = Embedding(2 * config.distance_span, hidden) if config.has("embeddings.distance") else None
        self.distance_norm = norm(config, hidden) if config.has("embeddings.distance_norm") else None
        self.projects_first = config.family.projects_first
        self.norm = norm(config, hidden if self.projects_first else width) if config.has("embeddings.norm") else None
        self.dropout = Dropout(config.embedding_dropout)
        self.projection = Linear(width, hidden, bias=not self.projects_first) if config.projects_embeddings else None
        self.position_offset = config.position_offset
        if config.has("embeddings.mask"):  # only pretraining would train it
            self.register_buffer("mask", torch.zeros(1, 1, width))
        self.config = config

    def forward(self, batch: TokenBatch) -> Tensor:
        x = self.word(batch.input_ids)  # [T, E]
        if self.token_type is not None:
            x = x + self.token_type(batch.token_type_ids)
        if self.position is not None:
            x = x + self.position(batch.position_ids + self.position_offset)
        if self.task_type is not None:
            x = x + self.task_type.weight[0]
        if self.projection is not None and self.projects_first:
            x = self.projection(x)
        x = self.dropout(x if self.norm is None else self.norm(x))
        return x if self.projection is None or self.projects_first else self.projection(x)  # [T, D]

    def sines(self, batch: TokenBatch, width: int, base: float) -> Tensor:
        """Sines and cosines of each token's position, to rotate heads of this width, ``[T, width]``.

        Raises:
            UserError: the positions were trained, and fewer than ``max_seqlen``.
        """
        if self.rotary is None:
            table = to_device(sinusoids(batch.max_seqlen, width, base=base), batch.position_ids.device)
            return table.index_select(0, batch.position_ids)
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

    def distances(self, batch: TokenBatch) -> "Distances | None":
        """What the blocks know of the distances of keys and queries; None: nothing."""
        config, longest, device = self.config, batch.max_seqlen, batch.input_ids.device
        if config.family.transformer_xl:
            return self._distances_and_segments(batch)
        if self.distance is None and not config.family.distance_sines:
            return None
        away = torch.arange(1 - longest, longest, device=device)  # key - query
        if config.family.distance_sines:
            reach = min(config.max_relative_position, longest - 1)
            sines = sinusoids(2 * reach + 1, config.head_size, config.max_relative_position - reach, device=device)
            pairs = sines.view(len(sines), 2, -1).transpose(1, 2).flatten(1)  # of sine and cosine
            return Distances(pairs, away.clamp(-reach, reach) + reach)
        span, count, farthest = config.distance_span, config.position_buckets, config.farthest_distance
        # Rows of longer distances than this batch has are left out: all layers project those that stay.
        reach = min(longest - 1 if longest - 1 <= count // 2 or count < 1 else count, span)
        states = self.distance.weight[span - reach : span + reach + 1]  # the last row is that of span - 1 and beyond
        far = -away if count < 1 else log_buckets(-away, count, farthest)
        rows = (far + reach).clamp(0, len(states) - 1)
        return Distances(states if self.distance_norm is None else self.distance_norm(states), rows)

    def _distances_and_segments(self, batch: TokenBatch) -> "Distances":
        """Of Transformer-XL; one draw of dropout is for all texts of a batch."""
        config, longest, device = self.config, batch.max_seqlen, batch.input_ids.device
        most = min(config.clamp_len, longest) if config.clamp_len > 0 else longest
        away = torch.arange(longest - 1, -longest, -1, device=device).clamp(-most, most)  # query - key
        sines = sinusoids(2 * most + 1, config.hidden_size, -most, device=device).index_select(0, away + most)
        last = batch.cu_seqlens[1:].long() - 1
        segments = batch.token_type_ids.index_fill(0, last, config.type_vocab_size - 1)
        one_hot = F.one_hot(segments, config.type_vocab_size).to(self.word.weight.dtype)
        return Distances(self.dropout(sines.to(one_hot)), torch.arange(len(sines), device=device), one_hot)


@dataclass
class Distances:
    """States of distances, or of several that are taken for one, ``[distances, D]``, or of one head ``[distances, D/H]``.

    ``rows``: which of them key - query is, from ``1 - max_seqlen``, LongTensor ``[2 * max_seqlen - 1]``. ``segments``: which
    one each token is in, one-hot ``[total_tokens, segments]``, if scores have a term of them.
    """

    states: Tensor
    rows: Tensor
    segments: Tensor | None = None


def log_buckets(far: Tensor, count: int, farthest: int) -> Tensor:
    """Buckets of distances, with their sign: exact up to half of ``count``, then growing logarithmically, up to ``count``
    at ``farthest - 1``, as in the code of DeBERTa-v2's authors.
    """
    exact = count // 2
    # In single precision, as in transformers: that decides the bucket of a distance on the edge of two.
    whole = torch.full((), (farthest - 1) / exact, device=far.device).log()
    grown = torch.log(far.abs().clamp(min=1) / exact) / whole * (exact - 1)
    return torch.where(far.abs() <= exact, far, ((torch.ceil(grown) + exact) * far.sign()).long())


def buckets(away: Tensor) -> Tensor:
    """The 32 buckets of distances: 16 for each direction, of which the nearest 8 are exact and the others grow
    logarithmically, up to 128 (Raffel et al. 2020, section 2.1, as MPNet has them; Song et al. 2020).

    ``away``: how far the key comes after the query, LongTensor of any shape.
    """
    far = away.abs()
    # In single precision, as in transformers: that decides the bucket of a distance on the edge of two.
    grown = 8 + (torch.log(far.clamp(min=1).float() / 8) / math.log(128 / 8) * 8).long()
    return torch.where(far < 8, far, grown.clamp(max=15)) + 16 * (away > 0)


def sinusoids(length: int, width: int, first: int = 0, base: float = 10_000.0, device: torch.device | str = "cpu") -> Tensor:
    """Sines, followed by cosines, of position / base^(2i / width), ``[length, width]`` (Su et al. 2021, eq. 15)."""
    speeds = base ** (-torch.arange(0, width, 2, dtype=torch.double, device=device) / width)
    angles = torch.arange(first, first + length, dtype=torch.double, device=device)[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


class Block(nn.Module):
    """Attention and feed-forward, each with dropout and residual.

    A layer norm comes after each of the two (Devlin et al. 2018), or, if the family has ``norm_first``, before each, off
    the residual path (Xiong et al. 2020). The three maps of attention may be one layer, and the feed-forward one may be
    ``gated``: then its dropout is before its second map.

    If distances have states, attention is disentangled (He et al. 2020, section 3.1): scores also have terms of query and
    distance and of key and distance, and are divided by the root of the number of terms. If they are ``distance_sines``,
    these are added to keys and values. The first block may have a ``Convolution`` beside it.
    """

    def __init__(self, config: EncoderConfig, first: bool = False):
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.heads = config.num_attention_heads
        self.gated, self.norm_first = config.family.gated, config.family.norm_first
        self.query_key_value = self.others = None
        if config.has("blocks.{block}.query_key_value"):
            self.query_key_value = Linear(width, 3 * width, bias)
        elif config.family.transformer_xl:
            self.query, self.key, self.value = (HeadsProjection(width, self.heads) for _ in range(3))
            self.others = DistancesAndSegments(width, self.heads)
        else:
            self.query = Linear(width, width, bias)
            self.key = Linear(width, width, bias)
            self.value = Linear(width, width, bias)
        xl = self.others is not None
        self.attention_output = HeadsProjection(width, self.heads, back=True) if xl else Linear(width, width, bias)
        without = first and config.norm_serves_first_block
        self.attention_norm = nn.Identity() if without else norm(config, width)
        self.intermediate = Linear(width, (1 + self.gated) * config.intermediate_size, config.mlp_bias)
        self.output = Linear(config.intermediate_size, width, config.mlp_bias)
        self.output_norm = norm(config, width)
        self.attention_output_dropout = Dropout(config.attention_output_dropout)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.inner_dropout = Dropout(config.hidden_dropout_prob) if config.family.inner_dropout else nn.Identity()
        self.attention_dropout = config.attention_probs_dropout_prob
        self.hidden_act = config.hidden_act
        self.rotates, self.rotary_value = config.family.rotates, config.rotary_value
        own_key, own_query = (config.has(f"blocks.{{block}}.distance_{layer}") for layer in ("key", "query"))
        self.distance_key = Linear(width, width) if own_key else None  # None: those of the tokens, if any
        self.distance_query = Linear(width, width) if own_query else None
        self.distance_sines = config.family.distance_sines
        self.terms = config.distance_terms
        convolved = first and config.has("blocks.{block}.convolution.kernel")
        self.convolution = Convolution(config) if convolved else None

    def forward(
        self,
        x: Tensor,
        batch: TokenBatch,
        first_only: bool = False,
        turns: Tensor | None = None,
        bias: Tensor | None = None,
        distances: Distances | None = None,
        window: int | None = None,
    ) -> Tensor:
        """States after the block: ``[total_tokens, D]`` -> the same shape, or with ``first_only`` only each sequence's first
        token, ``[batch_size, D]``: the others then serve as keys and values, and nothing more is computed for them.
        ``turns``: ``rotation.turns`` of each token's position, if positions are rotary; ``bias`` and ``window``: see
        ``attention``; ``distances``: see ``Embeddings``.
        """
        inputs = x
        seen = self.attention_norm(x) if self.norm_first else x
        if self.query_key_value is not None:
            q, k, v = self.query_key_value(seen).view(len(x), 3, self.heads, -1).unbind(1)  # [T, H, D/H]
            x, q = (first_tokens(x, batch), first_tokens(q, batch)) if first_only else (x, q)
        else:
            layers = [self.key, self.value] if first_only else [self.key, self.value, self.query]
            k, v, *q = (states.view(len(x), self.heads, -1) for states in side_by_side(layers, seen))
            if first_only:
                x, seen = first_tokens(x, batch), first_tokens(seen, batch)
            q = self.query(seen).view(len(x), self.heads, -1) if first_only else q[0]
        if turns is not None:
            q = rotate(q, first_tokens(turns, batch) if first_only else turns, self.rotates)
            k = rotate(k, turns, self.rotates)
            v = rotate(v, turns, self.rotates) if self.rotary_value else v
        q = q / math.sqrt(1 + len(self.terms)) if self.terms else q
        if self.others is not None:
            of_queries = first_tokens(distances.segments, batch) if first_only else distances.segments
            q, k, v, bias, relative = self.others(q, k, v, of_queries, distances.segments, distances.states)
        else:
            relative = None if distances is None else self.relative(distances, q.dtype)
        dropout = self.attention_dropout if self.training else 0.0
        context = attention(q, k, v, batch, dropout, bias=bias, window=window, relative=relative)
        context = context[..., : x.shape[-1] // self.heads]
        x = x + self.attention_output_dropout(self.attention_output(context.flatten(1)))
        x, seen = (x, self.output_norm(x)) if self.norm_first else [self.attention_norm(x)] * 2
        x = x + self.feed_forward(seen)
        x = x if self.norm_first else self.output_norm(x)
        return x if self.convolution is None else self.convolution(inputs, x, batch)

    def relative(self, distances: Distances, dtype: torch.dtype) -> Relative:
        """The tables that distances have part in attention with."""
        if self.distance_sines:
            table = distances.states.to(dtype).index_select(0, distances.rows)[None]
            return Relative(keys=table, values=table)
        states = self.dropout(distances.states)

        def table(layer: Linear) -> Tensor:  # [H, 2 * max_seqlen - 1, D/H]
            return layer(states).index_select(0, distances.rows).unflatten(1, (self.heads, -1)).transpose(0, 1)

        keys = table(self.distance_key or self.key) if "c2p" in self.terms else None
        queries = table(self.distance_query or self.query) if "p2c" in self.terms else None
        return Relative(keys, None if queries is None else queries / math.sqrt(1 + len(self.terms)))

    def feed_forward(self, x: Tensor) -> Tensor:  # [T, D] -> [T, D]
        inner = self.intermediate(x)
        if not self.gated:
            return self.dropout(self.output(self.inner_dropout(activation(self.hidden_act, inner))))
        inner, gate = inner.chunk(2, dim=-1)
        return self.output(self.dropout(activation(self.hidden_act, inner) * gate))


class Convolution(nn.Module):
    """DeBERTa-v2's convolution over the first block's inputs, added to its outputs and normalised (its authors' code)."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        width, reach = config.hidden_size, config.conv_kernel_size // 2
        self.kernel = nn.Conv1d(width, width, config.conv_kernel_size, padding=reach, groups=config.conv_groups)
        self.norm = norm(config, width)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.reach, self.act = reach, config.conv_act

    def forward(self, inputs: Tensor, outputs: Tensor, batch: TokenBatch) -> Tensor:
        """``inputs``: ``[total_tokens, D]``; ``outputs`` and result: the same, or ``[batch_size, D]`` of first tokens."""
        places = torch.arange(len(inputs), device=inputs.device) + self.reach * sequence_ids(batch)  # zeros between texts
        apart = inputs.new_zeros(len(inputs) + self.reach * (batch.batch_size - 1), inputs.shape[1])
        convolved = self.kernel(apart.index_copy(0, places, inputs).t()[None])[0].t()
        places = places if len(outputs) == len(inputs) else places.index_select(0, batch.cu_seqlens[:-1])
        convolved = activation(self.act, self.dropout(convolved.index_select(0, places)))
        return self.norm(outputs + convolved)


class Pooler(nn.Module):
    """BERT's sentence vector: tanh of a linear map of the first token's state."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, first_states: Tensor) -> Tensor:  # [B, D] -> [B, D]
        return torch.tanh(self.dense(first_states))


def last_tokens(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    """The state of each sequence's last token: ``[total_tokens, D]`` -> ``[batch_size, D]``."""
    return hidden_states.index_select(0, batch.cu_seqlens[1:] - 1)


def first_tokens(hidden_states: Tensor, batch: TokenBatch) -> Tensor:
    """The state of each sequence's first token ([CLS], <s>): ``[total_tokens, D]`` -> ``[batch_size, D]``."""
    return hidden_states.index_select(0, batch.cu_seqlens[:-1])
