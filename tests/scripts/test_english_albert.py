"""A small English ALBERT with SentencePiece, from its vocabulary to predictions: places are those of the text as given."""

import json
import random
import shutil

import pytest
import torch
from transformers import AlbertConfig, AlbertForMaskedLM, AutoTokenizer

from bertorch.data.tokenizing import load_tokenizer
from tests.scripts.launch import ROOT, as_flags, call

FIRST = ["Anna", "Élodie", "John", "MARY", "Ünal", "Peter", "Zoë", "Bob"]
LAST = ["Smith", "O'Neil", "Müller", "(Cole)", "Jones-Brown"]
TOWNS, AMOUNTS = ["Paris", "London", "Zürich", "Rome"], ["9,", "1,000,", "75,", "£5.", "½"]
RUN = {"learning_rate": 3e-3, "batch_size": 16, "logging_steps": 50, "max_seq_length": 64}


def sentences(count, seed):
    """Text, entities ``[start, end, type]``, town: accents, capitals, blanks in a row and commas stand before the places."""
    chance = random.Random(seed)
    for _ in range(count):
        person, town = f"{chance.choice(FIRST)} {chance.choice(LAST)}", chance.choice(TOWNS)
        amount = chance.choice(AMOUNTS)
        text, entities = "", []
        for part, kind in (("Mr. ", None), (person, "PER"), (f" paid\t{amount} (quietly) and left  ", None), (town, "LOC")):
            if kind:
                entities.append([len(text), len(text) + len(part), kind])
            text += part
        yield text + ".", entities, town


def write_sets(folder, name, rows):
    tagged = [json.dumps({"text": text, "entities": entities}) for text, entities, _ in rows]
    (folder / f"{name}.jsonl").write_text("\n".join(tagged) + "\n", encoding="utf-8")
    (folder / f"{name}.tsv").write_text("".join(f"{text}\n" for text, _, _ in rows).replace("\t", " "), encoding="utf-8")
    labelled = "".join(f"{text.replace(chr(9), ' ')}\t{town}\n" for text, _, town in rows)
    (folder / f"{name}-labels.tsv").write_text(labelled, encoding="utf-8")
    paragraphs = [
        {"context": text, "qas": [
            {"id": f"{number}-{asked}", "question": asked, "answers": [{"text": text[start:end], "answer_start": start}]}
            for asked, (start, end, _) in zip(("Who (name)?", "Where?"), entities, strict=True)
        ]}
        for number, (text, entities, _) in enumerate(rows)
    ]  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The sets, and an encoder of random weights beside them."""
    folder = tmp_path_factory.mktemp("english")
    write_sets(folder, "train", list(sentences(80, 0)))
    write_sets(folder, "dev", list(sentences(20, 1)))
    (folder / "types.txt").write_text("PER\nLOC\n")
    (folder / "towns.txt").write_text("\n".join(TOWNS) + "\n", encoding="utf-8")
    sizes = {
        "hidden_size": 32, "embedding_size": 16, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 64,
        "max_position_embeddings": 128,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "albert", **sizes}))
    texts = [str(ROOT / "LICENSE"), str(folder / "train.tsv")]
    flags = as_flags(kind="sentencepiece", vocab_size=500, config_file=folder / "config.json", output_dir=folder / "encoder")
    with pytest.MonkeyPatch.context() as patch:
        assert call("scripts/train_vocabulary.py", ["--train_data_file", *texts, *flags], patch) == 0
    torch.manual_seed(0)
    AlbertForMaskedLM(AlbertConfig.from_pretrained(folder / "encoder")).save_pretrained(folder / "encoder")
    return folder


def trained(script, folder, saved_dir, monkeypatch, **flags):
    values = {"pretrained_model_name_or_path": folder / "encoder", "saved_dir": saved_dir, **RUN, **flags}
    assert call(script, as_flags(**values), monkeypatch) == 0
    assert (saved_dir / "spiece.model").read_bytes() == (folder / "encoder" / "spiece.model").read_bytes()
    text = "Mr. Zoë (Cole) paid £5. [MASK]"
    assert load_tokenizer(saved_dir)(text, "x") == load_tokenizer(folder / "encoder")(text, "x")
    AutoTokenizer.from_pretrained(saved_dir)


def predicted(saved_dir, monkeypatch, tmp_path, **flags):
    output = tmp_path / "answers.jsonl"
    values = {"model_dir": saved_dir, "output_file": output, "output_format": "jsonl", **flags}
    assert call("predict.py", as_flags(**values), monkeypatch) == 0
    return [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]


def test_entities(folder, tmp_path, monkeypatch):
    files = {"train_data_file": folder / "train.jsonl", "dev_data_file": folder / "dev.jsonl"}
    trained(
        "run_ner.py",
        folder,
        tmp_path / "saved",
        monkeypatch,
        label_file=folder / "types.txt",
        unit="word",
        epochs=12,
        **files,
    )
    found = predicted(tmp_path / "saved", monkeypatch, tmp_path, input_file=folder / "dev.jsonl")
    wanted = [[list(one) for one in entities] for _, entities, _ in sentences(20, 1)]
    ours = [[[one["start"], one["end"], one["type"]] for one in row["entities"]] for row in found]
    assert sum(one == other for one, other in zip(ours, wanted, strict=True)) >= 18
    for row in found:
        assert all(row["text"][one["start"] : one["end"]] == one["text"] for one in row["entities"])


def test_reading(folder, tmp_path, monkeypatch):
    files = {"train_data_file": folder / "train.json", "dev_data_file": folder / "dev.json"}
    trained(
        "run_mrc.py", folder, tmp_path / "saved", monkeypatch, max_query_length=12, doc_stride=16, epochs=25, **files
    )  # fmt: skip
    found = predicted(tmp_path / "saved", monkeypatch, tmp_path, input_file=folder / "dev.json")
    wanted = [(text, start, end) for text, entities, _ in sentences(20, 1) for start, end, _ in entities]
    right = [(row["start"], row["end"]) == (start, end) for row, (_, start, end) in zip(found, wanted, strict=True)]
    assert sum(right) >= 34, found
    assert all(text[row["start"] : row["end"]] == row["answer"] for row, (text, _, _) in zip(found, wanted, strict=True))


def test_classes_and_what_decides_them(folder, tmp_path, monkeypatch):
    files = {"train_data_file": folder / "train-labels.tsv", "dev_data_file": folder / "dev-labels.tsv"}
    trained(
        "run_classifier.py", folder, tmp_path / "saved", monkeypatch, label_file=folder / "towns.txt", epochs=1, **files
    )  # fmt: skip
    found = predicted(
        tmp_path / "saved", monkeypatch, tmp_path, input_file=folder / "dev.tsv", explain=True, explain_steps=4
    )
    assert len(found) == 20
    for row in found:
        (told,) = row["texts"]
        spans = [(start, end) for start, end, _, _ in told["attributions"]]
        assert all(told["text"][start:end].strip() == surface for start, end, surface, _ in told["attributions"])
        assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
        assert "".join(told["text"][start:end] for start, end in spans) == "".join(told["text"].split())


def test_masks(folder, tmp_path, monkeypatch):
    """Here, and only here, [MASK] in a text is the token."""
    (tmp_path / "texts.txt").write_text("Mr. [MASK] paid 9, in Paris.\n", encoding="utf-8")
    (row,) = predicted(folder / "encoder", monkeypatch, tmp_path, input_file=tmp_path / "texts.txt")
    assert [len(mask) for mask in row["masks"]] == [10]


def test_a_directory_with_googles_name_of_the_model(folder, tmp_path, monkeypatch):
    encoder = tmp_path / "encoder"
    shutil.copytree(folder / "encoder", encoder)
    (encoder / "spiece.model").rename(encoder / "30k-clean.model")
    (encoder / "tokenizer.json").unlink()
    (encoder / "tokenizer_config.json").unlink()
    text = "Mr. Zoë (Cole) paid £5. 9,"
    assert load_tokenizer(encoder)(text, "x") == load_tokenizer(folder / "encoder")(text, "x")
