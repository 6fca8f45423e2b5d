"""Traditional characters to simplified ones and back, by OpenCC, without moving a character."""

from functools import lru_cache
from typing import Any

from bertorch.errors import UserError

CHINESE = ("simplified", "traditional")  # what --chinese may name
_CONFIGS = {"simplified": "t2s", "traditional": "s2t"}


def convert(text: str, chinese: str | None) -> str:
    """A text in simplified or traditional characters, as long as before.

    Tokenizers convert what they encode, and nothing else does: answers, entities and explanations are cut from the text as
    it was given, by places that both texts share. For that OpenCC's configurations without regional words are used:
    ``tw2sp`` would also turn a word into another of a different length. They choose characters by phrases (乾淨 becomes
    干净, 乾坤 stays), and give a character for a character. Where a later dictionary should not, the text is converted
    character by character, and what has no single counterpart stays.

    Args:
        text: any text.
        chinese: one of ``CHINESE``; None gives the text itself.

    Raises:
        UserError: OpenCC is not installed.
    """
    if chinese is None or text.isascii():
        return text
    converter = _converter(chinese)
    converted = converter.convert(text)
    if len(converted) == len(text):
        return converted
    signs = ((sign, converter.convert(sign)) for sign in text)
    return "".join(other if len(other) == 1 else sign for sign, other in signs)


@lru_cache(maxsize=len(CHINESE))
def _converter(chinese: str) -> Any:
    try:
        from opencc import OpenCC
    except ImportError:
        raise UserError(f"--chinese {chinese} needs OpenCC; install it: pip install opencc") from None
    return OpenCC(_CONFIGS[chinese])
