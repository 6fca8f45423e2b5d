"""Tagger: a tag for each character or word, from a linear layer alone or with a CRF on top."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bertorch.copies import Fetch
from bertorch.encoder import Encoder, TokenBatch
from bertorch.encoder.dropout import Dropout
from bertorch.heads.dense import token_head
from bertorch.heads.loading import fill_own_layers, head_files, own_names
from bertorch.heads.loss import ClassLoss, Loss, sampled
from bertorch.tasks.entities.batching import TagBatch
from bertorch.tasks.entities.crf import CRF, Steps, forward_backward
from bertorch.tasks.entities.original import without_padding_tag
from bertorch.tasks.entities.tags import Span, TagSet


class Tagger(nn.Module):
    """A linear layer over the token states (Devlin et al. 2018, section 5.3), with an optional CRF over its scores.

    The loss of both is divided by the number of tagged places: cross-entropy of each place, or the negative log-likelihood
    of whole texts. Dividing the likelihood by the number of texts would make it about a hundred times larger, and gradient
    clipping, not the learning rate, would decide the step.

    Args:
        encoder: without pooler.
        tag_set: the tags.
        with_crf: put a CRF on top.
        constrained: the CRF forbids what the scheme forbids, such as I after O.
    """

    architecture = "ForTokenClassification"
    weight_names, saved_files = own_names, head_files

    def __init__(self, encoder: Encoder, tag_set: TagSet, with_crf: bool = False, constrained: bool = True):
        super().__init__()
        config = encoder.config
        self.encoder, self.tag_set, self.types = encoder, tag_set, tag_set.types
        self.head = token_head(config)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, len(tag_set.labels))
        nn.init.normal_(self.classifier.weight, std=config.initializer_range)
        nn.init.zeros_(self.classifier.bias)
        self.class_loss = ClassLoss()  # without a CRF
        self.dropout_samples = 1  # dropout masks of the states that the loss is averaged over (Inoue 2019)
        self.crf = CRF(len(tag_set.labels), tag_set.allowed() if constrained else None) if with_crf else None

    def logits(self, tokens: TokenBatch) -> Tensor:
        """Tag scores of every token, ``[total_tokens, num_tags]``: what transformers' token classifiers compute."""
        return self.classifier(self.dropout(self.head(self.encoder(tokens))))

    def forward(self, batch: TagBatch) -> Loss:
        states = self.head(self.encoder(batch.tokens).index_select(0, batch.places))  # [total_units, hidden_size]
        emissions, total = sampled(
            lambda: self.classifier(self.dropout(states)).float(),
            lambda emissions: self.loss(emissions, batch.tags, batch.lengths),
            self.dropout_samples,
        )
        return Loss(total, len(batch.tags), logits=emissions)

    def loss(self, emissions: Tensor, tags: Tensor, lengths: list[int]) -> Tensor:
        """The loss summed over all units: ``[total_units, num_tags]``, ``[total_units]``, units of each text -> scalar."""
        if self.crf is None:
            return self.class_loss(emissions, tags)
        return -self.crf.log_likelihood(emissions, tags, lengths).sum()

    def decode(self, emissions: Tensor, lengths: list[int]) -> Tensor:
        """The most probable tags, LongTensor ``[total_units]``: unit by unit, or with a CRF for each text as a whole."""
        return emissions.argmax(dim=1) if self.crf is None else self.crf.decode(emissions, lengths)

    @torch.no_grad()
    def confidence(self, emissions: Tensor, tags: Sequence[int], spans: Sequence[Span]) -> list[float]:
        """The probability of each entity: that its units have its tags and the next unit does not make it longer.

        Args:
            emissions: of one text, ``[units, num_tags]``.
            tags: its tag ids, from which ``spans`` were read.
            spans: type, first unit, unit after the last.
        """
        crf = self.crf or CRF(emissions.shape[1]).to(emissions.device)  # all transitions 0: the linear layer alone
        steps = Steps.of([len(tags)], emissions.device)
        # Compared with a place's best tag, e^-100 is negligible; lower scores would overflow the recursion.
        emissions = (emissions - emissions.amax(dim=1, keepdim=True)).double().clamp(min=-100)
        start, transitions, end = crf.scores()
        _, alpha, beta, arriving, scale = forward_backward(emissions, start, transitions, end, steps)
        fetched = Fetch(alpha.log(), beta.log(), arriving.log(), emissions, transitions, scale)
        log_alpha, log_beta, log_arriving, emissions, transitions, scale = fetched.arrays()
        result = []
        for _, first, last in spans:
            path = np.asarray(tags[first:last])
            steps_inside = transitions[path[:-1], path[1:]] + emissions[np.arange(first + 1, last), path[1:]]
            until = log_alpha[first, path[0]] + (steps_inside - scale[first + 1 : last]).sum()
            longer = self.tag_set.continuing(int(path[-1]))
            if last == len(tags) or not longer:
                after = log_beta[last - 1, path[-1]]
            else:
                others = np.setdiff1d(np.arange(len(transitions)), longer)
                after = np.logaddexp.reduce(transitions[path[-1], others] + log_arriving[last, others])
            result.append(float(np.exp(min(until + after, 0.0))))
        return result

    def fill_head(self, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
        """See ``Head``; fill layer by layer, as a CRF may be added to a tagger that has none."""
        tensors = without_padding_tag(tensors, len(self.tag_set.labels), self.tag_set.ids["O"])
        return fill_own_layers(self, tensors, source, required)
