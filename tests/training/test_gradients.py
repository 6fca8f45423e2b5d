"""N ranks, or k accumulated batches, give the gradient of the one big batch."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.closeness import assert_close
from tests.processes import finished
from tests.scripts.launch import ROOT, environment
from tests.training.gradient_worker import descend

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """A one-layer encoder without dropout and 30 rows: with 12 a step the last step has 6, unequal to the others."""
    directory = tmp_path_factory.mktemp("gradients")
    encoder = directory / "encoder"
    shutil.copytree(ROOT / "data" / "tiny-encoder", encoder)
    config = json.loads((encoder / "config.json").read_text())
    config.update(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (encoder / "config.json").write_text(json.dumps(config))
    rows = (ROOT / "data" / "reviews" / "train.tsv").read_text(encoding="utf-8").split("\n")[:30]
    data = directory / "train.tsv"
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    descend(encoder, data, directory / "whole", 12, 1)
    return encoder, data, directory


def assert_same_weights(path, reference, part=2e-6):
    expected, found = load_file(reference), load_file(path)
    moved = max(float(tensor.abs().max()) for tensor in expected.values())
    assert moved > 0.02  # wider than the initialisation: the descent has gone somewhere
    for name, tensor in expected.items():
        assert_close(found[name], tensor, part, moved, name)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(3, 4), (4, 3), (6, 2)])
def test_accumulated_batches_give_the_gradient_of_one_batch(setting, batch_size, accumulation):
    encoder, data, directory = setting
    descend(encoder, data, directory / "accumulated", batch_size, accumulation)
    assert_same_weights(directory / "accumulated", directory / "whole")


def on_ranks(processes, encoder, data, out, batch_size, accumulation, epsilon=0.0, compression="none"):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
        "tests/training/gradient_worker.py", *map(str, (encoder, data, out, batch_size, accumulation, epsilon, compression)),
    ]  # fmt: skip
    done = finished(command, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("processes", "batch_size", "accumulation"), [(2, 6, 1), (3, 2, 2)])
def test_ranks_give_the_gradient_of_one_process(setting, processes, batch_size, accumulation):
    encoder, data, directory = setting
    out = directory / f"ranks{processes}"
    on_ranks(processes, encoder, data, out, batch_size, accumulation)
    assert_same_weights(out, directory / "whole")


def test_ranks_attack_the_embeddings_as_one_process_does(setting):
    """All move them along the gradient of the whole batch, and the second pass is summed over ranks as the first is."""
    encoder, data, directory = setting
    descend(encoder, data, directory / "attacked", 12, 1, 0.5)
    on_ranks(2, encoder, data, directory / "attacked-ranks", 6, 1, 0.5)
    assert_same_weights(directory / "attacked-ranks", directory / "attacked", part=1e-5)  # half a unit away, and back
    plain, attacked = (load_file(directory / name) for name in ("whole", "attacked"))
    assert not torch.allclose(plain["classifier.weight"], attacked["classifier.weight"], rtol=1e-2)


def test_gradients_exchanged_in_bf16_are_as_near_as_bf16_is(setting):
    """Two ranks: each rounds its own gradient to 8 bits, and the sum is rounded again."""
    encoder, data, directory = setting
    on_ranks(2, encoder, data, directory / "compressed", 6, 1, compression="bf16")
    assert_same_weights(directory / "compressed", directory / "whole", part=3 * 2**-9)
    with pytest.raises(AssertionError, match="apart"):
        assert_same_weights(directory / "compressed", directory / "whole", part=2**-16)
