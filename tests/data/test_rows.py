"""Rows of classification files: columns, headers, labels, bad rows, prediction, and the real files."""

import csv
import gzip
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertorch.data.files import as_stream, read_labels
from bertorch.data.rows import Row, read_rows
from bertorch.errors import UserError


def read(content: str | bytes, name: str = "a.tsv", **options) -> list[Row]:
    """The rows of a file with this name and content."""
    data = content.encode() if isinstance(content, str) else content
    return read_rows(name, stream=as_stream(data), **options)


def plain(rows: list[Row]) -> list[tuple]:
    return [(*row.texts, row.label) for row in rows]


def suggested(error: UserError) -> list[str]:
    return re.findall(r'--columns "([^"]+)"', str(error))


def test_a_text_and_a_label():
    rows = read("好吃\t正面\n\n 难吃 \t 负面 \r\n", labels=["负面", "正面"])
    assert rows == [Row(1, ("好吃",), "正面"), Row(3, ("难吃",), "负面")]


def test_two_texts_and_a_label():
    rows = read("a\tb\t0\nc\td\t1\n", is_text_pair=True, labels=["0", "1"])
    assert plain(rows) == [("a", "b", "0"), ("c", "d", "1")]
    assert [text for row in rows for text in row.texts] == ["a", "b", "c", "d"]


def test_a_gzipped_csv_file(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b'"a, b",1\n"c\nd",0\n'))
    assert read_rows(path) == [Row(1, ("a, b",), "1"), Row(2, ("c\nd",), "0")]


def test_three_columns_where_two_are_expected_point_to_the_flag_for_pairs():
    with pytest.raises(UserError) as caught:
        read("a\tb\t0\nc\td\t1\n")
    message = str(caught.value)
    assert "a.tsv:1: 3 columns where 2 are expected" in message and "a.tsv:2:" in message
    assert "--is_text_pair" in message and "2 bad rows" in message


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        ("a\t0\nb\n", {}, "a.tsv:2: 1 column where 2 are expected"),
        ("a\t0\nb\tc\td\te\n", {}, "a.tsv:2: 4 columns where 2 are expected"),
        ("a\tb\t0\nc\t0\n", {"is_text_pair": True}, "a.tsv:2: 2 columns where 3 are expected"),
        ("a\t0\n \t1\n", {}, "a.tsv:2: an empty text"),
        ("a\tb\t0\na\t\t1\n", {"is_text_pair": True}, "a.tsv:2: an empty text"),
        ("a\t0\nb\t2\n", {"labels": ["0", "1"]}, "a.tsv:2: label '2' is not one of the labels; known are 0, 1"),
        ("a\t0\nb\t\n", {"labels": ["0", "1"]}, "a.tsv:2: label '' is not one of the labels"),
    ],
)
def test_bad_rows_are_named_or_skipped(content, options, problem, messages):
    with pytest.raises(UserError) as caught:
        read(content, **options)
    assert problem in str(caught.value)
    assert "1 bad row;" in str(caught.value)
    assert [row.line for row in read(content, bad_rows="skip", **options)] == [1]
    assert any(problem in message and "1 bad row left out" in message for message in messages)


def test_a_text_where_the_label_belongs_does_not_fill_the_screen():
    with pytest.raises(UserError) as caught:
        read("0\t" + "长" * 3000 + "\n", labels=["0", "1"])
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("content", ["", "\n\n", "\ufeff", " \t \n"])
def test_a_file_without_rows(content):
    with pytest.raises(UserError, match="a.tsv: no rows in it; the file is empty"):
        read(content)


def test_a_file_of_nothing_but_bad_rows():
    for keep_all in (False, True):
        with pytest.raises(UserError, match="no rows in it that can be used"):
            read("a\nb\n", bad_rows="skip", keep_all=keep_all)


SST2 = "sentence\tlabel\nfine film \t1\nbad film \t0\n"
RTE = "index\tsentence1\tsentence2\tlabel\n0\tA b.\tA c.\tnot_entailment\n1\tD e.\tD f.\tentailment\n"
MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    '1\t70\t71\tHe "said so.\tHe said "so".\r\n0\t80\t81\tNo "quote\tYes.\r\n'
)


@pytest.mark.parametrize(
    ("content", "is_text_pair", "labels", "expected"),
    [
        (SST2, False, ["0", "1"], [("fine film", "1"), ("bad film", "0")]),
        (
            RTE, True, ["not_entailment", "entailment"],
            [("A b.", "A c.", "not_entailment"), ("D e.", "D f.", "entailment")],
        ),
        (MRPC, True, ["0", "1"], [('He "said so.', 'He said "so".', "1"), ('No "quote', "Yes.", "0")]),
        ("标签\t评论\n好\t很好吃\n", False, ["好"], [("很好吃", "好")]),
        ("text\ttarget\nabc\tx\n", False, ["x"], [("abc", "x")]),
        ("id\tscore\tquestion2\tquestion1\n1\t5\tq2\tq1\n", True, ["5"], [("q2", "q1", "5")]),
    ],
    ids=["sst2", "rte", "mrpc", "chinese", "target", "score"],
)  # fmt: skip
def test_a_header_row_is_refused_with_the_columns_that_then_work(content, is_text_pair, labels, expected):
    for known in (labels, None):
        with pytest.raises(UserError, match="a.tsv:1: this looks like a header row") as caught:
            read(content, is_text_pair=is_text_pair, labels=known)
        (columns,) = suggested(caught.value)
        assert plain(read(content, is_text_pair=is_text_pair, labels=known, columns=columns)) == expected


def test_a_header_with_two_texts_also_shows_how_to_read_pairs():
    with pytest.raises(UserError) as caught:
        read(RTE)
    single, pair = suggested(caught.value)
    assert plain(read(RTE, columns=single))[0] == ("A b.", "not_entailment")
    assert "--is_text_pair" in str(caught.value)
    assert plain(read(RTE, columns=pair, is_text_pair=True))[0] == ("A b.", "A c.", "not_entailment")


_HEADER_CELLS = (
    "text", "Text", "text_a", "text_b", "sentence", "sentence1", "标题", "content", "label", "Label", "target", "标签",
    "id", "index", "#1 ID", "#1 String",
)  # fmt: skip


@given(
    header=st.lists(st.sampled_from(_HEADER_CELLS), min_size=1, max_size=5, unique=True),
    is_text_pair=st.booleans(),
    label_needed=st.booleans(),
)
@settings(deadline=None)
def test_whatever_columns_a_refused_header_suggests_can_be_read(header, is_text_pair, label_needed):
    content = "\t".join(header) + "\n" + "\t".join(f"value {name}" for name in header) + "\n"
    options = {"is_text_pair": is_text_pair, "label_needed": label_needed}
    with pytest.raises(UserError, match="looks like a header row") as caught:
        read(content, **options)
    for place, columns in enumerate(suggested(caught.value)):
        row = read(content, columns=columns, **{**options, "is_text_pair": is_text_pair or place == 1})[-1]
        assert row.line == 2
        read_cells = {*row.texts, *([row.label] if row.label else [])}
        assert read_cells == {f"value {name}" for name in columns.split(",")}


def test_text_that_only_sounds_like_a_header_is_text():
    assert plain(read("标题\t1\n内容\t0\n", labels=["0", "1"])) == [("标题", "1"), ("内容", "0")]
    assert plain(read("title\tscore\nlabel\ttitle\n", labels=["score", "title"])) == [("title", "score"), ("label", "title")]
    assert plain(read("how do i reset my apple id\n", label_needed=False)) == [("how do i reset my apple id", None)]
    assert plain(read("标题很长\t内容很短\t1\n", is_text_pair=True)) == [("标题很长", "内容很短", "1")]


@pytest.mark.parametrize("header", ["text", "Sentence", "评论", "id\ttext", "label\tidx", "label"])
def test_a_header_row_of_a_file_without_labels_is_refused(header):
    content = f"{header}\n" + "\t".join("x" for _ in header.split("\t")) + "\n"
    with pytest.raises(UserError, match="looks like a header row"):
        read(content, label_needed=False, labels=["0", "1"])


@pytest.mark.parametrize(
    ("content", "columns", "options", "expected"),
    [
        ("n\tstars\treview\n1\t5\tgood\n", "review,stars", {}, [("good", "5")]),
        ("label\ttext\n5\tgood\n", "label,text", {}, [("good", "5")]),
        ("label\ttext\n5\tgood\n", " text , label ", {}, [("good", "5")]),
        ("text\tlabel\tother\nwrong\tx\tright\n", "other,label", {}, [("right", "x")]),
        ("b\ta\tl\nB\tA\tL\n", "a,b,l", {"is_text_pair": True}, [("A", "B", "L")]),
        ("text_b\tq\tl\nB\tA\tL\n", "text_b,q,l", {"is_text_pair": True}, [("A", "B", "L")]),
        ("5\tgood\n4\tfine\n", "label,text", {}, [("good", "5"), ("fine", "4")]),
        ("1\t70\t71\tA\tB\n", "label,_,_,text_a,text_b", {"is_text_pair": True}, [("A", "B", "1")]),
        ("B\tA\n", "text_b,text_a", {"is_text_pair": True, "label_needed": False}, [("A", "B", None)]),
    ],
)
def test_columns_by_header_name_or_by_position(content, columns, options, expected):
    assert plain(read(content, columns=columns, **options)) == expected
    as_csv = io.StringIO()
    csv.writer(as_csv).writerows(line.split("\t") for line in content.splitlines())
    assert plain(read(as_csv.getvalue(), name="a.csv", columns=columns, **options)) == expected


@pytest.mark.parametrize(
    ("content", "columns", "options", "problem"),
    [
        ("a\tb\nx\t1\n", "a,c", {}, "a.tsv:1: no column 'c' in the first row"),
        ("a\tlabel\nx\t1\n", "c,label", {}, "a.tsv:1: no column 'c'"),
        ("sentence\nx\n", "sentence,label", {}, "a.tsv:1: no column 'label'"),
        ("x\t1\n", "text", {}, "the column of 'label' is not named"),
        ("x\t1\n", "label", {}, "the column of 'text' is not named"),
        ("x\t1\n", "text_a,label", {}, "'text' is missing"),
        ("x\t1\n", "text,label", {"is_text_pair": True}, "the column of 'text_b' is not named"),
        ("x\ty\t1\n", "text,other,label", {}, "3 names for text, label"),
        ("text\tlabel\nx\t1\n", "text,text", {}, "'text' appears twice"),
        ("x\ty\t1\n", "text,label,label", {}, "'label' appears twice"),
        ("x\ty\t1\n", "text,label", {}, "a.tsv:1: 3 columns where 2 are expected"),
        ("a\tb\nx\t1\t2\n", "a,b", {}, "a.tsv:2: 3 columns where 2 are expected"),
        ("sentence\tlabel\nx\t1\n", "text,label", {}, '(sentence, label); say which columns to read with --columns "sent'),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit(content, columns, options, problem):
    with pytest.raises(UserError) as caught:
        read(content, columns=columns, **options)
    assert problem in str(caught.value)


def test_json_keys():
    lines = '{"text": " a ", "label": "x"}\n\n{"label": 1, "more": [], "text": "b"}\n'
    assert read(lines, name="a.jsonl") == [Row(1, ("a",), "x"), Row(3, ("b",), "1")]
    assert plain(read('{"content": "a", "label": " x "}', name="a.json", labels=["x"])) == [("a", "x")]
    pair = '{"sentence1": "a", "sentence2": "b", "label": "0"}'
    assert plain(read(pair, name="a.json", is_text_pair=True)) == [("a", "b", "0")]
    other = '{"q": "a", "d": "b", "relevant": 0}'
    assert plain(read(other, name="a.json", is_text_pair=True, columns="q,d,relevant")) == [("a", "b", "0")]
    assert plain(read(other, name="a.json", columns="q", label_needed=False)) == [("a", None)]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"label": "x"}', "no text under key 'text'"),
        ('{"text": 5, "label": "x"}', "no text under key 'text'"),
        ('{"text": "a"}', "no label under key 'label'"),
        ('{"text": "a", "label": null}', "no label under key 'label'"),
        ('{"text": "a", "label": ["x", "y"]}', "2 labels where one is expected"),
        ('{"text": "a", "label": 1.5}', "label '1.5' is not one of the labels"),
        ('{"text": "a", "label": true}', "the label is bool"),
        ('{"text": "", "label": "x"}', "an empty text"),
        (r'{"text": "\udc00", "label": "x"}', "half a character"),
        (r'{"text": "a", "label": "\udc00"}', "half a character"),
        ('{"text": "a", "label": "y"}', "label 'y' is not one of the labels"),
    ],
)
def test_json_rows_that_cannot_be_used(line, problem):
    with pytest.raises(UserError) as caught:
        read('{"text": "a", "label": "x"}\n' + line, name="a.jsonl", labels=["x", "1"])
    assert str(caught.value).startswith("a.jsonl:2: ") and problem in str(caught.value)


def test_json_without_a_known_key_names_the_keys_it_has():
    with pytest.raises(UserError, match=r"no key for the text \(text or sentence or content\); found body, label"):
        read('{"body": "a", "label": "x"}', name="a.jsonl")


def test_the_label_column_of_a_test_set_may_be_missing():
    options = {"labels": ["0", "1"], "label_needed": False}
    assert plain(read("a\nb\n", **options)) == [("a", None), ("b", None)]
    assert plain(read("a\t0\nb\t1\n", **options)) == [("a", "0"), ("b", "1")]
    assert plain(read("a\tb\n", is_text_pair=True, **options)) == [("a", "b", None)]
    assert plain(read("a\tb\t1\n", is_text_pair=True, **options)) == [("a", "b", "1")]
    assert plain(read('{"text": "a"}', name="a.json", **options)) == [("a", None)]
    with pytest.raises(UserError, match="a.tsv:2: 2 columns where 1 are? expected"):
        read("a\nb\t1\n", **options)
    with pytest.raises(UserError, match="a.tsv:1: 1 column where 2 are expected"):
        read("a\nb\n", labels=["0", "1"])


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "columns"),
    [
        ("stars\treview\n5\tgood\n", "n\treview\n1\tgood\n", "review,stars"),
        ("sentence\tlabel\ngood\t5\n", "index\tsentence\n0\tgood\n", "sentence,label"),
        ("_\tgood\t5\n", "_\tgood\n", "_,text,label"),
        ("5\tgood\n", "good\n", "label,text"),
    ],
)
def test_the_same_columns_read_the_files_with_labels_and_the_test_set_without(labelled, unlabelled, columns):
    assert plain(read(labelled, columns=columns)) == [("good", "5")]
    assert plain(read(labelled, columns=columns, label_needed=False)) == [("good", "5")]
    assert plain(read(unlabelled, columns=columns, label_needed=False)) == [("good", None)]


def test_prediction_loses_no_row(messages):
    """What is blank, a side of a pair included, and what cannot be used keeps its place, without texts."""
    content = "a\t0\n\nb\n \t1\nc\t1\n  \n"
    rows = read(content, label_needed=False, keep_all=True, bad_rows="skip")
    assert [(row.line, row.texts) for row in rows] == [
        (1, ("a",)), (2, ()), (3, ()), (4, ()), (5, ("c",)), (6, ()),
    ]  # fmt: skip
    assert messages[-1] == "a.tsv: 3 blank rows (the first in line 2) keep their places, with empty answers"
    pairs = read("a\tb\n\nc\nd\te\n\tf\ng\t \n", is_text_pair=True, label_needed=False, keep_all=True, bad_rows="skip")
    assert [row.texts for row in pairs] == [("a", "b"), (), (), ("d", "e"), (), ()]
    assert messages[-1] == "a.tsv: 3 blank rows (the first in line 2) keep their places, with empty answers"
    quoted = read('a\n""\n"b\nc"\n\n', name="a.csv", label_needed=False, keep_all=True)
    assert [(row.line, row.texts) for row in quoted] == [(1, ("a",)), (2, ()), (3, ("b\nc",)), (5, ())]
    lines = '{"text": "a"}\n{"text"\n{"text": ""}\n[]\n{"txt": "b"}\n\n{"text": "c"}\n'
    as_json = read(lines, name="a.jsonl", label_needed=False, keep_all=True, bad_rows="skip")
    assert [(row.line, row.texts) for row in as_json] == [
        (1, ("a",)), (2, ()), (3, ()), (4, ()), (5, ()), (6, ()), (7, ("c",)),
    ]  # fmt: skip
    assert messages[-1] == "a.jsonl: 2 blank rows (the first in line 3) keep their places, with empty answers"


def test_where_labels_are_needed_an_empty_text_is_a_bad_row_and_a_blank_line_is_not():
    """As in training, so that figures are of the same rows whether answers are written or not."""
    content = "a\t0\n\n\t1\nb\t1\n"
    for keep_all in (False, True):
        with pytest.raises(UserError, match="^a.tsv:3: an empty text; .*\na.tsv: 1 bad row"):
            read(content, keep_all=keep_all)
    rows = read(content, keep_all=True, bad_rows="skip")
    assert [(row.line, row.texts, row.label) for row in rows] == [
        (1, ("a",), "0"), (2, (), None), (3, (), None), (4, ("b",), "1"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_a_file_of_blank_lines(name):
    with pytest.raises(UserError, match=f"^{name}: no rows in it; every row is blank"):
        read("\n\n", name=name, label_needed=False, keep_all=True)


def test_prediction_stops_at_a_bad_row_unless_told_otherwise():
    for content, name in (("a\nb\tc\td\n", "a.tsv"), ('{"text": "a"}\n{\n', "a.jsonl")):
        with pytest.raises(UserError, match=f"{name}:2: "):
            read(content, name=name, label_needed=False, keep_all=True)


# Pieces that arbitrary bytes seldom form by themselves.
_PIECES = [
    b"a", "好".encode(), b"0", b"1", b"\t", b",", b"\n", b"\r\n", b'"', b" ", b"\0", b"\xff", b"\xef\xbb\xbf", b"text",
    b"label", b"{", b"}", b"[", b"]", b":", b'{"text": "a", "label": 1}', b'{"text": "', b'"label"', b"\\ud800", b"\\",
    b"null", b"true", b"1e999", b"NaN", "\u2028".encode(), b"\x1f\x8b\x08\x00",
]  # fmt: skip


@pytest.mark.parametrize("ending", [".tsv", ".csv", ".jsonl", ".tsv.gz", ".csv.gz"])
def test_arbitrary_bytes_give_rows_or_a_user_error(ending, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / f"a{ending}"

    @given(
        data=st.one_of(st.binary(max_size=60), st.lists(st.sampled_from(_PIECES), max_size=25).map(b"".join)),
        packed=st.booleans(),
        cut=st.integers(0, 10),
        columns=st.sampled_from([None, "text,label", "label,_,text", "a,0", "text_a,text_b,label", "_", ","]),
        labels=st.sampled_from([None, ["0", "1"]]),
        flags=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    )
    @settings(deadline=None, max_examples=120)
    def check(data, packed, cut, columns, labels, flags):
        if packed and ending.endswith(".gz"):
            data = gzip.compress(data, compresslevel=1)
            data = data[: len(data) - cut]
        path.write_bytes(data)
        is_text_pair, label_needed, keep_all, skip = flags
        try:
            rows = read_rows(
                path, is_text_pair, labels, columns, "skip" if skip else "error", label_needed, keep_all=keep_all
            )
        except UserError:
            return
        assert rows
        for row in rows:
            assert len(row.texts) == (2 if is_text_pair else 1) or (keep_all and not row.texts)
            assert all(row.texts)
            assert row.label in labels if labels and row.label is not None else row.texts or row.label is None
            "".join([*row.texts, row.label or ""]).encode()  # a tokenizer takes nothing that has no UTF-8

    check()


@pytest.mark.parametrize(
    ("name", "rows", "flags"),
    [
        ("classification/chnsenticorp/train.tsv", 9_600, {}),
        ("classification/chnsenticorp/dev.tsv", 1_200, {}),
        ("classification/tnews/train.tsv", 53_360, {}),
        ("classification/tnews/dev.tsv", 10_000, {}),
        ("classification/csldcp/train_few_all.json", 2_036, {}),
        ("classification/csldcp/dev_few_all.json", 2_068, {}),
        ("classification/sst2/train.tsv.gz", 60_614, {"columns": "sentence,label", "labels": ["0", "1"]}),
        ("classification/sst2/dev.tsv", 6_735, {"columns": "sentence,label", "labels": ["0", "1"]}),
        ("pair/afqmc/train.txt", 34_334, {"is_text_pair": True}),
        ("pair/afqmc/dev.txt", 4_316, {"is_text_pair": True}),
        ("pair/afqmc/test.txt", 3_861, {"is_text_pair": True, "label_needed": False}),
        ("pair/rte/train.tsv", 2_490, {"is_text_pair": True, "columns": "sentence1,sentence2,label"}),
        ("pair/rte/dev.tsv", 277, {"is_text_pair": True, "columns": "label,sentence1,sentence2"}),
        ("pair/mrpc/msr_paraphrase_train.txt", 4_076, {"is_text_pair": True, "columns": "#1 String,#2 String,Quality"}),
        ("pair/mrpc/msr_paraphrase_test.txt", 1_725, {"is_text_pair": True, "columns": "#1 String,#2 String,Quality"}),
    ],
)  # fmt: skip
def test_the_real_files_read_to_the_number_of_rows_they_have(shared, name, rows, flags):
    path = shared / "data" / name
    label_file = path.parent / "labels.txt"
    if label_file.is_file():
        flags = {**flags, "labels": read_labels(label_file)}
    found = read_rows(path, **flags)
    assert len(found) == rows
    if flags.get("label_needed", True):
        labels = {row.label for row in found}
        wanted = flags.get("labels") or labels
        assert labels == set(wanted) and len(labels) == (67 if "csldcp" in name else 15 if "tnews" in name else 2)
    else:
        assert {row.label for row in found} == {None}


@pytest.mark.parametrize(
    ("name", "is_text_pair"),
    [
        ("classification/sst2/dev.tsv", False),
        ("pair/rte/dev.tsv", True),
        ("pair/mrpc/msr_paraphrase_test.txt", True),
    ],
)
def test_the_real_headers_suggest_columns_that_work(shared, name, is_text_pair):
    path = Path(shared) / "data" / name
    with pytest.raises(UserError, match=":1: this looks like a header row") as caught:
        read_rows(path, is_text_pair)
    (columns,) = suggested(caught.value)
    rows = read_rows(path, is_text_pair, columns=columns)
    assert len({row.label for row in rows}) == 2
    assert min(len(text) for row in rows for text in row.texts) > 1


def test_a_real_file_as_json_lines_gives_the_same_rows(shared, tmp_path):
    rows = read_rows(shared / "data/pair/afqmc/dev.txt", is_text_pair=True)
    path = tmp_path / "dev.jsonl"
    with open(path, "w", encoding="utf-8") as handle:
        for row in rows:
            handle.write(json.dumps({"text_a": row.texts[0], "text_b": row.texts[1], "label": row.label}) + "\n")
    assert read_rows(path, is_text_pair=True) == rows
