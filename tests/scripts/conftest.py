import json
import shutil

import pytest

from tests.scripts.launch import ROOT


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory):
    """A one-layer encoder without weights, with the vocabulary of the sample encoder."""
    directory = tmp_path_factory.mktemp("small") / "encoder"
    shutil.copytree(ROOT / "data" / "tiny-encoder", directory)
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    (directory / "config.json").write_text(json.dumps(config))
    return directory
