"""Scored pairs, and queries with their positives and hard negatives: columns, json lines, bad rows, and the real files."""

import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertorch.data.rows import Row
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.errors import UserError
from bertorch.tasks.sentences.rows import read_positives, read_scored_pairs, scored_samples


@pytest.fixture
def write(tmp_path):
    """``write(content, name="a.tsv")`` -> path of a file with this content, gzipped where it is named so."""

    def to(content: str | bytes, name: str = "a.tsv") -> Path:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return to


def json_lines(*rows: object) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def texts_of(rows: list[Row]) -> list[tuple]:
    return [(row.line, *row.texts) for row in rows]


# Scored pairs


def test_scores_are_numbers_and_lines_are_those_of_the_file(write):
    path = write("\ufeff好吃\t很好吃\t5\r\n\r\n a\u2028b \tc\x85d\t 0.75 \r\ne\tf\t-1e-1\n\t\t\ng\th\t+3")
    assert read_scored_pairs(path) == [  # lines 2 and 5 are empty
        (1, ("好吃", "很好吃"), 5.0), (3, ("a\u2028b", "c\x85d"), 0.75), (4, ("e", "f"), -0.1), (6, ("g", "h"), 3.0),
    ]  # fmt: skip


@pytest.mark.parametrize("score", ["nan", "NaN", "inf", "-inf", "Infinity", "1e999", "x", "", "0,5", "3/5", "0x1", "一"])
def test_scores_that_are_no_finite_numbers_are_named_or_skipped(write, messages, score):
    path = write(f"a\tb\t1\nc\td\t{score}\ne\tf\t2\n")
    with pytest.raises(UserError) as caught:
        read_scored_pairs(path)
    problem = f"{path}:2: score {score!r} is not a number; write one such as 3 or 0.75"
    assert problem in str(caught.value) and "1 bad row;" in str(caught.value)
    assert read_scored_pairs(path, bad_rows="skip") == [(1, ("a", "b"), 1.0), (3, ("e", "f"), 2.0)]
    assert any(problem in message and "1 bad row left out" in message for message in messages)


def test_ten_bad_scores_are_shown_and_all_are_counted(write):
    path = write("".join(f"a\tb\t{'x' * 3000 if line % 2 else line}\n" for line in range(1, 31)))
    with pytest.raises(UserError) as caught:
        read_scored_pairs(path)
    message = str(caught.value)
    assert [f":{line}: score" in message for line in range(1, 31)] == [line % 2 == 1 and line < 20 for line in range(1, 31)]
    assert "... and 5 more" in message and "15 bad rows" in message and len(message) < 3000


def test_a_file_without_a_usable_score(write):
    with pytest.raises(UserError, match="no row with a score in it"):
        read_scored_pairs(write("a\tb\tx\nc\td\tnan\n"), bad_rows="skip")


@pytest.mark.parametrize("score_needed", [True, False])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("content", ["", "\ufeff", "\n \r\n"])
def test_an_empty_file(write, name, content, score_needed):
    with pytest.raises(UserError, match="no rows in it; the file is empty"):
        read_scored_pairs(write(content, name), score_needed=score_needed)
    with pytest.raises(UserError, match="no rows in it; the file is empty"):
        read_positives(write(content, name))


def test_pairs_without_scores_are_read_where_none_are_needed(write):
    path = write("a\tb\nc\td\n")
    with pytest.raises(UserError, match=r"a\.tsv:1: 2 columns where 3 are expected"):
        read_scored_pairs(path)
    pairs = read_scored_pairs(path, score_needed=False)
    assert [pair[:2] for pair in pairs] == [(1, ("a", "b")), (2, ("c", "d"))]
    assert all(math.isnan(score) for _, _, score in pairs)
    assert read_scored_pairs(write("a\tb\t1\n"), score_needed=False) == [(1, ("a", "b"), 1.0)]
    with pytest.raises(UserError, match=r"a\.tsv:2: score 'nan' is not a number"):  # not the same as none
        read_scored_pairs(write("a\tb\t1\nc\td\tnan\n"), score_needed=False)


def test_scores_in_json_lines(write):
    path = write(
        json_lines(
            {"sentence1": "a", "sentence2": "b", "label": 3}, {"sentence2": "d", "label": 0.25, "sentence1": "c"},
            {"sentence1": "e\u2028f", "sentence2": "g", "label": " 4 ", "other": None},
        ),
        "a.jsonl.gz",
    )  # fmt: skip
    expected = [(1, ("a", "b"), 3.0), (2, ("c", "d"), 0.25), (3, ("e\u2028f", "g"), 4.0)]
    assert read_scored_pairs(path) == expected


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("NaN", "score 'nan' is not a number"),
        ("-Infinity", "score '-inf' is not a number"),
        ("1e400", "score 'inf' is not a number"),
        ('"viel"', "score 'viel' is not a number"),
        ("true", "the label is bool"),
        ("[3, 4]", "2 labels where one is expected"),
        ("null", "no label under key 'label'"),
    ],
)
def test_json_labels_that_are_no_scores(write, label, problem):
    first = '{"text_a": "a", "text_b": "b", "label": 1}'
    path = write(f"{first}\n{first.replace('1', label)}\n", "a.jsonl")
    with pytest.raises(UserError) as caught:
        read_scored_pairs(path)
    assert f"{path}:2: {problem}" in str(caught.value)
    assert read_scored_pairs(path, bad_rows="skip") == [(1, ("a", "b"), 1.0)]


@pytest.mark.parametrize(
    ("content", "name", "columns"),
    [
        ("id\tscore\tq\td\n7\t2.5\tx, y\tz\n", "a.tsv", "q,d,score"),
        ("id\tscore\tq\td\n7\t2.5\tx, y\tz\n", "a.tsv", "q, d ,score"),
        ("7\t2.5\tx, y\tz\n", "a.tsv", "_,label,text_a,text_b"),
        ('text_b,label,text_a\nz,2.5,"x, y"\n', "a.csv", "text_a,text_b,label"),
        (json_lines({"q": "x, y", "d": "z", "score": 2.5}), "a.jsonl", "q,d,score"),
    ],
)
def test_scored_pairs_by_columns(write, content, name, columns):
    header = content.startswith(("id", "text"))
    assert read_scored_pairs(write(content, name), columns) == [(1 + header, ("x, y", "z"), 2.5)]


def test_a_header_row_is_refused_with_the_columns_that_then_work(write):
    path = write("sentence1\tsentence2\tscore\na\tb\t1.5\n")
    with pytest.raises(UserError, match='looks like a header row.*--columns "sentence1,sentence2,score"'):
        read_scored_pairs(path)
    assert read_scored_pairs(path, "sentence1,sentence2,score") == [(2, ("a", "b"), 1.5)]


plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\ufeff"), min_size=1, max_size=8)


@given(rows=st.lists(st.tuples(plain_text, plain_text, st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_is_written_is_read(write, rows):
    rows = [(a, b, score) for a, b, score in rows if a.strip() and b.strip()] or [("a", "b", 0.0)]
    path = write("".join(f"{a}\t{b}\t{score!r}\n" for a, b, score in rows))
    expected = [(line, (a.strip(), b.strip()), score) for line, (a, b, score) in enumerate(rows, 1)]
    assert read_scored_pairs(path) == expected
    assert texts_of(read_positives(path.rename(path.with_name("b.tsv")), columns="text_a,text_b,_")) == [
        (line, *texts) for line, texts, _ in expected
    ]


@pytest.mark.parametrize("name", ["sts-b-train.txt", "sts-b-dev.txt"])
def test_the_chinese_sts_benchmark(shared, name):
    path = shared / "data/sts/stsb_zh" / name
    cells = [line.split("\t") for line in path.read_bytes().decode("utf-8").split("\n") if line]
    assert len(cells) > 1000
    assert read_scored_pairs(path) == [(line, (a, b), float(score)) for line, (a, b, score) in enumerate(cells, 1)]


def test_scored_samples_have_two_sequences_a_row(write, tiny_model, tmp_path):
    encoder = TextTokenizer(load_tokenizer(tiny_model("bert")), 8)
    path, cache = write("房酒\t店\t2.5\n好\t房酒\t0\n"), tmp_path / "cache"
    for _ in range(2):  # tokenized, and from the cache
        samples = scored_samples(path, encoder, cache_dir=cache)
        assert samples.row_starts.tolist() == [0, 2, 4] and samples.lines.tolist() == [1, 2]
        assert samples.labels.tolist() == [2.5, 0.0]
        sequences = [samples.input_ids[a:b].tolist() for a, b in zip(samples.offsets, samples.offsets[1:], strict=False)]
        assert sequences == [encoder.encode([(text,)])[0][0] for text in ("房酒", "店", "好", "房酒")]
    assert len(list(cache.iterdir())) == 1
    unscored = scored_samples(write("房酒\t店\n"), encoder, score_needed=False, cache_dir=cache)
    assert len(unscored) == 1 and math.isnan(unscored.labels[0])


# Texts with positives


@pytest.mark.parametrize("content", ["a\tb\nc\td\r\n", "\ufeff a \tb\r\n\nc\t d"])
def test_two_columns_are_a_text_and_its_positive(write, content):
    rows = read_positives(write(content))
    assert [row.texts for row in rows] == [("a", "b"), ("c", "d")]
    assert rows[-1].line == (3 if "\n\n" in content else 2)
    assert {row.label for row in rows} == {None}


def test_a_third_column_is_a_hard_negative_where_one_is_asked_for(write):
    path = write("a\tb\tn\u2028 1\nc\td\t\ne\tf\t m \r\n")
    assert texts_of(read_positives(path)) == [(1, "a", "b"), (2, "c", "d"), (3, "e", "f")]
    for number in (1, 5):
        assert texts_of(read_positives(path, number)) == [(1, "a", "b", "n\u2028 1"), (2, "c", "d"), (3, "e", "f", "m")]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('"a, b",c\n', "a.csv.gz"),
        (json_lines({"text_a": "a, b", "text_b": " c "}), "a.jsonl"),
        (json_lines({"sentence1": "a, b", "sentence2": "c"}), "a.json.gz"),
        (json_lines({"query": "a, b", "pos": "c"}), "a.jsonl"),
        ("a, b\tc\n", "a.txt.gz"),
    ],
)
def test_formats_of_positives(write, content, name):
    assert read_positives(write(content, name)) == [Row(1, ("a, b", "c"), None)]


@pytest.mark.parametrize(
    ("content", "name", "columns"),
    [
        ("n\tq\tp\nno\ttext\tyes\n", "a.tsv", "q,p,n"),
        ("no,text,_,yes\n", "a.csv", "label,text_a,_,text_b"),
        (json_lines({"q": "text", "p": "yes", "n": "no", "query": "x", "pos": ["x"]}), "a.jsonl", "q,p,n"),
    ],
)
def test_positives_by_columns(write, content, name, columns):
    path = write(content, name)
    assert [row.texts for row in read_positives(path, 1, columns)] == [("text", "yes", "no")]
    assert [row.texts for row in read_positives(path, 0, columns)] == [("text", "yes")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a\tb\n \tc\n", "an empty text"),
        ("a\tb\nc\t\n", "an empty text"),
        ("a\tb\nc\n", "1 column where 2 are expected"),
        ("a\tb\nc\td\te\n", "3 columns where 2 are expected"),
        ("a\tb\tn\nc\td\n", "2 columns where 3 are expected"),
    ],
)
def test_bad_rows_of_positives_are_named_or_skipped(write, content, problem, messages):
    path = write(content)
    with pytest.raises(UserError) as caught:
        read_positives(path)
    assert f"{path}:2: {problem}" in str(caught.value)
    assert texts_of(read_positives(path, bad_rows="skip")) == [(1, "a", "b")]
    assert any(f"{path}:2: {problem}" in message for message in messages)


@pytest.mark.parametrize("num_hard_negatives", [0, 1])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a\tb\t1\nc\td\t0\n", "a.tsv"),
        ("\ufeffa\tb\t0\r\nc\td\t0\r\n", "a.tsv"),
        ("a,b,1\nc,d,1\n", "a.csv"),
        ("a\tb\t1\nc\td\t\n", "a.tsv"),
        ("a\tb\t2.5\nc\td\t4\n", "a.tsv"),
        (json_lines({"text_a": "a", "text_b": "b", "label": 1}, {"text_a": "c", "text_b": "d", "label": 0}), "a.jsonl"),
    ],
)
def test_labels_are_not_taken_for_hard_negatives(write, content, name, num_hard_negatives):
    path = write(content, name)
    with pytest.raises(UserError) as caught:
        read_positives(path, num_hard_negatives)
    assert f"{path}:1: the third column holds labels" in str(caught.value)
    assert "--positive_label 1" in str(caught.value)


def test_a_hard_negative_may_be_a_digit(write):
    path = write("一\t1\t0\n二\t2\t1\n三\t3\t四\n")
    assert [row.texts for row in read_positives(path, 1)] == [("一", "1", "0"), ("二", "2", "1"), ("三", "3", "四")]


@pytest.mark.parametrize(
    ("content", "name", "columns"),
    [
        ("a\tb\t1\nc\td\t0\n e \tf\t 1 \r\n", "a.tsv", None),
        ("a,b,1\nc,d,0\ne,f,1\n", "a.csv.gz", None),
        (json_lines(*({"text_a": a, "text_b": b, "label": c} for a, b, c in ("ab1", "cd0", "ef1"))), "a.jsonl", None),
        (json_lines(*({"q": a, "p": b, "y": int(c)} for a, b, c in ("ab1", "cd0", "ef1"))), "a.jsonl", "q,p,y"),
        ("1\tb\ta\n0\td\tc\n1\tf\te\n", "a.tsv", "label,text_b,text_a"),
    ],
)
def test_rows_with_the_positive_label(write, content, name, columns):
    path = write(content, name)
    assert read_positives(path, 0, columns, positive_label="1") == [Row(1, ("a", "b"), None), Row(3, ("e", "f"), None)]
    assert texts_of(read_positives(path, 0, columns, positive_label="0")) == [(2, "c", "d")]
    with pytest.raises(UserError, match="no row has the label '2' of --positive_label"):
        read_positives(path, 0, columns, positive_label="2")
    with pytest.raises(UserError, match="no hard negatives in it"):  # the label is none
        read_positives(path, 1, columns, positive_label="1")


def test_a_positive_label_needs_a_column_for_it(write):
    with pytest.raises(UserError, match=r"a\.tsv:1: 2 columns where 3 are expected"):
        read_positives(write("a\tb\n"), positive_label="1")
    with pytest.raises(UserError, match=r"a\.jsonl:1: no label under key 'label'"):
        read_positives(write(json_lines({"text_a": "a", "text_b": "b"}), "a.jsonl"), positive_label="1")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a\tb\nc\td\n", "a.tsv"),
        ("a\tb\t\nc\td\t \n", "a.tsv"),
        (json_lines({"text_a": "a", "text_b": "b"}), "a.jsonl"),
        (json_lines({"query": "a", "pos": ["b"]}, {"query": "a", "pos": ["b"], "neg": []}), "a.jsonl"),
    ],
)
def test_hard_negatives_that_are_asked_for_and_missing(write, content, name):
    path = write(content, name)
    with pytest.raises(UserError) as caught:
        read_positives(path, 1)
    assert str(caught.value).startswith(f"{path}: no hard negatives in it")
    assert {len(row.texts) for row in read_positives(path)} == {2}


# Queries


def test_each_positive_of_a_query_makes_a_row(write):
    first = json_lines(
        {"query": "q1", "pos": ["p1", " p2 "], "neg": ["n1", "n2", "n3"]}, {"query": ["q2"], "pos": "p3", "neg": "n4"}
    )
    second = json_lines({"neg": [], "pos": ["p\u20284"], "query": " q3\x85x ", "id": 7}, {"query": "q4", "pos": ["p5"]})
    content = "\ufeff" + first + "\r\n" + second
    path = write(content, "a.jsonl")
    pairs = [(1, "q1", "p1"), (1, "q1", "p2"), (2, "q2", "p3"), (4, "q3\x85x", "p\u20284"), (5, "q4", "p5")]
    negatives = [("n1", "n2", "n3"), ("n1", "n2", "n3"), ("n4",), (), ()]
    for number in (0, 1, 2, 3, 9):
        expected = [pair + found[:number] for pair, found in zip(pairs, negatives, strict=True)]
        assert texts_of(read_positives(path, number)) == expected
        assert texts_of(read_positives(write(content, "b.json.gz"), number)) == expected


GOOD = {"query": "q", "pos": ["p"], "neg": ["n"]}


def test_no_negative_may_be_said_in_several_ways(write):
    lines = [{**GOOD, "neg": ["n"]}, {**GOOD, "neg": []}, {**GOOD, "neg": ""}, {**GOOD, "neg": None}]
    rows = read_positives(write(json_lines(*lines), "a.jsonl"), 1)
    assert [row.texts for row in rows] == [("q", "p", "n"), ("q", "p"), ("q", "p"), ("q", "p")]


def test_a_bad_first_query_does_not_hide_the_others(write):
    path = write(json_lines({"query": "q"}, GOOD), "a.jsonl")
    assert [row.line for row in read_positives(path, 0, bad_rows="skip")] == [2]


def test_query_files_have_no_label_to_choose_by(write):
    with pytest.raises(UserError, match="--positive_label is for a third column"):
        read_positives(write(json_lines(GOOD), "a.jsonl"), 0, positive_label="1")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        *(
            (json.dumps({**GOOD, **change}), "not a query with its positives")
            for change in (
                {"query": ""}, {"query": " \u2028"}, {"query": None}, {"query": 3}, {"query": []}, {"query": ["a", "b"]},
                {"query": {"text": "a"}}, {"pos": []}, {"pos": [""]}, {"pos": ["p", ""]}, {"pos": None}, {"pos": [["p"]]},
                {"pos": ["p", 1]}, {"neg": [""]}, {"neg": ["n", " "]}, {"neg": [None]}, {"neg": [1.5]},
            )
        ),
        ('{"pos": ["p"], "neg": ["n"]}', "not a query with its positives"),
        ('{"query": "q", "neg": ["n"]}', "not a query with its positives"),
        ('{"query": "q", "pos": ["p"]', "not JSON"),
        ('["q", ["p"], ["n"]]', "not a JSON object"),
        ('{"query": "\\ud83d", "pos": ["p"]}', "an escape such as"),
    ],
)  # fmt: skip
def test_bad_queries_are_named_or_skipped(write, messages, line, problem, number):
    path = write(json_lines(GOOD) + line + "\r\n" + json_lines(GOOD), "a.jsonl")
    with pytest.raises(UserError) as caught:
        read_positives(path, number)
    assert f"{path}:2: {problem}" in str(caught.value) and "1 bad row;" in str(caught.value)
    expected = [(1, "q", "p", "n")[: 3 + number], (3, "q", "p", "n")[: 3 + number]]
    assert texts_of(read_positives(path, number, bad_rows="skip")) == expected
    assert sum(f"{path}:2: {problem}" in message for message in messages) == 1


def test_a_first_line_that_is_not_json_does_not_hide_the_queries(write):
    path = write("// queries\n" + json_lines(GOOD), "a.jsonl")
    assert texts_of(read_positives(path, 1, bad_rows="skip")) == [(2, "q", "p", "n")]
    with pytest.raises(UserError, match=r"a\.jsonl:1: not JSON"):
        read_positives(path)


def test_nothing_but_bad_queries(write):
    path = write(json_lines({"query": "q", "pos": []}, {"query": "", "pos": ["p"]}), "a.jsonl")
    with pytest.raises(UserError, match="2 bad rows"):
        read_positives(path)
    with pytest.raises(UserError, match="no rows in it that can be used"):
        read_positives(path, bad_rows="skip")


def test_half_a_gzip_file_is_named(write, tmp_path):
    packed = gzip.compress(json_lines(*[GOOD] * 50).encode())
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(packed[:-9])
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz: damaged gzip file"):
        read_positives(path)


def test_mined_negatives_of_a_real_file(shared):
    path = shared / "data/triples/bge_finetune_data.jsonl"
    queries = [json.loads(line) for line in path.read_bytes().decode("utf-8").split("\n") if line]
    assert len(queries) > 2000 and all(len(query["neg"]) > 3 for query in queries)
    for number in (0, 3, 100):
        expected = [
            (line, query["query"].strip(), positive.strip(), *(text.strip() for text in query["neg"][:number]))
            for line, query in enumerate(queries, 1)
            for positive in query["pos"]
        ]
        assert texts_of(read_positives(path, number)) == expected


def test_paraphrases_among_labelled_pairs_of_a_real_file(shared):
    path = shared / "data/pair/afqmc/train.txt"
    with pytest.raises(UserError, match="the third column holds labels.*--positive_label 1"):
        read_positives(path)
    cells = [line.split("\t") for line in path.read_bytes().decode("utf-8").split("\n") if line]
    expected = [(line, a.strip(), b.strip()) for line, (a, b, label) in enumerate(cells, 1) if label == "1"]
    assert 0 < len(expected) < len(cells)
    assert texts_of(read_positives(path, positive_label="1")) == expected
