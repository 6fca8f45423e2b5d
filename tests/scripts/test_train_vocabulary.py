"""scripts/train_vocabulary.py: which tokens, in which order; what opens the directory; mistakes in one line."""

import gzip
import itertools
import json
import random
import re
from collections import Counter

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AlbertConfig, AlbertModel, AutoTokenizer, BertTokenizer

from bertorch.data.tokenizing import load_tokenizer
from bertorch.encoder.config import load_config
from tests.scripts.launch import DATA, ROOT, as_flags, call, complaint, run

SCRIPT = "scripts/train_vocabulary.py"
CONFIG = ROOT / "models" / "bertorch-tiny-zh" / "config.json"
CHINESE = re.compile(r"[\u3400-\u9fff]")
SENTENCES = (DATA / "sentences" / "train.txt").read_text(encoding="utf-8").splitlines()


def latin(count, seed=0):
    """So many made-up words, capitals and an accent among them, a few far more often than the others."""
    chance = random.Random(seed)
    syllables = ["ba", "to", "ri", "ne", "sul", "gam", "Ko", "\u00e9l", "qui", "x", "12"]
    known = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(400)]
    return chance.choices(known, weights=[1 / place for place in range(1, 401)], k=count)


def lines_of_text():
    words = iter(latin(3000))
    return ["".join([sentence, " ", " ".join(itertools.islice(words, 6)), "."]) for sentence in SENTENCES[:500]]


def write(path, lines):
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def train(text, output, **flags):
    values = {"train_data_file": text, "output_dir": output, "vocab_size": 1600, "unused": 3, **flags}
    with pytest.MonkeyPatch.context() as patch:
        return call(SCRIPT, as_flags(**values), patch)


def tokens_of(directory):
    content = (directory / "vocab.txt").read_text(encoding="utf-8")
    assert content.endswith("\n") and "\n\n" not in content
    return content[:-1].split("\n")


def made(tmp_path, lines, **flags):
    """The tokens for this text."""
    assert train(write(tmp_path / "text.txt", lines), tmp_path / "out", **flags) == 0
    return tokens_of(tmp_path / "out")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write(tmp_path_factory.mktemp("text") / "text.txt", lines_of_text())


@pytest.fixture(scope="module")
def directory(text, tmp_path_factory):
    output = tmp_path_factory.mktemp("vocabulary") / "encoder"
    assert train(text, output, config_file=CONFIG, character_coverage=1.0) == 0
    return output


def test_special_tokens_stand_first(directory):
    special = ["[PAD]", "[unused1]", "[unused2]", "[unused3]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = tokens_of(directory)
    assert tokens[:8] == special
    assert not any("[" in token and len(token) > 1 for token in tokens[8:])


def test_as_many_tokens_as_are_asked_for_and_each_once(directory):
    """The text has pieces enough to fill the vocabulary."""
    tokens = tokens_of(directory)
    assert len(tokens) == len(set(tokens)) == 1600


def test_chinese_characters_are_words_of_their_own(directory):
    tokens = tokens_of(directory)
    assert all(len(token) == 1 for token in tokens if CHINESE.search(token))
    assert sum(bool(CHINESE.search(token)) for token in tokens) == len(set(CHINESE.findall("".join(SENTENCES[:500]))))
    assert any(len(token) > 4 and not token.startswith(("##", "[")) for token in tokens)
    assert any(len(token) > 4 and token.startswith("##") for token in tokens)


@pytest.mark.parametrize("size", [225, 240, 300, 400])
def test_never_more_tokens_than_are_asked_for(text, tmp_path, capsys, size):
    """Where there is little room beside the characters, forms within words must not overrun it; or that is said."""
    if train(text, tmp_path / "out", vocab_size=size, character_coverage=0.9) == 0:
        assert len(tokens_of(tmp_path / "out")) <= size
    else:
        assert f"--vocab_size {size}" in complaint(capsys.readouterr().err)


def test_a_text_with_few_pieces_makes_a_small_vocabulary(tmp_path):
    """Everything that occurs, and no more: characters, those within words, and what they join to."""
    tokens = made(tmp_path, ["ab天"] * 3, vocab_size=500, unused=0)
    assert tokens[5:7] == ["a", "b"] and set(tokens[5:]) == {"a", "b", "天", "##b", "ab"} and len(tokens) == 10


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99, 1.0])
def test_the_characters_kept_are_as_few_as_cover_the_text(tmp_path, coverage):
    tokens = made(tmp_path, SENTENCES, character_coverage=coverage)
    counts = Counter(character for sentence in SENTENCES for character in sentence)
    kept = [counts[token] for token in tokens if len(token) == 1]
    total = sum(counts.values())
    assert sum(kept) >= coverage * total > sum(kept) - min(kept)
    left_out = [count for character, count in counts.items() if character not in tokens]
    assert max(left_out, default=0) <= min(kept)


def test_rare_characters_become_unknown(tmp_path):
    lines = ["天地玄黄" * 10] * 20 + ["宇"]
    for coverage, known in ((0.99, False), (1.0, True)):
        (tmp_path / str(coverage)).mkdir()
        tokens = made(tmp_path / str(coverage), lines, character_coverage=coverage)
        assert ("宇" in tokens) == known and set("天地玄黄") <= set(tokens)
        tokenizer = BertTokenizer.from_pretrained(tmp_path / str(coverage) / "out")
        assert (tokenizer.tokenize("天宇") == ["天", "[UNK]"]) != known


def test_a_piece_needs_so_many_occurrences(tmp_path):
    tokens = made(tmp_path, ["qwert qwert qwert zxcvb zxcvb"], min_frequency=3, unused=0)
    assert "qwert" in tokens and not any(token.removeprefix("##") in ("zx", "zxcvb", "vb") for token in tokens)


@pytest.mark.parametrize("cased", [False, True])
def test_capitals_and_accents(text, tmp_path, cased):
    assert train(text, tmp_path / "out", cased=cased) == 0
    pieces = "".join(token for token in tokens_of(tmp_path / "out")[8:])
    assert ("K" in pieces, "\u00e9" in pieces) == (cased, cased)
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.tokenize("Ko\u00e9l") == tokenizer.tokenize("koel")) != cased
    assert "[UNK]" not in tokenizer.tokenize("Ko\u00e9l")


def test_transformers_opens_the_directory(directory):
    """Every token has the id of its line, and text comes back as BERT normalises it."""
    tokenizer, ours, tokens = BertTokenizer.from_pretrained(directory), load_tokenizer(directory), tokens_of(directory)
    assert tokenizer.convert_tokens_to_ids(tokens) == list(range(len(tokens))) and len(tokenizer) == len(tokens)
    special = [tokens.index(token) for token in ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")]
    assert sorted(tokenizer.all_special_ids) == sorted(special) and tokenizer.pad_token_id == 0
    for line in lines_of_text()[:50]:
        ids = tokenizer(line)["input_ids"]
        assert ours(line)["input_ids"] == ids and tokenizer.unk_token_id not in ids
        back = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
        assert back == line.lower().replace("\u00e9", "e").replace(" ", "")
    assert tokenizer.decode(tokenizer("baton ri")["input_ids"], skip_special_tokens=True) == "baton ri"


def test_frequent_words_are_one_token(directory):
    tokenizer = BertTokenizer.from_pretrained(directory)
    frequent = [word.lower().replace("\u00e9", "e") for word, _ in Counter(latin(3000)).most_common(10)]
    assert [tokenizer.tokenize(word) for word in frequent] == [[word] for word in frequent]


def test_the_config_gets_the_size_of_the_vocabulary(directory):
    given, found = (json.loads(path.read_text()) for path in (CONFIG, directory / "config.json"))
    del given["architectures"], given["dtype"]  # of the weights that are there
    assert found == {**given, "vocab_size": 1600, "pad_token_id": 0} and given["vocab_size"] != 1600
    assert load_config(directory).vocab_size == 1600
    assert BertTokenizer.from_pretrained(directory).model_max_length == given["max_position_embeddings"]


def test_a_config_with_the_usual_number_of_positions(text, tmp_path):
    """What a config may leave out, it may leave out here."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    assert train(text, tmp_path / "out", config_file=tmp_path / "config.json") == 0
    assert BertTokenizer.from_pretrained(tmp_path / "out").model_max_length == 512


def test_the_same_text_makes_the_same_vocabulary(text, directory, tmp_path, monkeypatch):
    """Also in two files, one of them packed; characters and pieces that are equally frequent have a fixed order."""
    lines = text.read_text(encoding="utf-8").splitlines()
    parts = [write(tmp_path / "one.txt", lines[:200]), write(tmp_path / "two.txt.gz", lines[200:])]
    flags = as_flags(output_dir=tmp_path / "out", vocab_size=1600, unused=3, character_coverage=1)
    assert call(SCRIPT, ["--train_data_file", *map(str, parts), *flags], monkeypatch) == 0
    assert tokens_of(tmp_path / "out") == tokens_of(directory)


def test_of_equally_frequent_characters_the_same_are_kept(tmp_path):
    lines = ["".join(map(chr, range(0x4E00, 0x4E00 + 300)))] * 2 + ["的" * 3000]
    write(tmp_path / "text.txt", lines)
    for name in ("one", "two", "three"):
        assert train(tmp_path / "text.txt", tmp_path / name, character_coverage=0.95) == 0
    assert tokens_of(tmp_path / "one") == tokens_of(tmp_path / "two") == tokens_of(tmp_path / "three")


def broken(content):
    def write_config(directory):
        (directory / "config.json").write_text(content, encoding="utf-8")
        return directory / "config.json"

    return write_config


MISTAKES = {
    "too small": ({"vocab_size": 50}, "--vocab_size 50"),
    "no room beside the unused": ({"unused": 1590}, "--vocab_size 1600"),
    "an empty file": ({"train_data_file": "empty.txt"}, "empty.txt: no text"),
    "blank lines": ({"train_data_file": "blank.txt"}, "blank.txt: no text"),
    "no such file": ({"train_data_file": "nowhere.txt"}, "nowhere.txt: no such file"),
    "no size": ({"vocab_size": 0}, "--vocab_size: must be at least 1"),
    "more than everything": ({"character_coverage": 1.5}, "--character_coverage: must be between 0 and 1"),
    "no such config": ({"config_file": "nowhere.json"}, "nowhere.json: no such file"),
    "a config of another family": ({"config_file": broken('{"model_type": "gpt2"}')}, "gpt2"),
    "a config that is not JSON": ({"config_file": broken("not JSON")}, "config.json: "),
    "a config that is no object": ({"config_file": broken("[1]")}, "config.json: "),
    "an output that is a file": ({"output_dir": "blank.txt"}, "blank.txt"),
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(flags, message, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text("\n  \n\n", encoding="utf-8")
    flags = {name: value(tmp_path) if callable(value) else value for name, value in flags.items()}
    assert train(flags.pop("train_data_file", text), flags.pop("output_dir", tmp_path / "out"), **flags) == 2
    assert message in complaint(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_is_not_replaced(text, directory, capsys):
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert train(text, directory, vocab_size=1700) == 2
    assert "--output_dir" in complaint(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


# --kind sentencepiece

ENGLISH = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()
ALBERT = '{"model_type": "albert", "max_position_embeddings": 64, "hidden_size": 24, "eos_token_id": 7}'


def train_pieces(text, output, **flags):
    return train(text, output, **{"kind": "sentencepiece", "vocab_size": 300, "unused": None, **flags})


def processor_of(directory):
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "spiece.model"))


@pytest.fixture(scope="module")
def english(tmp_path_factory):
    lines = [*ENGLISH, "caf\u00e9 \u00a35", "x" * 5000]
    return write(tmp_path_factory.mktemp("english") / "text.txt", lines)


@pytest.fixture(scope="module")
def pieces(english, tmp_path_factory):
    output = tmp_path_factory.mktemp("sentencepiece") / "encoder"
    (output.parent / "config.json").write_text(ALBERT, encoding="utf-8")
    assert train_pieces(english, output, config_file=output.parent / "config.json") == 0
    return output


def test_pieces_are_made_as_alberts_were(pieces):
    """Of the model's own record: the settings of spm_train in Google's README."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((pieces / "spiece.model").read_bytes())
    spec = proto.trainer_spec
    assert (spec.model_type, spec.vocab_size, spec.shuffle_input_sentence, spec.input_sentence_size) == (1, 300, True, 10**7)
    assert (spec.pad_id, spec.unk_id, spec.bos_id, spec.eos_id) == (0, 1, -1, -1)
    assert spec.character_coverage == pytest.approx(0.99995)
    names = [piece.piece for piece in proto.pieces]
    special, symbols = (
        ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
        ["(", ")", '"', "-", ".", "\u2013", "\u00a3", "\u20ac"],
    )
    assert names[:13] == special + symbols and len(names) == 300
    assert [piece.type for piece in proto.pieces[:13]] == [3, 2, 3, 3, 3] + [4] * 8
    assert not any(character.isupper() or character == "\u00e9" for name in names[5:] for character in name)
    assert any(len(name) > 6 for name in names)


def test_the_directory_of_pieces_fits_an_albert(pieces):
    config, tokenizer = load_config(pieces), load_tokenizer(pieces)
    written = json.loads((pieces / "config.json").read_text())
    assert config.vocab_size == len(tokenizer) == processor_of(pieces).get_piece_size() == 300
    for role, number in {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": 2, "eos": 3}.items():
        assert getattr(tokenizer, f"{role}_token_id") == number
        assert written.get(f"{role}_token_id", number) == number
    assert tokenizer.model_max_length == 64
    text = "The License (the \u00abwork\u00bb). Caf\u00e9"
    wanted = [2, *processor_of(pieces).encode(text.lower().replace("\u00e9", "e")), 3]
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(pieces)(text)["input_ids"] == wanted
    AlbertModel(AlbertConfig.from_pretrained(pieces, num_attention_heads=2, intermediate_size=8, num_hidden_layers=1))


def test_the_same_text_makes_the_same_pieces(english, pieces, tmp_path, monkeypatch):
    """In a process of its own, and from two files."""
    lines = english.read_text(encoding="utf-8").splitlines()
    parts = [write(tmp_path / "one.txt", lines[:100]), write(tmp_path / "two.txt.gz", lines[100:])]
    flags = as_flags(kind="sentencepiece", output_dir=tmp_path / "out", vocab_size=300)
    done = run(SCRIPT, ["--train_data_file", *map(str, parts), *flags])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "spiece.model").read_bytes() == (pieces / "spiece.model").read_bytes()
    assert "1 lines longer than 4192 bytes are left out" in done.stdout


def test_cased_pieces(english, tmp_path):
    assert train_pieces(english, tmp_path / "out", cased=True, character_coverage=1.0) == 0
    found = load_tokenizer(tmp_path / "out").tokenize("Caf\u00e9 License")
    assert "\u00e9" in "".join(found) and "C" in "".join(found)
    assert found == processor_of(tmp_path / "out").encode("Caf\u00e9 License", out_type=str)


def test_a_small_text_makes_few_pieces(tmp_path):
    write(tmp_path / "text.txt", ["a cat sat", "a cat ate"])
    assert train_pieces(tmp_path / "text.txt", tmp_path / "out", vocab_size=None) == 0
    assert 13 < len(load_tokenizer(tmp_path / "out")) < 60


PIECES_MISTAKES = {
    "too small": ({"vocab_size": 20}, "--vocab_size 20"),
    "slots": ({"unused": 3}, "--unused is for WordPiece"),
    "frequency": ({"min_frequency": 3}, "--min_frequency is for WordPiece"),
    "another family": ({"config_file": CONFIG}, "model_type is bert"),
    "an empty file": ({"train_data_file": "empty.txt"}, "empty.txt: no text"),
    "not UTF-8": ({"train_data_file": "bytes.txt"}, "bytes.txt:2: "),
    "a place in use": ({"output_dir": "used"}, "--output_dir used"),
}


@pytest.mark.parametrize(("flags", "message"), PIECES_MISTAKES.values(), ids=PIECES_MISTAKES)
def test_a_mistake_with_pieces_is_one_line(flags, message, english, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bytes.txt").write_bytes(b"a\n\xff\xfe\xff\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "30k-clean.model").touch()
    given = dict(flags)
    assert train_pieces(given.pop("train_data_file", english), given.pop("output_dir", tmp_path / "out"), **given) == 2
    assert message in complaint(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
