"""Files in the encodings and layouts that people have, given to the scripts themselves."""

import io
import json
import re
import sys

import pyarrow
import pyarrow.parquet
import pytest

from bertorch.data.chinese import convert
from tests.scripts.launch import DATA, REVIEWS, as_flags, assert_same_model, call, complaint, training_flags

FILES = {
    "run_classifier.py": {"train_data_file": REVIEWS / "train.tsv", "label_file": REVIEWS / "labels.txt"},
    "run_sentencebert.py": {"train_data_file": DATA / "nli/train.tsv", "label_file": DATA / "nli/labels.txt"},
    "run_simcse.py": {"train_data_file": DATA / "sentences/train.txt"},
    "run_batchneg.py": {"train_data_file": DATA / "paraphrases/train.tsv"},
    "run_ner.py": {"train_data_file": DATA / "entities/train.jsonl", "label_file": DATA / "entities/labels.txt"},
    "run_mrc.py": {"train_data_file": DATA / "reading/train.json"},
    "run_choice.py": {"train_data_file": DATA / "choice/train.jsonl", "max_seq_length": 128, "max_qa_length": 48},
    "run_pretraining.py": {"train_data_file": DATA / "sentences/train.txt"},
}
OF_A_LAYOUT = ("run_mrc.py", "run_choice.py", "run_pretraining.py")  # without --input_format


@pytest.mark.parametrize("script", FILES)
def test_every_script_reads_in_the_encoding_it_is_told(script, small_encoder, tmp_path, monkeypatch, capsys):
    flags = as_flags(
        **FILES[script], pretrained_model_name_or_path=small_encoder, saved_dir=tmp_path / "out", encoding="ascii"
    )
    assert call(script, flags, monkeypatch) == 2
    assert ": not ASCII; " in complaint(capsys.readouterr().err)


def test_a_name_that_is_no_encoding(small_encoder, tmp_path, monkeypatch, capsys):
    assert call("run_classifier.py", training_flags(small_encoder, tmp_path / "out", encoding="utf-9"), monkeypatch) == 2
    assert "--encoding: 'utf-9' is not an encoding" in complaint(capsys.readouterr().err)


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_a_model_trained_and_asked_in_another_encoding_is_the_same(encoding, small_encoder, tmp_path, monkeypatch, capsys):
    """Weights and answers of a file in GB18030 or UTF-16, through a file and through standard input, are those of UTF-8."""
    answers = []
    for name in ("utf-8", encoding):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("train", "dev"):
            (folder / f"{file}.tsv").write_bytes((REVIEWS / f"{file}.tsv").read_text(encoding="utf-8").encode(name))
        flags = training_flags(
            small_encoder, folder / "out", train_data_file=folder / "train.tsv", dev_data_file=folder / "dev.tsv",
            max_steps=2, device="cpu",
        )  # fmt: skip
        assert call("run_classifier.py", flags, monkeypatch) == 0
        capsys.readouterr()
        ask = as_flags(model_dir=folder / "out", probabilities=True, device="cpu")
        assert call("predict.py", [*ask, "--input_file", str(folder / "dev.tsv")], monkeypatch) == 0
        answers.append(capsys.readouterr().out)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((folder / "dev.tsv").read_bytes())))
        assert call("predict.py", ask, monkeypatch) == 0
        answers.append(capsys.readouterr().out)
    assert len(answers[0].splitlines()) == 132 and len(set(answers)) == 1


@pytest.mark.parametrize("script", [script for script in FILES if script not in OF_A_LAYOUT])
def test_every_script_reads_in_the_format_it_is_told(script, small_encoder, tmp_path, monkeypatch, capsys):
    """As json, what is none; of run_ner.py, as columns."""
    told, problem = ("columns", "such as B-PER") if script == "run_ner.py" else ("jsonl", "not JSON")
    flags = as_flags(
        **FILES[script], pretrained_model_name_or_path=small_encoder, saved_dir=tmp_path / "out", input_format=told
    )
    assert call(script, flags, monkeypatch) == 2
    assert problem in capsys.readouterr().err


SCORED = DATA / "graded/dev.tsv"
TABLES = {
    "run_classifier.py": (["text", "label"], REVIEWS / "dev.tsv"),
    "run_sentencebert.py": (["text_a", "text_b", "label"], DATA / "nli/dev.tsv"),
    "run_simcse.py": (["text"], SCORED),
    "run_batchneg.py": (["text_a", "text_b"], SCORED),
}


@pytest.fixture
def three_layouts(tmp_path):
    """Flags of a script whose three sets have their columns in three orders, each behind a column that counts the rows."""

    def make(script):
        flags = dict(FILES[script])
        roles, dev = TABLES[script]
        scored = ["text_a", "text_b", "label"] if dev == SCORED else roles
        sets = {"train": (flags["train_data_file"], roles), "dev": (dev, scored), "test": (dev, scored)}
        for name, (source, columns) in sets.items():
            rows = [line.split("\t") for line in source.read_text(encoding="utf-8").splitlines()[:40]]
            order = columns if name == "train" else columns[::-1] if name == "dev" else [columns[-1], *columns[:-1]]
            before = ["_"] * (1 + ("train", "dev", "test").index(name))
            path = tmp_path / f"{name}.tsv"
            lines = ("\t".join(["-"] * len(before) + [row[columns.index(role)] for role in order]) for row in rows)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            flags[f"{name}_data_file"] = path
            flags["columns" if name == "train" else f"{name}_columns"] = ",".join(before + order)
        return flags

    return make


@pytest.mark.parametrize("script", TABLES)
def test_each_set_has_columns_of_its_own(script, three_layouts, small_encoder, tmp_path, monkeypatch, capsys):
    flags = {
        **three_layouts(script), "pretrained_model_name_or_path": small_encoder, "saved_dir": tmp_path / "out",
        "max_steps": 1, "do_test": True, "device": "cpu",
    }  # fmt: skip
    assert call(script, as_flags(**flags), monkeypatch) == 0
    for name in ("dev", "test"):  # without its own flag, its message names it
        wrong = {**flags, "overwrite": True, f"{name}_columns": None}
        capsys.readouterr()
        assert call(script, as_flags(**wrong), monkeypatch) == 2
        error = capsys.readouterr().err
        assert f"{name}.tsv:1: " in error and f"with --{name}_columns" in error


LABELS = {
    "run_classifier.py": ["negative", "positive"],
    "run_sentencebert.py": ["contradiction", "entailment", "neutral"],
    "run_ner.py": None,
}


def test_several_labels_without_a_label_file(small_encoder, tmp_path, monkeypatch):
    flags = as_flags(
        target="labels", train_data_file=DATA / "aspects/train.tsv", pretrained_model_name_or_path=small_encoder,
        max_steps=1, device="cpu", saved_dir=tmp_path / "out",
    )  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 0
    described = json.loads((tmp_path / "out" / "bertorch.json").read_text(encoding="utf-8"))
    listed = (DATA / "aspects/labels.txt").read_text(encoding="utf-8").split()
    assert described["labels"] == sorted(listed)
    counts = json.loads((tmp_path / "out" / "data_report.json").read_text(encoding="utf-8"))["train"]["counts"]
    assert list(counts) == sorted(listed) and all(counts.values())


@pytest.mark.parametrize("script", LABELS)
def test_labels_without_a_label_file(script, small_encoder, tmp_path, monkeypatch):
    """Sorted, saved, counted in the report; for entities, all tags of the sorted types."""
    flags = {**FILES[script], "pretrained_model_name_or_path": small_encoder, "max_steps": 1, "device": "cpu"}
    label_file = flags.pop("label_file")
    saved_dir = tmp_path / "out"
    assert call(script, as_flags(**flags, saved_dir=saved_dir), monkeypatch) == 0
    described = json.loads((saved_dir / "bertorch.json").read_text(encoding="utf-8"))
    counts = json.loads((saved_dir / "data_report.json").read_text(encoding="utf-8"))["train"]["counts"]
    if script == "run_ner.py":
        listed = {line.rpartition("-")[2] for line in label_file.read_text(encoding="utf-8").split()} - {"O"}
        assert described["types"] == sorted(listed) == list(counts)
        assert set(described["labels"]) == {"O"} | {f"{letter}-{kind}" for kind in listed for letter in "BIS"}
    else:
        assert described["labels"] == LABELS[script] == list(counts)
    assert all(counts.values())


def test_indices_beside_a_class_txt(small_encoder, tmp_path, monkeypatch, capsys):
    """The model of a file of indices is that of the same file with names; its answers are names."""
    names = ["negative", "positive"]
    flags = {"pretrained_model_name_or_path": small_encoder, "max_steps": 2, "device": "cpu"}
    found = []
    for folder in ("names", "indices"):
        directory = tmp_path / folder
        directory.mkdir()
        (directory / "class.txt").write_text("\n".join(names), encoding="utf-8")
        for name in ("train", "dev"):
            rows = (REVIEWS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
            if folder == "indices":
                rows = [f"{text}\t{names.index(label)}" for text, label in (row.split("\t") for row in rows)]
            (directory / f"{name}.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        saved_dir, dev = directory / "out", directory / "dev.txt"
        given = {"train_data_file": directory / "train.txt", "dev_data_file": dev, "saved_dir": saved_dir}
        assert call("run_classifier.py", as_flags(**flags, **given), monkeypatch) == 0
        assert json.loads((saved_dir / "bertorch.json").read_text(encoding="utf-8"))["labels"] == names
        capsys.readouterr()
        answers = directory / "answers.tsv"
        ask = as_flags(model_dir=saved_dir, input_file=dev, evaluate=True, output_file=answers, device="cpu")
        assert call("predict.py", ask, monkeypatch) == 0
        found.append((capsys.readouterr().out, answers.read_text(encoding="utf-8")))
    assert found[0] == found[1] and set(found[1][1].split()) <= set(names)


def rows_of(script) -> list[dict]:
    """Some rows of the sample set of a script, under the names that Hugging Face's sets give their columns."""
    source = FILES[script]["train_data_file"]
    if script == "run_mrc.py":
        articles = json.loads(source.read_text(encoding="utf-8"))["data"][:20]
        pairs = [(part["context"], entry) for article in articles for part in article["paragraphs"] for entry in part["qas"]]
        answers = [{key: [one[key] for one in entry["answers"]] for key in ("text", "answer_start")} for _, entry in pairs]
        return [
            {"id": entry["id"], "question": entry["question"], "context": context, "answers": given}
            for (context, entry), given in zip(pairs, answers, strict=True)
        ]
    lines = source.read_text(encoding="utf-8").splitlines()[:40]
    if script == "run_choice.py":
        return [json.loads(line) for line in lines]
    if script == "run_ner.py":
        rows = [json.loads(line) for line in lines]
        spans = [[dict(zip(("start", "end", "label"), one, strict=True)) for one in row["entities"]] for row in rows]
        return [{"text": row["text"], "entities": entities} for row, entities in zip(rows, spans, strict=True)]
    names = {
        "run_classifier.py": ["text", "label"],
        "run_sentencebert.py": ["sentence1", "sentence2", "label"],
        "run_batchneg.py": ["anchor", "positive"],
    }.get(script, ["text"])
    return [dict(zip(names, line.split("\t"), strict=False)) for line in lines if line]


@pytest.mark.parametrize("script", FILES)
def test_every_script_and_predict_read_parquet_as_they_read_text(script, small_encoder, tmp_path, monkeypatch, capsys):
    """The same rows in parquet and as text give the same answers of the same model."""
    path, text = tmp_path / "train.parquet", tmp_path / "rows.jsonl"
    rows = rows_of(script)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    flags = {
        **FILES[script], "train_data_file": path, "pretrained_model_name_or_path": small_encoder, "max_steps": 1,
        "saved_dir": tmp_path / "out", "device": "cpu",
    }  # fmt: skip
    assert call(script, as_flags(**flags), monkeypatch) == 0
    text.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    if script == "run_pretraining.py":
        masked = [{"text": f"[MASK]{row['text'][1:20]}"} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(masked), path)
        text.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in masked), encoding="utf-8")
    answers = []
    for file in (path, text):
        ask = as_flags(model_dir=tmp_path / "out", input_file=file, output_file=tmp_path / "answers.jsonl", device="cpu")
        assert call("predict.py", [*ask, *(["--columns", "anchor"] if "batchneg" in script else [])], monkeypatch) == 0
        answers.append((tmp_path / "answers.jsonl").read_text(encoding="utf-8"))
    assert answers[0] == answers[1] and len(answers[0].splitlines()) == len(rows)


@pytest.mark.parametrize("script", FILES)
def test_traditional_texts_are_those_in_simplified_characters(script, small_encoder, tmp_path, monkeypatch, capsys):
    """Trained and asked with --chinese simplified, a model is that of converted files; its answers are the user's text."""
    answers = []
    for name in ("traditional", "simplified"):
        folder = tmp_path / name
        folder.mkdir()
        source = FILES[script]["train_data_file"]
        content = convert("\n".join(source.read_text(encoding="utf-8").splitlines()), "traditional")
        content = convert(content, "simplified") if name == "simplified" else content
        path = folder / source.name
        path.write_text(content if script == "run_mrc.py" else "\n".join(content.split("\n")[:40]), encoding="utf-8")
        flags = {
            **FILES[script], "train_data_file": path, "pretrained_model_name_or_path": small_encoder, "max_steps": 1,
            "saved_dir": folder / "out", "device": "cpu", "chinese": "simplified" if name == "traditional" else None,
        }  # fmt: skip
        assert call(script, as_flags(**flags), monkeypatch) == 0
        asked = path
        if script == "run_pretraining.py":
            asked = folder / "masked.txt"
            asked.write_text("".join(f"[MASK]{line[1:20]}\n" for line in path.read_text("utf-8").split("\n") if line))
        ask = as_flags(model_dir=folder / "out", input_file=asked, output_file=folder / "answers.jsonl", device="cpu")
        assert call("predict.py", [*ask, *(["--columns", "text,_"] if "batchneg" in script else [])], monkeypatch) == 0
        answers.append((folder / "answers.jsonl").read_text(encoding="utf-8"))
    assert_same_model(tmp_path / "traditional" / "out", tmp_path / "simplified" / "out")
    described = json.loads((tmp_path / "traditional" / "out" / "bertorch.json").read_text(encoding="utf-8"))
    assert described["chinese"] == "simplified"
    places = [re.sub(r'"(text|answer|question)": "[^"]*"', "", given) for given in answers]
    assert places[0] == places[1]
    if script in ("run_ner.py", "run_mrc.py", "run_choice.py", "run_pretraining.py"):
        assert answers[0] != answers[1], "cut from the text as it was given"
