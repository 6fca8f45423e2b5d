"""Language model: predicts masked tokens, and whether two segments follow one another."""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from bertorch.encoder import Encoder
from bertorch.encoder.layers import activation, first_tokens, norm
from bertorch.encoder.weights import find_weights, wrapper_prefix
from bertorch.errors import UserError
from bertorch.heads.loading import fill_layers, head_files, load_head, load_trained_head, own_names
from bertorch.heads.loss import Loss
from bertorch.tasks.pretraining.masking import MaskedBatch


@dataclass
class LanguageModelLoss(Loss):
    """A loss with the sums that an evaluation needs.

    Attributes:
        masked_loss: cross-entropy summed over masked tokens; equals ``total`` if segment order is not predicted.
        order_loss: cross-entropy summed over texts of two segments.
        correct_orders: number of these texts classified correctly.
        orders: number of these texts.
    """

    masked_loss: Tensor | float = 0.0
    order_loss: Tensor | float = 0.0
    correct_orders: Tensor | int = 0
    orders: Tensor | int = 0


class LanguageModel(nn.Module):
    """The heads that BERT and ALBERT are pretrained with (Devlin et al. 2018, section 3.1; Lan et al. 2019, section 3.1).

    The decoder is the word embedding, unless the config says ``tie_word_embeddings: false``.

    Args:
        encoder: with pooler if ``with_order``.
        with_order: whether to classify the order of two segments.
        order_weight: weight of a text of two segments relative to a masked token. With the mean number of masked tokens
            per text, both losses count alike. It is constant, so any number of processes gives the same gradient.

    Raises:
        UserError: ``with_order``, but transformers has no such class for the family.
    """

    def __init__(self, encoder: Encoder, with_order: bool = False, order_weight: float = 1.0):
        super().__init__()
        config = encoder.config
        if with_order and "order" not in config.pretraining:
            raise UserError(f"{config.model_type} models are not pretrained with two segments; give --objectives mlm")
        if not config.pretraining:
            raise UserError(
                f"{config.model_type} models are pretrained on permutations of words, which is not supported; fine-tune "
                "them, or name another model"
            )
        self.encoder, self.order_weight = encoder, order_weight
        names = config.pretraining  # RoFormer-v2 has the decoder alone
        width = config.embedding_size
        with_dense, with_bias = "transform" in names, "bias" in names and config.decoder_bias
        self.transform = nn.Linear(config.hidden_size, width, bias=config.classifier_bias) if with_dense else None
        self.norm = norm(config, width) if "norm" in names else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if with_bias else None
        tied = config.other.get("tie_word_embeddings", True) or "decoder" not in names
        self.decoder = None if tied else nn.Parameter(torch.empty(config.vocab_size, config.embedding_size))
        self.order = nn.Linear(config.hidden_size, 2) if with_order else None
        self.hidden_act = config.pretraining_act
        for layer in (self.transform, self.order):
            if layer is not None:
                nn.init.normal_(layer.weight, std=config.initializer_range)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.decoder is not None:
            nn.init.normal_(self.decoder, std=config.initializer_range)

    def token_logits(self, states: Tensor) -> Tensor:
        """Scores of the whole vocabulary, ``[places, hidden_size]`` -> ``[places, vocab_size]``."""
        if self.transform is not None:
            states = self.norm(activation(self.hidden_act, self.transform(states)))
        decoder = self.encoder.embeddings.word.weight if self.decoder is None else self.decoder
        return F.linear(states, decoder, self.bias)

    def logits(self, batch: MaskedBatch) -> tuple[Tensor, Tensor | None]:
        """Vocabulary scores of each masked token, ``[masked, vocab_size]``; scores of both orders, ``[batch_size, 2]``."""
        states = self.encoder(batch.tokens)
        order = None if self.order is None else self.order(self.encoder.pooler(first_tokens(states, batch.tokens)))
        return self.token_logits(states.index_select(0, batch.places)), order

    def forward(self, batch: MaskedBatch) -> LanguageModelLoss:
        logits, order_logits = self.logits(batch)
        logits = logits.float()
        masked = F.cross_entropy(logits, batch.targets, reduction="sum")
        correct = (logits.detach().argmax(dim=-1) == batch.targets).sum()
        if order_logits is None:
            return LanguageModelLoss(masked, len(batch.targets), correct, logits, masked.detach())
        order_logits = order_logits.float()
        order = F.cross_entropy(order_logits, batch.orders, ignore_index=-1, reduction="sum")
        return LanguageModelLoss(
            masked + self.order_weight * order,
            len(batch.targets),
            correct,
            logits,
            masked.detach(),
            order.detach(),
            (order_logits.detach().argmax(dim=-1) == batch.orders).sum(),
            (batch.orders >= 0).sum(),
        )

    @property
    def architecture(self) -> str:
        return "ForMaskedLM" if self.order is None else "ForPreTraining"

    def weight_names(self) -> dict[str, str]:
        """The names in transformers' pretraining classes."""
        names = self.encoder.config.pretraining
        if self.decoder is not None and self.bias is not None:  # the other bias is then unused
            names = {**names, "bias": _decoder_bias(names)}
        parts = {name: name.partition(".") for name in own_names(self)}
        return {name: f"{names[layer]}.{kind}" if kind else names[layer] for name, (layer, _, kind) in parts.items()}

    def saved_files(self, max_seq_length: int) -> dict[str, dict]:
        """See ``Head``; saves the bias under both its names, as transformers needs if the decoder is not tied."""
        files = head_files(self, max_seq_length)
        if self.bias is not None:
            files["model.safetensors"][self.encoder.config.pretraining["bias"]] = self.bias.detach().clone()
        return files

    def fill_head(self, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
        """Fill the head's layers that a checkpoint holds; return the names used, including tied ones.

        Raises:
            UserError: weights do not fit, or are ``required`` and missing.
        """
        names, prefix = self.encoder.config.pretraining, wrapper_prefix(tensors)
        biases = set()  # two names of one tensor; a file may hold either
        if self.bias is not None and "decoder" in names:
            biases = {prefix + names["bias"], prefix + _decoder_bias(names)}
        for bias in biases & set(tensors):
            tensors = {**dict.fromkeys(biases, tensors[bias]), **tensors}
        layers: dict[str, dict[str, str]] = {}
        for ours, theirs in self.weight_names().items():
            layers.setdefault(ours.split(".")[0], {})[ours] = theirs
        taken, new = set(), []
        for layer, own in layers.items():
            there = any(prefix + theirs in tensors for theirs in own.values())  # no layer depends on labels: all must fit
            found = fill_layers(self, own, tensors, source, required or there)
            taken |= found
            new += [] if found else [layer]
        if taken and new:
            logger.info(f"{source}: new weights in the head: {', '.join(new)}")
        tied = biases | ({prefix + names["decoder"]} if "decoder" in names else set())
        return taken | (tied & set(tensors) if taken or not layers else set())


def _decoder_bias(names: dict[str, str]) -> str:
    return names["decoder"].removesuffix("weight") + "bias"


def load_language_model(
    directory: str | Path, with_order: bool, order_weight: float, init_from_ckpt: str | Path | None = None
) -> LanguageModel:
    """Load a language model for training, from ``init_from_ckpt`` or else ``directory``; missing head layers are new.

    Raises:
        UserError: encoder weights are missing or do not fit, or the family has no head for two segments.
    """
    source = init_from_ckpt or (directory if find_weights(directory) else None)
    return load_head(
        directory, lambda encoder: LanguageModel(encoder, with_order, order_weight), source, with_pooler=with_order
    )


def load_trained_language_model(directory: str | Path, weights: str | Path | None = None) -> LanguageModel:
    """Load a language model to predict masked tokens; ``directory`` or the file ``weights`` must hold all weights.

    Raises:
        UserError: weights are missing or do not fit.
    """
    return load_trained_head(directory, LanguageModel, weights)
