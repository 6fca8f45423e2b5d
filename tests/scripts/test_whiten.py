"""scripts/whiten.py: what it makes is white, is what the singular value decomposition says, and opens everywhere."""

import gzip
import json
import shutil

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from bertorch.tasks.sentences.directory import load_sentence_encoder
from tests.scripts.launch import DATA, as_flags, call, complaint, journal

TEXTS = (DATA / "sentences" / "train.txt").read_text(encoding="utf-8").splitlines()[:300]
OTHERS = [line.split("\t")[0] for line in (DATA / "graded" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:30]]
COMPONENTS = 12


def their_vectors(model, texts):
    return model.encode(texts, show_progress_bar=False).astype(np.float64)


def opened(directory, parts=None):
    """By sentence_transformers; the first ``parts`` of its modules."""
    model = SentenceTransformer(str(directory), device="cpu")
    return SentenceTransformer(modules=list(model)[:parts], device="cpu")


def texts_file(directory, lines=TEXTS):
    path = directory / "texts.txt"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def whiten(model_dir, text_file, saved_dir, components=COMPONENTS, **flags):
    given = {"model_dir": model_dir, "text_file": text_file, "whiten_components": components, "saved_dir": saved_dir}
    with pytest.MonkeyPatch.context() as patch:
        return call("scripts/whiten.py", as_flags(**given, batch_size=32, device="cpu", **flags), patch)


MODELS = {
    "mean": {},
    "pooler": {"pooling_mode": "linear"},
    "dense and normalize": {"output_emb_size": 24, "normalize": True, "max_seq_length": 9},
    "two layers": {"pooling_mode": "last_two"},
}


@pytest.fixture(scope="module", params=[*MODELS, "theirs"])
def whitened(request, sentence_model, tmp_path_factory):
    """The model before, the model after, and whether it normalises."""
    directory = tmp_path_factory.mktemp("whitened")
    if request.param == "theirs":  # a directory that knows nothing of bertorch
        before = directory / "theirs"
        modules = [Transformer(str(sentence_model()), max_seq_length=11), Pooling(64, "max")]
        SentenceTransformer(modules=modules, device="cpu").save(str(before), create_model_card=False)
    else:
        before = sentence_model(f"to_whiten_{request.param}".replace(" ", "_"), **MODELS[request.param])
    after = directory / "after"
    assert whiten(before, texts_file(directory, ["", *TEXTS[:9], "  ", *TEXTS[9:]]), after) == 0
    return before, after, request.param == "dense and normalize"


def test_mean_0_and_covariance_1(whitened):
    _, after, normalize = whitened
    vectors = their_vectors(opened(after, -1 if normalize else None), TEXTS)
    np.testing.assert_allclose(vectors.mean(axis=0), np.zeros(COMPONENTS), rtol=0, atol=1e-4)
    np.testing.assert_allclose(vectors.T @ vectors / len(TEXTS), np.eye(COMPONENTS), rtol=0, atol=1e-4)


def test_it_is_the_singular_value_decomposition(whitened):
    """The widest directions, in their order, on texts that were not fitted on; a direction has no sign."""
    before, after, normalize = whitened
    last = -1 if normalize else None
    fitted = their_vectors(opened(before, last), TEXTS)
    _, widths, directions = np.linalg.svd(fitted - fitted.mean(axis=0), full_matrices=False)
    expected = their_vectors(opened(before, last), OTHERS) - fitted.mean(axis=0)
    expected = expected @ directions[:COMPONENTS].T / (widths[:COMPONENTS] / np.sqrt(len(TEXTS)))
    found = their_vectors(opened(after, last), OTHERS)
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, rtol=0, atol=2e-3)


def test_all_open_it_with_the_same_vectors(whitened, tmp_path, monkeypatch):
    """predict.py and sentence_transformers; normalising stays the last thing that is done."""
    before, after, normalize = whitened
    theirs = SentenceTransformer(str(after), device="cpu")
    kinds = [type(module).__name__ for module in theirs]
    assert kinds[-2:] == (["Dense", "Normalize"] if normalize else [kinds[-2], "Dense"])
    assert len(kinds) == len(list(SentenceTransformer(str(before), device="cpu"))) + 1
    flags = as_flags(
        model_dir=after, input_file=texts_file(tmp_path, OTHERS), output_file=tmp_path / "out.npy", device="cpu"
    )
    assert call("predict.py", flags, monkeypatch) == 0
    found = np.load(tmp_path / "out.npy")
    assert found.shape == (len(OTHERS), COMPONENTS)
    # Of the order of 1, after a mean was taken off that is some hundred times as long.
    np.testing.assert_allclose(found, their_vectors(theirs, OTHERS), rtol=0, atol=1e-3)
    assert normalize == np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_what_the_directory_says_of_itself(whitened):
    before, after, normalize = whitened
    model, length = load_sentence_encoder(after)
    assert length == load_sentence_encoder(before)[1] and (model.output_size, model.normalize) == (COMPONENTS, normalize)
    description = json.loads((after / "bertorch.json").read_text())
    assert (description["task"], description["whiten_components"]) == ("sentence_vectors", COMPONENTS)
    assert description["max_seq_length"] == length
    if (before / "bertorch.json").is_file():
        old = json.loads((before / "bertorch.json").read_text())
        assert {name: description[name] for name in ("pooling_mode", "truncation")} == {
            name: old[name] for name in ("pooling_mode", "truncation")
        }


def test_a_gzipped_file_and_twice_whitened(whitened, tmp_path):
    """A white space has no direction that is wider than another: whitening it once more turns it at most."""
    _, after, normalize = whitened
    packed = tmp_path / "texts.txt.gz"
    packed.write_bytes(gzip.compress(texts_file(tmp_path).read_bytes()))
    assert whiten(after, packed, tmp_path / "twice") == 0
    last = -1 if normalize else None
    once, twice = (their_vectors(opened(directory, last), OTHERS) for directory in (after, tmp_path / "twice"))
    np.testing.assert_allclose(twice @ twice.T, once @ once.T, rtol=0, atol=2e-3)


def test_a_model_of_classes_becomes_one_of_vectors(small_encoder, tmp_path, monkeypatch, capsys):
    """Its classifier has an input of another width; cosines are what is left."""
    nli, trained = DATA / "nli", tmp_path / "trained"
    flags = {"pretrained_model_name_or_path": small_encoder, "train_data_file": nli / "train.tsv",
             "label_file": nli / "labels.txt", "saved_dir": trained, "pooling_mode": "mean", "max_steps": 1}  # fmt: skip
    assert call("run_sentencebert.py", as_flags(**flags), monkeypatch) == 0
    assert len(journal(trained, "train")) == 1
    assert whiten(trained, texts_file(tmp_path), tmp_path / "after") == 0
    assert not {"objective", "labels", "concat_multiply"} & set(
        json.loads((tmp_path / "after" / "bertorch.json").read_text())
    )
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(f"{OTHERS[0]}\t{OTHERS[1]}\n", encoding="utf-8")
    capsys.readouterr()
    assert call("predict.py", as_flags(model_dir=tmp_path / "after", input_file=pairs, device="cpu"), monkeypatch) == 0
    u, v = their_vectors(opened(tmp_path / "after"), OTHERS[:2])
    assert float(capsys.readouterr().out) == pytest.approx(u @ v / np.linalg.norm(u) / np.linalg.norm(v), abs=1e-4)


MISTAKES = {
    "more than the width": (65, TEXTS, "--whiten_components 65"),
    "more than the texts span": (5, TEXTS[:5], "--whiten_components 5: 5 texts span 4 dimensions"),
    "one text again and again": (1, TEXTS[:1] * 7, "--whiten_components 1: 7 texts span 0 dimensions"),
    "no texts": (1, ["", "  "], "no text to fit on"),
    "no components": (0, TEXTS, "--whiten_components: must be at least 1"),
}


@pytest.mark.parametrize(("components", "texts", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(components, texts, message, sentence_model, tmp_path, capsys):
    model = sentence_model()
    capsys.readouterr()
    assert whiten(model, texts_file(tmp_path, texts), tmp_path / "after", components) == 2
    assert message in complaint(capsys.readouterr().err)
    assert not (tmp_path / "after").exists()


def test_wrong_paths(sentence_model, small_encoder, tmp_path, capsys):
    model, texts = sentence_model(), texts_file(tmp_path)
    capsys.readouterr()
    assert whiten(model, tmp_path / "nowhere.txt", tmp_path / "after") == 2
    assert "nowhere.txt: no such file" in complaint(capsys.readouterr().err)
    assert whiten(tmp_path / "nowhere", texts, tmp_path / "after") == 2
    assert "nowhere: no such directory" in complaint(capsys.readouterr().err)
    assert whiten(small_encoder, texts, tmp_path / "after") == 2
    assert str(small_encoder) in complaint(capsys.readouterr().err)
    assert not (tmp_path / "after").exists()


def test_a_model_is_not_replaced(sentence_model, tmp_path, capsys):
    """Neither another one nor the one that is whitened."""
    directory = shutil.copytree(sentence_model(), tmp_path / "copy")
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    for source in (sentence_model(), directory):
        capsys.readouterr()
        assert whiten(source, texts_file(tmp_path), directory) == 2
        assert "copy already holds a model" in complaint(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
