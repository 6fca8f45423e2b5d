"""run_classifier.py and predict.py, used as a user would."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bertorch.training.logging import shown, step_line
from tests.scripts.launch import REVIEWS, as_flags, call, complaint, journal, run, training_flags


@pytest.fixture(scope="module")
def trained(small_encoder, tmp_path_factory):
    """A run with every stage: training, best model, test predictions."""
    saved_dir = tmp_path_factory.mktemp("trained") / "checkpoint"
    flags = training_flags(
        small_encoder, saved_dir, learning_rate=3e-3, max_steps=60, save_steps=15, save_best_model=True, do_test=True,
        test_data_file=REVIEWS / "test.tsv",
    )  # fmt: skip
    done = run("run_classifier.py", flags)
    assert done.returncode == 0, done.stderr
    return saved_dir, done.stderr


def test_the_saved_directory_holds_what_it_should_and_nothing_else(trained):
    saved_dir, _ = trained
    assert sorted(path.relative_to(saved_dir).as_posix() for path in saved_dir.rglob("*") if path.is_file()) == [
        "bertorch.json", "config.json", "data_report.json", "evaluation.json", "metrics.jsonl", "model.safetensors",
        "report.html", "test_predictions.tsv", "tokenizer.json", "tokenizer_config.json",
        "training_state/step-00000060/checksums.json", "training_state/step-00000060/model.safetensors",
        "training_state/step-00000060/state.json", "training_state/step-00000060/tensors.pt",
    ]  # fmt: skip


def test_it_learns_and_the_best_model_is_the_one_saved(trained):
    saved_dir, log = trained
    evaluations = journal(saved_dir, "eval")
    best = max(line["accuracy"] for line in evaluations)
    description = json.loads((saved_dir / "bertorch.json").read_text())
    assert best > 0.6
    assert description["metrics"]["accuracy"] == best
    assert description["labels"] == ["negative", "positive"]
    assert [line["global_step"] for line in evaluations] == [15, 30, 45, 60]
    assert [line["global_step"] for line in journal(saved_dir, "test")] == [60]
    for part in ("global step: 20, epoch: 2, batch: 5, loss: ", "accuracy: ", "speed: ", "eval loss: ", "test loss: "):
        assert part in log
    fields = (
        r"global step: 20, epoch: 2, batch: 5, loss: \d\.\d{5}, accuracy: \d\.\d{5}, speed: [\d.]+ step/s, 60 in \d\d:\d\d"
    )
    assert re.search(rf"^\d\d:\d\d:\d\d \| INFO \| {fields}$", log, re.MULTILINE)
    lines = [line for line in log.splitlines() if str(saved_dir.parents[1]) not in line]  # a path may have any length
    assert [line for line in lines if len(line) > 119 + len("accuracy") * ("global step" in line)] == []


def test_a_line_of_figures_fits_and_begins_with_those_people_search_for():
    many = {"loss": 0.5, **{f"figure_{number}": 0.25 for number in range(20)}, "f1": 0.75}
    line = shown(many, {"F1": ("f1", 5)})
    assert line.startswith("loss: 0.50000, F1: 0.75000, figure_0: 0.25000, ") and line.endswith(", …") and len(line) <= 80
    assert shown({"loss": 0.5, "f1": 0.75}, {}) == "loss: 0.50000, f1: 0.75000"
    figures = {"epoch": 12, "batch": 345, "loss": 1.5, "accuracy": 0.5}
    assert step_line(1000, figures, 2.0, 10_000) == (
        "global step: 1000, epoch: 12, batch: 345, loss: 1.50000, accuracy: 0.50000, speed: 2.00 step/s, 10000 in 1:15:00"
    )


def test_the_log_averages_over_its_window(small_encoder, tmp_path, monkeypatch):
    """Two windows of one step and one of two steps describe the same two batches."""
    figures = {}
    for every in (1, 2):
        saved_dir = tmp_path / str(every)
        flags = training_flags(small_encoder, saved_dir, max_steps=2, logging_steps=every, dev_data_file=None, device="cpu")
        assert call("run_classifier.py", flags, monkeypatch) == 0
        figures[every] = journal(saved_dir, "train")
    first, second = figures[1]
    assert figures[2][0]["loss"] == pytest.approx((first["loss"] + second["loss"]) / 2, rel=1e-6)
    assert figures[2][0]["accuracy"] == pytest.approx((first["accuracy"] + second["accuracy"]) / 2)


def test_transformers_opens_the_saved_directory_with_the_same_answers(trained, tmp_path, monkeypatch):
    saved_dir, _ = trained
    texts = [line.split("\t")[0] for line in (REVIEWS / "test.tsv").read_text(encoding="utf-8").splitlines()]
    model = AutoModelForSequenceClassification.from_pretrained(saved_dir).eval()
    tokens = AutoTokenizer.from_pretrained(saved_dir)(
        texts, padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    with torch.no_grad():
        expected = torch.softmax(model(**tokens).logits, dim=-1)
    out = tmp_path / "predictions.jsonl"
    flags = [
        "--model_dir",
        str(saved_dir),
        "--input_file",
        str(REVIEWS / "test.tsv"),
        "--output_file",
        str(out),
        "--probabilities",
    ]
    assert call("predict.py", flags, monkeypatch) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = torch.tensor([[row["probabilities"]["negative"], row["probabilities"]["positive"]] for row in rows])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    names = model.config.id2label
    assert [row["label"] for row in rows] == [names[int(index)] for index in expected.argmax(dim=-1)]
    assert (saved_dir / "test_predictions.tsv").read_text().split() == [row["label"] for row in rows]


def test_a_classifier_of_transformers_opens_in_predict(tiny_model, tmp_path, monkeypatch, capsys):
    directory = tiny_model("bert", "ForSequenceClassification", num_labels=3)
    texts = tmp_path / "texts.tsv"
    texts.write_text("房间干净\n早餐差\n", encoding="utf-8")
    assert (
        call("predict.py", ["--model_dir", str(directory), "--input_file", str(texts), "--probabilities"], monkeypatch) == 0
    )
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokens = AutoTokenizer.from_pretrained(directory)(["房间干净", "早餐差"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = torch.softmax(model(**tokens).logits, dim=-1)
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [model.config.id2label[int(index)] for index in expected.argmax(dim=-1)]
    torch.testing.assert_close(
        torch.tensor([[float(cell) for cell in row[1:]] for row in rows]), expected, rtol=0, atol=1e-5
    )


def test_a_model_that_gives_several_scores_is_refused(tiny_model, tmp_path, monkeypatch, capsys):
    directory = tiny_model("bert", "ForSequenceClassification", num_labels=3, problem_type="regression")
    texts = tmp_path / "texts.tsv"
    texts.write_text("房间干净\n", encoding="utf-8")
    capsys.readouterr()
    assert call("predict.py", as_flags(model_dir=directory, input_file=texts), monkeypatch) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert f"{directory}: its problem_type is regression, and it gives 3 scores" in complaint(found.err)


def test_the_flags_of_the_reference_predict_too(trained, small_encoder, monkeypatch, capsys):
    saved_dir, _ = trained
    common = ["--input_file", str(REVIEWS / "dev.tsv"), "--max_seq_length", "128"]
    assert call("predict.py", ["--model_dir", str(saved_dir), *common], monkeypatch) == 0
    expected = capsys.readouterr().out
    flags = ["--pretrained_model_name_or_path", str(small_encoder), "--init_from_ckpt", str(saved_dir / "model.safetensors"),
             "--label_file", str(REVIEWS / "labels.txt"), *common]  # fmt: skip
    assert call("predict.py", flags, monkeypatch) == 0
    assert capsys.readouterr().out == expected
    assert len(expected.splitlines()) == 132


def test_no_row_is_lost_in_prediction(trained, tmp_path, monkeypatch, capsys):
    saved_dir, _ = trained
    texts = tmp_path / "texts.tsv"
    texts.write_text("很好\n\n很\t差\t了\t吧\n差\n", encoding="utf-8")
    flags = ["--model_dir", str(saved_dir), "--input_file", str(texts)]
    assert call("predict.py", flags, monkeypatch) == 2
    assert "texts.tsv:3: 4 columns" in capsys.readouterr().err
    assert call("predict.py", [*flags, "--bad_rows", "skip"], monkeypatch) == 0
    labels = capsys.readouterr().out.split("\n")[:-1]
    assert len(labels) == 4
    assert labels[1] == labels[2] == ""
    assert all(label in ("negative", "positive") for label in (labels[0], labels[3]))


def test_standard_input_and_output(trained):
    saved_dir, _ = trained
    done = run("predict.py", ["--model_dir", str(saved_dir)], input="很好\n差\n")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.slow
def test_two_processes_evaluate_to_the_figures_of_one(trained):
    saved_dir, _ = trained
    flags = ["--model_dir", str(saved_dir), "--input_file", str(REVIEWS / "dev.tsv"), "--evaluate", "--batch_size", "7"]
    one, two = run("predict.py", flags), run("predict.py", flags, processes=2)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr
    assert two.stdout == one.stdout
    assert "confusion matrix" in one.stdout


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["run", "launch"])
def test_two_processes_train(small_encoder, tmp_path, launcher):
    done = run("run_classifier.py", training_flags(small_encoder, tmp_path / "out"), processes=2, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("global step: 4, ") == 1
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_pairs(small_encoder, tmp_path, monkeypatch):
    data, saved_dir = tmp_path / "pairs.csv", tmp_path / "out"
    data.write_text("label,a,b\n" + '1,"花呗,怎么还",花呗还款\n0,天气好,早餐差\n' * 4, encoding="utf-8")
    (tmp_path / "labels.txt").write_text("0\n1\n")
    flags = training_flags(
        small_encoder, saved_dir, train_data_file=data, dev_data_file=data, label_file=tmp_path / "labels.txt",
        columns="a,b,label", is_text_pair=True, metric="f1", save_best_model=True,
    )  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 0
    description = json.loads((saved_dir / "bertorch.json").read_text())
    assert description["is_text_pair"] is True
    assert "f1" in description["metrics"]
    out = tmp_path / "out.tsv"
    flags = ["--model_dir", str(saved_dir), "--input_file", str(data), "--columns", "a,b", "--output_file", str(out)]
    assert call("predict.py", flags, monkeypatch) == 0
    assert len(out.read_text().splitlines()) == 8


def test_gradient_checkpointing_changes_no_weight(small_encoder, tmp_path, monkeypatch):
    for name in ("plain", "checkpointed"):
        flags = training_flags(
            small_encoder, tmp_path / name, gradient_checkpointing=name == "checkpointed", dev_data_file=None
        )
        assert call("run_classifier.py", flags, monkeypatch) == 0
    plain, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "checkpointed"))
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_bf16_stays_near_fp32(small_encoder, tmp_path, monkeypatch):
    losses = []
    for precision in ("fp32", "bf16"):
        flags = training_flags(small_encoder, tmp_path / precision, precision=precision, logging_steps=1)
        assert call("run_classifier.py", flags, monkeypatch) == 0
        losses.append([line["loss"] for line in journal(tmp_path / precision, "train")])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
def test_compiled_training_gives_the_same_loss(small_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.compile_threads", 1)  # older torch starts processes else, which stay
    config = json.loads((small_encoder / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # the compiler draws other random numbers
    encoder = tmp_path / "encoder"
    shutil.copytree(small_encoder, encoder)
    (encoder / "config.json").write_text(json.dumps(config))
    losses = []
    for compiled in (False, True):
        saved_dir = tmp_path / str(compiled)
        flags = training_flags(encoder, saved_dir, compile=compiled, logging_steps=1, max_steps=2, dev_data_file=None)
        assert call("run_classifier.py", flags, monkeypatch) == 0
        losses.append([line["loss"] for line in journal(saved_dir, "train")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_early_stopping(small_encoder, tmp_path, monkeypatch):
    flags = training_flags(
        small_encoder, tmp_path / "out", learning_rate=0, max_steps=50, eval_steps=1, early_stopping_patience=2
    )  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert [line["global_step"] for line in journal(tmp_path / "out", "eval")] == [1, 2, 3]
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_tensorboard_events_are_written(small_encoder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    assert call("run_classifier.py", training_flags(small_encoder, tmp_path / "out", tensorboard=True), monkeypatch) == 0
    assert list((tmp_path / "out" / "tensorboard").glob("events.*"))


def test_without_a_development_set_the_last_model_is_saved(small_encoder, tmp_path, monkeypatch):
    flags = training_flags(small_encoder, tmp_path / "out", max_steps=3, save_steps=2, dev_data_file=None)
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "bertorch.json").read_text())["global_step"] == 3


def test_the_best_model_is_not_replaced_by_a_worse_one(trained, small_encoder, monkeypatch, tmp_path):
    """Continued with a rate that ruins the model, the run keeps the weights it had."""
    saved_dir = tmp_path / "copy"
    shutil.copytree(trained[0], saved_dir)
    before = (saved_dir / "model.safetensors").read_bytes()
    flags = training_flags(
        small_encoder, saved_dir, max_steps=64, learning_rate=100, save_best_model=True, resume=True, save_steps=4
    )  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert journal(saved_dir, "eval")[-1]["global_step"] == 64
    assert (saved_dir / "model.safetensors").read_bytes() == before


MISTAKES = {
    "a wrong path": ({"train_data_file": "nowhere.tsv"}, "nowhere.tsv: no such file"),
    "no label file": ({"label_file": "nowhere.txt"}, "nowhere.txt: no such file"),
    "a device that is not there": ({"device": "cuda:7"}, "--device cuda:7"),
    "no such kind of device": ({"device": "gpu"}, "--device gpu: no such device"),
    "fp16 on a CPU": ({"precision": "fp16", "device": "cpu"}, "--precision fp16 needs a GPU"),
    "more tokens than positions": ({"max_seq_length": 513}, "has positions for 512 tokens"),
    "no room for text": ({"max_seq_length": 2}, "leaves no room for text"),
    "a warm start from nowhere": ({"init_from_ckpt": "nowhere.bin"}, "nowhere.bin: no such file"),
    "no such model": ({"pretrained_model_name_or_path": "./nowhere"}, "./nowhere: no such directory"),
    "no TensorFlow checkpoint": ({"from_tf": True}, "expected here, found none"),
    "best model without evaluation": ({"dev_data_file": None, "save_best_model": True}, "needs --dev_data_file"),
    "a test without a file": ({"do_test": True}, "--do_test needs --test_data_file"),
    "a flag out of range": ({"batch_size": 0}, "--batch_size: must be at least 1"),
    "a seed below 0": ({"seed": -1}, "--seed: must be between 0"),
    "an unknown flag": ({"bach_size": 3}, "--bach_size"),
    "contradicting flags": ({"resume": True, "overwrite": True}, "contradict"),
    "columns that are not there": ({"columns": "sentence,label"}, "in the first row"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_before_training(flags, message, small_encoder, tmp_path, monkeypatch, capsys):
    if flags.get("device") == "cuda:7" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has eight GPUs")
    saved_dir = tmp_path / "out"
    assert call("run_classifier.py", training_flags(small_encoder, saved_dir, **flags), monkeypatch) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "INFO" not in line and "WARNING" not in line]
    assert len(said) == 1
    assert message in said[0]
    assert not saved_dir.exists()


DATA_MISTAKES = {
    "empty": ("", "train.tsv: no rows in it"),
    "a header nobody announced": ("text\tlabel\n很好\tpositive\n", '--columns "text,label"'),
    "three columns": ("很好\t真的\tpositive\n", "train.tsv:1: 3 columns where 2 are expected"),
    "an unknown label": ("很好\tpositive\n很差\tbad\n", "train.tsv:2: label 'bad' is not one of the labels"),
    "an empty text": ("\tpositive\n", "train.tsv:1: an empty text"),
}


@pytest.mark.parametrize(("content", "message"), DATA_MISTAKES.values(), ids=DATA_MISTAKES.keys())
def test_a_bad_row_is_named_with_its_line(content, message, small_encoder, tmp_path, monkeypatch, capsys):
    data, saved_dir = tmp_path / "train.tsv", tmp_path / "out"
    data.write_text(content, encoding="utf-8")
    assert call("run_classifier.py", training_flags(small_encoder, saved_dir, train_data_file=data), monkeypatch) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not saved_dir.exists()


@pytest.mark.slow
def test_a_mistake_ends_all_processes(small_encoder, tmp_path):
    done = run(
        "run_classifier.py", training_flags(small_encoder, tmp_path / "out", train_data_file="nowhere.tsv"), processes=2
    )
    assert done.returncode != 0
    assert done.stderr.count("nowhere.tsv: no such file") == 1


def test_a_run_is_not_replaced_unasked(trained, small_encoder, tmp_path, monkeypatch, capsys):
    saved_dir = tmp_path / "copy"
    shutil.copytree(trained[0], saved_dir)
    before = {path: path.read_bytes() for path in saved_dir.rglob("*") if path.is_file()}
    assert call("run_classifier.py", training_flags(small_encoder, saved_dir), monkeypatch) == 2
    error = capsys.readouterr().err
    assert "--resume" in error and "--overwrite" in error
    assert {path: path.read_bytes() for path in saved_dir.rglob("*") if path.is_file()} == before
    assert call("run_classifier.py", training_flags(small_encoder, saved_dir, overwrite=True), monkeypatch) == 0
    assert [line["global_step"] for line in journal(saved_dir, "eval")] == [4]


def test_a_warm_start_with_other_labels(trained, small_encoder, tmp_path, monkeypatch, capsys):
    (tmp_path / "labels.txt").write_text("negative\npositive\nneutral\n")
    flags = training_flags(small_encoder, tmp_path / "out", init_from_ckpt=trained[0], label_file=tmp_path / "labels.txt",
        learning_rate=0, max_steps=1)  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 0
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "head" in line and " | WARNING " in line]
    assert "classifier.weight is [2, 64], expected [3, 64]" in warning
    assert "its encoder is used, the head starts from scratch" in warning
    found, expected = (load_file(path / "model.safetensors") for path in (tmp_path / "out", trained[0]))
    assert all(torch.equal(found[name], expected[name]) for name in expected if not name.startswith("classifier."))
    assert found["classifier.weight"].shape == (3, 64) and 0.01 < found["classifier.weight"].std() < 0.03  # BERT's 0.02
    assert not found["classifier.bias"].any()


def test_a_warm_start_with_the_labels_in_another_order(trained, small_encoder, tmp_path, monkeypatch, capsys):
    """As many labels, but row 0 of the trained head means another one: that head is not taken."""
    (tmp_path / "labels.txt").write_text("positive\nnegative\n")
    for name, extra in (("other", {"label_file": tmp_path / "labels.txt"}), ("same", {})):
        extra |= {"init_from_ckpt": trained[0], "learning_rate": 0, "max_steps": 1}
        flags = training_flags(small_encoder, tmp_path / name, **extra)
        assert call("run_classifier.py", flags, monkeypatch) == 0
        said = "its head was trained for the labels negative, positive, not for positive, negative"
        assert (said in capsys.readouterr().err) == (name == "other")
        taken, expected = (load_file(path / "model.safetensors") for path in (tmp_path / name, trained[0]))
        for weight in expected:
            other = name == "other" and weight.startswith("classifier.")
            assert torch.equal(taken[weight], expected[weight]) != other, weight
