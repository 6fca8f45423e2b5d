"""Chooser: a score for each option of a question."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.encoder import Encoder, EncoderConfig, TokenBatch, load_config
from bertorch.encoder.dropout import Dropout
from bertorch.errors import UserError
from bertorch.heads.dense import DenseHead
from bertorch.heads.loading import fill_layers, head_files, load_head, load_trained_head, own_names
from bertorch.heads.loss import Loss
from bertorch.heads.pooling import Pooling
from bertorch.tasks.choice.rows import ChoiceBatch


class Chooser(nn.Module):
    """Softmax over scores of a row's options, each from the vector of its own sequence (Devlin et al. 2018, section 4.4).

    The vector is what transformers' multiple-choice head of the family takes: the pooler's for BERT, ALBERT and RoBERTa, a
    dense layer's own for ELECTRA, RoFormer, DistilBERT, DeBERTa, ModernBERT and XLNet.
    """

    architecture = "ForMultipleChoice"

    def __init__(self, encoder: Encoder):
        super().__init__()
        config = encoder.config
        names = config.choice
        self.encoder = encoder
        self.pooling = Pooling(config, config.classifier_pooling)
        self.input_dropout = Dropout(config.choice_input_dropout)
        self.head = DenseHead(config, config.choice_act, "norm" in names) if "dense" in names else None
        self.dropout = Dropout(config.choice_dropout)
        self.classifier = nn.Linear(config.hidden_size, 1)
        nn.init.normal_(self.classifier.weight, std=config.initializer_range)
        nn.init.zeros_(self.classifier.bias)

    def scores(self, tokens: TokenBatch) -> Tensor:
        """A score for each sequence, ``[batch_size, 1]``; only the options of one row compare."""
        vectors = self.pooling(self.encoder, tokens)
        vectors = self.encoder.pooler(vectors) if self.head is None else self.head(self.input_dropout(vectors))
        return self.classifier(self.dropout(vectors))

    def forward(self, batch: ChoiceBatch) -> Loss:
        scores = self.scores(batch.tokens).float().squeeze(1)
        rows = len(batch.labels)
        logits = scores.new_full((rows * batch.options,), -torch.inf)  # for options that a row does not have
        logits = logits.index_copy(0, batch.places, scores).view(rows, batch.options)
        total = F.cross_entropy(logits, batch.labels, reduction="sum")
        return Loss(total, rows, (logits.detach().argmax(dim=1) == batch.labels).sum(), logits)

    def weight_names(self) -> dict[str, str]:
        """The weight names of transformers' multiple-choice head of this family."""
        parts = {name: name.removeprefix("head.").split(".") for name in own_names(self)}
        names = self.encoder.config.choice
        return {name: f"{names[layer]}.{kind}" for name, (layer, kind) in parts.items()}

    def fill_head(self, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
        """See ``Head``."""
        return fill_layers(self, self.weight_names(), tensors, source, required)

    def saved_files(self, max_seq_length: int) -> dict[str, dict]:
        """See ``Head``; where transformers goes by ``summary_`` keys, the configuration says what this head computes."""
        files, config = head_files(self, max_seq_length), self.encoder.config
        if _has_summary(config):
            files["config.json"].update(
                summary_type="first", summary_use_proj=True, summary_activation=config.choice_act,
                summary_last_dropout=config.choice_dropout,
            )  # fmt: skip
        return files


def _has_summary(config: EncoderConfig) -> bool:
    return config.family.choice is not None and "dense" in config.choice


def _needs_pooler(config: EncoderConfig) -> bool:
    return "dense" not in config.choice


def load_chooser(directory: str | Path, init_from_ckpt: str | Path | None = None) -> Chooser:
    """A chooser to train; see ``load_head``."""
    return load_head(directory, Chooser, init_from_ckpt, _needs_pooler(load_config(directory)))


def load_trained_chooser(directory: str | Path, weights: str | Path | None = None) -> Chooser:
    """A chooser to predict with; see ``load_trained_head``.

    Raises:
        UserError: weights are missing or do not fit, or the model takes another vector of a sequence than the first token's.
    """
    config = load_config(directory)
    kind = config.other.get("summary_type", "first")
    if _has_summary(config) and kind != "first":
        raise UserError(f"{directory}: summary_type {str(kind)[:30]!r} is not supported, only 'first'")
    return load_trained_head(directory, Chooser, weights, _needs_pooler(config))
