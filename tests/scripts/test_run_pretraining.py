"""run_pretraining.py, used as a user would: a vocabulary and a corpus of one's own, and what comes out of them."""

import gzip
import json
import math
import os
import signal
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AlbertForPreTraining, BertForMaskedLM, BertForPreTraining

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.tasks.pretraining.masking import Masking
from bertorch.tasks.pretraining.rows import tokenize_documents
from bertorch.training.run import Run
from tests.closeness import assert_same_course
from tests.scripts.launch import DATA, as_flags, call, complaint, journal, run, training_flags
from tests.tasks.pretraining.test_head import BOTH, padded

LENGTH = 48
SIZES = {
    "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 64,
}  # fmt: skip
FIGURES = {"loss", "masked_lm_loss", "masked_lm_accuracy", "perplexity"}
ORDER_FIGURES = {"sentence_order_loss", "sentence_order_accuracy"}


def write_documents(path, sentences, size=4):
    """A blank line after every ``size`` sentences."""
    documents = ["\n".join(sentences[start : start + size]) for start in range(0, len(sentences), size)]
    content = ("\n\n".join(documents) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """``train.txt`` and ``dev.txt`` of the sample sentences, and ``english.txt``."""
    directory = tmp_path_factory.mktemp("corpus")
    sentences = (DATA / "sentences" / "train.txt").read_text(encoding="utf-8").splitlines()
    write_documents(directory / "train.txt", sentences[:280])
    write_documents(directory / "dev.txt", sentences[280:340], size=3)
    readme = "Unquestionably every pretraining corpus holds documents. Tokenizers divide uncommon words into pieces. "
    write_documents(directory / "english.txt", [f"{number} {part}." for number in range(30) for part in readme.split(". ")])
    return directory


def make_vocabulary(corpus, output, config):
    (output.parent / "config.json").write_text(json.dumps(config), encoding="utf-8")
    flags = as_flags(output_dir=output, config_file=output.parent / "config.json", vocab_size=1300, unused=2)
    files = [str(corpus / "train.txt"), str(corpus / "english.txt")]
    with pytest.MonkeyPatch.context() as patch:
        assert call("scripts/train_vocabulary.py", ["--train_data_file", *files, *flags], patch) == 0
    return output


@pytest.fixture(scope="module")
def fresh(corpus, tmp_path_factory):
    """An encoder to begin with: configuration and vocabulary, no weights."""
    return make_vocabulary(corpus, tmp_path_factory.mktemp("fresh") / "encoder", SIZES)


@pytest.fixture(scope="module")
def flags_of(fresh, corpus):
    """``flags_of(saved_dir, **flags)`` of a short run."""

    def flags(saved_dir, **more):
        values = {
            "pretrained_model_name_or_path": fresh, "train_data_file": corpus / "train.txt",
            "dev_data_file": corpus / "dev.txt", "saved_dir": saved_dir, "objectives": "mlm,sop", "max_seq_length": LENGTH,
            "batch_size": 8, "max_steps": 2, "learning_rate": 5e-3, "logging_steps": 1, "eval_batch_size": 16,
            "device": "cpu", **more,
        }  # fmt: skip
        return as_flags(**values)

    return flags


@pytest.fixture(scope="module")
def trained(flags_of, tmp_path_factory):
    """The saved directory of a run from scratch; copy it to change it."""
    saved_dir = tmp_path_factory.mktemp("trained") / "checkpoint"
    flags = flags_of(saved_dir, max_steps=60, eval_steps=20, learning_rate=1e-2, warmup_proportion=0.1, batch_size=16)
    with pytest.MonkeyPatch.context() as patch:
        assert call("run_pretraining.py", flags, patch) == 0
    return saved_dir


def weights_of(directory):
    return load_file(directory / "model.safetensors")


def assert_same_weights(found, expected):
    found, expected = weights_of(found), weights_of(expected)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []


def figures_of(line):
    return {name: value for name, value in line.items() if name not in ("kind", "global_step")}


def dev_batches(corpus, fresh, objectives, size):
    encoder = TextTokenizer(load_tokenizer(fresh), LENGTH)
    masking = Masking(encoder, objectives)
    documents = tokenize_documents([corpus / "dev.txt"], encoder, masking.room, False)
    for start in range(0, len(documents), size):
        yield masking.collate(documents, np.arange(start, min(start + size, len(documents))))


def test_it_learns_from_scratch(trained, fresh):
    """From the loss of a model that knows nothing, which is that of a fair draw."""
    words = json.loads((fresh / "config.json").read_text())["vocab_size"]
    assert journal(trained, "train")[0]["loss"] == pytest.approx(math.log(words) + math.log(2), abs=0.3)
    lines = journal(trained, "eval")
    assert [line["global_step"] for line in lines] == [20, 40, 60]
    for line in lines:
        assert set(figures_of(line)) == FIGURES | ORDER_FIGURES
        assert all(math.isfinite(value) for value in figures_of(line).values())
        assert line["perplexity"] == pytest.approx(math.exp(line["masked_lm_loss"]))
        assert line["loss"] == pytest.approx(line["masked_lm_loss"] + line["sentence_order_loss"])
    assert lines[-1]["masked_lm_loss"] < math.log(words) - 0.5


def test_transformers_opens_the_saved_directory_and_finds_the_same_figures(trained, corpus, fresh):
    """The evaluation, made again by BertForPreTraining."""
    model, info = BertForPreTraining.from_pretrained(trained, output_loading_info=True)
    assert not any(info.values()), info
    description = json.loads((trained / "bertorch.json").read_text())
    assert (description["task"], description["objectives"]) == ("language_model", ["mlm", "sop"])
    sums, counts = np.zeros(4), np.zeros(2)
    for batch in dev_batches(corpus, fresh, ("mlm", "sop"), 7):
        given = padded(batch, model.eval(), BOTH)
        with torch.no_grad():
            found = model(**given)
        labels, orders = given["labels"], given["next_sentence_label"]
        for place, (logits, wanted) in enumerate(
            ((found.prediction_logits, labels), (found.seq_relationship_logits, orders))
        ):
            logits, wanted = logits[wanted >= 0], wanted[wanted >= 0]
            sums[2 * place] += F.cross_entropy(logits, wanted, reduction="sum").item()
            sums[2 * place + 1] += (logits.argmax(dim=1) == wanted).sum().item()
            counts[place] += len(wanted)
    line = journal(trained, "eval")[-1]
    names = ("masked_lm_loss", "masked_lm_accuracy", "sentence_order_loss", "sentence_order_accuracy")
    assert [line[name] for name in names] == pytest.approx((sums / counts.repeat(2)).tolist(), rel=1e-5)


def test_a_classifier_starts_from_the_saved_directory(trained, tmp_path, monkeypatch, capsys):
    """Encoder and pooler are those that were pretrained."""
    flags = training_flags(
        trained, tmp_path / "out", learning_rate=0, max_steps=1, max_seq_length=LENGTH, dev_data_file=None
    )
    assert call("run_classifier.py", flags, monkeypatch) == 0
    before, after = weights_of(trained), weights_of(tmp_path / "out")
    names = [name for name in before if name.startswith("bert.")]
    assert any("pooler" in name for name in names)
    assert [name for name in names if not torch.equal(before[name], after[name])] == []
    assert "starts from random" not in capsys.readouterr().err


def test_pretraining_goes_on_from_the_saved_directory(trained, flags_of, tmp_path, monkeypatch):
    """All of it, the heads too: with a rate of 0 it is what it was, in figures as well."""
    flags = flags_of(tmp_path / "out", pretrained_model_name_or_path=trained, learning_rate=0, max_steps=1)
    assert call("run_pretraining.py", flags, monkeypatch) == 0
    assert_same_weights(tmp_path / "out", trained)
    (line,) = journal(tmp_path / "out", "eval")
    assert figures_of(line) == figures_of(journal(trained, "eval")[-1])


def test_masked_tokens_alone(flags_of, tmp_path, monkeypatch):
    assert call("run_pretraining.py", flags_of(tmp_path / "out", objectives=None), monkeypatch) == 0
    (line,) = journal(tmp_path / "out", "eval")
    assert set(figures_of(line)) == FIGURES and line["loss"] == line["masked_lm_loss"]
    _, info = BertForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info


def test_next_sentences(flags_of, corpus, tmp_path, monkeypatch):
    """Another second segment for the same texts."""
    lines = []
    for objectives in ("mlm,sop", "mlm,nsp"):
        flags = flags_of(tmp_path / objectives, objectives=objectives, max_steps=1, learning_rate=0)
        assert call("run_pretraining.py", flags, monkeypatch) == 0
        lines += journal(tmp_path / objectives, "eval")
    assert set(figures_of(lines[1])) == FIGURES | ORDER_FIGURES
    assert lines[0]["sentence_order_loss"] != lines[1]["sentence_order_loss"]


def test_an_albert(flags_of, corpus, tmp_path, monkeypatch):
    config = {**SIZES, "model_type": "albert", "embedding_size": 16, "hidden_act": "gelu_new"}
    encoder = make_vocabulary(corpus, tmp_path / "encoder", config)
    flags = flags_of(tmp_path / "out", pretrained_model_name_or_path=encoder, longest_ngram=3)
    assert call("run_pretraining.py", flags, monkeypatch) == 0
    _, info = AlbertForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info


# The same run


HOW = {
    "max_steps": 7, "eval_steps": 3, "save_steps": 3, "warmup_proportion": 0.3, "batch_size": 24,
    "gradient_accumulation_steps": 2, "scheduler": "cosine", "objectives": "mlm,nsp",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(flags_of, tmp_path_factory):
    """Several epochs, with dropout and accumulation."""
    saved_dir = tmp_path_factory.mktemp("whole") / "checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        assert call("run_pretraining.py", flags_of(saved_dir, **HOW), patch) == 0
    assert journal(saved_dir, "train")[-1]["epoch"] > 1
    return saved_dir


def test_a_seed_fixes_the_weights(whole, flags_of, tmp_path, monkeypatch):
    assert call("run_pretraining.py", flags_of(tmp_path / "again", **HOW), monkeypatch) == 0
    assert_same_weights(tmp_path / "again", whole)
    assert journal(tmp_path / "again", "eval") == journal(whole, "eval")
    assert call("run_pretraining.py", flags_of(tmp_path / "other", **{**HOW, "max_steps": 1}, seed=1), monkeypatch) == 0
    assert journal(tmp_path / "other", "train")[0]["loss"] != journal(whole, "train")[0]["loss"]


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_a_stopped_run_resumes_with_the_same_weights(whole, flags_of, tmp_path, monkeypatch, capsys, optimizer):
    """Bit for bit, with the masks of the epoch that it was stopped in."""
    step, how = Run.step, {**HOW, "optimizer": optimizer}
    if optimizer == "lamb":
        whole = tmp_path / "whole"
        assert call("run_pretraining.py", flags_of(whole, **how), monkeypatch) == 0
    parts = tmp_path / "parts"

    def step_after_signal(run):
        if run.global_step == 4 and run._update_due:
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", step_after_signal)
        assert call("run_pretraining.py", flags_of(parts, **how), monkeypatch) == 128 + signal.SIGTERM
    assert call("run_pretraining.py", flags_of(parts, **how, resume=True), monkeypatch) == 0
    assert "global step 5\n" in capsys.readouterr().err
    assert_same_weights(parts, whole)
    assert journal(parts, "eval") == journal(whole, "eval")


def test_other_documents_or_words_do_not_resume(whole, flags_of, corpus, tmp_path, monkeypatch, capsys):
    for change in ({"train_data_file": corpus / "dev.txt"}, {"max_seq_length": LENGTH - 1}):
        before = (whole / "model.safetensors").read_bytes()
        capsys.readouterr()
        assert call("run_pretraining.py", flags_of(whole, **{**HOW, **change}, resume=True), monkeypatch) == 2
        assert "the training data has changed" in complaint(capsys.readouterr().err)
        assert (whole / "model.safetensors").read_bytes() == before


def test_two_processes_train_and_evaluate_as_one(flags_of, tmp_path, monkeypatch):
    """Without dropout: the same masks and losses, at half the batch size each."""
    how = {"dropout": 0, "max_steps": 5, "eval_steps": 2}
    one, two = tmp_path / "one", tmp_path / "two"
    assert call("run_pretraining.py", flags_of(one, **how, batch_size=12), monkeypatch) == 0
    done = run("run_pretraining.py", flags_of(two, **how, batch_size=6), processes=2)
    assert done.returncode == 0, done.stderr
    for kind in ("train", "eval"):
        expected, found = journal(one, kind), journal(two, kind)
        assert len(expected) == len(found) == (5 if kind == "train" else 3)
        for line, other in zip(expected, found, strict=True):
            del line["kind"], other["kind"]
            for name in ("steps_per_second", "peak_memory_mb", "seconds"):
                line.pop(name, None), other.pop(name, None)
            assert other == pytest.approx(line, rel=1e-4)  # through updates that amplify rounding
    assert_same_course(weights_of(two), weights_of(one), updates=5, rate=5e-3)


def test_a_corpus_in_several_files(flags_of, corpus, tmp_path, monkeypatch):
    """One of them packed; they are read in their order, and the weights are those of one file."""
    lines = (corpus / "train.txt").read_text(encoding="utf-8").split("\n\n")
    (tmp_path / "one.txt").write_text("\n\n".join(lines[:20]), encoding="utf-8")
    (tmp_path / "two.txt.gz").write_bytes(gzip.compress("\n\n".join(lines[20:]).encode()))
    assert call("run_pretraining.py", flags_of(tmp_path / "whole", dev_data_file=None), monkeypatch) == 0
    flags = flags_of(tmp_path / "parts", dev_data_file=None, train_data_file=None)
    files = ["--train_data_file", str(tmp_path / "one.txt"), str(tmp_path / "two.txt.gz")]
    assert call("run_pretraining.py", [*flags, *files], monkeypatch) == 0
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


def test_several_seeds(flags_of, tmp_path, monkeypatch):
    flags = flags_of(tmp_path / "out", max_steps=1, metric="sentence_order_accuracy", save_best_model=True)
    assert call("run_pretraining.py", [*flags, "--seeds", "1", "2"], monkeypatch) == 0
    summary = json.loads((tmp_path / "out" / "seeds.json").read_text())
    lines = [journal(tmp_path / "out" / f"seed-{seed}", "eval")[0] for seed in (1, 2)]
    for name in FIGURES | ORDER_FIGURES:
        assert summary["eval"][name]["values"] == [line[name] for line in lines]
    assert lines[0]["masked_lm_loss"] != lines[1]["masked_lm_loss"]
    assert_same_weights(tmp_path / "out", tmp_path / "out" / f"seed-{summary['best_seed']}")


# What is masked, and by which steps


def test_each_epoch_and_each_seed_masks_anew(trained, flags_of, tmp_path, monkeypatch):
    """All texts are one batch, and nothing is drawn or learned besides: only the masks tell them apart."""
    losses = []
    for seed in (1, 2):
        flags = flags_of(
            tmp_path / str(seed), pretrained_model_name_or_path=trained, learning_rate=0, dropout=0, epochs=3,
            batch_size=1000, max_steps=None, dev_data_file=None, seed=seed,
        )  # fmt: skip
        assert call("run_pretraining.py", flags, monkeypatch) == 0
        losses += [line["loss"] for line in journal(tmp_path / str(seed), "train")]
    assert len(set(losses)) == 6 and np.ptp(losses) > 1e-3


def test_whole_words_of_english_need_nothing_else(flags_of, corpus, tmp_path, monkeypatch):
    """Other tokens are masked than without; words are in several pieces."""
    monkeypatch.setitem(sys.modules, "jieba", None)
    losses = {}
    for whole_words in (False, True):
        flags = flags_of(
            tmp_path / str(whole_words), train_data_file=corpus / "english.txt", dev_data_file=corpus / "english.txt",
            whole_words=whole_words, max_steps=1,
        )  # fmt: skip
        assert call("run_pretraining.py", flags, monkeypatch) == 0
        (line,) = journal(tmp_path / str(whole_words), "eval")
        losses[whole_words] = line["masked_lm_loss"]
        assert math.isfinite(line["masked_lm_loss"])
    assert losses[True] != losses[False]


def test_a_step_of_lamb(trained, flags_of, tmp_path, monkeypatch):
    """Each weight matrix moves by the rate times its length, from a checkpoint too."""
    flags = flags_of(
        tmp_path / "out", init_from_ckpt=trained, optimizer="lamb", learning_rate=0.01, max_steps=1, weight_decay=0.01
    )
    assert call("run_pretraining.py", flags, monkeypatch) == 0
    before, after = weights_of(trained), weights_of(tmp_path / "out")
    matrices = [name for name, tensor in before.items() if tensor.dim() == 2]
    assert len(matrices) > 10
    for name in matrices:
        moved = (after[name] - before[name]).norm() / before[name].norm()
        assert moved.item() == pytest.approx(0.01, rel=1e-3), name


def test_dropout_of_a_flag(flags_of, tmp_path, monkeypatch):
    """Used while training, and not what is saved."""
    losses = {}
    for dropout in (None, 0.0, 0.1, 0.6):
        flags = flags_of(tmp_path / str(dropout), dropout=dropout, max_steps=1, dev_data_file=None)
        assert call("run_pretraining.py", flags, monkeypatch) == 0
        losses[dropout] = journal(tmp_path / str(dropout), "train")[0]["loss"]
        saved = json.loads((tmp_path / str(dropout) / "config.json").read_text())
        assert (saved["hidden_dropout_prob"], saved["attention_probs_dropout_prob"]) == (0.1, 0.1)
    assert losses[None] == losses[0.1] and len({losses[value] for value in (0, 0.1, 0.6)}) == 3


MISTAKES = {
    "an objective that there is not": ({"objectives": "mlm,xyz"}, "--objectives: "),
    "no masked tokens": ({"objectives": "sop"}, "--objectives: "),
    "both orders": ({"objectives": "mlm,sop,nsp"}, "--objectives: "),
    "one objective twice": ({"objectives": "mlm,mlm"}, "--objectives: "),
    "no objective": ({"objectives": ""}, "--objectives: "),
    "an empty corpus": ({"train_data_file": "empty.txt"}, "empty.txt: no text"),
    "an empty development set": ({"dev_data_file": "empty.txt"}, "empty.txt: no text"),
    "one document": ({"train_data_file": "one.txt", "objectives": "mlm,nsp"}, "one.txt: only one document"),
    "a sentence a document": ({"train_data_file": "short.txt"}, "short.txt: no text of two sentences"),
    "no such file": ({"train_data_file": "nowhere.txt"}, "nowhere.txt: no such file"),
    "another encoding": ({"train_data_file": "latin.txt"}, "latin.txt:2: not UTF-8"),
    "more than there is": ({"masked_share": 1.5}, "--masked_share: must be between 0 and 1"),
    "no words": ({"longest_ngram": 0}, "--longest_ngram: must be at least 1"),
    "no room for text": ({"max_seq_length": 3}, "leaves no room for text"),
    "more tokens than positions": ({"max_seq_length": 65}, "has positions for 64 tokens"),
    "a metric that is not measured": (
        {"objectives": "mlm", "metric": "sentence_order_accuracy"}, "--metric sentence_order_accuracy",
    ),
    "rows to skip": ({"bad_rows": "skip"}, "--bad_rows"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_before_training(flags, message, flags_of, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    (tmp_path / "one.txt").write_text("你好。\n天气好。\n", encoding="utf-8")
    (tmp_path / "short.txt").write_text("你好。\n\n天气好。\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("a\n\u00e9t\u00e9\n".encode("latin-1"))
    assert call("run_pretraining.py", flags_of(tmp_path / "out", **flags), monkeypatch) == 2
    assert message in complaint(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_whole_words_of_chinese_need_jieba(flags_of, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jieba", None)
    assert call("run_pretraining.py", flags_of(tmp_path / "out", whole_words=True), monkeypatch) == 2
    assert "pip install jieba" in complaint(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_family_without_an_order(flags_of, corpus, tmp_path, monkeypatch, capsys):
    encoder = make_vocabulary(corpus, tmp_path / "encoder", {**SIZES, "model_type": "electra", "embedding_size": 32})
    capsys.readouterr()
    flags = flags_of(tmp_path / "out", pretrained_model_name_or_path=encoder)
    assert call("run_pretraining.py", flags, monkeypatch) == 2
    assert "--objectives mlm" in complaint(capsys.readouterr().err)
    assert call("run_pretraining.py", flags_of(tmp_path / "out", pretrained_model_name_or_path=encoder, objectives="mlm"),
                monkeypatch) == 0  # fmt: skip
