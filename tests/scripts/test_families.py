"""Families beside BERT from training to answers: fine-tuned for three tasks, and transformers opens what is saved."""

import json
import os
import shutil
import signal

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from bertorch.training.run import Run
from tests.conftest import TINY
from tests.scripts.launch import DATA, as_flags, assert_same_model, call, training_flags

FAMILIES = (
    "ernie",
    "camembert",
    "distilbert",
    "megatron-bert",
    "roformer",
    "mpnet",
    "modernbert",
    "xlnet",
    "deberta-v2",
    "deberta-v3",
)
TEXTS = ("房间干净", "服务员不好，早餐便宜")
TASKS = {
    "run_classifier.py": ("ForSequenceClassification", "reviews/train.tsv", {"label_file": DATA / "reviews" / "labels.txt"}),
    "run_ner.py": ("ForTokenClassification", "entities/train.jsonl", {"label_file": DATA / "entities" / "labels.txt"}),
    "run_mrc.py": ("ForQuestionAnswering", "reading/train.json", {"max_query_length": 24, "doc_stride": 16}),
}


def predicted(model_dir, tmp_path, monkeypatch, **flags):
    """The objects that predict.py writes."""
    answers = tmp_path / "answers.jsonl"
    assert call("predict.py", as_flags(model_dir=model_dir, output_file=answers, device="cpu", **flags), monkeypatch) == 0
    return [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("script", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_from_training_to_answers(family, script, tiny_model, tmp_path, monkeypatch):
    head, train, own = TASKS[script]
    saved = tmp_path / "saved"
    flags = as_flags(
        pretrained_model_name_or_path=tiny_model(family), train_data_file=DATA / train, saved_dir=saved, max_steps=3,
        learning_rate=1e-3, max_seq_length=64, device="cpu", seed=1, **own,
    )  # fmt: skip
    assert call(script, flags, monkeypatch) == 0
    simple = "Simple" if family == "xlnet" and script == "run_mrc.py" else ""
    kind = getattr(transformers, TINY[family][0] + head + simple)
    theirs, report = kind.from_pretrained(saved, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    if script == "run_mrc.py":
        asked = {"question": "酒店在哪里", "context": "酒店在北京东门，服务员喜欢早餐。", "doc_stride": 16}
        (found,) = predicted(saved, tmp_path, monkeypatch, **asked)
        assert found["kind"] in ("span", "none", "yes", "no")
        return
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    shown = {"probabilities": True} if script == "run_classifier.py" else {}
    found = predicted(saved, tmp_path, monkeypatch, input_file=rows, **shown)
    assert len(found) == len(TEXTS)
    if script == "run_classifier.py":
        tokenizer = AutoTokenizer.from_pretrained(saved)
        with torch.no_grad():
            for text, answer in zip(TEXTS, found, strict=True):
                scores = theirs.eval()(**tokenizer(text, return_tensors="pt")).logits.softmax(dim=-1)
                assert answer["label"] == theirs.config.id2label[int(scores.argmax())]
                assert answer["probabilities"][answer["label"]] == pytest.approx(scores.max().item(), abs=2e-6)


def roformer(tiny_model, tmp_path, words: list[str], **config):
    """A RoFormer without weights: its configuration, and a vocabulary that has these words too."""
    directory = tmp_path / "roformer"
    directory.mkdir()
    source = tiny_model("roformer")
    vocabulary = (source / "vocab.txt").read_text(encoding="utf-8") + "".join(f"{word}\n" for word in words)
    (directory / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    raw = json.loads((source / "config.json").read_text())
    del raw["embedding_size"]
    raw = {**raw, **config, "vocab_size": len(vocabulary.splitlines())}
    (directory / "config.json").write_text(json.dumps(raw))
    return directory


@pytest.mark.parametrize("script", TASKS)
def test_nezha(script, tiny_model, tmp_path, monkeypatch):
    """Which transformers has no class for: predict.py alone opens what is saved, and training goes on from it."""
    _, train, own = TASKS[script]
    flags = {"train_data_file": DATA / train, "max_steps": 3, "max_seq_length": 64, "device": "cpu", **own}
    first = as_flags(pretrained_model_name_or_path=tiny_model("nezha"), saved_dir=tmp_path / "saved", **flags)
    assert call(script, first, monkeypatch) == 0
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["model_type"], config["max_relative_position"]) == ("nezha", 8)
    given = {"question": "酒店在哪里", "context": "酒店在北京东门。"}
    if script != "run_mrc.py":
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
        given = {"input_file": rows}
    assert len(predicted(tmp_path / "saved", tmp_path, monkeypatch, **given)) == (1 if script == "run_mrc.py" else 2)
    again = as_flags(pretrained_model_name_or_path=tmp_path / "saved", saved_dir=tmp_path / "again", **flags)
    assert call(script, again, monkeypatch) == 0


@pytest.mark.parametrize("script", TASKS)
def test_roformer_v2(script, tiny_model, tmp_path, monkeypatch):
    _, train, own = TASKS[script]
    directory = roformer(tiny_model, tmp_path, [], norm_type="rms_norm", use_bias=False)
    flags = as_flags(
        pretrained_model_name_or_path=directory, train_data_file=DATA / train, saved_dir=tmp_path / "saved", max_steps=3,
        max_seq_length=64, device="cpu", **own,
    )  # fmt: skip
    assert call(script, flags, monkeypatch) == 0
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["model_type"], config["norm_type"], config["use_bias"]) == ("roformer_v2", "rms_norm", False)
    given = {"question": "酒店在哪里", "context": "酒店在北京东门。"}
    if script != "run_mrc.py":
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
        given = {"input_file": rows}
    assert len(predicted(tmp_path / "saved", tmp_path, monkeypatch, **given)) == (1 if script == "run_mrc.py" else 2)


def test_pretraining_of_roformer_v2(tiny_model, tmp_path, monkeypatch):
    directory = roformer(tiny_model, tmp_path, [], norm_type="rms_norm", use_bias=False)
    flags = as_flags(
        pretrained_model_name_or_path=directory, train_data_file=DATA / "sentences" / "train.txt", objectives="mlm",
        saved_dir=tmp_path / "saved", max_steps=2, max_seq_length=64, device="cpu",
    )  # fmt: skip
    assert call("run_pretraining.py", flags, monkeypatch) == 0
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "酒[MASK]很好"}) + "\n", encoding="utf-8")
    assert len(predicted(tmp_path / "saved", tmp_path, monkeypatch, input_file=rows)) == 1


@pytest.mark.parametrize("script", ["run_classifier.py", "run_ner.py"])
def test_words_of_roformer(script, tiny_model, tmp_path, monkeypatch):
    """What jieba finds is one token, in training and in answers; transformers gives the same ones for what is saved."""
    pytest.importorskip("rjieba")
    _, train, own = TASKS[script]
    directory = roformer(tiny_model, tmp_path, ["房间", "服务员", "干净"])
    flags = as_flags(
        pretrained_model_name_or_path=directory, train_data_file=DATA / train, saved_dir=tmp_path / "saved", max_steps=3,
        max_seq_length=64, device="cpu", **own,
    )  # fmt: skip
    assert call(script, flags, monkeypatch) == 0
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    assert len(predicted(tmp_path / "saved", tmp_path, monkeypatch, input_file=rows)) == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.tokenize(TEXTS[0]) == ["房间", "干净"] and tokenizer.tokenize(TEXTS[1])[0] == "服务员"


@pytest.mark.parametrize("family", [*FAMILIES, "nezha"])
def test_resumed_bit_for_bit(family, tiny_model, tmp_path, monkeypatch):
    """A run that is stopped in its midst and resumed ends with the weights of an undisturbed one, dropout included."""

    def train(saved_dir, stop_after=None, **flags):
        def step(run):
            original(run)
            if run.global_step == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            original = Run.step
            patch.setattr(Run, "step", step)
            more = {"dev_data_file": None, "batch_size": 8, "max_steps": 5, "max_seq_length": 48, "device": "cpu", **flags}
            return call("run_classifier.py", training_flags(tiny_model(family), saved_dir, **more), patch)

    assert train(tmp_path / "whole") == 0
    assert train(tmp_path / "parts", stop_after=2) == 128 + signal.SIGTERM
    assert train(tmp_path / "parts", resume=True) == 0
    assert_same_model(tmp_path / "parts", tmp_path / "whole")


OTHERS = {
    "run_pretraining.py": ("ForMaskedLM", {"train_data_file": DATA / "sentences" / "train.txt", "objectives": "mlm"}),
    "run_sentencebert.py": ("Model", {"train_data_file": DATA / "nli" / "train.tsv", "pooling_mode": "mean"}),
    "run_batchneg.py": ("Model", {"train_data_file": DATA / "paraphrases" / "train.tsv", "pooling_mode": "first_last"}),
    "run_simcse.py": ("Model", {"train_data_file": DATA / "sentences" / "train.txt", "dropout": 0.2}),
}
TRICKS = {
    "FGM": {"fgm_epsilon": 1.0},
    "layer decay": {"layer_decay": 0.8},
    "frozen layers": {"freeze_layers": 2},
    "all at once": {"r_drop_weight": 1.0, "ema_decay": 0.9, "gradient_checkpointing": True, "precision": "bf16"},
}


@pytest.mark.parametrize("tricks", TRICKS.values(), ids=TRICKS)
@pytest.mark.parametrize("script", OTHERS)
def test_modernbert_in_every_script(script, tricks, tiny_model, tmp_path, monkeypatch):
    head, own = OTHERS[script]
    saved, before = tmp_path / "saved", tiny_model("modernbert", "ForMaskedLM")
    flags = as_flags(
        pretrained_model_name_or_path=before, saved_dir=saved, max_steps=2, max_seq_length=48, learning_rate=1e-3,
        batch_size=8, device="cpu", seed=1, **own, **tricks,
    )  # fmt: skip
    assert call(script, flags, monkeypatch) == 0
    _, report = getattr(transformers, f"ModernBert{head}").from_pretrained(saved, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    old, new = load_file(before / "model.safetensors"), load_file(saved / "model.safetensors")
    of_base = {name.removeprefix("model."): tensor for name, tensor in new.items()}
    moved = {name for name in old if not torch.equal(old[name], of_base.get(name.removeprefix("model."), old[name]))}
    frozen = ("embeddings", "layers.0.", "layers.1.") if "freeze_layers" in tricks else ()
    assert moved and not any(name.removeprefix("model.").startswith(frozen or "-") for name in moved)
    if not frozen:
        assert {"model.embeddings.tok_embeddings.weight", "model.layers.1.attn.Wqkv.weight"} <= moved


@pytest.mark.parametrize(
    ("family", "script", "tricks"),
    [
        (family, script, tuple(TRICKS)[(number + turn) % len(TRICKS)])
        for turn, family in enumerate(("deberta-v2", "deberta-v3"))
        for number, script in enumerate(OTHERS)
    ],
)
def test_deberta_in_every_script(family, script, tricks, tiny_model, tmp_path, monkeypatch):
    head, own = OTHERS[script]
    saved, before = tmp_path / "saved", tiny_model(family, "ForMaskedLM")
    flags = as_flags(
        pretrained_model_name_or_path=before, saved_dir=saved, max_steps=2, max_seq_length=48, learning_rate=1e-3,
        batch_size=8, device="cpu", seed=1, **own, **TRICKS[tricks],
    )  # fmt: skip
    assert call(script, flags, monkeypatch) == 0
    _, report = getattr(transformers, f"DebertaV2{head}").from_pretrained(saved, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"], report
    old, new = (
        {name.removeprefix("deberta."): x for name, x in load_file(path / "model.safetensors").items()}
        for path in (before, saved)
    )
    moved = {name for name, x in old.items() if name in new and not torch.equal(x, new[name])}
    lower = ("embeddings.", "encoder.rel_embeddings.", "encoder.LayerNorm.", "encoder.conv.", "encoder.layer.0.")
    found = {part for part in lower if any(name.startswith(part) for name in old)}
    assert {part for part in found if any(name.startswith(part) for name in moved)} == (
        set() if tricks == "frozen layers" else found
    )
    assert "encoder.layer.2.attention.self.query_proj.weight" in moved


def test_nezha_is_pretrained_with_both_objectives(tiny_model, tmp_path, monkeypatch):
    flags = as_flags(
        pretrained_model_name_or_path=tiny_model("nezha"), train_data_file=DATA / "sentences" / "train.txt",
        objectives="mlm,sop", saved_dir=tmp_path / "saved", max_steps=2, max_seq_length=64, device="cpu",
    )  # fmt: skip
    assert call("run_pretraining.py", flags, monkeypatch) == 0
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == ["NezhaForPreTraining"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "酒[MASK]很好"}) + "\n", encoding="utf-8")
    assert len(predicted(tmp_path / "saved", tmp_path, monkeypatch, input_file=rows)) == 1


def test_masked_tokens_of_modernbert(tiny_model, tmp_path, monkeypatch):
    """The mask token is read in a text, and predict.py writes the token that transformers finds likeliest there."""
    directory = tiny_model("modernbert", "ForMaskedLM")
    tokenizer, model = AutoTokenizer.from_pretrained(directory), transformers.AutoModelForMaskedLM.from_pretrained(directory)
    rows, text = tmp_path / "rows.jsonl", "房间很[MASK]净"
    rows.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    (found,) = predicted(directory, tmp_path, monkeypatch, input_file=rows)
    given = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        scores = model.eval()(**given).logits[0, given["input_ids"][0] == tokenizer.mask_token_id][0].softmax(dim=-1)
    best = found["masks"][0][0]
    assert best["token"] == tokenizer.convert_ids_to_tokens(int(scores.argmax()))
    assert best["probability"] == pytest.approx(scores.max().item(), abs=2e-6)


@pytest.mark.parametrize("kind", ["v2", "trained positions"])
def test_roformers_resume_bit_for_bit(kind, tiny_model, tmp_path, monkeypatch):
    if kind == "v2":
        directory = roformer(tiny_model, tmp_path, [], norm_type="rms_norm", use_bias=False)
    else:
        directory = shutil.copytree(tiny_model("roformer"), tmp_path / "roformer")
        tensors = load_file(directory / "model.safetensors")
        tensors["encoder.embed_positions.weight"] += 0.1
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    _, train, own = TASKS["run_classifier.py"]
    saved = {}
    for name, steps in (("whole", [4]), ("parts", [2, 4])):
        for turn, last in enumerate(steps):
            flags = as_flags(
                pretrained_model_name_or_path=directory, train_data_file=DATA / train, saved_dir=tmp_path / name,
                max_steps=last, scheduler="constant", max_seq_length=64, device="cpu", learning_rate=1e-3, seed=1,
                save_steps=2, resume=turn > 0, **own,
            )  # fmt: skip
            assert call("run_classifier.py", flags, monkeypatch) == 0
        saved[name] = load_file(tmp_path / name / "model.safetensors")
    assert all(torch.equal(tensor, saved["parts"][name]) for name, tensor in saved["whole"].items())
    if kind == "trained positions":
        name = "roformer.encoder.embed_positions.weight"
        assert not torch.equal(saved["whole"][name], tensors[name.removeprefix("roformer.")])
