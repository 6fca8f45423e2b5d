"""Files of strangers: whatever stands in them, a reader gives a result or one clear error, and runs nothing."""

import gzip
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger
from safetensors.torch import save_file

from bertorch.data.files import read_labels, read_lines
from bertorch.data.rows import read_rows
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder import load_config
from bertorch.encoder.weights import load_encoder, read_weights
from bertorch.errors import UserError
from bertorch.reporting.comparison import FORMATS, comparison, sorted_by
from bertorch.reporting.report import comparison_page, run_page
from bertorch.reporting.runs import read_run
from bertorch.tasks.choice.rows import read_choices
from bertorch.tasks.description import Description
from bertorch.tasks.entities.rows import read_documents
from bertorch.tasks.entities.tags import types_of
from bertorch.tasks.pretraining.rows import _sentences
from bertorch.tasks.reading.rows import read_questions
from bertorch.tasks.sentences.directory import load_sentence_encoder
from bertorch.tasks.sentences.rows import read_positives, read_scored_pairs
from bertorch.tasks.table import TASKS, part
from tests.damage import Malice, damaged_bytes, damaged_json, examples
from tests.scripts.launch import as_flags, call

ROWS = "房间很干净\t服务好\t1\n早餐差\t贵\t0\n推荐\t便宜\t1\n".encode()
CSV = '"房间, 很干净",服务好,1\n早餐差,"a ""b""\nc",0\n'.encode()
OBJECTS = b'{"text_a": "a", "text_b": "b", "label": 1}\n{"text_a": "c", "text_b": "d\\u00e9", "label": "0"}\n'
QUERIES = b'{"query": "a", "pos": ["b", "c"], "neg": ["d"]}\n{"query": "e", "pos": ["f"]}\n'
COLUMNS = "小 B-PER\n明 I-PER\n在 O\n\n北 B-LOC\n京 I-LOC\n".encode()
A_LINE = "小 明 在\tB-PER I-PER O\n北 京\tB-LOC I-LOC\n".encode()
TAGGED = '{"text": ["小", "明"], "label": ["B-PER", "I-PER"]}\n{"text": "北京", "label": ["B-LOC", "I-LOC"]}\n'.encode()
SPANS = '{"text": "小明在", "entities": [[0, 2, "PER"]]}\n{"text": "北京", "entities": []}\n'.encode()
CLUENER = '{"text": "小明在北京", "label": {"name": {"小明": [[0, 1]]}, "place": {"北京": [[3, 4]]}}}\n'.encode()
QUESTION = {"id": "q1", "question": "谁？", "answers": [{"text": "小明", "answer_start": 0}], "is_impossible": False}
SQUAD = {"data": [{"paragraphs": [{"context": "小明在北京", "qas": [QUESTION, {**QUESTION, "id": 2}]}], "title": "x"}]}
CHOICES = ('{"context": "小明在", "question": "谁", "options": ["小明", "北京", "他"], "label": 0}\n'
           '{"context": "早餐", "choices": {"text": ["a", "b"]}, "answerKey": "B"}\n').encode()  # fmt: skip
ARTICLES = b'{"article": "a b", "questions": ["c _ d", "e"], "options": [["f", "g"], ["h", "i"]], "answers": ["A", "B"]}\n'
IDIOMS = '{"content": ["小#idiom1#在#idiom2#"], "candidates": ["一", "二"], "answers": {"candidate_id": [0, 1]}}\n'.encode()
DIALOGUES = (
    '[[["小明", "在"],\n [{"question": "谁", "choice": ["一", "二"], "answer": "一"}], "1"],\n [["a"], [], 2]]'.encode()
)
SWAG = b",sent1,sent2,ending0,ending1,label\n0,a,b,c,d,1\n1,e,f,g,,0\n"


def outcome(read: Callable, *args, one_line: bool = True, **flags) -> None:
    """Allowed are a result, and one error that says something."""
    try:
        read(*args, **flags)
    except UserError as error:
        assert str(error).strip() and not (one_line and "\n" in str(error)), str(error)


def rows_of(path: Path) -> None:
    for bad_rows in ("error", "skip"):
        for pair, keep_all in ((True, False), (False, True)):
            outcome(read_rows, path, pair, None, None, bad_rows, not keep_all, keep_all=keep_all, one_line=False)
    outcome(read_rows, path, True, ["0", "1"], "text_a,text_b,label", "skip", one_line=False)


def sentences_of(path: Path) -> None:
    for bad_rows in ("error", "skip"):
        outcome(read_scored_pairs, path, None, bad_rows, one_line=False)
        outcome(read_positives, path, 1, None, bad_rows, negative_needed=True, one_line=False)
    outcome(read_positives, path, positive_label="1", one_line=False)


def entities_of(path: Path) -> None:
    for types in (["PER", "LOC"], None):
        outcome(read_documents, path, types, one_line=False)
        outcome(read_documents, path, types, "skip", label_needed=False, keep_all=True, one_line=False)
    outcome(read_documents, path, None, kind="text", label_needed=False, one_line=False)


def questions_of(path: Path) -> None:
    outcome(read_questions, path, one_line=False)
    outcome(read_questions, path, "skip", answers_needed=False, places_needed=False, one_line=False)


def choices_of(path: Path) -> None:
    outcome(read_choices, path, one_line=False)
    outcome(read_choices, path, "skip", label_needed=False, keep_all=True, one_line=False)


READERS = {
    "rows.tsv": (ROWS, rows_of),
    "rows.csv": (CSV, rows_of),
    "rows.jsonl": (OBJECTS, rows_of),
    "rows.tsv.gz": (gzip.compress(ROWS, mtime=0), rows_of),
    "pairs.tsv": (ROWS, sentences_of),
    "pairs.jsonl": (OBJECTS, sentences_of),
    "queries.jsonl": (QUERIES, sentences_of),
    "columns.txt": (COLUMNS, entities_of),
    "lines.txt": (A_LINE, entities_of),
    "tags.jsonl": (TAGGED, entities_of),
    "spans.jsonl": (SPANS, entities_of),
    "cluener.json": (CLUENER, entities_of),
    "squad.json": (json.dumps(SQUAD, ensure_ascii=False, indent=1).encode(), questions_of),
    "choices.jsonl": (CHOICES, choices_of),
    "race.jsonl": (ARTICLES, choices_of),
    "chid.jsonl": (IDIOMS, choices_of),
    "c3.json": (DIALOGUES, choices_of),
    "swag.csv": (SWAG, choices_of),
    "squad.json.gz": (gzip.compress(json.dumps(SQUAD).encode(), mtime=0), questions_of),
    "sentences.txt": ("小明在。\n北京\n\n早餐\n".encode(), lambda path: outcome(lambda: list(_sentences([path], None)))),
    "sentences.txt.gz": (gzip.compress(b"a\n\nb\n", mtime=0), lambda path: outcome(lambda: list(read_lines(path)))),
    "labels.txt": (b"O\nB-PER\nI-PER\n", lambda path: outcome(lambda: types_of(read_labels(path), path))),
}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    """Thousands of warnings about damaged files would be captured for nothing."""
    logger.disable("bertorch")
    yield
    logger.enable("bertorch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.mark.parametrize("name", READERS)
@examples(40)
@given(data=st.data())
def test_damaged_data_files(folder, name, data):
    valid, read = READERS[name]
    (folder / name).write_bytes(data.draw(damaged_bytes(valid)))
    read(folder / name)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith((".jsonl", ".json"))])
@examples(60)
@given(data=st.data())
def test_data_files_with_odd_json(folder, name, data):
    valid, read = READERS[name]
    rows = [valid] if name in ("squad.json", "c3.json") else valid.splitlines()
    place = data.draw(st.integers(0, len(rows) - 1))
    rows[place] = data.draw(damaged_json(json.loads(rows[place])))
    (folder / name).write_bytes(b"\n".join(rows))
    read(folder / name)


def description(task: str) -> Callable[[Path], Description | None]:
    return part(task, "description").Description.read


DESCRIPTIONS = {
    "classification": {"task": "classification", "labels": ["0", "1"], "max_seq_length": 16, "pooling_mode": "linear",
                       "truncation": "head", "is_text_pair": False},
    "entities": {"task": "entities", "ner_head": "linear", "types": ["PER"], "labels": ["O", "B-PER", "I-PER"], "tag": "bio",
                 "crf_constraints": True, "unit": "character", "doc_stride": 4, "max_seq_length": 16},
    "reading": {"task": "reading", "answer_types": "span", "scorer": "squad", "null_score_diff_threshold": 0.5,
                "max_seq_length": 32, "doc_stride": 4, "max_query_length": 8, "max_answer_length": 8, "n_best_size": 5},
    "choice": {"task": "choice", "max_seq_length": 32, "max_qa_length": 8, "truncation": "head"},
}  # fmt: skip
HEADS = {
    "classification": "ForSequenceClassification",
    "entities": "ForTokenClassification",
    "reading": "ForQuestionAnswering",
    "choice": "ForMultipleChoice",
}
INPUTS = {"classification": ("rows.tsv", b"a\nb c\n"), "entities": ("texts.txt", "小明在\n".encode()),
          "reading": ("squad.json", json.dumps(SQUAD).encode()), "choice": ("choices.jsonl", CHOICES)}  # fmt: skip


@pytest.fixture(scope="module", params=DESCRIPTIONS)
def saved(request, tiny_model, tmp_path_factory) -> tuple[Path, str]:
    """A saved directory of each kind, and its task."""
    task = request.param
    directory = tmp_path_factory.mktemp("saved") / task
    labels = len(DESCRIPTIONS[task].get("labels", ())) or 2
    shutil.copytree(tiny_model("bert", HEADS[task], num_labels=labels), directory)
    (directory / "bertorch.json").write_text(json.dumps(DESCRIPTIONS[task]))
    return directory, task


def predicts(directory: Path, name: str, content: bytes, monkeypatch, capsys) -> str:
    """What predict.py says on standard error; it must end with 0, or with 2 and one line."""
    file = directory.parent / name
    file.write_bytes(content)
    code = call("predict.py", as_flags(model_dir=directory, input_file=file, device="cpu", bad_rows="skip"), monkeypatch)
    _, error = capsys.readouterr()
    assert code in (0, 2) and "Traceback" not in error, error
    assert code == 0 or error.strip()
    return error


@examples(5)
@given(data=st.data())
def test_predict_from_damaged_descriptions_and_inputs(saved, data, monkeypatch, capsys):
    directory, task = saved
    description, (name, content) = json.dumps(DESCRIPTIONS[task]).encode(), INPUTS[task]
    if data.draw(st.booleans()):
        description = data.draw(damaged_json(DESCRIPTIONS[task]))
    else:
        content = data.draw(damaged_bytes(content))
    (directory / "bertorch.json").write_bytes(description)
    predicts(directory, name, content, monkeypatch, capsys)


@examples(60)
@given(data=st.data())
def test_damaged_descriptions(saved, data):
    directory, task = saved
    valid = DESCRIPTIONS[task]
    content = data.draw(damaged_json(valid) | damaged_bytes(json.dumps(valid).encode()))
    (directory / "bertorch.json").write_bytes(content)
    outcome(description(task), directory)


def copy_of(directory: Path, folder: Path) -> Path:
    target = folder / directory.name
    if not target.exists():
        shutil.copytree(directory, target)
    return target


@examples(60)
@given(data=st.data())
def test_damaged_config(tiny_model, folder, data):
    directory = copy_of(tiny_model("albert"), folder)
    valid = json.loads((tiny_model("albert") / "config.json").read_text())
    content = data.draw(damaged_json(valid) | damaged_bytes(json.dumps(valid).encode()))
    (directory / "config.json").write_bytes(content)

    def load() -> None:
        if load_config(directory).num_parameters < 10**6:  # a key left out has the value of a model that takes seconds
            load_encoder(directory)

    outcome(load)


@pytest.mark.parametrize("family", ["bert", "roberta"])  # vocab.txt, and tokenizer.json
@examples(25)
@given(data=st.data())
def test_damaged_tokenizers(tiny_model, folder, family, data):
    original = tiny_model(family)
    directory = copy_of(original, folder)
    names = [name for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json") if (original / name).is_file()]
    names.append("special_tokens_map.json")
    name = data.draw(st.sampled_from(names))
    whole = (original / name).read_bytes() if (original / name).is_file() else b'{"unk_token": "[UNK]"}'
    content = data.draw(
        damaged_bytes(whole) if name == "vocab.txt" else damaged_bytes(whole) | damaged_json(json.loads(whole))
    )
    (directory / name).write_bytes(content)

    def tokenize() -> None:
        encoder = TextTokenizer(load_tokenizer(directory), 16)
        load_config(directory).check_vocabulary(encoder.highest_id, directory)
        encoder.encode([("房间很干净 ok",), ("", "b")])

    outcome(tokenize)
    shutil.copy(original / name, directory) if (original / name).is_file() else (directory / name).unlink()


@pytest.fixture(scope="module")
def sentence_directory(tiny_model, tmp_path_factory) -> Path:
    """As sentence-transformers writes one: an encoder, pooling and a dense layer."""
    directory = tmp_path_factory.mktemp("sentences") / "model"
    shutil.copytree(tiny_model("bert"), directory)
    parts = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    modules = [{"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
               for place, (path, kind) in enumerate(parts.items())]  # fmt: skip
    contents = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": {"in_features": 32, "out_features": 4, "bias": True, "activation_function": "torch.nn.Tanh"},
        "3_Normalize/config.json": {"module_input_name": "sentence_embedding"},
    }
    for name, content in contents.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content))
    save_file(
        {"linear.weight": torch.ones(4, 32), "linear.bias": torch.ones(4)}, directory / "2_Dense" / "model.safetensors"
    )
    return directory


@examples(60)
@given(data=st.data())
def test_damaged_sentence_directories(sentence_directory, data):
    found = (str(path.relative_to(sentence_directory)) for path in sentence_directory.rglob("*.json"))
    name = data.draw(st.sampled_from(sorted(name for name in found if "token" not in name and name != "config.json")))
    whole = (sentence_directory / name).read_bytes()
    try:
        (sentence_directory / name).write_bytes(data.draw(damaged_json(json.loads(whole)) | damaged_bytes(whole)))
        outcome(load_sentence_encoder, sentence_directory)
    finally:
        (sentence_directory / name).write_bytes(whole)


def test_the_sentence_directory_is_whole(sentence_directory):
    assert load_sentence_encoder(sentence_directory)[0].output_size == 4


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
@examples(60)
@given(data=st.data())
def test_damaged_weights(folder, name, data):
    directory = folder / name.replace(".", "-")
    directory.mkdir(exist_ok=True)
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.int64)}
    save_file(tensors, directory / "model.safetensors")
    header = json.loads((directory / "model.safetensors").read_bytes()[8:-56])
    if name == "pytorch_model.bin":
        torch.save(tensors, directory / name)
    elif name.endswith(".json"):
        (directory / name).write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model.safetensors"}}))
    whole = (directory / name).read_bytes()
    content = data.draw(damaged_bytes(whole))
    if name == "model.safetensors" and data.draw(st.booleans()):
        written = data.draw(damaged_json(header))
        content = struct.pack("<Q", len(written)) + written + whole[-56:]
    elif name.endswith(".json") and data.draw(st.booleans()):
        content = data.draw(damaged_json(json.loads(whole)))
    (directory / name).write_bytes(content)
    outcome(read_weights, directory / name)


RUN = {
    "bertorch.json": {"task": "classification", "labels": ["0", "1"], "global_step": 20, "versions": {"torch": "2"},
                      "arguments": {"metric": "accuracy", "learning_rate": 1e-3, "train_data_file": ["a"], "epochs": None}},
    "metrics.jsonl": [{"kind": "train", "global_step": 10, "loss": 0.7, "steps_per_second": 9.5, "peak_memory_mb": 3},
                      {"kind": "eval", "global_step": 20, "loss": 0.5, "accuracy": 0.75},
                      {"kind": "test", "global_step": 20, "accuracy": 0.5}],
    "evaluation.json": {"global_step": 20, "classification": {"classes": [], "examples": []},
                        "sentence_vectors": {"groups": ["0"], "edges": [0, 1], "histograms": [[1]], "means": [0.5],
                                       "variance_shares": [0.5, 0.1], "map": [{"points": [[0, 1], [1, 0]], "group": 0}]},
                        "choice": {"sizes": [[2, 1, 2]], "right": [1, 0], "labelled": [1, 1], "chosen": [2, 0], "wrong": 1,
                                   "calibration": [], "expected_calibration_error": 0.1, "examples": []},
                        "reading": {"kinds": [["span", "none", 2]], "threshold": 0.5, "examples": []},
                        "entities": {"types": [], "confused": [], "mistakes": 0, "examples": []}},
    "data_report.json": {"train": {"figures": {"rows": 3, "truncated_share": 0.5}, "counts": {"0": 1, "1": 2}}},
    "training_state/step-00000020/state.json": {"global_step": 20, "finished": False, "arguments": {"metric": "accuracy"}},
}  # fmt: skip


@pytest.mark.parametrize("name", RUN)
@examples(25)
@given(data=st.data())
def test_damaged_runs_are_reported(folder, name, data):
    """What a run left, as scripts/report.py and scripts/compare.py read it: what is damaged is left out."""
    directory = folder / "runs" / name.replace("/", "-")
    for file, content in RUN.items():
        lines = content if file.endswith(".jsonl") else [content]
        if file == name:
            place = data.draw(st.integers(0, len(lines) - 1))
            written = [json.dumps(line).encode() for line in lines]
            written[place] = data.draw(damaged_json(lines[place]) | damaged_bytes(written[place]))
        else:
            written = [json.dumps(line).encode() for line in lines]
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(b"\n".join(written))
    run = read_run(directory)
    run_page(run).encode(errors="replace")
    whole = read_run(directory, "again")
    whole.description = RUN["bertorch.json"]
    comparison_page([run, whole])
    columns, rows = comparison([run, whole])
    for write in FORMATS.values():
        write(columns, rows)
    outcome(sorted_by, columns, rows, "accuracy")


FILES = (
    "config.json", "bertorch.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "spiece.model", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "modules.json",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", FILES)
def test_a_pickle_under_any_name_runs_no_code(tiny_model, tmp_path, name):
    directory, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(tiny_model("bert"), directory)
    if name.startswith(("pytorch_model", "model.safetensors.index")):
        (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(pickle.dumps(Malice(trace)))
    for read in (load_encoder, *map(description, TASKS), load_tokenizer, load_sentence_encoder):
        outcome(read, directory)
    for read in (rows_of, sentences_of, entities_of, questions_of):
        read(directory / name)
    assert not trace.exists()
    pickle.loads((directory / name).read_bytes())
    assert trace.exists()  # the file was armed


MODULE = """import pathlib
from transformers import BertTokenizer
pathlib.Path({trace!r}).mkdir()
class Evil(BertTokenizer): ...
"""


@pytest.mark.parametrize("vocabulary", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("claimed", ["Evil", "BertTokenizer"])
@pytest.mark.parametrize("named", [True, False])  # transformers knows the model_type, and has code of its own for it
def test_python_files_in_a_directory_are_never_run(tiny_model, tmp_path, monkeypatch, vocabulary, claimed, named):
    """Not even where standard input, which holds our texts, happens to begin with the yes that transformers asks for."""
    directory, trace = tmp_path / "model", tmp_path / "trace"
    shutil.copytree(tiny_model("bert" if vocabulary == "vocab.txt" else "roberta"), directory)
    for name in ("evil.py", "configuration_evil.py", "modeling_evil.py", "tokenization_evil.py"):
        (directory / name).write_text(MODULE.format(trace=str(trace)))
    code = {f"Auto{kind}": "evil.Evil" for kind in ("Config", "Model", "ModelForSequenceClassification")}
    config = json.loads((directory / "config.json").read_text())
    config["auto_map"] = {**code, "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    if not named:
        del config["model_type"]
    (directory / "config.json").write_text(json.dumps(config))
    settings = {"tokenizer_class": claimed, "auto_map": {"AutoTokenizer": ["evil.Evil"] * 2}, "trust_remote_code": True}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    asked = []
    monkeypatch.setattr("builtins.input", lambda *_: asked.append("y") or "y")
    outcome(load_config, directory)
    outcome(load_tokenizer, directory)
    outcome(load_encoder, directory)
    assert not trace.exists() and not asked


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenizer_config.json", {"vocab": "{outside}"}),
        ("tokenizer_config.json", {"merges": "{outside}"}),
        ("tokenizer_config.json", {"gguf_file": "../outside.txt"}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.json", "../tokenizer.4.0.json"]}),
        ("special_tokens_map.json", {"vocab_file": "{outside}"}),
        ("special_tokens_map.json", {"tokenizer_file": "{outside}"}),
    ],
    ids=str,
)
def test_tokenizer_settings_that_name_files_elsewhere(tiny_model, tmp_path, name, settings):
    directory, outside = tmp_path / "model", tmp_path / "outside.txt"
    shutil.copytree(tiny_model("bert"), directory)
    shutil.copy(directory / "vocab.txt", outside)
    (directory / name).write_text(json.dumps(settings).replace("{outside}", str(outside)))
    with pytest.raises(UserError, match="names the file") as caught:
        load_tokenizer(directory)
    assert str(directory / name) in str(caught.value) and "\n" not in str(caught.value)


def test_paths_that_saved_tokenizers_often_carry_are_passed_over(tiny_model, tmp_path):
    """Many a published tokenizer_config.json names files of the machine that it was saved on."""
    directory, outside = tmp_path / "model", tmp_path / "outside.txt"
    shutil.copytree(tiny_model("bert"), directory)
    outside.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nelsewhere\n")
    names = ("vocab_file", "tokenizer_file", "special_tokens_map_file", "added_tokens_file")
    (directory / "tokenizer_config.json").write_text(json.dumps(dict.fromkeys(names, str(outside))))
    assert "elsewhere" not in load_tokenizer(directory).get_vocab()
    (directory / "vocab.txt").rename(tmp_path / "vocab.txt")
    (directory / "vocab.txt").symlink_to(tmp_path / "vocab.txt")  # the user's own doing
    assert "房" in load_tokenizer(directory).get_vocab()


@pytest.mark.parametrize(
    "path", ["..", "../other", "1_Pooling/../../other", "/etc", "x" * 300, "a\x00b", "\ud83d"], ids=ascii
)
def test_parts_of_a_sentence_model_lie_in_its_directory(sentence_directory, tmp_path, path):
    directory = tmp_path / "model"
    shutil.copytree(sentence_directory, directory)
    shutil.copytree(sentence_directory / "1_Pooling", tmp_path / "other")
    modules = json.loads((directory / "modules.json").read_text())
    modules[1]["path"] = path
    (directory / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError) as caught:
        load_sentence_encoder(directory)
    assert str(directory / "modules.json") in str(caught.value) and "\n" not in str(caught.value)


def test_a_dense_layer_that_asks_for_too_much(sentence_directory, tmp_path):
    """A file of a few bytes may say that one number stands for a trillion."""
    directory = tmp_path / "model"
    shutil.copytree(sentence_directory, directory)
    (directory / "2_Dense" / "model.safetensors").unlink()
    torch.save({"linear.weight": torch.ones(1, 1).expand(10**12, 32)}, directory / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UserError, match="'linear.weight' would take 128,000 GB of memory, and this machine has") as caught:
        load_sentence_encoder(directory)
    assert "pytorch_model.bin" in str(caught.value)


@pytest.mark.parametrize("odd", [torch.ones(2, 2).to_sparse(), torch.ones(2, 2, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_numbers_of_their_own(tmp_path, odd):
    torch.save({"a": odd}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="'a' is not a dense tensor|cannot be read as plain weights"):
        read_weights(tmp_path)


def test_weights_that_are_no_floating_point(tiny_model, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(tiny_model("bert"), directory)
    tensors = read_weights(directory)
    tensors["embeddings.LayerNorm.weight"] = tensors["embeddings.LayerNorm.weight"].to(torch.complex64)
    (directory / "model.safetensors").unlink()
    torch.save(tensors, directory / "pytorch_model.bin")
    with pytest.raises(UserError, match="LayerNorm.weight has type torch.complex64"):
        load_encoder(directory)


@pytest.mark.parametrize("shape", [[10**12, 10**3], [2**62, 2**62], [-1, 2], [10**12], [0, 2**63], [2, 3, 10**400]], ids=str)
def test_safetensors_that_claim_a_huge_shape(tmp_path, shape):
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 24]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    with pytest.raises(UserError, match="damaged, or not a safetensors file") as caught:
        read_weights(tmp_path)
    assert "\n" not in str(caught.value)


def test_more_labels_than_memory_holds(saved, monkeypatch):
    """The head is as large as the list of labels says, before any weight is read."""
    directory, task = saved
    description = DESCRIPTIONS[task]
    (directory / "bertorch.json").write_text(json.dumps(description))
    assert part(task, "description").Description.read(directory).to_json() == {
        **{"classification": {"target": "label"}}.get(task, {}),
        "truncation": "head",
        **description,
    }
    if "labels" in description:
        monkeypatch.setattr("bertorch.memory.total_memory", lambda: 8 * 32 - 1)
        with pytest.raises(UserError, match=f"a head for {len(description['labels'])} labels would take"):
            part(task, "description").Description.read(directory)


def test_a_vocabulary_beyond_the_embeddings(saved, monkeypatch, capsys):
    directory, task = saved
    (directory / "bertorch.json").write_text(json.dumps(DESCRIPTIONS[task]))
    original = (directory / "vocab.txt").read_text(encoding="utf-8")
    try:
        (directory / "vocab.txt").write_text(original + "ꙮ\n", encoding="utf-8")
        error = predicts(directory, *INPUTS[task], monkeypatch, capsys)
        assert "its tokenizer gives ids up to" in error and "says vocab_size" in error
    finally:
        (directory / "vocab.txt").write_text(original, encoding="utf-8")
