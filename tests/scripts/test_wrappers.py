"""scripts/train.sh and scripts/test.sh: each setting reaches its flag."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.processes import finished
from tests.scripts.launch import DATA, ROOT, environment, journal


def wrapper(script, *flags, **settings):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # torchrun of this environment
    where = {**environment(), "PATH": path, "GPUS": "0", **{name: str(value) for name, value in settings.items()}}
    return finished(["bash", str(ROOT / "scripts" / script), *flags], env=where)


@pytest.fixture
def arguments(tmp_path):
    """``arguments(*flags, **settings)``: what run_classifier.py is given, by a torchrun that only writes it down."""
    (tmp_path / "torchrun").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "torchrun").chmod(0o755)

    def given(*flags, **settings):
        where = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **settings}
        done = finished(["bash", str(ROOT / "scripts" / "train.sh"), *flags], env=where)
        assert done.returncode == 0, done.stderr
        return " ".join(json.loads(done.stdout))

    return given


def test_pairs_steps_and_test(small_encoder, tmp_path):
    """The settings of a table of experiments: rows of two texts, updates in all and between evaluations."""
    done = wrapper(
        "train.sh", "--device", "cpu", MODEL=small_encoder, DATA=DATA / "nli", TEXT_PAIR=1, TRAIN_STEPS=4, EVAL_STEPS=2,
        LEARNING_RATE="1e-5", MAX_SEQ_LENGTH=40, BATCH_SIZE=16, SAVED_DIR=tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line["global_step"] for line in journal(tmp_path / "out", "eval")] == [2, 4]
    assert (tmp_path / "out" / "test_predictions.tsv").is_file()
    description = json.loads((tmp_path / "out" / "bertorch.json").read_text(encoding="utf-8"))
    given = description["arguments"]
    assert (given["is_text_pair"], given["learning_rate"], given["batch_size"]) == (True, 1e-5, 16)
    assert description["max_seq_length"] == 40
    done = wrapper("test.sh", "--device", "cpu", SAVED_DIR=tmp_path / "out", TEST_FILE=DATA / "nli" / "test.tsv")
    assert done.returncode == 0, done.stderr
    assert "accuracy: " in done.stdout + done.stderr


def test_without_settings(arguments):
    given = arguments()
    assert "--test_data_file data/reviews/test.tsv --do_test" in given
    assert not [flag for flag in ("--is_text_pair", "--max_steps", "--from_tf") if flag in given]


def test_settings_become_flags(arguments):
    given = arguments(DO_TEST="")
    assert "--do_test" not in given and "--test_data_file" not in given
    assert "run_classifier.py --pretrained_model_name_or_path a model --from_tf " in arguments(MODEL="a model", FROM_TF="1")
    given = arguments("--seed", "3", TRAIN_STEPS="6500", EVAL_STEPS="650", DATA="of mine", DEV_FILE="elsewhere.txt")
    assert "--max_steps 6500 " in given and "--eval_steps 650 " in given and given.endswith(" --seed 3")
    assert "--train_data_file of mine/train.tsv" in given and "--dev_data_file elsewhere.txt" in given
