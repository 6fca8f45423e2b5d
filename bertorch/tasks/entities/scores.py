"""Entity precision, recall and F1: an entity is right if its type, start and end are right."""

from collections import Counter
from collections.abc import Iterable

from bertorch.tasks.classification.scores import precision_recall_f1

METRICS = ("f1", "conlleval_f1")

Entity = tuple[str, int, int]  # type, start, end
Counts = tuple[Counter, Counter, Counter]  # right, gold and found entities, by type


def entity_scores(gold: Iterable[set[Entity]], found: Iterable[set[Entity]]) -> tuple[float, float, float]:
    """Micro-averaged precision, recall and F1 over texts; 0 if there are no found or no gold entities.

    Args:
        gold: the entities of each text; all count, even those that the model cannot express.
        found: the entities that the model found in each text.
    """
    return count_scores(count_entities(gold, found))


def entity_table(gold: Iterable[set[Entity]], found: Iterable[set[Entity]]) -> str:
    """A text table of precision, recall, F1, gold and found entities, for each type that occurs and for all."""
    return count_table(count_entities(gold, found))


def count_entities(gold: Iterable[set[Entity]], found: Iterable[set[Entity]]) -> Counts:
    """Count entities by type: right, gold and found."""
    right, wanted, given = Counter(), Counter(), Counter()
    for there, answer in zip(gold, found, strict=True):
        right.update(kind for kind, _, _ in there & answer)
        wanted.update(kind for kind, _, _ in there)
        given.update(kind for kind, _, _ in answer)
    return right, wanted, given


def add_counts(parts: Iterable[Counts]) -> Counts:
    """The counts of several parts of a file together."""
    right, wanted, given = (sum(counters, Counter()) for counters in zip(*parts, strict=True))
    return right, wanted, given


def count_scores(counts: Counts) -> tuple[float, float, float]:
    """As ``entity_scores``, from counts."""
    return precision_recall_f1(*(sum(one.values()) for one in counts))


def count_table(counts: Counts) -> str:
    """As ``entity_table``, from counts."""
    right, wanted, given = (Counter(one) for one in counts)
    names = [*sorted({*wanted, *given}), "all"]
    for one in (right, wanted, given):
        one["all"] = sum(one.values())
    width = max(4, *(len(name) for name in names))
    lines = [f"{'type':>{width}} {'precision':>9} {'recall':>9} {'f1':>9} {'gold':>7} {'found':>7}"]
    for name in names:
        precision, recall, f1 = precision_recall_f1(right[name], wanted[name], given[name])
        lines.append(f"{name:>{width}} {precision:>9.4f} {recall:>9.4f} {f1:>9.4f} {wanted[name]:>7} {given[name]:>7}")
    return "\n".join(lines)
