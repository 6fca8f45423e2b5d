"""Traditional and simplified characters: what OpenCC gives, in the places of the text."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertorch.data import chinese
from bertorch.data.chinese import convert
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.errors import UserError

PAIRS = [("頭髮與發展", "头发与发展"), ("乾淨的後面", "干净的后面"), ("皇后😀", "皇后😀"), ("計程車 abc", "计程车 abc")]


@pytest.mark.parametrize(("traditional", "simplified"), PAIRS)
def test_characters_by_their_phrases(traditional, simplified):
    assert convert(traditional, "simplified") == simplified
    assert convert(simplified, "traditional") == traditional
    assert convert(traditional, None) is traditional


@given(st.text(st.characters(min_codepoint=0x3400, max_codepoint=0x9FFF) | st.characters(exclude_categories=("Cs",))))
def test_no_character_moves(text):
    for name in chinese.CHINESE:
        assert len(convert(text, name)) == len(text)


def test_every_character_has_one_counterpart():
    signs = "".join(map(chr, [*range(0x3400, 0xA000), *range(0xF900, 0xFB00), *range(0x20000, 0x32000)]))
    for name in chinese.CHINESE:
        assert all(len(convert(sign, name)) == 1 for sign in signs)
        assert len(convert(signs, name)) == len(signs)


def test_a_dictionary_that_changes_lengths_is_used_by_characters(monkeypatch):
    class Longer:
        def convert(self, text):
            return text.replace("電腦", "计算机").replace("電", "电").replace("腦", "大脑")

    monkeypatch.setattr(chinese, "_converter", lambda name: Longer())
    assert convert("有電腦", "simplified") == "有电腦"


def test_a_missing_opencc_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)
    chinese._converter.cache_clear()
    with pytest.raises(UserError, match="^--chinese simplified needs OpenCC; install it: pip install opencc$"):
        convert("字", "simplified")
    chinese._converter.cache_clear()


def test_tokens_and_their_places(tiny_model):
    directory = tiny_model("bert")
    plain = TextTokenizer(load_tokenizer(directory), 32)
    converting = TextTokenizer(load_tokenizer(directory), 32, chinese="simplified")
    old, new = ("房間很乾淨", "服務員ab"), ("房间很干净", "服务员ab")
    assert converting.encode([old, old[:1]]) == plain.encode([new, new[:1]])
    assert converting.encode([old]) != plain.encode([old])
    assert converting.places(old) == plain.places(new)
    assert converting.fingerprint != plain.fingerprint
