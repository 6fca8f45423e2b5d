"""Texts with masked tokens, and with two segments in or out of order, drawn again in each epoch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bertorch.data.batching import MovableBatch, pack_ids
from bertorch.data.tokenizing import TextTokenizer
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.tasks.pretraining.rows import Documents

OBJECTIVES = ("mlm", "sop", "nsp")


@dataclass
class MaskedBatch(MovableBatch):
    """Texts with masked tokens.

    Attributes:
        tokens: the texts, masked, the longest first.
        places: the positions in ``tokens`` to predict, LongTensor ``[masked]``.
        targets: the original tokens there, LongTensor ``[masked]``.
        orders: 0 if the second segment follows the first, 1 if it does not, -1 for a text of one segment; LongTensor
            ``[batch_size]``.
    """

    tokens: TokenBatch
    places: Tensor
    targets: Tensor
    orders: Tensor


class Masking:
    """Turns texts into batches for the objectives of pretraining.

    ``mlm`` predicts masked tokens (Devlin et al. 2018, section 3.1). ``sop`` splits a text between two of its sentences
    and swaps the halves of half the texts (Lan et al. 2019, section 3.1). ``nsp`` replaces the second half of half the
    texts with a piece of another document (Devlin et al. 2018). A text of one sentence is not split.

    Draws depend only on seed, epoch and text, so runs can be repeated, resumed and divided over processes.

    Args:
        encoder: provides the special tokens and the vocabulary.
        objectives: ``mlm``, and one of ``sop`` and ``nsp`` or neither.
        share: share of a text's tokens to predict; at least one token.
        whole_words: mask all tokens of a word together (Cui et al. 2019); ``documents.continues`` must be filled.
        longest_ngram: mask up to this many neighbouring words together, length n with a probability proportional to
            1/n (Lan et al. 2019, section 4.1).
        seed: seed of all draws.
        most: the most tokens of a text to predict, but for the one word that is always masked; None: no limit.
    """

    def __init__(
        self,
        encoder: TextTokenizer,
        objectives: Sequence[str] = ("mlm",),
        share: float = 0.15,
        whole_words: bool = False,
        longest_ngram: int = 1,
        seed: int = 0,
        most: int | None = None,
    ):
        tokenizer = encoder.pretrained
        if tokenizer.mask_token_id is None:
            raise UserError(
                "the tokenizer has no mask token, so this model cannot predict masked tokens; name another model"
            )
        self.second_segment = next((objective for objective in objectives if objective != "mlm"), None)
        self.share, self.whole_words, self.longest_ngram, self.seed = share, whole_words, longest_ngram, seed
        self.most = most
        self.mask_id = tokenizer.mask_token_id
        self.vocabulary = np.setdiff1d(list(tokenizer.get_vocab().values()), tokenizer.all_special_ids)
        self.layouts = encoder.layouts
        special = sum(len(part) for part in self.layouts[2 if self.second_segment else 1][0])
        self.room = encoder.max_seq_length - special

    def check(self, documents: Documents, path: str) -> None:
        """Raise UserError if the documents do not suit the objectives."""
        if self.second_segment == "nsp" and documents.text_documents[0] == documents.text_documents[-1]:
            raise UserError(f"{path}: only one document, and nsp needs two; put blank lines between documents")
        sentences = np.diff(documents.text_starts)
        if self.second_segment and sentences.max() == 1:
            raise UserError(
                f"{path}: no text of two sentences for {self.second_segment}; write one sentence per line, or raise "
                f"--max_seq_length"
            )

    def expected(self, documents: Documents) -> float:
        """Mean number of masked tokens per text of ``documents``."""
        return float(np.clip(np.rint(self.share * documents.row_lengths), 1, self.most).mean())

    def collate(self, documents: Documents, texts: np.ndarray, epoch: int | None = None) -> MaskedBatch:
        """Batch the given texts of ``documents``; each epoch draws new masks; None draws the same for every seed."""
        rows = [self._mask(documents, text, epoch) for text in texts]
        ids, second, places, targets, orders = zip(*rows, strict=True)
        tokens, order = pack_ids(list(ids), np.array(second))
        starts = tokens.cu_seqlens[:-1].tolist()
        return MaskedBatch(
            tokens,
            torch.from_numpy(np.concatenate([places[row] + start for row, start in zip(order, starts, strict=True)])),
            torch.from_numpy(np.concatenate([targets[row] for row in order]).astype(np.int64)),
            torch.tensor([orders[row] for row in order]),
        )

    def _mask(
        self, documents: Documents, text: int, epoch: int | None
    ) -> tuple[np.ndarray, int, np.ndarray, np.ndarray, int]:
        """``(input_ids, where the second segment starts, masked places, their tokens, order)`` of one text."""
        rng = np.random.default_rng([text] if epoch is None else [self.seed, epoch, text])
        segments, order = self._segments(documents, text, rng)
        parts, types = self.layouts[len(segments)]
        pieces, where, inside, place = [], [], [], 0
        for special, (ids, continues) in zip(parts, segments, strict=False):
            place += len(special)
            pieces += [special, ids]
            where.append(np.arange(place, place + len(ids)))
            inside.append(continues)
            place += len(ids)
        sequence = np.concatenate([*pieces, parts[-1]]).astype(np.int32)
        two_types = len(segments) == 2 and types[1] != 0
        second = len(parts[0]) + len(segments[0][0]) + len(parts[1]) if two_types else len(sequence)
        chosen = np.concatenate(where)[self.choose(np.concatenate(inside), rng)]
        targets = sequence[chosen]
        sequence[chosen] = self.replace(targets, rng)
        return sequence, second, chosen, targets, order

    def _segments(
        self, documents: Documents, text: int, rng: np.random.Generator
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
        """The one or two segments of a text (token ids, and which continue a word), and their order."""
        first, end = documents.text_starts[text], documents.text_starts[text + 1]
        if self.second_segment is None or end - first == 1:
            return [self._tokens(documents, first, end)], -1
        middle = rng.integers(first + 1, end)
        segments = [self._tokens(documents, first, middle), self._tokens(documents, middle, end)]
        if rng.random() < 0.5:
            return segments, 0
        if self.second_segment == "sop":
            return segments[::-1], 1
        while documents.text_documents[other := rng.integers(len(documents))] == documents.text_documents[text]:
            pass
        first, end = documents.text_starts[other], documents.text_starts[other + 1]
        left = self.room - len(segments[0][0])
        ids, continues = self._tokens(documents, rng.integers(first, end), end)
        return [segments[0], (ids[:left], continues[:left])], 1

    def _tokens(self, documents: Documents, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        span = slice(documents.sentence_starts[first], documents.sentence_starts[end])
        ids = documents.input_ids[span]
        continues = documents.continues[span].copy() if self.whole_words else np.zeros(len(ids), dtype=bool)
        continues[0] = False  # a word does not continue from the previous segment
        return ids, continues

    def choose(self, continues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The positions of the tokens to predict in a text, in order.

        Args:
            continues: which tokens continue the word of the previous token, bool ``[tokens]``.
            rng: the random generator.
        """
        tokens = len(continues)
        wanted = max(1, round(self.share * tokens))
        wanted = wanted if self.most is None else min(wanted, self.most)
        if not self.whole_words and self.longest_ngram == 1:
            return np.sort(rng.permutation(tokens)[:wanted])
        starts = np.flatnonzero(~continues)
        bounds = np.append(starts, tokens)
        sizes = np.arange(1, self.longest_ngram + 1)
        numbers = rng.choice(sizes, size=len(starts), p=(1 / sizes) / (1 / sizes).sum())  # words, from each word on
        chosen = np.zeros(tokens, dtype=bool)
        left = wanted
        for word in rng.permutation(len(starts)):
            for number in (numbers[word], 1):  # if the n-gram is too long, try the word alone
                span = slice(bounds[word], bounds[min(word + number, len(starts))])
                if span.stop - span.start <= left and not chosen[span].any():
                    chosen[span] = True
                    left -= span.stop - span.start
                    break
            if not left:
                break
        if left == wanted:  # every word is longer than wanted: take the shortest
            shortest = int(np.argmin(np.diff(bounds)))
            chosen[bounds[shortest] : bounds[shortest + 1]] = True
        return np.flatnonzero(chosen)

    def replace(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Replace tokens to predict: 80 % by the mask, 10 % by a random token, 10 % stay as they are."""
        lot = rng.random(len(ids))
        drawn = rng.choice(self.vocabulary, size=len(ids))
        return np.where(lot < 0.8, self.mask_id, np.where(lot < 0.9, drawn, ids))
