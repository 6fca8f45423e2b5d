"""Layouts of files: separators that are found and said, lists of json, GLUE's tables, and rows with more than is named."""

import gzip
import json

import pytest

from bertorch.data.files import BadRows, find_format, read_cells
from bertorch.data.rows import read_rows
from bertorch.errors import UserError
from bertorch.tasks.entities.rows import read_documents
from bertorch.tasks.sentences.rows import read_positives

ROWS = [("房间很干净, 很好; 下次还会来", "1"), ('"贵"了一点', "0"), ("早餐很差", "0")]


@pytest.fixture
def write(tmp_path):
    def make(content: str, name: str):
        path = tmp_path / name
        data = content.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return make


def table(separator: str) -> str:
    if separator == "\t":
        return "".join(f"{text}\t{label}\n" for text, label in ROWS)
    quoted = ((text.replace('"', '""'), label) for text, label in ROWS)
    return "".join(f'"{text}"{separator}{label}\n' for text, label in quoted)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.csv.gz"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_by_its_separator_whatever_its_ending(write, messages, separator, name):
    rows = read_rows(write(table(separator), name))
    assert [(*row.texts, row.label) for row in rows] == ROWS
    by_ending = separator == ("," if "csv" in name else "\t")
    said = [message for message in messages if "between columns" in message]
    assert len(said) == (0 if by_ending else 1)
    assert by_ending or {",": "comma", ";": "semicolon", "\t": "TAB"}[separator] in said[0]


def test_what_is_told_is_not_looked_for(write):
    path = write("a;b\t1\nc;d\t0\n", "a.csv")
    assert find_format(path) == "tsv"
    assert [(*row.texts, row.label) for row in read_rows(path, kind="ssv")] == [("a", "b\t1"), ("c", "d\t0")]


def test_commas_of_texts_are_no_separators(write):
    """Rows that lack their label stay bad rows; texts alone, one a line, stay whole."""
    path = write("好,的\n很,好,啊\n不错\n", "a.txt")
    assert find_format(path, columns=2) == "tsv"
    with pytest.raises(UserError, match="1 column where 2 are expected"):
        read_rows(path)
    path = write("好,的\n很,好\n", "a.txt")
    assert [row.texts for row in read_rows(path, label_needed=False)] == [("好,的",), ("很,好",)]
    path = write("好,的\t1\n很,好\t0\n", "a.tsv")
    assert [row.texts for row in read_rows(path)] == [("好,的",), ("很,好",)]


def test_a_quoted_cell_that_goes_on_behind_the_first_lines(write):
    path = write("a;1\n" * 48 + '"b\n' + "c\n" * 10 + '";0\n', "a.csv")
    rows = read_rows(path)
    assert (len(rows), rows[48].texts[0].split(), rows[48].label) == (49, ["b", *"c" * 10], "0")


LIST = [{"text": "房间 }]\n干净", "label": "1"}, {"label": 0, "text": "[早餐差", "more": [{}, [1]]}]


@pytest.mark.parametrize("ending", [".json", ".json.gz"])
@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"indent": 0}, {"separators": (",\n", ":\n")}], ids=str)
def test_a_list_of_json(write, options, ending):
    path = write(json.dumps(LIST, ensure_ascii=False, **options), f"a{ending}")
    assert find_format(path) == "json"
    assert [(row.texts[0], row.label) for row in read_rows(path)] == [("房间 }]\n干净", "1"), ("[早餐差", "0")]


def test_objects_over_several_lines_and_the_lines_they_begin_in(write):
    path = write('{\n "text": "a",\n "label": 1\n}\n\n{"text": "b",\n"label": 0}\n  {\n"text": "c", "label": 1}', "a.json")
    assert find_format(path) == "json"
    assert [(row.line, row.texts[0], row.label) for row in read_rows(path)] == [(1, "a", "1"), (6, "b", "0"), (8, "c", "1")]


def test_lines_of_json_stay_lines(write):
    path = write('{"text": "a", "label": 1}\n{"text": "b" "label": 1}\n', "a.json")
    assert find_format(path) == "jsonl"
    with pytest.raises(UserError, match=r"a\.json:2: not JSON"):
        read_rows(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[\n{"text": "a", "label": 1},\n{"text": "b" "label": 1}\n]', r"a\.json:3: not JSON"),
        ('[\n{"text": "a", "label": 1},\n{"text": "b",\n', r"a\.json:3: not JSON"),
        ('[\n{"text": "a", "label": 1},\n"b"\n]', r"a\.json:3: not a JSON object"),
        ('[\n{"text": "a", "label": 1},\n{"text": "\\ud83d", "label": 1}]', r"a\.json:3: .*half a character"),
        ("[" * 100_000, r"a\.json: no rows in it"),
        ('[\n{"text": "a", "label": ' + "9" * 5000 + "}]", r"a\.json:2: .*too many digits"),
        ('[{"text": ' + "[" * 100_000 + "}]", r"a\.json:1: .*nested too deeply"),
    ],
)
def test_lists_that_cannot_be_read_name_the_line(write, content, problem):
    with pytest.raises(UserError, match=problem):
        read_rows(write(content, "a.json"))


def test_a_long_list_is_read_as_it_comes(write):
    """In time and memory that grow with its rows: the first row is there before the last is read."""
    rows = [{"text": "长" * 20, "label": row} for row in range(20_000)]
    for indent in (None, 1):
        path = write(json.dumps(rows, indent=indent), "a.json")
        cells = read_cells(path, BadRows(path), kind="json")
        assert next(cells) == (1 if indent is None else 2, rows[0])
        assert [row for _, row in cells] == rows[1:]


def test_lists_of_entities_and_queries(write):
    cluener = json.dumps({"text": "小明在北京", "label": {"name": {"小明": [[0, 1]]}}}, ensure_ascii=False, indent=4)
    documents = read_documents(write(f"{cluener}\n{cluener}\n", "a.json"), None)
    assert [(document.text, document.entities) for document in documents] == [("小明在北京", [("name", 0, 2)])] * 2
    listed = write('[{"text": "小明", "entities": [[0, 2, "PER"]]},\n{"text": "好", "entities": []}]', "b.json")
    assert [document.entities for document in read_documents(listed, ["PER"])] == [[("PER", 0, 2)], []]
    queries = write('[{"query": "a", "pos": ["b", "c"], "neg": []}]', "c.json")
    assert [row.texts for row in read_positives(queries)] == [("a", "b"), ("a", "c")]


GLUE = {
    "CoLA": (
        "gj04\t1\t\tOur friends won't buy.\ncj99\t0\t*\tThe more.\n", "_,label,_,text", {}, ["Our friends won't buy.", "1"],
    ),
    "QQP": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n1\t2\t3\tWhy?\tWhat?\t0\n", "question1,question2,is_duplicate",
        {"is_text_pair": True}, ["Why?", "What?", "0"],
    ),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        '0\tmain\tMSR\t2012\t0001\tnone\tnone\tA "plane.\tA man.\t5.000\n', "sentence1,sentence2,score",
        {"is_text_pair": True}, ['A "plane.', "A man.", "5.000"],
    ),
    "MNLI": (
        "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
        "sentence1\tsentence2\tlabel1\tgold_label\n"
        "0\t1\t1n\tfiction\t( a )\t( b )\t(S a)\t(S b)\tA dog.\tA cat.\tneutral\tneutral\n",
        "sentence1,sentence2,gold_label", {"is_text_pair": True}, ["A dog.", "A cat.", "neutral"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("content", "columns", "options", "first"), GLUE.values(), ids=GLUE)
def test_tables_of_glue(write, content, columns, options, first):
    row = read_rows(write(content, "train.tsv"), columns=columns, **options)[0]
    assert [*row.texts, row.label] == first


@pytest.mark.parametrize("name", [name for name in GLUE if name != "CoLA"])
def test_a_wide_header_that_nobody_announced_is_recognised(write, name):
    content, columns, options, _ = GLUE[name]
    with pytest.raises(UserError, match=f'a header row .*--columns "{columns}"'):
        read_rows(write(content, "train.tsv"), **options)


def test_columns_behind_the_last_one_are_kept_out_where_that_is_said(write):
    """sts-dev.csv: TABs, no header, 7 columns or 9, quotes that are never closed."""
    content = (
        "main\tMSRvid\t2012\t0001\t5.000\tA plane.\tAn air plane.\n"
        'main\tnews\t2013\t0002\t3.8\tHe said "no.\tHe said.\thttp://a\thttp://b\n'
    )
    columns, path = "_,_,_,_,label,text_a,text_b", write(content, "sts-dev.csv")
    rows = read_rows(path, True, columns=f"{columns},...")
    assert [(*row.texts, row.label) for row in rows] == [
        ("A plane.", "An air plane.", "5.000"),
        ('He said "no.', "He said.", "3.8"),
    ]
    with pytest.raises(UserError, match="sts-dev.csv:2: 9 columns where 7 are expected"):
        read_rows(path, True, columns=columns)
    with pytest.raises(UserError, match="sts-dev.csv:1: 7 columns where 8 are expected"):
        read_rows(path, True, columns=f"_,{columns},...")
