"""Questions about passages: every layout and its traps, windows against transformers' own, and the real files."""

import gzip
import json
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.errors import UserError
from bertorch.tasks.reading.rows import (
    Question,
    ReadingTokenizer,
    answer_types_of,
    collate_reading,
    read_questions,
    targets_of,
    window_questions,
)

PASSAGE = "今天天气很好，明天天气不好。"


def squad(*paragraphs: tuple[str, list[dict]]) -> dict:
    return {"version": "x", "data": [{"paragraphs": [{"context": context, "qas": qas}]} for context, qas in paragraphs]}


def entry(*answers: tuple, identity="1", question="怎么样？", **more) -> dict:
    listed = [dict(zip(("text", "answer_start"), answer, strict=False)) for answer in answers]
    return {"id": identity, "question": question, "answers": listed, **more}


@pytest.fixture
def write(tmp_path):
    """``write(content)`` -> a file with that text, those bytes, or that object in JSON."""

    def make(content, name="a.json", indent=None):
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content, ensure_ascii=False, indent=indent)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


@pytest.fixture
def one(write):
    """``one(context, entry)`` -> the question that a file with it alone holds."""

    def read(context, question, **options):
        (found,) = read_questions(write(squad((context, [question]))), **options)
        assert (found.context, found.text) == (context, question["question"])
        return found

    return read


def place(question: Question) -> tuple[str, int, int]:
    return question.kind, question.start, question.end


# Kinds of answers


@pytest.mark.parametrize("impossible", [True, "true", "True"])
@pytest.mark.parametrize("answers", [[], [("天气", 2)], [("", -1)]])
def test_no_answer_said_by_is_impossible(one, impossible, answers):
    """Whatever stands beside it, as plausible answers do."""
    found = one(PASSAGE, entry(*answers, is_impossible=impossible))
    assert (found.answers, *place(found)) == ([""], "none", -1, -1)


@pytest.mark.parametrize("more", [{}, {"is_impossible": False}, {"is_impossible": "false"}])
@pytest.mark.parametrize("answers", [[], [("", -1)], [("", -1), ("", -1)], [("",)]])
def test_no_answer_said_by_its_text_or_an_empty_list(one, more, answers):
    found = one(PASSAGE, entry(*answers, **more))
    assert set(found.answers) == {""} and place(found) == ("none", -1, -1)


@pytest.mark.parametrize("impossible", [False, "false", "False"])
def test_false_is_false_as_a_string_too(one, impossible):
    found = one(PASSAGE, entry(("天气", 2), is_impossible=impossible))
    assert (found.answers, *place(found)) == (["天气"], "span", 2, 4)


@pytest.mark.parametrize(("text", "kind"), [("YES", "yes"), ("NO", "no")])
def test_yes_and_no_have_no_place(one, text, kind):
    found = one(f"he said {text} twice", entry((text, -1), (text, -1), is_impossible="false"))
    assert (found.answers, *place(found)) == ([text, text], kind, -1, -1)


@pytest.mark.parametrize("text", ["YES", "NO"])
def test_yes_and_no_that_stand_in_the_passage_are_parts_of_it(one, text):
    found = one(f"he said {text} twice", entry((text, 8)))
    assert (found.answers, *place(found)) == ([text], "span", 8, 8 + len(text))


def test_all_answers_are_kept_and_the_first_is_trained(one):
    found = one(PASSAGE, entry(("天气不好", 9), ("不好", 11), ("天气不好", 9)))
    assert (found.answers, *place(found)) == (["天气不好", "不好", "天气不好"], "span", 9, 13)


def test_answer_types_of():
    kinds = {
        "span": [["span"], ["span", "span"]],
        "span+none": [["none"], ["none", "span"]],
        "span+yes+no+none": [["yes"], ["no", "span"], ["none", "yes", "no", "span"]],
    }
    for name, cases in kinds.items():
        for case in cases:
            assert answer_types_of([Question(1, "1", "q", "c", ["x"], kind) for kind in case]) == name


# Places of answers


def test_a_right_place_is_taken_though_the_text_stands_elsewhere_too(one, messages):
    assert place(one(PASSAGE, entry(("天气", 9)))) == ("span", 9, 11)
    assert messages == []


@pytest.mark.parametrize(("start", "expected"), [(0, 2), (3, 2), (5, 2), (6, 9), (8, 9), (10, 9), (99, 9)])
def test_a_wrong_place_is_mended_to_the_nearest(one, messages, start, expected):
    assert place(one(PASSAGE, entry(("天气", start)))) == ("span", expected, expected + 2)
    (message,) = messages
    assert "a.json: 1 answers are not at their answer_start" in message


def test_the_nearest_may_overlap_another(one):
    assert place(one("zzababa", entry(("aba", 5)))) == ("span", 4, 7)


@pytest.mark.parametrize("answer", [("很好", -1), ("很好",)])
def test_without_a_place_the_only_one_is_taken(one, messages, answer):
    assert place(one(PASSAGE, entry(answer))) == ("span", 4, 6)
    assert len(messages) == 1 and "1 answers are not at their answer_start" in messages[0]


@pytest.mark.parametrize("answer", [("天气", -1), ("天气",)])
def test_without_a_place_the_first_of_several_is_taken_and_that_is_said(one, messages, answer):
    assert place(one(PASSAGE, entry(answer))) == ("span", 2, 4)
    (message,) = messages
    assert "1 answers have no answer_start" in message and "several times" in message


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("NewYork", "New \n York"), ("New  York", "New \n York"), ("大桥 很长", "大桥\u3000很长"), ("a . b", "a.b")],
)
@pytest.mark.parametrize("start", [0, -1, 7])
def test_an_answer_with_other_blanks(one, messages, answer, expected, start):
    context = "Old: New \n York, 大桥\u3000很长, (a.b)"
    found = one(context, entry((answer, start)))
    assert context[found.start : found.end] == expected
    assert found.answers == [answer]
    assert len(messages) == 1


def test_signs_that_a_pattern_would_read_are_taken_as_they_are(one):
    context = "价格 (a+b)*[c]? $5.00 或 a.b"
    for answer in ("(a+b)*[c]?", "$5.00", "a.b"):
        found = one(context, entry((answer, 0)))
        assert context[found.start : found.end] == answer


def test_an_answer_that_is_not_there_cannot_be_trained(write):
    path = write(squad((PASSAGE, [entry(("天气", 2))]), ("空空", [entry(("天气", 0), identity="x")])), indent=1)
    line = 1 + path.read_text().split('"id": "x"')[0].count("\n")
    with pytest.raises(UserError, match=rf"a\.json:{line}: question x: the answer '天气' is not in its passage; correct it"):
        read_questions(path)
    found = read_questions(path, places_needed=False)[1]
    assert (found.answers, *place(found)) == (["天气"], "span", -1, -1)


def test_evaluation_says_nothing_of_places(one, messages):
    one(PASSAGE, entry(("天气", 0)), places_needed=False)
    assert messages == []


@pytest.mark.parametrize("start", ["2", None, 2.0, "x", [2]])
def test_a_place_that_is_no_whole_number(one, start):
    """Mended like any other wrong place, or refused in one line."""
    try:
        assert place(one(PASSAGE, entry(("天气", start)))) == ("span", 2, 4)
    except UserError as error:
        assert "a.json:1: question 1: " in str(error)


# Files


def test_gzip_bom_and_line_ends(write):
    content = squad((PASSAGE, [entry(("天气", 2)), entry(identity="2")]))
    expected = read_questions(write(content, indent=2))
    raw = json.dumps(content, ensure_ascii=False, indent=2).encode()
    forms = {"b.json": b"\xef\xbb\xbf" + raw, "c.json": raw.replace(b"\n", b"\r\n"), "d.json.gz": gzip.compress(raw),
             "e.json.GZ": gzip.compress(b"\xef\xbb\xbf" + raw)}  # fmt: skip
    for name, data in forms.items():
        assert read_questions(write(data, name)) == expected, name
    assert [question.kind for question in expected] == ["span", "none"]


@pytest.mark.parametrize("indent", [None, 0, 4])
def test_lines_of_ids(write, indent):
    content = squad(
        (PASSAGE, [entry(identity="甲"), entry(identity="2")]), ('"2"\n', [entry(identity='q"\\3'), entry(identity="1")])
    )
    path = write(content, indent=indent)
    text = path.read_text()
    keys = [json.dumps(identity, ensure_ascii=False) for identity in ("甲", "2", 'q"\\3', "1")]
    expected = [1 + text.split(f'"id": {key}')[0].count("\n") for key in keys]
    assert [question.line for question in read_questions(path, answers_needed=False)] == expected
    assert (len(set(expected)) == 1) == (indent is None)


@pytest.mark.parametrize("ids", [(1, 2, 3), ("一", "二", "三")])
def test_lines_of_ids_that_are_numbers_or_escaped(write, ids):
    content = json.dumps(squad((PASSAGE, [entry(identity=one) for one in ids])), indent=1)
    expected = [1 + content.split(f'"id": {json.dumps(one)}')[0].count("\n") for one in ids]
    found = read_questions(write(content))
    assert [question.id for question in found] == [str(one) for one in ids]
    assert [question.line for question in found] == expected


def test_questions_without_an_id_are_named_by_their_place(write):
    content = squad((PASSAGE, [entry(), entry()]), ("好", [entry()]))
    for article in content["data"]:
        for question in article["paragraphs"][0]["qas"]:
            del question["id"]
    names = [question.id for question in read_questions(write(content))]
    assert names == ["data[0].paragraphs[0].qas[0]", "data[0].paragraphs[0].qas[1]", "data[1].paragraphs[0].qas[0]"]


BAD = {
    "no question": (entry(("天气", 2), question=" "), "no question; write a text under key question"),
    "a question that is a number": (entry(("天气", 2), question=7), "no question; "),
    "answers of another kind": ({**entry(), "answers": "天气"}, "no answers; write "),
    "no answers": ({"id": "1", "question": "何？"}, "no answers; write "),
    "an answer without text": ({**entry(), "answers": [{"answer_start": 1}]}, "no answers; write "),
}


@pytest.mark.parametrize(("question", "message"), BAD.values(), ids=BAD)
def test_bad_questions(write, messages, question, message):
    good = entry(("天气", 2), identity="good")
    path = write(squad((PASSAGE, [{**question, "id": "bad"}, good])), indent=1)
    line = 1 + path.read_text().split('"bad"')[0].count("\n")
    with pytest.raises(UserError) as error:
        read_questions(path)
    first, last = str(error.value).splitlines()
    assert first.startswith(f"{path}:{line}: question bad: {message}")
    assert "1 bad row; correct them, or leave them out with --bad_rows skip" in last
    assert [found.id for found in read_questions(path, "skip")] == ["good"]
    assert "1 bad row left out" in messages[-1]


def test_an_empty_passage(write):
    path = write(squad((" \n", [entry(identity="a")]), (PASSAGE, [entry(identity="b")])))
    with pytest.raises(UserError, match="a.json:1: question a: an empty passage; fill it in"):
        read_questions(path)
    assert [found.id for found in read_questions(path, "skip")] == ["b"]
    assert [found.id for found in read_questions(path, answers_needed=False)] == ["a", "b"]


@pytest.mark.parametrize("second", [0, 1])
def test_an_id_that_stands_twice(write, second):
    others = [entry(identity="b")] * second
    path = write(squad((PASSAGE, [entry(("天气", 2), identity="a"), *others, entry(identity="a")])), indent=1)
    with pytest.raises(UserError, match=r"a\.json:\d+: question a: the id appears twice; give each question"):
        read_questions(path)
    found = read_questions(path, "skip")
    assert [question.id for question in found] == ["a", "b"][: 1 + second] and found[0].kind == "span"


def test_questions_without_answers_can_be_read_where_none_are_needed(write):
    path = write(squad((PASSAGE, [{"id": "1", "question": "何？"}, entry(("很好", 4), identity="2")])))
    first, second = read_questions(path, answers_needed=False, places_needed=False)
    assert (first.answers, second.answers) == ([], ["很好"])


def test_ten_bad_rows_are_shown(write):
    path = write(squad((PASSAGE, [entry(question="", identity=str(number)) for number in range(13)])))
    with pytest.raises(UserError) as error:
        read_questions(path)
    assert len(str(error.value).splitlines()) == 12 and "... and 3 more" in str(error.value)
    with pytest.raises(UserError, match="no questions in it that can be used"):
        read_questions(path, "skip")


NO_SQUAD = {
    "a list": [1],
    "no data": {"rows": []},
    "data of texts": {"data": "abc"},
    "no paragraphs": {"data": [{"context": "x", "qas": []}]},
    "paragraphs no list": {"data": [{"paragraphs": {"context": "x", "qas": []}}]},
    "no qas": {"data": [{"paragraphs": [{"context": "x"}]}]},
    "qas a number": {"data": [{"paragraphs": [{"context": "x", "qas": 3}]}]},
    "qas of texts": {"data": [{"paragraphs": [{"context": "x", "qas": ["x"]}]}]},
    "context a list": {"data": [{"paragraphs": [{"context": ["x"], "qas": [entry()]}]}]},
    "a text": "x",
    "null": None,
}


@pytest.mark.parametrize("content", NO_SQUAD.values(), ids=NO_SQUAD)
def test_another_layout(write, content):
    with pytest.raises(UserError) as error:
        read_questions(write(json.dumps(content)))
    assert str(error.value).startswith(str(write("")))
    assert 'the layout is {"data": [{"paragraphs": [{"context":' in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{"data": []}, {"data": [{"paragraphs": []}]}, squad((PASSAGE, []))])
def test_no_questions(write, content):
    with pytest.raises(UserError, match=r"a\.json: no questions in it$"):
        read_questions(write(content))


def test_not_json(write):
    for content, line in (('{"data":\n [,]}', 2), ("", 1), ('{"a": 1}\n{"b": 2}\n', 2), (b"\xef\xbb\xbf{\n\n]", 3)):
        with pytest.raises(UserError, match=rf"a\.json:{line}: not JSON \(.*; the file must have SQuAD's layout"):
            read_questions(write(content))
    with pytest.raises(UserError, match="a.json:1: not UTF-8"):
        read_questions(write('{"data": "é"}'.encode("latin-1")))
    with pytest.raises(UserError, match="a.json: cannot be read"):
        read_questions(write("[" * 200_000))
    with pytest.raises(UserError, match="no such file"):
        read_questions("nowhere.json")


def test_a_gzip_file_cut_short(write):
    data = gzip.compress(json.dumps(squad((PASSAGE, [entry()]))).encode())
    with pytest.raises(UserError, match="damaged gzip file"):
        read_questions(write(data[:-9], "a.json.gz"))


@pytest.mark.parametrize("case", ["damaged in the middle", "a number of 5,000 digits"])
def test_files_damaged_in_other_ways(write, case):
    noise = np.random.default_rng(0).integers(97, 122, 5000, dtype=np.uint8).tobytes()
    data = bytearray(gzip.compress(b'{"data": "' + noise + b'"}'))
    data[40:60] = b"\xff" * 20
    path = write(bytes(data), "a.json.gz") if "middle" in case else write('{"data": ' + "1" * 5000 + "}")
    with pytest.raises(UserError):
        read_questions(path)


def test_half_a_character(write):
    """``\\ud83d`` without its other half can be neither tokenized nor written."""
    path = write(json.dumps(squad(("ab \ud83d", [entry(("ab", 0), question="q\ud83d", identity="1")]))))
    with pytest.raises(UserError, match="a.json:1: "):
        read_questions(path)


# Windows


@pytest.fixture(scope="module")
def byte_level():
    """A tokenizer as RoBERTa has it: bytes, two separators between the texts, one segment."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["where was the treaty of the rivers signed in the old city hall"] * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer.to_str()


@pytest.fixture(params=["bert", "roberta", "bytes"])
def tokenizer_of(request, tiny_model, byte_level):
    """Makes tokenizers that share nothing: the encoder changes the one that it is given."""
    if request.param == "bytes":
        return lambda: PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(byte_level), pad_token="<pad>", unk_token="<unk>",
            cls_token="<s>", sep_token="</s>", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        )  # fmt: skip
    return lambda: load_tokenizer(tiny_model(request.param))


def encoder_of(tokenizer, max_seq_length=24, max_query_length=8, doc_stride=5) -> ReadingTokenizer:
    return ReadingTokenizer(TextTokenizer(tokenizer, max_seq_length), max_query_length, doc_stride)


def of_transformers(tokenizer, question: Question, max_seq_length: int, doc_stride: int) -> list[dict]:
    """The windows and their targets, as the recipe of Hugging Face's examples makes them (run_qa.py)."""
    encoded = tokenizer(
        [question.text], [question.context], truncation="only_second", max_length=max_seq_length, stride=doc_stride,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    windows = []
    for row, ids in enumerate(encoded["input_ids"]):
        offsets, sequences = encoded["offset_mapping"][row], encoded.sequence_ids(row)
        start = end = 0
        if question.kind == "span" and 1 in sequences:
            first, last = sequences.index(1), len(ids) - 1 - sequences[::-1].index(1)
            if offsets[first][0] <= question.start and offsets[last][1] >= question.end:
                while first < len(offsets) and offsets[first][0] <= question.start:
                    if sequences[first] != 1:
                        break
                    first += 1
                while offsets[last][1] >= question.end:
                    if sequences[last] != 1:
                        break
                    last -= 1
                start, end = first - 1, last + 1
        places = [offset if sequence == 1 else (-1, -1) for offset, sequence in zip(offsets, sequences, strict=True)]
        windows.append({"ids": ids, "types": encoded["token_type_ids"][row], "places": places, "answer": (start, end)})
    return windows


def of_ours(samples, rows) -> list[dict]:
    windows = []
    for row in rows:
        part = slice(samples.offsets[row], samples.offsets[row + 1])
        ids = samples.input_ids[part].tolist()
        windows.append(
            {
                "ids": ids,
                "types": [int(place >= samples.second[row]) for place in range(len(ids))],
                "places": [tuple(pair) for pair in samples.token_offsets[part].tolist()],
                "answer": (int(samples.starts[row]), int(samples.ends[row])),
            }
        )
    return windows


WORDS = ["where", "treaty", "signed", "a", "unbelievably", "2019", "x1", "酒店", "服务员", "价格便宜", "，", "。", ".", " ",
         "  ", "\n", "😀", "É", "１２", "龘"]  # fmt: skip
ENGLISH = [word for word in WORDS if word.isascii()]


@st.composite
def questions(draw, words):
    context = "".join(draw(st.lists(st.sampled_from(words), max_size=80)))
    text = draw(st.sampled_from(["where", "hotel", "x1 a"]))
    asked = Question(1, "1", text, context, [""])
    if context.strip() and draw(st.booleans()):
        places = st.integers(0, len(context))
        start, end = sorted((draw(places), draw(places)))
        answer = context[start:end].strip()
        if answer:
            start += len(context[start:end]) - len(context[start:end].lstrip())
            asked = Question(1, "1", text, context, [answer], "span", start, start + len(answer))
    return asked


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_windows_are_those_of_transformers(tokenizer_of, data):
    ours, theirs = tokenizer_of(), tokenizer_of()
    words = ENGLISH if ours.cls_token == "<s>" else WORDS  # bytes of one sign have one place, which their recipe cannot tell
    listed = data.draw(st.lists(questions(words), min_size=1, max_size=3))
    length, stride = data.draw(st.sampled_from([(24, 5), (24, 0), (30, 12), (64, 16)]))
    samples = window_questions(listed, encoder_of(ours, length, 7, stride))
    for number, question in enumerate(listed):
        rows = np.flatnonzero(samples.questions == number)
        found = of_ours(samples, rows)
        assert found == of_transformers(theirs, question, length, stride)
        for row, window in zip(rows, found, strict=True):
            start, end = window["answer"]
            assert samples.context_starts[row] == next(
                (place for place, pair in enumerate(window["places"]) if pair != (-1, -1)), len(window["ids"]) - 1
            )
            if start:
                characters = question.context[window["places"][start][0] : window["places"][end][1]]
                assert question.answers[0] in characters
    assert samples.lengths.max() <= length
    assert samples.cut_questions == 0


def test_an_answer_stands_in_each_window_that_holds_all_of_it(tiny_model):
    """24 tokens leave 16 beside five of a question; each window starts 11 after the one before."""
    context = "abcdefghijklmnopqrstuvwxyz0123456789"
    spaced = " ".join(context)
    found = {}
    for answer in ("f", "l m n o", "k l m n o p q r", "9", "a"):
        start = spaced.index(answer)
        question = Question(1, "1", "h o t e l", spaced, [answer], "span", start, start + len(answer))
        samples = window_questions([question], encoder_of(load_tokenizer(tiny_model("bert")), 24, 8, 5))
        assert samples.context_starts.tolist() == [7] * 3
        found[answer] = list(zip(samples.starts.tolist(), samples.ends.tolist(), strict=True))
    assert found == {
        "f": [(12, 12), (0, 0), (0, 0)],
        "l m n o": [(18, 21), (7, 10), (0, 0)],  # the shared tokens are l to p
        "k l m n o p q r": [(0, 0), (0, 0), (0, 0)],  # too long for any
        "9": [(0, 0), (0, 0), (20, 20)],
        "a": [(7, 7), (0, 0), (0, 0)],
    }


def test_yes_no_none_and_unknown(tiny_model):
    """Yes is the row's length, no one more, in every window; -1 where the file has no answers."""
    context = "酒店服务" * 8
    asked = [
        Question(3, "y", "where", context, ["YES"], "yes"), Question(4, "n", "where", context, ["NO"], "no"),
        Question(5, "i", "where", context, [""], "none"), Question(6, "u", "where", context, []),
    ]  # fmt: skip
    samples = window_questions(asked, encoder_of(load_tokenizer(tiny_model("bert")), 24, 8, 5))
    rows = len(samples) // 4
    assert rows > 1 and samples.questions.tolist() == sorted([0, 1, 2, 3] * rows)
    assert samples.lines.tolist() == sorted([3, 4, 5, 6] * rows)
    lengths = samples.lengths[:rows].tolist()
    assert samples.starts.tolist() == samples.ends.tolist()
    assert samples.starts.tolist() == [*lengths, *[length + 1 for length in lengths], *[0] * rows, *[-1] * rows]


def test_a_batch_knows_where_yes_and_no_stand(tiny_model):
    """Behind its longest window."""
    asked = [
        Question(1, "y", "where", "酒店", ["YES"], "yes"), Question(1, "s", "where", "酒店服务员", ["服务"], "span", 2, 4),
        Question(1, "n", "where", "酒店服务", ["NO"], "no"), Question(1, "i", "where", "酒", [""], "none"),
    ]  # fmt: skip
    samples = window_questions(asked, encoder_of(load_tokenizer(tiny_model("bert"))))
    assert samples.lengths.tolist() == [10, 13, 12, 9]  # five pieces of the question, three special tokens
    batch = collate_reading(samples, np.array([3, 0, 1, 2]))
    assert batch.tokens.lengths == [13, 12, 10, 9]
    assert batch.starts.tolist() == [9, 14, 13, 0] and batch.ends.tolist() == [10, 14, 13, 0]
    ids = batch.tokens.input_ids.split(batch.tokens.lengths)
    types = batch.tokens.token_type_ids.split(batch.tokens.lengths)
    for row, window in zip((1, 2, 0, 3), range(4), strict=True):
        assert ids[window].tolist() == of_ours(samples, [row])[0]["ids"]
        assert types[window].tolist() == of_ours(samples, [row])[0]["types"]
    alone = collate_reading(samples, np.array([0]))
    assert (alone.starts.tolist(), alone.ends.tolist()) == ([10], [10])
    again = targets_of(samples, batch.tokens, np.array([1, 2, 0, 3]))
    assert again.starts.tolist() == batch.starts.tolist()


def test_a_long_question_is_cut(tiny_model):
    tokenizer = load_tokenizer(tiny_model("bert"))
    long, short = "酒店服务员早餐干净差", "酒店服务员早餐干"
    listed = [Question(1, str(number), text, "价格" * 20, [""]) for number, text in enumerate((long, short))]
    samples = window_questions(listed, encoder_of(tokenizer, 24, 8, 5))
    first, second = (of_ours(samples, np.flatnonzero(samples.questions == number)) for number in (0, 1))
    assert first == second and len(first) > 1
    assert samples.cut_questions == 1
    assert samples.uncut_lengths.tolist() == [8 + 40 + 3] * 2  # question as read, passage, special tokens


def test_an_empty_passage_has_one_window(tiny_model):
    samples = window_questions([Question(1, "1", "酒店", "", [])], encoder_of(load_tokenizer(tiny_model("bert"))))
    assert samples.lengths.tolist() == [5] and samples.context_starts.tolist() == [4]
    assert (samples.token_offsets == -1).all()


def test_unknown_tokens_are_counted_in_passages(tiny_model):
    tokenizer = load_tokenizer(tiny_model("bert"))
    samples = window_questions([Question(1, "1", "龘", "酒龘店😀", [])], encoder_of(tokenizer), tokenizer.unk_token_id)
    assert samples.unknown == 2


@pytest.mark.parametrize(("length", "query", "stride"), [(24, 16, 5), (24, 8, 13), (24, 30, 0), (24, 21, 0)])
def test_no_room_for_the_passage(tiny_model, length, query, stride):
    with pytest.raises(
        UserError, match=f"--max_seq_length {length} leaves .*--max_query_length {query}, .*{stride}; raise --max_seq_length"
    ):
        encoder_of(load_tokenizer(tiny_model("bert")), length, query, stride)


@pytest.mark.parametrize(("length", "query", "stride"), [(24, 15, 5), (24, 8, 12), (24, 20, 0)])
def test_the_least_room_there_may_be(tiny_model, length, query, stride):
    """One new token a window."""
    samples = window_questions(
        [Question(1, "1", "酒" * query, "店" * 30, [""])],
        encoder_of(load_tokenizer(tiny_model("bert")), length, query, stride),
    )
    assert len(samples) == 30 - stride
    assert samples.lengths.tolist() == [length] * (30 - stride)


def test_the_fingerprint_tells_encoders_apart(tiny_model):
    tokenizer = load_tokenizer(tiny_model("bert"))
    sizes = [(24, 8, 5), (25, 8, 5), (24, 9, 5), (24, 8, 6)]
    assert len({encoder_of(tokenizer, *size).fingerprint for size in sizes}) == 4
    assert encoder_of(tokenizer).fingerprint == encoder_of(load_tokenizer(tiny_model("bert"))).fingerprint


# The real files


def raw_questions(path):
    """``(context, entry)`` of each question."""
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as handle:
        content = json.load(handle)
    return [
        (paragraph["context"], question)
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def test_cmrc2018(shared, messages):
    path = shared / "data" / "mrc" / "cmrc2018" / "squad_style_train.json.gz"
    raw, found = raw_questions(path), read_questions(path)
    wrong = 0
    for (context, question), read in zip(raw, found, strict=True):
        answer = question["answers"][0]
        assert (read.id, read.text, read.kind) == (question["id"], question["question"], "span")
        assert re.sub(r"\s", "", context[read.start : read.end]) == re.sub(r"\s", "", answer["text"])
        right = context[answer["answer_start"] :].startswith(answer["text"])
        assert not right or read.start == answer["answer_start"]
        wrong += not right
    assert (len(found), wrong) == (10_142, 21)
    assert any(f"{path}: 21 answers are not at their answer_start" in message for message in messages)


def test_the_development_set_of_cmrc2018(shared):
    path = shared / "data" / "mrc" / "cmrc2018" / "squad_style_dev.json"
    found = read_questions(path, places_needed=False)
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(found) == 3_219
    for (_, question), read in zip(raw_questions(path), found, strict=True):
        assert read.answers == [answer["text"] for answer in question["answers"]]
        assert f'"{read.id}"' in lines[read.line - 1]


def test_cjrc(shared):
    path = shared / "data" / "mrc" / "cjrc" / "dev.json.gz"
    expected = Counter()
    for _, question in raw_questions(path):
        first = question["answers"][0] if question["answers"] else {"text": ""}
        if question["is_impossible"] == "true" or first["text"] == "":
            expected["none"] += 1
        elif first["answer_start"] == -1 and first["text"] in ("YES", "NO"):
            expected[first["text"].lower()] += 1
        else:
            expected["span"] += 1
    found = read_questions(path)
    assert Counter(question.kind for question in found) == expected and sum(expected.values()) == 6_000
    assert min(expected[kind] for kind in ("span", "none", "yes", "no")) > 100
    assert answer_types_of(found) == "span+yes+no+none"


def test_squad_v2(shared):
    found = read_questions(shared / "data" / "mrc" / "squad_v2" / "dev_half.json")
    assert Counter(question.kind for question in found) == {"none": 3_168, "span": 6_078 - 3_168}
    assert all(
        question.context[question.start : question.end] == question.answers[0] for question in found if question.start >= 0
    )


ANSWERED = {"id": "7", "question": "在哪？", "context": "我在北京", "answers": {"text": ["北京"], "answer_start": [2]}}


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", json.dumps(ANSWERED), 1),
        ("a.json", f"\n{json.dumps(ANSWERED)}\n{json.dumps({**ANSWERED, 'id': '8'})}", 2),
        ("a.json", f"[\n{json.dumps(ANSWERED)}]", 2),
        ("a.json", json.dumps([{**ANSWERED, "answers": "北京"}]), 1),
        ("a.json", json.dumps([{**ANSWERED, "answers": None, "answer": ["北京"]}]), 1),
        ("a.csv", 'id,Question,passage,answer,answer_start\n7,在哪？,"我在北京",北京,2\n', 2),
        ("a.tsv", "id\tquestion\tcontext\tanswer\n7\t在哪？\t我在北京\t北京\n", 2),
        (
            "cmrc2018_train.json",
            '[{"context_id": "T", "context_text": "我在北京", "qas": [\n{"query_text": "在哪？", "query_id": "7",'
            ' "answers": ["北京", "京"]}]}]',
            1,
        ),
    ],
)
def test_tables_of_questions(tmp_path, name, content, line):
    (tmp_path / name).write_text(content, encoding="utf-8")
    question = read_questions(tmp_path / name)[0]
    assert (question.id, question.line, question.text, question.context) == ("7", line, "在哪？", "我在北京")
    assert (question.answers[0], question.start, question.end) == ("北京", 2, 4)


def test_a_row_without_its_passage_is_a_bad_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{json.dumps(ANSWERED)}\n{{"question": "谁？", "answers": []}}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.jsonl:2: question 2: no passage; write a text under key context"):
        read_questions(path)
