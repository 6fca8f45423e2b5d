"""Labels that no label file names: found in the training set, or in a class.txt beside it."""

import pytest

from bertorch.data.rows import find_labels, labels_in, read_rows
from bertorch.errors import UserError
from bertorch.tasks.entities.rows import find_types

NAMES = ["财经", "房产", "股票"]


@pytest.fixture
def write(tmp_path):
    def make(labels, name="train.txt"):
        path = tmp_path / name
        path.write_text("".join(f"文本{row}\t{label}\n" for row, label in enumerate(labels)), encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["b", "a", "b", "C"], ["C", "a", "b"]),
        (["10", "9", "-1", "2", "10"], ["-1", "2", "9", "10"]),
        (["1.5", "1", "0.25"], ["0.25", "1", "1.5"]),
        (["差", "10", "9"], ["9", "10", "差"]),
    ],
)
def test_labels_of_a_training_set_are_sorted_and_said(write, labels, expected, messages):
    assert find_labels(write(labels)) == expected
    assert any(f"{len(expected)} labels in it" in message and "--label_file" in message for message in messages)


def test_columns_and_pairs_are_read_as_they_are_told(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("b\tx\ty\na\tx\tz\n", encoding="utf-8")
    assert find_labels(path, True, columns="label,text_a,text_b") == ["a", "b"]


def test_indices_beside_a_list_of_names(write, tmp_path, messages):
    """THUCNews: text TAB 0 to 9; class.txt has a name a line. The list decides, a class without rows among it too."""
    (tmp_path / "class.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    assert find_labels(write(["1", "0", "1"])) == NAMES
    assert any("class.txt" in message for message in messages)
    rows = read_rows(write(["1", "0", "2"]), labels=NAMES)
    assert [row.label for row in rows] == ["房产", "财经", "股票"]
    assert any("from 0" in message for message in messages)


@pytest.mark.parametrize(
    ("names", "labels"), [(NAMES, ["1", "3"]), (NAMES, ["a", "b"]), (["1", "0"], ["0", "1"]), (["0", "x"], ["0", "1"])]
)
def test_a_list_that_is_not_that_of_the_indices_is_left_alone(write, tmp_path, names, labels):
    (tmp_path / "class.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    assert find_labels(write(labels)) == labels


def test_a_file_has_names_or_indices_and_not_both(write):
    with pytest.raises(UserError, match=r"train\.txt:2: label '1' is not one of the labels"):
        read_rows(write(["财经", "1"]), labels=NAMES)
    with pytest.raises(UserError, match=r"train\.txt:2: label '3' is not one of the labels"):
        read_rows(write(["0", "3"]), labels=NAMES)
    with pytest.raises(UserError, match=r"train\.txt:1: label '0' is not one of the labels"):
        read_rows(write(["0", "2"]), labels=["1", "2"])


def test_types_of_entities(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("小 B-PER\n明 I-PER\n\n北 B-LOC\n京 I-LOC\n\n好 O\n", encoding="utf-8")
    assert find_types(path) == ["LOC", "PER"]
    path.write_text("好 O\n", encoding="utf-8")
    with pytest.raises(UserError, match="no entity in it; give the types or tags with --label_file"):
        find_types(path)


@pytest.mark.parametrize(
    ("name", "content", "columns", "expected"),
    [
        ("a.tsv", "a\troom|food\nb\t\nc\tfood\n", None, ["food", "room"]),
        ("a.csv", "body,tags\na,room | food\nb,food\n", "body,tags", ["food", "room"]),
        ("a.jsonl", '{"text": "a", "label": ["room", "food"]}\n{"text": "b", "label": []}\n', None, ["food", "room"]),
        ("a.csv", "id,body,toxic,obscene,n\n7,a,0,1,3\n1,b,1,0,1\n", "body", ["toxic", "obscene"]),
        ("a.jsonl", '{"text": "a", "room": 1, "food": false, "id": 1}\n{"text": "b", "room": 0, "food": true, "id": 2}\n',
         None, ["room", "food"]),
    ],
)  # fmt: skip
def test_several_labels_of_a_training_set(tmp_path, name, content, columns, expected):
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    labels = find_labels(path, several=True, columns=columns)
    assert labels == expected
    assert sum(len(labels_in(row.label)) for row in read_rows(path, columns=columns, label_columns=labels)) > 1


def test_counts_are_said(write, messages):
    find_labels(write(["b", "a|b", "b"]), several=True)
    assert any("2 labels in it (a 1, b 3)" in message for message in messages)
    find_labels(write(["b", "a", "b"]))
    assert any("2 labels in it (a 1, b 2)" in message for message in messages)


def test_a_set_without_any_label(write):
    with pytest.raises(UserError, match="no row has a label; give the labels with --label_file"):
        find_labels(write(["", " | "]), several=True)
