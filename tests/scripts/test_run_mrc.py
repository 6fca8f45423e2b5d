"""run_mrc.py, used as a user would: what it learns, the figures it writes down, resuming, several processes, mistakes."""

import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertorch.checksums import write_checksums
from bertorch.training.run import Run
from tests.scripts.launch import DATA, as_flags, call, complaint, journal, run
from tests.tasks.reading.test_scores import OFFICIAL

READING = {"train_data_file": DATA / "reading" / "train.json", "dev_data_file": DATA / "reading" / "dev.json"}
WINDOWS = {"max_seq_length": 64, "max_query_length": 12, "doc_stride": 16, "max_answer_length": 24}
SENTENCES = (DATA / "sentences" / "train.txt").read_text(encoding="utf-8").splitlines()
FILLER = [sentence for sentence in SENTENCES if not set(sentence) & set("诸曹敦煌")]
INSIDE = ("葛", "蜀國龍門", "Paris 2024", "１２３", "é à", "很 大", "\u2028", "x-1", "一。二")
QUESTION = "何处何人何事？"
_built = {}


def passage(chance: random.Random, answer: str, longest: int) -> tuple[str, int]:
    """A passage with this in it, and where: at its start, in its midst, or at its end."""
    before, after = ("".join(chance.sample(FILLER, 4))[: chance.choice((0, 6, longest))] for _ in range(2))
    return (before + answer + after).strip() or "今天天气", len(before)


def rows(count: int, chance: random.Random):
    """Answers begin with 诸 and end with 曹; 敦 makes the answer yes, 煌 no; passages without these have no answer."""
    for number in range(count):
        kind = ("span", "span", "none", "yes", "no")[number % 5]
        answer = {"span": "诸" + chance.choice(INSIDE) + "曹", "none": "", "yes": "敦" * 4, "no": "煌" * 4}[kind]
        context, start = passage(
            chance, answer, 70 if kind in ("span", "none") else 18
        )  # every window of a yes is trained as one
        given = (
            {"text": answer, "answer_start": start}
            if kind in ("span", "none")
            else {"text": kind.upper(), "answer_start": -1}
        )
        answers = [] if kind == "none" else [given]
        yield {"context": context, "qas": [{"id": f"{kind}-{number}", "question": QUESTION, "answers": answers}]}


def write_squad(path, paragraphs):
    content = {"data": [{"paragraphs": list(paragraphs)}]}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def build_reader(still_encoder, tmp_path_factory):
    """The saved directory of a run that has learned those rules; built once, copy it to change it."""
    if "directory" not in _built:
        directory = tmp_path_factory.mktemp("reader")
        train = write_squad(directory / "train.json", rows(2000, random.Random(0)))
        dev = write_squad(directory / "dev.json", rows(40, random.Random(1)))
        values = {
            "pretrained_model_name_or_path": still_encoder, "train_data_file": train, "dev_data_file": dev, "do_test": True,
            "test_data_file": dev, "saved_dir": directory / "checkpoint", "learning_rate": 3e-3, "batch_size": 16,
            "max_steps": 600, "warmup_proportion": 0.1, "save_best_model": True, "device": "cpu", "seed": 2, **WINDOWS,
        }  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            assert call("run_mrc.py", as_flags(**values), patch) == 0
        _built["directory"] = directory
    return _built["directory"]


@pytest.fixture(scope="module")
def trained(still_encoder, tmp_path_factory):
    return build_reader(still_encoder, tmp_path_factory)


def raw_questions(path):
    """``(passage, entry)`` of each question, as the file has them."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return [(paragraph["context"], entry) for article in content["data"] for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]]  # fmt: skip


def figures(scorer, path, predictions):
    """EM and F1 of ``{id: answer}`` by the official definitions, over all questions and over those of each kind."""
    scores, kinds = [], []
    for _, entry in raw_questions(path):
        answers = [] if str(entry.get("is_impossible")).lower() == "true" else entry["answers"]
        known = [answer["text"] for answer in answers] or [""]
        kind = "none" if known[0] == "" else "span"
        if answers and answers[0]["answer_start"] == -1 and known[0] in ("YES", "NO"):
            kind = known[0].lower()
        kinds.append(kind)
        found = predictions[entry["id"]]
        scores.append(
            (1, 1) if found == "" and "" in known else OFFICIAL[scorer](found, known)
        )  # CMRC2018 knows no such case

    def mean(part, *chosen):
        return np.mean([score[part] for score, kind in zip(scores, kinds, strict=True) if kind in (chosen or kinds)])

    found = {"em": mean(0), "f1": mean(1), "average": (mean(0) + mean(1)) / 2}
    if "none" in kinds:
        answerable = ("span", "yes", "no")
        found |= {"has_answer_em": mean(0, *answerable), "has_answer_f1": mean(1, *answerable),
                  "no_answer_em": mean(0, "none"), "no_answer_f1": mean(1, "none")}  # fmt: skip
    return found | {f"{kind}_em": mean(0, kind) for kind in ("yes", "no") if kind in kinds}


def metrics_of(line):
    return {name: value for name, value in line.items() if name not in ("kind", "global_step", "loss", "null_threshold")}


def sample_flags(encoder, saved_dir, **flags):
    """Those of a few steps on the sample passages."""
    values = {
        "pretrained_model_name_or_path": encoder, **READING, "saved_dir": saved_dir, "max_steps": 2, "learning_rate": 1e-3,
        "batch_size": 8, "max_seq_length": 160, "doc_stride": 64, "device": "cpu", **flags,
    }  # fmt: skip
    return as_flags(**values)


def test_it_learns_and_the_best_model_is_the_one_saved(trained):
    saved_dir = trained / "checkpoint"
    lines = journal(saved_dir, "eval")
    best = max(lines, key=lambda line: line["f1"])
    assert [line["global_step"] for line in lines] == [100, 200, 300, 400, 500, 600] and best["f1"] > 0.9
    description = json.loads((saved_dir / "bertorch.json").read_text())
    assert (description["task"], description["answer_types"], description["scorer"]) == (
        "reading",
        "span+yes+no+none",
        "cjrc",
    )
    assert description["null_score_diff_threshold"] == best["null_threshold"]
    assert {name: description[name] for name in WINDOWS} == WINDOWS
    (test,) = journal(saved_dir, "test")  # the same file, read by the saved model with its threshold
    assert metrics_of(test) == metrics_of(best)


def test_figures_and_predictions_of_the_test_set(trained):
    path = trained / "checkpoint" / "test_predictions.json"
    predictions = json.loads(path.read_text(encoding="utf-8"))
    assert list(predictions) == [entry["id"] for _, entry in raw_questions(trained / "dev.json")]
    (line,) = journal(trained / "checkpoint", "test")
    assert metrics_of(line) == pytest.approx(figures("cjrc", trained / "dev.json", predictions))


@pytest.mark.parametrize("scorer", [None, "cmrc"])
def test_the_sample_passages(small_encoder, tmp_path, monkeypatch, scorer):
    """A few steps; the figures are those of the official scorers, whatever little has been learned."""
    saved_dir = tmp_path / "out"
    flags = sample_flags(
        small_encoder, saved_dir, max_steps=12, do_test=True, test_data_file=DATA / "reading" / "test.json", scorer=scorer,
        eval_batch_size=64,
    )  # fmt: skip
    assert call("run_mrc.py", flags, monkeypatch) == 0
    (dev,), (test,) = journal(saved_dir, "eval"), journal(saved_dir, "test")
    predictions = json.loads((saved_dir / "test_predictions.json").read_text(encoding="utf-8"))
    assert metrics_of(test) == pytest.approx(figures(scorer or "cjrc", DATA / "reading" / "test.json", predictions))
    assert dev["loss"] > 0 and set(metrics_of(dev)) == set(metrics_of(test))
    assert json.loads((saved_dir / "bertorch.json").read_text())["null_score_diff_threshold"] == dev["null_threshold"]


def spans(count, seed=0):
    return (row for row in rows(count, random.Random(seed)) if row["qas"][0]["id"].startswith("span"))


@pytest.mark.parametrize(
    ("kinds", "given", "expected", "yes_no"),
    [
        ("span", None, "span", False),
        ("span", "span+none", "span+none", False),
        ("span", "span+yes+no+none", "span+yes+no+none", True),
        ("span none", None, "span+none", False),
        ("span yes", None, "span+yes+no+none", True),
    ],
)
def test_answer_types(still_encoder, tmp_path, monkeypatch, kinds, given, expected, yes_no):
    train = write_squad(
        tmp_path / "train.json",
        (row for row in rows(30, random.Random(0)) if row["qas"][0]["id"].split("-")[0] in kinds.split()),
    )
    flags = sample_flags(
        still_encoder, tmp_path / "out", train_data_file=train, dev_data_file=train, answer_types=given, **WINDOWS
    )
    assert call("run_mrc.py", flags, monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "bertorch.json").read_text())["answer_types"] == expected
    assert ("yes_no.weight" in load_file(tmp_path / "out" / "model.safetensors")) == yes_no


def test_the_threshold_of_a_flag(still_encoder, tmp_path, monkeypatch):
    """It is used and saved, and nothing is looked for."""
    train = write_squad(tmp_path / "train.json", rows(20, random.Random(0)))
    flags = sample_flags(
        still_encoder,
        tmp_path / "out",
        train_data_file=train,
        dev_data_file=train,
        null_score_diff_threshold=-1000,
        **WINDOWS,
    )
    assert call("run_mrc.py", flags, monkeypatch) == 0
    (line,) = journal(tmp_path / "out", "eval")
    assert line["null_threshold"] == -1000 and line["no_answer_em"] == 1 and line["has_answer_em"] == 0
    assert json.loads((tmp_path / "out" / "bertorch.json").read_text())["null_score_diff_threshold"] == -1000


def test_a_stopped_run_resumes_with_the_same_weights(small_encoder, tmp_path, monkeypatch, capsys):
    """Bit for bit, with dropout and accumulation."""
    train = write_squad(tmp_path / "train.json", rows(40, random.Random(0)))
    how = {
        "train_data_file": train, "dev_data_file": train, "max_steps": 7, "eval_steps": 2, "save_steps": 3,
        "logging_steps": 1, "warmup_proportion": 0.2, "gradient_accumulation_steps": 2, **WINDOWS,
    }  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call("run_mrc.py", sample_flags(small_encoder, whole, **how), monkeypatch) == 0
    step = Run.step

    def step_after_signal(run):
        if run.global_step == 4 and run._update_due:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", step_after_signal)
        assert call("run_mrc.py", sample_flags(small_encoder, parts, **how), monkeypatch) == 128 + signal.SIGTERM
    assert call("run_mrc.py", sample_flags(small_encoder, parts, **how, resume=True), monkeypatch) == 0
    assert "global step 5\n" in capsys.readouterr().err
    expected, found = (load_file(path / "model.safetensors") for path in (whole, parts))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert journal(parts, "eval") == journal(whole, "eval")
    descriptions = [json.loads((path / "bertorch.json").read_text()) for path in (whole, parts)]
    for description in descriptions:
        for own in ("arguments", "command", "started"):
            del description[own]
    assert descriptions[0] == descriptions[1]


def stopped_after(steps, flags):
    """Run until so many updates are made, then ask it to stop."""
    step = Run.step

    def step_after_signal(run):
        if run.global_step == steps - 1 and run._update_due:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", step_after_signal)
        assert call("run_mrc.py", flags, patch) == 128 + signal.SIGTERM


@pytest.mark.parametrize("save_best_model", [False, True])
def test_a_resumed_run_keeps_the_threshold_of_the_model_that_it_saves(small_encoder, tmp_path, monkeypatch, save_best_model):
    train = write_squad(tmp_path / "train.json", rows(40, random.Random(0)))
    saved_dir = tmp_path / "out"
    flags = sample_flags(
        small_encoder, saved_dir, train_data_file=train, dev_data_file=train, max_steps=20, eval_steps=4, save_steps=1,
        save_best_model=save_best_model, **WINDOWS,
    )  # fmt: skip

    def assert_kept():
        description = json.loads((saved_dir / "bertorch.json").read_text())
        evaluations = [line for line in journal(saved_dir, "eval") if line["global_step"] <= description["global_step"]]
        found = max(evaluations, key=lambda line: line["f1"]) if save_best_model else evaluations[-1]
        assert description["null_score_diff_threshold"] == found["null_threshold"] != 0
        return description["global_step"]

    stopped_after(6, flags)
    assert assert_kept() == (4 if save_best_model else 5)
    stopped_after(8, [*flags, "--resume"])  # saves once before its first evaluation
    assert save_best_model or assert_kept() == 7
    assert call("run_mrc.py", [*flags, "--resume"], monkeypatch) == 0
    assert_kept()


def test_a_state_that_holds_no_threshold_resumes(small_encoder, tmp_path, monkeypatch):
    """As those of earlier versions."""
    train = write_squad(tmp_path / "train.json", rows(20, random.Random(0)))
    saved_dir = tmp_path / "out"
    flags = sample_flags(
        small_encoder, saved_dir, train_data_file=train, dev_data_file=train, max_steps=4, save_steps=1, **WINDOWS
    )
    stopped_after(2, flags)
    (path,) = (saved_dir / "training_state").glob("step-*")
    state = json.loads((path / "state.json").read_text())
    del state["kept"]
    (path / "state.json").write_text(json.dumps(state))
    write_checksums(path)
    assert call("run_mrc.py", [*flags, "--resume"], monkeypatch) == 0
    (line,) = [line for line in journal(saved_dir, "eval") if line["global_step"] == 4]
    assert json.loads((saved_dir / "bertorch.json").read_text())["null_score_diff_threshold"] == line["null_threshold"]


def test_two_processes_count_as_one(trained, still_encoder, tmp_path, monkeypatch):
    """Steps of length 0 from a trained model: the same figures, digit for digit, and answers; with two seeds too."""
    how = {
        "train_data_file": trained / "dev.json", "dev_data_file": trained / "dev.json", "do_test": True,
        "test_data_file": trained / "dev.json", "init_from_ckpt": trained / "checkpoint", "learning_rate": 0,
        "eval_batch_size": 7, **WINDOWS,
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert call("run_mrc.py", [*sample_flags(still_encoder, one, **how), "--seeds", "1", "2"], monkeypatch) == 0
    done = run("run_mrc.py", [*sample_flags(still_encoder, two, **how), "--seeds", "1", "2"], processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("means over 2 seeds") == 1
    for seed in ("seed-1", "seed-2"):
        for kind in ("eval", "test"):
            expected = journal(one / seed, kind)
            assert journal(two / seed, kind) == expected and expected[0]["f1"] > 0.9
    for name in ("seeds.json", "test_predictions.json", "seed-2/test_predictions.json"):
        assert (two / name).read_bytes() == (one / name).read_bytes()


ONE_SPAN = {
    "context": "今天诸葛曹",
    "qas": [{"id": "a", "question": "谁？", "answers": [{"text": "诸葛曹", "answer_start": 2}]}],
}
MISTAKES = {
    "no room for the passage": ({"max_seq_length": 64, "max_query_length": 50}, "raise --max_seq_length"),
    "windows that share everything": ({"max_seq_length": 160, "doc_stride": 128}, "--doc_stride 128; raise"),
    "a sequence that the model has no positions for": ({"max_seq_length": 513}, "513"),
    "types that the data contradict": (
        {"answer_types": "span"}, "has answers of span+yes+no+none; give --answer_types span+yes+no+none or leave it out",
    ),
    "types without yes and no": ({"answer_types": "span+none"}, "give --answer_types span+yes+no+none or leave it out"),
    "unknown types": ({"answer_types": "yes"}, "--answer_types: invalid choice"),
    "a metric of other tasks": ({"metric": "accuracy"}, "--metric: invalid choice"),
    "no answer length": ({"max_answer_length": 0}, "--max_answer_length: must be at least 1"),
    "rows for sentences": ({"train_data_file": DATA / "reviews" / "train.tsv"}, "train.tsv:1: not JSON"),
    "no such file": ({"dev_data_file": "nowhere.json"}, "nowhere.json: no such file"),
    "columns": ({"columns": "a,b"}, "unrecognized arguments: --columns"),
    "an answer that is not there": ({"train_data_file": "absent.json"}, "is not in its passage; correct it"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_costs_nothing(flags, message, small_encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_squad(tmp_path / "absent.json", [{**ONE_SPAN, "context": "今天"}])
    assert call("run_mrc.py", sample_flags(small_encoder, tmp_path / "out", **flags), monkeypatch) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and message in error
    assert any(line.startswith("run_mrc.py: ") for line in error.splitlines())
    if "absent" not in str(flags):  # bad rows have a line each
        complaint(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "part",
    [
        "dev",
        "test",
    ],
)
def test_sets_that_hold_what_the_training_set_does_not(still_encoder, tmp_path, monkeypatch, capsys, part):
    """Spans are trained; the development set has a yes, or some questions of the test set have no answers."""
    train = write_squad(tmp_path / "train.json", spans(20))
    yes = {"context": "今天", "qas": [{"id": "b", "question": "好？", "answers": [{"text": "YES", "answer_start": -1}]}]}
    unknown = {"context": "今天", "qas": [{"id": "b", "question": "好？"}]}
    other = write_squad(tmp_path / "other.json", [ONE_SPAN, yes if part == "dev" else unknown])
    flags = {"dev": {"dev_data_file": other}, "test": {"dev_data_file": None, "test_data_file": other, "do_test": True}}[
        part
    ]
    code = call(
        "run_mrc.py", sample_flags(still_encoder, tmp_path / "out", train_data_file=train, **flags, **WINDOWS), monkeypatch
    )
    assert "Traceback" not in capsys.readouterr().err
    assert code in (0, 2)
