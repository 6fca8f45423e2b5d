"""Texts with entities: every layout, exact places, bad rows, prediction, and the real files."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertorch.data.files import as_stream, read_labels
from bertorch.errors import UserError
from bertorch.tasks.entities.rows import Document, read_documents, split_units

NAMES = {"json": "a.json", "columns": "a.conll", "text": "a.txt"}


def read(content: str | bytes, name: str = "a.json", types: list[str] | None = None, **options) -> list[Document]:
    """The documents of a file with this name and content."""
    data = content.encode() if isinstance(content, str) else content
    return read_documents(name, types, stream=as_stream(data), **options)


def lines_of(*rows: dict) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def surfaces(document: Document) -> list[tuple[str, str]]:
    return [(kind, document.text[start:end]) for kind, start, end in document.entities]


def characters(text: str) -> list[tuple[int, int]]:
    return [(place, place + 1) for place in range(len(text))]


# 小明在北京 with 小明 a PER and 北京 a LOC, in every layout.
SENTENCE, TAGS = "小明在北京", ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]
ENTITIES = [("PER", 0, 2), ("LOC", 3, 5)]
COLUMNS = "".join(f"{token} {tag}\n" for token, tag in zip(SENTENCE, TAGS, strict=True))


@pytest.mark.parametrize(
    "row",
    [
        *({text: list(SENTENCE), label: TAGS} for text in ("text", "tokens", "words")
          for label in ("label", "labels", "tags", "ner_tags")),
        {"text": SENTENCE, "label": TAGS},
        {"id": 7, "ner_tags": TAGS, "tokens": list(SENTENCE), "source": "x"},
        {"text": list(SENTENCE), "label": ["B-PER", "E-PER", "O", "B-LOC", "E-LOC"]},
        {"text": list(SENTENCE), "label": ["B-PER", "L-PER", "O", "B-LOC", "L-LOC"]},
    ],
    ids=lambda row: "+".join(row),
)  # fmt: skip
def test_json_lines_of_characters_or_a_text_with_a_tag_a_character(row):
    assert read(lines_of(row), types=["PER", "LOC"]) == [Document(1, SENTENCE, characters(SENTENCE), ENTITIES)]


@pytest.mark.parametrize(
    "row",
    [
        {"text": SENTENCE, "entities": [[0, 2, "PER"], [3, 5, "LOC"]]},
        {"text": SENTENCE, "label": [[0, 2, "PER"], [3, 5, "LOC", "more"]]},
        {"text": SENTENCE, "entities": [[0, 2, "PER"], [3, 5, "LOC"], [0, 2, "PER"]]},
        {"text": SENTENCE, "entities": [{"start": 0, "end": 2, "type": "PER"}, {"label": "LOC", "end": 5, "start": 3}]},
        {"text": SENTENCE, "label": {"PER": {"小明": [[0, 1]]}, "LOC": {"北京": [[3, 4]]}}},
    ],
    ids=["lists", "lists under label", "twice the same", "dicts", "cluener"],
)
def test_json_lines_of_a_text_and_its_spans(row):
    assert read(lines_of(row), types=["LOC", "PER"]) == [Document(1, SENTENCE, None, ENTITIES)]


def test_cluener_lists_the_places_of_a_name_that_stands_twice():
    row = {"text": "叶叶老", "label": {"name": {"叶": [[0, 0], [1, 1]], "叶老": [[1, 2]]}, "game": {"叶叶老": [[0, 2]]}}}
    (document,) = read(lines_of(row))
    assert set(document.entities) == {("name", 0, 1), ("name", 1, 2), ("name", 1, 3), ("game", 0, 3)}
    assert len(document.entities) == 4


def test_entities_within_each_other_and_of_two_types():
    row = {"text": SENTENCE, "entities": [[0, 5, "ORG"], [3, 5, "LOC"], [3, 5, "ORG"], [0, 2, "PER"]]}
    assert set(read(lines_of(row))[0].entities) == {("ORG", 0, 5), ("LOC", 3, 5), ("ORG", 3, 5), ("PER", 0, 2)}


@pytest.mark.parametrize(
    "row", [{"text": SENTENCE, "label": []}, {"text": SENTENCE, "entities": []}, {"text": SENTENCE, "label": {}}]
)
def test_a_text_without_entities_is_labelled(row):
    assert read(lines_of(row), types=[]) == [Document(1, SENTENCE, None, [])]


def test_words_are_joined_by_blanks():
    row = {"tokens": ["The", "cat", "of", "New York", "a"], "tags": ["O", "S-ANIMAL", "O", "B-LOC", "I-LOC"]}
    (document,) = read(lines_of(row))
    assert document.text == "The cat of New York a"
    assert document.units == [(0, 3), (4, 7), (8, 10), (11, 19), (20, 21)]
    assert document.entities == [("ANIMAL", 4, 7), ("LOC", 11, 21)]
    assert [document.text[start:end] for start, end in document.units] == row["tokens"]


@pytest.mark.parametrize(
    "content",
    [
        COLUMNS,
        COLUMNS.replace(" ", "\t"),
        COLUMNS.replace(" ", " NN x "),
        COLUMNS.replace(" ", "\t_\t\t"),
        COLUMNS.replace(" ", "   "),
        COLUMNS.replace("\n", " \n"),
        COLUMNS.replace("\n", "\r\n"),
        COLUMNS.removesuffix("\n"),
        COLUMNS + "\n\n \n\r\n",
        COLUMNS.encode("utf-8-sig"),
        "-DOCSTART- -X- O O\n\n" + COLUMNS,
        "-DOCSTART-\tO\n" + COLUMNS,
        " ".join(SENTENCE) + "\t" + " ".join(TAGS) + "\n",
        "\n-DOCSTART- O\n" + " ".join(SENTENCE) + "\t" + " ".join(TAGS) + " \r\n",
    ],
    ids=[
        "blank", "tab", "several columns", "several tabs", "aligned", "blank at the end", "crlf", "no last newline",
        "blank lines", "bom", "docstart", "docstart tab", "text a line", "text a line crlf",
    ],
)  # fmt: skip
def test_column_files(content):
    (document,) = read(content, "a.txt", ["PER", "LOC"])
    assert (document.text, document.units, document.entities) == (SENTENCE, characters(SENTENCE), ENTITIES)


def test_texts_of_a_column_file_begin_where_their_first_token_stands():
    content = f"\ufeff\n{COLUMNS}\n-DOCSTART- O\n\n\nThe O\ncat B-A\n-DOCSTART- O\na O\n"
    documents = read(content, "a.conll")
    assert [(document.line, document.text) for document in documents] == [(2, SENTENCE), (11, "The cat"), (14, "a")]
    assert documents[1].entities == [("A", 4, 7)] and documents[2].entities == []


def test_a_text_a_line():
    content = "小 明\tB-PER I-PER\n\n好\tO\nNew York\tB-LOC I-LOC\n"
    assert read(content, "a.bmes") == [
        Document(1, "小明", [(0, 1), (1, 2)], [("PER", 0, 2)]),
        Document(3, "好", [(0, 1)], []),
        Document(4, "New York", [(0, 3), (4, 8)], [("LOC", 0, 8)]),
    ]


@pytest.mark.parametrize(
    "content",
    ["小 B-X\n  I-X\n明 I-X\n", "小\tB-X\n \tI-X\n明\tI-X\n", "小\tB-X\n\tI-X\n明\tI-X\n", "小 B-X\n I-X\n明 I-X\n"],
    ids=["blank", "tab", "nothing before the tab", "one blank"],
)
def test_a_token_that_is_itself_a_blank(content):
    assert read(content, "a.conll") == [Document(1, "小 明", characters("小 明"), [("X", 0, 3)])]


@pytest.mark.parametrize("sign", ["\u3000", "\u2028", "\x85", "\u200b", "\xa0"])
def test_signs_that_other_readers_take_for_blanks_or_line_ends(sign):
    text = f"小{sign}明"
    wanted = [Document(1, text, characters(text), [("X", 1, 3)])]
    tags = ["O", "B-X", "I-X"]
    assert read(lines_of({"text": list(text), "label": tags})) == wanted
    assert read(lines_of({"text": text, "label": tags})) == wanted
    assert read(lines_of({"text": text, "entities": [[1, 3, "X"]]})) == [Document(1, text, None, [("X", 1, 3)])]
    for separator in " \t":
        content = "".join(f"{token}{separator}{tag}\n" for token, tag in zip(text, tags, strict=True))
        assert read(content, "a.conll") == wanted
    assert read(f"{text}\n", "a.txt", kind="text", label_needed=False) == [Document(1, text)]


@pytest.mark.parametrize("sign", ["\u3000", "\u2028"])
def test_signs_that_other_readers_take_for_blanks_in_a_text_a_line(sign):
    assert read(f"小 {sign} 明\tO B-X I-X\n", "a.bmes") == [
        Document(1, f"小{sign}明", [(0, 1), (1, 2), (2, 3)], [("X", 1, 3)])
    ]


def test_characters_outside_the_basic_plane_count_as_one():
    text = "𠮷野家😀在"
    row = {"text": text, "entities": [[0, 3, "ORG"], [3, 4, "X"]]}
    assert surfaces(read(lines_of(row))[0]) == [("ORG", "𠮷野家"), ("X", "😀")]
    escaped = json.dumps(row)  # as two halves each
    assert "\\ud842" in escaped and surfaces(read(escaped)[0]) == [("ORG", "𠮷野家"), ("X", "😀")]


@pytest.mark.parametrize("name", ["a.json.gz", "a.JSONL.gz", "a.conll.gz", "a.bmes"])
def test_files_on_disk(name, tmp_path):
    content = COLUMNS if "conll" in name or "bmes" in name else lines_of({"text": list(SENTENCE), "label": TAGS})
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    assert read_documents(path, ["PER", "LOC"]) == [Document(1, SENTENCE, characters(SENTENCE), ENTITIES)]


def test_plain_text():
    assert read(" 小明 \nab\r\n", "a.json", kind="text") == [Document(1, " 小明 "), Document(2, "ab")]
    with pytest.raises(UserError, match="a.txt:2: an empty text; "):
        read("小明\n\nab\n", "a.txt", kind="text")
    kept = read("小明\n\n\tab\n", "a.txt", kind="text", label_needed=False, keep_all=True)
    assert kept == [Document(1, "小明"), Document(2, ""), Document(3, "\tab")]


def test_the_kind_may_be_named_whatever_the_ending():
    assert read(COLUMNS, "a.json", kind="columns")[0].entities == ENTITIES
    assert read(lines_of({"text": SENTENCE, "label": TAGS}), "a.txt", kind="jsonl")[0].entities == ENTITIES


def test_labels_may_be_missing_where_they_are_not_needed():
    content = lines_of(
        {"text": "小明"}, {"text": ["小", "明"]}, {"words": ["New", "York"], "label": None}, {"text": "a", "label": []}
    )
    assert read(content, label_needed=False) == [
        Document(1, "小明"),
        Document(2, "小明", [(0, 1), (1, 2)]),
        Document(3, "New York", [(0, 3), (4, 8)]),
        Document(4, "a", None, []),
    ]


GOOD = {
    "json": lines_of({"text": "好", "label": []}),
    "columns": "好 O\n\n",
}


@pytest.mark.parametrize(
    ("kind", "content", "problem", "remedy"),
    [
        ("json", {"text": ["小", "明"], "label": ["O"]}, "2 tokens and 1 tags", "one tag for each token"),
        ("json", {"text": "小明", "label": ["O", "O", "O"]}, "2 tokens and 3 tags", "one tag for each token"),
        ("json", {"text": ["小", "明"], "label": "O O"}, "2 tokens and no list of tags", "one tag for each token"),
        ("json", {"text": ["小"], "label": ["B-MISC"]}, "entity type of 'B-MISC' is not one of the types", "PER, LOC"),
        ("json", {"text": "小", "entities": [[0, 1, "MISC"]]}, "entity type of 'MISC' is not one of", "PER, LOC"),
        ("json", {"text": "小", "label": {"MISC": {"小": [[0, 0]]}}}, "entity type of 'MISC' is not one of", "PER, LOC"),
        ("json", {"text": ["小"], "label": ["X"]}, "'X' is not a tag", "such as B-PER"),
        ("json", {"text": ["小"], "label": ["B"]}, "'B' is not a tag", "such as B-PER"),
        ("json", {"text": ["小"], "label": ["B-"]}, "'B-' is not a tag", "such as B-PER"),
        ("json", {"text": ["小"], "label": [""]}, "'' is not a tag", "such as B-PER"),
        ("json", {"text": ["小"], "label": [3]}, "'3' is not a tag", "such as B-PER"),
        ("json", {"text": ["小"], "label": [None]}, "'None' is not a tag", "such as B-PER"),
        ("json", {"text": ["小", ""], "label": ["O", "O"]}, "'' in the list of tokens", "one character or more"),
        ("json", {"text": ["小", 5], "label": ["O", "O"]}, "5 in the list of tokens", "one character or more"),
        ("json", {"text": 5, "label": ["O"]}, "no text (key text)", "a string, or a list"),
        ("json", {"content": "小", "label": ["O"]}, "no text (key text)", "a string, or a list"),
        ("json", {"text": "小明"}, "no labels (key entities or label)", "empty where the text has no entity"),
        ("json", {"text": ["小"], "label": None}, "no labels (key entities or label)", "add them"),
        ("json", {"text": "小明", "entities": [[1, 3, "PER"]]}, "PER at 1 to 3 lies outside the text of 2", "from 0"),
        ("json", {"text": "小明", "entities": [[-1, 1, "PER"]]}, "PER at -1 to 1 lies outside", "from 0"),
        ("json", {"text": "小明", "entities": [[1, 1, "PER"]]}, "PER at 1 to 1 lies outside", "from 0"),
        ("json", {"text": "小明", "entities": [[2, 1, "PER"]]}, "PER at 2 to 1 lies outside", "from 0"),
        ("json", {"text": "小明", "entities": [[0, 1]]}, "[0, 1] is not an entity", '[start, end, "type"]'),
        ("json", {"text": "小明", "entities": [[0, 1.0, "PER"]]}, "is not an entity", '[start, end, "type"]'),
        ("json", {"text": "小明", "entities": [[False, True, "PER"]]}, "is not an entity", '[start, end, "type"]'),
        ("json", {"text": "小明", "entities": [["PER", 0, 1]]}, "is not an entity", '[start, end, "type"]'),
        ("json", {"text": "小", "entities": [{"start": 0, "type": "A"}]}, "is not an entity", "keys start, end and type"),
        ("json", {"text": "小明", "entities": [3]}, "3 is not an entity", "keys start, end and type"),
        ("json", {"text": "小明", "entities": "PER"}, "the entities are str", "[[start, end, type], ...]"),
        ("json", {"text": "小明", "label": {"PER": {"明": [[0, 0]]}}}, "'明' should be at 0, but '小' is there", "correct"),
        ("json", {"text": "小明", "label": {"PER": {"小明": [[0, 2]]}}}, "(end inclusive in this layout) lies", "from 0"),
        ("json", {"text": "小明", "label": {"PER": {"小": [[0]]}}}, "[0] is not a position of '小'", "[first, last]"),
        ("json", {"text": "小明", "label": {"PER": {"小": [0, 0]}}}, "0 is not a position of '小'", "[first, last]"),
        ("json", {"text": "", "label": []}, "an empty text", "fill it in or remove it"),
        ("json", {"text": " \u3000", "label": []}, "an empty text", "fill it in or remove it"),
        ("json", {"text": [], "label": []}, "an empty text", "fill it in or remove it"),
        ("json", {"text": [" "], "label": ["O"]}, "an empty text", "fill it in or remove it"),
        ("json", '{"text": "小"', "not JSON", "one JSON object per line"),
        ("json", '["小"]', "not a JSON object", "one object per line"),
        ("json", r'{"text": "\ud83d", "label": []}', "half a character", "write both halves"),
        ("columns", "小\n", "no tag", "write token, space or TAB, tag"),
        ("columns", "小\t\n", "no tag", "write token, space or TAB, tag"),
        ("columns", "小 X\n", "'X' is not a tag", "such as B-PER"),
        ("columns", "小 B-MISC\n", "entity type of 'B-MISC' is not one of the types", "PER, LOC"),
    ],
)  # fmt: skip
def test_bad_rows_are_named_with_a_remedy_or_skipped(kind, content, problem, remedy, messages):
    name, line = NAMES[kind], GOOD[kind].count("\n") + 1
    content = GOOD[kind] + (lines_of(content) if isinstance(content, dict) else content + "\n") + GOOD[kind]
    with pytest.raises(UserError) as caught:
        read(content, name, ["PER", "LOC"])
    first, *rest = str(caught.value).splitlines()
    assert first.startswith(f"{name}:{line}: ") and problem in first
    assert remedy in first.split("; ", 1)[1]
    assert rest == [f"{name}: 1 bad row; correct them, or leave them out with --bad_rows skip"]
    assert [document.text for document in read(content, name, ["PER", "LOC"], bad_rows="skip")] == ["好", "好"]
    assert any(problem in message and "1 bad row left out" in message for message in messages)
    kept = read(content, name, ["PER", "LOC"], bad_rows="skip", keep_all=True)
    assert [document.line for document in kept] == [1, line, 2 * line - 1]
    assert kept[1] == Document(line, None)


@pytest.mark.parametrize("named", [{"PER": [[0, 1]]}, {"PER": {"小明": 0}}, {"PER": {"小明": {"start": 0, "end": 1}}}])
def test_a_cluener_table_of_another_shape_is_not_lost_without_a_word(named):
    with pytest.raises(UserError, match="a.json:1: "):
        read(lines_of({"text": "小明", "label": named}))


def test_a_line_that_cannot_be_read_spoils_its_text_alone():
    content = "a O\n\nb O\nc\nd\n\ne O\n\nf\ng O\n"
    with pytest.raises(UserError) as caught:
        read(content, "a.conll")
    assert [line.split(";")[0] for line in str(caught.value).splitlines()] == [
        "a.conll:4: no tag", "a.conll:5: no tag", "a.conll:9: no tag", "a.conll: 3 bad rows",
    ]  # fmt: skip
    assert [one.text for one in read(content, "a.conll", bad_rows="skip")] == ["a", "e"]
    kept = read(content, "a.conll", bad_rows="skip", keep_all=True)
    assert [(one.line, one.text) for one in kept] == [(1, "a"), (3, None), (7, "e"), (9, None)]


def test_in_a_text_a_line_each_line_stands_for_itself():
    content = "小 明\tB-PER I-PER\n小 明\tO\n好\tO\n"
    with pytest.raises(UserError, match="^a.bmes:2: 2 tokens and 1 tags; "):
        read(content, "a.bmes")
    assert [one.line for one in read(content, "a.bmes", bad_rows="skip")] == [1, 3]


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
@pytest.mark.parametrize(
    ("header", "content"),
    [
        ("token\ttag\n", COLUMNS.replace(" ", "\t") + "\n好\tO\n"),
        ("\nword  pos  chunk  ner\n", COLUMNS.replace(" ", " NN x ") + "\n好 A x O\n"),
        ("Sentence #\tWord\tPOS\tTag\n\n", COLUMNS.replace(" ", "\tNN\tx\t") + "\n好\tA\tx\tO\n"),
        ("text\tlabel\n", " ".join(SENTENCE) + "\t" + " ".join(TAGS) + "\n好\tO\n"),
        ("文本\t标签\n", "好\tO\n" + " ".join(SENTENCE) + "\t" + " ".join(TAGS) + "\n"),
    ],
    ids=["two columns", "four columns", "more names than blanks", "a text a line", "a short text first"],
)  # fmt: skip
def test_a_header_row_of_a_column_file_is_passed_over(header, content, bad_rows, messages):
    """It costs no text, and is said to be passed over."""
    plain, found = read(content, "a.txt"), read(header + content, "a.txt", ["PER", "LOC"], bad_rows=bad_rows)
    before = header.count("\n")
    assert [(one.line - before, one.text, one.units, one.entities) for one in found] == [
        (one.line, one.text, one.units, one.entities) for one in plain
    ]
    assert sorted(one.text for one in found) == sorted([SENTENCE, "好"])
    names = ", ".join(header.strip().split("\t" if "\t" in header else None))
    line = 1 + header.startswith("\n")
    assert messages == [f"a.txt:{line}: skipped a header row ({names})"]


def test_a_first_line_of_other_words_costs_its_own_text_alone(messages):
    """Of a text a line, even where it says nothing of the layout; of a token a line, the text that it stands in."""
    content = "\t".join(("column one", "column two")) + "\n" + " ".join(SENTENCE) + "\t" + " ".join(TAGS) + "\n好\tO\n"
    assert [one.line for one in read(content, "a.txt", bad_rows="skip")] == [2, 3]
    content = "column_two\tcolumn_one\n" + content.partition("\n")[2]
    with pytest.raises(UserError, match="^a.txt:1: 'column_one' is not a tag; "):
        read(content, "a.txt")
    assert [one.line for one in read(content, "a.txt", bad_rows="skip")] == [2, 3]
    content = "mot etiquette\n" + COLUMNS + "\n" + COLUMNS
    assert [one.line for one in read(content, "a.txt", bad_rows="skip")] == [8]
    assert not any("header" in message for message in messages)


@pytest.mark.parametrize("content", ["tag O\nlabel O\n", "token\n", "word B-PER\ntoken I-PER\n"])
def test_words_that_name_columns_are_texts_like_any_other(content, messages):
    (document,) = read(content, "a.txt", label_needed=False)
    assert document.line == 1 and messages == []


def test_in_a_text_a_line_a_line_without_tags_is_bad():
    with pytest.raises(UserError, match="a.bmes:2: "):
        read("小 明\tB-PER I-PER\n小 明 O\n", "a.bmes")


@pytest.mark.parametrize(
    ("content", "name"),
    [("", "a.json"), ("\n\n", "a.json"), ("", "a.conll"), ("-DOCSTART- O\n\n", "a.conll"), ("\n", "a.txt")],
)
def test_files_without_a_text(content, name):
    with pytest.raises(UserError, match=f"^{name}: no texts in it; the file is empty"):
        read(content, name, keep_all=name == "a.txt")
    with pytest.raises(UserError, match="^a.json: no texts in it that can be used"):
        read("{\n", bad_rows="skip")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_documents(tmp_path / "a.json", None)
    with pytest.raises(UserError, match="a.conll:2: not UTF-8"):
        read("小 O\n".encode() + "明 O\n".encode("gbk"), "a.conll")


def test_a_tag_that_continues_nothing_begins_an_entity_and_is_warned_of(messages):
    rows = [["B-X", "I-X"], ["O", "I-X"], ["B-X", "I-Y"], ["I-X", "O"], ["E-X", "E-X"]]
    documents = read(lines_of(*({"text": "小明", "label": tags} for tags in rows)))
    assert [document.entities for document in documents] == [
        [("X", 0, 2)], [("X", 1, 2)], [("X", 0, 1), ("Y", 1, 2)], [("X", 0, 1)], [("X", 0, 1), ("X", 1, 2)],
    ]  # fmt: skip
    (message,) = messages
    assert message.startswith("a.json: 5 tags continue no entity") and "(texts at line 2, 3, 4, 5)" in message
    messages.clear()
    read("a O\nb I-X\n\n" * 7, "a.conll")
    (message,) = messages
    assert message.startswith("a.conll: 7 tags continue no entity") and "line 1, 4, 7, 10, 13 and more)" in message
    messages.clear()
    read(COLUMNS, "a.conll")
    assert messages == []


def test_prediction_loses_no_row():
    content = "\n".join(['{"text": "a"}', "{", '{"text": ""}', "[]", '{"other": "b"}', '{"text": "c", "label": [5]}', ""])
    kept = read(content, label_needed=False, keep_all=True, bad_rows="skip")
    assert [(one.line, one.text) for one in kept] == [(1, "a"), (2, None), (3, ""), (4, None), (5, None), (6, None)]
    with pytest.raises(UserError, match="^a.json:2: "):
        read(content, label_needed=False, keep_all=True)


def test_where_labels_are_needed_a_blank_text_is_a_bad_row_and_a_blank_line_is_not():
    """As in training, so that figures are of the same texts whether answers are written or not."""
    content = '{"text": "a", "label": []}\n\n{"text": " ", "label": []}\n'
    for keep_all in (False, True):
        with pytest.raises(UserError, match="^a.json:3: an empty text; .*\\na.json: 1 bad row"):
            read(content, keep_all=keep_all)
    kept = read(content, keep_all=True, bad_rows="skip")
    assert [(one.line, one.text) for one in kept] == [(1, "a"), (2, None), (3, None)]


def test_blank_texts_of_prediction_are_told(messages):
    read("a\n\n \n", "a.txt", kind="text", label_needed=False, keep_all=True)
    read('{"text": "a"}\n\n{"text": " "}\n', label_needed=False, keep_all=True)
    assert messages == [
        "a.txt: 2 blank rows (the first in line 2) keep their places, with empty answers",
        "a.json: 2 blank rows (the first in line 2) keep their places, with empty answers",
    ]


def test_units_of_a_plain_text():
    assert split_units("a 小\u200b", "character") == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert split_units("", "character") == split_units(" ", "word") == []
    text = "在New York花了1,200€，don't 𠮷野家 naïve日本café"
    words = [
        "在",
        "New",
        "York",
        "花",
        "了",
        "1",
        ",",
        "200",
        "€",
        "，",
        "don",
        "'",
        "t",
        "𠮷",
        "野",
        "家",
        "naïve",
        "日",
        "本",
        "café",
    ]
    assert [text[start:end] for start, end in split_units(text, "word")] == words


@given(st.text(st.one_of(st.characters(), st.sampled_from("ab1 ,小明，\t\u3000\u2028_")), max_size=30))
def test_words_hold_all_that_is_not_blank_once_and_in_order(text):
    places = split_units(text, "word")
    assert "".join(text[start:end] for start, end in places) == "".join(text.split())
    assert all(start < end for start, end in places)
    assert all(before[1] <= after[0] for before, after in zip(places, places[1:], strict=False))


# Pieces that arbitrary bytes seldom form by themselves.
_PIECES = [
    b"a", "小".encode(), b"O", b"B-X", b"I-X", b"S-Y", b"\t", b" ", b"\n", b"\n\n", b"\r\n", b"\0", b"\xff", b"-DOCSTART-",
    b"{", b"}", b"[", b"]", b",", b'"text": ', b'"label": ', b'"entities": ', b'"ab"', b'["a", "b"]', b'["O", "I-X"]',
    b'{"text": "ab", "label": ', b'{"text": ["a", "b"], "label": ', b'{"X": {"a": [[0, 0]]}}', b'[[0, 1, "X"]]', b"}\n",
    b'{"start": 0, "end": 1, "type": "X"}', b"null", b"true", b"1e999", b"\\ud800", "\u2028".encode(), b"\x1f\x8b\x08\x00",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "columns", "text"])
def test_arbitrary_bytes_give_documents_or_a_user_error(kind):
    @given(
        data=st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(_PIECES), max_size=25).map(b"".join)),
        types=st.sampled_from([None, ["X"], ["X", "Y"]]),
        flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    )
    @settings(deadline=None, max_examples=150)
    def check(data, types, flags):
        label_needed, keep_all, skip = flags
        try:
            documents = read(
                data,
                "a",
                types,
                bad_rows="skip" if skip else "error",
                label_needed=label_needed,
                kind=kind,
                keep_all=keep_all,
            )
        except UserError:
            return
        assert documents
        for document in documents:
            if document.text is None:
                assert keep_all and skip and document.units is document.entities is None
                continue
            assert keep_all or document.text.strip()
            document.text.encode()  # a tokenizer takes nothing that has no UTF-8
            assert document.entities is not None or not label_needed or kind == "text"
            for name, start, end in document.entities or ():
                assert 0 <= start < end <= len(document.text) and (types is None or name in types)
            ends = [0, *(place for unit in document.units or () for place in unit), len(document.text)]
            assert ends == sorted(ends)

    check()


def test_the_two_files_of_the_same_texts_give_the_same_documents(shared, messages):
    as_json = read_documents(shared / "data/ner/resume/dev.json", None)
    as_columns = read_documents(shared / "data/ner/resume/dev.char.bmes", None)
    assert len(as_json) == 463
    assert [(one.text, one.units, one.entities) for one in as_json] == [
        (one.text, one.units, one.entities) for one in as_columns
    ]
    assert messages == []


def test_the_entities_of_a_real_file_are_those_that_its_tags_begin(shared):
    path = shared / "data/ner/msra/dev.json"
    begun, texts = Counter(), []
    with open(path, encoding="utf-8") as handle:
        for line in handle:
            row = json.loads(line)
            texts.append("".join(row["text"]))
            chain = " ".join(row["label"])
            begun.update(re.findall(r"[BS]-(\w+)", chain))
            # An I- whose neighbour before it is neither B- nor I- of its type.
            begun.update(kind for kind in re.findall(r"(?:^|O |S-\w+ )I-(\w+)", chain))
            begun.update(kind for before, kind in re.findall(r"(?=[BI]-(\w+) I-(\w+))", chain) if before != kind)
    documents = read_documents(path, ["NR", "NS", "NT"])
    assert len(documents) == 4_636 and [document.text for document in documents] == texts
    assert Counter(kind for document in documents for kind, _, _ in document.entities) == begun
    assert sum(begun.values()) > 1_000


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("resume/train.json", 3_821),
        ("resume/test.json", 477),
        ("wnut17/wnut17train.conll", 3_394),
        ("wnut17/emerging.dev.conll", 1_009),
        ("wnut17/emerging.test.annotated", 1_287),
    ],
)
def test_the_real_files_read_to_the_number_of_texts_they_have(shared, name, texts):
    path = Path(shared) / "data/ner" / name
    label_file = path.parent / "labels.txt"
    documents = read_documents(path, None)
    assert len(documents) == texts
    found = {kind for document in documents for kind, _, _ in document.entities}
    if label_file.is_file():
        assert found <= {label.split("-", 1)[1] for label in read_labels(label_file) if label != "O"}
    else:
        assert found == {"location", "group", "corporation", "person", "creative-work", "product"}
        lines = path.read_text(encoding="utf-8").split("\n")
        begun = Counter(line.split("\tB-")[1].strip() for line in lines if "\tB-" in line)
        assert Counter(kind for document in documents for kind, _, _ in document.entities) == begun


def test_an_export_of_doccano(tmp_path, messages):
    path = tmp_path / "all.jsonl"
    entities = [
        {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 2},
        {"id": 2, "label": "LOC", "start_offset": 3, "end_offset": 5},
    ]
    row = {
        "id": 7,
        "text": "小明在北京",
        "entities": entities,
        "relations": [{"id": 3, "from_id": 1, "to_id": 2}],
        "Comments": [],
    }
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_documents(path, ["PER", "LOC"])[0].entities == [("PER", 0, 2), ("LOC", 3, 5)]
    assert any("1 relations between entities, left out" in message for message in messages)
