"""Files of questions with options, in every layout; token ids of their sequences; batches of rows with unequal numbers."""

import gzip
import json

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast

from bertorch.data.tokenizing import open_text_tokenizer, tokenize
from bertorch.errors import UserError
from bertorch.tasks.choice.rows import ChoiceRow, ChoiceTokenizer, choice_files, collate_choices, read_choices

ARTICLE = {
    "answers": ["B", "D"],
    "options": [["one", "two", "three", "four"], ["red", "blue", "green", "black"]],
    "questions": ["How many are there?", "The door is _ ."],
    "article": "There are two doors. They are black.",
    "id": "middle1.txt",
}
OF_ARTICLE = [
    ((ARTICLE["article"],), "How many are there?", ["one", "two", "three", "four"], 1),
    ((ARTICLE["article"],), "The door is _ .", ["red", "blue", "green", "black"], 3),
]


def write(path, content):
    if not isinstance(content, str):
        content = json.dumps(content, ensure_ascii=False, indent=1)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content, encoding="utf-8")
    return path


def parts(rows):
    return [(row.context, row.question, row.options, row.label) for row in rows]


def lines_of(*objects):
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)


def test_articles_of_race(tmp_path):
    """A folder of files, by level; or some level; or one file; or articles by line."""
    other = {**ARTICLE, "article": "Other.", "answers": ["A", "A"]}
    write(tmp_path / "train/high/10.txt", json.dumps(ARTICLE))
    write(tmp_path / "train/middle/2.txt", json.dumps(other))
    of_other = [(("Other.",), question, options, 0) for _, question, options, _ in OF_ARTICLE]
    assert parts(read_choices(tmp_path / "train")) == OF_ARTICLE + of_other
    assert parts(read_choices(tmp_path / "train/middle")) == of_other
    assert parts(read_choices(tmp_path / "train/high/10.txt")) == OF_ARTICLE
    assert parts(read_choices(write(tmp_path / "all.jsonl", lines_of(ARTICLE, other)))) == OF_ARTICLE + of_other
    assert [file.name for file in choice_files(tmp_path / "train")] == ["10.txt", "2.txt"]
    texts = read_choices(tmp_path / "train/high")[1].texts
    assert texts[3] == (ARTICLE["article"], "The door is black .")  # the option fills the blank
    assert read_choices(tmp_path / "train/high")[0].texts[0] == (ARTICLE["article"], "How many are there? one")


def test_a_bad_file_of_a_folder_is_named(tmp_path):
    write(tmp_path / "1.txt", json.dumps(ARTICLE))
    bad = write(tmp_path / "2.txt", json.dumps({**ARTICLE, "answers": ["B", "E"]}))
    with pytest.raises(UserError) as error:
        read_choices(tmp_path)
    assert str(error.value).startswith(f"{bad}:1: answer 'E' is not one of the 4 options; write its text, its letter, or")
    assert len(read_choices(tmp_path, "skip")) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no .txt or .json in it"):
        read_choices(tmp_path / "empty")


DIALOGUES = [
    [
        ["女：今天下雨。", "男：带伞吧。"],
        [
            {"question": "天气怎么样？", "choice": ["晴", "下雨", "下雪"], "answer": "下雨"},
            {"question": "男的说什么？", "choice": ["带伞", "回家"], "answer": "带伞"},
        ],
        "1-1",
    ],
    [["他走了。"], [{"question": "谁走了？", "choice": ["他", "她", "我", "你"], "answer": "他"}], "1-2"],
]


def test_dialogues_of_c3_and_dream(tmp_path):
    rows = read_choices(write(tmp_path / "d-train.json", DIALOGUES))
    first = ("女：今天下雨。\n男：带伞吧。",)
    assert parts(rows) == [
        (first, "天气怎么样？", ["晴", "下雨", "下雪"], 1),
        (first, "男的说什么？", ["带伞", "回家"], 0),
        (("他走了。",), "谁走了？", ["他", "她", "我", "你"], 0),
    ]
    text = (tmp_path / "d-train.json").read_text(encoding="utf-8").split("\n")
    starts = [number for number, line in enumerate(text, 1) if line == " ["]
    assert [row.line for row in rows] == [starts[0], starts[0], starts[1]]
    for packed in (json.dumps(DIALOGUES), json.dumps(DIALOGUES, indent=4)):
        (tmp_path / "c3.json.gz").write_bytes(gzip.compress(packed.encode()))
        assert parts(read_choices(tmp_path / "c3.json.gz")) == parts(rows)
    del DIALOGUES[1][1][0]["answer"]
    path = write(tmp_path / "test.json", DIALOGUES)
    assert [row.label for row in read_choices(path, label_needed=False)] == [1, 0, None]
    DIALOGUES[1][1][0]["answer"] = "他"
    with pytest.raises(UserError, match=rf"test.json:{starts[1]}: no answer"):
        read_choices(path)


IDIOMS = ["一心一意", "三心二意", "百发百中"]


def test_idioms(tmp_path):
    """The original layout has candidates of each blank and the idioms themselves; CLUE's has a file of places."""
    others = ["千方百计", "百发百中", "一心一意"]
    original = {
        "groundTruth": ["一心一意", "百发百中"], "realCount": 2, "candidates": [IDIOMS, others],
        "content": "他#idiom#学习，考试#idiom#。",
    }  # fmt: skip
    expected = [
        (("他", "学习，考试____。"), "", IDIOMS, 0),
        (("他____学习，考试", "。"), "", others, 1),
    ]
    assert parts(read_choices(write(tmp_path / "chid.json", lines_of(original)))) == expected
    clue = {"content": ["他#idiom000001#学习。", "没有空的。", "考试#idiom000002#。"], "candidates": IDIOMS}
    path = write(tmp_path / "dev.json", lines_of(clue))
    with pytest.raises(UserError, match="dev.json:1: no answer"):
        read_choices(path)
    write(tmp_path / "dev_answer.json", {"#idiom000001#": 0, "#idiom000002#": 2})
    expected = [(("他", "学习。"), "", IDIOMS, 0), (("考试", "。"), "", IDIOMS, 2)]
    assert parts(read_choices(path)) == expected
    assert choice_files(path) == [path, tmp_path / "dev_answer.json"]
    hub = {**clue, "answers": {"text": ["", ""], "candidate_id": [0, 2]}}
    assert parts(read_choices(write(tmp_path / "hub.jsonl", lines_of(hub)))) == expected
    write(tmp_path / "dev_answer.json", [1])
    with pytest.raises(UserError, match="dev_answer.json: not a JSON object"):
        read_choices(path)


SWAG = """,video-id,fold-ind,startphrase,sent1,sent2,gold-source,ending0,ending1,ending2,ending3,label
0,anet,1,"He stops. He","He stops, and","He",gold,"sits.","runs, fast.",sings.,"says ""no"".",3
"""


def test_swag(tmp_path):
    expected = [(("He stops, and",), "He", ["sits.", "runs, fast.", "sings.", 'says "no".'], 3)]
    rows = read_choices(write(tmp_path / "train.csv", SWAG))
    assert parts(rows) == expected and rows[0].line == 2
    assert rows[0].texts[0] == ("He stops, and", "He sits.")
    test = "\n".join(line.rpartition(",")[0] for line in SWAG.strip().split("\n"))
    assert [row.label for row in read_choices(write(tmp_path / "test.csv", test), label_needed=False)] == [None]


def test_rows_of_ones_own(tmp_path):
    objects = [
        {"context": "早餐便宜。", "question": "早餐", "options": ["贵", "便宜"], "label": 1},
        {"passage": ["一。", "二。"], "query": "几", "choices": ["一", "二", "三"], "answer": "C"},
        {"question": "首都？", "choices": {"label": ["A", "B"], "text": ["北京", "上海"]}, "answerKey": "A"},
        {"context": "数", "question": "几", "options": ["2", "1", "0"], "label": "2"},
        {"context": "数", "question": "几", "options": ["2", "1", "0"], "answer": "2"},
        {"context": "数", "question": "几", "options": ["2", "1"], "label": -1},
    ]
    rows = read_choices(write(tmp_path / "a.jsonl", lines_of(*objects)), label_needed=False)
    assert [row.label for row in rows] == [1, 2, 0, 2, 0, None]
    assert rows[1].context == ("一。\n二。",) and rows[2].context == ("",)
    assert parts(read_choices(write(tmp_path / "a.json", objects), "skip")) == parts(rows[:5])
    table = "question\tA\tB\tC\tlabel\tcontext\n几\t一\t二\t三\tb\t数\n几\t一\t二\t\t0\t数\n"
    expected = [(("数",), "几", ["一", "二", "三"], 1), (("数",), "几", ["一", "二"], 0)]
    assert parts(read_choices(write(tmp_path / "a.tsv", table))) == expected
    ten = "context,question," + ",".join(f"option{place}" for place in (10, *range(10))) + ",answer\n"
    ten += "数,几," + ",".join(f"o{place}" for place in (10, *range(10))) + ",o9\n"
    assert parts(read_choices(write(tmp_path / "ten.csv", ten))) == [
        (("数",), "几", [f"o{place}" for place in range(11)], 9)
    ]


GOOD = {"context": "数", "question": "几", "options": ["一", "二"], "label": 0}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"options": ["一"]}, "1 options; give at least two"),
        ({"options": ["一", " "]}, "a blank option; fill it in, or leave it out"),
        ({"options": ["一", 2]}, "the options are not texts; write a list of texts under options"),
        ({"options": None}, "0 options; give at least two"),
        ({"label": 2}, "label '2' is not one of the 2 options; write its text, its letter, or its place from 0"),
        ({"label": "三"}, "label '三' is not one of the 2 options"),
        ({"label": None}, "no answer; add the place of the right option under label, or its text under answer"),
        ({"label": [0, 1]}, "label '[0, 1]' is not one of the 2 options"),
        ({"label": True}, "label 'True' is not one of the 2 options"),
        ({"context": " ", "question": ""}, "neither a context nor a question; write {"),
        ({"context": 3}, "the context is int; write a text"),
        ({"question": ["几"]}, "the question is list; write a text"),
    ],
)
def test_bad_rows(change, says, tmp_path):
    path = write(tmp_path / "rows.jsonl", lines_of(GOOD, {**GOOD, **change}, GOOD))
    with pytest.raises(UserError) as error:
        read_choices(path)
    assert str(error.value).startswith(f"{path}:2: {says}")
    assert [row.line for row in read_choices(path, "skip")] == [1, 3]
    kept = read_choices(path, "skip", keep_all=True)
    assert [(row.line, bool(row.options)) for row in kept] == [(1, True), (2, False), (3, True)]


def test_bad_files(tmp_path):
    for name, content, says in (
        ("no_header.tsv", "数\t几\t一\t二\t0\n", "no_header.tsv:1: the first row of a table names its columns"),
        ("narrow.csv", "context,A,B,label\n数,一,0\n", "narrow.csv:2: 3 columns where the first row names 4; mend the row"),
        ("odd.json", '[[["a"], [{"question": }], "1"]]', "odd.json:1: not JSON"),
        ("flat.json", '[["a", "b"]]', "flat.json:1: not a dialogue with questions"),
        ("empty.jsonl", "", "empty.jsonl: no questions with options in it that can be used"),
    ):
        with pytest.raises(UserError) as error:
            read_choices(write(tmp_path / name, content))
        assert str(error.value).startswith(f"{tmp_path}/{says}")


# Token ids


@pytest.fixture
def directory(tiny_model):
    return tiny_model("bert")


def ids_of(directory, rows, max_seq_length, max_qa_length):
    tokenizer = ChoiceTokenizer(open_text_tokenizer(directory, max_seq_length), max_qa_length)
    return tokenizer.encode([texts for row in rows for texts in row.texts])


def test_ids_are_those_of_a_pair(directory):
    row = ChoiceRow(1, ("酒店在北京东门。",), "在哪里", ["北京", "上海"])
    reference = BertTokenizerFast.from_pretrained(directory)
    for (ids, second, uncut), option in zip(ids_of(directory, [row], 64, 16), row.options, strict=True):
        expected = reference(row.context[0], f"在哪里 {option}")
        assert ids == expected["input_ids"] and uncut == len(ids)
        assert second == expected["token_type_ids"].index(1)


def test_long_passages_lose_their_end_and_long_questions_their_beginning(directory):
    """The recipe of XLNet: question and option keep their last tokens, the passage what is left."""
    row = ChoiceRow(1, ("的一是不了在人有我他",), "这中大来上个国到", ["说", "们为"])
    words = BertTokenizerFast.from_pretrained(directory)
    found = [words.convert_ids_to_tokens(ids) for ids, _, _ in ids_of(directory, [row], 13, 5)]
    assert found[0] == ["[CLS]", *"的一是不了", "[SEP]", *"上个国到说", "[SEP]"]
    assert found[1] == ["[CLS]", *"的一是不了", "[SEP]", *"个国到们为", "[SEP]"]
    assert [uncut for *_, uncut in ids_of(directory, [row], 13, 5)] == [22, 23]
    short = ChoiceRow(1, ("的一是不了在人有我他",), "", ["说", "们为"])
    found = [words.convert_ids_to_tokens(ids) for ids, _, _ in ids_of(directory, [short], 13, 5)]
    assert found[0] == ["[CLS]", *"的一是不了在人有我", "[SEP]", "说", "[SEP]"]


@pytest.mark.parametrize(
    ("left", "right", "kept"),
    [
        ("的一是不了", "在人有我他", "不了[MASK]在人"),  # 5 tokens of passage: two on both sides
        ("的", "在人有我他", "的[MASK]在人有"),
        ("的一是不了", "在", "是不了[MASK]在"),
        ("", "在人有我他", "[MASK]在人有我"),
        ("的一", "在", "的一[MASK]在"),
    ],
)
def test_what_stays_lies_around_the_blank(directory, left, right, kept):
    row = ChoiceRow(1, (left, right), "", ["说们", "为子"])
    words = BertTokenizerFast.from_pretrained(directory)
    (ids, second, uncut), _ = ids_of(directory, [row], 10, 3)
    expected = f"[CLS]{kept}[SEP]说们[SEP]"
    assert "".join(words.convert_ids_to_tokens(ids)) == expected
    assert second == len(ids) - 3 and uncut == len(left) + len(right) + 1 + 2 + 3


def test_a_passage_must_have_room(directory):
    with pytest.raises(UserError, match="--max_seq_length 16 leaves no room for a passage beside --max_qa_length 13"):
        ChoiceTokenizer(open_text_tokenizer(directory, 16), 13)
    ChoiceTokenizer(open_text_tokenizer(directory, 16), 12)


def test_batches(directory):
    """Every sequence stands in the place of its row and option, in any order of rows."""
    rows = [
        ChoiceRow(1, ("的一是不了",), "", ["在", "人有"], 1),
        ChoiceRow(2, ("我",), "", ["他", "这", "中大来", "上"], 2),
        ChoiceRow(3, ("个国到说们为子",), "", ["和", "你地出", "道"], 0),
    ]
    tokenizer = ChoiceTokenizer(open_text_tokenizer(directory, 32), 8)
    samples = tokenize(((row.line, row.texts, row.label) for row in rows), tokenizer, separate=True)
    for order in ([0, 1, 2], [2, 0], [1], [2, 1, 0]):
        batch = collate_choices(samples, np.array(order))
        assert batch.options == max(len(rows[one].options) for one in order)
        assert batch.labels.tolist() == [rows[one].label for one in order]
        sequences = torch.split(batch.tokens.input_ids, batch.tokens.lengths)
        found = {int(place): ids.tolist() for place, ids in zip(batch.places, sequences, strict=True)}
        expected = {
            number * batch.options + option: ids
            for number, one in enumerate(order)
            for option, (ids, _, _) in enumerate(tokenizer.encode(rows[one].texts))
        }
        assert found == expected
        assert batch.tokens.lengths == sorted(batch.tokens.lengths, reverse=True)
