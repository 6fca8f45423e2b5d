"""The encoding of a file: given, or detected from its first non-ASCII bytes; and its lines as text, one at a time."""

import codecs
import io
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

from loguru import logger

from bertorch.errors import UserError

_SAMPLE = 1 << 16  # bytes
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_BAD = "\udcff"  # half a surrogate pair, which no text can hold: marks bytes that are invalid in the encoding
_PLAUSIBLE = 0.45  # tests/data/test_encodings.py has the shares of several encodings
codecs.register_error("bertorch.mark", lambda error: (_BAD, error.end))


def encoding_name(text: str) -> str:
    """The name of an encoding as ``--encoding`` takes it; GBK and GB2312 are read as GB18030, which includes them.

    Raises:
        ValueError: there is no such text encoding.
    """
    try:
        "".encode(text)
        name = codecs.lookup(text).name
    except LookupError:
        raise ValueError(f"{text!r} is not an encoding") from None
    return "gb18030" if name in ("gbk", "gb2312") else name


def decoded_lines(path: object, handle: BinaryIO, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    r"""``(line number from 1, text with its ``\n``)`` of a binary file, without a byte order mark.

    Args:
        path: names the file in messages.
        handle: its bytes.
        encoding: as ``encoding_name`` gives it; None detects UTF-8, UTF-16, and GB18030 with GBK, and logs anything but
            plain UTF-8. It looks at up to 64 KB before it yields a line, or at what a pipe holds, without waiting.

    Raises:
        UserError: a line is not in this encoding.
    """
    handle = handle if hasattr(handle, "peek") else io.BufferedReader(handle, _SAMPLE)
    told = encoding is not None
    if not told:
        encoding = _wide_encoding(handle.peek(_SAMPLE)[:_SAMPLE])
        if encoding is not None:
            say_once(f"{path}: read as {encoding.upper()}")
    if encoding is not None and "\n".encode(encoding) != b"\n":
        lines = io.TextIOWrapper(handle, encoding, errors="bertorch.mark", newline="\n")
        for number, text in enumerate(lines, 1):
            if _BAD in text:
                raise _not_of(path, number, encoding, told)
            yield number, text.removeprefix("\ufeff") if number == 1 else text
        return
    for number, raw in enumerate(handle, 1):
        if encoding is None and not raw.isascii():
            more = handle.peek(_SAMPLE)[:_SAMPLE].rpartition(b"\n")[0] if handle.seekable() else b""
            encoding = _narrow_encoding(raw + more)
            if encoding != "utf-8":
                say_once(f"{path}: not UTF-8, read as {encoding.upper()}; --encoding names another")
        try:
            text = raw.decode(encoding or "ascii")
        except UnicodeDecodeError:
            raise _not_of(path, number, encoding, told) from None
        if number == 1 and text.startswith("\ufeff"):
            say_once(f"{path}: begins with a byte order mark, left out")
            text = text[1:]
        yield number, text


def _not_of(path: object, number: int, encoding: str, told: bool) -> UserError:
    what = encoding.upper()
    if not told and encoding == "utf-8":
        what = "UTF-8, nor is the text GBK, GB18030 or UTF-16"
    remedy = "mend the line, or name the file's encoding with --encoding, such as big5"
    return UserError(f"{path}:{number}: not {what}; {remedy} (or convert it: iconv -f ENCODING -t UTF-8)")


@lru_cache(maxsize=256)
def say_once(message: str) -> None:
    """Log a message only once: a file may be read several times."""
    logger.info(message)


def _wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the byte order mark or, without one, by the zero bytes in ASCII characters."""
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    zeros = head.count(0)
    if marked is not None or not zeros:
        return marked
    if 4 * zeros < len(head) and _is_utf_8(head[: head.rfind(b"\n") + 1] or head):
        return None
    low, high = head[0::2].count(0), head[1::2].count(0)
    encoding = "utf-16-le" if high > low else "utf-16-be"
    bad = head[: len(head) // 2 * 2].decode(encoding, "bertorch.mark").count(_BAD)
    return encoding if 10 * (min(low, high) + bad) <= max(low, high) else None


def _narrow_encoding(sample: bytes) -> str:
    """UTF-8, unless most non-ASCII lines are not UTF-8, and make sense as GB18030."""
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    if 2 * sum(map(_is_utf_8, lines)) >= len(lines):
        return "utf-8"
    signs = [sign for sign in b"\n".join(lines).decode("gb18030", "bertorch.mark") if not sign.isascii()]
    return "gb18030" if sum(map(_is_common, signs)) >= _PLAUSIBLE * len(signs) else "utf-8"


def _is_utf_8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_common(sign: str) -> bool:
    """Whether it is punctuation, a full-width letter, or one of the 3,755 characters of GB2312's first level."""
    try:
        lead = sign.encode("gb2312")[0]
    except UnicodeEncodeError:
        return False
    return 0xA1 <= lead <= 0xA3 or 0xB0 <= lead <= 0xD7
