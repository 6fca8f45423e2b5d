"""run_choice.py and its answers: learns, reports what an independent count gives, and opens in transformers."""

import io
import json
import math
import random
import sys
from collections import defaultdict

import pytest
import torch
from transformers import AutoModelForMultipleChoice, AutoTokenizer

from tests.conftest import OURS_ALONE
from tests.scripts.launch import DATA, as_flags, assert_same_model, call, journal, run

SAMPLE = DATA / "choice"
LENGTHS = {"max_seq_length": 48, "max_qa_length": 16}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def learnable(count, seed, wrong=0.0):
    """The passage says nothing; of 2 to 4 options the right one is the one with 好, but for a share of the rows."""
    rng, signs = random.Random(seed), "天地山水火木金土日月"
    for _ in range(count):
        options = ["".join(rng.choices(signs, k=3)) for _ in range(rng.randint(2, 4))]
        label = rng.randrange(len(options))
        good = (label + (rng.random() < wrong)) % len(options)
        options[good] = options[good][:2] + "好"
        yield {"context": "".join(rng.choices(signs, k=8)), "question": "哪个？", "options": options, "label": label}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    return {name: write(folder / f"{name}.jsonl", learnable(*how)) for name, how in
            {"train": (200, 0), "dev": (40, 1, 0.2), "other": (20, 2), "test": (30, 3, 0.2)}.items()}  # fmt: skip


def flags_of(encoder, saved_dir, files, **flags):
    values = {
        "pretrained_model_name_or_path": encoder, "saved_dir": saved_dir, "train_data_file": files["train"],
        "dev_data_file": files["dev"], "learning_rate": 3e-3, "batch_size": 16, "epochs": 4, "device": "cpu", **LENGTHS,
        **flags,
    }  # fmt: skip
    return as_flags(**values)


@pytest.fixture(scope="module")
def trained(small_encoder, files, tmp_path_factory):
    """A run with a further development set and a test set."""
    directory = tmp_path_factory.mktemp("trained") / "out"
    flags = flags_of(small_encoder, directory, files, test_data_file=files["test"], do_test=True, save_best_model=True)
    place = flags.index("--dev_data_file") + 2
    with pytest.MonkeyPatch.context() as patch:
        assert call("run_choice.py", [*flags[:place], str(files["other"]), *flags[place:]], patch) == 0
    return directory


@pytest.fixture
def predict(trained, tmp_path, monkeypatch, capsys):
    """``predict(content, name, **flags)`` -> standard output."""

    def answer(content, name="rows.jsonl", code=0, **flags):
        source = content
        if isinstance(content, str):
            source = tmp_path / name
            source.write_text(content, encoding="utf-8")
        capsys.readouterr()
        given = as_flags(**{"model_dir": trained, "input_file": source, "device": "cpu", **flags})
        assert call("predict.py", given, monkeypatch) == code
        found = capsys.readouterr()
        return found.err if code else found.out

    return answer


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_it_learns_and_evaluates(trained, files, predict):
    """Accuracy and loss are those of the probabilities that predict.py gives, counted here."""
    found = journal(trained, "eval")[-1]
    assert 0.6 <= found["accuracy"] < 1 and found["other_accuracy"] >= 0.9  # chance is a third
    rows = read(files["dev"])
    answers = [json.loads(line) for line in predict(files["dev"], probabilities=True, output_format="jsonl").splitlines()]
    assert [len(one["probabilities"]) for one in answers] == [len(row["options"]) for row in rows]
    for row, one in zip(rows, answers, strict=True):
        assert one["label"] == max(range(len(row["options"])), key=one["probabilities"].__getitem__)
        assert one["answer"] == row["options"][one["label"]]
        assert sum(one["probabilities"]) == pytest.approx(1, abs=1e-5)
    right = [one["label"] == row["label"] for row, one in zip(rows, answers, strict=True)]
    losses = [-math.log(one["probabilities"][row["label"]]) for row, one in zip(rows, answers, strict=True)]
    best = max(journal(trained, "eval"), key=lambda line: line["accuracy"])
    assert sum(right) / len(rows) == pytest.approx(best["accuracy"])
    assert sum(losses) / len(rows) == pytest.approx(best["loss"], abs=1e-4)
    printed = predict(files["dev"], evaluate=True)
    assert printed == f"loss: {best['loss']:.5f}, accuracy: {best['accuracy']:.5f}\n"
    tested = (trained / "test_predictions.tsv").read_text().split()
    labels = [row["label"] for row in read(files["test"])]
    accuracy = sum(int(one) == label for one, label in zip(tested, labels, strict=True)) / len(labels)
    assert journal(trained, "test")[0]["accuracy"] == pytest.approx(accuracy)


def test_the_report_keeps_counts(trained, files):
    details = json.loads((trained / "evaluation.json").read_text(encoding="utf-8"))["choice"]
    rows = read(files["dev"])
    sizes = defaultdict(int)
    for row in rows:
        sizes[len(row["options"])] += 1
    assert {size: count for size, _, count in details["sizes"]} == sizes
    assert details["labelled"] == [sum(row["label"] == place for row in rows) for place in range(4)]
    assert sum(details["chosen"]) == len(rows) and sum(details["right"]) == len(rows) - details["wrong"]


def test_transformers_opens_it(trained, files, predict):
    model, tokenizer = AutoModelForMultipleChoice.from_pretrained(trained).eval(), AutoTokenizer.from_pretrained(trained)
    answers = [json.loads(line) for line in predict(files["dev"], probabilities=True, output_format="jsonl").splitlines()]
    for row, answer in zip(read(files["dev"])[:8], answers, strict=False):
        second = [f"{row['question']} {option}" for option in row["options"]]
        encoded = tokenizer([row["context"]] * len(second), second, padding=True, return_tensors="pt")
        with torch.no_grad():
            scores = model(**{name: value[None] for name, value in encoded.items()}).logits[0]
        assert answer["probabilities"] == pytest.approx(scores.softmax(dim=0).tolist(), abs=2e-5)


ROW = {"context": "天地", "question": "哪个？", "options": ["山", "水好"], "label": 1}


def test_lines_of_answers(predict):
    """A table, its header, and everything that flags add; blank rows keep their places."""
    rows = [ROW, {**ROW, "context": " ", "question": ""}, {**ROW, "options": ["火", "木", "金好"], "label": "A"}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    shown = predict(content, probabilities=True, with_label=True, with_text=True, header=True).split("\n")
    assert shown[0] == "label\tanswer\tprobabilities\tgold\tcontext\tquestion\toptions"
    first, blank, third = (line.split("\t") for line in shown[1:4])
    assert first[:2] == ["1", "水好"] and first[3:] == ["1", "天地", "哪个？", "山|水好"]
    assert [len(line[2].split("|")) for line in (first, third)] == [2, 3]
    assert blank == [""] * 7 and third[3] == "0"
    lines = [json.loads(line) for line in predict(content, output_format="jsonl").splitlines()]
    assert lines[1] == {"label": None, "answer": None} and lines[0] == {"label": 1, "answer": "水好"}


def test_a_pipe_and_a_table(predict, trained, monkeypatch, capsys):
    content = json.dumps({key: ROW[key] for key in ("context", "question", "options")}) + "\n"
    expected = predict(content)
    assert predict("context\tquestion\tA\tB\tC\n天地\t哪个？\t山\t水好\t\n", "rows.tsv") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert call("predict.py", as_flags(model_dir=trained, device="cpu"), monkeypatch) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"columns": "a,b"}, "--columns, --is_text_pair and --corpus are not for questions with options"),
        ({"input_format": "text"}, "--input_format text: for questions with options use one of tsv, csv"),
        ({"evaluate": True}, "rows.jsonl:1: no answer; add the place of the right option under label"),
        ({"max_seq_length": 16}, "--max_seq_length 16 leaves no room for a passage beside --max_qa_length 16"),
    ],
)
def test_refused(predict, flags, says):
    content = json.dumps({**ROW, "label": None}) + "\n"
    assert says in predict(content, code=2, **flags)


def test_training_needs_answers(small_encoder, tmp_path, monkeypatch, capsys):
    path = write(tmp_path / "bad.jsonl", [ROW, {**ROW, "label": 2}])
    assert call("run_choice.py", flags_of(small_encoder, tmp_path / "out", {"train": path, "dev": path}), monkeypatch) == 2
    error = capsys.readouterr().err
    assert f"{path}:2: label '2' is not one of the 2 options" in error and "Traceback" not in error


def test_resume(small_encoder, files, tmp_path, monkeypatch):
    """A run that is stopped and resumed is the run that was not."""
    how = {"max_steps": 4, "save_steps": 2, "eval_steps": 2}
    for name, steps in (("whole", 4), ("halves", 2)):
        flags = flags_of(small_encoder, tmp_path / name, files, scheduler="constant", **{**how, "max_steps": steps})
        assert call("run_choice.py", flags, monkeypatch) == 0
    flags = flags_of(small_encoder, tmp_path / "halves", files, scheduler="constant", resume=True, **how)
    assert call("run_choice.py", flags, monkeypatch) == 0
    assert_same_model(tmp_path / "halves", tmp_path / "whole")


@pytest.mark.parametrize("family", OURS_ALONE)
def test_families_without_a_class_in_transformers(family, tiny_model, files, tmp_path, monkeypatch, predict):
    """predict.py opens what is saved, with the answers of the training's last evaluation."""
    flags = flags_of(tiny_model(family), tmp_path / "out", files, max_steps=3)
    assert call("run_choice.py", flags, monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == family
    found = journal(tmp_path / "out", "eval")[-1]
    printed = predict(files["dev"], model_dir=tmp_path / "out", evaluate=True)
    assert printed == f"loss: {found['loss']:.5f}, accuracy: {found['accuracy']:.5f}\n"


@pytest.mark.slow
def test_two_processes_evaluate_as_one(small_encoder, files, tmp_path, trained):
    flags = flags_of(small_encoder, tmp_path / "two", files, init_from_ckpt=trained, learning_rate=0.0, max_steps=1)
    assert run("run_choice.py", flags, processes=2).returncode == 0
    flags = flags_of(small_encoder, tmp_path / "one", files, init_from_ckpt=trained, learning_rate=0.0, max_steps=1)
    assert run("run_choice.py", flags).returncode == 0
    one, two = (journal(tmp_path / name, "eval")[-1] for name in ("one", "two"))
    assert one["accuracy"] == two["accuracy"] >= 0.6 and one["loss"] == two["loss"]


def test_the_sample_set(small_encoder, tmp_path, monkeypatch):
    """All three files are read; two to four options stand in different places."""
    flags = as_flags(
        pretrained_model_name_or_path=small_encoder, saved_dir=tmp_path / "out", train_data_file=SAMPLE / "train.jsonl",
        dev_data_file=SAMPLE / "dev.jsonl", test_data_file=SAMPLE / "test.jsonl", do_test=True, max_steps=1, device="cpu",
        max_seq_length=128, max_qa_length=48,
    )  # fmt: skip
    assert call("run_choice.py", flags, monkeypatch) == 0
    rows = read(SAMPLE / "train.jsonl")
    assert {len(row["options"]) for row in rows} == {2, 3, 4} and {row["label"] for row in rows} == {0, 1, 2, 3}
    passages = {(row["context"], row["question"]) for row in rows}
    for name in ("dev", "test"):
        assert not passages & {(row["context"], row["question"]) for row in read(SAMPLE / f"{name}.jsonl")}
