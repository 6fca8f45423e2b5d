"""SentencePair: trains the vectors of two texts on classes, scores or triplets."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertorch.data.batching import Batch
from bertorch.encoder import Encoder
from bertorch.encoder.weights import read_weights
from bertorch.heads.loading import fill_layers
from bertorch.heads.loss import ClassLoss, Loss
from bertorch.tasks.sentences.directory import sentence_files
from bertorch.tasks.sentences.encoder import SentenceEncoder, gather, sizes_over_ranks

OBJECTIVES = ("softmax", "cosent", "cosine_mse", "triplet")


class SentencePair(nn.Module):
    """Sentence vectors u and v under one of four objectives.

    ``softmax``: classes from (u, v, |u-v|), with ``concat_multiply`` also u*v (Reimers & Gurevych 2019, section 3).
    ``cosent``: pairs with a higher score should have a higher cosine (CoSENT, Huang et al. 2024).
    ``cosine_mse``: the cosine should equal the score divided by ``max_score``.
    ``triplet``: a positive should be nearer than a hard negative, by ``margin`` (Reimers & Gurevych 2019, section 3).

    Args:
        sentence: gives the vectors.
        objective: see above.
        num_labels: number of classes, for ``softmax``.
        concat_multiply: for ``softmax``.
        scale: of cosines, for ``cosent``.
        max_score: for ``cosine_mse``.
        margin: a Euclidean distance, for ``triplet``.
        gather_pairs: ``cosent`` compares the pairs of all ranks; otherwise those of this rank.
    """

    architecture = None  # the sentence encoder has that of its family

    def __init__(
        self,
        sentence: SentenceEncoder,
        objective: str,
        num_labels: int = 2,
        concat_multiply: bool = False,
        scale: float = 20.0,
        max_score: float = 1.0,
        margin: float = 1.0,
        gather_pairs: bool = True,
    ):
        super().__init__()
        self.sentence = sentence
        self.objective = objective
        self.concat_multiply = concat_multiply
        self.scale, self.max_score, self.margin = scale, max_score, margin
        self.gather_pairs = gather_pairs
        self.classifier = None
        self.class_loss = ClassLoss()  # of softmax
        if objective == "softmax":
            self.classifier = nn.Linear((4 if concat_multiply else 3) * sentence.output_size, num_labels)
            nn.init.normal_(self.classifier.weight, std=sentence.encoder.config.initializer_range)
            nn.init.zeros_(self.classifier.bias)

    @property
    def encoder(self) -> Encoder:
        return self.sentence.encoder

    def weight_names(self) -> dict[str, str]:
        """The weight names of the classifier, if there is one."""
        return {name: name for name, _ in self.named_parameters() if name.startswith("classifier.")}

    def fill_head(self, tensors: dict[str, Tensor], source: str | Path, required: bool) -> set[str]:
        """See ``Head``."""
        return fill_layers(self, self.weight_names(), tensors, source, required)

    def logits(self, u: Tensor, v: Tensor) -> Tensor:
        """Label scores of vector pairs: ``[rows, output_size]`` twice -> ``[rows, num_labels]``."""
        features = [u, v, (u - v).abs()]
        if self.concat_multiply:
            features.append(u * v)
        return self.classifier(torch.cat(features, dim=-1))

    def saved_files(self, max_seq_length: int) -> dict[str, dict | list]:
        """What ``save_model`` writes: the sentence encoder, and the classifier beside the encoder's weights."""
        parameters = dict(self.named_parameters())
        return sentence_files(
            self.sentence, max_seq_length, {name: parameters[name].detach() for name in self.weight_names()}
        )

    def forward(self, batch: Batch) -> Loss:
        rows = len(batch.labels)
        vectors = self.sentence(batch.tokens).index_select(0, batch.places)  # all u, then all v, then hard negatives
        u, v, negatives = vectors[:rows], vectors[rows : 2 * rows], vectors[2 * rows :]
        if self.objective == "softmax":
            logits = self.logits(u, v).float()
            correct = (logits.detach().argmax(dim=-1) == batch.labels).sum()
            return Loss(self.class_loss(logits, batch.labels), rows, correct, logits)
        with torch.autocast(vectors.device.type, enabled=False):  # similarities in 16 bit are too coarse
            u, v, negatives = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (u, v, negatives))
            if self.objective == "triplet":
                owners = batch.owners[2 * rows :]
                anchors, positives = u.index_select(0, owners), v.index_select(0, owners)
                distances = (F.pairwise_distance(anchors, positives), F.pairwise_distance(anchors, negatives))
                return Loss(F.relu(distances[0] - distances[1] + self.margin).sum(), len(owners))
            cosines = F.cosine_similarity(u, v)
            if self.objective == "cosine_mse":
                return Loss(F.mse_loss(cosines, batch.labels / self.max_score, reduction="sum"), rows)
            # One value for the pairs of all ranks; each rank counts it for its share of the rows.
            sizes = sizes_over_ranks(rows)[0] if self.gather_pairs else [rows]
            return Loss(cosent(gather(cosines, sizes), gather(batch.labels, sizes), self.scale) * rows, rows)


def trained_pair(sentence: SentenceEncoder, directory: str | Path, num_labels: int, concat_multiply: bool) -> SentencePair:
    """A classifier of pairs to predict with; ``directory`` is the ``softmax`` run that ``sentence`` comes from.

    Raises:
        UserError: the classifier is missing or does not fit.
    """
    model = SentencePair(sentence, "softmax", num_labels, concat_multiply)
    model.fill_head(read_weights(directory), directory, required=True)
    return model.eval()


def cosent(cosines: Tensor, scores: Tensor, scale: float) -> Tensor:
    """``log(1 + sum exp(scale * (cosines[i] - cosines[j])))`` over all i, j with ``scores[i] < scores[j]``.

    Args:
        cosines: of the pairs, ``[pairs]``.
        scores: of the pairs, ``[pairs]``; only their order counts.
        scale: factor of the cosines.
    """
    difference = scale * (cosines[:, None] - cosines[None, :])
    above = scores[:, None] < scores[None, :]
    # A GPU is not asked how many there are: the host would wait.
    terms = difference[above] if difference.device.type == "cpu" else difference.masked_fill(~above, -torch.inf)
    return torch.logsumexp(torch.cat([terms.new_zeros(1), terms.flatten()]), dim=0)
