"""The code of docs/adding.md: applied to a copy of the tree, it runs."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.processes import finished

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
FLAGS = ["--pretrained_model_name_or_path", "data/tiny-encoder", "--train_data_file", "data/reviews/train.tsv"]
FAMILY = """
import sys, torch
from transformers import Data2VecTextConfig, Data2VecTextModel
from bertorch.encoder import TokenBatch, load_encoder
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
theirs = Data2VecTextModel(Data2VecTextConfig(**sizes)).eval()
theirs.save_pretrained(sys.argv[1])
ours, _ = load_encoder(sys.argv[1])
ids = torch.arange(5, 14)
tokens = TokenBatch.from_lengths(ids, torch.zeros_like(ids), [9])
with torch.no_grad():
    torch.testing.assert_close(ours.eval()(tokens), theirs(ids[None]).last_hidden_state[0], rtol=1e-4, atol=1e-4)
"""


def changed(text: str, hunk: str) -> str:
    """``text`` with a hunk of a diff applied, whose lines stand there once."""
    lines = hunk.splitlines()
    before, after = ("\n".join(line[1:] for line in lines if line[:1] != sign) for sign in "+-")
    assert text.count(before) == 1, before
    return text.replace(before, after)


def apply(page: str, tree: Path) -> None:
    """A block of ``diff`` changes files, one of ``python`` whose first line names a file is that file."""
    for kind, block in re.findall(r"^```(diff|python)\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        if kind == "python":
            name, _, content = block.partition("\n")
            (tree / name[2:]).parent.mkdir(exist_ok=True)
            (tree / name[2:]).write_text(content, encoding="utf-8")
            continue
        for part in block.split("+++ ")[1:]:
            name, *hunks = part.split("\n@@\n")
            text = (tree / name).read_text(encoding="utf-8")
            for hunk in hunks:
                text = changed(text, hunk)
            (tree / name).write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs python in the changed copy, once for all tests; returns what it prints."""
    tree = tmp_path_factory.mktemp("adding") / "tree"
    shutil.copytree(ROOT / "bertorch", tree / "bertorch", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("data/reviews", "data/tiny-encoder"):
        shutil.copytree(ROOT / folder, tree / folder)
    for script in ("run_classifier.py", "predict.py"):
        shutil.copy(ROOT / script, tree)
    apply(PAGE, tree)

    def python(*arguments, text=""):
        environment = {**os.environ, "PYTHONPATH": str(tree), "BERTORCH_CACHE": str(tree / "cache")}
        done = finished([sys.executable, *map(str, arguments)], cwd=tree, env=environment, input=text)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python


def test_experiment_trick_and_target(run, tmp_path):
    """Two updates an epoch, so that the third is one of the second epoch."""
    steps = ["--batch_size", "256", "--max_seq_length", "16", "--max_steps", "3", "--flood_level", "0.5"]
    task = ["--target", "ordered", "--label_file", "data/reviews/labels.txt"]
    run("run_classifier.py", *FLAGS, *task, *steps, "--saved_dir", tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_family(run, tmp_path):
    run("-c", FAMILY, tmp_path)


def test_task(run, tmp_path):
    steps = ["--dev_data_file", "data/reviews/dev.tsv", "--max_steps", "2", "--saved_dir", tmp_path / "saved"]
    run("run_punctuation.py", *FLAGS, *steps)
    texts = "房间很干净，下次还会来\n\n早餐太差\n"
    found = run("predict.py", "--model_dir", tmp_path / "saved", text=texts)
    bare = [re.sub("[，。？！]", "", each).splitlines() for each in (texts, found)]
    assert bare[0] == bare[1]
    assert "f1: " in run("predict.py", "--model_dir", tmp_path / "saved", "--evaluate", text="房间很干净，下次还会来。\n")
