"""Contrastive: find a text's positive among all other texts of the batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.data.batching import Batch
from bertorch.encoder import Encoder
from bertorch.heads.loading import fill_own_layers
from bertorch.heads.loss import Loss
from bertorch.tasks.sentences.directory import sentence_files
from bertorch.tasks.sentences.encoder import SentenceEncoder, gather, sizes_over_ranks


class Contrastive(nn.Module):
    """In-batch negatives over cosine similarities (Gao et al. 2021, SimCSE, eq. 1 and 5).

    With ``s_ij = scale * cos(u_i, v_j)``, minus ``scale * margin`` for the positive ``j = i``, the loss of text i is
    ``-log softmax(s_i)[i]``. Candidates are the positives of all ranks and their hard negatives; each rank scores its own
    texts.

    Args:
        sentence: gives the vectors.
        margin, scale: see above.
        mean_loss: average both directions; each positive then also looks for its text among all texts.
        mask_duplicates: a candidate is not a negative of row i if it, or its partner, is one of the row's two texts.
        gather_negatives: use the candidates of all ranks; otherwise those of this rank.
    """

    architecture = None  # the sentence encoder has that of its family
    fill_head = fill_own_layers

    def __init__(
        self,
        sentence: SentenceEncoder,
        margin: float = 0.2,
        scale: float = 20.0,
        mean_loss: bool = False,
        mask_duplicates: bool = True,
        gather_negatives: bool = True,
    ):
        super().__init__()
        self.sentence = sentence
        self.margin, self.scale = margin, scale
        self.mean_loss = mean_loss
        self.mask_duplicates = mask_duplicates
        self.gather_negatives = gather_negatives

    @property
    def encoder(self) -> Encoder:
        return self.sentence.encoder

    def weight_names(self) -> dict[str, str]:
        """None: the loss has no weights."""
        return {}

    def saved_files(self, max_seq_length: int) -> dict[str, dict | list]:
        """What ``save_model`` writes: the sentence encoder alone, since the loss has no weights."""
        return sentence_files(self.sentence, max_seq_length)

    def forward(self, batch: Batch) -> Loss:
        rows = len(batch.labels)
        vectors = self.sentence(batch.tokens).index_select(0, batch.places)  # texts, then positives, then hard negatives
        with torch.autocast(vectors.device.type, enabled=False):  # similarities in 16 bit are too coarse
            wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            total, similarity = self._loss(F.normalize(wide, dim=-1), batch.text_hashes, rows)
        return Loss(total, rows, logits=similarity)

    def _loss(self, vectors: Tensor, hashes: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        count = len(vectors) - rows
        of_texts, of_candidates = sizes_over_ranks(rows, count) if self.gather_negatives else [[rows], [count]]
        rank = torch.distributed.get_rank() if len(of_texts) > 1 else 0

        # Hashes to look for duplicates with: of a candidate and of its partner, if it has one.
        pairs = torch.stack([hashes[:rows], hashes[rows : 2 * rows]], dim=1)  # [rows, 2]
        negatives = hashes[2 * rows :, None].expand(-1, 2)
        candidates = gather(vectors[rows:], of_candidates)
        known = gather(torch.cat([pairs, negatives]), of_candidates)
        targets = sum(of_candidates[:rank]) + torch.arange(rows, device=vectors.device)
        similarity = self._similarity(vectors[:rows], candidates, targets, pairs, known)
        total = F.cross_entropy(similarity, targets, reduction="sum")
        if not self.mean_loss:
            return total, similarity
        texts, known = gather(vectors[:rows], of_texts), gather(pairs, of_texts)
        targets = sum(of_texts[:rank]) + torch.arange(rows, device=vectors.device)
        other = self._similarity(vectors[rows : 2 * rows], texts, targets, pairs, known)
        return (total + F.cross_entropy(other, targets, reduction="sum")) / 2, similarity

    def _similarity(self, anchors: Tensor, candidates: Tensor, targets: Tensor, pairs: Tensor, known: Tensor) -> Tensor:
        own = targets[:, None]
        similarity = (self.scale * anchors) @ candidates.T  # [rows, candidates]; large, so changed in place
        similarity.scatter_add_(1, own, torch.full_like(own, -self.scale * self.margin, dtype=similarity.dtype))
        if self.mask_duplicates:
            similarity.masked_fill_(duplicates(pairs, known).scatter_(1, own, False), -torch.inf)
        return similarity


def duplicates(pairs: Tensor, known: Tensor) -> Tensor:
    """Whether one of the two texts of a row equals one of the two of a candidate: bool ``[rows, candidates]``.

    Args:
        pairs: hashes ``[rows, 2]``.
        known: hashes ``[candidates, 2]``.
    """
    result = pairs[:, :1] == known[:, 0]
    for mine, theirs in ((0, 1), (1, 0), (1, 1)):
        result |= pairs[:, mine, None] == known[:, theirs]
    return result
