"""run_ner.py as a user would use it; seqeval, pytorch-crf and transformers are the judges of its figures."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2, IOBES
from torchcrf import CRF
from transformers import AutoModelForTokenClassification, BertTokenizer

from bertorch.training.run import Run
from tests.scripts.launch import DATA, as_flags, call, complaint, journal, run

ENTITIES = DATA / "entities"
LETTERS = {"bios": "BIS", "bio": "BI", "bmes": "BMES", "bioes": "BIES"}
TYPES = ["PER", "LOC", "ORG"]
CRF_NAMES = {"crf.transitions", "crf.start_transitions", "crf.end_transitions"}


def flags_of(encoder, saved_dir, **flags):
    values = {
        "pretrained_model_name_or_path": encoder, "saved_dir": saved_dir, "train_data_file": ENTITIES / "train.jsonl",
        "dev_data_file": ENTITIES / "dev.jsonl", "label_file": ENTITIES / "labels.txt", "max_seq_length": 48,
        "max_steps": 1, "device": "cpu",
    }  # fmt: skip
    return as_flags(**{**values, **flags})


def rows_of(path):
    """``(text, entities)`` of each line, entities as (type, start, end)."""
    lines = map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1])
    return [(line["text"], [(kind, start, end) for start, end, kind in line["entities"]]) for line in lines]


def write_rows(path, rows):
    lines = ({"text": text, "entities": [[start, end, kind] for kind, start, end in found]} for text, found in rows)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def tags_of(text, entities, tag):
    """The tags of a text, by the definition of the scheme."""
    tags = ["O"] * len(text)
    for kind, start, end in entities:
        inside, last = ("M" if tag == "bmes" else "I"), ("E" if tag in ("bmes", "bioes") else "I")
        letters = ["B", *inside * (end - start - 2), *last * (end - start > 1)]
        if end - start == 1 and tag != "bio":
            letters = ["S"]
        tags[start:end] = [f"{letter}-{kind}" for letter in letters]
    return tags


def with_nested(rows):
    """Each organisation of three characters or more has a place at its beginning; one of two is a place as well."""
    for text, entities in rows:
        inner = [("LOC", start, start + 2) for kind, start, end in entities if kind == "ORG" and end - start > 1]
        yield text, list(dict.fromkeys(entities + inner))


def scores(gold, found):
    """Precision, recall and F1 of sets of (row, type, start, end)."""
    right = len(gold & found)
    precision, recall = right / max(len(found), 1), right / len(gold)
    return {"precision": precision, "recall": recall, "f1": 2 * right / (len(gold) + len(found))}


def numbered(rows):
    return {(row, *one) for row, (_, entities) in enumerate(rows) for one in entities}


@pytest.fixture
def predict(monkeypatch, capsys):
    """``predict(**flags)`` -> standard output, of a call that went well."""

    def answer(**flags):
        capsys.readouterr()
        code = call("predict.py", as_flags(device="cpu", **flags), monkeypatch)
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return answer


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """``columns(part)``: a part of the sample set as a BMES column file, of texts that the vocabulary knows."""
    directory = tmp_path_factory.mktemp("columns")
    known = set((DATA / "tiny-encoder" / "vocab.txt").read_text(encoding="utf-8").splitlines())

    def rows(part):
        return [
            (text, entities)
            for text, entities in rows_of(ENTITIES / f"{part}.jsonl")
            if all(sign in known and "一" <= sign <= "龥" for sign in text.replace("，", "一").replace("。", "一"))
        ]

    def write(part):
        path = directory / f"{part}.bmes"
        separator = "\t" if part == "dev" else " "
        texts = (zip(text, tags_of(text, entities, "bmes"), strict=True) for text, entities in rows(part))
        path.write_text("\n".join("".join(f"{a}{separator}{b}\n" for a, b in text) for text in texts), encoding="utf-8")
        return path, rows(part)

    return write


# Figures

CASES = {
    "linear": {},
    "crf": {"use_crf": True, "tag": "bmes", "metric": "conlleval_f1", "crf_learning_rate": 0.03},
    "global_pointer": {"ner_head": "global_pointer"},
}


class Trained:
    """A run with every stage: training, best model, test predictions. The sets of the spans have nested entities."""

    def __init__(self, name, encoder, directory):
        self.name, self.saved_dir, self.flags = name, directory / "checkpoint", CASES[name]
        self.paths, self.answers = {}, {}
        for part in ("train", "dev", "test"):
            rows = [row for row in rows_of(ENTITIES / f"{part}.jsonl") if not any(map(str.isspace, row[0]))]
            self.paths[part] = write_rows(
                directory / f"{part}.jsonl", with_nested(rows) if name == "global_pointer" else rows
            )
        files = {f"{part}_data_file": path for part, path in self.paths.items()}
        how = {"max_steps": 45, "eval_steps": 15, "save_steps": 30, "learning_rate": 4e-3, "eval_batch_size": 16}
        flags = flags_of(encoder, self.saved_dir, **how, **files, **self.flags, save_best_model=True, do_test=True)
        with pytest.MonkeyPatch.context() as patch:
            assert call("run_ner.py", flags, patch) == 0

    @property
    def best(self):
        return max(journal(self.saved_dir, "eval"), key=lambda line: line[self.flags.get("metric", "f1")])


@pytest.fixture(scope="module", params=CASES)
def trained(request, small_encoder, tmp_path_factory):
    return Trained(request.param, small_encoder, tmp_path_factory.mktemp("trained"))


def found_by(predict, trained, part):
    """What predict.py's json lines say: ``(text, entities)`` of each line."""
    if part not in trained.answers:
        printed = predict(model_dir=trained.saved_dir, input_file=trained.paths[part], output_format="jsonl")
        trained.answers[part] = [
            (line["text"], [(one["type"], one["start"], one["end"]) for one in line["entities"]])
            for line in map(json.loads, printed.split("\n")[:-1])
        ]
    return trained.answers[part]


@pytest.mark.parametrize("part", ["dev", "test"])
def test_figures_are_those_of_the_saved_model(trained, predict, part):
    """Entities counted in predict.py's answers; of long texts none is lost."""
    gold = rows_of(trained.paths[part])
    found = found_by(predict, trained, part)
    assert [text for text, _ in found] == [text for text, _ in gold]
    beyond = [(row, *one) for row, (_, entities) in enumerate(gold) for one in entities if one[2] > 46]
    assert beyond and any(end > 46 for *_, end in numbered(found))
    expected = scores(numbered(gold), numbered(found))
    line = trained.best if part == "dev" else journal(trained.saved_dir, "test")[0]
    assert {name: line[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert 0.05 < expected["f1"] < 1 and expected["precision"] != expected["recall"]


def test_figures_are_those_that_predict_prints(trained, predict):
    printed = predict(
        model_dir=trained.saved_dir, input_file=trained.paths["dev"], evaluate=True, batch_size=16
    ).splitlines()
    names = [name for name in trained.best if name not in ("kind", "global_step")]
    assert printed[0] == ", ".join(f"{name}: {trained.best[name]:.5f}" for name in names)
    assert ("conlleval_f1" in names) == (trained.name != "global_pointer")
    gold, found = rows_of(trained.paths["dev"]), found_by(predict, trained, "dev")
    table = {line.split()[0]: line.split()[1:] for line in printed[2:]}
    assert list(table) == [*sorted(TYPES), "all"]
    for kind, cells in table.items():
        of_kind = [{one for one in numbered(rows) if kind in ("all", one[1])} for rows in (gold, found)]
        expected = scores(*of_kind)
        assert cells == [f"{value:.4f}" for value in expected.values()] + [str(len(some)) for some in of_kind]


def test_the_best_model_is_kept(trained):
    evaluations = journal(trained.saved_dir, "eval")
    assert [line["global_step"] for line in evaluations] == [15, 30, 45]
    description = json.loads((trained.saved_dir / "bertorch.json").read_text())
    assert description["global_step"] == trained.best["global_step"]
    assert description["metrics"] == {
        name: value for name, value in trained.best.items() if name not in ("kind", "global_step")
    }
    assert (description["task"], description["types"], description["unit"]) == ("entities", TYPES, "character")


def test_test_predictions_are_those_of_predict(trained, predict):
    """Line, type, start and end of every entity, in the order of the texts."""
    written = (trained.saved_dir / "test_predictions.tsv").read_text(encoding="utf-8").splitlines()
    printed = predict(model_dir=trained.saved_dir, input_file=trained.paths["test"]).splitlines()
    rows = [line.split("\t") for line in printed]
    assert written == ["\t".join((line, kind, start, end)) for line, kind, _, start, end, _ in rows]
    assert len(written) > 20 and [int(row[0]) for row in rows] == sorted(int(row[0]) for row in rows)
    texts = [text for text, _ in rows_of(trained.paths["test"])]
    assert all(texts[int(line) - 1][int(start) : int(end)] == surface for line, _, surface, start, end, _ in rows)
    assert all(0 <= float(confidence) <= 1 for *_, confidence in rows)


def test_blanks_at_the_edges_of_entities(small_encoder, tmp_path, monkeypatch, predict):
    """Learned from a file that counts them in; training, its test set and predict.py must agree about them."""
    rows = [(f"{text[:9]}小明 {text[9:18]}", [("PER", 9, 12)]) for text, _ in rows_of(ENTITIES / "train.jsonl")[:300]]
    rows = [(text, entities) for text, entities in rows if text[9:12] == "小明 "]
    path = write_rows(tmp_path / "train.jsonl", rows)
    flags = {"max_steps": 40, "learning_rate": 5e-3, "test_data_file": path, "do_test": True}
    flags = flags_of(small_encoder, tmp_path / "out", train_data_file=path, dev_data_file=None, **flags)
    assert call("run_ner.py", flags, monkeypatch) == 0
    written = (tmp_path / "out" / "test_predictions.tsv").read_text(encoding="utf-8").splitlines()
    printed = predict(model_dir=tmp_path / "out", input_file=path).splitlines()
    answers = [(line, kind, start, end) for line, kind, _, start, end, _ in (line.split("\t") for line in printed)]
    assert len(answers) > 100
    assert [tuple(line.split("\t")) for line in written] == answers


def test_nested_entities_are_found_by_spans(trained, predict):
    found = found_by(predict, trained, "dev")
    within = [
        (a, b) for _, entities in found for a in entities for b in entities if a != b and a[1] <= b[1] and b[2] <= a[2]
    ]
    assert bool(within) == (trained.name == "global_pointer")


JUDGES = {
    "linear bmes": ({"tag": "bmes"}, "bmes"),
    "linear bio": ({"tag": "bio"}, "bio"),
    "linear bios": ({}, "bios"),
    "crf bio": ({"tag": "bio", "ner_head": "crf"}, "bio"),
    "crf bmes": ({"tag": "bmes", "use_crf": True}, "bmes"),
    "unconstrained crf": ({"tag": "bio", "use_crf": True, "no_crf_constraints": True}, "bio"),
}


def allowed(before, tag, has_end):
    if tag[0] in "IME":
        return before[0] in "BIM" and before[2:] == tag[2:]
    return not (has_end and before[0] in "BIM")


@pytest.mark.parametrize(("flags", "tag"), JUDGES.values(), ids=JUDGES)
def test_figures_by_transformers_and_seqeval(flags, tag, columns, small_encoder, tmp_path, monkeypatch):
    """Tags of transformers' argmax, or of pytorch-crf on transformers' scores; seqeval counts them."""
    (train, _), (dev, rows) = columns("train"), columns("dev")
    how = {"max_steps": 30, "learning_rate": 3e-3, "crf_learning_rate": 0.1, "max_seq_length": 256}
    command = flags_of(small_encoder, tmp_path / "out", train_data_file=train, dev_data_file=dev, **how, **flags)
    assert call("run_ner.py", command, monkeypatch) == 0
    (line,) = journal(tmp_path / "out", "eval")

    directory = tmp_path / "out"
    model, tokenizer = (
        AutoModelForTokenClassification.from_pretrained(directory).eval(),
        BertTokenizer.from_pretrained(directory),
    )
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    assert labels == ["O", *(f"{letter}-{kind}" for letter in LETTERS[tag] for kind in TYPES)]
    crf = None
    if "crf" in json.dumps(flags):
        tensors = load_file(directory / "model.safetensors")
        crf = CRF(len(labels), batch_first=True)
        has_end, tries = tag == "bmes", [(a, b) for a in range(len(labels)) for b in range(len(labels))]
        with torch.no_grad():
            for name in CRF_NAMES:
                getattr(crf, name.removeprefix("crf.")).copy_(tensors[name])
            if "no_crf_constraints" not in flags:
                for a, b in tries:
                    if not allowed(labels[a], labels[b], has_end):
                        crf.transitions[a, b] = -1e4
                for index, label in enumerate(labels):
                    crf.start_transitions[index] += -1e4 * (not allowed("O", label, has_end))
                    crf.end_transitions[index] += -1e4 * (not allowed(label, "O", has_end))
    predicted, loss = [], 0.0
    for text, entities in rows:
        ids = torch.tensor([tokenizer.convert_tokens_to_ids(["[CLS]", *text, "[SEP]"])])
        assert tokenizer.unk_token_id not in ids
        gold = torch.tensor([[labels.index(one) for one in tags_of(text, entities, tag)]])
        with torch.no_grad():
            emissions = model(input_ids=ids).logits[:, 1:-1]
            if crf is None:
                found = emissions[0].argmax(dim=1).tolist()
                loss += torch.nn.functional.cross_entropy(emissions[0], gold[0], reduction="sum").item()
            else:
                (found,) = crf.decode(emissions)
                loss -= crf(emissions, gold).item()
        predicted.append([labels[index] for index in found])
    wanted = [tags_of(text, entities, tag) for text, entities in rows]
    places = sum(len(text) for text, _ in rows)
    assert line["loss"] == pytest.approx(loss / places, rel=1e-4)
    wanted, predicted = ([[one.replace("M-", "I-") for one in tags] for tags in both] for both in (wanted, predicted))
    assert line["conlleval_f1"] == pytest.approx(f1_score(wanted, predicted, average="micro"))
    if tag != "bios":  # for which seqeval has no strict mode
        how = {"average": "micro", "mode": "strict", "scheme": IOBES if tag == "bmes" else IOB2, "zero_division": 0}
        expected = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
        for name, score in expected.items():
            assert line[name] == pytest.approx(score(wanted, predicted, **how)), name
    assert line["conlleval_f1"] > 0


# Flags


@pytest.mark.parametrize(("tag", "ner_head"), [("bioes", "linear"), ("bioes", "crf"), ("bios", "crf")])
def test_the_scheme_of_the_tags(tag, ner_head, small_encoder, tmp_path, monkeypatch):
    flags = flags_of(small_encoder, tmp_path / "out", tag=tag, ner_head=ner_head, dev_data_file=None)
    assert call("run_ner.py", flags, monkeypatch) == 0
    description = json.loads((tmp_path / "out" / "bertorch.json").read_text())
    labels = ["O", *(f"{letter}-{kind}" for letter in LETTERS[tag] for kind in TYPES)]
    assert (description["tag"], description["labels"], description["ner_head"]) == (tag, labels, ner_head)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert len(tensors["classifier.bias"]) == len(labels)
    assert {name for name in tensors if name.startswith("crf")} == (CRF_NAMES if ner_head == "crf" else set())


def test_a_file_of_tags_keeps_its_order(small_encoder, tmp_path, monkeypatch):
    """Of other schemes' tags the types are taken."""
    labels = ["I-ORG", "O", "B-ORG", "B-PER", "I-PER", "I-LOC", "B-LOC"]
    (tmp_path / "tags.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    for tag, expected in (("bio", labels), ("bioes", ["O"] + [f"{a}-{b}" for a in "BIES" for b in ("ORG", "PER", "LOC")])):
        flags = flags_of(small_encoder, tmp_path / tag, tag=tag, label_file=tmp_path / "tags.txt")
        assert call("run_ner.py", flags, monkeypatch) == 0
        assert json.loads((tmp_path / tag / "bertorch.json").read_text())["labels"] == expected


def weights(directory):
    return load_file(directory / "model.safetensors")


def test_two_ways_to_ask_for_a_crf(small_encoder, tmp_path, monkeypatch):
    how = {"max_steps": 3, "learning_rate": 1e-3, "dev_data_file": None}
    for name, asked in {"use": {"use_crf": True}, "head": {"ner_head": "crf"}}.items():
        assert call("run_ner.py", flags_of(small_encoder, tmp_path / name, **how, **asked), monkeypatch) == 0
    expected, found = weights(tmp_path / "use"), weights(tmp_path / "head")
    assert expected.keys() == found.keys() >= CRF_NAMES
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_rate_of_the_crf(small_encoder, tmp_path, monkeypatch):
    """The first update of AdamW is as long as the rate, for every weight that has a gradient."""
    how = {"dev_data_file": None, "use_crf": True, "tag": "bio"}
    runs = {"none": (0, 0), "both": (1e-3, 0.25), "crf": (0, 0.25)}
    for name, (rate, of_crf) in runs.items():
        flags = flags_of(small_encoder, tmp_path / name, **how, learning_rate=rate, crf_learning_rate=of_crf)
        assert call("run_ner.py", flags, monkeypatch) == 0
    before, after, still = (weights(tmp_path / name) for name in ("none", "both", "crf"))
    steps = {name: (after[name] - before[name]).abs() for name in before}
    assert not any(before[name].any() for name in CRF_NAMES)
    for name in CRF_NAMES:
        moved = steps[name][steps[name] > 0]
        torch.testing.assert_close(moved, torch.full_like(moved, 0.25), rtol=1e-2, atol=0)
        assert torch.equal(still[name], after[name])
    labels = ["O", *(f"{letter}-{kind}" for letter in "BI" for kind in TYPES)]
    forbidden = torch.tensor([[not allowed(a, b, False) for b in labels] for a in labels])
    assert ((steps["crf.transitions"] > 0) == ~forbidden).all()
    others = torch.cat([step.flatten() for name, step in steps.items() if name not in CRF_NAMES])
    assert others.max() < 1.01e-3 and (others > 0.9e-3).float().mean() > 0.1
    assert all(torch.equal(still[name], before[name]) for name in before.keys() - CRF_NAMES)


def test_the_default_rate_of_the_crf_is_that_of_the_rest(small_encoder, tmp_path, monkeypatch):
    flags = flags_of(small_encoder, tmp_path / "out", use_crf=True, dev_data_file=None)
    assert call("run_ner.py", flags, monkeypatch) == 0
    assert weights(tmp_path / "out")["crf.transitions"].abs().max().item() == pytest.approx(5e-5, rel=1e-2)


def test_entities_that_tags_cannot_write(small_encoder, tmp_path, monkeypatch, capsys, predict):
    """A tagger warns of nested entities, and they count as not found; spans need no warning."""
    paths = {
        part: write_rows(tmp_path / f"{part}.jsonl", with_nested(rows_of(ENTITIES / f"{part}.jsonl")))
        for part in ("train", "dev")
    }
    nested = {
        part: len(numbered(rows_of(path))) - len(numbered(rows_of(ENTITIES / f"{part}.jsonl")))
        for part, path in paths.items()
    }
    files = {f"{part}_data_file": path for part, path in paths.items()}
    for ner_head in ("linear", "global_pointer"):
        capsys.readouterr()
        flags = flags_of(small_encoder, tmp_path / ner_head, ner_head=ner_head, **files, max_steps=4, learning_rate=3e-3)
        assert call("run_ner.py", flags, monkeypatch) == 0
        warnings = [line for line in capsys.readouterr().err.splitlines() if "| WARNING " in line and "overlap" in line]
        expected = [f"{paths[part]}: {nested[part]} entities overlap longer ones" for part in paths]
        assert len(warnings) == (2 if ner_head == "linear" else 0)
        assert all(text in line for text, line in zip(expected, warnings, strict=False))
    table = predict(model_dir=tmp_path / "linear", input_file=paths["dev"], evaluate=True).splitlines()
    assert table[-1].split()[4] == str(len(numbered(rows_of(paths["dev"]))))


@pytest.mark.parametrize("ner_head", ["crf", "global_pointer"])
def test_a_test_set_without_labels(ner_head, small_encoder, tmp_path, monkeypatch):
    """Strings, or lists of characters; there are answers and no figures."""
    lines = [{"text": text} for text, _ in rows_of(ENTITIES / "test.jsonl")[:30]]
    lines[3:6] = [{"text": list(line["text"])} for line in lines[3:6]]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    how = {"max_steps": 20, "learning_rate": 5e-3} if ner_head == "crf" else {"learning_rate": 0}  # a new pointer finds much
    flags = {"ner_head": ner_head, "test_data_file": path, "do_test": True, "dev_data_file": None, **how}
    assert call("run_ner.py", flags_of(small_encoder, tmp_path / "out", **flags), monkeypatch) == 0
    assert journal(tmp_path / "out", "test") == []
    answers = (tmp_path / "out" / "test_predictions.tsv").read_text(encoding="utf-8").splitlines()
    assert answers and all(line.split("\t")[1] in TYPES for line in answers)


def test_texts_that_cannot_be_used_are_left_out(small_encoder, tmp_path, monkeypatch, capsys):
    good = (ENTITIES / "train.jsonl").read_text(encoding="utf-8").split("\n")[:40]
    bad = ['{"text": "小明", "entities": [[0, 3, "PER"]]}', '{"text": ["小"], "label": ["X-PER"]}', "no json", '{"a": 1}']
    (tmp_path / "good.jsonl").write_text("\n".join(good) + "\n", encoding="utf-8")
    (tmp_path / "bad.jsonl").write_text("\n".join([*good[:9], *bad, *good[9:]]) + "\n", encoding="utf-8")
    for name in ("good", "bad"):
        flags = flags_of(small_encoder, tmp_path / name, train_data_file=tmp_path / f"{name}.jsonl", max_steps=3)
        assert call("run_ner.py", [*flags, "--bad_rows", "skip"], monkeypatch) == 0
    assert f"{tmp_path / 'bad.jsonl'}: 4 bad rows left out" in capsys.readouterr().err
    expected, found = weights(tmp_path / "good"), weights(tmp_path / "bad")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_windows_share(small_encoder, tmp_path, monkeypatch, predict):
    """--doc_stride is remembered, 0 too; predict.py reads with another where it is told so."""
    how = {"max_seq_length": 24, "doc_stride": 0, "max_steps": 40, "learning_rate": 3e-3, "dev_data_file": None}
    flags = flags_of(small_encoder, tmp_path / "out", **how)
    assert call("run_ner.py", flags, monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "bertorch.json").read_text())["doc_stride"] == 0
    asked = {"model_dir": tmp_path / "out", "input_file": ENTITIES / "dev.jsonl", "output_format": "jsonl"}
    assert predict(**asked) == predict(**asked, doc_stride=0) != predict(**asked, doc_stride=18)


# Mistakes

MISTAKES = {
    "tags and spans": ({"use_crf": True, "ner_head": "global_pointer"}, "--use_crf and --ner_head global_pointer"),
    "a metric of tags": (
        {"ner_head": "global_pointer", "metric": "conlleval_f1"},
        "--metric conlleval_f1 is for tags; --ner_head global_pointer has f1",
    ),
    "a scheme that is none": ({"tag": "iob1"}, "--tag: invalid choice: 'iob1'"),
    "a rate below 0": ({"use_crf": True, "crf_learning_rate": -1}, "--crf_learning_rate: must not be negative"),
    "windows that share all": ({"max_seq_length": 20, "doc_stride": 18}, "--doc_stride 18: windows cannot share that many"),
    "a stride below 0": ({"doc_stride": -1}, "--doc_stride: must not be negative"),
    "no label file": ({"label_file": "nowhere.txt"}, "nowhere.txt: no such file"),
    "no types": ({"label_file": "outside.txt"}, "outside.txt: no entity type in it"),
    "tags and types": ({"label_file": "mixed.txt"}, "mixed.txt: 'LOC' is not a tag such as B-PER"),
    "no training set": ({"train_data_file": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
    "no test set": ({"do_test": True}, "--do_test needs --test_data_file"),
    "an empty set": ({"train_data_file": "empty.jsonl"}, "empty.jsonl: no texts in it"),
    "a window without room": ({"max_seq_length": 2}, "--max_seq_length 2 leaves no room for text"),
    "longer than the model": ({"max_seq_length": 513}, "has positions for 512 tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_costs_nothing(flags, message, small_encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outside.txt").write_text("O\n", encoding="utf-8")
    (tmp_path / "mixed.txt").write_text("B-PER\nI-PER\nLOC\n", encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    assert call("run_ner.py", flags_of(small_encoder, tmp_path / "out", **flags), monkeypatch) == 2
    error = complaint(capsys.readouterr().err)
    assert error.startswith("run_ner.py: ") and message in error
    assert not (tmp_path / "out").exists()


BAD_ROWS = {
    "a type that is not listed": ("x.jsonl", '{"text": "小明", "entities": [[0, 2, "GPE"]]}', "entity type of 'GPE'"),
    "a tag of a type that is not listed": ("x.jsonl", '{"text": ["小"], "label": ["B-GPE"]}', "entity type of 'B-GPE'"),
    "an unknown tag": ("x.jsonl", '{"text": ["小"], "label": ["Q-PER"]}', "'Q-PER' is not a tag"),
    "a tag too few": ("x.jsonl", '{"text": ["小", "明"], "label": ["O"]}', "2 tokens and 1 tags"),
    "a place outside": ("x.jsonl", '{"text": "小明", "entities": [[1, 3, "PER"]]}', "PER at 1 to 3 lies outside"),
    "no labels": ("x.jsonl", '{"text": "小明"}', "no labels (key entities or label)"),
    "no text": ("x.jsonl", '{"entities": []}', "no text (key text)"),
    "no json": ("x.jsonl", "小明", "not JSON"),
    "no tag in a column": ("x.txt", "小", "no tag"),
    "an unknown tag in a column": ("x.txt", "小 Q-PER", "'Q-PER' is not a tag"),
}


@pytest.mark.parametrize(("name", "line", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_named_before_training(name, line, message, small_encoder, tmp_path, monkeypatch, capsys):
    good = {"x.jsonl": '{"text": "小明", "entities": [[0, 2, "PER"]]}', "x.txt": "小 B-PER\n明 I-PER\n"}[name]
    path = tmp_path / name
    path.write_text("".join(f"{one}\n" for one in (good, line, good)), encoding="utf-8")
    number = 4 if name == "x.txt" else 2
    assert call("run_ner.py", flags_of(small_encoder, tmp_path / "out", train_data_file=path), monkeypatch) == 2
    lines = [one for one in capsys.readouterr().err.splitlines() if " | " not in one]
    assert len(lines) == 2
    assert lines[0].startswith(f"run_ner.py: {path}:{number}: {message}")
    assert "1 bad row" in lines[1] and "--bad_rows skip" in lines[1]
    assert not (tmp_path / "out").exists()


# Stopping and resuming


@pytest.mark.parametrize(("ner_head", "how_it_ends"), [("crf", "stopped"), ("crf", "killed"), ("global_pointer", "stopped")])
def test_a_resumed_run_ends_with_the_same_weights(ner_head, how_it_ends, small_encoder, tmp_path, monkeypatch, capsys):
    """Bit for bit, with dropout and two learning rates."""
    how = {
        "ner_head": ner_head, "max_steps": 7, "eval_steps": 2, "save_steps": 3, "logging_steps": 1, "batch_size": 16,
        "learning_rate": 3e-3, "crf_learning_rate": 0.1, "warmup_proportion": 0.2, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call("run_ner.py", flags_of(small_encoder, whole, **how), monkeypatch) == 0
    step = Run.step

    def step_and_end(run):
        if run.global_step == 4 and run.batch % 2 == 0:
            if how_it_ends == "killed":
                raise ZeroDivisionError
            os.kill(os.getpid(), signal.SIGTERM)
        step(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", step_and_end)
        code = call("run_ner.py", flags_of(small_encoder, parts, **how), monkeypatch)
    assert code == (1 if how_it_ends == "killed" else 128 + signal.SIGTERM)
    capsys.readouterr()
    assert call("run_ner.py", flags_of(small_encoder, parts, **how, resume=True), monkeypatch) == 0
    assert f"global step {3 if how_it_ends == 'killed' else 5}\n" in capsys.readouterr().err
    expected, found = weights(whole), weights(parts)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert journal(parts, "eval") == journal(whole, "eval")
    if ner_head == "crf":
        assert expected["crf.transitions"].abs().max() > 0.1


# Processes


def test_two_processes(small_encoder, tmp_path, predict):
    """They log the figures that one process prints for what they saved."""
    saved_dir = tmp_path / "out"
    how = {"max_steps": 20, "learning_rate": 5e-3, "crf_learning_rate": 0.03, "batch_size": 16, "eval_batch_size": 16}
    files = {"test_data_file": ENTITIES / "test.jsonl", "do_test": True}
    done = run("run_ner.py", flags_of(small_encoder, saved_dir, use_crf=True, **how, **files), processes=2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("global step: 20, ") == 1
    for kind, name in (("eval", "dev"), ("test", "test")):
        (line,) = journal(saved_dir, kind)
        figures = {key: value for key, value in line.items() if key not in ("kind", "global_step")}
        printed = predict(model_dir=saved_dir, input_file=ENTITIES / f"{name}.jsonl", evaluate=True, batch_size=16)
        assert printed.splitlines()[0] == ", ".join(f"{key}: {value:.5f}" for key, value in figures.items())
        assert figures["f1"] > 0
    answers = predict(model_dir=saved_dir, input_file=ENTITIES / "test.jsonl", batch_size=16).splitlines()
    assert (saved_dir / "test_predictions.tsv").read_text(encoding="utf-8").splitlines() == [
        "\t".join(np.array(line.split("\t"))[[0, 1, 3, 4]]) for line in answers
    ]
