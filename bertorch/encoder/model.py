"""Encoder: one class for all families."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertorch.encoder.attention import leave_uncompiled
from bertorch.encoder.config import SHARED, EncoderConfig
from bertorch.encoder.layers import Block, Embeddings, Pooler, norm
from bertorch.encoder.rotation import turns
from bertorch.encoder.tokens import TokenBatch
from bertorch.encoder.transformer_xl import DistancesAndSegments, HeadsProjection


class Encoder(nn.Module):
    """A transformer encoder over packed tokens.

    Layer i uses block group ``i * groups // layers``; each group has ``inner_group_num`` blocks (Lan et al. 2019, section
    3.1, divided as in the authors' code). BERT has as many groups as layers; ALBERT usually has one. With ``sharing`` in the
    configuration, all blocks have one part in common.

    ``with_pooler``: a head that does not use the pooler must not own one, or DistributedDataParallel would wait for a
    gradient that never comes. ``initialise=False``, for ``fill_encoder``, leaves the weights uninitialised: drawing random
    numbers takes longer than reading a file.
    """

    def __init__(self, config: EncoderConfig, with_pooler: bool = False, initialise: bool = True):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        blocks = range(config.num_hidden_groups * config.inner_group_num)
        self.blocks = nn.ModuleList(Block(config, first=block == 0) for block in blocks)
        for layer in SHARED.get(config.sharing, ()):
            for block in self.blocks[1:]:
                setattr(block, layer, getattr(self.blocks[0], layer))
        self.norm = norm(config, config.hidden_size) if config.has("norm") else None
        self.pooler = Pooler(config) if with_pooler else None
        self.gradient_checkpointing = False
        if initialise:
            self.apply(self.initialise)

    def initialise(self, module: nn.Module) -> None:
        """The family's initialisation: BERT's is normal(0, initializer_range), with zero biases."""
        config = self.config
        if isinstance(module, HeadsProjection | DistancesAndSegments):
            for parameter in module.parameters(recurse=False):
                nn.init.normal_(parameter, std=config.initializer_range)
        if isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d):
            if config.family.scaled_initialisation:  # cutting at two deviations leaves 1 / 1.13684723 of the deviation
                std = 1.13684723 / (module.weight.shape[1] * config.num_hidden_layers) ** 0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            else:
                nn.init.normal_(module.weight, std=config.initializer_range)
        if isinstance(module, nn.Linear | nn.Conv1d) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def compile(self, **options: Any) -> None:
        """Compile each block with ``torch.compile(block, **options)``.

        With ``dynamic=True``, what is compiled serves all layers and all batches: one block is compiled, and once more for
        the last one with ``first_only``, for each of training and evaluation.
        """
        leave_uncompiled()
        for block in self.blocks:
            block.compile(**options)

    def set_dropout(self, dropout: float) -> None:
        """Use ``dropout`` everywhere while training; the configuration keeps its own values, also when saved."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        for block in self.blocks:
            block.attention_dropout = dropout

    def forward(
        self, batch: TokenBatch, layers: Sequence[int] | None = None, first_only: bool = False
    ) -> Tensor | list[Tensor]:
        """States of the real tokens, ``[total_tokens, hidden_size]``.

        Those of the last layer; or the list of those after each of ``layers``, counted from 1, with 0 for the embeddings;
        or, with ``first_only``, only each sequence's first token after the last layer, ``[batch_size, hidden_size]``, which
        saves most of that layer's work. If the family has a norm on the last states, it applies to the last layer only.
        """
        config = self.config
        batch = replace(batch)  # what attention keeps of it is computed anew: its tensors may have been written to
        x = self.embeddings(batch)
        bases, windows = config.rotary_bases, config.windows
        rotations = {None: None}
        for base in set(bases) - {None}:
            rotations[base] = turns(self.embeddings.sines(batch, config.head_size, base), config.family.rotates)
        bias, distances = self.embeddings.attention_bias(batch), self.embeddings.distances(batch)
        states = {0: x} if layers is not None and 0 in layers else {}
        for layer in range(config.num_hidden_layers):
            group = layer * config.num_hidden_groups // config.num_hidden_layers
            for inner in range(config.inner_group_num):
                block = self.blocks[group * config.inner_group_num + inner]
                last = layer + 1 == config.num_hidden_layers and inner + 1 == config.inner_group_num
                given = (batch, first_only and last, rotations[bases[layer]], bias, distances, windows[layer])
                if self.gradient_checkpointing and self.training:
                    x = checkpoint(block, x, *given, use_reentrant=False)
                else:
                    x = block(x, *given)
            if last and self.norm is not None:
                x = self.norm(x)
            if layers is not None and layer + 1 in layers:
                states[layer + 1] = x
        return x if layers is None else [states[layer] for layer in layers]
