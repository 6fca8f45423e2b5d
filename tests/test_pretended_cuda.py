"""No training step and no evaluation makes a GPU wait, mixes devices or copies from pageable memory: seen without a GPU.

Every script, head, trick, optimizer, precision and family runs on pretended CUDA tensors (``pretended_cuda.py``), all in one
process of its own.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from bertorch.encoder import EncoderConfig, load_config
from bertorch.encoder.families import FAMILIES
from tests.conftest import TINY
from tests.pretended_cuda import LIBRARY, PLANTS, ROOT, compiled
from tests.processes import finished

pytestmark = pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA: tests/training/test_cuda.py")

DATA = ROOT / "data"
REVIEWS = {"train_data_file": DATA / "reviews" / "train.tsv", "label_file": DATA / "reviews" / "labels.txt"}
ASPECTS = {"train_data_file": DATA / "aspects" / "train.tsv", "label_file": DATA / "aspects" / "labels.txt"}
ENTITIES = {"train_data_file": DATA / "entities" / "train.jsonl", "label_file": DATA / "entities" / "labels.txt"}
PAIRS = {"train_data_file": DATA / "paraphrases" / "train.tsv", "pooling_mode": "mean"}
NLI = {"train_data_file": DATA / "nli" / "train.tsv", "label_file": DATA / "nli" / "labels.txt", "is_nli": True}
READING = {
    "train_data_file": DATA / "reading" / "train.json", "max_seq_length": 128, "doc_stride": 32, "max_query_length": 32,
}  # fmt: skip
CHOICE = {"train_data_file": DATA / "choice" / "train.jsonl", "max_seq_length": 128, "max_qa_length": 48}
SENTENCES = {"train_data_file": DATA / "sentences" / "train.txt"}
GRADED = {"train_data_file": DATA / "graded" / "train.tsv", "pooling_mode": "mean"}

# Every head, in fp32 and bf16.
HEADS = {
    "classifier": ("run_classifier", REVIEWS),
    "classifier of several labels": ("run_classifier", {**ASPECTS, "target": "labels"}),
    "scores": ("run_classifier", {"train_data_file": GRADED["train_data_file"], "is_text_pair": True, "target": "score"}),
    "pair, softmax": ("run_sentencebert", NLI),
    "pair, cosent": ("run_sentencebert", {**GRADED, "objective": "cosent"}),
    "pair, cosine_mse": ("run_sentencebert", {**GRADED, "objective": "cosine_mse"}),
    "pair, triplet": (
        "run_sentencebert", {"train_data_file": DATA / "paraphrases" / "triples.jsonl", "objective": "triplet"},
    ),
    "contrastive": ("run_batchneg", PAIRS),
    "simcse": ("run_simcse", SENTENCES),
    "tagger": ("run_ner", ENTITIES),
    "crf": ("run_ner", {**ENTITIES, "ner_head": "crf"}),
    "global pointer": ("run_ner", {**ENTITIES, "ner_head": "global_pointer"}),
    "reader": ("run_mrc", READING),
    "chooser": ("run_choice", CHOICE),
    "language model": ("run_pretraining", SENTENCES),
    "language model with order": ("run_pretraining", {**SENTENCES, "objectives": "mlm,sop"}),
}  # fmt: skip
TRICKS = {
    "pooling mean": ("run_classifier", {**REVIEWS, "pooling_mode": "mean"}),
    "pooling max": ("run_classifier", {**REVIEWS, "pooling_mode": "max"}),
    "pooling first_last": ("run_classifier", {**REVIEWS, "pooling_mode": "first_last"}),
    "losses": (
        "run_classifier",
        {**REVIEWS, "class_weights": "balanced", "focal_gamma": 2, "label_smoothing": 0.1, "dropout_samples": 2},
    ),
    "fgm, r-drop, averages, decay": (
        "run_classifier", {**REVIEWS, "fgm_epsilon": 0.5, "r_drop_weight": 1.0, "ema_decay": 0.99, "layer_decay": 0.9},
    ),
    "frozen layers": ("run_classifier", {**REVIEWS, "freeze_layers": 1}),
    "r-drop of a crf": ("run_ner", {**ENTITIES, "ner_head": "crf", "r_drop_weight": 1.0, "dropout_samples": 2}),
    "r-drop of a reader": ("run_mrc", {**READING, "r_drop_weight": 1.0}),
    "r-drop of a chooser": ("run_choice", {**CHOICE, "r_drop_weight": 1.0}),
    "r-drop, both directions": ("run_batchneg", {**PAIRS, "r_drop_weight": 1.0, "mean_loss": True}),
    "accumulation": ("run_classifier", {**REVIEWS, "gradient_accumulation_steps": 2}),
    "no clipping": ("run_classifier", {**REVIEWS, "max_grad_norm": 0}),
    "lengths in groups": ("run_classifier", {**REVIEWS, "group_by_length": True}),
    "checkpointing": ("run_classifier", {**REVIEWS, "gradient_checkpointing": True}),
    "chunks": ("run_batchneg", {**PAIRS, "chunk_size": 4}),
    "lamb": ("run_classifier", {**REVIEWS, "optimizer": "lamb"}),
}  # fmt: skip
DEV = {
    "classifier": DATA / "reviews" / "dev.tsv", "classifier of several labels": DATA / "aspects" / "dev.tsv",
    "scores": DATA / "graded" / "dev.tsv", "pair, softmax": DATA / "nli" / "dev.tsv",
    "pair, cosent": DATA / "graded" / "dev.tsv", "contrastive": DATA / "graded" / "dev.tsv",
    "tagger": DATA / "entities" / "dev.jsonl", "crf": DATA / "entities" / "dev.jsonl",
    "global pointer": DATA / "entities" / "dev.jsonl", "reader": DATA / "reading" / "dev.json",
    "chooser": DATA / "choice" / "dev.jsonl",
    "language model": SENTENCES["train_data_file"], "language model with order": SENTENCES["train_data_file"],
}  # fmt: skip

CASES = {
    **{f"{name}, {precision}": (*case, precision, {}) for name, case in HEADS.items() for precision in ("fp32", "bf16")},
    **{f"{name}, fp16": (*HEADS[name], "fp16", {}) for name in ("classifier", "contrastive", "crf")},
    "classifier, auto": (*HEADS["classifier"], "auto", {}),
    **{f"{name}, no dropout": (*HEADS[name], "bf16", {"dropout": 0.0}) for name in ("classifier", "tagger")},
    **{name: (*case, "bf16", {}) for name, case in TRICKS.items()},
    "lamb, fp16": (*TRICKS["lamb"], "fp16", {}),
    **{
        f"evaluation: {name}": (HEADS[name][0], {**HEADS[name][1], "dev_data_file": dev}, "bf16", {"evaluate": True})
        for name, dev in DEV.items()
    },
    **{f"{family}, classifier": ("run_classifier", REVIEWS, "bf16", {"family": family}) for family in {**FAMILIES, **TINY}},
    **{
        f"{family}, language model": ("run_pretraining", SENTENCES, "bf16", {"family": family})
        for family in FAMILIES if FAMILIES[family].pretraining
    },
}  # fmt: skip


def write_encoder(family, directory, tiny_model):
    """A tiny encoder without weights."""
    if family in TINY:
        shutil.copytree(tiny_model(family), directory, ignore=lambda *_: ["model.safetensors"])
        return
    shutil.copytree(DATA / "tiny-encoder", directory)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = EncoderConfig(model_type=family, vocab_size=load_config(directory).vocab_size, **small)
    (directory / "config.json").write_text(json.dumps(config.to_dict()))


@pytest.fixture(scope="module")
def seen(tmp_path_factory, tiny_model):
    """What ``observe`` returns for each case and each plant, and whether gradients were computed."""
    folder = tmp_path_factory.mktemp("pretended")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    try:
        environment[LIBRARY] = str(compiled(folder))
    except (OSError, subprocess.CalledProcessError):
        environment.pop(LIBRARY, None)
    names, cases = [], []
    for name, (script, flags, precision, more) in CASES.items():
        encoder = DATA / "tiny-encoder"
        if "family" in more:
            encoder = folder / more["family"]
            if not encoder.is_dir():
                write_encoder(more["family"], encoder, tiny_model)
        names.append(name)
        values = {"pretrained_model_name_or_path": encoder, "precision": precision, **flags}
        cases.append({"script": script, "flags": values, **more})
    plain = cases[names.index("classifier, bf16")]
    for plant in PLANTS:
        if plant is not None:
            names.append(plant)
            cases.append({**plain, "plant": plant})
    (folder / "cases.json").write_text(json.dumps(cases, default=str))
    done = finished([sys.executable, "-m", "tests.pretended_cuda", str(folder / "cases.json")], env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    results = map(json.loads, done.stdout.splitlines())
    return dict(zip(names, results, strict=True)), LIBRARY in environment


@pytest.mark.parametrize("name", CASES)
def test_nothing_waits(seen, name):
    results, with_gradients = seen
    found = results[name]
    if name == "evaluation: global pointer":  # only the scores say how many spans are above zero
        (waits,) = found["findings"]
        assert "nonzero: the host waits" in waits and "answers.py" in waits
        found = {**found, "findings": []}
    assert found["error"] is None and found["findings"] == []
    if not name.startswith("evaluation"):
        assert found["launches"].keys() >= ({"forward", "backward", "update"} if with_gradients else {"forward", "update"})


def test_a_new_gpu_computes_in_bf16_by_itself(seen):
    results, _ = seen
    launches = {precision: results[f"classifier, {precision}"]["launches"] for precision in ("auto", "bf16", "fp32")}
    assert launches["auto"] == launches["bf16"] != launches["fp32"]


@pytest.mark.parametrize("plant", [plant for plant in PLANTS if plant is not None])
def test_what_waits_is_found(seen, plant):
    """A guard that finds nothing would be green too."""
    results, with_gradients = seen
    if plant in ("backward", "masked_scatter") and not with_gradients:
        pytest.skip("no C++ compiler: gradients of pretended tensors cannot be computed")
    assert results[plant]["findings"] != []
    phase = "backward" if plant in ("backward", "masked_scatter") else "forward"
    assert any(line.startswith(phase) for line in results[plant]["findings"])
