"""predict.py with readers: what it finds in passages of any kind and length, and how it writes it down."""

import gzip
import json
import random
import shutil

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, BertTokenizer

from tests.closeness import SINGLE
from tests.scripts.launch import as_flags, call, complaint, journal, run
from tests.scripts.test_run_mrc import FILLER, QUESTION, build_reader, figures, metrics_of, raw_questions, rows, write_squad


@pytest.fixture(scope="module")
def trained(still_encoder, tmp_path_factory):
    return build_reader(still_encoder, tmp_path_factory)


@pytest.fixture(scope="module")
def model(trained):
    return trained / "checkpoint"


@pytest.fixture
def predict(monkeypatch, capsys):
    """``predict(**flags)`` -> standard output, of a call that went well."""

    def answer(**flags):
        capsys.readouterr()
        code = call("predict.py", as_flags(device="cpu", **flags), monkeypatch)
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return answer


@pytest.fixture
def refused(monkeypatch, capsys):
    """``refused(**flags)`` -> the one line that a call ends with."""

    def answer(**flags):
        capsys.readouterr()
        assert call("predict.py", as_flags(device="cpu", **flags), monkeypatch) == 2
        found = capsys.readouterr()
        assert found.out == ""
        return complaint(found.err)

    return answer


def objects(printed):
    r"""The objects of json lines, which ``\n`` alone separates."""
    assert printed.endswith("\n")
    return [json.loads(line) for line in printed.split("\n")[:-1]]


@pytest.fixture
def ask(model, predict):
    """``ask(context)`` -> the object of one question."""

    def answer(context, **flags):
        (found,) = objects(predict(**{"model_dir": model, "question": QUESTION, "context": context, **flags}))
        return found

    return answer


LONG = "".join(FILLER)[:10_000]
assert len(LONG) == 10_000
CONTEXTS = {
    "Chinese": ("他说", "诸葛曹", "很好"),
    "English inside": ("he said ", "诸Paris, 2024!曹", " too"),
    "digits": ("在2019年 ", "诸3,000.50曹", "1234"),
    "full width": ("１２３　", "诸ＡＢＣ１２曹", "！？"),
    "traditional": ("據說", "诸蜀國龍門曹", "體"),
    "blanks": (" 他 \n\n", "诸 葛  \n 曹", "\t 的 "),
    "line separators": ("第一\u2028\u2029", "诸\u2028\x85葛曹", "\u2028"),
    "emoji": ("😀👨‍👩‍👧", "诸𠮷😀曹", "é́à"),
    "invisible signs": ("\u200b他\ufeff", "诸\u200b葛\u0301曹", "\u200d"),
    "at the start": ("", "诸葛曹", "很好"),
    "at the end": ("很好", "诸葛曹", ""),
    "alone": ("", "诸曹", ""),
    "at the start of 10,000": ("", "诸葛曹", LONG),
    "at the end of 10,000": (LONG, "诸葛曹", ""),
    "in a later window": (LONG[:3_333], "诸葛曹", LONG[3_333:]),
}


@pytest.mark.parametrize(("before", "answer", "after"), CONTEXTS.values(), ids=CONTEXTS)
def test_answers_stand_where_it_says(ask, before, answer, after):
    context = before + answer + after
    found = ask(context)
    assert (found["kind"], found["answer"], found["question"], found["id"]) == ("span", answer, QUESTION, "1")
    assert (found["start"], found["end"]) == (len(before), len(before + answer))
    assert context[found["start"] : found["end"]] == found["answer"]
    assert 0 < found["probability"] <= 1


@pytest.mark.parametrize("length", range(42, 67, 4))
def test_wherever_the_windows_end(ask, length):
    """With max_seq_length 64 the first window ends after about 50 characters."""
    found = ask(LONG[:length] + "诸葛曹" + LONG[length : length + 60])
    assert (found["answer"], found["start"]) == ("诸葛曹", length)


@pytest.mark.parametrize(
    ("context", "kind", "text"),
    [
        (FILLER[3][:12] + "敦敦敦敦", "yes", "YES"),
        (FILLER[4][:12] + "煌煌煌煌", "no", "NO"),
        (FILLER[5][:18], "none", ""),
        (LONG[:500], "none", ""),
    ],
)
def test_other_kinds_have_no_place(ask, context, kind, text):
    found = ask(context)
    assert (found["kind"], found["answer"], found["start"], found["end"]) == (kind, text, None, None)


@pytest.mark.parametrize("context", ["", " ", "\n\u2028 \t"])
def test_a_blank_passage_has_no_answer(ask, context):
    """Neither a span nor yes or no, whatever the threshold."""
    found = ask(context, null_score_diff_threshold=1000, n_best=50)
    assert (found["kind"], found["answer"], found["start"]) == ("none", "", None)
    assert {one["kind"] for one in found["n_best"]} == {"none"}


def test_a_question_that_is_cut(ask):
    """12 tokens of it are read; the rest changes nothing."""
    long = "何" * 12
    expected = ask("他说诸葛曹很好", question=long)
    found = ask("他说诸葛曹很好", question=long + LONG[:5_000])
    assert found["answer"] == "诸葛曹" and found.pop("question") != expected.pop("question")
    assert found == expected


def test_a_passage_from_a_file(ask, predict, model, tmp_path):
    path = tmp_path / "passage.txt"
    context = "第一行\n诸葛\u2028曹\n第三行"
    path.write_text(context, encoding="utf-8")
    assert objects(predict(model_dir=model, question=QUESTION, context_file=path)) == [ask(context)]
    assert ask(context)["answer"] == "诸葛\u2028曹"


def test_a_file_of_questions(predict, model, trained, ask, tmp_path):
    """Packed or not, with answers or without, to a file or to standard output: one object a question, in its order."""
    printed = predict(model_dir=model, input_file=trained / "dev.json")
    raw = raw_questions(trained / "dev.json")
    found = objects(printed)
    assert [line["id"] for line in found] == [entry["id"] for _, entry in raw]
    assert [line["kind"] for line in found] == [line["id"].split("-")[0] for line in found]
    for (context, entry), line in zip(raw, found, strict=True):
        assert line["question"] == entry["question"]
        if line["kind"] == "span":
            assert context[line["start"] : line["end"]] == line["answer"]
    first = ask(raw[0][0])
    for name, value in first.items():
        assert name == "id" or found[0][name] == (pytest.approx(value, abs=1e-5) if name == "probability" else value)
    stripped = json.loads((trained / "dev.json").read_text(encoding="utf-8"))
    for paragraph in stripped["data"][0]["paragraphs"]:
        for entry in paragraph["qas"]:
            del entry["answers"]
    (tmp_path / "bare.json.gz").write_bytes(gzip.compress(json.dumps(stripped).encode()))
    assert predict(model_dir=model, input_file=tmp_path / "bare.json.gz") == printed
    assert predict(model_dir=model, input_file=trained / "dev.json", output_file=tmp_path / "out.jsonl") == ""
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == printed


def test_figures_and_submissions(predict, model, trained, tmp_path):
    """Those of the training, and those of the official scorer; the threshold is the one that the training found."""
    path = tmp_path / "submission.json"
    how = {"model_dir": model, "input_file": trained / "dev.json", "submission_file": path, "batch_size": 16}
    printed = predict(**how, evaluate=True)
    answers = json.loads(path.read_text(encoding="utf-8"))
    assert path.read_bytes() == (model / "test_predictions.json").read_bytes()
    found = {name: float(value) for name, value in (part.split(": ") for part in printed.strip().split(", "))}
    best = max(journal(model, "eval"), key=lambda line: line["f1"])
    assert found.pop("loss") == pytest.approx(best["loss"], rel=SINGLE, abs=1e-5)
    assert found == pytest.approx(figures("cjrc", trained / "dev.json", answers), abs=1e-5)
    assert found == pytest.approx(metrics_of(best), abs=1e-5)
    assert predict(**how) == ""  # a submission alone
    for scorer in ("squad", "cmrc"):
        printed = predict(**how, evaluate=True, scorer=scorer)
        found = {name: float(value) for name, value in (part.split(": ") for part in printed.strip().split(", "))}
        del found["loss"]
        assert found == pytest.approx(figures(scorer, trained / "dev.json", answers), abs=1e-5)


def test_thresholds(predict, model, trained, tmp_path):
    """That of the flag stands over the saved one."""
    copy = shutil.copytree(model, tmp_path / "copy")
    description = json.loads((copy / "bertorch.json").read_text())
    description["null_score_diff_threshold"] = -1000.0
    (copy / "bertorch.json").write_text(json.dumps(description))

    def kinds(directory, threshold=None):
        found = objects(predict(model_dir=directory, input_file=trained / "dev.json", null_score_diff_threshold=threshold))
        assert all(line["answer"] == "" for line in found if line["kind"] == "none")
        return [line["kind"] for line in found]

    assert set(kinds(copy)) == {"none"}
    assert "none" not in kinds(copy, 1000)
    assert kinds(copy, json.loads((model / "bertorch.json").read_text())["null_score_diff_threshold"]) == kinds(model)
    assert set(kinds(model, -1000)) == {"none"}


def test_n_best(ask):
    context = "他说诸葛曹和诸子曹很好"
    plain, found = ask(context), ask(context, n_best=5)
    listed = found.pop("n_best")
    assert found == plain and len(listed) == 5
    assert {name: found[name] for name in listed[0]} == listed[0]
    shares = [one["probability"] for one in listed]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-5
    for one in listed:
        assert one["answer"] == (context[one["start"] : one["end"]] if one["kind"] == "span" else one["answer"])
    assert {"诸葛曹", "诸子曹"} <= {one["answer"] for one in listed}
    every = ask(context, n_best=1000)["n_best"]
    assert sum(one["probability"] for one in every) == pytest.approx(1, abs=1e-4)
    assert every[:5] == listed


def test_two_processes_answer_as_one(predict, model, trained, tmp_path):
    paths = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    how = {"model_dir": model, "input_file": trained / "dev.json", "batch_size": 5, "evaluate": True, "n_best": 3}
    printed = predict(**how, output_file=paths[0])
    done = run("predict.py", as_flags(**how, output_file=paths[1], device="cpu"), processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_other_windows(ask):
    for flags in ({"doc_stride": 40}, {"doc_stride": 0, "max_seq_length": 40}, {"max_seq_length": 512}):
        found = ask(LONG[:300] + "诸葛曹" + LONG[300:700], **flags)
        assert (found["answer"], found["start"]) == ("诸葛曹", 300)


# Models of transformers


@pytest.mark.parametrize("family", ["bert", "albert", "electra"])
def test_a_model_of_transformers(family, tiny_model, predict):
    """The best of all pairs of places in the passage, as its scores say."""
    directory = tiny_model(family, "ForQuestionAnswering", max_position_embeddings=256)
    question, context = "酒店在哪里", "房间干净，服务员喜欢早餐。where is x1？"
    theirs = AutoModelForQuestionAnswering.from_pretrained(directory).eval()
    tokens = BertTokenizer.from_pretrained(directory)(question, context, return_tensors="pt", return_offsets_mapping=True)
    places, inside = tokens.pop("offset_mapping")[0].tolist(), tokens.sequence_ids(0)
    with torch.no_grad():
        output = theirs(**tokens)
    start, end = output.start_logits[0], output.end_logits[0]
    pairs = [
        (start[i] + end[j], i, j) for i, one in enumerate(inside) for j in range(i, len(inside)) if one == 1 == inside[j]
    ]
    _, first, last = max(pairs)
    how = {"model_dir": directory, "max_seq_length": 256, "doc_stride": 32}
    (found,) = objects(predict(**how, question=question, context=context))
    assert (found["kind"], found["start"], found["end"]) == ("span", places[first][0], places[last][1])
    assert found["answer"] == context[found["start"] : found["end"]]


def test_a_reader_of_ours_that_has_lost_its_description(model, predict, tmp_path, trained):
    """What transformers would know of it: spans."""
    copy = shutil.copytree(model, tmp_path / "copy")
    (copy / "bertorch.json").unlink()
    how = {"model_dir": copy, "max_seq_length": 64, "doc_stride": 16}
    with pytest.raises(AssertionError, match="raise --max_seq_length"):  # questions may have 64 tokens there
        predict(**how, question=QUESTION, context="他说诸葛曹很好")
    (found,) = objects(predict(model_dir=copy, question=QUESTION, context="他说诸葛曹很好"))
    assert (found["answer"], found["kind"]) == ("诸葛曹", "span")


# Mistakes

NOTHING = "--input_file in SQuAD's layout, or --question with --context or --context_file"
MISTAKES = {
    "nothing to answer": ({}, NOTHING),
    "both": ({"question": "何？", "context": "x", "input_file": "a.json"}, NOTHING),
    "no passage": ({"question": "何？"}, "--question needs its passage: --context or --context_file"),
    "two passages": ({"question": "何？", "context": "x", "context_file": "y"}, "--context or --context_file"),
    "no such passage": ({"question": "何？", "context_file": "nowhere.txt"}, "nowhere.txt: no such file"),
    "an empty question": ({"question": " ", "context": "x"}, "--question is empty"),
    "nothing to compare with": ({"question": "何？", "context": "x", "evaluate": True}, "--evaluate needs --input_file"),
    "no such file": ({"input_file": "nowhere.json"}, "nowhere.json: no such file"),
    "rows": ({"input_file": "rows.tsv"}, "rows.tsv:1: not JSON"),
    "columns": ({"input_file": "a.json", "columns": "a"}, "are not for questions about passages"),
    "no room": ({"question": "何？", "context": "x", "max_seq_length": 20}, "raise --max_seq_length, or lower --doc_stride"),
    "a scorer that nobody knows": ({"question": "何？", "context": "x", "scorer": "rouge"}, "--scorer: invalid choice"),
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(flags, message, model, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.tsv").write_text("何？\tx\n", encoding="utf-8")
    write_squad(tmp_path / "a.json", rows(2, random.Random(0)))
    error = refused(model_dir=model, **flags)
    assert error.startswith("predict.py: ") and message in error


def test_a_file_in_which_some_questions_have_answers(predict, model, tmp_path):
    first, second = rows(2, random.Random(0))
    del second["qas"][0]["answers"]
    found = objects(predict(model_dir=model, input_file=write_squad(tmp_path / "a.json", [first, second])))
    assert [line["kind"] for line in found] == ["span", "span"]


def test_yes_to_evaluate_a_model_that_knows_spans_alone(predict, tiny_model, tmp_path):
    directory = tiny_model("bert", "ForQuestionAnswering", max_position_embeddings=256)
    path = write_squad(tmp_path / "a.json", rows(4, random.Random(0)))
    for evaluate in (False, True):
        predict(model_dir=directory, input_file=path, max_seq_length=256, doc_stride=32, evaluate=evaluate)
