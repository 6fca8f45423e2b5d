"""Tags to entities as seqeval reads them, entities to tags and back, which tag may follow which, and label files."""

import itertools
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, IOBES, Prefix, Token, Tokens
from seqeval.scheme import Tag as SameType

from bertorch.errors import UserError
from bertorch.tasks.entities.tags import (
    SCHEMES,
    Span,
    TagSet,
    count_repairs,
    lenient_spans,
    parse_tag,
    strict_spans,
    types_of,
)

TYPES = ("PER", "GPE-NAM", "GPE-NOM")
LETTERS = {"bio": "BI", "bios": "BIS", "bioes": "BIES", "bmes": "BMES"}


class IOBS(Token):
    """IOB2, and S for an entity of one place; seqeval has no such scheme."""

    allowed_prefix = Prefix.I | Prefix.O | Prefix.B | Prefix.S
    start_patterns = {(Prefix.ANY, Prefix.B, SameType.ANY), (Prefix.ANY, Prefix.S, SameType.ANY)}
    inside_patterns = {(Prefix.B | Prefix.I, Prefix.I, SameType.SAME)}
    end_patterns = {
        (Prefix.S, Prefix.ANY, SameType.ANY),
        (Prefix.B | Prefix.I, Prefix.O | Prefix.B | Prefix.S, SameType.ANY),
        (Prefix.B | Prefix.I, Prefix.I, SameType.DIFF),
    }


SEQEVAL = {"bio": IOB2, "bios": IOBS, "bioes": IOBES, "bmes": IOBES}


def as_seqeval(labels: list[str]) -> list[str]:
    """M is I there."""
    return ["I" + label[1:] if label[0] == "M" else label for label in labels]


def strictly(labels: list[str], scheme: str) -> list[Span]:
    return [(one.tag, one.start, one.end) for one in Tokens(as_seqeval(labels), SEQEVAL[scheme]).entities]


def leniently(labels: list[str]) -> list[Span]:
    return [(kind, first, last + 1) for kind, first, last in get_entities(as_seqeval(labels))]


def parsed(labels: list[str]) -> list[tuple[str, str]]:
    return [parse_tag(label) for label in labels]


def random_labels(draw: random.Random, scheme: str) -> list[str]:
    """Tags with more or less sense in their order, of one to three types."""
    types = draw.sample(TYPES, draw.randint(1, 3))
    sense, labels = draw.random(), []
    for _ in range(draw.randint(1, 14)):
        if labels and labels[-1] != "O" and draw.random() < sense:
            labels.append(draw.choice(LETTERS[scheme]) + labels[-1][1:])  # the type goes on
        else:
            labels.append(draw.choice(["O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in types)]))
    return labels


def tag_set(scheme: str, types: tuple[str, ...] = TYPES, alone: bool = True) -> TagSet:
    """All tags, written out here; ``alone=False`` leaves out S."""
    letters = LETTERS[scheme] if alone else LETTERS[scheme].replace("S", "")
    return TagSet(["O", *(f"{letter}-{kind}" for letter in letters for kind in types)], scheme)


ALL_SETS = [*((scheme, True) for scheme in SCHEMES), ("bios", False)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("O", ("O", "")), ("B-PER", ("B", "PER")), ("I-PER", ("I", "PER")), ("M-PER", ("I", "PER")), ("E-PER", ("E", "PER")),
        ("L-PER", ("E", "PER")), ("S-PER", ("S", "PER")), ("U-PER", ("S", "PER")), ("B-GPE-NAM", ("B", "GPE-NAM")),
        ("B-机构", ("B", "机构")), ("B--", ("B", "-")),
        ("X", None), ("B", None), ("B-", None), ("", None), ("o", None), ("0", None), ("X-PER", None), ("B_PER", None),
        ("PER-B", None), ("OO", None), ("O-PER", None), ("PER", None), ("-PER", None),
    ],
)  # fmt: skip
def test_letter_and_type_of_a_tag(text, expected):
    assert parse_tag(text) == expected


@pytest.mark.parametrize("scheme", SCHEMES)
def test_random_tags_give_the_entities_of_seqeval(scheme):
    draw = random.Random(scheme)
    differing = Counter()
    for _ in range(3_000):
        labels = random_labels(draw, scheme)
        strict, lenient = strictly(labels, scheme), leniently(labels)
        assert strict_spans(parsed(labels), scheme) == strict, labels
        assert lenient_spans(parsed(labels)) == lenient, labels
        differing[strict == lenient] += 1
    assert min(differing[True], differing[False]) > 100  # valid and invalid ones


@pytest.mark.parametrize("scheme", SCHEMES)
def test_all_short_tag_sequences_give_the_entities_of_seqeval(scheme):
    labels = ["O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in "XY")]
    for length in (1, 2, 3):
        for one in map(list, itertools.product(labels, repeat=length)):
            assert strict_spans(parsed(one), scheme) == strictly(one, scheme), one
            assert lenient_spans(parsed(one)) == leniently(one), one


def test_lenient_reading_takes_every_scheme_at_once():
    draw = random.Random(1)
    letters = [f"{letter}-{kind}" for letter in "BIMES" for kind in TYPES]
    for _ in range(3_000):
        labels = draw.choices(["O", "O", *letters], k=draw.randint(1, 12))
        assert lenient_spans(parsed(labels)) == leniently(labels), labels


def test_entities_by_hand():
    tags = parsed(["B-PER", "I-PER", "I-LOC", "O", "E-LOC", "B-LOC", "S-LOC", "B-PER", "I-PER"])
    assert lenient_spans(tags) == [
        ("PER", 0, 2), ("LOC", 2, 3), ("LOC", 4, 5), ("LOC", 5, 6), ("LOC", 6, 7), ("PER", 7, 9),
    ]  # fmt: skip
    assert strict_spans(tags, "bios") == [("PER", 0, 2), ("LOC", 5, 6), ("LOC", 6, 7), ("PER", 7, 9)]
    assert strict_spans(tags, "bioes") == [("LOC", 6, 7)]
    assert strict_spans([], "bio") == lenient_spans([]) == []


@pytest.mark.parametrize(
    ("labels", "repairs"),
    [
        ("O B-X I-X I-X O", 0), ("I-X I-X", 1), ("O I-X O I-X", 2), ("B-X I-Y I-Y", 1), ("S-X I-X I-X", 1),
        ("B-X E-X E-X", 1), ("E-X I-X E-X", 2), ("B-X B-X S-X", 0), ("", 0),
    ],
)  # fmt: skip
def test_tags_that_continue_nothing_are_counted(labels, repairs):
    assert count_repairs(parsed(labels.split())) == repairs


@st.composite
def _separate_spans(draw) -> tuple[list[Span], int]:
    """Entities that do not overlap, in order, and the length of their text."""
    spans, place = [], 0
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(TYPES)), max_size=8)
    ):
        spans.append((kind, place + gap, place + gap + length))
        place += gap + length
    return spans, place + draw(st.integers(0 if place else 1, 3))


@pytest.mark.parametrize(("scheme", "alone"), ALL_SETS)
def test_entities_that_do_not_overlap_come_back_from_their_tags(scheme, alone):
    tags = tag_set(scheme, alone=alone)

    @given(_separate_spans(), st.randoms(use_true_random=False))
    @settings(deadline=None, max_examples=150)
    def check(spans_and_length, shuffler):
        spans, length = spans_and_length
        given_order = spans * 2  # twice the same is one
        shuffler.shuffle(given_order)
        ids, left_out = tags.encode(given_order, length)
        assert ids.shape == (length,) and ids.dtype == "int64" and left_out == 0
        labels = [tags.labels[one] for one in ids]
        assert tags.strict(ids) == tags.lenient(ids) == spans
        assert strictly(labels, scheme) == leniently(labels) == spans

    check()


@pytest.mark.parametrize(
    ("scheme", "alone", "expected"),
    [
        ("bio", True, "O B-PER I-PER I-PER B-PER B-GPE-NAM I-GPE-NAM O"),
        ("bios", True, "O B-PER I-PER I-PER S-PER B-GPE-NAM I-GPE-NAM O"),
        ("bios", False, "O B-PER I-PER I-PER B-PER B-GPE-NAM I-GPE-NAM O"),
        ("bioes", True, "O B-PER I-PER E-PER S-PER B-GPE-NAM E-GPE-NAM O"),
        ("bmes", True, "O B-PER M-PER E-PER S-PER B-GPE-NAM E-GPE-NAM O"),
    ],
)
def test_tags_by_hand(scheme, alone, expected):
    tags = tag_set(scheme, alone=alone)
    ids, left_out = tags.encode([("PER", 1, 4), ("PER", 4, 5), ("GPE-NAM", 5, 7)], 8)
    assert ([tags.labels[one] for one in ids], left_out) == (expected.split(), 0)


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 9), st.integers(1, 6)).map(lambda pair: (pair[0], sum(pair))),
        st.sampled_from(TYPES),
        max_size=8,
    ),
    st.sampled_from(ALL_SETS),
)
@settings(deadline=None, max_examples=200)
def test_of_overlapping_entities_the_longest_stay(places, scheme_alone):
    spans = [(kind, start, end) for (start, end), kind in places.items()]
    kept = []
    for length in range(6, 0, -1):
        for start in range(10):
            own = [span for span in spans if (span[1], span[2]) == (start, start + length)]
            kept += [one for one in own if all(one[2] <= other[1] or other[2] <= one[1] for other in kept)]
    tags = tag_set(scheme_alone[0], alone=scheme_alone[1])
    ids, left_out = tags.encode(spans, 15)
    assert tags.strict(ids) == sorted(kept, key=lambda span: span[1])
    assert left_out == len(spans) - len(kept)


def test_which_of_two_types_of_one_place_stays_is_always_the_same():
    """Not by chance (the hash of a string changes from run to run): training on two ranks needs the same tags."""
    first_stays = set()
    for number in range(40):
        types = (f"A{number}", f"B{number}")
        tags = tag_set("bio", types)
        ids, left_out = tags.encode([(kind, 0, 2) for kind in types], 3)
        assert left_out == 1
        ((kind, _, _),) = tags.strict(ids)
        first_stays.add(kind == types[0])
    assert len(first_stays) == 1


def walks_and_their_legality(tags: TagSet) -> list[tuple[list[int], bool]]:
    """All short tag sequences, and whether ``allowed`` lets each through."""
    follow, begin, end = tags.allowed()
    count = len(tags.labels)
    assert follow.shape == (count, count) and begin.shape == end.shape == (count,)
    assert follow.dtype == begin.dtype == end.dtype == torch.bool
    follow, begin, end = follow.tolist(), begin.tolist(), end.tolist()
    found = []
    for length in (1, 2, 3, 4):
        for walk in itertools.product(range(count), repeat=length):
            steps = all(follow[one][other] for one, other in itertools.pairwise(walk))
            found.append((list(walk), begin[walk[0]] and steps and end[walk[-1]]))
    return found


@pytest.mark.parametrize(("scheme", "alone"), ALL_SETS)
def test_what_is_allowed_is_what_both_readings_agree_on(scheme, alone):
    tags = tag_set(scheme, ("X", "Y"), alone)
    for walk, legal in walks_and_their_legality(tags):
        assert legal == (tags.strict(walk) == tags.lenient(walk)), [tags.labels[one] for one in walk]


@pytest.mark.parametrize(("scheme", "alone"), ALL_SETS)
def test_both_readings_agree_on_long_allowed_paths(scheme, alone):
    draw, tags = random.Random(scheme), tag_set(scheme, alone=alone)
    follow, begin, end = (mask.tolist() for mask in tags.allowed())
    entities = 0
    for _ in range(300):
        path = [draw.choice([tag for tag, may in enumerate(begin) if may])]
        while len(path) < 10 or not end[path[-1]]:
            path.append(draw.choice([tag for tag, may in enumerate(follow[path[-1]]) if may]))
        labels = [tags.labels[one] for one in path]
        assert strictly(labels, scheme) == leniently(labels) == tags.strict(path) == tags.lenient(path), labels
        entities += len(tags.strict(path))
    assert entities > 500


@pytest.mark.parametrize(("scheme", "alone"), ALL_SETS)
def test_what_goes_on_is_what_makes_one_entity_of_two_tags(scheme, alone):
    tags = tag_set(scheme, ("X", "Y"), alone)
    for tag, label in enumerate(tags.labels):
        wanted = [
            other for other, text in enumerate(tags.labels) if [span[1:] for span in leniently([label, text])] == [(0, 2)]
        ]
        assert sorted(tags.continuing(tag)) == wanted, label


def test_a_label_file_that_fits_keeps_its_order():
    labels = ["B-PER", "I-LOC", "O", "I-PER", "B-LOC"]
    for scheme, kept in (("bio", True), ("bios", True), ("bioes", False), ("bmes", False)):
        tags = TagSet.from_labels(labels, ["PER", "LOC"], scheme)
        assert (tags.labels == labels) == kept, scheme
        assert set(tags.labels) == {"O", *(f"{letter}-{kind}" for letter in (LETTERS[scheme] if not kept else "BI")
                                           for kind in ("PER", "LOC"))}  # fmt: skip
        assert [tags.ids[label] for label in tags.labels] == list(range(len(tags.labels)))
        assert tags.types == ["PER", "LOC"]
    some_alone = [*labels, "S-LOC"]
    tags = TagSet.from_labels(some_alone, ["PER", "LOC"], "bios")
    assert tags.labels == some_alone
    ids, _ = tags.encode([("PER", 0, 1), ("LOC", 1, 2)], 2)
    assert [tags.labels[one] for one in ids] == ["B-PER", "S-LOC"]


@pytest.mark.parametrize(
    "labels",
    [
        ["PER", "LOC"],
        ["O", "PER", "LOC"],
        ["O", "B-PER", "I-PER", "B-LOC"],  # an entity of two places could not be written
        ["B-PER", "I-PER", "B-LOC", "I-LOC"],
        ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC"],
        ["O", "B-PER", "M-PER", "E-PER", "S-PER", "B-LOC", "M-LOC", "E-LOC", "S-LOC"],
    ],
)
def test_a_label_file_that_does_not_fit_gives_its_types_alone(labels):
    types = types_of(labels, "labels.txt")
    assert types == ["PER", "LOC"]
    tags = TagSet.from_labels(labels, types, "bio")
    assert sorted(tags.labels) == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"] and tags.labels[0] == "O"
    assert tags.types == types


def test_types_in_the_order_they_first_appear():
    assert types_of(["O", "I-LOC", "B-PER", "B-LOC", "I-PER", "S-GPE-NAM"], "labels.txt") == ["LOC", "PER", "GPE-NAM"]
    assert types_of(["name", "O", "GPE-NAM", "地址"], "labels.txt") == ["name", "GPE-NAM", "地址"]


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["O"], "no entity type in it"),
        (["O", "B-PER", "LOC"], "'LOC' is not a tag such as B-PER"),
        (["PER", "I-PER"], "'PER' is not a tag such as B-PER"),
        (["B-PER", "I-PER", "X"], "'X' is not a tag such as B-PER"),
    ],
)
def test_label_files_with_both_or_neither(labels, problem):
    with pytest.raises(UserError) as caught:
        types_of(labels, "some/labels.txt")
    message = str(caught.value)
    assert message.startswith(f"some/labels.txt: {problem}; ") and "one per line" in message
