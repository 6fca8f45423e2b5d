import json
import shutil

import pytest

from tests.scripts.launch import DATA, ROOT, as_flags, call


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory):
    """A one-layer encoder without weights, with the vocabulary of the sample encoder."""
    directory = tmp_path_factory.mktemp("small") / "encoder"
    shutil.copytree(ROOT / "data" / "tiny-encoder", directory)
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def still_encoder(small_encoder, tmp_path_factory):
    """``small_encoder`` without dropout."""
    directory = tmp_path_factory.mktemp("still") / "encoder"
    shutil.copytree(small_encoder, directory)
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="session")
def sentence_model(small_encoder, tmp_path_factory):
    """``sentence_model(name, **flags)`` -> the saved directory of a short run_batchneg.py; copy one before changing it."""
    built = {}

    def build(name="plain", **flags):
        if name not in built:
            built[name] = tmp_path_factory.mktemp(name) / "checkpoint"
            values = {
                "pretrained_model_name_or_path": small_encoder, "train_data_file": DATA / "paraphrases" / "train.tsv",
                "saved_dir": built[name], "learning_rate": 1e-3, "max_steps": 3, "max_seq_length": 16,
                "pooling_mode": "mean", **flags,
            }  # fmt: skip
            with pytest.MonkeyPatch.context() as patch:
                assert call("run_batchneg.py", as_flags(**values), patch) == 0
        return built[name]

    return build
