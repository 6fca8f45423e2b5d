"""Encodings: what is detected in a file, what is told, and where a line of another encoding stands."""

import gzip
import io
import os
import tracemalloc

import pytest

from bertorch.data.encodings import encoding_name
from bertorch.data.files import as_stream, read_labels, read_lines
from bertorch.data.rows import read_rows
from bertorch.errors import UserError
from bertorch.tasks.entities.rows import read_documents
from bertorch.tasks.reading.rows import read_questions

SIMPLIFIED = "房间很干净，下次还会来\tpositive\n服务态度太差了，不会再来\tnegative\n"
TRADITIONAL = "這間酒店環境和服務態度亦算不錯，但房間空間太小\tpositive\n餐廳的廣東點心不太好吃，要改善之\tnegative\n"
MODES = ["plain", "gzip", "stream"]


def lines_of(path, data: bytes, mode: str, **options) -> list[str]:
    if mode == "gzip":
        path = path.with_suffix(".tsv.gz")
    stream = as_stream(data) if mode == "stream" else None
    if stream is None:
        path.write_bytes(gzip.compress(data) if mode == "gzip" else data)
    return [text for _, text in read_lines(path, stream, **options)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("text", [SIMPLIFIED, TRADITIONAL], ids=["simplified", "traditional"])
@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_detected_and_said_once(tmp_path, messages, encoding, text, mode):
    path = tmp_path / "a.tsv"
    assert lines_of(path, text.encode(encoding), mode) == text.splitlines()
    assert lines_of(path, text.encode(encoding), mode) == text.splitlines()
    said = [message for message in messages if "read as" in message or "byte order mark" in message]
    wanted = {"gbk": "GB18030", "gb18030": "GB18030", "utf-8-sig": "byte order mark"}.get(encoding, encoding.upper())
    assert len(said) == 1 and wanted in said[0] and "a.tsv" in said[0]


def test_plain_utf_8_is_not_said(tmp_path, messages):
    assert lines_of(tmp_path / "a.tsv", SIMPLIFIED.encode(), "plain") == SIMPLIFIED.splitlines()
    assert messages == []


def test_the_first_line_that_is_not_ascii_decides_wherever_it_stands(tmp_path):
    text = "fine\t1\n" * 40_000 + SIMPLIFIED
    assert lines_of(tmp_path / "a.tsv", text.encode("gbk"), "plain") == text.splitlines()


def test_a_line_of_gbk_that_could_be_utf_8_does_not_decide(tmp_path):
    assert "卤".encode("gbk").decode() == "±"
    text = "卤\tpositive\n" + SIMPLIFIED
    assert lines_of(tmp_path / "a.tsv", text.encode("gbk"), "plain") == text.splitlines()


@pytest.mark.parametrize("mode", MODES)
def test_a_bad_line_in_text_of_a_known_encoding_is_named(tmp_path, mode):
    lines = SIMPLIFIED.splitlines(keepends=True) * 2
    for encoding, name in (("utf-8", "UTF-8"), ("gbk", "GB18030"), ("utf-16-le", "UTF-16-LE")):
        data = [line.encode(encoding) for line in lines]
        data[2] = b"\x00\xd8\x41\x00" + data[2] if encoding == "utf-16-le" else b"\xff\xff" + data[2]
        with pytest.raises(UserError, match=rf"^.*:3: not {name}.*--encoding") as caught:
            lines_of(tmp_path / "a.tsv", b"".join(data), mode)
        assert "iconv -f ENCODING" in str(caught.value)


@pytest.mark.parametrize("encoding", ["big5", "latin-1", "shift_jis"])
def test_text_of_no_known_encoding_names_the_first_bad_line(tmp_path, encoding):
    text = (
        "plain\n"
        + {"big5": TRADITIONAL, "latin-1": "été, garçon\n", "shift_jis": "房間が綺麗で，とてもよかった\n"}[encoding]
    )
    path = tmp_path / "a.tsv"
    with pytest.raises(UserError, match=r"a\.tsv:2: not UTF-8, nor is the text GBK"):
        lines_of(path, text.encode(encoding), "plain")
    assert lines_of(path, text.encode(encoding), "plain", encoding=encoding_name(encoding)) == text.splitlines()


@pytest.mark.parametrize("mode", MODES)
def test_what_is_told_overrides_what_would_be_detected(tmp_path, mode):
    data = "Ã©tÃ©\n".encode("latin-1")  # valid UTF-8 as well
    assert lines_of(tmp_path / "a.tsv", data, mode) == ["été"]
    assert lines_of(tmp_path / "a.tsv", data, mode, encoding="latin-1") == ["Ã©tÃ©"]
    with pytest.raises(UserError, match=r":1: not ASCII"):
        lines_of(tmp_path / "a.tsv", data, mode, encoding="ascii")
    text = SIMPLIFIED.encode("utf-16")
    assert lines_of(tmp_path / "a.tsv", text, mode, encoding="utf-16") == SIMPLIFIED.splitlines()


def test_only_a_line_feed_ends_a_line_of_utf_16(tmp_path):
    text = "left\u2028right\x85\x0c上\r\nnext\rline\n"
    assert lines_of(tmp_path / "a.tsv", text.encode("utf-16"), "plain") == ["left\u2028right\x85\x0c上", "next\rline"]


def test_a_zero_in_utf_8_is_no_utf_16(tmp_path):
    assert lines_of(tmp_path / "a.tsv", "好\x00的\nplain\n".encode(), "plain") == ["好\x00的", "plain"]


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "utf-16"])
def test_memory_does_not_grow_with_the_file(tmp_path, encoding):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress((SIMPLIFIED * 50_000).encode(encoding), 1))  # 5 MB
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_lines(path)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()


def test_a_line_of_a_pipe_is_given_before_the_next_one_comes():
    read, write = os.pipe()
    lines = read_lines("<pipe>", open(read, "rb"))
    with open(write, "wb", buffering=0) as pipe:
        for text in ("很好，下次还会来", "plain", "太差了"):  # a line that waited for more would never come
            pipe.write(f"{text}\n".encode("gbk"))
            assert next(lines)[1] == text
    assert list(lines) == []


def test_names_of_encodings():
    assert [encoding_name(name) for name in ("GBK", "gb2312", "cp936", "GB18030", "UTF8", "Big5")] == [
        "gb18030", "gb18030", "gb18030", "gb18030", "utf-8", "big5",
    ]  # fmt: skip
    for name in ("klingon", "base64", ""):
        with pytest.raises(ValueError, match="is not an encoding"):
            encoding_name(name)


def test_every_reader_is_told(tmp_path):
    """The text is valid in both encodings, so that what is told alone makes the difference."""
    told = {"encoding": "latin-1"}
    path = tmp_path / "a.tsv"
    path.write_bytes("é\té\n".encode())
    assert read_rows(path, **told)[0].texts == ("Ã©",)
    path.write_bytes("é B-PER\n".encode())
    assert read_documents(path, None, **told)[0].text == "Ã©"
    path.write_bytes('{"text": "é", "entities": []}\n'.encode())
    assert read_documents(path, None, kind="jsonl", **told)[0].text == "Ã©"
    assert read_documents(path, None, kind="text", label_needed=False, **told)[0].text.endswith('Ã©", "entities": []}')
    path.write_bytes('{"data": [{"paragraphs": [{"context": "é", "qas": [{"question": "é", "answers": []}]}]}]}'.encode())
    assert read_questions(path, **told)[0].context == "Ã©"


def test_label_files_and_questions_are_detected_too(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("好评很多\n差评\n".encode("gbk"))
    assert read_labels(path) == ["好评很多", "差评"]
    text = '{"data": [{"paragraphs": [{"context": "小明在北京工作", "qas": [{"question": "谁在北京？", "answers": []}]}]}]}'
    for encoding in ("gbk", "utf-16", "utf-8-sig"):
        path.write_bytes(text.encode(encoding))
        assert read_questions(path)[0].context == "小明在北京工作"
    path.write_bytes(b'{\n"data": "\xff\xff"}')
    with pytest.raises(UserError, match=r"labels\.txt:2: not UTF-8"):
        read_questions(path)


def test_a_stream_that_cannot_look_ahead(tmp_path):
    class Plain(io.RawIOBase):
        def __init__(self, data):
            self.data = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, into):
            return self.data.readinto(into)

    assert [text for _, text in read_lines("x", Plain(SIMPLIFIED.encode("gbk")))] == SIMPLIFIED.splitlines()
