"""Entity scores against seqeval and against cases worked out by hand."""

import random

import pytest
from seqeval.metrics import classification_report, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from bertorch.tasks.entities.scores import Entity, entity_scores, entity_table

TYPES = ["PER", "LOC", "GPE-NAM"]


def random_entities(draw: random.Random, length: int) -> set[Entity]:
    """Entities that do not overlap, as tags can hold them."""
    entities, place = set(), draw.randint(0, 4)
    while place < length:
        end = min(length, place + draw.randint(1, 3))
        entities.add((draw.choice(TYPES), place, end))
        place = end + draw.randint(0, 5)
    return entities


def changed(draw: random.Random, gold: set[Entity], length: int, share: float) -> set[Entity]:
    """What a model might find: some of the entities, and some of its own where these leave room."""
    found = {entity for entity in gold if draw.random() < share}
    for entity in random_entities(draw, length):
        if all(entity[2] <= start or end <= entity[1] for _, start, end in found):
            found.add(entity)
    return found


def as_tags(entities: set[Entity], length: int) -> list[str]:
    tags = ["O"] * length
    for kind, start, end in entities:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def random_corpus(draw: random.Random) -> tuple[list[set[Entity]], list[set[Entity]], list[list[str]], list[list[str]]]:
    share, texts = draw.random(), draw.randint(1, 12)
    lengths = [draw.randint(1, 20) for _ in range(texts)]
    gold = [random_entities(draw, length) if draw.random() < 0.8 else set() for length in lengths]
    found = [
        changed(draw, one, length, share) if draw.random() < 0.8 else set()
        for one, length in zip(gold, lengths, strict=True)
    ]
    tags = [[as_tags(one, length) for one, length in zip(side, lengths, strict=True)] for side in (gold, found)]
    return gold, found, *tags


def rows_of(table: str) -> dict[str, list[float]]:
    header, *lines = table.splitlines()
    assert header.split() == ["type", "precision", "recall", "f1", "gold", "found"]
    return {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines}


def test_scores_by_hand():
    gold = [{("PER", 0, 2), ("LOC", 3, 5)}, set(), {("ORG", 0, 4)}]
    found = [{("PER", 0, 2), ("ORG", 3, 5), ("LOC", 3, 4)}, {("PER", 0, 1)}, {("ORG", 0, 4)}]
    # right: one PER and one ORG; wrong: a type, an end, one from nowhere
    precision, recall, f1 = entity_scores(gold, found)
    assert (precision, recall) == pytest.approx((2 / 5, 2 / 3))
    assert f1 == pytest.approx(2 * (2 / 5) * (2 / 3) / (2 / 5 + 2 / 3))
    assert rows_of(entity_table(gold, found)) == {
        "LOC": [0, 0, 0, 1, 1], "ORG": [0.5, 1, 0.6667, 1, 2], "PER": [0.5, 1, 0.6667, 1, 2],
        "all": [0.4, 0.6667, 0.5, 3, 5],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "found", "scores"),
    [
        ([], [], (0, 0, 0)),
        ([set()], [set()], (0, 0, 0)),
        ([{("PER", 0, 1)}], [set()], (0, 0, 0)),
        ([set()], [{("PER", 0, 1)}], (0, 0, 0)),
        ([{("PER", 0, 1)}], [{("PER", 0, 2)}], (0, 0, 0)),
        ([{("PER", 0, 1)}, set()], [set(), {("PER", 0, 1)}], (0, 0, 0)),  # the right one in another text
        ([{("PER", 0, 1)}], [{("PER", 0, 1)}], (1, 1, 1)),
    ],
)
def test_nothing_found_or_nothing_there_is_zero(gold, found, scores):
    assert entity_scores(gold, found) == scores
    total = sum(map(len, gold)), sum(map(len, found))
    assert rows_of(entity_table(gold, found))["all"] == [*scores, *total]


def test_an_entity_counts_once_a_text_and_in_each_text():
    listed = [("PER", 0, 1), ("PER", 0, 1), ("LOC", 0, 1)]
    gold, found = [set(listed), {("PER", 0, 1)}], [{("PER", 0, 1)}, {("PER", 0, 1), ("LOC", 0, 1)}]
    assert entity_scores(gold, found) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert rows_of(entity_table(gold, found))["PER"] == [1, 1, 1, 2, 2]


def test_entities_within_each_other_count_each():
    gold = [{("ORG", 0, 6), ("LOC", 0, 2), ("LOC", 4, 6), ("ORG", 0, 2)}]
    assert entity_scores(gold, [{("ORG", 0, 6), ("ORG", 0, 2), ("LOC", 0, 6)}]) == pytest.approx((2 / 3, 1 / 2, 4 / 7))


def test_both_sides_may_be_generators_but_must_be_of_the_same_texts():
    gold, found = [{("PER", 0, 1)}, {("LOC", 1, 2)}], [{("PER", 0, 1)}, set()]
    assert entity_scores(iter(gold), (one for one in found)) == pytest.approx((1, 1 / 2, 2 / 3))
    assert rows_of(entity_table(iter(gold), iter(found)))["LOC"] == [0, 0, 0, 1, 0]
    with pytest.raises(ValueError):
        entity_scores(gold, found[:1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_random_corpora_have_the_scores_of_seqeval():
    draw = random.Random(0)
    seen = set()
    for _ in range(150):
        gold, found, gold_tags, found_tags = random_corpus(draw)
        options = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
        wanted = [score(gold_tags, found_tags, **options) for score in (precision_score, recall_score, f1_score)]
        assert entity_scores(gold, found) == pytest.approx(tuple(wanted))
        seen.add(round(wanted[2], 1))
    assert len(seen) > 5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_the_table_has_the_figures_of_seqeval_for_each_type():
    draw = random.Random(1)
    for _ in range(60):
        gold, found, gold_tags, found_tags = random_corpus(draw)
        if not any(gold) or not any(found):
            continue
        report = classification_report(gold_tags, found_tags, mode="strict", scheme=IOB2, zero_division=0, output_dict=True)
        rows = rows_of(entity_table(gold, found))
        types = {kind for texts in (gold, found) for one in texts for kind, _, _ in one}
        assert list(rows) == [*sorted(types), "all"]
        for name, (precision, recall, f1, wanted, given) in rows.items():
            of_type = report["micro avg" if name == "all" else name]
            figures = [of_type["precision"], of_type["recall"], of_type["f1-score"]]
            assert [precision, recall, f1] == pytest.approx(figures, abs=5.1e-5)  # four digits
            assert wanted == of_type["support"]
            assert given == sum(name in ("all", kind) for one in found for kind, _, _ in one)


def test_the_columns_of_the_table_stand_below_each_other():
    table = entity_table([{("PER", 0, 1), ("a-very-long-type", 1, 2)}], [{("PER", 0, 1)}])
    assert len({len(line) for line in table.splitlines()}) == 1
    assert rows_of(table)["a-very-long-type"] == [0, 0, 0, 1, 0]
