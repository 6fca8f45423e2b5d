"""Ctrl-C before there is anything to save: one quiet line, whatever is going on."""

import os
import signal
import sys

import pytest

from tests.processes import finished
from tests.scripts.launch import ROOT, call, command, complaint, environment, training_flags

AT_AN_IMPORT = """
import os, signal, sys

class Moment:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["MOMENT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Moment())
"""


def interrupted_at(moment, script, directory):
    (directory / "sitecustomize.py").write_text(AT_AN_IMPORT)
    where = {**environment(), "MOMENT": moment, "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"}
    return finished(command(script, ["--help"]), env=where)


@pytest.mark.parametrize(
    ("script", "moment"),
    [
        ("run_classifier.py", "torch"),
        ("run_classifier.py", "torch.nn.modules.linear"),
        ("run_ner.py", "transformers.utils"),
        ("run_simcse.py", "bertorch.training.run"),
        ("predict.py", "bertorch.tasks.prediction"),
        ("scripts/compare.py", "bertorch.training.process_group"),
    ],
)
def test_while_libraries_are_loaded(script, moment, tmp_path):
    done = interrupted_at(moment, script, tmp_path)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert done.stderr == f"{script.rpartition('/')[2]}: interrupted\n"


def test_a_program_of_others_keeps_its_own_way(tmp_path):
    """Imported by what is not our script, the package leaves Ctrl-C alone."""
    (tmp_path / "own.py").write_text(
        "import signal\nimport bertorch\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    )
    done = finished([sys.executable, str(tmp_path / "own.py")], env=environment())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("script", ["run_classifier.py", "predict.py"])
def test_before_there_is_a_model(script, number, small_encoder, tmp_path, monkeypatch, capsys):
    """Nothing is said of a training or of a state that is not there."""

    def local_directory(name):
        os.kill(os.getpid(), number)

    monkeypatch.setattr("bertorch.tasks.prediction.local_directory", local_directory)  # of predict.py
    monkeypatch.setattr("bertorch.training.start.local_directory", local_directory)
    flags = ["--model_dir", "any"] if script == "predict.py" else training_flags(small_encoder, tmp_path / "out")
    assert call(script, flags, monkeypatch) == 128 + number
    said = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}[number]
    assert complaint(capsys.readouterr().err) == f"{script}: {said}"
