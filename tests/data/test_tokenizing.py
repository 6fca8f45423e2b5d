"""Texts to ids as transformers gives them, truncation, tokenizers of unusual directories, and the cache."""

import errno
import gzip
import importlib.util
import io
import json
import os
import pickle
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase

from bertorch.checksums import write_checksums
from bertorch.data import tokenizing
from bertorch.data.rows import read_rows
from bertorch.data.tokenizing import Samples, TextTokenizer, from_cache, load_tokenizer, tokenize, tokenize_cached
from bertorch.errors import UserError
from tests.damage import Malice

CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "ab", ",", *CHARACTERS]


def write_vocabulary(directory: Path, words: list[str] = WORDS) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("wordpiece"))


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> Path:
    """``vocab.json`` and ``merges.txt`` beside a RoBERTa config."""
    directory = tmp_path_factory.mktemp("roberta")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        ["the cat sat on the mat", "a film that is fine, fine, fine", "天地玄黄 宇宙洪荒"] * 3,
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    )
    tokenizer.save_model(str(directory))
    (directory / "config.json").write_text('{"model_type": "roberta"}', encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def byte_level_json(byte_level, tmp_path_factory) -> Path:
    """The same tokenizer as one ``tokenizer.json``."""
    directory = tmp_path_factory.mktemp("roberta-json")
    AutoTokenizer.from_pretrained(byte_level).save_pretrained(directory)
    shutil.copy(byte_level / "config.json", directory)
    for name in ("vocab.json", "merges.txt"):
        (directory / name).unlink(missing_ok=True)
    return directory


@pytest.fixture(scope="module", params=["wordpiece", "byte_level", "byte_level_json"])
def directory(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def reference(directory) -> PreTrainedTokenizerBase:
    """transformers' tokenizer of the same directory, an object of its own."""
    kind = BertTokenizer if (directory / "vocab.txt").is_file() else AutoTokenizer
    return kind.from_pretrained(directory)


def assert_as_transformers(rows: list[tuple[str, ...]], encoder: TextTokenizer, reference: PreTrainedTokenizerBase):
    texts = [list(column) for column in zip(*rows, strict=True)]
    wanted = reference(*texts, truncation="longest_first", max_length=encoder.max_seq_length, return_token_type_ids=True)
    whole = reference(*texts, return_token_type_ids=True)
    for place, (ids, second, uncut_length) in enumerate(encoder.encode(rows)):
        assert ids == wanted["input_ids"][place], (rows[place], encoder.max_seq_length)
        assert [0] * second + [1] * (len(ids) - second) == wanted["token_type_ids"][place]
        assert uncut_length == len(whole["input_ids"][place])


def test_pairs_of_all_small_lengths_are_cut_as_transformers_cuts_them(directory, reference):
    rows = [(" ".join("a" * first), " ".join("b" * second)) for first in range(9) for second in range(9)]
    for max_seq_length in range(6, 22):
        assert_as_transformers(rows, TextTokenizer(load_tokenizer(directory), max_seq_length), reference)


def test_texts_of_random_lengths_are_those_of_transformers(directory, reference):
    draw = random.Random(0)
    pieces = [*CHARACTERS, *"abz", "ab", "the", "fine", " ", "  ", ",", "😀", "\u2028", "\x00", "[SEP]", "<mask>", "É", "\t"]
    texts = ["".join(draw.choices(pieces, k=draw.randint(1, 60))) for _ in range(120)]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    for max_seq_length in (7, 16, 33, 64):
        encoder = TextTokenizer(load_tokenizer(directory), max_seq_length)
        assert_as_transformers([(text,) for text in texts], encoder, reference)
        assert_as_transformers(pairs, encoder, reference)


def test_real_pairs_are_those_of_transformers(shared):
    rows = read_rows(shared / "data/pair/afqmc/dev.txt", is_text_pair=True)[:500]
    reference = BertTokenizer.from_pretrained(shared / "models/zh-bert-4l312")
    for max_seq_length in (15, 22, 64):
        encoder = TextTokenizer(load_tokenizer(shared / "models/zh-bert-4l312"), max_seq_length)
        assert_as_transformers([row.texts for row in rows], encoder, reference)


def test_what_head_tail_and_head_tail_keep(wordpiece):
    ids = [WORDS.index(character) for character in CHARACTERS]  # 16 of them
    cls, sep = WORDS.index("[CLS]"), WORDS.index("[SEP]")
    kept = {"head": ids[:8], "tail": ids[8:], "head_tail": ids[:2] + ids[10:]}
    for truncation, middle in kept.items():
        encoder = TextTokenizer(load_tokenizer(wordpiece), 10, truncation)
        assert encoder.encode([(CHARACTERS,)]) == [([cls, *middle, sep], 10, 18)]
        assert encoder.encode([(CHARACTERS[:8],)]) == [([cls, *ids[:8], sep], 10, 10)]
    # 13 tokens leave room for 10: the second text keeps its 3, the first 7 of its 16.
    kept = {"head": ids[:7], "tail": ids[9:], "head_tail": ids[:1] + ids[10:]}
    for truncation, middle in kept.items():
        encoder = TextTokenizer(load_tokenizer(wordpiece), 13, truncation)
        expected = [cls, *middle, sep, *ids[:3], sep]
        assert encoder.encode([(CHARACTERS, CHARACTERS[:3])]) == [(expected, 9, 22)]
    # 4 + 5: an odd token stays with the longer text.
    encoder = TextTokenizer(load_tokenizer(wordpiece), 12, "tail")
    expected = [cls, *ids[6:10], sep, *ids[11:], sep]
    assert encoder.encode([(CHARACTERS[:10], CHARACTERS)]) == [(expected, 6, 29)]


def test_an_empty_text_is_special_tokens_alone(wordpiece):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 8)
    cls, sep = WORDS.index("[CLS]"), WORDS.index("[SEP]")
    assert encoder.encode([("",), ("", "a"), ("a", "")]) == [
        ([cls, sep], 2, 2), ([cls, sep, 5, sep], 2, 4), ([cls, 5, sep, sep], 3, 4),
    ]  # fmt: skip


def test_a_length_without_room_for_text(wordpiece, byte_level):
    for directory, special in ((wordpiece, 3), (byte_level, 4)):
        tokenizer = load_tokenizer(directory)
        with pytest.raises(UserError, match=f"{special + 1} leaves no room .* at least {special + 2}$"):
            TextTokenizer(tokenizer, special + 1)
        assert len(TextTokenizer(tokenizer, special + 2).encode([("a a a", "b b b")])[0][0]) == special + 2


def test_a_vocabulary_with_line_separators_in_it(tmp_path):
    words = [*WORDS[:11], "\u2028", "##\u2028", "\x85", *CHARACTERS]
    tokenizer = load_tokenizer(write_vocabulary(tmp_path / "model", words))
    ids = TextTokenizer(tokenizer, 32).encode([(CHARACTERS,)])[0][0]
    assert ids[1:-1] == list(range(14, 14 + len(CHARACTERS)))


def test_the_chinese_vocabulary_keeps_the_ids_of_its_lines(shared, tmp_path):
    (tmp_path / "vocab.txt").write_bytes((shared / "data/vocab/google_zh_vocab.txt").read_bytes())
    with open(tmp_path / "vocab.txt", encoding="utf-8", newline="\n") as handle:
        lines = [line.removesuffix("\n") for line in handle]
    assert len(lines) == 21_128
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer.convert_tokens_to_ids(lines)
    differing = [line for place, line in enumerate(lines) if ids[place] != place]
    assert all("\u2028" in line for line in differing)  # no text can hold these: normalising makes spaces of them
    text = "自然语言处理，机器学习。"
    assert TextTokenizer(tokenizer, 32).encode([(text,)])[0][0][1:-1] == [lines.index(character) for character in text]


def test_chinese_albert_has_wordpiece(shared, tmp_path):
    with open(shared / "models/zh-albert-tiny/vocab.txt", encoding="utf-8", newline="\n") as handle:
        words = [line.removesuffix("\n") for line in handle]
    wanted = [words.index(word) for word in ["[CLS]", "天", "気", "a", "##q", "[SEP]"]]
    encoder = TextTokenizer(load_tokenizer(shared / "models/zh-albert-tiny"), 16)
    assert encoder.encode([("天気AQ",)])[0][0] == wanted


def test_mpnet_with_vocab_txt_alone_has_its_own_special_tokens(tmp_path):
    words = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "a", "b", "<mask>"]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}', encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer("a b", "b")["input_ids"] == [0, 5, 6, 2, 2, 6, 2]
    assert TextTokenizer(tokenizer, 16).encode([("a b", "b")])[0][0] == [0, 5, 6, 2, 2, 6, 2]


SIGNS = ["a  b\tc ", "ﬁ Ｆｕｌｌ－width，房间", "\u3000龘 e\u0301", "房间很干净，服务员也好。", "", "\u2028x"]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> tuple[Path, sentencepiece.SentencePieceProcessor]:
    """A directory as Microsoft publishes DeBERTa-v3, and its SentencePiece model: nothing but that gives its tokens."""
    directory, model = tmp_path_factory.mktemp("deberta"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a cat sat on the full width mat, 9 fi e\u0301", "房间很干净，服务员也好。房间好"] * 9),
        model_writer=model, vocab_size=60, pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]",
        eos_piece="[SEP]", unk_piece="[UNK]", minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (directory / "spm.model").write_bytes(model.getvalue())
    (directory / "config.json").write_text('{"model_type": "deberta-v2"}')
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    return directory, sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def test_deberta_has_the_ids_of_sentencepiece(pieces, tmp_path):
    """So they stay in what is saved, for us and for transformers, and where another class is named beside them."""
    directory, processor = pieces
    wanted = [[1, *processor.encode(text), 2] for text in SIGNS]
    assert processor.encode("，") == processor.encode(",") != [3]  # the model normalises
    tokenizer = load_tokenizer(directory)
    assert [tokenizer(text).input_ids for text in SIGNS] == wanted
    mask = processor.get_piece_size()
    assert tokenizer.mask_token_id == mask and tokenizer("a[MASK]").input_ids[-2:] == [mask, 2]
    assert tokenizer("a", "b").token_type_ids[-1] == 1
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(directory / "config.json", tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for change in ({}, {"tokenizer_class": "DebertaV2Tokenizer"}, {"tokenizer_class": None, "mask_token": None}):
        if not change:
            assert [AutoTokenizer.from_pretrained(tmp_path)(text).input_ids for text in SIGNS] == wanted
        given = {key: value for key, value in {**settings, **change}.items() if value is not None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(given))
        again = load_tokenizer(tmp_path)
        assert [again(text).input_ids for text in SIGNS] == wanted and again.mask_token_id == mask


def test_deberta_in_lower_case(pieces, tmp_path):
    directory, processor = pieces
    shutil.copytree(directory, tmp_path / "lower")
    (tmp_path / "lower" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_tokenizer(tmp_path / "lower")("A CAT").input_ids == [1, *processor.encode("a cat"), 2]


@pytest.mark.parametrize("content", [None, b"not a model"], ids=["absent", "damaged"])
def test_deberta_without_a_vocabulary(tmp_path, content):
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    if content is not None:
        (tmp_path / "spm.model").write_bytes(content)
    with pytest.raises(UserError, match="spm.model") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "truncation", "limits", "expected"),
    [
        (("天地玄黄宇宙",), "head", [2], "天地"),
        (("天地玄黄宇宙",), "tail", [2], "宇宙"),
        (("天地玄黄[SEP]宇宙洪荒[SEP]日月盈昃",), "head", [1, 2, 3], "天[SEP]宇宙[SEP]日月盈"),
        (("天地玄黄[SEP]宇宙洪荒", "日月盈昃"), "tail", [1, 2, 3], "黄[SEP]洪荒[SEP]月盈昃"),
        (("天地玄黄", "宇宙洪荒"), "head", [2], "天地[SEP]宇宙洪荒"),
        (("天地", "宇宙洪荒"), "head", [50, 1, 7], "天地[SEP]宇"),
        (("天地玄黄宇宙洪荒", "日月盈昃辰宿列张"), "head", [7, 3], "天地玄黄宇[SEP]日月盈"),
    ],
)  # fmt: skip
def test_limits_of_parts(wordpiece, row, truncation, limits, expected):
    """Each part is cut, then what is left as ever: here to 8 tokens of a pair, and 3 special ones."""
    encoder = TextTokenizer(load_tokenizer(wordpiece), 11, truncation, max_part_lengths=limits)
    [(ids, second, uncut)] = encoder.encode([row])
    tokens = encoder.pretrained.convert_ids_to_tokens(ids)
    assert "".join(tokens) == f"[CLS]{expected}[SEP]"
    whole = sum(len(text.replace("[SEP]", "|")) for text in row)
    assert (second, uncut) == (len(ids) - (len(expected.rpartition("[SEP]")[2]) + 1) * (len(row) - 1), whole + 1 + len(row))
    places, left_out = encoder.places(row)
    special = {0, len(ids) - 1, *([second - 1] if len(row) == 2 else [])}
    assert {place for place, found in enumerate(places) if found is None} == special
    found = [row[place[0]][place[1] : place[2]] if place else token for token, place in zip(tokens, places, strict=True)]
    assert found == tokens
    assert any(left_out)


def with_words(tiny_model, tmp_path: Path, model_type: str = "roformer") -> Path:
    """A RoFormer whose vocabulary has words of several characters."""
    copy = Path(shutil.copytree(tiny_model("roformer"), tmp_path / "model"))
    with (copy / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("酒店\n非常\n服务员\n")
    config = json.loads((copy / "config.json").read_text())
    kind = {"norm_type": "rms_norm", "use_bias": False} if model_type == "roformer_v2" else {}
    (copy / "config.json").write_text(json.dumps({**config, "model_type": model_type, **kind}))
    return copy


@pytest.mark.parametrize("model_type", ["roformer", "roformer_v2"])
def test_words_of_roformer(tiny_model, tmp_path, model_type):
    """jieba cuts; what the vocabulary lacks becomes characters and pieces. Saved, transformers gives the same ids."""
    rjieba = pytest.importorskip("rjieba")
    directory = with_words(tiny_model, tmp_path, model_type)
    words = (directory / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = load_tokenizer(directory)
    encoder = TextTokenizer(tokenizer, 64)
    text, second = "酒店的服务员非常 好，天气好", "这家酒店"
    cut = [word for word in rjieba.cut(text, False) if word.strip()]
    assert {"酒店", "服务员", "非常", "天气"} <= set(cut)
    wanted = [words.index(token) for word in cut for token in ([word] if word in words else word)]
    assert encoder.encode([(text,)])[0][0][1:-1] == wanted
    assert encoder.encode([("Aab 酒店",)])[0][0][1:-1] == [words.index(token) for token in ("a", "##a", "##b", "酒店")]
    places, _ = encoder.places((text, second))
    assert ["".join((text, second)[place[0]][place[1] : place[2]]) for place in places if place] == [
        *(token for word in cut for token in ([word] if word in words else word)), "这", "家", "酒店",
    ]  # fmt: skip
    tokenizer.save_pretrained(directory)
    (directory / "vocab.txt").unlink(missing_ok=True)
    for again in (load_tokenizer(directory), AutoTokenizer.from_pretrained(directory)):
        assert again(text, second).input_ids == tokenizer(text, second).input_ids == encoder.encode([(text, second)])[0][0]


def test_words_of_roformer_change_the_fingerprint(tiny_model, tmp_path):
    pytest.importorskip("rjieba")
    directory = with_words(tiny_model, tmp_path)
    first, same = (TextTokenizer(load_tokenizer(directory), 16).fingerprint for _ in range(2))
    with (directory / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("天气\n")
    assert first == same != TextTokenizer(load_tokenizer(directory), 16).fingerprint


def test_words_of_roformer_need_jieba(tiny_model, tmp_path, monkeypatch):
    directory = with_words(tiny_model, tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="words such as 酒店.*pip install rjieba"):
        load_tokenizer(directory)


@pytest.mark.parametrize("model_type", ["albert", "roberta", "electra", None])
def test_vocab_txt_alone_is_wordpiece_whatever_the_config_says(tmp_path, model_type):
    write_vocabulary(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    wanted = [WORDS.index(word) for word in ["[CLS]", "天", "b", "##a", "[UNK]", "[SEP]"]]
    assert TextTokenizer(load_tokenizer(tmp_path), 16).encode([("天BA q",)])[0][0] == wanted


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"config.json": b'{"model_type": "bert"}'},
        {"vocab.txt": b""},
        {"vocab.txt": b"[PAD]\na\nb\n"},
        {"vocab.txt": "[PAD]\n[UNK]\n天\n".encode("gbk")},
        {"tokenizer.json": b"not json", "config.json": b'{"model_type": "bert"}'},
        {"tokenizer.json": b"{}", "config.json": b'{"model_type": "bert"}'},
        {"merges.txt": b"a b", "config.json": b'{"model_type": "roberta"}'},
        {"vocab.txt": b"[UNK]\na\n", "tokenizer_config.json": b"not json"},
    ],
    ids=lambda files: "+".join(f"{name}:{content[:8]!r}" for name, content in files.items()) or "empty",
)
def test_directories_without_a_usable_vocabulary(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="contains no vocabulary|the tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)


ROWS = [(1, ("天地",), 0), (2, ("玄黄宇宙洪荒日月",), 1), (4, ("a x",), -1)]
ARRAYS = ("input_ids", "offsets", "second", "text_hashes", "row_starts", "labels", "lines", "uncut_lengths")


def assert_same(found: Samples, wanted: Samples):
    for name in ARRAYS:
        left, right = getattr(found, name), getattr(wanted, name)
        assert left.dtype == right.dtype and left.tolist() == right.tolist(), name
    assert found.unknown == wanted.unknown


def test_samples(wordpiece):
    samples = tokenize(ROWS, TextTokenizer(load_tokenizer(wordpiece), 6), unknown_id=WORDS.index("[UNK]"))
    of = WORDS.index
    assert samples.input_ids.tolist() == [
        2, of("天"), of("地"), 3,
        2, of("玄"), of("黄"), of("宇"), of("宙"), 3,
        2, of("a"), 1, 3,
    ]  # fmt: skip
    assert samples.offsets.tolist() == [0, 4, 10, 14]
    assert samples.lengths.tolist() == samples.second.tolist() == [4, 6, 4]
    assert samples.labels.tolist() == [0, 1, -1]
    assert samples.lines.tolist() == [1, 2, 4]
    assert samples.uncut_lengths.tolist() == [4, 10, 4]
    assert (len(samples), samples.unknown) == (3, 1)


def test_a_large_file_is_tokenized_in_pieces(wordpiece, monkeypatch):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    whole = tokenize(ROWS * 3, encoder, 1)
    monkeypatch.setattr(tokenizing, "_CHUNK", 2)
    assert_same(tokenize(iter(ROWS * 3), encoder, 1), whole)


def test_text_hashes_are_equal_for_equal_texts_only(wordpiece):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    texts = [
        ("a", "b"),
        ("b", "a"),
        ("ab", ""),
        ("", "ab"),
        ("a", "b"),
        ("玄黄宇宙洪荒日月", "a"),
        ("玄黄宇宙洪荒日辰", "a"),
    ]
    hashes = tokenize([(line, row, 0) for line, row in enumerate(texts)], encoder).text_hashes
    again = tokenize([(1, texts[5], 1)], TextTokenizer(load_tokenizer(wordpiece), 32)).text_hashes
    assert hashes[0] == hashes[4] and hashes[5] == again[0]
    assert len(set(hashes.tolist())) == len(texts) - 1


def test_the_fingerprint_of_samples_tells_texts_labels_and_order_apart(wordpiece):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    first, second, third = ROWS
    prints = {
        tokenize(rows, encoder).fingerprint
        for rows in (
            [first, second], [second, first], [first, second, third], [first, (2, second[1], 0)], [first, (2, ("天",), 1)],
            [(1, ("天",), 0), (2, ("地",), 0)], [(1, ("天地",), 0), (2, ("",), 0)],
        )
    }  # fmt: skip
    assert len(prints) == 7
    assert tokenize([first, second], encoder).fingerprint == tokenize([(8, *first[1:]), second], encoder).fingerprint


RAGGED = [(3, ("天地", "ab"), 0.5), (4, ("玄黄宇宙洪荒日月",), 2.0), (7, ("ab", "天地", "a x"), float("nan"))]


def test_separate_texts_are_sequences_of_their_own(wordpiece):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    samples = tokenize(RAGGED, encoder, WORDS.index("[UNK]"), separate=True)
    texts = [text for _, row, _ in RAGGED for text in row]
    alone = tokenize([(1, (text,), 0) for text in texts], encoder, WORDS.index("[UNK]"))
    for name in ("input_ids", "offsets", "second", "text_hashes", "uncut_lengths"):
        assert getattr(samples, name).tolist() == getattr(alone, name).tolist(), name
    assert samples.row_starts.tolist() == [0, 2, 3, 6] and samples.row_starts.dtype == np.int64
    assert samples.lines.tolist() == [3, 4, 7]
    assert (len(samples), samples.unknown, samples.copies) == (3, 1, 1)
    assert alone.row_starts.tolist() == list(range(7))
    as_pairs = tokenize([(1, ("天地", "ab"), 0)], encoder)
    assert as_pairs.row_starts.tolist() == [0, 1] and len(as_pairs.offsets) == 2


def test_separate_texts_have_equal_hashes_wherever_they_stand(wordpiece):
    samples = tokenize(RAGGED, TextTokenizer(load_tokenizer(wordpiece), 6), separate=True)
    first, second, third, *last = samples.text_hashes.tolist()
    assert last[:2] == [second, first]
    assert len({first, second, third, last[2]}) == 4


def test_scores_stay_as_they_are_and_whole_numbers_stay_whole(wordpiece):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    scored = tokenize(RAGGED, encoder, separate=True).labels
    assert scored.dtype == np.float64 and scored[:2].tolist() == [0.5, 2.0] and np.isnan(scored[2])
    mixed = tokenize([(1, ("a",), 3), (2, ("b",), 0.1)], encoder, separate=True).labels
    assert mixed.dtype == np.float64 and mixed.tolist() == [3.0, 0.1]
    assert tokenize([(1, ("a",), 3)], encoder, separate=True).labels.dtype == np.int64


def test_rows_of_separate_texts_are_tokenized_in_pieces(wordpiece, monkeypatch):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    rows = [(line, texts, line) for line, texts, _ in RAGGED * 3]
    whole = tokenize(rows, encoder, 1, separate=True)
    monkeypatch.setattr(tokenizing, "_CHUNK", 2)
    assert_same(tokenize(iter(rows), encoder, 1, separate=True), whole)


def test_the_fingerprint_tells_how_texts_are_shared_out_over_rows(wordpiece):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    rows = [("a", "b", "ab"), ("a",)], [("a", "b"), ("ab", "a")], [("a",), ("b", "ab", "a")]
    prints = {tokenize([(1, x, -1), (2, y, -1)], encoder, separate=True).fingerprint for x, y in rows}
    assert len(prints) == 3


def test_separate_texts_have_a_cache_entry_of_their_own(wordpiece, tmp_path):
    path, cache = tmp_path / "data.tsv", tmp_path / "cache"
    path.write_text("天地\tab\t0.5\n", encoding="utf-8")
    encoder, reads = TextTokenizer(load_tokenizer(wordpiece), 6), []
    rows = [(1, ("天地", "ab"), 0.5), (2, ("a", "b"), 2.0)]

    def read():
        reads.append(len(reads))
        return rows

    for _ in range(2):  # made, then found
        for separate in (False, True):
            found = tokenize_cached(path, read, encoder, (), cache, separate)
            assert_same(found, tokenize(rows, encoder, 1, separate))
            assert isinstance(found.row_starts, np.memmap) and isinstance(found.labels, np.memmap)
    assert len(reads) == 2
    assert len(list(cache.iterdir())) == 2


class Source:
    """A data file, and the rows of it, counted."""

    def __init__(self, directory: Path):
        self.path = directory / "data.tsv"
        self.path.write_text("天地\t0\n", encoding="utf-8")
        self.cache = directory / "cache"
        self.reads = 0

    def rows(self):
        self.reads += 1
        yield from ROWS

    def samples(self, encoder: TextTokenizer, read_as: tuple = (), path: Path | None = None) -> Samples:
        return tokenize_cached(path or self.path, self.rows, encoder, read_as, self.cache)

    @property
    def entry(self) -> Path:
        (entry,) = self.cache.iterdir()
        return entry


@pytest.fixture
def source(tmp_path) -> Source:
    return Source(tmp_path)


def test_the_second_call_reads_no_rows_and_maps_the_arrays(source, wordpiece):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    wanted = tokenize(ROWS, encoder, 1)
    for _ in range(2):
        found = source.samples(TextTokenizer(load_tokenizer(wordpiece), 6))
        assert_same(found, wanted)
        assert all(isinstance(getattr(found, name), np.memmap) for name in ARRAYS)
        assert not found.input_ids.flags.writeable
    assert source.reads == 1


def test_an_entry_of_a_version_with_other_columns_is_left_alone(source, wordpiece, messages):
    """It is another entry: nothing is called damaged, and the older version still finds its own."""
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)

    @dataclass(kw_only=True)
    class Older:
        labels: np.ndarray

        def __len__(self) -> int:
            return len(self.labels)

    Older.__name__ = "Samples"
    key, labels = (encoder.fingerprint, (), False), np.arange(3)
    from_cache(source.path, key, lambda: Older(labels=labels), Older, source.cache)
    assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    assert not any("damaged" in message for message in messages)
    assert from_cache(source.path, key, list, Older, source.cache).labels.tolist() == [0, 1, 2]


def test_the_environment_names_the_cache(source, wordpiece, tmp_path, monkeypatch):
    monkeypatch.setenv("BERTORCH_CACHE", str(tmp_path / "elsewhere"))
    tokenize_cached(source.path, source.rows, TextTokenizer(load_tokenizer(wordpiece), 6), ())
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


@pytest.mark.parametrize("change", ["content", "vocabulary", "length", "truncation", "read_as", "version"])
def test_whatever_changes_the_ids_makes_a_new_entry(source, wordpiece, tmp_path, monkeypatch, change):
    source.samples(TextTokenizer(load_tokenizer(wordpiece), 6, "head"), ("labels",))
    if change == "content":
        source.path.write_text("天地\t1\n", encoding="utf-8")
    if change == "vocabulary":
        write_vocabulary(tmp_path / "model", [*WORDS[:-1], "寒"])
    if change == "version":
        monkeypatch.setattr("bertorch.__version__", "0.0.0")
    source.samples(
        TextTokenizer(
            load_tokenizer(tmp_path / "model" if change == "vocabulary" else wordpiece),
            7 if change == "length" else 6,
            "tail" if change == "truncation" else "head",
        ),
        ("other",) if change == "read_as" else ("labels",),
    )
    assert source.reads == 2
    assert len(list(source.cache.iterdir())) == 2


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the numbers of an array; of the closing bracket of the table
    path.write_bytes(content)


DAMAGES = {
    "one bit": _flip,
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"garbage" * 20),
    "zip": lambda path: path.write_bytes(b"PK\x03\x04" + b"garbage" * 20),
    "header": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 60),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*(f"{name}.npy" for name in ARRAYS), "rest.json"])
def test_a_damaged_entry_is_noticed_and_made_anew(source, wordpiece, messages, name, damage):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    source.samples(encoder)
    DAMAGES[damage](source.entry / name)
    assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    assert source.reads == 2
    assert damage == "missing" or any("damaged token cache" in message for message in messages)
    assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    assert source.reads == 2


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_belong_together_are_noticed(source, wordpiece, name):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    whole = source.samples(encoder)
    np.save(source.entry / f"{name}.npy", np.array(getattr(whole, name)[:-1]))
    write_checksums(source.entry)
    assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    assert source.reads == 2


@pytest.mark.parametrize("content", ["[]", "{}", '{"arrays": {}, "others": {}, "warnings": []}', "5"])
def test_a_table_of_another_shape_is_noticed(source, wordpiece, content):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    source.samples(encoder)
    (source.entry / "rest.json").write_text(content, encoding="utf-8")
    write_checksums(source.entry)
    assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    numbers = json.loads((source.entry / "rest.json").read_text(encoding="utf-8"))["others"]
    assert numbers == {"unknown": 1, "copies": 1}


@pytest.mark.parametrize("as_array", [True, False])
def test_a_pickle_in_the_cache_is_not_executed(source, wordpiece, tmp_path, as_array):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    source.samples(encoder)
    trap = Malice(tmp_path / "sprung")
    if as_array:
        np.save(source.entry / "labels.npy", np.array([trap] * 3, dtype=object), allow_pickle=True)
    else:
        (source.entry / "labels.npy").write_bytes(pickle.dumps(trap))
    write_checksums(source.entry)  # whoever places it there can do that too
    assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    assert not (tmp_path / "sprung").exists()
    assert source.reads == 2


def test_a_cache_that_cannot_be_written_only_warns(source, wordpiece, messages):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    source.cache.write_text("a file where the folder should be", encoding="utf-8")
    assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    assert len(messages) == 1 and "the token cache cannot be written" in messages[0]


def test_a_full_disk_only_warns_and_leaves_nothing(source, wordpiece, messages, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    with monkeypatch.context() as patch:
        patch.setattr(tokenizing.json, "dumps", full)  # after the arrays
        assert_same(source.samples(encoder), tokenize(ROWS, encoder, 1))
    assert any("No space left on device" in message for message in messages)
    assert list(source.cache.iterdir()) == []


def test_an_interrupted_write_leaves_no_entry(source, wordpiece, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tokenizing.json, "dumps", interrupted)
        source.samples(encoder)
    assert list(source.cache.iterdir()) == []


def test_files_that_cannot_be_read_are_named_before_any_tokenizing(source, wordpiece, tmp_path):
    encoder = TextTokenizer(load_tokenizer(wordpiece), 6)
    with pytest.raises(UserError, match=r"missing\.tsv: no such file"):
        source.samples(encoder, path=tmp_path / "missing.tsv")
    packed = tmp_path / "data.tsv.gz"
    packed.write_bytes(gzip.compress("天地\t0\n".encode() * 50)[:-9])
    with pytest.raises(UserError, match=r"data\.tsv\.gz: damaged gzip file"):
        tokenize_cached(packed, lambda: ((row.line, row.texts, 0) for row in read_rows(packed)), encoder, (), source.cache)
