import json
import random
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


NAMES = {"诸葛曹": "PER", "敦煌": "LOC", "鲁紫": "ORG"}
_NOISE = ("😀", "１２", "Paris", "\t", "\u200b", "\u2028", "é", "。")


@pytest.fixture(scope="session")
def entity_model(still_encoder, tmp_path_factory):
    """``entity_model(ner_head)`` -> the saved directory of a run that has learned to find ``NAMES``; copy one to change it.

    No sample sentence has their characters. Emoji, blanks and the like stand beside them now and then.
    """
    built = {}
    sentences = (DATA / "sentences" / "train.txt").read_text(encoding="utf-8").splitlines()

    def rows(count, chance):
        for sentence in sentences[:count]:
            parts, entities = [sentence[: chance.randint(1, 9)]], []
            for name in chance.choices(list(NAMES), k=chance.randint(0, 3)):
                before, after = (chance.choice(_NOISE) * (chance.random() < 0.5) for _ in range(2))
                start, place = len("".join(parts) + before), chance.randint(0, 10)
                entities.append([start, start + len(name), NAMES[name]])
                parts += [before, name, after, sentence[6 + place : 12 + place]]
            yield json.dumps({"text": "".join(parts), "entities": entities}, ensure_ascii=False) + "\n"

    def build(ner_head):
        if ner_head not in built:
            directory = tmp_path_factory.mktemp(ner_head)
            (directory / "train.jsonl").write_text("".join(rows(320, random.Random(0))), encoding="utf-8")
            (directory / "labels.txt").write_text("PER\nLOC\nORG\n", encoding="utf-8")
            values = {
                "pretrained_model_name_or_path": still_encoder, "train_data_file": directory / "train.jsonl",
                "label_file": directory / "labels.txt", "saved_dir": directory / "checkpoint", "ner_head": ner_head,
                "learning_rate": 5e-3, "crf_learning_rate": 1e-2, "batch_size": 16, "max_steps": 100, "max_seq_length": 64,
                "warmup_proportion": 0.1, "device": "cpu",
            }  # fmt: skip
            with pytest.MonkeyPatch.context() as patch:
                assert call("run_ner.py", as_flags(**values), patch) == 0
            built[ner_head] = directory / "checkpoint"
        return built[ner_head]

    return build
