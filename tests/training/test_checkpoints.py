"""Training states: what is damaged or hostile is named and runs nothing."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from bertorch.checksums import write_checksums
from bertorch.errors import UserError
from bertorch.training.checkpoints import load_state, save_state
from tests.damage import Malice


@pytest.fixture
def state(tmp_path) -> Path:
    save_state(tmp_path, 7, nn.Linear(2, 3), {"optimizer": {"step": torch.ones(2)}}, {"global_step": 7})
    return tmp_path / "training_state" / "step-00000007"


def test_a_state_comes_back(state):
    model = nn.Linear(2, 3)
    tensors, counters = load_state(state, model)
    assert counters == {"global_step": 7} and torch.equal(tensors["optimizer"]["step"], torch.ones(2))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["plain pickle", "torch zip", "torch legacy"])
def test_a_pickle_as_training_state_runs_no_code(state, tmp_path, form):
    trace, file = tmp_path / "trace", state / "tensors.pt"
    if form == "plain pickle":
        file.write_bytes(pickle.dumps({"optimizer": Malice(trace)}))
    else:
        torch.save({"optimizer": Malice(trace)}, file, _use_new_zipfile_serialization=form == "torch zip")
    write_checksums(state)  # whoever places it there can do that too
    with pytest.raises(UserError, match="damaged training state") as caught:
        load_state(state, nn.Linear(2, 3))
    assert str(state) in str(caught.value) and "\n" not in str(caught.value)
    assert not trace.exists()
    torch.load(file, weights_only=False) if form != "plain pickle" else pickle.loads(file.read_bytes())
    assert trace.exists()  # the file was armed


@pytest.mark.parametrize("name", ["state.json", "model.safetensors"])
def test_a_pickle_in_place_of_the_other_files_runs_no_code(state, tmp_path, name):
    trace = tmp_path / "trace"
    (state / name).write_bytes(pickle.dumps(Malice(trace)))
    write_checksums(state)
    with pytest.raises(UserError) as caught:
        load_state(state, nn.Linear(2, 3))
    assert str(state) in str(caught.value) and "\n" not in str(caught.value) and not trace.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "5", json.dumps({"global_step": 7})[:-2]])
def test_damaged_counters(state, content):
    (state / "state.json").write_text(content)
    write_checksums(state)
    with pytest.raises(UserError, match="damaged training state"):
        load_state(state, nn.Linear(2, 3))
