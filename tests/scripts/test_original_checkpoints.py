"""Checkpoints of the original bertorch: each kind in its naming with random weights, judged by transformers and torch."""

import io
import itertools
import json
import shutil
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import BertModel, BertTokenizer

from bertorch.tasks.entities.answers import load_entity_head, load_trained_entity_head
from bertorch.tasks.entities.description import Description
from bertorch.tasks.sentences.directory import new_sentence_encoder
from bertorch.tasks.sentences.pair import SentencePair
from tests.scripts.launch import DATA, as_flags, call, complaint

TAGS = ["O", "B-LOC", "I-LOC", "S-LOC", "B-PER", "I-PER", "S-PER"]
LABELS = ["差", "一般", "好"]
WIDTH = 32
TEXTS = ["房间很干净，服务员也好", "早餐差", "价格便宜的酒店", "电影不喜欢，推荐这书"]
PAIRS = [TEXTS[:2], TEXTS[2:], TEXTS[1:3]]


class Original:
    """A saved directory of one of its scripts, and what its model computes.

    Args:
        pretrained: a model directory to start from.
        directory: to be written.
        script: whose model it is.
        size: its --output_emb_size.
        crf: its --use_crf.
        multiply: its --concat_multiply.
    """

    def __init__(self, pretrained, directory, script, size=None, crf=False, multiply=False):
        self.directory, self.path = directory, directory / "pytorch_model.bin"
        torch.manual_seed(7)
        self.bert = BertModel.from_pretrained(pretrained).eval()
        self.tokenizer = BertTokenizer.from_pretrained(pretrained)
        for parameter in self.bert.parameters():  # other weights than those of ``pretrained``
            parameter.data += 0.1 * torch.randn_like(parameter)
        prefix = "encoder" if script in ("classifier", "ner") else "bert"
        self.tensors = {f"{prefix}.{name}": tensor for name, tensor in self.bert.state_dict().items()}
        if size is not None:
            self.add("emb_reduce_linear", size, WIDTH)
        outputs = {"classifier": len(LABELS), "ner": len(TAGS) + 1, "sentencebert": 3}
        if script in outputs:
            self.add("classifier", outputs[script], WIDTH if prefix == "encoder" else (3 + multiply) * (size or WIDTH))
        if crf:
            tags = len(TAGS) + 1
            for name, shape in (("start_transitions", (tags,)), ("end_transitions", (tags,)), ("transitions", (tags, tags))):
                self.tensors[f"crf.{name}"] = torch.randn(shape)
        directory.mkdir()
        torch.save(self.tensors, self.path)
        shutil.copy(pretrained / "vocab.txt", directory)
        settings = {"do_lower_case": True, "do_basic_tokenize": True, "unk_token": "[UNK]", "model_max_length": 512}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        if script == "classifier":  # alone writes one, with a list
            config = json.loads((pretrained / "config.json").read_text())
            config = {name: value for name, value in config.items() if name not in ("architectures", "dtype")}
            config.update(id2label=LABELS, label2id={label: index for index, label in enumerate(LABELS)})
            (directory / "config.json").write_text(json.dumps(config, ensure_ascii=False))

    def add(self, name, outputs, inputs):
        self.tensors |= {f"{name}.weight": torch.randn(outputs, inputs), f"{name}.bias": torch.randn(outputs)}

    def linear(self, name, x):
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    @torch.no_grad()
    def states(self, texts):
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
        return self.bert(**tokens), tokens["attention_mask"].unsqueeze(-1)

    def logits(self, texts):
        return self.linear("classifier", self.states(texts)[0].pooler_output)

    def vectors(self, texts, mode="linear"):
        output, mask = self.states(texts)
        states = output.last_hidden_state
        vectors = output.pooler_output if mode == "linear" else (states * mask).sum(dim=1) / mask.sum(dim=1)
        return self.linear("emb_reduce_linear", vectors) if "emb_reduce_linear.weight" in self.tensors else vectors

    def cosines(self, pairs, mode="linear"):
        u, v = (self.vectors([pair[side] for pair in pairs], mode) for side in (0, 1))
        return F.cosine_similarity(u, v)

    def emissions(self, text):
        """Scores of all tags but [PAD], of [CLS], the characters and [SEP]."""
        return self.linear("classifier", self.states([text])[0].last_hidden_state[0])[:, : len(TAGS)]


@pytest.fixture(scope="module")
def pretrained(tiny_model):
    """What the runs started from: a masked language model, as ``bert-base-chinese`` is."""
    return tiny_model("bert", "ForMaskedLM")


@pytest.fixture
def original(pretrained, tmp_path):
    return lambda script, **how: Original(pretrained, tmp_path / "original", script, **how)


@pytest.fixture
def files(tmp_path):
    """Label files and texts."""
    paths = {name: tmp_path / f"{name}.txt" for name in ("tags", "labels", "texts", "pairs")}
    lines = {"tags": TAGS, "labels": LABELS, "texts": TEXTS, "pairs": ["\t".join(pair) for pair in PAIRS]}
    for name, path in paths.items():
        path.write_text("".join(f"{line}\n" for line in lines[name]), encoding="utf-8")
    return paths


@pytest.fixture
def predict(monkeypatch, capsys):
    """``predict(code, **flags)`` -> standard output, or the one line that it ends with."""

    def run(code=0, **flags):
        capsys.readouterr()
        assert call("predict.py", as_flags(device="cpu", **flags), monkeypatch) == code
        found = capsys.readouterr()
        return complaint(found.err) if code else found.out

    return run


def close(found, expected):
    torch.testing.assert_close(torch.as_tensor(found, dtype=expected.dtype), expected, rtol=1e-4, atol=1e-4)


def train(script, original, pretrained, monkeypatch, code=0, **flags):
    """A step of length 0 from the checkpoint; returns the tensors that are saved."""
    saved = original.directory.with_name("saved")
    values = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": original.path, "saved_dir": saved}
    values |= {"max_steps": 1, "max_seq_length": 32, "learning_rate": 0, "device": "cpu", **flags}
    assert call(script, as_flags(**values), monkeypatch) == code
    return {
        name if path.parent == saved else f"{path.parent.name}/{name}": tensor
        for path in saved.rglob("model.safetensors")
        for name, tensor in load_file(path).items()
        if "training_state" not in path.parts
    }


def assert_encoder(found, original, prefix, pooler=True):
    for name, tensor in original.bert.state_dict().items():
        if pooler or not name.startswith("pooler."):
            assert torch.equal(found[f"{prefix}{name}"], tensor), name


# Classifiers


def as_probabilities(printed):
    rows = [line.split("\t") for line in printed.splitlines()]
    return [row[0] for row in rows], [[float(cell) for cell in row[1:]] for row in rows]


@pytest.mark.parametrize("named", ["directory", "file"])
def test_labels_of_texts(named, original, pretrained, files, predict):
    model = original("classifier")
    flags = {"model_dir": model.directory}
    if named == "file":
        flags = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": model.path, "label_file": files["labels"]}
    labels, probabilities = as_probabilities(predict(**flags, input_file=files["texts"], probabilities=True))
    expected = model.logits(TEXTS).softmax(dim=1)
    close(probabilities, expected)
    assert labels == [LABELS[index] for index in expected.argmax(dim=1)]


REVIEWS = {"train_data_file": DATA / "reviews" / "train.tsv", "label_file": DATA / "reviews" / "labels.txt"}


def test_a_classifier_is_trained_on(original, pretrained, tmp_path, monkeypatch, capsys):
    model = original("classifier")
    rows, labels = tmp_path / "rows.tsv", tmp_path / "labels.txt"
    labels.write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    rows.write_text("".join(f"{text}\t{label}\n" for text, label in zip(TEXTS, LABELS, strict=False)), encoding="utf-8")
    sets = {"train_data_file": rows, "label_file": labels}
    found = train("run_classifier.py", model, pretrained, monkeypatch, **sets)
    assert_encoder(found, model, "bert.")
    assert all(torch.equal(found[name], model.tensors[name]) for name in ("classifier.weight", "classifier.bias"))

    # With other labels its encoder alone; named as the pretrained model too.
    for how in ({}, {"pretrained_model_name_or_path": model.directory, "init_from_ckpt": None}):
        capsys.readouterr()
        found = train("run_classifier.py", model, pretrained, monkeypatch, **REVIEWS, overwrite=True, **how)
        assert_encoder(found, model, "bert.")
        assert found["classifier.weight"].shape == (2, WIDTH)
        said = "the head starts from scratch" if not how else "unused weights: classifier"
        assert sum(said in line for line in capsys.readouterr().err.splitlines()) == 1


# Sentence vectors


SENTENCE_MODELS = {
    "simcse": {}, "batchneg, narrow": {"size": 24}, "sentencebert": {}, "sentencebert, narrow": {"size": 24},
    "sentencebert, product": {"size": 24, "multiply": True},
}  # fmt: skip


@pytest.mark.parametrize("mode", [None, "mean"])
@pytest.mark.parametrize("kind", SENTENCE_MODELS)
def test_cosines_by_its_own_command(kind, mode, original, pretrained, files, predict):
    """Its flags, the default of its --pooling_mode included; with the layer of --output_emb_size, named or not."""
    how = SENTENCE_MODELS[kind]
    model = original(kind.split(",")[0], **how)
    flags = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": model.path, "pooling_mode": mode}
    for size in {None, how.get("size")}:
        printed = predict(**flags, input_file=files["pairs"], output_emb_size=size)
        close([float(line) for line in printed.split()], model.cosines(PAIRS, mode or "linear"))


def test_a_directory_that_was_given_the_config_of_its_model(original, pretrained, files, predict):
    """The file says what it is for, not the architecture of the model that it started from."""
    model = original("batchneg", size=24)
    shutil.copy(pretrained / "config.json", model.directory)
    printed = predict(model_dir=model.directory, input_file=files["pairs"])
    close([float(line) for line in printed.split()], model.cosines(PAIRS))


def test_vectors_of_another_width_are_refused(original, pretrained, files, predict):
    model = original("simcse", size=24)
    flags = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": model.path, "input_file": files["pairs"]}
    assert "--output_emb_size 16: this model's vectors have width 24" in predict(2, **flags, output_emb_size=16)


SENTENCES = {"train_data_file": DATA / "sentences" / "train.txt"}
PARAPHRASES = {"train_data_file": DATA / "paraphrases" / "train.tsv"}
NLI = {"train_data_file": DATA / "nli" / "train.tsv", "label_file": DATA / "nli" / "labels.txt", "is_nli": True}


@pytest.mark.parametrize(("script", "flags"), [("simcse", SENTENCES), ("batchneg", PARAPHRASES), ("sentencebert", NLI)])
def test_sentence_vectors_are_trained_on(script, flags, original, pretrained, monkeypatch, capsys):
    model = original(script, size=24)
    found = train(f"run_{script}.py", model, pretrained, monkeypatch, **flags, output_emb_size=24)
    assert_encoder(found, model, "")
    (dense,) = (found[name] for name in found if name.endswith("_Dense/linear.weight") and len(found[name]) == 24)
    assert torch.equal(dense, model.tensors["emb_reduce_linear.weight"])
    if script == "sentencebert":
        assert torch.equal(found["classifier.weight"], model.tensors["classifier.weight"])
    assert "unused weights" not in capsys.readouterr().err

    found = train(f"run_{script}.py", model, pretrained, monkeypatch, **flags, overwrite=True)
    assert_encoder(found, model, "")
    said = "its vectors go through a layer of width 24, which is left out; --output_emb_size 24 keeps it"
    assert sum(said in line for line in capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("multiply", [False, True])
def test_classes_of_pairs(multiply, original, pretrained):
    """Vectors and logits."""
    model = original("sentencebert", size=24, multiply=multiply)
    sentence, rest = new_sentence_encoder(pretrained, "linear", 24, init_from_ckpt=model.path)
    pair = SentencePair(sentence, "softmax", 3, multiply)
    assert pair.fill_head(rest, model.path, required=True) == rest.keys()
    u, v = (model.vectors([row[side] for row in PAIRS]) for side in (0, 1))
    close(sentence.dense[0].linear.weight.detach(), model.tensors["emb_reduce_linear.weight"])
    features = torch.cat([u, v, (u - v).abs(), *([u * v] if multiply else [])], dim=1)
    close(pair.logits(u, v).detach(), model.linear("classifier", features))


def test_a_run_takes_the_place_of_the_checkpoint_it_starts_from(original, pretrained, monkeypatch):
    """In its directory, as the original's commands do."""
    model = original("simcse")
    flags = {"saved_dir": model.directory, "overwrite": True, "pretrained_model_name_or_path": pretrained}
    flags |= {
        "init_from_ckpt": model.path,
        "max_steps": 1,
        "max_seq_length": 32,
        "learning_rate": 0,
        "device": "cpu",
        **SENTENCES,
    }
    assert call("run_simcse.py", as_flags(**flags), monkeypatch) == 0
    assert not model.path.exists()
    assert_encoder(load_file(model.directory / "model.safetensors"), model, "")


# Entities


def described(head):
    values = {"labels": TAGS, "types": ["LOC", "PER"], "tag": "bios", "unit": "character", "doc_stride": None}
    return Description(ner_head=head, crf_constraints=False, **values)


def test_tags(original, pretrained, files, predict, monkeypatch):
    """Without [PAD], which is never right: the entities that the tags of highest score make."""
    model = original("ner")
    flags = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": model.path, "label_file": files["tags"]}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    found = [json.loads(line) for line in predict(**flags, output_format="jsonl").splitlines()]
    tag_set = load_trained_entity_head(pretrained, described("linear"), model.path).tag_set
    entities = 0
    for text, answer in zip(TEXTS, found, strict=True):
        expected = tag_set.strict(model.emissions(text)[1:-1].argmax(dim=1).tolist())
        assert [(one["type"], one["start"], one["end"]) for one in answer["entities"]] == expected
        entities += len(expected)
    assert entities


def test_a_chain_of_tags(original, pretrained):
    """Two readings of a text differ by as much as in the original's chain, in which [CLS] and [SEP] are O."""
    model = original("ner", crf=True)
    ours = load_entity_head(pretrained, described("crf"), model.path)
    start, end, steps = (model.tensors[f"crf.{name}"] for name in ("start_transitions", "end_transitions", "transitions"))
    emissions = model.emissions(TEXTS[1])

    def score(tags):
        tags = [0, *tags, 0]
        scores = [start[0], *(steps[before, after] for before, after in itertools.pairwise(tags)), end[0]]
        return float(sum(scores) + sum(emissions[place, tag] for place, tag in enumerate(tags)))

    readings = list(itertools.product(range(len(TAGS)), repeat=3))
    expected = torch.tensor([score(reading) for reading in readings], dtype=torch.float64).log_softmax(dim=0)
    repeated = emissions[1:-1].repeat(len(readings), 1)
    found = ours.crf.log_likelihood(repeated, torch.tensor(readings).flatten(), [3] * len(readings))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("crf", [False, True])
def test_an_entity_model_is_trained_on(crf, original, pretrained, files, predict, tmp_path, monkeypatch, capsys):
    model = original("ner", crf=crf)
    rows = tmp_path / "train.jsonl"
    rows.write_text(json.dumps({"text": list("早餐差"), "label": ["B-LOC", "I-LOC", "O"]}) + "\n")
    flags = {"train_data_file": rows, "label_file": files["tags"], "use_crf": crf, "crf_learning_rate": 0}
    found = train("run_ner.py", model, pretrained, monkeypatch, **flags)
    assert_encoder(found, model, "bert.", pooler=False)
    assert torch.equal(found["classifier.weight"], model.tensors["classifier.weight"][:-1])
    assert "the head starts from scratch" not in capsys.readouterr().err
    if crf:
        assert torch.equal(found["crf.transitions"], model.tensors["crf.transitions"][:-1, :-1])

    # What was saved finds the entities that predict.py finds with the checkpoint itself.
    named = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": model.path, "label_file": files["tags"]}
    texts = {"input_file": files["texts"], "input_format": "text"}
    assert predict(**named, **texts) == predict(model_dir=tmp_path / "saved", **texts) != ""


# What cannot be opened as it is


@pytest.mark.parametrize("script", ["ner", "sentencebert", "simcse", "batchneg"])
def test_a_directory_without_a_config(script, original, pretrained, files, predict, monkeypatch, capsys):
    model = original(script)
    line = predict(2, model_dir=model.directory, input_file=files["texts"])
    assert f"{model.directory}: contains no config.json; name the model that these weights were trained from" in line
    assert "--pretrained_model_name_or_path" in line and "--init_from_ckpt" in line
    flags = {"pretrained_model_name_or_path": model.directory, "init_from_ckpt": None, **SENTENCES}
    train("run_simcse.py", model, pretrained, monkeypatch, code=2, **flags)
    assert "contains no config.json; name the model that these weights were trained from" in complaint(
        capsys.readouterr().err
    )
    # The line's advice is good.
    flags = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": model.directory, "label_file": files["tags"]}
    assert predict(**flags, input_file=files["pairs"], input_format="text" if script == "ner" else None)


def test_an_entity_model_without_its_tags(original, pretrained, files, predict):
    flags = {"pretrained_model_name_or_path": pretrained, "init_from_ckpt": original("ner", crf=True).path}
    assert "--label_file" in predict(2, **flags, input_file=files["texts"])
