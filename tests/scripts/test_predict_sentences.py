"""predict.py with sentence models: vectors, cosines, classes, search and figures, each computed here a second time."""

import gzip
import io
import itertools
import json
import re
import shutil
import sys
import tempfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, matthews_corrcoef

from bertorch.tasks.sentences import retrieval as pages
from bertorch.tasks.sentences import search
from bertorch.tasks.sentences.encoder import SentenceEncoder
from tests.closeness import assert_close
from tests.scripts.launch import DATA, as_flags, call, complaint

SENTENCES = (DATA / "sentences" / "train.txt").read_text(encoding="utf-8").splitlines()


def table(path):
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]


def write(path, *lines):
    """A string stands as it is, anything else becomes JSON."""
    lines = (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def their_vectors(directory, texts):
    return SentenceTransformer(str(directory), device="cpu").encode(list(texts), show_progress_bar=False)


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def their_cosines(directory, rows):
    u, v = (unit(their_vectors(directory, column)) for column in list(zip(*rows, strict=True))[:2])
    return (u * v).sum(axis=1)


@pytest.fixture
def model(sentence_model):
    """With a dense layer; longer texts are cut at 16 tokens."""
    return sentence_model("for_prediction", output_emb_size=24)


@pytest.fixture(scope="module")
def classifier(small_encoder, tmp_path_factory):
    """``classifier(train_file, **flags)``: the saved directory of a softmax run."""

    def train(path, **flags):
        saved_dir = tmp_path_factory.mktemp("classifier") / "checkpoint"
        values = {"pretrained_model_name_or_path": small_encoder, "train_data_file": path, "saved_dir": saved_dir,
                  "pooling_mode": "mean", "max_steps": 4, "learning_rate": 3e-3, "max_seq_length": 16, **flags}  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            assert call("run_sentencebert.py", as_flags(**values), patch) == 0
        return saved_dir

    return train


@pytest.fixture(scope="module")
def nli(classifier):
    return classifier(DATA / "nli" / "train.tsv", label_file=DATA / "nli" / "labels.txt", concat_multiply=True)


@pytest.fixture(scope="module")
def binary(classifier, tmp_path_factory):
    """Classes 0 and 1, and the file it was trained on."""
    rows = [f"{a}\t{b}\t{int(int(score) > 2)}" for a, b, score in table(DATA / "graded" / "train.tsv")]
    path = write(tmp_path_factory.mktemp("binary") / "train.tsv", *rows)
    return classifier(path), path


@pytest.fixture
def predict(monkeypatch, capsys):
    """``predict(**flags)`` -> standard output, of a call that went well."""

    def run(stdin=None, **flags):
        capsys.readouterr()
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = call("predict.py", as_flags(device="cpu", **flags), monkeypatch)
        found = capsys.readouterr()
        assert code == 0, found.err
        return found.out

    return run


@pytest.fixture
def refused(monkeypatch, capsys):
    """``refused(**flags)`` -> the one line that a call ends with."""

    def run(stdin=None, **flags):
        capsys.readouterr()
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        assert call("predict.py", as_flags(device="cpu", **flags), monkeypatch) == 2
        found = capsys.readouterr()
        assert found.out == ""
        return complaint(found.err)

    return run


# Vectors


@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_are_those_of_sentence_transformers(model, predict, tmp_path, normalize):
    texts = write(tmp_path / "texts.txt", *SENTENCES[:150])
    out = tmp_path / "vectors.npy"
    predict(model_dir=model, input_file=texts, output_file=out, batch_size=13, normalize=normalize)
    found, expected = np.load(out), their_vectors(model, SENTENCES[:150])
    assert (found.dtype, found.shape) == (np.float32, (150, 24))
    assert_close(found, unit(expected) if normalize else expected)
    assert normalize == np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)

    lines = [json.loads(line) for line in predict(model_dir=model, input_file=texts, normalize=normalize).splitlines()]
    assert [list(line) for line in lines] == [["vector"]] * 150
    assert_close([line["vector"] for line in lines], found)


def test_a_model_of_their_own(small_encoder, sentence_model, predict, tmp_path):
    """Made and saved by sentence_transformers."""
    plain, directory = tmp_path / "plain", tmp_path / "theirs"
    shutil.copytree(small_encoder, plain)
    shutil.copy(sentence_model() / "model.safetensors", plain)
    modules = [Transformer(str(plain), max_seq_length=9), Pooling(64, "max"), Dense(64, 7), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(directory), create_model_card=False)
    predict(model_dir=directory, stdin="\n".join(SENTENCES[:20]), output_file=tmp_path / "out.npy")
    found = np.load(tmp_path / "out.npy")
    assert_close(found, their_vectors(directory, SENTENCES[:20]))
    assert found.shape == (20, 7) and not np.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.parametrize("mode", ["mean", "cls", "last_two"])
def test_a_plain_encoder(mode, small_encoder, sentence_model, predict, tmp_path):
    """Of transformers; so does a configuration with the weights of a run."""
    plain = tmp_path / "plain"
    shutil.copytree(small_encoder, plain)
    weights = shutil.copy(sentence_model() / "model.safetensors", plain)
    model = SentenceTransformer(modules=[Transformer(str(plain)), Pooling(64, "cls" if mode == "cls" else "mean")])
    if mode == "last_two":  # of one layer: the embeddings and that layer
        tokens = [model.tokenizer(text, return_tensors="pt") for text in SENTENCES[:9]]
        states = [model[0].auto_model(**one, output_hidden_states=True).hidden_states for one in tokens]
        expected = [((first + last) / 2).mean(dim=1)[0].detach().numpy() for first, last in states]
    else:
        expected = model.encode(SENTENCES[:9], show_progress_bar=False)
    texts, out = write(tmp_path / "texts.txt", *SENTENCES[:9]), tmp_path / "out.npy"
    predict(model_dir=plain, pooling_mode=mode, input_file=texts, output_file=out)
    assert_close(np.load(out), expected)
    given = {"pretrained_model_name_or_path": small_encoder, "init_from_ckpt": weights}
    predict(**given, pooling_mode=mode, input_file=texts, output_file=out)
    assert_close(np.load(out), expected)


def test_a_plain_encoder_without_a_pooling_mode(small_encoder, refused, sentence_model, tmp_path):
    """It may be a classifier whose labels nobody named; told apart or not, one line says what to add."""
    weights = shutil.copy(sentence_model() / "model.safetensors", tmp_path)
    given = {"init_from_ckpt": weights, "stdin": "房间"}
    for message in (
        refused(model_dir=small_encoder, stdin="房间"),
        refused(pretrained_model_name_or_path=small_encoder, **given),
    ):
        assert "--pooling_mode" in message or "--label_file" in message
    assert "--pooling_mode mean" in refused(pretrained_model_name_or_path=sentence_model(), **given)


def test_texts_are_cut_as_asked(model, predict, tmp_path):
    """The head of 16 tokens as in training, or 6 of them, or the tail."""
    long = [text * 3 for text in SENTENCES[:5]]
    texts, out = write(tmp_path / "texts.txt", *long), tmp_path / "out.npy"
    theirs = SentenceTransformer(str(model), device="cpu")
    for length, flags in ((16, {}), (6, {"max_seq_length": 6})):
        theirs.max_seq_length = length
        predict(model_dir=model, input_file=texts, output_file=out, **flags)
        assert_close(np.load(out), theirs.encode(long, show_progress_bar=False))
    predict(model_dir=model, input_file=texts, output_file=out, max_seq_length=6, truncation="tail")
    tails = [theirs.tokenizer.convert_tokens_to_string(theirs.tokenizer.tokenize(text)[-4:]) for text in long]
    assert_close(np.load(out), theirs.encode(tails, show_progress_bar=False))


def test_no_row_is_lost(model, predict, refused, tmp_path):
    """A blank row, and one that is no JSON or has no text, leaves nan, or null, where it stood."""
    texts, out = write(tmp_path / "texts.txt", "房间", "", "   ", "电影"), tmp_path / "out.npy"
    predict(model_dir=model, input_file=texts, output_file=out)
    assert np.isnan(np.load(out)).all(axis=1).tolist() == [False, True, True, False]
    assert_close(np.load(out)[[0, 3]], their_vectors(model, ["房间", "电影"]))

    rows = write(
        tmp_path / "texts.jsonl", {"text": "房间"}, '{"text": ', {"text": ""}, {"other": "电影"}, "", {"text": "电影"}
    )
    flags = {"model_dir": model, "input_file": rows, "bad_rows": "skip"}
    predict(**flags, output_file=out)
    found = np.load(out)
    assert found.shape == (6, 24)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, True, True, True, False]
    assert_close(found[[0, 5]], their_vectors(model, ["房间", "电影"]))
    lines = [json.loads(line)["vector"] for line in predict(**flags).splitlines()]
    assert [line is None for line in lines] == [False, True, True, True, True, False]
    assert_close([line for line in lines if line is not None], found[[0, 5]])


# Pairs


def test_cosines_of_pairs(model, predict, tmp_path):
    """Where the first row has two texts; those of one text alone are vectors. Scores beside them are passed over."""
    rows = table(DATA / "graded" / "dev.tsv")
    expected = their_cosines(model, rows)
    found = predict(model_dir=model, input_file=DATA / "graded" / "dev.tsv", batch_size=7)
    assert re.fullmatch(r"(-?\d\.\d{6}\n){120}", found)
    assert_close([float(line) for line in found.splitlines()], expected)
    assert predict(model_dir=model, stdin="".join(f"{a}\t{b}\n" for a, b, _ in rows), batch_size=7) == found

    pairs = [{"sentence1": a, "sentence2": b} for a, b, _ in rows]
    out = tmp_path / "out.jsonl"
    predict(model_dir=model, input_file=write(tmp_path / "pairs.jsonl", *pairs), output_file=out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [list(line) for line in lines] == [["similarity"]] * 120
    assert_close([line["similarity"] for line in lines], expected)


def test_no_pair_is_lost(model, predict, tmp_path):
    rows = write(
        tmp_path / "pairs.jsonl",
        {"text_a": "房间", "text_b": "早餐"},
        "[]",
        {"text_a": "电影"},
        {"text_a": "天", "text_b": "地"},
    )
    flags = {"model_dir": model, "input_file": rows, "bad_rows": "skip"}
    found = predict(**flags).split("\n")
    assert (found[1], found[2], found[4:]) == ("", "", [""])
    assert_close([float(found[0]), float(found[3])], their_cosines(model, [("房间", "早餐"), ("天", "地")]))
    lines = [json.loads(line)["similarity"] for line in predict(**flags, output_format="jsonl").splitlines()]
    assert lines == [float(found[0]), None, None, float(found[3])]


def test_pairs_with_a_blank_side_have_no_cosine(model, predict, tmp_path, capsys):
    path = write(tmp_path / "pairs.tsv", "房间\t早餐", "", "房间\t ", "\t房间", "天\t地", "")
    found = predict(model_dir=model, input_file=path)
    assert [bool(line) for line in found.split("\n")] == [True, False, False, False, True, False, False]
    assert_close([float(line) for line in found.split("\n") if line], their_cosines(model, [("房间", "早餐"), ("天", "地")]))
    lines = predict(model_dir=model, input_file=path, output_format="jsonl").splitlines()
    assert [json.loads(line)["similarity"] is None for line in lines] == [False, True, True, True, False, True]


def test_a_blank_query_finds_nothing(model, predict, tmp_path):
    corpus = write(tmp_path / "corpus.txt", "电影", "", "房间")
    queries = write(tmp_path / "queries.txt", "", "房间", " ")
    flags = {"model_dir": model, "input_file": queries, "corpus": corpus, "top_k": 1}
    assert [(line.split("\t")[0], line.split("\t")[3]) for line in predict(**flags).splitlines()] == [("2", "3")]
    lines = [json.loads(line) for line in predict(**flags, output_format="jsonl").splitlines()]
    assert [(line["query"], [hit["line"] for hit in line["hits"]]) for line in lines] == [(1, []), (2, [3]), (3, [])]


def probabilities(directory, rows, concat_multiply):
    u, v = (their_vectors(directory, column) for column in list(zip(*rows, strict=True))[:2])
    weights = load_file(directory / "model.safetensors")
    features = np.concatenate([u, v, abs(u - v)] + [u * v] * concat_multiply, axis=1)
    return softmax(features @ weights["classifier.weight"].numpy().T + weights["classifier.bias"].numpy(), axis=1)


def test_classes_of_pairs(nli, predict, tmp_path):
    rows, labels = table(DATA / "nli" / "test.tsv"), ["entailment", "neutral", "contradiction"]
    expected = probabilities(nli, rows, concat_multiply=True)
    answers = [labels[index] for index in expected.argmax(axis=1)]
    assert len(set(answers)) > 1
    flags = {"model_dir": nli, "input_file": DATA / "nli" / "test.tsv"}
    assert predict(**flags).splitlines() == answers

    found = [line.split("\t") for line in predict(**flags, probabilities=True).splitlines()]
    assert [cells[0] for cells in found] == answers
    assert_close([[float(cell) for cell in cells[1:]] for cells in found], expected)

    out = tmp_path / "out.jsonl"
    predict(**flags, probabilities=True, output_file=out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["label"] for line in lines] == answers
    assert list(lines[0]["probabilities"]) == labels
    assert_close([list(line["probabilities"].values()) for line in lines], expected)


# Figures


def figures(printed):
    """The line ``name: value, name: value``."""
    return {name: float(value) for name, value in (part.split(": ") for part in printed.split(", "))}


def correlations(cosines, scores):
    scores = np.array(scores, dtype=float)
    return {"spearman": spearmanr(cosines, scores).statistic, "pearson": pearsonr(cosines, scores).statistic}


def test_figures_of_scored_pairs(model, predict, tmp_path):
    """From a tsv file, and by the names of columns; with --output_file the cosines too."""
    rows = table(DATA / "graded" / "dev.tsv")
    cosines = their_cosines(model, rows)
    out = tmp_path / "out.tsv"
    found = predict(model_dir=model, input_file=DATA / "graded" / "dev.tsv", evaluate=True, output_file=out)
    assert figures(found) == pytest.approx(correlations(cosines, [row[2] for row in rows]), abs=1e-4)
    assert_close([float(line) for line in out.read_text().splitlines()], cosines)

    table_with_names = write(tmp_path / "named.tsv", "score\ta\tid\tb", *(f"{s}\t{a}\t7\t{b}" for a, b, s in rows))
    flags = {"input_file": table_with_names, "is_text_pair": True, "columns": "a,b,score"}
    assert predict(model_dir=model, evaluate=True, **flags) == found


def test_figures_of_classes(nli, binary, predict):
    rows, labels = table(DATA / "nli" / "dev.tsv"), ["entailment", "neutral", "contradiction"]
    scores = probabilities(nli, rows, concat_multiply=True)
    truth = np.array([labels.index(row[2]) for row in rows])
    first, *report = predict(model_dir=nli, input_file=DATA / "nli" / "dev.tsv", evaluate=True).splitlines()
    assert figures(first) == pytest.approx(
        {
            "loss": -np.log(scores[np.arange(len(truth)), truth]).mean(),
            "accuracy": accuracy_score(truth, scores.argmax(axis=1)),
            "macro_f1": f1_score(truth, scores.argmax(axis=1), average="macro"),
            "weighted_f1": f1_score(truth, scores.argmax(axis=1), average="weighted"),
            "balanced_accuracy": balanced_accuracy_score(truth, scores.argmax(axis=1)),
            "matthews": matthews_corrcoef(truth, scores.argmax(axis=1)),
        },
        abs=1e-4,
    )
    (counts,) = (line.split() for line in report if line.split()[:1] == ["neutral"] and len(line.split()) == 4)
    assert [int(count) for count in counts[1:]] == [
        sum((truth == 1) & (scores.argmax(axis=1) == predicted)) for predicted in range(3)
    ]

    directory, path = binary
    rows = table(path)
    found = figures(predict(model_dir=directory, input_file=path, evaluate=True).splitlines()[0])
    cosines, truth = their_cosines(directory, rows), np.array([int(row[2]) for row in rows])
    expected = probabilities(directory, rows, concat_multiply=False).argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, expected), abs=1e-5)
    assert found["f1"] == pytest.approx(f1_score(truth, expected), abs=1e-5)
    for name, value in correlations(cosines, truth).items():
        assert found[name] == pytest.approx(value, abs=1e-4)
    claims = [cosines >= bound for bound in cosines]
    assert found["best_f1"] == pytest.approx(max(f1_score(truth, claim) for claim in claims), abs=1e-4)
    assert found["best_accuracy"] == pytest.approx(
        max(accuracy_score(truth, claim) for claim in [*claims, cosines > 1]), abs=1e-4
    )


def test_scores_for_a_model_of_classes(nli, predict):
    """Labels that are not its classes are scores for its vectors."""
    rows = table(DATA / "graded" / "dev.tsv")
    found = predict(model_dir=nli, input_file=DATA / "graded" / "dev.tsv", evaluate=True)
    expected = correlations(their_cosines(nli, rows), [row[2] for row in rows])
    assert figures(found) == pytest.approx(expected, abs=1e-4)


def retrieval(directory, positives, others=()):
    """Recall and reciprocal rank by looking at every query and every candidate."""
    candidates = list(dict.fromkeys(text for texts in positives.values() for text in texts))
    candidates += [text for text in others if text not in candidates]
    similarity = unit(their_vectors(directory, positives)) @ unit(their_vectors(directory, candidates)).T
    ranks = []
    for row, own in zip(similarity, positives.values(), strict=True):
        best = max(score for score, text in zip(row, candidates, strict=True) if text in own)
        ranks.append(1 + sum(score >= best for score, text in zip(row, candidates, strict=True) if text not in own))
    recalls = {f"recall@{k}": np.mean([rank <= k for rank in ranks]) for k in (1, 5, 10, 50)}
    return len(candidates), {**recalls, "mrr": np.mean([1 / rank for rank in ranks])}


def assert_retrieval(printed, positives, expected):
    count, metrics = expected
    first, second = printed.splitlines()
    assert first == f"{len(positives)} queries, {count} candidates"
    assert figures(second) == pytest.approx(metrics, abs=1e-5)
    assert 0 < metrics["recall@1"] < metrics["recall@10"] < 1  # there is something to find, and to miss


@pytest.mark.parametrize("with_corpus", [False, True])
def test_recall_of_pairs(model, predict, tmp_path, monkeypatch, with_corpus):
    """Candidates are the positives of all, and the lines of a corpus that are none; a query may come twice."""
    rows = table(DATA / "paraphrases" / "dev.tsv")
    rows += [(rows[0][0], rows[1][1]), (rows[2][0], rows[2][1]), (rows[3][0], rows[4][1])]
    positives = {}
    for query, positive in rows:
        positives.setdefault(query, []).append(positive)
    corpus = [SENTENCES[0], "", rows[5][1], *SENTENCES[1:300]]
    flags = {"corpus": write(tmp_path / "corpus.txt", *corpus)} if with_corpus else {}
    monkeypatch.setattr(search, "_BLOCK", 32)
    monkeypatch.setattr(pages, "_CORPUS_BLOCK", 50)
    found = predict(model_dir=model, input_file=write(tmp_path / "pairs.tsv", *map("\t".join, rows)), evaluate=True, **flags)
    assert_retrieval(found, positives, retrieval(model, positives, filter(None, corpus) if with_corpus else ()))


def test_recall_of_queries(model, predict):
    """Json lines with lists of positives; their hard negatives are no candidates."""
    lines = (DATA / "paraphrases" / "triples.jsonl").read_text(encoding="utf-8").splitlines()
    positives = {row["query"]: row["pos"] for row in map(json.loads, lines)}
    assert any(len(texts) > 1 for texts in positives.values())
    found = predict(model_dir=model, input_file=DATA / "paraphrases" / "triples.jsonl", evaluate=True)
    assert_retrieval(found, positives, retrieval(model, positives))


def test_queries_of_another_ending(model, predict, tmp_path):
    path = tmp_path / "queries.data"
    path.write_bytes((DATA / "paraphrases" / "triples.jsonl").read_bytes())
    expected = predict(model_dir=model, input_file=DATA / "paraphrases" / "triples.jsonl", evaluate=True)
    assert predict(model_dir=model, input_file=path, input_format="jsonl", evaluate=True) == expected


@pytest.mark.parametrize("kind", ["scores", "classes"])
def test_figures_leave_out_bad_rows_and_blank_lines(kind, model, nli, predict, tmp_path):
    """Figures without answers skip blank lines as training does."""
    directory, name = (model, "graded") if kind == "scores" else (nli, "nli")
    rows = ["\t".join(row) for row in table(DATA / name / "dev.tsv")]
    whole = write(tmp_path / "whole.tsv", *rows)
    broken = write(tmp_path / "broken.tsv", *rows[:3], "电影\t早餐\tsomething", "", *rows[3:], "")
    expected = predict(model_dir=directory, input_file=whole, evaluate=True)
    assert predict(model_dir=directory, input_file=broken, evaluate=True, bad_rows="skip") == expected


def test_an_unknown_class_is_named(nli, tmp_path, monkeypatch, capsys):
    rows = ["\t".join(row) for row in table(DATA / "nli" / "dev.tsv")]
    path = write(tmp_path / "rows.tsv", *rows[:4], "电影\t早餐\tunrelated")
    assert call("predict.py", as_flags(model_dir=nli, input_file=path, evaluate=True, device="cpu"), monkeypatch) == 2
    message = capsys.readouterr().err
    assert f"{path}:5: label 'unrelated' is not one of the model's; known are entailment, neutral, contradiction" in message


def test_a_plain_encoder_needs_all_its_weights(small_encoder, model, refused):
    """Vectors from random numbers would be answers to nothing."""
    assert "contains no weights" in refused(model_dir=small_encoder, pooling_mode="mean", stdin="电影")
    assert "pooler.dense.weight" in refused(model_dir=model, pooling_mode="linear", stdin="电影")


# Search


def hits(printed):
    """``{query line: [(rank, cosine, corpus line, text)]}``."""
    found = {}
    for line in printed.splitlines():
        query, rank, score, number, text = line.split("\t")
        found.setdefault(int(query), []).append((int(rank), float(score), int(number), text))
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_search(model, predict, tmp_path, monkeypatch, packed):
    """Every query's ten nearest lines, over many blocks of queries, of texts and of vectors; blank lines are counted."""
    corpus, queries = (
        ["", *SENTENCES[:200], "  ", *SENTENCES[200:300]],
        [row[0] for row in table(DATA / "graded" / "dev.tsv")],
    )
    path = write(tmp_path / "corpus.txt", *corpus)
    if packed:
        path = tmp_path / "corpus.txt.gz"
        path.write_bytes(gzip.compress((tmp_path / "corpus.txt").read_bytes()))
    for module, name, size in (
        (search, "_BLOCK", 32),
        (pages, "_CORPUS_BLOCK", 50),
        (pages, "_QUERY_BLOCK", 25),
    ):
        monkeypatch.setattr(module, name, size)
    found = hits(predict(model_dir=model, input_file=write(tmp_path / "queries.txt", *queries), corpus=path))
    numbers = [number for number, text in enumerate(corpus, 1) if text.strip()]
    similarity = unit(their_vectors(model, queries)) @ unit(their_vectors(model, SENTENCES[:300])).T
    assert list(found) == list(range(1, len(queries) + 1))
    for row, answers in zip(similarity, found.values(), strict=True):
        places = np.argsort(-row)[:10]
        assert [rank for rank, *_ in answers] == list(range(1, 11))
        assert_close([score for _, score, *_ in answers], row[places])
        given = [numbers.index(number) for _, _, number, _ in answers]
        assert len(set(given)) == 10
        assert_close(row[given], row[places])  # of two that are equal but for rounding, either may come first
        assert [text for *_, text in answers] == [SENTENCES[place] for place in given]


def test_equal_lines_and_a_small_corpus(model, predict, tmp_path):
    """Of lines with the same text the earlier is the better; there are no more answers than lines."""
    corpus = write(tmp_path / "corpus.txt", "电影", "房间", "", "电影", "早餐", "电影")
    found = hits(predict(model_dir=model, stdin="电影\n\n早餐\n", corpus=corpus, top_k=9))
    assert [number for _, _, number, _ in found[1][:3]] == [1, 4, 6]
    assert [score for _, score, _, _ in found[1][:3]] == [1, 1, 1]
    assert {query: len(answers) for query, answers in found.items()} == {1: 5, 3: 5}  # a blank one has none
    assert found[3][0][2:] == (5, "早餐")
    assert list(hits(predict(model_dir=model, stdin="电影\n", corpus=corpus, top_k=2)).values())[0] == found[1][:2]


@pytest.fixture
def rounding(monkeypatch):
    """Vectors differ in their last bits from batch to batch, as on many processors; counts the texts that are encoded."""
    forward, encoded = SentenceEncoder.forward, []

    def differently(self, tokens):
        vectors = forward(self, tokens)
        encoded.append(tokens.batch_size)
        noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(len(encoded)))
        return vectors * (1 + 1e-6 * noise)

    monkeypatch.setattr(SentenceEncoder, "forward", differently)
    return encoded


@pytest.mark.parametrize("batch_size", [3, 64])
@pytest.mark.parametrize("block", [4, 50, 1000])
def test_lines_that_are_read_alike_stand_in_their_order(model, predict, tmp_path, monkeypatch, rounding, block, batch_size):
    """In whatever block and batch they are; each is encoded once."""
    distinct = [*SENTENCES[:20], "Tv 电影"]
    lines = [line for start in range(6) for line in (*distinct[start:], "tv  电影", *distinct[:start])]
    monkeypatch.setattr(pages, "_CORPUS_BLOCK", block)
    monkeypatch.setattr(search, "_BLOCK", 32)
    corpus = write(tmp_path / "corpus.txt", *lines)
    queries = [*distinct[:5], "TV 电影"]
    found = hits(predict(model_dir=model, stdin="\n".join(queries), corpus=corpus, top_k=30, batch_size=batch_size))
    for query, answers in zip(queries, found.values(), strict=True):
        own = [number for number, line in enumerate(lines, 1) if line.lower().split() == query.lower().split()]
        assert [number for _, _, number, _ in answers[: len(own)]] == own
        assert all(text == lines[number - 1] for _, _, number, text in answers)
        for _, group in itertools.groupby(answers, key=lambda answer: answer[3].lower().split()):
            numbers = [number for _, _, number, _ in group]
            assert numbers == sorted(numbers)
    assert sum(rounding) == len(distinct) + len(queries)


def test_search_as_json_lines(model, predict, tmp_path):
    """A query that cannot be read has no hits, and keeps its place."""
    corpus, out = write(tmp_path / "corpus.txt", "房间", "", "电影\u2028院", "早餐"), tmp_path / "out.jsonl"
    queries = write(tmp_path / "queries.jsonl", {"text": "电影"}, {"txt": "早餐"}, {"text": "早餐"})
    flags = {"model_dir": model, "input_file": queries, "corpus": corpus, "top_k": 2, "bad_rows": "skip"}
    predict(**flags, output_file=out)
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [(line["query"], len(line["hits"])) for line in lines] == [(1, 2), (2, 0), (3, 2)]
    assert lines[2]["hits"][0] == {"score": 1.0, "line": 4, "text": "早餐"}
    texts = ["房间", "电影\u2028院", "早餐"]
    similarity = unit(their_vectors(model, ["电影"])) @ unit(their_vectors(model, texts)).T
    best = np.argsort(-similarity[0])[:2]
    assert [hit["text"] for hit in lines[0]["hits"]] == [texts[place] for place in best]
    assert_close([hit["score"] for hit in lines[0]["hits"]], similarity[0][best])


@pytest.mark.parametrize("corpus", ["房间\n电影\n", "", None])
def test_search_leaves_no_files_behind(model, monkeypatch, tmp_path, corpus):
    """Neither after an answer nor after a mistake."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    made, make = [], tempfile.TemporaryDirectory
    monkeypatch.setattr(tempfile, "TemporaryDirectory", lambda **how: made.append(make(**how)) or made[-1])
    if corpus is not None:
        (tmp_path / "corpus.txt").write_text(corpus, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("电影\n".encode())))
    flags = as_flags(model_dir=model, corpus=tmp_path / "corpus.txt", device="cpu")
    assert call("predict.py", flags, monkeypatch) == (0 if corpus else 2)
    assert len(made) == 1 and made[0].name.startswith(str(scratch))
    assert list(scratch.iterdir()) == []


# Mistakes

MISTAKES = {
    "no file": ({"input_file": "nowhere.tsv"}, "nowhere.tsv: no such file"),
    "no rows": ({"stdin": ""}, "no rows in it"),
    "no corpus": ({"stdin": "电影", "corpus": "nowhere.txt"}, "nowhere.txt: no such file"),
    "an empty corpus": ({"stdin": "电影", "corpus": "empty.txt"}, "empty.txt: no text in it"),
    "no hits wanted": ({"stdin": "电影", "corpus": "empty.txt", "top_k": 0}, "--top_k: must be at least 1"),
    "figures of texts": ({"stdin": "电影", "evaluate": True}, "--evaluate needs scored pairs"),
    "equal scores": (
        {"stdin": "电影\t早餐\t2\n房间\t电影\t2\n", "evaluate": True},
        "all scores are 2; nothing to correlate",
    ),
    "recall from a pipe": ({"stdin": "电影\t早餐\n", "evaluate": True}, "needs --input_file"),
    "vectors of pairs": ({"stdin": "电影\t早餐\n", "output_file": "out.npy"}, "out.npy: .npy is for the vectors of texts"),
    "answers of a recall": (
        {"input_file": DATA / "paraphrases" / "dev.tsv", "evaluate": True, "output_file": "out.tsv"},
        "has no answers to write",
    ),
    "columns of pairs": (
        {"input_file": DATA / "graded" / "dev.tsv", "evaluate": True, "columns": "text_a,text_b,label"},
        "say --is_text_pair too",
    ),
    "weights of their own": (
        {"stdin": "电影", "init_from_ckpt": "other.bin"},
        "--init_from_ckpt gives an encoder; choose how to make its vectors",
    ),
    "too long": ({"stdin": "电影", "max_seq_length": 513}, "has positions for 512 tokens"),
    "a pooling that is not known": ({"stdin": "电影", "pooling_mode": "sum"}, "--pooling_mode: invalid choice"),
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(flags, message, model, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "empty.txt", "", " ")
    assert message in refused(model_dir=model, **flags)


def test_bad_rows_are_named_with_their_lines(model, tmp_path, monkeypatch, capsys):
    """And no half of an answer is written."""
    rows, out = write(tmp_path / "pairs.tsv", "电影\t早餐\t2", "房间\t电影", "房间\t电影\tx"), tmp_path / "out.tsv"
    flags = as_flags(model_dir=model, input_file=rows, output_file=out, evaluate=True, device="cpu")
    assert call("predict.py", flags, monkeypatch) == 2
    error = capsys.readouterr().err
    assert "pairs.tsv:2: 2 columns where 3 are expected" in error and "Traceback" not in error
    write(rows, "电影\t早餐\t2", "房间\t电影\t1", "房间\t电影\tx")
    assert call("predict.py", flags, monkeypatch) == 2
    assert "pairs.tsv:3: score 'x' is not a number" in capsys.readouterr().err
    assert not out.exists()


def test_a_classifier_that_has_lost_its_weights(nli, refused, tmp_path):
    """One line names what is missing."""
    directory = shutil.copytree(nli, tmp_path / "copy")
    description = json.loads((directory / "bertorch.json").read_text())
    (directory / "bertorch.json").write_text(json.dumps({**description, "labels": ["a", "b"]}))
    message = refused(model_dir=directory, stdin="电影\t早餐\n")
    assert "classifier.weight is [3, 256], expected [2, 256]" in message


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_long_texts_are_cut_alike(truncation, small_encoder, predict, tmp_path, monkeypatch):
    """What stays of a text is written down where sentence_transformers looks for it."""
    flags = {
        "pretrained_model_name_or_path": small_encoder, "saved_dir": tmp_path / "saved", "pooling_mode": "mean",
        "train_data_file": DATA / "paraphrases" / "train.tsv", "max_steps": 1, "max_seq_length": 8,
        "truncation": truncation, "device": "cpu",
    }  # fmt: skip
    assert call("run_batchneg.py", as_flags(**flags), monkeypatch) == 0
    texts = write(tmp_path / "texts.txt", *SENTENCES[:30])
    predict(model_dir=tmp_path / "saved", input_file=texts, output_file=tmp_path / "vectors.npy")
    assert_close(np.load(tmp_path / "vectors.npy"), their_vectors(tmp_path / "saved", SENTENCES[:30]))
