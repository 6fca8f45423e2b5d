"""Texts with masked tokens, and two segments in or out of order, drawn again each epoch."""

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
        places: the tokens to be predicted, by their place in ``tokens``, LongTensor ``[masked]``.
        targets: what stood there, LongTensor ``[masked]``.
        orders: 0 where the second segment follows the first, 1 where it does not, -1 in a text of one segment; LongTensor
            ``[batch_size]``.
    """

    tokens: TokenBatch
    places: Tensor
    targets: Tensor
    orders: Tensor


class Masking:
    """How texts become batches for the objectives of pretraining.

    ``mlm`` predicts masked tokens (Devlin et al. 2018, section 3.1). ``sop`` divides a text between two of its sentences
    and swaps the halves of every second one (Lan et al. 2019, section 3.1); ``nsp`` puts in place of the second half of
    every second one a piece of another document (Devlin et al. 2018). A text of one sentence is not divided.

    What is drawn depends on seed, epoch and text alone, so that runs repeat, resume and divide over processes.

    Args:
        encoder: gives the special tokens and the vocabulary.
        objectives: ``mlm``, and one of ``sop`` and ``nsp`` or neither.
        share: of the tokens of a text, to be predicted; at least one.
        whole_words: a word is masked with all its tokens (Cui et al. 2019); the documents must know the words.
        longest_ngram: at most this many neighbouring words are masked together; length n with a probability proportional to
            1/n (Lan et al. 2019, section 4.1).
        seed: of all draws.
    """

    def __init__(
        self,
        encoder: TextTokenizer,
        objectives: Sequence[str] = ("mlm",),
        share: float = 0.15,
        whole_words: bool = False,
        longest_ngram: int = 1,
        seed: int = 0,
    ):
        tokenizer = encoder.pretrained
        if tokenizer.mask_token_id is None:
            raise UserError(
                "the tokenizer has no mask token, so this model cannot predict masked tokens; name another model"
            )
        self.second_segment = next((objective for objective in objectives if objective != "mlm"), None)
        self.share, self.whole_words, self.longest_ngram, self.seed = share, whole_words, longest_ngram, seed
        self.mask_id = tokenizer.mask_token_id
        self.vocabulary = np.setdiff1d(list(tokenizer.get_vocab().values()), tokenizer.all_special_ids)
        self.layouts = encoder.layouts
        special = sum(len(part) for part in self.layouts[2 if self.second_segment else 1][0])
        self.room = encoder.max_seq_length - special

    def check(self, documents: Documents, path: str) -> None:
        """Raises UserError where the documents cannot give what the objectives need."""
        if self.second_segment == "nsp" and documents.text_documents[0] == documents.text_documents[-1]:
            raise UserError(f"{path}: only one document, and nsp needs two; put blank lines between documents")
        sentences = np.diff(documents.text_starts)
        if self.second_segment and sentences.max() == 1:
            raise UserError(
                f"{path}: no text of two sentences for {self.second_segment}; write one sentence per line, or raise "
                f"--max_seq_length"
            )

    def expected(self, documents: Documents) -> float:
        """Masked tokens a text, on average over ``documents``."""
        return float(np.maximum(1, np.rint(self.share * documents.row_lengths)).mean())

    def collate(self, documents: Documents, texts: np.ndarray, epoch: int | None = None) -> MaskedBatch:
        """The given texts of ``documents`` as a batch; other epochs draw other masks, and none the same for every seed."""
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
        """Token ids, and which go on with a word, of the one or two segments of a text; and their order."""
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
        continues[0] = False  # a word does not reach over from the segment before
        return ids, continues

    def choose(self, continues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The tokens of a text that are to be predicted, by their places, in order.

        Args:
            continues: which tokens go on with the word of the token before them, bool ``[tokens]``.
            rng: draws.
        """
        tokens = len(continues)
        wanted = max(1, round(self.share * tokens))
        if not self.whole_words and self.longest_ngram == 1:
            return np.sort(rng.permutation(tokens)[:wanted])
        starts = np.flatnonzero(~continues)
        bounds = np.append(starts, tokens)
        sizes = np.arange(1, self.longest_ngram + 1)
        numbers = rng.choice(sizes, size=len(starts), p=(1 / sizes) / (1 / sizes).sum())  # of words, from each word on
        chosen = np.zeros(tokens, dtype=bool)
        left = wanted
        for word in rng.permutation(len(starts)):
            for number in (numbers[word], 1):  # what is too long together is tried alone
                span = slice(bounds[word], bounds[min(word + number, len(starts))])
                if span.stop - span.start <= left and not chosen[span].any():
                    chosen[span] = True
                    left -= span.stop - span.start
                    break
            if not left:
                break
        if left == wanted:  # no word is as short as what is wanted: the shortest has to do
            shortest = int(np.argmin(np.diff(bounds)))
            chosen[bounds[shortest] : bounds[shortest + 1]] = True
        return np.flatnonzero(chosen)

    def replace(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What replaces tokens to predict: 80 % the mask, 10 % any token, 10 % the token itself."""
        lot = rng.random(len(ids))
        drawn = rng.choice(self.vocabulary, size=len(ids))
        return np.where(lot < 0.8, self.mask_id, np.where(lot < 0.9, drawn, ids))
