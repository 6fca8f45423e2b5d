"""What evaluations keep for the report, by hand."""

import json
import math

import numpy as np
import pytest

from bertorch.data.tokenizing import Samples
from bertorch.tasks.classification.report import calibration, classification_details, confusion_counts
from bertorch.tasks.entities.report import mistakes
from bertorch.tasks.reading.answers import Candidate, Reading
from bertorch.tasks.reading.report import reading_details
from bertorch.tasks.reading.rows import Question
from bertorch.tasks.sentences.report import label_groups, principal_plane, similarity_details
from bertorch.tasks.sentences.scores import cosines


def samples_of(labels, sequences=1):
    """Row r stands in line r + 1, and each of its sequences holds the tokens 10r and 10r + 1."""
    rows = len(labels)
    ids = np.repeat(np.arange(rows), 2 * sequences) * 10 + np.tile([0, 1], rows * sequences)
    return Samples(
        input_ids=ids.astype(np.int32),
        offsets=np.arange(rows * sequences + 1) * 2,
        second=np.full(rows * sequences, 2, dtype=np.int32),
        text_hashes=np.arange(rows * sequences, dtype=np.uint64),
        row_starts=np.arange(rows + 1) * sequences,
        labels=np.asarray(labels),
        lines=np.arange(rows) + 1,
        uncut_lengths=np.full(rows * sequences, 2),
        unknown=0,
    )


def log(*probabilities):
    return [math.log(one) for one in probabilities]


class TestClassification:
    def test_calibration(self):
        """Bins hold their upper edge; the error is (|1.15 - 1| + |0.65 - 0| + |1.95 - 2|) / 5."""
        bins, error = calibration(np.array([0.55, 0.65, 0.95, 1.0, 0.6]), np.array([True, False, True, True, False]))
        assert [one["count"] for one in bins] == [0, 0, 0, 0, 0, 2, 1, 0, 0, 2]
        assert bins[5] == {"count": 2, "confidence": pytest.approx(0.575), "accuracy": 0.5}
        assert bins[9] == {"count": 2, "confidence": pytest.approx(0.975), "accuracy": 1.0}
        assert bins[0] == {"count": 0, "confidence": None, "accuracy": None}
        assert error == pytest.approx(0.17)

    def test_calibration_of_nothing_and_of_the_edges(self):
        assert calibration(np.zeros(0), np.zeros(0, dtype=bool))[1] == 0
        bins, error = calibration(np.array([0.0, 1.0]), np.array([False, True]))
        assert (bins[0]["count"], bins[9]["count"], error) == (1, 1, 0)

    def test_confusion(self):
        counts = confusion_counts(np.array([0, 2, 2, 1, 0]), np.array([0, 0, 2, 1, 1]), 3)
        assert counts.tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1]]

    def test_counts_and_the_surest_wrong_answers_first(self):
        logits = np.array([log(0.9, 0.1), log(0.3, 0.7), log(0.2, 0.8), log(0.6, 0.4)])
        found = classification_details(logits, samples_of([0, 0, 0, 1]))["classification"]
        assert (found["right"], found["labelled"], found["predicted"]) == ([1, 0], [3, 1], [2, 2])
        assert found["confusion"] == [[1, 2], [1, 0]] and found["wrong"] == 3
        assert [one["line"] for one in found["examples"]] == [3, 2, 4]
        assert found["examples"][0] == {
            "line": 3, "token_ids": [20, 21], "label": 0, "predicted": 1, "confidence": 0.8, "label_probability": 0.2,
        }  # fmt: skip
        json.dumps(found)

    def test_bounded_in_labels_and_examples(self):
        labels = np.arange(100) % 40
        logits = np.eye(40)[(labels + (np.arange(100) >= 20)) % 40]  # 80 wrong
        found = classification_details(logits, samples_of(labels))["classification"]
        assert "confusion" not in found and len(found["confused"]) == 40 and len(found["examples"]) == 50
        assert found["confused"][0] == [0, 1, 2] and sum(count for *_, count in found["confused"]) == found["wrong"] == 80


class TestSimilarity:
    def test_points_on_a_line_need_one_component(self):
        points, shares = principal_plane(np.array([[0.0, 0, 0], [1, 2, 2], [2, 4, 4]]))
        np.testing.assert_allclose(np.abs(points), [[3, 0], [0, 0], [3, 0]], atol=1e-9)
        assert points[:, 0].tolist()[np.abs(points[:, 0]).argmax()] > 0
        assert shares == pytest.approx([1, 0])

    @pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.ones((3, 4)), np.zeros((2, 1))])
    def test_a_plane_of_too_little(self, vectors):
        points, _ = principal_plane(vectors)
        assert points.shape == (len(vectors), 2) and not points.any()

    def test_groups(self):
        names, groups = label_groups(np.array([2, 0, 2]))
        assert (names, groups.tolist()) == (["0", "2"], [1, 0, 1])
        names, groups = label_groups(np.array([0.5, 1.0, 0.5]))
        assert (names, groups.tolist()) == (["0.5", "1"], [0, 1, 0])
        names, groups = label_groups(np.array([0, 0.1, 0.2, 0.3, 0.4, 3.0, 3.1, 3.9, 4.0]))
        assert (names, groups.tolist()) == (["0 to 1", "3 to 4"], [0] * 5 + [1] * 4)

    def test_histograms_map_and_disagreement(self):
        u = np.array([[1.0, 0], [1, 0], [1, 0], [1, 0]])
        v = np.array([[1.0, 0], [0, 1], [-1, 0], [1, 1]])
        scores = np.array([0.0, 1, 1, 2])
        found = similarity_details(u, v, samples_of(scores, sequences=2))["sentence_vectors"]
        assert found["groups"] == ["0", "1", "2"] and [sum(bins) for bins in found["histograms"]] == [1, 2, 1]
        assert found["edges"][0] == -1 and found["edges"][-1] == 1 and found["means"] == pytest.approx([1, -0.5, 2**-0.5])
        assert found["histograms"][0][-1] == found["histograms"][1][0] == 1  # cosine 1 in the last bin, -1 in the first
        assert [pair["group"] for pair in found["map"]] == [0, 1, 1, 2]
        assert found["map"][2]["token_ids"] == [20, 21, 20, 21] and np.shape(found["map"][2]["points"]) == (2, 2)
        first = found["examples"][0]  # the highest cosine and the lowest score
        assert (first["line"], first["cosine"], first["cosine_place"], first["score_place"]) == (1, 1, 1, 0)
        assert cosines(u, v) == pytest.approx([1, 0, -1, 2**-0.5])
        json.dumps(found)

    def test_equal_vectors_and_many_rows(self):
        found = similarity_details(np.ones((300, 4)), np.ones((300, 4)), samples_of(np.arange(300) % 2, 2))[
            "sentence_vectors"
        ]
        assert len(found["map"]) == 100 and sum(map(sum, found["histograms"])) == 300 and "examples" not in found


def test_what_became_of_an_entity():
    per, loc, org = ("PER", 0, 2), ("LOC", 5, 8), ("ORG", 10, 12)
    assert mistakes({per}, {per}) == []
    assert mistakes({per}, {("LOC", 0, 2)}) == [("wrong type", per, ("LOC", 0, 2))]
    assert mistakes({loc}, {("LOC", 5, 7)}) == [("wrong bounds", loc, ("LOC", 5, 7))]
    assert mistakes({loc}, {("ORG", 4, 7)}) == [("both wrong", loc, ("ORG", 4, 7))]
    assert mistakes({loc}, {("ORG", 5, 8), ("LOC", 6, 8)}) == [
        ("wrong type", loc, ("ORG", 5, 8))
    ]  # both overlap: one mistake
    assert mistakes({per, org}, {("LOC", 2, 5)}) == [
        ("missed", per, None), ("invented", None, ("LOC", 2, 5)), ("missed", org, None),
    ]  # fmt: skip


def test_wrong_answers_beside_the_right_ones():
    context = "x" * 50 + "Paris in France" + "y" * 50
    start = context.index("Paris")
    questions = [
        Question(1, "a", "Where?", context, ["Paris", "paris"], "span", start, start + 5),
        Question(5, "b", "When?", context, [""], "none"),
        Question(9, "c", "Who?", context, ["France"], "span", start + 9, start + 15),
    ]
    readings = [
        Reading([Candidate("span", "PARIS.", 0, 6, 3.0), Candidate("span", "x", 0, 1, 1.0)], 0.0),  # right, but for signs
        Reading([Candidate("span", "in", 0, 2, 2.0)], 1.0),
        Reading([Candidate("span", "Paris in France", 0, 2, 1.0)], -math.inf),
    ]
    found = reading_details(readings, questions, "squad", 0.0)["reading"]
    assert found["kinds"] == [["none", "span", 1], ["span", "span", 2]]
    surest, other = found["examples"]
    assert (surest["line"], surest["predicted"], surest["probability"], surest["f1"]) == (9, "Paris in France", 1.0, 0.5)
    assert surest["passage"] == ["…" + context[start + 9 - 40 : start + 9], "France", "y" * 40 + "…"]
    assert (other["line"], other["probability"]) == (5, pytest.approx(math.e / (1 + math.e), abs=1e-4))
    assert other["answers"] == [""] and other["passage"][1] == ""
    # The second scores no answer 1 lower than its best.
    found = reading_details(readings, questions, "squad", -1.5)["reading"]
    assert found["kinds"] == [["none", "none", 1], ["span", "span", 2]] and len(found["examples"]) == 1
