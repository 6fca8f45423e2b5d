"""--config_file and --vocab_file: model directories whose files have other names."""

import random
import shutil

import pytest

from tests.scripts.launch import DATA, as_flags, assert_same_model, call, complaint
from tests.scripts.test_run_mrc import WINDOWS, rows, write_squad

FLAGS = {
    "run_classifier.py": {"train_data_file": DATA / "reviews/train.tsv", "label_file": DATA / "reviews/labels.txt"},
    "run_sentencebert.py": {"train_data_file": DATA / "graded/train.tsv", "objective": "cosent"},
    "run_simcse.py": {"train_data_file": DATA / "sentences/train.txt"},
    "run_batchneg.py": {"train_data_file": DATA / "paraphrases/train.tsv"},
    "run_ner.py": {"train_data_file": DATA / "entities/train.jsonl", "label_file": DATA / "entities/labels.txt"},
    "run_mrc.py": WINDOWS,
    "run_choice.py": {"train_data_file": DATA / "choice/train.jsonl", "max_seq_length": 64, "max_qa_length": 24},
    "run_pretraining.py": {"train_data_file": DATA / "sentences/train.txt", "objectives": "mlm"},
}


def short(script, encoder, saved_dir, **flags):
    values = {"pretrained_model_name_or_path": encoder, "saved_dir": saved_dir, "max_steps": 1, "batch_size": 8}
    return as_flags(**{**values, "device": "cpu", **FLAGS[script], **flags})


@pytest.fixture
def renamed(small_encoder, tmp_path):
    """The small encoder, with files named as no program expects them."""
    directory = shutil.copytree(small_encoder, tmp_path / "renamed")
    (directory / "config.json").rename(directory / "small_config.json")
    (directory / "vocab.txt").rename(directory / "words.txt")
    return directory


@pytest.mark.parametrize("script", FLAGS)
def test_every_script_reads_them(script, small_encoder, renamed, tmp_path, monkeypatch):
    """One is named by its path, one in the directory; what is saved has the standard names."""
    named = {"config_file": renamed / "small_config.json", "vocab_file": "words.txt"}
    for encoder, saved_dir, flags in ((small_encoder, "expected", {}), (renamed, "found", named)):
        if script == "run_mrc.py":
            flags = {**flags, "train_data_file": write_squad(tmp_path / "train.json", rows(20, random.Random(0)))}
        assert call(script, short(script, encoder, tmp_path / saved_dir, **flags), monkeypatch) == 0
    assert_same_model(tmp_path / "found", tmp_path / "expected")
    expected, found = ({path.name for path in (tmp_path / name).iterdir()} for name in ("expected", "found"))
    assert found == expected
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"vocab_file": "words.txt"}, "contains no config.json"),
        ({"config_file": "small_config.json"}, "contains no vocabulary"),
        ({"config_file": "small_config.json", "vocab_file": "nowhere.txt"}, "--vocab_file nowhere.txt: no such file"),
        ({"config_file": "words.txt", "vocab_file": "words.txt"}, "words.txt: not valid JSON"),
        ({"config_file": "small_config.json", "vocab_file": "small_config.json"}, "the tokenizer cannot be loaded"),
    ],
)
def test_a_mistake_is_one_line(flags, says, renamed, tmp_path, monkeypatch, capsys):
    assert call("run_simcse.py", short("run_simcse.py", renamed, tmp_path / "out", **flags), monkeypatch) == 2
    assert says in complaint(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
