"""predict.py and rows that keep coming: answers before the end of the input, what an interruption keeps."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading

import numpy as np
import pytest

from bertorch.tasks import streaming
from tests.scripts.launch import REVIEWS, as_flags, call, complaint, run, start

HEAD = "ForSequenceClassification"
TEXTS = [line.split("\t")[0] for line in (REVIEWS / "dev.tsv").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def model(tiny_model):
    return tiny_model("bert", HEAD, num_labels=3)


@pytest.fixture
def predict(monkeypatch, capsys):
    """``predict(stdin, code, **flags)`` -> standard output and standard error."""

    def answer(stdin=None, code=0, **flags):
        capsys.readouterr()
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        found_code = call("predict.py", as_flags(device="cpu", **flags), monkeypatch)
        found = capsys.readouterr()
        assert found_code == code, found.err
        return found.out, found.err

    return answer


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


@contextlib.contextmanager
def piped(model, **flags):
    """predict.py in a process of its own, which waits for rows."""
    with start("predict.py", as_flags(model_dir=model, device="cpu", **flags), stdin=subprocess.PIPE) as process:
        yield process


def give(process, *lines):
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()


# While rows come


def test_an_answer_comes_before_the_next_row(model):
    with piped(model) as process:
        for _ in range(3):
            give(process, "房间很干净")
            assert process.stdout.readline().startswith("LABEL_")
        give(process, "早餐差", "", "好")
        assert [bool(process.stdout.readline().strip()) for _ in range(3)] == [True, False, True]
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_row_that_cannot_be_used_ends_a_pipe_at_once(model):
    """What comes before it is answered; the pipe need not end."""
    with piped(model, input_format="jsonl") as process:
        give(process, '{"text": "好"}', "no json", '{"text": "差"}')
        assert process.stdout.readline().startswith("LABEL_")
        assert not process.stdout.read()
        assert process.wait(60) == 2
        assert "<stdin>:2: not JSON" in process.stderr.read()


def test_an_interruption_keeps_what_was_written(model, tmp_path):
    out = tmp_path / "out.tsv"
    part = tmp_path / "out.tsv.part"
    with piped(model, output_file=out) as process:
        give(process, *TEXTS[:5])
        while not (part.exists() and part.read_text(encoding="utf-8").count("\n") == 5):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
        lines = process.stderr.read().splitlines()
    assert lines[-1] == f"predict.py: interrupted; 5 rows are answered, in {part}"
    assert not out.exists() and len(part.read_text(encoding="utf-8").splitlines()) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_nothing_comes(model, number):
    with piped(model) as process:
        give(process, "好")
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert "1 row is answered" in process.stderr.read().splitlines()[-1]


def test_a_named_pipe(model, predict, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text("好\n差\n", encoding="utf-8"))
    writer.start()
    found, _ = predict(model_dir=model, input_file=path)
    writer.join()
    assert found == predict("好\n差\n", model_dir=model)[0] and found.count("\n") == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "gb18030"])
def test_a_pipe_in_another_encoding(model, predict, monkeypatch, encoding):
    expected, _ = predict("".join(f"{text}\n" for text in TEXTS[:9]), model_dir=model)
    data = "".join(f"{text}\n" for text in TEXTS[:9]).encode(encoding)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    told = {"encoding": encoding} if encoding[-2:] in ("le", "be") else {}
    assert predict(model_dir=model, **told)[0] == expected


# Files


@pytest.fixture
def large(monkeypatch):
    """Every file counts as large: it is answered while it is read."""
    monkeypatch.setattr(streaming, "_SMALL", -1)


def test_rows_before_a_bad_one_are_answered_and_all_bad_ones_named(model, predict, large, tmp_path):
    rows = write(tmp_path / "rows.tsv", *TEXTS[:5], "a\tb\tc\td", *TEXTS[:5], "a\tb\tc")
    out, error = predict(code=2, model_dir=model, input_file=rows, output_file=tmp_path / "out.tsv")
    assert f"{rows}:6: 4 columns" in error and f"{rows}:12: 3 columns" in error and "2 bad rows" in error
    part = tmp_path / "out.tsv.part"
    assert f"{rows}: 5 rows are answered, in {part}" in error
    assert len(part.read_text(encoding="utf-8").splitlines()) == 5 and not (tmp_path / "out.tsv").exists()


def test_a_small_file_is_checked_before_the_first_answer(model, predict, tmp_path):
    rows = write(tmp_path / "rows.tsv", *TEXTS[:5], "a\tb\tc\td")
    out, _ = predict(code=2, model_dir=model, input_file=rows, output_file=tmp_path / "out.tsv")
    assert out == "" and sorted(path.name for path in tmp_path.iterdir()) == ["rows.tsv"]


def test_a_full_disk_is_one_line(model, predict, tmp_path, monkeypatch):
    def full(self, answers):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(streaming.Output, "_put", full)
    out, error = predict(code=2, model_dir=model, input_file=write(tmp_path / "a.tsv", "好"), output_file=tmp_path / "out")
    assert "out: cannot be written (No space left on device)" in complaint(error)


def test_figures_of_a_file_in_blocks(model, predict, large, tmp_path):
    """The figures of all its rows, whatever the blocks."""
    rows = [f"{text}\tLABEL_{number % 3}" for number, text in enumerate(TEXTS)]
    path = write(tmp_path / "rows.tsv", *rows)
    answers = predict(model_dir=model, input_file=path)[0].splitlines()
    accuracy = np.mean([answer == f"LABEL_{number % 3}" for number, answer in enumerate(answers)])
    for size in (1, 4):
        printed, _ = predict(model_dir=model, input_file=path, evaluate=True, batch_size=size)
        assert f"accuracy: {accuracy:.5f}" in printed
        assert f"{len(TEXTS)}" in printed.split()


@pytest.mark.slow
def test_two_processes_write_the_bytes_of_one(model, tmp_path):
    rows = write(tmp_path / "rows.tsv", *TEXTS, "", *TEXTS[:50])
    how = {"model_dir": model, "input_file": rows, "probabilities": True, "batch_size": 4, "device": "cpu"}
    for processes in (0, 2):
        done = run("predict.py", as_flags(**how, output_file=tmp_path / f"{processes}.tsv"), processes=processes)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "2.tsv").read_bytes() == (tmp_path / "0.tsv").read_bytes()
    assert (tmp_path / "2.tsv").read_text(encoding="utf-8").count("\n") == len(TEXTS) + 51


@pytest.mark.slow
def test_two_processes_explain_as_one(model, tmp_path):
    rows = write(tmp_path / "rows.tsv", *TEXTS[:9])
    how = {"model_dir": model, "input_file": rows, "explain": True, "explain_steps": 2, "device": "cpu"}
    for processes in (0, 2):
        done = run("predict.py", as_flags(**how, output_file=tmp_path / f"{processes}.jsonl"), processes=processes)
        assert done.returncode == 0 and "the largest gap" in done.stderr or "raise --explain_steps" in done.stderr
    assert (tmp_path / "2.jsonl").read_bytes() == (tmp_path / "0.jsonl").read_bytes()


# The reader


def test_reading_is_never_far_ahead():
    taken = []

    def rows():
        for number in range(1000):
            taken.append(number)
            yield number

    ahead = streaming._ReadAhead(rows(), 10)
    for first in range(0, 1000, 7):
        assert ahead.take(7, None) == list(range(first, min(first + 7, 1000)))
        assert len(taken) <= first + 7 + 11  # what waits, and the one in hand
    assert ahead.take(7, None) == []
    ahead.close()


def test_what_reading_raises_comes_after_the_rows_before_it():
    def rows():
        yield from range(5)
        raise KeyError("bad")

    ahead = streaming._ReadAhead(rows(), 100)
    assert ahead.take(50, None) == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        ahead.take(50, None)


def test_blocks_grow_and_do_not_depend_on_processes():
    def sizes(world_size):
        rounds = streaming._rounds(streaming._ReadAhead(range(100), 100), 1, 16, world_size, None)
        return [list(map(len, blocks)) for blocks in rounds]

    assert sizes(1) == [[1], [2], [4], [8], [16], [16], [16], [16], [16], [5]]
    assert sizes(3) == [[1, 2, 4], [8, 16, 16], [16, 16, 16], [5]]


def test_an_interrupted_array_is_valid(tmp_path):
    args = type("Flags", (), {"output_file": str(tmp_path / "a.npy"), "evaluate": False})
    output = streaming.ArrayOutput(args, 3)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    output.write(rows[:1], 1)
    output.write(rows[1:], 3)
    output.close()
    assert np.array_equal(np.load(tmp_path / "a.npy.part"), rows) and not (tmp_path / "a.npy").exists()


# The bar


def on_terminal(command, **how):
    """What a process writes to its standard error, which is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    with start(*command, stderr=theirs, **how) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is closed
            while more := os.read(ours, 65536):
                shown += more
        process.wait(60)
    os.close(ours)
    return shown.decode()


def test_a_bar_on_a_terminal_alone(model, tmp_path):
    """With the rows, their rate and the time left; not where the answers go to a terminal too, or to a file."""
    path = write(tmp_path / "rows.tsv", *TEXTS)
    flags = as_flags(model_dir=model, input_file=path, device="cpu", batch_size=4)
    shown = on_terminal(("predict.py", flags), stdout=subprocess.DEVNULL)
    assert re.search(rf"100%.*{len(TEXTS)}/{len(TEXTS)} \[\d\d:\d\d<\d\d:\d\d, +[\d.]+k? rows/s", shown), shown
    done = run("predict.py", flags)
    assert done.stderr == "" and done.stdout.count("\n") == len(TEXTS)


# Formats of a pipe


def test_json_lines_through_a_pipe_are_recognised(model, predict):
    expected, _ = predict("".join(f"{text}\n" for text in TEXTS[:9]), model_dir=model, probabilities=True)
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS[:9])
    found, said = predict(f"\n{lines}", model_dir=model, probabilities=True)
    assert found.split("\n")[1:] == expected.split("\n")
    literal, _ = predict(lines, model_dir=model, probabilities=True, input_format="text")
    assert literal != expected and literal.count("\n") == 9
    listed, _ = predict(json.dumps([{"text": text} for text in TEXTS[:9]]), model_dir=model, probabilities=True)
    assert listed == expected


def test_tabs_inside_piped_text(model, predict):
    """As text a TAB is a blank inside the text; as tsv it ends the text."""
    found = predict("好的\t差的\t的\n", model_dir=model, input_format="text", with_text=True)[0]
    assert found.split("\t")[1] == "好的 差的 的\n"
    assert "--input_format text is for a text per line" in complaint(
        predict("好\t差\n", 2, model_dir=model, input_format="text", is_text_pair=True)[1]
    )
    assert "--input_format columns is for entities" in complaint(
        predict("好\n", 2, model_dir=model, input_format="columns")[1]
    )


# Answers with what they answer


def test_texts_labels_and_a_header(model, predict, tmp_path):
    rows = write(tmp_path / "rows.tsv", "好的\tLABEL_1", "", "差\tLABEL_0")
    how = {"model_dir": model, "input_file": rows, "with_text": True, "with_label": True, "header": True}
    plain = predict(model_dir=model, input_file=rows)[0].split("\n")
    header, *lines = predict(**how, probabilities=True)[0].split("\n")[:-1]
    assert header.split("\t") == ["label", "LABEL_0", "LABEL_1", "LABEL_2", "gold", "text"]
    cells = [line.split("\t") for line in lines]
    assert [(row[0], *row[4:]) for row in cells] == [
        (plain[0], "LABEL_1", "好的"), ("", "", ""), (plain[2], "LABEL_0", "差")
    ]  # fmt: skip
    found = [json.loads(line) for line in predict(**how, output_format="jsonl")[0].splitlines()]
    assert found[1] == {"label": None, "gold": None, "text": None}
    assert found[0] == {"label": plain[0], "gold": "LABEL_1", "text": "好的"}
    pairs = write(tmp_path / "pairs.csv", '"好\t的",差,x', "一,二,y")
    header, first, _ = predict(
        model_dir=model, input_file=pairs, is_text_pair=True, with_text=True, with_label=True, header=True
    )[0].splitlines()
    assert header == "label\tgold\ttext_a\ttext_b" and first.split("\t")[1:] == ["x", "好 的", "差"]


def test_masks_with_their_texts(tiny_model, predict):
    how = {"model_dir": tiny_model("bert", "ForMaskedLM"), "with_text": True, "top_k": 1}
    header, line = predict("房间[MASK]净\n", **how, header=True)[0].splitlines()
    assert header.split("\t") == ["text", "original_text", "masks"]
    filled, original, candidates = line.split("\t")
    assert original == "房间[MASK]净" and "[MASK]" not in filled and re.fullmatch(r"\S+:0\.\d{4}", candidates)
    found = json.loads(predict("房间[MASK]净\n", **how, output_format="jsonl")[0])
    assert (found["text"], found["original"]) == (filled, original)


def test_vectors_and_cosines_with_their_texts(tiny_model, predict, tmp_path):
    how = {"model_dir": tiny_model("bert"), "pooling_mode": "mean", "with_text": True, "with_label": True}
    header, line = predict("好\t差\t1\n", **how, header=True)[0].splitlines()
    assert header == "similarity\tgold\ttext_a\ttext_b" and re.fullmatch(r"-?\d\.\d{6}\t1\t好\t差", line)
    assert json.loads(predict("好\n", **how)[0])["text"] == "好"
    assert ".npy holds vectors alone" in complaint(predict("好\n", 2, **how, output_file=tmp_path / "a.npy")[1])
    corpus = write(tmp_path / "corpus.txt", "房间", "好")
    header, line = predict("好\n", **how, header=True, corpus=corpus, top_k=1)[0].splitlines()
    assert header == "query\trank\tscore\tline\ttext\tquery_text" and line == "1\t1\t1.000000\t2\t好\t好"


def test_entities_with_their_texts(entity_model, predict):
    text = "去了敦煌，诸葛曹也来"
    header, *lines = predict(f"{text}\n", model_dir=entity_model("linear"), with_text=True, header=True)[0].splitlines()
    assert header.split("\t") == ["line", "type", "entity", "start", "end", "confidence", "text"]
    assert lines and all(line.split("\t")[-1] == text for line in lines)
    row = json.dumps({"text": text, "entities": [[2, 4, "LOC"]]}, ensure_ascii=False)
    found = json.loads(predict(f"{row}\n", model_dir=entity_model("linear"), output_format="jsonl", with_label=True)[0])
    assert found["gold"] == [{"type": "LOC", "text": "敦煌", "start": 2, "end": 4}]
    assert "add --output_format jsonl" in complaint(predict("好\n", 2, model_dir=entity_model("linear"), with_label=True)[1])


def test_questions_through_a_pipe(tiny_model, predict, tmp_path):
    """A line a question, as json or as a table; the same answers as from a file in SQuAD's layout."""
    model = tiny_model("bert", "ForQuestionAnswering", max_position_embeddings=256)
    how = {"model_dir": model, "max_seq_length": 256, "doc_stride": 32}
    asked = [("酒店在哪里", "房间干净，服务员喜欢早餐。"), ("谁", "我们看电影"), ("何", "人在大房间里")]
    qas = [{"context": context, "qas": [{"id": str(number), "question": text, "answers": [{"text": context[:2]}]}]}
           for number, (text, context) in enumerate(asked, 1)]  # fmt: skip
    path = write(tmp_path / "squad.json", json.dumps({"data": [{"paragraphs": qas}]}))
    expected, _ = predict(**how, input_file=path)
    found, _ = predict("".join(f"{text}\t{context}\n" for text, context in asked), **how, input_format="tsv")
    shares = [[json.loads(line).pop("probability") for line in lines.splitlines()] for lines in (found, expected)]
    assert shares[0] == pytest.approx(shares[1], abs=1e-5)
    assert re.sub('"probability": [^,]*', "", found) == re.sub('"probability": [^,]*', "", expected)
    lines = "".join(json.dumps({"question": text, "context": context, "answers": [{"text": context[:2]}]}) + "\n"
                    for text, context in asked)  # fmt: skip
    answers = [json.loads(line) for line in predict(
        lines, **how, input_format="jsonl", with_text=True, with_label=True
    )[0].splitlines()]  # fmt: skip
    assert [one["context"] for one in answers] == [context for _, context in asked]
    assert [one["gold"] for one in answers] == [[context[:2]] for _, context in asked]
    rows = write(tmp_path / "rows.jsonl", *lines.splitlines())
    printed = [predict(**how, input_file=one, evaluate=True)[0] for one in (rows, path)]
    assert printed[0] == printed[1] and "f1" in printed[0]
    bad = predict('{"question": "谁"}\n', 2, **how, input_format="jsonl")[1]
    assert "<stdin>:1: question 1: no passage; write a text under key context" in bad
