"""Files of documents: which sentences and texts they become, which tokens form a word, and the cache."""

import gzip
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.errors import UserError
from bertorch.tasks.pretraining import rows as documents_module
from bertorch.tasks.pretraining.rows import Documents, tokenize_documents

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "##c", *"天地玄黄宇宙洪荒日月", "，"]
ARRAYS = ("input_ids", "continues", "sentence_starts", "text_starts", "text_documents")


def save_vocabulary(directory: Path, tokens: list[str] = TOKENS) -> Path:
    directory.mkdir(exist_ok=True, parents=True)
    (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> TextTokenizer:
    return TextTokenizer(load_tokenizer(save_vocabulary(tmp_path_factory.mktemp("vocabulary"))), 64)


def write(path: Path, content: str) -> Path:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.fixture
def read(encoder, tmp_path):
    """``read(content, ..., room=5, words=False)`` -> Documents of files with these contents."""

    def tokenize(*contents: str, room: int = 5, words: bool = False) -> Documents:
        paths = [write(tmp_path / f"{place}.txt", content) for place, content in enumerate(contents)]
        return tokenize_documents(paths, encoder, room, words, tmp_path / "cache")

    return tokenize


def texts_of(documents: Documents) -> list[list[str]]:
    """The sentences of each text, as tokens with blanks between them."""
    names = [" ".join(TOKENS[token] for token in sentence) for sentence in sentences_of(documents)]
    return [names[start:end] for start, end in pairwise(documents.text_starts)]


def sentences_of(documents: Documents) -> list[list[int]]:
    return [documents.input_ids[start:end].tolist() for start, end in pairwise(documents.sentence_starts)]


def contents_of(documents: Documents) -> dict:
    """Everything, in a form that can be compared."""
    return {
        name: (value.dtype.name, value.tolist()) if isinstance(value, np.ndarray) else value
        for name, value in vars(documents).items()
    }


def test_sentences_texts_and_documents(read):
    """Whole sentences while there is room, never those of two documents; one that is too long is cut and counted."""
    documents = read("a b\nc c\nab\n\nb b b b b a x\nca\nc c\nc\n\n天地\n")
    assert texts_of(documents) == [
        ["a b", "c c"], ["a ##b"],  # five tokens and no more
        ["b b b b b"], ["a [UNK]", "c ##a"], ["c c", "c"],
        ["天 地"],
    ]  # fmt: skip
    assert documents.text_documents.tolist() == [0, 0, 1, 1, 1, 2]
    assert documents.sentence_starts.tolist() == [0, 2, 4, 6, 11, 13, 15, 17, 18, 20]
    assert documents.text_starts.tolist() == [0, 2, 3, 4, 6, 8, 9]
    assert documents.row_lengths.tolist() == [4, 2, 5, 4, 3, 2]
    assert (len(documents), documents.divided, documents.unknown) == (6, 1, 1)
    assert len(documents.continues) == 0
    kinds = {"input_ids": "int32", "sentence_starts": "int64", "text_starts": "int64", "text_documents": "int32"}
    assert {name: getattr(documents, name).dtype.name for name in kinds} == kinds


def test_a_text_may_be_exactly_full(read):
    documents = read("a b\nc c c\na\n")
    assert texts_of(documents) == [["a b", "c c c"], ["a"]] and documents.divided == 0


def test_a_document_ends_with_its_file(read):
    """Also where no blank line and no line end is there."""
    documents = read("a\nb", "c", "a\n\nb\n")
    assert texts_of(documents) == [["a", "b"], ["c"], ["a"], ["b"]]
    assert documents.text_documents.tolist() == [0, 1, 2, 3]


PLAIN = "a b\nc\n\nab c\nb\n"
SAME = {
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "no line end at the end": PLAIN[:-1],
    "spaces around": " a b\t\n\u3000c \n \t\nab c\nb\n",
    "a byte order mark": "\ufeff" + PLAIN,
    "several blank lines": "a b\nc\n\n\n \n\nab c\nb\n",
    "blank lines at the ends": "\n\n" + PLAIN + "\n\n",
    "a document of signs that are no tokens": "a b\nc\n\n\x00\n\nab c\nb\n",
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_ways_to_write_the_same_documents(read, content):
    """The documents are numbered without gaps: their number is reported."""
    expected, found = read(PLAIN), read(content)
    assert texts_of(found) == texts_of(expected) == [["a b", "c"], ["a ##b c", "b"]]
    assert found.text_documents.tolist() == [0, 1]


def test_other_line_separators_are_no_line_ends(read):
    """U+2028, a form feed and the like stand within a sentence."""
    documents = read("a\u2028b\x0bc\x0ca\x85b\n天\u2029地\n", room=9)
    assert len(sentences_of(documents)) == 2
    assert texts_of(documents)[0][-1] == "天 地"


def test_a_packed_file_is_its_content(encoder, tmp_path):
    plain, packed = write(tmp_path / "plain.txt", PLAIN), write(tmp_path / "packed.txt.gz", PLAIN)
    found = [tokenize_documents([path], encoder, 4, False, tmp_path / "cache") for path in (plain, packed)]
    assert contents_of(found[0]) == contents_of(found[1])
    both = tokenize_documents([packed, plain], encoder, 4, False, tmp_path / "cache")
    assert texts_of(both) == texts_of(found[0]) * 2


@pytest.mark.parametrize("contents", [("",), ("\n\n \n",), ("", "\n"), ("\x00\n",)])
def test_no_text_is_one_message(read, contents, tmp_path):
    with pytest.raises(UserError, match="no text") as caught:
        read(*contents)
    assert "\n" not in str(caught.value) and "0.txt" in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_is_not_there(encoder, tmp_path):
    present = write(tmp_path / "present.txt", PLAIN)
    with pytest.raises(UserError, match=r"absent\.txt: no such file"):
        tokenize_documents([present, tmp_path / "absent.txt"], encoder, 4, False, tmp_path / "cache")


def test_a_cache_that_cannot_be_made(encoder, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(UserError, match="--cache_dir"):
        tokenize_documents([write(tmp_path / "0.txt", PLAIN)], encoder, 4, False, tmp_path / "cache")


# Many files


WORDS = st.lists(st.sampled_from(["a", "b", "ab", "cab", "x", "天", "地玄"]), min_size=1, max_size=9).map(" ".join)
FILES = st.lists(st.lists(st.lists(WORDS, min_size=1, max_size=5), min_size=1, max_size=3), min_size=1, max_size=3)


@given(files=FILES, room=st.integers(1, 12), chunk=st.sampled_from([1, 3, 10_000]))
@settings(deadline=None, max_examples=60)
def test_texts_partition_the_sentences_and_are_as_long_as_can_be(encoder, files, room, chunk):
    """However few sentences are read at a time."""
    tokenizer = BertTokenizer(vocab={token: place for place, token in enumerate(TOKENS)})
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "_CHUNK", chunk)
        paths = [
            write(Path(directory, f"{place}.txt"), "\n\n".join("\n".join(sentences) for sentences in file))
            for place, file in enumerate(files)
        ]
        documents = tokenize_documents(paths, encoder, room, False, directory)
        sentences, lengths = sentences_of(documents), documents.row_lengths.tolist()
        starts, owners = documents.text_starts.tolist(), documents.text_documents.tolist()
    expected = []  # (document, ids) of each sentence, the long ones cut
    whole = [
        (number, tokenizer(sentence, add_special_tokens=False)["input_ids"])
        for number, document in enumerate(document for file in files for document in file)
        for sentence in document
    ]
    for number, ids in whole:
        expected += [(number, ids[start : start + room]) for start in range(0, len(ids), room)]
    assert sentences == [ids for _, ids in expected]
    assert documents.divided == sum(len(ids) > room for _, ids in whole)
    assert documents.unknown == sum(ids.count(TOKENS.index("[UNK]")) for _, ids in whole)
    assert starts[0] == 0 and starts[-1] == len(sentences) and all(start < end for start, end in pairwise(starts))
    for text, (start, end) in enumerate(pairwise(starts)):
        assert {number for number, _ in expected[start:end]} == {owners[text]}
        assert lengths[text] == sum(map(len, sentences[start:end])) <= room
        if text + 1 < len(owners) and owners[text + 1] == owners[text]:
            assert lengths[text] + len(sentences[end]) > room


@pytest.mark.parametrize("words", [False, True])
def test_pieces_give_what_the_whole_gives(encoder, tmp_path, monkeypatch, words):
    """Sentences, documents and files that begin and end anywhere in a chunk."""
    contents = ["ab\n\nc cab\nb\nb\n\nb b b b b b b b b b\nabc\n", "a\n", "cabab c c c\n\nb\nca\n"]
    paths = [write(tmp_path / f"{place}.txt", content) for place, content in enumerate(contents)]
    whole = contents_of(tokenize_documents(paths, encoder, 4, words, tmp_path / "whole"))
    monkeypatch.setattr(documents_module, "_CHUNK", 3)
    assert contents_of(tokenize_documents(paths, encoder, 4, words, tmp_path / "pieces")) == whole


# The cache


@pytest.fixture
def opened(monkeypatch):
    """The files that were read line by line, in their order."""
    paths, original = [], documents_module.read_lines
    monkeypatch.setattr(documents_module, "read_lines", lambda path, **told: paths.append(path) or original(path, **told))
    return paths


def test_a_second_reading_comes_from_the_cache(opened, read, tmp_path):
    first = read(PLAIN, "a\n")
    before = contents_of(first)
    assert len(opened) == 2
    second = read(PLAIN, "a\n")
    assert len(opened) == 2 and contents_of(second) == before
    for documents in (first, second):
        assert all(isinstance(getattr(documents, name), np.memmap) for name in ARRAYS)
        assert not documents.input_ids.flags.writeable
    (entry,) = (tmp_path / "cache").iterdir()  # nothing unfinished is left beside it
    assert {path.name for path in entry.iterdir()} == {*(f"{name}.npy" for name in ARRAYS), "rest.json", "checksums.json"}


@pytest.mark.parametrize(
    ("contents", "how"),
    [
        ((PLAIN, "b\n"), {}), (("a\n", PLAIN), {}), ((PLAIN,), {}), ((PLAIN + "a\n",), {}),
        ((PLAIN, "a\n"), {"room": 4}), ((PLAIN, "a\n"), {"words": True}),
    ],
    ids=["content", "order", "a file less", "one file of both", "room", "words"],
)  # fmt: skip
def test_what_makes_another_entry_and_another_training(opened, read, contents, how):
    first = read(PLAIN, "a\n")
    second = read(*contents, **how)
    assert len(opened) == 2 + len(contents)
    assert second.fingerprint != first.fingerprint


def test_another_vocabulary_makes_another_entry(read, tmp_path):
    first = read(PLAIN)
    other = TextTokenizer(load_tokenizer(save_vocabulary(tmp_path / "other", [*TOKENS[:5], *TOKENS[:4:-1]])), 64)
    second = tokenize_documents([tmp_path / "0.txt"], other, 5, False, tmp_path / "cache")
    assert second.input_ids.tolist() != first.input_ids.tolist() and second.fingerprint != first.fingerprint


def test_a_damaged_entry_is_made_anew(read, tmp_path, messages):
    before = contents_of(read(PLAIN))
    (entry,) = (tmp_path / "cache").iterdir()
    (entry / "input_ids.npy").write_bytes(b"garbage" * 20)
    assert contents_of(read(PLAIN)) == before
    assert any("damaged token cache" in message for message in messages)


# Words


CHINESE = ("天地", "玄黄宇")


@pytest.fixture
def fake_jieba(monkeypatch):
    """It knows the words of ``CHINESE``; everything else is a word a character, as blanks are for the real one."""

    def lcut(text: str) -> list[str]:
        words = []
        while text:
            word = next((known for known in CHINESE if text.startswith(known)), text[0])
            words.append(word)
            text = text[len(word) :]
        return words

    monkeypatch.setitem(sys.modules, "jieba", SimpleNamespace(lcut=lcut, setLogLevel=lambda level: None))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("天地玄黄宇宙", [0, 1, 0, 1, 1, 0]),
        ("地天", [0, 0]),
        ("cab天地", [0, 1, 1, 0, 1]),
        ("天地ab，天地", [0, 1, 0, 1, 0, 0, 1]),
        ("a  天 地\t天地", [0, 0, 0, 0, 1]),
        ("a\u0301天地", [0, 0, 1]),  # the accent goes, and places in the text are no longer those of the tokens
        ("Ab天地x玄黄宇", [0, 1, 0, 1, 0, 0, 1, 1]),
        ("\U0001f600天地", [0, 0, 1]),
        ("天地\n天地", [0, 1, 0, 1]),
        ("地\n地", [0, 0]),
    ],
)
def test_tokens_that_go_on_with_a_word(read, fake_jieba, content, expected):
    documents = read(content, words=True, room=20)
    assert documents.continues.dtype == np.bool_
    assert documents.continues.tolist() == [bool(value) for value in expected]


def test_one_sign_a_token_where_texts_are_cut(read, fake_jieba):
    """The flags stay with their tokens in a sentence that is divided."""
    documents = read("天地玄黄宇宙\nab\n", words=True, room=4)
    assert texts_of(documents) == [["天 地 玄 黄"], ["宇 宙", "a ##b"]]
    assert documents.continues.tolist() == [False, True, False, True, True, False, False, True]


def test_chinese_words_need_jieba(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UserError, match="pip install jieba"):
        read("ab\n天地\n", words=True)


def test_other_words_need_no_jieba(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    assert read("cab b ab，c\n", words=True, room=20).continues.tolist() == [bool(x) for x in (0, 1, 1, 0, 0, 1, 0, 0)]


def test_the_words_of_the_real_jieba(tmp_path):
    """Joined at the marks, the characters are the words it finds."""
    jieba = pytest.importorskip("jieba")
    sentence = "他来到了网易杭研大厦，看iPhone和T恤。"
    tokens = [*TOKENS[:5], *dict.fromkeys(sentence.lower()), "##p", "##h", "##o", "##n", "##e"]
    encoder = TextTokenizer(load_tokenizer(save_vocabulary(tmp_path / "model", tokens)), 64)
    path = write(tmp_path / "text.txt", sentence)
    documents = tokenize_documents([path], encoder, 60, True, tmp_path / "cache")
    found = []
    for token, continues in zip(documents.input_ids, documents.continues, strict=True):
        piece = tokens[token].removeprefix("##")
        found = [*found[:-1], found[-1] + piece] if continues else [*found, piece]
    assert found == [word.lower() for word in jieba.lcut(sentence)]
    assert "来到" in found and "大厦" in found
