"""Lines and cells: line ends, encodings, gzip, csv quoting, json lines, label files, bad rows."""

import gzip
import io
from pathlib import Path

import pytest

from bertorch.data.files import BadRows, as_stream, file_format, read_cells, read_labels, read_lines
from bertorch.errors import UserError


def written(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix.lower() == ".gz" else data)
    return path


def cells_of(path: Path, **options) -> list:
    return list(read_cells(path, BadRows(path), **options))


def test_a_byte_order_mark_and_carriage_returns_go(tmp_path):
    path = written(tmp_path / "a.tsv", b"\xef\xbb\xbfone\r\n\xef\xbb\xbftwo\r\r\nthree")
    assert list(read_lines(path)) == [(1, "one"), (2, "\ufefftwo\r"), (3, "three")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r"])
def test_only_a_line_feed_ends_a_line(tmp_path, separator):
    path = written(tmp_path / "a.tsv", f"left{separator}right\t1\nnext\t2\n")
    assert list(read_lines(path)) == [(1, f"left{separator}right\t1"), (2, "next\t2")]


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.TSV.GZ"])
def test_gzipped_files(tmp_path, name):
    path = written(tmp_path / name, "一\n二\n")
    assert list(read_lines(path)) == [(1, "一"), (2, "二")]


def test_a_stream_is_read_instead_of_the_path():
    assert list(read_lines("<stdin>", as_stream("一\n".encode()))) == [(1, "一")]
    with pytest.raises(UserError, match="^<stdin>:2: not UTF-8"):
        list(read_lines("<stdin>", io.BytesIO(b"fine\n\xff\n")))


def test_text_that_is_not_utf_8_names_its_line(tmp_path):
    path = written(tmp_path / "a.tsv", "好\n好\n".encode() + "好\n".encode("gbk"))
    with pytest.raises(UserError, match=r"a\.tsv:3: not UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"plain text\n", lambda data: data + b"more", lambda data: data[:-6]],
    ids=["half", "no gzip", "rubbish after it", "no checksum"],
)
def test_a_damaged_gzip_file(tmp_path, damage):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(damage(gzip.compress(b"".join(b"%d\t%d\n" % (row, row * row) for row in range(5000)))))
    with pytest.raises(UserError, match=r"a\.tsv\.gz: damaged gzip file after line \d+"):
        list(read_lines(path))


@pytest.mark.parametrize("length", [1, 40])
def test_bytes_that_changed_within_a_gzip_file(tmp_path, length):
    data = bytearray(gzip.compress(b"".join(b"%d\t%d\n" % (row, row * row) for row in range(5000))))
    place = len(data) // 2
    data[place : place + length] = bytes(value ^ 0xFF for value in data[place : place + length])
    path = tmp_path / "a.gz"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a\.gz: damaged gzip file"):
        list(read_lines(path))


def test_a_gzip_file_that_cannot_be_unpacked(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 40)  # a whole header, then a block of a kind that does not exist
    with pytest.raises(UserError, match=r"a\.gz: damaged gzip file"):
        list(read_lines(path))


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match=r"missing\.tsv: no such file"):
        list(read_lines(tmp_path / "missing.tsv"))
    with pytest.raises(UserError, match="a directory"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.tsv", "tsv"), ("a.txt", "tsv"), ("a", "tsv"), ("a.csv", "csv"), ("a.csv.gz", "csv"), ("a.CSV.GZ", "csv"),
        ("a.json", "jsonl"), ("a.jsonl.gz", "jsonl"), ("a.json.tsv", "tsv"),
    ],
)  # fmt: skip
def test_the_ending_decides_the_format(name, kind):
    assert file_format(name) == kind


def test_tab_separated_cells_are_taken_as_they_stand(tmp_path):
    path = written(tmp_path / "a.tsv", '"open\ta "b" c\t""\n\n\'x\ty,z\t\n')
    assert cells_of(path) == [(1, ['"open', 'a "b" c', '""']), (3, ["'x", "y,z", ""])]


@pytest.mark.parametrize(
    ("name", "content", "row"),
    [("a.tsv", "b\n\n \t\nb\n", ["b"]), ("a.csv", 'b\n\n"", \nb\n', ["b"]), ("a.jsonl", "{}\n\n\t\n{}\n", {})],
)
def test_blank_lines_keep_their_places_only_where_no_row_may_be_lost(tmp_path, name, content, row):
    path = written(tmp_path / name, content)
    assert cells_of(path) == [(1, row), (4, row)]
    assert cells_of(path, keep_all=True) == [(1, row), (2, None), (3, None), (4, row)]


def test_csv_quoting_and_the_line_each_row_starts_in(tmp_path):
    path = written(
        tmp_path / "a.csv", 'a,1\r\n"b, c",2\r\n"two\r\nlines\n\nand ""quotes""",3\r\n\r\n"d",4\r\n,\r\n"e\u2028f",5'
    )
    assert cells_of(path) == [
        (1, ["a", "1"]),
        (2, ["b, c", "2"]),
        (3, ['two\nlines\n\nand "quotes"', "3"]),
        (8, ["d", "4"]),
        (10, ["e\u2028f", "5"]),
    ]


@pytest.mark.parametrize("content", ['a,1\n"b,2\nc,3\n', 'a,1\n"b" c,2\n', "a,1\nb\rc,2\n"])
def test_unreadable_csv_names_the_line_its_row_starts_in(tmp_path, content):
    path = written(tmp_path / "a.csv", content)
    with pytest.raises(UserError, match=r"a\.csv:2: not readable as csv"):
        cells_of(path)


def test_a_csv_cell_longer_than_the_csv_module_allows_by_itself(tmp_path):
    path = written(tmp_path / "a.csv", '"' + "长" * 140_000 + '",1\n')
    assert cells_of(path) == [(1, ["长" * 140_000, "1"])]


def test_json_lines(tmp_path):
    path = written(tmp_path / "a.jsonl", '{"text": "a\\tb", "label": 1}\n\n{"text": "\\ud83d\\ude00"}\n')
    assert cells_of(path) == [(1, {"text": "a\tb", "label": 1}), (3, {"text": "😀"})]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{'text': 'a'}",
        '["a", "b"]',
        '"a"',
        "1",
        "null",
        "[" * 100_000,
        '{"label": ' + "9" * 5000 + "}",
        r'{"text": "half \ud83d of it"}',
        r'{"text": "a", "\uDC00": ["b"]}',
    ],
    ids=lambda text: text[:20],
)
def test_lines_that_hold_no_usable_json_object(tmp_path, text):
    path = written(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{text}\n{{"text": "b"}}\n')
    bad = BadRows(path)
    assert [line for line, _ in read_cells(path, bad)] == [1, 3]
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*\n.*1 bad row"):
        bad.close()
    assert list(read_cells(path, BadRows(path), keep_all=True)) == [(1, {"text": "a"}), (2, None), (3, {"text": "b"})]


def test_labels_stand_in_the_order_of_their_file(tmp_path):
    path = written(tmp_path / "labels.txt", "\ufeffpositive\r\n\r\n negative \r\n中性")
    assert read_labels(path) == ["positive", "negative", "中性"]


def test_label_files_that_cannot_be_used(tmp_path):
    with pytest.raises(UserError, match=r"twice\.txt:3: label 'a' appears twice"):
        read_labels(written(tmp_path / "twice.txt", "a\nb\n a\n"))
    with pytest.raises(UserError, match="no label in it"):
        read_labels(written(tmp_path / "empty.txt", "\n \n"))


def test_bad_rows_lists_ten_and_counts_all():
    bad = BadRows("a.tsv")
    for line in range(3, 28):
        bad.add(line, "wrong", "mend it")
    with pytest.raises(UserError) as caught:
        bad.close()
    lines = str(caught.value).splitlines()
    assert lines[:10] == [f"a.tsv:{line}: wrong; mend it" for line in range(3, 13)]
    assert lines[10] == "... and 15 more"
    assert lines[11].startswith("a.tsv: 25 bad rows") and "--bad_rows skip" in lines[11]
    assert len(lines) == 12


def test_skipped_bad_rows_are_counted_in_the_log(messages):
    bad = BadRows("a.tsv", "skip")
    bad.close()
    assert messages == []
    bad.add(7, "wrong", "mend it")
    bad.close()
    assert len(messages) == 1 and "1 bad row left out" in messages[0] and "a.tsv:7" in messages[0]
