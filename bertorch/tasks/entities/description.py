"""What ``bertorch.json`` says about a model that finds entities."""

from dataclasses import dataclass
from pathlib import Path

from bertorch.encoder.config import load_config
from bertorch.errors import UserError
from bertorch.memory import check_memory
from bertorch.tasks import description as task
from bertorch.tasks.description import NAMES, STRIDE, TRUE_OR_FALSE, check_labels, config_labels, one_of, or_null, value
from bertorch.tasks.entities.rows import UNITS
from bertorch.tasks.entities.tags import SCHEMES, TagSet, parse_tag
from bertorch.tasks.original import original_weights

HEADS = ("linear", "crf", "global_pointer")


@dataclass(frozen=True, kw_only=True)
class Description(task.Description):
    """A tagger of characters or words, or a head that scores spans.

    Attributes:
        ner_head: a linear layer, a CRF on top of it, or scores of spans.
        types: the entity types.
        labels: the tags, in the order of the logits; the types where spans are scored.
        tag: the scheme of the tags.
        crf_constraints: whether the CRF forbids what the scheme forbids.
        unit: what to divide plain texts into.
        doc_stride: tokens that neighbouring windows of a long text share; None for half a window.
    """

    task = "entities"
    architectures = ("ForTokenClassification",)
    original_figures = {"F1": ("f1", 5)}
    ner_head: str = value(one_of(HEADS))
    types: list[str] = value(NAMES)
    labels: list[str] = value(NAMES)
    tag: str = value(one_of(tuple(SCHEMES)))
    crf_constraints: bool = value(TRUE_OR_FALSE)
    unit: str = value(one_of(UNITS))
    doc_stride: int | None = value(or_null(STRIDE))

    @property
    def scores_spans(self) -> bool:
        return self.ner_head == "global_pointer"

    def check(self) -> None:
        if not self.scores_spans and set(TagSet.from_labels(self.labels, self.types, self.tag).labels) != set(self.labels):
            raise UserError(f"labels are not the tags of its types as {self.tag} writes them")

    def check_size(self, directory: Path) -> None:
        check_labels(directory, self.labels)
        if not self.scores_spans:
            check_memory(directory, f"transitions between {len(self.labels)} labels", 4 * len(self.labels) ** 2)

    @classmethod
    def of_transformers(
        cls, directory: Path, labels: list[str] | None = None, weights: str | Path | None = None
    ) -> "Description":
        """Describe a token classifier of transformers or of the original bertorch by its tags.

        Args:
            directory: the model's directory.
            labels: used instead of those in ``config.json``.
            weights: a file with the trained weights, where the directory has none.

        Raises:
            UserError: a label is not a tag.
        """
        load_config(directory)
        tags = labels or config_labels(directory)
        odd = next((label for label in tags if parse_tag(label) is None), None)
        if odd is not None:
            where = "--label_file" if labels else f"{directory}: config.json"
            raise UserError(f"{where}: {odd!r} is not a tag such as B-PER; give the tags used in training with --label_file")
        letters = {label[0] for label in tags}
        scheme = "bmes" if "M" in letters else "bioes" if letters & set("EL") else "bios" if letters & set("SU") else "bio"
        original = original_weights(directory, weights)
        return cls(
            ner_head="crf" if original is not None and "crf.transitions" in original else "linear",
            types=TagSet(tags, scheme).types,
            labels=tags,
            tag=scheme,
            crf_constraints=True,
            unit="word" if original is None else "character",
            doc_stride=None,
        )
