"""What happens to a saved directory when the machine fails: it is whole, or one line says what is not."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertorch.checksums import compare_checksums, write_checksums
from bertorch.encoder.weights import read_weights, write_weights
from bertorch.errors import UserError
from bertorch.reporting.runs import latest_state
from bertorch.training.checkpoints import load_state, save_state
from tests.processes import finished
from tests.scripts.launch import ROOT, environment
from tests.training.mounts import needs_mounts

can_trace = (
    shutil.which("strace") is not None and subprocess.run(["strace", "-qq", "true"], capture_output=True).returncode == 0
)


def broken_writer(*flags, before=()):
    command = [*before, sys.executable, "-m", "tests.training.broken_writer", *flags]
    done = finished(command, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["lines", "--every", "5"],
        ["lines", "--every", "5", "--background"],
        pytest.param(["calls"], marks=pytest.mark.skipif(not can_trace, reason="strace is not here, or may not trace")),
    ],
)
def test_a_kill_while_saving_leaves_a_whole_state_and_model(flags):
    told = broken_writer(*flags)
    assert int(re.search(r"killed at (\d+)", told)[1]) > 50
    for outcome in ("the first state and the first model", "the second state and the second model"):
        assert outcome in told


@pytest.mark.slow
@needs_mounts
@pytest.mark.parametrize("flags", [[], ["--background"]])
def test_a_full_disk_keeps_what_was_saved_and_leaves_nothing_unfinished(flags):
    told = broken_writer("disks", "--every", "16", *flags, before=["unshare", "-rm"])
    assert int(re.search(r"(\d+) disks full", told)[1]) > 20
    for outcome in (
        "no state and no",
        "no state and the first",
        "the first state and the first",
        "the first state and the second",
    ):
        assert outcome in told


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved directory with a state, its model, and what the state holds."""
    directory = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = torch.nn.Linear(7, 5)
    tensors = {"optimizer": {"state": {0: {"exp_avg": torch.randn(30)}}}, "generators": [{"torch": torch.get_rng_state()}]}
    save_state(directory, 3, model, tensors, {"global_step": 3, "best_score": 0.25})
    write_weights(directory / "model.safetensors", {"a": torch.randn(20), "b": torch.randn(3, 4).half()})
    return directory


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


bits = st.integers(min_value=0, max_value=8 * 100_000)
many = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@many
@given(bit=bits, name=st.sampled_from(["model.safetensors", "tensors.pt", "state.json", "checksums.json"]))
def test_a_flipped_bit_in_a_training_state_is_noticed(saved, tmp_path_factory, bit, name):
    directory = tmp_path_factory.mktemp("flipped") / "copy"
    shutil.copytree(saved, directory)
    state = latest_state(directory)
    flip(state / name, bit)
    with pytest.raises(UserError, match="damaged training state"):
        load_state(state, torch.nn.Linear(7, 5))


@many
@given(bit=bits)
def test_a_flipped_bit_in_a_model_is_noticed_or_changes_nothing(saved, tmp_path_factory, bit):
    path = tmp_path_factory.mktemp("flipped") / "model.safetensors"
    shutil.copyfile(saved / "model.safetensors", path)
    flip(path, bit)
    expected = read_weights(saved / "model.safetensors")
    try:
        found = read_weights(path)
    except UserError as error:
        assert str(path) in str(error)
    else:  # in the name of the checksum, or in a blank
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("place", [0, 4, 8, 100, -1, -30])
@pytest.mark.parametrize("name", ["model.safetensors", "tensors.pt", "state.json", "checksums.json"])
def test_a_shortened_or_missing_file_is_noticed(saved, tmp_path, name, place):
    directory = tmp_path / "copy"
    shutil.copytree(saved, directory)
    path = latest_state(directory) / name
    os.truncate(path, place % path.stat().st_size)
    with pytest.raises(UserError, match="damaged training state"):
        load_state(path.parent, torch.nn.Linear(7, 5))
    path.unlink()
    with pytest.raises(UserError, match="damaged training state"):
        load_state(path.parent, torch.nn.Linear(7, 5))


def test_a_model_that_another_tool_wrote_anew_is_read(saved, tmp_path):
    """Its numbers are others, and the checksum has gone with the old file."""
    from safetensors.torch import save_file

    tensors = {name: tensor + 1 for name, tensor in read_weights(saved / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_weights(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_checksums_do_not_depend_on_the_memory_layout(tmp_path):
    tensor = torch.arange(12.0).reshape(3, 4)
    write_weights(tmp_path / "model.safetensors", {"b": tensor.T, "a": tensor, "empty": torch.zeros(0, 3)})
    found = read_weights(tmp_path / "model.safetensors")
    assert torch.equal(found["b"], tensor.T)
    assert torch.equal(found["a"], tensor)
    assert found["empty"].shape == (0, 3)


def test_checksums_are_those_of_zlib(tmp_path):
    """The check value of CRC-32 in the catalogue of parametrised CRC algorithms: that of ``123456789`` is cbf43926."""
    (tmp_path / "digits").write_bytes(b"123456789")
    write_checksums(tmp_path)
    assert '"digits": "cbf43926"' in (tmp_path / "checksums.json").read_text()
    compare_checksums(tmp_path)
    (tmp_path / "digits").write_bytes(b"123456798")
    with pytest.raises(ValueError, match="digits"):
        compare_checksums(tmp_path)
