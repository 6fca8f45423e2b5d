"""``bertorch.load_predictor``: rows in, answers out, for every task; the same answers as predict.py's json lines."""

import json
import sys

import pytest

import bertorch
from bertorch.errors import UserError
from bertorch.tasks.table import TASKS, part
from tests.processes import finished
from tests.scripts.launch import DATA, ROOT, as_flags, call, training_flags

TEXTS = ["房间很干净，下次还会来", "早餐太差", "张伟昨天从北京飞到上海"]
PAIRS = [("今天下雨", "今天有雨"), ("今天下雨", "他在吃饭")]
CHOICES = [("今天下雨。", "天气怎么样？", ["下雨", "下雪"]), ("他很饿，", "", ["去睡觉。", "去吃饭。", "去跑步。"])]
FLAGS = {
    "run_classifier.py": {},
    "run_sentencebert.py": {
        "train_data_file": DATA / "nli" / "train.tsv", "dev_data_file": DATA / "nli" / "dev.tsv",
        "label_file": DATA / "nli" / "labels.txt",
    },
    "run_simcse.py": {
        "train_data_file": DATA / "sentences" / "train.txt", "dev_data_file": DATA / "graded" / "dev.tsv",
        "label_file": None,
    },
    "run_ner.py": {
        "train_data_file": DATA / "entities" / "train.jsonl", "dev_data_file": DATA / "entities" / "dev.jsonl",
        "label_file": DATA / "entities" / "labels.txt",
    },
    "run_choice.py": {
        "train_data_file": DATA / "choice" / "train.jsonl", "dev_data_file": DATA / "choice" / "dev.jsonl",
        "label_file": None, "max_seq_length": 64, "max_qa_length": 24,
    },
    "run_pretraining.py": {
        "train_data_file": DATA / "sentences" / "train.txt", "dev_data_file": None, "label_file": None,
    },
}  # fmt: skip


@pytest.fixture
def trained(small_encoder, tmp_path, monkeypatch):
    """Trains a model with a script for two updates; returns its directory."""

    def train(script: str):
        flags = {"batch_size": 4, "max_steps": 2, "device": "cpu", **FLAGS[script]}
        directory = tmp_path / script
        assert call(script, training_flags(small_encoder, directory, **flags), monkeypatch) == 0
        return directory

    return train


def answers_of_the_script(directory, rows, tmp_path, monkeypatch, **flags) -> list[dict]:
    """What predict.py writes to a file of json lines."""
    source, out = tmp_path / "rows.tsv", tmp_path / "answers.jsonl"
    lines = ("\t".join([row] if isinstance(row, str) else row) for row in rows)
    if rows is CHOICES:
        source = tmp_path / "rows.jsonl"
        lines = (json.dumps(dict(zip(("context", "question", "options"), row, strict=True))) for row in rows)
    source.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    flags = {"model_dir": directory, "input_file": source, "output_file": out, "device": "cpu", **flags}
    assert call("predict.py", as_flags(**flags), monkeypatch) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def rounded(value):
    """As predict.py writes numbers."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return pytest.approx(value, abs=2e-6) if isinstance(value, float) else value


@pytest.mark.parametrize(
    ("script", "rows", "flags"),
    [
        ("run_classifier.py", TEXTS, {"probabilities": True}),
        ("run_sentencebert.py", PAIRS, {"probabilities": True, "is_text_pair": True}),
        ("run_simcse.py", TEXTS, {}),
        ("run_simcse.py", PAIRS, {"is_text_pair": True}),
        ("run_ner.py", TEXTS, {"input_format": "text"}),
        ("run_choice.py", CHOICES, {"probabilities": True}),
        ("run_pretraining.py", ["中国的首都是北[MASK]", "今天[MASK]气很[MASK]"], {}),
    ],
)
def test_the_answers_of_predict(script, rows, flags, trained, tmp_path, monkeypatch):
    directory = trained(script)
    expected = answers_of_the_script(directory, rows, tmp_path, monkeypatch, **flags)
    assert bertorch.load_predictor(directory, device="cpu")(rows) == rounded(expected)


@pytest.mark.parametrize(
    ("script", "row", "blank", "expected"),
    [
        ("run_classifier.py", TEXTS[0], " ", {"label": None}),
        ("run_sentencebert.py", PAIRS[0], ("", "x"), {"label": None}),
        ("run_simcse.py", PAIRS[0], ("x", "\t"), {"similarity": None}),
        ("run_simcse.py", TEXTS[0], "", {"vector": None}),
        ("run_ner.py", TEXTS[0], " ", {"text": " ", "entities": []}),
        ("run_choice.py", CHOICES[0], ("", " ", ["好", "差"]), {"label": None, "answer": None, "probabilities": None}),
        ("run_pretraining.py", "今天[MASK]", "", {"text": "", "masks": []}),
    ],
)
def test_no_rows_and_blank_rows(script, row, blank, expected, trained):
    predictor = bertorch.load_predictor(trained(script), device="cpu")
    assert predictor([]) == [] and predictor([blank]) == [expected]
    first, second = predictor([row, blank])
    assert second == expected and first == predictor([row])[0] != expected


def test_settings_of_the_task(trained):
    directory = trained("run_classifier.py")
    assert bertorch.load_predictor(directory, device="cpu", max_seq_length=7).tokenizer.max_seq_length == 7
    vectors = bertorch.load_predictor(trained("run_pretraining.py"), pooling_mode="mean")
    assert len(vectors(TEXTS)) == 3 and len(vectors(TEXTS)[0]["vector"]) == vectors.width
    with pytest.raises(UserError, match="no such directory"):
        bertorch.load_predictor("./nowhere")


def test_import_bertorch_loads_no_task():
    code = "import sys, bertorch; sys.exit(any(name.startswith('bertorch.tasks') for name in sys.modules))"
    assert finished([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("task", TASKS)
def test_every_folder_has_the_names_of_the_contract(task):
    assert part(task, "description").Description.task == task
    assert callable(part(task, "predictor").Predictor.open) and callable(part(task, "predict").predict)
