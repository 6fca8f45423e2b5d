"""Units to token ids, windows of long texts, tagged samples and their batches, against slow definitions of each."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from bertorch.data.tokenizing import TextTokenizer, from_cache, load_tokenizer
from bertorch.errors import UserError
from bertorch.tasks.entities import windows as tagging
from bertorch.tasks.entities.batching import collate_spans, collate_tags
from bertorch.tasks.entities.rows import Document, read_documents
from bertorch.tasks.entities.tags import TagSet
from bertorch.tasks.entities.windows import TaggedSamples, UnitTokenizer, tag_documents

HAN = "".join(chr(code) for code in range(0x4E00, 0x4E00 + 300))  # no two alike, so that a token id tells its unit
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [f"##{sign}" for sign in "abstmix2"]
WORDS = [*SPECIAL, *"abcdefghijklmnopqrstuvwxyz0123456789", *"\"'-,.·()", *PIECES, "cat", "sat", *HAN]
CLS, SEP = 2, 3
TYPES = ["PER", "LOC", "ORG"]
BIO = TagSet(["O", *(f"{letter}-{kind}" for kind in TYPES for letter in "BI")], "bio")


def write_vocabulary(directory: Path, words: list[str], lower: bool = True) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory) -> Path:
    return write_vocabulary(tmp_path_factory.mktemp("wordpiece"), WORDS)


@pytest.fixture(scope="module")
def units_of(wordpiece) -> Callable[..., UnitTokenizer]:
    """``units_of(room, ...)`` -> an encoder with this much room for text in a window."""
    tokenizer = load_tokenizer(wordpiece)

    def build(room: int, unit: str = "character", doc_stride: int | None = None) -> UnitTokenizer:
        return UnitTokenizer(TextTokenizer(tokenizer, room + 2), unit, doc_stride)

    return build


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> Path:
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


def names(encoder: UnitTokenizer, pieces: list[list[int]]) -> list[str]:
    return [" ".join(encoder.pretrained.convert_ids_to_tokens(ids)) for ids in pieces]


# units and their tokens

BLANKS = " \u3000\t\u2028\u200b\ufeff\x00\xad"


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("一", "一"), ("a", "a"), ("A", "a"), ("É", "e"), ("Ａ", "a"), ("ａ", "a"), ("７", "7"), ("，", ","), ("（", "("),
        ("“", '"'), ("”", '"'), ("„", '"'), ("‘", "'"), ("’", "'"), ("—", "-"), ("–", "-"), ("•", "·"), ("＂", '"'),
        ("①", "1"), ("…", "."), ("㎡", "m"), ("Ⅷ", "v"), ("丈", "丈"),
        ("\uf967", "不"),  # a compatibility ideograph
        ("鑫", "[UNK]"), ("😀", "[UNK]"), ("€", "[UNK]"),
        *((blank, "[UNK]") for blank in BLANKS),
    ],
)  # fmt: skip
def test_a_character_has_one_position(units_of, character, expected):
    encoder = units_of(10)
    assert names(encoder, encoder.pieces([character], words=False)) == [expected]
    assert encoder.blank == ({character} if character in BLANKS else set())
    around = encoder.pieces(["七", character, "七", character], words=False)
    assert names(encoder, around) == ["七", expected, "七", expected]


def test_a_sign_that_the_vocabulary_has_stays_as_it_is(tmp_path):
    words = [*WORDS, "“", "，", "…", "Ａ", "ａ", "A", "É"]
    encoder = UnitTokenizer(TextTokenizer(load_tokenizer(write_vocabulary(tmp_path / "lower", words)), 12))
    assert names(encoder, encoder.pieces(list("“”，…Ａ（"), False)) == ["“", '"', "，", "…", "ａ", "("]
    encoder = UnitTokenizer(TextTokenizer(load_tokenizer(write_vocabulary(tmp_path / "cased", words, lower=False)), 12))
    assert names(encoder, encoder.pieces(list("AaÉBＢＡ“é"), False)) == ["A", "a", "É", "b", "b", "Ａ", "“", "[UNK]"]


def test_words_keep_all_their_pieces(units_of, wordpiece):
    words = ["cat", "Cats", "sab", "zat", "天", "一", "丁七", "don't", "Mats", "1,200", "x"]
    pieces = units_of(20).pieces(words, words=True)
    reference = BertTokenizer.from_pretrained(wordpiece)
    assert pieces == [reference(word, add_special_tokens=False)["input_ids"] for word in words]
    assert [one for ids in pieces for one in ids] == reference(" ".join(words), add_special_tokens=False)["input_ids"]
    assert max(len(ids) for ids in pieces) == 4


def test_no_word_takes_more_than_half_a_window(units_of):
    for room in (3, 4, 5, 8):
        encoder = units_of(room)
        long, cat = encoder.pieces(["b" + "ab" * 20, "cat"], words=True)
        assert names(encoder, [long, cat]) == [" ".join(["b", *["##a", "##b"] * 20][: max(1, room // 2)]), "cat"]


def test_blanks_among_words_keep_their_place(units_of):
    encoder = units_of(20)
    assert names(encoder, encoder.pieces(["cat", "\u200b", "“", "ＣＡＴ", "\u3000", "鑫"], True)) == [
        "cat", "[UNK]", '"', "cat", "[UNK]", "[UNK]",
    ]  # fmt: skip
    assert encoder.blank == {"\u200b", "\u3000"}


def test_a_character_is_no_word(byte_level):
    """A byte-level vocabulary has other tokens for words, which begin with a blank; the two must not be mixed up."""
    encoder = UnitTokenizer(TextTokenizer(load_tokenizer(byte_level), 22))
    reference = AutoTokenizer.from_pretrained(byte_level)
    as_characters = encoder.pieces(["t", "a", "天", "t"], words=False)
    as_words = encoder.pieces(["t", "a", "天"], words=True)
    assert as_characters == [reference(one, add_special_tokens=False)["input_ids"] for one in ("t", "a", "天", "t")]
    assert as_words == [reference(f" {one}", add_special_tokens=False)["input_ids"] for one in ("t", "a", "天")]
    assert as_characters[0] != as_words[0] and as_characters[:3] == encoder.pieces(["t", "a", "天"], words=False)


def test_words_of_a_byte_level_vocabulary_are_those_of_the_text(byte_level):
    words = ["the", "cat", "that", "Zebra", "fine", ",", "天地", "é", "mat"]
    pieces = UnitTokenizer(TextTokenizer(load_tokenizer(byte_level), 64)).pieces(words, words=True)
    reference = AutoTokenizer.from_pretrained(byte_level)
    wanted = reference(" " + " ".join(words), add_special_tokens=False)["input_ids"]
    assert [one for ids in pieces for one in ids] == wanted
    assert min(len(ids) for ids in pieces) == 1 and max(len(ids) for ids in pieces) > 2


def test_the_mark_of_a_words_beginning_is_no_unit(tmp_path):
    """SentencePiece writes it before every text, apart from a character that it has no joint token for."""
    vocabulary = [
        ("<s>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        ("天", -3.0),
        ("天地", -2.5),
        ("▁a", -2.0),
        ("a", -3.0),
    ]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>"
    ).save_pretrained(tmp_path)
    encoder = UnitTokenizer(TextTokenizer(load_tokenizer(tmp_path), 16))
    assert (encoder.before, encoder.after, encoder.room) == ([0], [1], 14)
    assert names(encoder, encoder.pieces(["天", "a", "玄"], words=False)) == ["天", "▁a", "<unk>"]
    assert names(encoder, encoder.pieces(["天地", "a"], words=True)) == ["天地", "▁a"]


def test_the_characters_of_a_plain_text_are_what_transformers_makes_of_it(tiny_model, shared):
    text = "我在酒店房间里看电影，服务员早上来打电话！（便宜）；喜欢2个a"
    for directory in (tiny_model("bert"), tiny_model("albert"), shared / "models/zh-bert-4l312"):
        encoder = UnitTokenizer(TextTokenizer(load_tokenizer(directory), 96))
        samples = tag_documents([Document(1, text, None, [])], encoder, TYPES, BIO)
        assert samples.input_ids.tolist() == BertTokenizer.from_pretrained(directory)(text)["input_ids"]


def test_real_texts_are_what_transformers_makes_of_them(shared):
    directory = shared / "models/zh-bert-4l312"
    texts = (shared / "data/plain/commonvoice_wiki_zh.txt").read_text(encoding="utf-8").split("\n")
    texts = [text for text in texts if re.fullmatch("[\u4e00-\u9fff，。、！？：；]+", text)][:2_000]
    assert len(texts) == 2_000
    encoder = UnitTokenizer(TextTokenizer(load_tokenizer(directory), 512))
    samples = tag_documents([Document(1, text, None, []) for text in texts], encoder, TYPES, BIO)
    wanted = BertTokenizer.from_pretrained(directory)(texts)["input_ids"]
    assert samples.input_ids.tolist() == [one for ids in wanted for one in ids]
    assert samples.offsets.tolist() == np.cumsum([0, *map(len, wanted)]).tolist()
    unknown = load_tokenizer(directory).unk_token_id
    assert samples.unknown == sum(ids.count(unknown) for ids in wanted) and samples.blank == 0


# windows


def check_windows(windows: list[tuple[int, int, int, int]], sizes: list[int], room: int) -> None:
    """What holds of the windows of any text."""
    ends = [end for _, end, _, _ in windows]
    assert windows[0][0] == 0 and ends[-1] == len(sizes)
    assert [unit for _, _, low, high in windows for unit in range(low, high)] == list(range(len(sizes)))
    for first, end, low, high in windows:
        assert first <= low <= high <= end and first < end
        assert sum(sizes[first:end]) <= room
    for earlier, later in zip(windows, windows[1:], strict=False):
        assert earlier[0] < later[0] <= earlier[1] <= later[1]
        assert later[0] < earlier[1] or sum(sizes[later[0] - 1 : earlier[1]]) <= room
    if sum(sizes) <= room:
        assert windows == [(0, len(sizes), 0, len(sizes))]


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_windows_cover_a_text_in_order_without_gaps(units_of, data):
    room = data.draw(st.integers(3, 24))
    stride = data.draw(st.none() | st.integers(0, room - 1))
    sizes = data.draw(st.lists(st.integers(1, max(1, room // 2)), min_size=1, max_size=80))
    check_windows(units_of(room, doc_stride=stride).windows(sizes), sizes, room)


@given(st.integers(3, 24), st.integers(1, 4), st.integers(1, 120))
@settings(deadline=None, max_examples=300)
def test_each_unit_is_decided_where_it_has_most_context(units_of, room, size, count):
    if size > max(1, room // 2):
        return
    windows = units_of(room).windows([size] * count)
    check_windows(windows, [size] * count, room)

    def context(window: tuple[int, int, int, int], unit: int) -> float:
        """Units to the nearer edge of the window; the ends of the text are no edges."""
        first, end, _, _ = window
        before = unit - first if first > 0 else float("inf")
        after = end - 1 - unit if end < count else float("inf")
        return min(before, after)

    for window in windows:
        for unit in range(*window[2:]):
            most = max(context(other, unit) for other in windows if other[0] <= unit < other[1])
            assert context(window, unit) >= most - 1, (unit, windows)


@given(st.integers(3, 24), st.data())
@settings(deadline=None, max_examples=150)
def test_neighbouring_windows_share_doc_stride_tokens_the_last_two_more(units_of, room, data):
    shared_tokens = data.draw(st.integers(0, room - 1))
    count = data.draw(st.integers(1, 100))
    starts = [0]
    while starts[-1] + room < count:
        starts.append(min(starts[-1] + room - shared_tokens, count - room))
    windows = units_of(room, doc_stride=shared_tokens).windows([1] * count)
    assert [(first, end) for first, end, _, _ in windows] == [(start, min(start + room, count)) for start in starts]


def test_windows_by_hand(units_of):
    assert units_of(4).windows([1] * 7) == [(0, 4, 0, 3), (2, 6, 3, 4), (3, 7, 4, 7)]
    assert units_of(4, doc_stride=0).windows([1] * 8) == [(0, 4, 0, 4), (4, 8, 4, 8)]
    # 0-1 2-3 | from token 3 on begins unit 2; the last window goes back to token 5 of 9, where unit 4 begins.
    assert units_of(4).windows([2, 1, 1, 1, 2, 2])[0][:2] == (0, 3)
    assert units_of(4).windows([2, 1, 1, 1, 2, 2])[-1][:2] == (4, 6)


@pytest.mark.parametrize("stride", [10, 11, 500])
def test_a_stride_that_leaves_no_step_is_refused(units_of, stride):
    with pytest.raises(UserError, match=f"--doc_stride {stride}.* 12 .*10"):
        units_of(10, doc_stride=stride)
    assert len(units_of(10, doc_stride=9).windows([1] * 14)) == 5


def test_the_fingerprint_tells_encoders_apart(units_of, byte_level):
    prints = {
        units_of(*args).fingerprint
        for args in ((10,), (11,), (10, "word"), (10, "character", 0), (10, "character", 1), (10, "character", 2))
    } | {UnitTokenizer(TextTokenizer(load_tokenizer(byte_level), 12)).fingerprint}
    assert len(prints) == 7
    assert units_of(10).fingerprint == units_of(10, "character", 5).fingerprint  # half of it is the default


# tagged samples


def random_documents(draw: random.Random, rows: int, longest: int = 60) -> list[Document]:
    """Plain texts of characters, no two alike in a text, with entities that may overlap."""
    documents = []
    for line in range(1, rows + 1):
        text = "".join(draw.sample(HAN, draw.choice([1, 3, draw.randint(1, longest)])))
        entities = set()
        for _ in range(draw.randint(0, 6)):
            start = draw.randrange(len(text))
            entities.add((draw.choice(TYPES), start, min(len(text), start + draw.randint(1, 7))))
        documents.append(Document(line, text, None, sorted(entities)))
    return documents


def without_overlaps(documents: list[Document]) -> list[Document]:
    for document in documents:
        kept, end = [], 0
        for entity in sorted(document.entities, key=lambda one: one[1]):
            if entity[1] >= end:
                kept.append(entity)
                end = entity[2]
        document.entities = kept
    return documents


def labels_of(entities: list[tuple[str, int, int]], length: int) -> list[str]:
    """Bio tags of entities that do not overlap."""
    labels = ["O"] * length
    for kind, start, end in entities:
        labels[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return labels


@pytest.mark.parametrize(("room", "stride"), [(8, None), (9, 2), (5, 4), (6, 0), (80, None)])
def test_samples_agree_with_their_documents(units_of, room, stride):
    documents = without_overlaps(random_documents(random.Random(room), 25))
    encoder = units_of(room, doc_stride=stride)
    samples = tag_documents(documents, encoder, TYPES, BIO, "a.json")
    assert (len(samples), samples.unknown, samples.blank, samples.labelled) == (25, 0, 0, 1)
    assert samples.uncut_lengths.tolist() == [len(one.text) + 2 for one in documents]
    assert samples.unit == "character"
    assert samples.lines.tolist() == list(range(1, 26)) and samples.labels.tolist() == [-1] * 25
    assert samples.second.tolist() == samples.lengths.tolist() and samples.lengths.max() <= room + 2
    assert samples.unit_starts.tolist() == np.cumsum([0, *(len(one.text) for one in documents)]).tolist()
    assert samples.unit_counts.tolist() == [len(one.text) for one in documents]
    for row, document in enumerate(documents):
        text, ids = document.text, [WORDS.index(character) for character in document.text]
        windows = encoder.windows([1] * len(text))
        sequences = range(samples.row_starts[row], samples.row_starts[row + 1])
        units = slice(samples.unit_starts[row], samples.unit_starts[row + 1])
        deciding = samples.unit_tokens[units]
        assert len(sequences) == len(windows)
        for sequence, (first, end, low, high) in zip(sequences, windows, strict=True):
            own = slice(samples.offsets[sequence], samples.offsets[sequence + 1])
            assert samples.input_ids[own].tolist() == [CLS, *ids[first:end], SEP]
            assert samples.units[own].tolist() == [-1, *range(first, end), -1]
            assert all(own.start <= place < own.stop for place in deciding[low:high])
        assert samples.input_ids[deciding].tolist() == ids
        assert samples.units[deciding].tolist() == list(range(len(text)))
        assert samples.unit_offsets[units].tolist() == [[place, place + 1] for place in range(len(text))]
        assert [BIO.labels[tag] for tag in samples.tags[units]] == labels_of(document.entities, len(text))
        own = slice(samples.entity_starts[row], samples.entity_starts[row + 1])
        listed = [[TYPES.index(kind), start, end] for kind, start, end in document.entities]
        assert samples.entities[own].tolist() == samples.spans[own].tolist() == listed
        assert samples.gold(row, TYPES) == set(document.entities)
    assert len(samples.units) == len(samples.input_ids) and samples.entity_starts[-1] == len(samples.entities)
    dtypes = {"units": "int32", "unit_starts": "int64", "unit_tokens": "int64", "unit_offsets": "int32", "tags": "int64",
              "entities": "int32", "spans": "int32", "entity_starts": "int64"}  # fmt: skip
    assert {name: getattr(samples, name).dtype.name for name in dtypes} == dtypes


def test_words_with_several_pieces_are_decided_at_the_first(units_of):
    words = ["cat", "mats", "b" + "ab" * 3, "sat", "cats"]
    text = " ".join(words)
    entities = [("PER", 4, 16), ("LOC", text.index("sat"), len(text))]  # words 1 and 2, 3 and 4
    encoder = units_of(8, "word")
    for units in (None, [(match.start(), match.end()) for match in re.finditer(r"\S+", text)]):
        samples = tag_documents([Document(3, text, units, entities)], encoder, TYPES, BIO)
        pieces = [["cat"], ["m", "##a", "##t", "##s"], ["b", "##a", "##b", "##a"], ["sat"], ["cat", "##s"]]
        firsts = [own[0] for own in pieces]
        tokens = encoder.pretrained.convert_ids_to_tokens(samples.input_ids.tolist())
        assert [tokens[place] for place in samples.unit_tokens] == firsts
        assert samples.units[samples.unit_tokens].tolist() == [0, 1, 2, 3, 4]
        windows = encoder.windows([1, 4, 4, 1, 2])
        assert tokens == [
            token
            for first, end, _, _ in windows
            for token in ["[CLS]", *(piece for own in pieces[first:end] for piece in own), "[SEP]"]
        ]
        assert (samples.units >= 0).sum() == sum(end - first for first, end, _, _ in windows)
        assert [text[start:end] for start, end in samples.unit_offsets] == words
        assert [BIO.labels[tag] for tag in samples.tags] == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
        assert samples.spans.tolist() == [[0, 1, 3], [1, 3, 5]]
        assert samples.entities.tolist() == [[TYPES.index(kind), start, end] for kind, start, end in entities]
        assert samples.unit == "word"


def test_unknown_and_blank_units_are_counted_apart(units_of):
    documents = [Document(1, "一鑫 鑫\u200b丁", None, []), Document(2, "七 😀", None, [])]
    samples = tag_documents(documents, units_of(4), TYPES, BIO)
    assert (samples.unknown, samples.blank) == (3, 3)


def test_documents_without_entities(units_of):
    documents = [Document(1, "一丁", None, None), Document(2, "七万", [(0, 2)], [("PER", 0, 2)])]
    samples = tag_documents(documents, units_of(6), TYPES)
    assert samples.labelled == 0 and samples.tags.tolist() == [-1, -1, -1] and samples.tags.dtype == np.int64
    assert samples.entities.tolist() == [[0, 0, 2]] and samples.entity_starts.tolist() == [0, 0, 1]
    none = tag_documents(documents[:1], units_of(6), TYPES)
    assert none.entities.shape == none.spans.shape == (0, 3) and none.entity_starts.tolist() == [0, 0]
    assert none.gold(0, TYPES) == set()


def test_entities_that_overlap_longer_ones_are_warned_of_and_stay_gold(units_of, messages):
    entities = [("ORG", 0, 6), ("LOC", 1, 3), ("PER", 5, 7), ("PER", 8, 9)]
    documents = [Document(1, HAN[:10], None, entities), Document(2, HAN[:3], None, [("PER", 0, 2), ("LOC", 1, 2)])]
    samples = tag_documents(documents, units_of(20), TYPES, BIO, "a.json")
    assert [BIO.labels[tag] for tag in samples.tags] == [
        *labels_of([("ORG", 0, 6), ("PER", 8, 9)], 10), *labels_of([("PER", 0, 2)], 3)
    ]  # fmt: skip
    assert samples.gold(0, TYPES) == set(entities) and samples.gold(1, TYPES) == {("PER", 0, 2), ("LOC", 1, 2)}
    (message,) = messages
    assert message.startswith("a.json: 3 entities overlap longer ones")
    messages.clear()
    tag_documents(documents, units_of(20), TYPES, None, "a.json")
    assert messages == []  # without tags, nothing is lost


def test_entities_that_do_not_fit_the_units_are_warned_of_and_stay_gold(units_of, messages):
    text = "cat mats 一丁"  # words 0-3, 4-8, 9-10 and 10-11
    entities = [("PER", 0, 3), ("LOC", 1, 5), ("ORG", 3, 4), ("PER", 9, 10), ("PER", 6, 10)]
    samples = tag_documents([Document(1, text, None, entities)], units_of(20, "word"), TYPES, None, "a.json")
    assert samples.gold(0, TYPES) == set(entities)
    assert samples.spans.tolist() == [[0, 0, 1], [1, 0, 2], [2, -1, -1], [0, 2, 3], [0, 1, 3]]
    (message,) = messages
    assert message.startswith("a.json: 3 entities begin or end inside a unit")
    messages.clear()
    samples = tag_documents([Document(1, text, None, entities[1:4])], units_of(20, "word"), TYPES, BIO, "a.json")
    assert [BIO.labels[tag] for tag in samples.tags] == ["B-LOC", "I-LOC", "B-PER", "O"]
    assert len(messages) == 1 and messages[0].startswith("a.json: 2 entities")


def test_long_texts_are_split_between_entities(units_of, monkeypatch):
    monkeypatch.setattr(tagging, "_LONGEST_ROW", 2)
    draw, encoder = random.Random(0), units_of(6)
    documents = random_documents(draw, 30, longest=200)
    whole = tag_documents(documents, encoder, TYPES, None)
    parts = tag_documents(documents, encoder, TYPES, None, split_long=True)
    assert len(whole) == 30 and whole.unit_counts.max() > 100
    assert parts.unit_counts.max() <= 2 * 6 < whole.unit_counts.max() and parts.unit_counts.min() > 0
    assert parts.unit_offsets.tolist() == whole.unit_offsets.tolist()
    assert parts.input_ids[parts.unit_tokens].tolist() == whole.input_ids[whole.unit_tokens].tolist()
    found = {document.line: [] for document in documents}
    for row in range(len(parts)):
        line, text = parts.lines[row], documents[parts.lines[row] - 1].text
        first = parts.unit_offsets[parts.unit_starts[row], 0]
        own = slice(parts.entity_starts[row], parts.entity_starts[row + 1])
        found[line] += parts.gold(row, TYPES)
        assert (parts.entities[own] - parts.spans[own] == [0, first, first]).all()
        assert ((parts.spans[own][:, 1:] >= 0) & (parts.spans[own][:, 1:] <= parts.unit_counts[row])).all()
        assert parts.text_hashes[row] == whole.text_hashes[line - 1]
        sequences = range(parts.row_starts[row], parts.row_starts[row + 1])
        ids = [WORDS.index(one) for one in text[first : first + parts.unit_counts[row]]]
        assert [list(parts.input_ids[parts.offsets[one] + 1 : parts.offsets[one + 1] - 1]) for one in sequences] == [
            ids[low:high] for low, high, _, _ in encoder.windows([1] * len(ids))
        ]
    assert {line: sorted(entities) for line, entities in found.items()} == {one.line: one.entities for one in documents}
    assert parts.lines.tolist() == sorted(parts.lines.tolist())


def test_a_short_text_is_not_split(units_of):
    for length, rows in ((16 * 10, 1), (16 * 10 + 1, 2)):
        documents = [Document(1, (HAN * 2)[:length], None, [("PER", 158, 160)])]
        assert len(tag_documents(documents, units_of(10), TYPES, BIO, split_long=True)) == rows
    crossing = [Document(1, (HAN * 2)[:170], None, [("PER", 158, 163), ("LOC", 155, 160)])]
    samples = tag_documents(crossing, units_of(10), TYPES, None, split_long=True)
    assert samples.unit_counts.tolist() == [155, 15]
    assert samples.gold(1, TYPES) == {("PER", 158, 163), ("LOC", 155, 160)}
    assert len(tag_documents(crossing, units_of(10), TYPES, None)) == 1


def test_an_entity_that_holds_no_unit_is_not_lost_where_a_text_is_split(units_of, monkeypatch):
    monkeypatch.setattr(tagging, "_LONGEST_ROW", 1)
    document = Document(1, "cat sat cat sat cat sat", None, [("PER", 3, 4)])
    samples = tag_documents([document], units_of(4, "word"), TYPES, None, split_long=True)
    assert [tuple(entity) for entity in samples.entities.tolist()] == [(0, 3, 4)]


def test_an_entity_longer_than_a_part_does_not_stop_the_splitting(units_of, monkeypatch):
    monkeypatch.setattr(tagging, "_LONGEST_ROW", 1)
    document = Document(1, HAN[:40], None, [("PER", 3, 30), ("LOC", 33, 35)])
    samples = tag_documents([document], units_of(6), TYPES, BIO, split_long=True)
    assert samples.unit_offsets[:, 0].tolist() == list(range(40)) and samples.unit_counts.max() <= 6
    assert {one for row in range(len(samples)) for one in samples.gold(row, TYPES)} >= {("LOC", 33, 35)}


# batches


def sequences_of(tokens) -> list[list[int]]:
    return [part.tolist() for part in tokens.input_ids.split(tokens.lengths)]


@pytest.mark.parametrize(("room", "stride"), [(8, None), (9, 2), (5, 4), (80, None)])
def test_places_of_a_batch_are_where_each_unit_is_decided(units_of, room, stride):
    draw = random.Random(room)
    documents = without_overlaps(random_documents(draw, 30))
    encoder = units_of(room, doc_stride=stride)
    samples = tag_documents(documents, encoder, TYPES, BIO)
    for size in (1, 1, 2, 5, 30):
        rows = np.array(draw.sample(range(30), size))
        batch = collate_tags(samples, rows)
        sequences, starts = sequences_of(batch.tokens), batch.tokens.cu_seqlens.tolist()
        assert batch.tokens.lengths == sorted(batch.tokens.lengths, reverse=True)
        wanted, all_windows = [], []
        for row in rows:
            ids = [WORDS.index(character) for character in documents[row].text]
            for first, end, low, high in encoder.windows([1] * len(ids)):
                window = [CLS, *ids[first:end], SEP]
                all_windows.append(window)
                wanted += [(window, ids[unit]) for unit in range(low, high)]
        assert sorted(sequences) == sorted(all_windows)
        owners = [max(one for one, start in enumerate(starts) if start <= place) for place in batch.places.tolist()]
        found = zip((sequences[owner] for owner in owners), batch.tokens.input_ids[batch.places].tolist(), strict=True)
        assert list(found) == wanted
        assert batch.lengths == [len(documents[row].text) for row in rows]
        expected = [label for row in rows for label in labels_of(documents[row].entities, len(documents[row].text))]
        assert [BIO.labels[tag] for tag in batch.tags] == expected
        assert batch.tokens.token_type_ids.sum() == 0


@pytest.mark.parametrize(("room", "stride"), [(8, None), (9, 2), (5, 4), (80, None)])
def test_an_entity_counts_in_each_window_that_holds_it(units_of, room, stride):
    draw = random.Random(room)
    documents = random_documents(draw, 30)  # overlapping ones too
    encoder = units_of(room, doc_stride=stride)
    samples = tag_documents(documents, encoder, TYPES)
    for size in (1, 1, 2, 5, 30):
        rows = np.array(draw.sample(range(30), size))
        batch = collate_spans(samples, rows)
        windows = []
        for row in rows:
            ids = [WORDS.index(character) for character in documents[row].text]
            for first, end, _, _ in encoder.windows([1] * len(ids)):
                held = [
                    (TYPES.index(kind), start - first, stop - 1 - first)
                    for kind, start, stop in documents[row].entities
                    if first <= start and stop <= end
                ]
                windows.append(([CLS, *ids[first:end], SEP], held))
        windows.sort(key=lambda window: -len(window[0]))  # stable, as the batch is
        assert sequences_of(batch.tokens) == [ids for ids, _ in windows]
        assert batch.lengths == [len(ids) - 2 for ids, _ in windows]
        assert batch.tokens.input_ids[batch.places].tolist() == [one for ids, _ in windows for one in ids[1:-1]]
        assert batch.places.tolist() == [
            start + place for start, (ids, _) in zip(batch.tokens.cu_seqlens.tolist(), windows, strict=False)
            for place in range(1, len(ids) - 1)
        ]  # fmt: skip
        expected = [(window, *one) for window, (_, held) in enumerate(windows) for one in held]
        assert sorted(map(tuple, batch.spans.tolist())) == sorted(expected)
        assert batch.spans.shape[1] == 4 and batch.spans.dtype == batch.places.dtype


def test_spans_of_words_are_counted_in_words(units_of):
    text = "mats cat mats sat"
    samples = tag_documents([Document(1, text, None, [("PER", 5, 13), ("LOC", 0, 2)])], units_of(30, "word"), TYPES)
    batch = collate_spans(samples, np.array([0]))
    assert batch.spans.tolist() == [[0, 0, 1, 2], [0, 1, 0, 0]]
    assert (batch.places.tolist(), batch.lengths) == ([1, 5, 6, 10], [4])
    assert collate_tags(samples, np.array([0])).places.tolist() == [1, 5, 6, 10]


# the cache


def assert_same(found: TaggedSamples, wanted: TaggedSamples) -> None:
    for name, value in vars(wanted).items():
        if isinstance(value, np.ndarray):
            assert getattr(found, name).dtype == value.dtype and getattr(found, name).shape == value.shape, name
            assert getattr(found, name).tolist() == value.tolist(), name
        else:
            assert getattr(found, name) == value, name


@pytest.mark.parametrize("labelled", [True, False])
def test_the_cache_gives_the_same_samples_and_repeats_the_warnings(units_of, tmp_path, messages, labelled):
    path, cache, built = tmp_path / "a.json", tmp_path / "cache", []
    rows = [{"text": "cat mats 一 鑫"}, {"text": "一丁七万丈三" * 3}]
    if labelled:
        rows[0]["entities"] = [[1, 5, "PER"], [0, 3, "LOC"]]
        rows[1]["label"] = ["O", "I-ORG"] + ["O"] * 16
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def build():
        built.append(True)
        documents = read_documents(path, TYPES, label_needed=False)
        return tag_documents(documents, units_of(5, "word"), TYPES, BIO, path)

    wanted = build()
    warned = [message for message in messages if str(path) in message]
    assert len(warned) == (3 if labelled else 0)  # a tag that continues nothing, an overlap, an entity inside a unit
    assert (wanted.unknown, wanted.blank, wanted.labelled, len(wanted)) == (1, 0, int(labelled), 2)
    messages.clear()
    for _ in range(3):
        found = from_cache(path, ("key",), build, TaggedSamples, cache)
        assert_same(found, wanted)
        assert isinstance(found.unit_tokens, np.memmap) and isinstance(found.labelled, int)
        assert found.fingerprint == wanted.fingerprint and found.gold(1, TYPES) == wanted.gold(1, TYPES)
        assert [message for message in messages if message in warned] == warned
        messages.clear()
    assert len(built) == 2
