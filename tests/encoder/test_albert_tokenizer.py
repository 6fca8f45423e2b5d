"""English ALBERT's tokenizer: ids of Google's, places in the text, what is saved.

The judge is the ``sentencepiece`` library and, beside it, what Google's ``tokenization.py`` does with text and pieces.
"""

import copy
import functools
import gzip
import io
import json
import pickle
import random
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from transformers import AutoTokenizer

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder.albert_tokenizer import AlbertBackend, make_albert_tokenizer, preprocess
from bertorch.errors import UserError

SPECIAL = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
LICENSE = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
ODD = [
    "(jumped) over £5. U.S.", "1,000, 9, and 2,000,000, or 10, of 1,999, in 75,", "9,", "a9,b 9,,9 ,9",
    "Café Ünïcode ÉCOLE naïve", "e\u0301\u0323, \u0301x", "😀 emoji 👩‍👩‍👧, 9, ☃☃ x", "tab\tx\x0by\x1cz\u2028w\u00a0\u3000v",
    "ｆｕｌｌ ｗｉｄｔｈ １，２ ９,", "``quoted'' 'text'", "½ ﬁ ①②, x², ㎏", "[CLS] a [SEP] b [MASK] <unk> <pad>",
    "한국어 日本語 中文，9,天", "a\u200bb \u00adsoft\ufeff", "ΣΑΣ ΟΔΟΣ Σ", "İstanbul ẞ ǅ", "", "   ", "▁a▁ b ▁", "\0 a\x01b",
    "¨x´ y", "1,,2,,", '(((..--–£€""', 'THE LICENSE (THE "WORK")', "٣, १,२, 𝟗, ", "x" * 600, "under the license," * 40,
]  # fmt: skip


def numbers(count=400):
    """Lines with numbers and commas, so that pieces of a digit and a comma are worth their place."""
    chance = random.Random(0)
    amounts = ["9,", "75,", "10,", "1,000", "2,000,000,", "1999,", "3,", "$5,", "a75,", "(10,"]
    words = LICENSE.split()
    return [" ".join(chance.choices(amounts, k=2) + chance.choices(words, k=4)) for _ in range(count)]


def trained(lines, vocab_size, **settings) -> bytes:
    """A model with the settings that Google's README gives for ALBERT's."""
    model = io.BytesIO()
    values = {
        "pad_id": 0, "unk_id": 1, "eos_id": -1, "bos_id": -1, "control_symbols": SPECIAL[2:],
        "user_defined_symbols": ["(", ")", '"', "-", ".", "–", "£", "€"], "shuffle_input_sentence": True,
        "input_sentence_size": 10_000_000, "character_coverage": 0.99995, "model_type": "unigram", **settings,
    }  # fmt: skip
    sentencepiece.set_random_generator_seed(0)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size, minloglevel=2, **values
    )
    return model.getvalue()


def directory_of(path: Path, model: bytes, name="spiece.model", config=None, **settings) -> Path:
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(model)
    (path / "config.json").write_text(json.dumps({"model_type": "albert", **(config or {})}), encoding="utf-8")
    if settings:
        (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model() -> bytes:
    lines = [line.strip() for line in LICENSE.splitlines()] + numbers()
    model = trained([line.lower() for line in lines if line], 900, hard_vocab_limit=False)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(place) for place in range(processor.get_piece_size())]
    assert pieces[:5] == SPECIAL and sum(re.search(r"\d,$", piece) is not None for piece in pieces) >= 2
    return model


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory) -> Path:
    return directory_of(tmp_path_factory.mktemp("albert") / "model", model)


@functools.cache
def processor_of(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def googles(model: bytes, text: str, lower=True) -> list[int]:
    """``preprocess_text``, ``encode_pieces`` and ``PieceToId``.

    The original compares characters with bytes, so that its line for a number within a word never acts.
    """
    processor = processor_of(model)
    text = unicodedata.normalize("NFKD", " ".join(text.strip().split()))
    text = "".join(character for character in text if not unicodedata.combining(character))
    ids = []
    for piece in processor.EncodeAsPieces(text.lower() if lower else text):
        if len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit():
            number = processor.EncodeAsPieces(piece[:-1].replace("▁", ""))
            ids += [processor.PieceToId(part) for part in [*number, ","]]
        else:
            ids.append(processor.PieceToId(piece))
    return ids


def assert_googles(model, directory, texts, **settings):
    """By all ways: ids alone, ids with places, transformers' call."""
    tokenizer = load_tokenizer(directory)
    wanted = [googles(model, text, **settings) for text in texts]
    encoder = TextTokenizer(tokenizer, 10_000)
    found = [ids for ids, _, _ in encoder.encode([(text,) for text in texts])]
    differing = [text for text, ids, own in zip(texts, found, wanted, strict=True) if ids != [2, *own, 3]]
    assert not differing, (len(differing), differing[:3])
    placed = encoder.backend.encode_batch(texts, add_special_tokens=False)
    assert [encoding.ids for encoding in placed] == wanted
    assert tokenizer(texts, add_special_tokens=False)["input_ids"] == wanted


def test_ids_are_googles(model, directory):
    assert_googles(model, directory, [line for line in LICENSE.splitlines()] + numbers() + ODD)


def test_ids_of_real_text_are_googles(shared, tmp_path):
    texts = [
        sentence
        for name in ("train", "test")
        for row in (shared / f"data/pair/mrpc/msr_paraphrase_{name}.txt").read_text(encoding="utf-8-sig").split("\n")[1:]
        for sentence in row.split("\t")[3:5]
    ]
    with gzip.open(shared / "data/classification/sst2/train.tsv.gz", "rt", encoding="utf-8") as handle:
        texts += [row.split("\t")[0] for row in handle.read().split("\n")[1:1001]]
    model = trained([preprocess(text, True, False) for text in texts if text][::2], 4000)
    assert len(texts) > 12_000
    texts += [re.sub(r"[aeou]", lambda match: match.group() + "\u0301", text).upper() for text in texts[::40]]
    assert_googles(model, directory_of(tmp_path / "model", model), texts + ODD)
    # What transformers opens cannot have the rule for commas; nearly all is the same.
    load_tokenizer(tmp_path / "model").save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "model" / "config.json", tmp_path / "saved")
    found = AutoTokenizer.from_pretrained(tmp_path / "saved")(texts, add_special_tokens=False)["input_ids"]
    differing = [text for text, ids in zip(texts, found, strict=True) if ids != googles(model, text)]
    assert len(differing) < 0.005 * len(texts), differing[:3]


def hand_made(pieces: list[tuple[str, float, int]]) -> bytes:
    """A model of these pieces, their scores and types, that changes nothing in a text but blanks."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.trainer_spec.model_type, proto.trainer_spec.unk_id, proto.trainer_spec.pad_id = 1, 1, 0
    proto.trainer_spec.bos_id = proto.trainer_spec.eos_id = -1
    proto.normalizer_spec.name = "identity"
    for piece, score, kind in pieces:
        proto.pieces.add(piece=piece, score=score, type=kind)
    return proto.SerializeToString()


NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
HAND_MADE = [
    ("<pad>", 0, CONTROL), ("<unk>", 0, UNKNOWN), ("[CLS]", 0, CONTROL), ("[SEP]", 0, CONTROL), ("[MASK]", 0, CONTROL),
    ("(", 0, USER_DEFINED), ("£", 0, USER_DEFINED), ("▁", -3, NORMAL), ("▁a", -3, NORMAL), ("a", -4, NORMAL),
    (",", -3, NORMAL), ("9", -5, NORMAL), ("▁9", -5, NORMAL), ("9,", -2, NORMAL), ("▁9,", -2, NORMAL), ("99,", -1, NORMAL),
    ("b,", -2, NORMAL),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "pieces", "places"),
    [
        ("a 9, a", "▁a ▁9 , ▁a", [(0, 1), (2, 3), (3, 4), (5, 6)]),  # not ▁9, as a whole
        ("A9,", "▁a ▁9 ,", [(0, 1), (1, 2), (2, 3)]),  # the blank that Google's code leaves there
        ("a99,a", "▁a ▁9 9 , a", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ("ab,", "▁a b,", [(0, 1), (1, 3)]),  # no digit before it
        ("(a £9", "▁ ( a ▁ £ 9", [(0, 1), (0, 1), (1, 2), (3, 4), (3, 4), (4, 5)]),
        ("  a\u0301\t(e\u0301) a", "▁a ▁ ( <unk> ▁a", [(2, 4), (5, 6), (5, 6), (6, 9), (10, 11)]),
        ("a [MASK] a", "▁a ▁ <unk> a <unk> ▁a", [(0, 1), (2, 3), (2, 4), (4, 5), (5, 8), (9, 10)]),
    ],
)
def test_pieces_and_places_by_hand(tmp_path, text, pieces, places):
    tokenizer = load_tokenizer(directory_of(tmp_path / "model", hand_made(HAND_MADE)))
    encoding = TextTokenizer(tokenizer, 64).backend.encode_batch([text], add_special_tokens=False)[0]
    names = [piece for piece, _, _ in HAND_MADE]
    assert [names[number] for number in encoding.ids] == pieces.split()
    assert encoding.offsets == places


def test_every_token_stands_at_its_place(model, directory):
    """What stands there, read as a word of its own, is the token; and from token to token places never go back."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    backend, checked = load_tokenizer(directory).backend_tokenizer, 0
    for text in [*LICENSE.splitlines(), *numbers(100), *ODD]:
        encoding, before = backend.encode(text, add_special_tokens=False), (0, 0)
        for token, place in zip(encoding.tokens, encoding.offsets, strict=True):
            surface = text[slice(*place)]
            assert before[0] <= place[0] <= place[1] and before[1] <= place[1] <= len(text)
            assert surface == surface.strip()
            before = place
            if text.isascii() and token.strip("▁"):
                assert processor.normalize(surface.lower()) == "▁" + token.strip("▁"), (text, token)
                checked += 1
            elif not token.strip("▁") and text.isascii():
                assert len(surface) == 1
    assert checked > 2_000


def test_a_character_that_becomes_several_tokens_is_the_place_of_each(model, directory):
    backend = load_tokenizer(directory).backend_tokenizer
    encoding = backend.encode("a ½ a", add_special_tokens=False)
    inner = [place for place, token in zip(encoding.offsets, encoding.tokens, strict=True) if token not in ("▁", "▁a")]
    assert inner and set(inner) == {(2, 3)}


def test_places_know_every_character(model):
    """As many as there are characters after preprocessing, for all of Unicode's in words."""
    for lower, accents in ((True, False), (False, True), (True, True)):
        backend = make_albert_tokenizer(model, "model", (), lower, accents).backend_tokenizer
        for low in range(0, 0x30000, 0x40):
            signs = [chr(code) for code in range(low, low + 0x40) if not 0xD800 <= code < 0xE000]
            text = " x".join(signs) + "x"
            assert len(backend._places(text)) == len(preprocess(text, lower, accents)) + 1, hex(low)


def test_case_and_accents_as_the_settings_say(model, tmp_path):
    cased = directory_of(tmp_path / "cased", model, do_lower_case=False, tokenizer_class="AlbertTokenizer")
    texts = ["The License É, [CLS] x", *LICENSE.splitlines()[:40]]
    assert_googles(model, cased, texts, lower=False)
    kept = directory_of(tmp_path / "kept", model, keep_accents=True, tokenizer_class="AlbertTokenizer")
    tokenizer = load_tokenizer(kept)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokenizer("Théa", add_special_tokens=False)["input_ids"] == processor.encode("théa") != googles(model, "Théa")


def test_pairs_and_special_tokens(model, directory):
    tokenizer = load_tokenizer(directory)
    first, second = "The License, 9,", "(a work)"
    encoded = tokenizer(first, second)
    own = [googles(model, text) for text in (first, second)]
    assert encoded["input_ids"] == [2, *own[0], 3, *own[1], 3]
    assert encoded["token_type_ids"] == [0] * (len(own[0]) + 2) + [1] * (len(own[1]) + 1)
    assert [getattr(tokenizer, f"{role}_token_id") for role in ("pad", "unk", "cls", "sep", "mask")] == [0, 1, 2, 3, 4]
    cut = tokenizer(first, second, max_length=7, truncation=True, padding="max_length")["input_ids"]
    assert len(cut) == 7 and cut[0] == 2 and cut[-1] == 3
    assert tokenizer.decode(tokenizer("the (work), 9,")["input_ids"], skip_special_tokens=True) == "the (work), 9,"


def test_a_special_token_in_a_text_is_text_unless_it_is_asked_for(model, directory):
    encoder = TextTokenizer(load_tokenizer(directory), 64)
    row = ("the [MASK] license",)
    assert encoder.encode([row])[0][0] == [2, *googles(model, row[0]), 3] and 4 not in googles(model, row[0])
    encoder.backend.encode_special_tokens = False
    wanted = [2, *googles(model, "the "), 4, *googles(model, " license"), 3]
    assert encoder.encode([row])[0][0] == wanted
    assert [place for place in encoder.places(row)[0] if place][-1] == (0, 11, 18)
    assert (0, 4, 10) in encoder.places(row)[0]


def test_what_is_saved(model, directory, tmp_path):
    """bertorch gives Google's ids again; transformers opens it, with the same ids where no rule for commas acts."""
    saved = tmp_path / "saved"
    load_tokenizer(directory).save_pretrained(saved)
    assert (saved / "spiece.model").read_bytes() == model
    assert_googles(model, saved, [*LICENSE.splitlines()[:50], *ODD])  # no config.json there
    shutil.copy(directory / "config.json", saved)
    assert_googles(model, saved, [*LICENSE.splitlines()[:50], *ODD])
    theirs = AutoTokenizer.from_pretrained(saved)
    lines = [line for line in LICENSE.splitlines() if not re.search(r"\d,", line)]
    found = theirs(lines, add_special_tokens=False)["input_ids"]
    differing = [line for line, ids in zip(lines, found, strict=True) if ids != googles(model, line)]
    assert len(differing) <= 0.02 * len(lines), differing  # sums of scores are equal at times, up to rounding
    pair = theirs("the license", "the work")
    assert pair["token_type_ids"] == load_tokenizer(saved)("the license", "the work")["token_type_ids"]
    assert theirs.mask_token_id in theirs("the [MASK]")["input_ids"]
    assert len(theirs) == len(load_tokenizer(saved))
    again = tmp_path / "again"
    load_tokenizer(saved).save_pretrained(again)
    for path in again.iterdir():
        assert path.read_bytes() == (saved / path.name).read_bytes(), path.name


def test_googles_name_of_the_file(model, tmp_path):
    assert_googles(model, directory_of(tmp_path / "model", model, name="30k-clean.model"), ODD)


def test_the_model_decides_and_not_a_tokenizer_json_beside_it(model, directory, tmp_path):
    """As released on the hub: what transformers' own ALBERT saves has other ids."""
    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "model")
    assert_googles(model, directory_of(tmp_path / "model", model), ODD)


@pytest.mark.parametrize("kind", ["T5Tokenizer", "XLNetTokenizerFast"])
def test_the_model_of_another_tokenizer_is_left_to_transformers(model, tmp_path, kind):
    directory = directory_of(tmp_path / "model", model, config={"model_type": "bert"}, tokenizer_class=kind)
    assert not isinstance(load_tokenizer(directory).backend_tokenizer, AlbertBackend)


def test_tokens_that_a_user_has_added(model, directory, tmp_path):
    """They have ids after the model's; the text around them is read as texts of their own."""
    theirs = AutoTokenizer.from_pretrained(directory)
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    theirs.add_tokens(["<entity>"])
    theirs.save_pretrained(tmp_path / "model")
    tokenizer = load_tokenizer(directory_of(tmp_path / "model", model))
    encoder = TextTokenizer(tokenizer, 64)
    wanted = [2, *googles(model, "the "), size, *googles(model, " license, 9,"), 3]
    assert (
        encoder.encode([("the <entity> license, 9,",)])[0][0] == wanted == tokenizer("the <entity> license, 9,")["input_ids"]
    )
    assert encoder.highest_id == size
    tokenizer.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved")("the <entity> license, 9,")["input_ids"] == wanted


def test_the_fingerprint_tells_tokenizers_apart(model, directory, tmp_path):
    def fingerprint(path):
        return TextTokenizer(load_tokenizer(path), 64).fingerprint

    load_tokenizer(directory).save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "spiece.model").unlink()
    shutil.copy(directory / "config.json", tmp_path / "plain")
    cased = directory_of(tmp_path / "cased", model, do_lower_case=False, tokenizer_class="AlbertTokenizer")
    other = directory_of(tmp_path / "other", hand_made(HAND_MADE))
    assert fingerprint(directory) == fingerprint(directory)
    assert len({fingerprint(path) for path in (directory, tmp_path / "plain", cased, other)}) == 4


def test_copies_give_the_same_ids(model, directory):
    tokenizer = load_tokenizer(directory)
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other("the [MASK] (work) 9,")["input_ids"] == tokenizer("the [MASK] (work) 9,")["input_ids"]


def test_a_model_that_is_not_alberts(model, tmp_path):
    lines = numbers()
    wrong = [
        (model[:-7], "damaged"),
        (b"", "not a SentencePiece model"),
        (trained(lines, 200, model_type="bpe", hard_vocab_limit=False), "unigram"),
        (
            trained(lines, 200, control_symbols=[], hard_vocab_limit=False),
            r"the vocabulary has no \[CLS\], \[SEP\], \[MASK\]",
        ),
    ]
    for place, (content, message) in enumerate(wrong):
        directory = directory_of(tmp_path / str(place), content)
        with pytest.raises(UserError, match=message) as found:
            load_tokenizer(directory)
        assert str(directory / "spiece.model") in str(found.value) and "\n" not in str(found.value)
