"""scripts/predict_ray.py: shards that lose no row, and answers on two workers, stopped in the middle and continued."""

import gzip
import importlib.util
import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertorch import load_predictor
from bertorch.data.files import BadRows
from tests.scripts.launch import REVIEWS, ROOT, as_flags, run, start

pytest.importorskip("pyarrow")
SPEC = importlib.util.spec_from_file_location("predict_ray", ROOT / "scripts" / "predict_ray.py")
predict_ray = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(predict_ray)
TEXTS = [line.split("\t")[0] for line in (REVIEWS / "train.tsv").read_text(encoding="utf-8").splitlines()]
SETTINGS = {"input_format": None, "is_text_pair": False, "is_question": False}


def settings(**flags):
    return {**SETTINGS, **flags}


@given(lines=st.lists(st.text("ab 好\u2028", max_size=9), max_size=30), size=st.integers(1, 60), ended=st.booleans())
def test_every_line_is_in_one_shard(tmp_path_factory, lines, size, ended):
    """Whatever the size of shards, also smaller than a line or a character; with or without an end of the last line."""
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    data = "\n".join(lines).encode() + b"\n" * ended
    path.write_bytes(data)
    shards = predict_ray.plan_shards([(str(path), len(data))], size)
    assert [shard["name"] for shard in shards] == sorted({shard["name"] for shard in shards})
    parts = [predict_ray.open_shard(shard).read() for shard in shards]
    assert b"".join(parts) == data
    assert all(part.endswith(b"\n") for part in list(filter(None, parts))[:-1])


def test_rows_of_every_format(tmp_path):
    """As predict.py reads them; a blank row has no texts, and keeps its place."""
    for name, data, texts in (
        ("a.txt", "好\t的\n\n差\n", [("好\t的",), (), ("差",)]),
        ("a.tsv", "好\tx\n \t\n差\ty\n", [("好",), (), ("差",)]),
        ("a.jsonl", '{"text": "好"}\n{"text": ""}\n{"text": "差"}\n', [("好",), (), ("差",)]),
    ):
        for packed in (False, True):
            path = tmp_path / (name + ".gz" * packed)
            path.write_bytes(gzip.compress(data.encode()) if packed else data.encode())
            (shard,) = predict_ray.plan_shards(predict_ray.input_files([str(path)]), 1 << 20)
            bad = BadRows(path)
            assert [row.texts for row in predict_ray.rows_of(shard, settings(), bad)] == texts and not bad.count
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "谁", "context": "我"}\n', encoding="utf-8")
    (shard,) = predict_ray.plan_shards(predict_ray.input_files([str(path)]), 1 << 20)
    (row,) = predict_ray.rows_of(shard, settings(is_question=True, is_text_pair=True), BadRows(path))
    assert row.texts == ("谁", "我")


@pytest.fixture
def task(tiny_model, tmp_path):
    """Flags of a run over 12 files of 40 rows each, and the rows."""
    rows = tmp_path / "rows"
    rows.mkdir()
    for number in range(12):
        (rows / f"{number:02}.txt").write_text("".join(f"{text}\n" for text in TEXTS[number * 30 :][:40]), encoding="utf-8")
    model = tiny_model("bert", "ForSequenceClassification", num_labels=3)
    texts = [text for number in range(12) for text in TEXTS[number * 30 :][:40]]
    return {"model_dir": model, "input": rows, "output_dir": tmp_path / "out", "workers": 2, "with_text": True}, texts


@pytest.mark.slow
def test_two_workers_stopped_in_the_middle(task):
    """What is there is kept as it is; the rest is made; the answers are the predictor's, in the order of the rows."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install bertorch[ray]")
    flags, texts = task
    with start("scripts/predict_ray.py", as_flags(**flags)) as process:
        while len(list(flags["output_dir"].glob("part-*"))) < 3:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
    before = {path: path.stat().st_mtime_ns for path in flags["output_dir"].glob("part-*")}
    assert 3 <= len(before) < 12
    done = run("scripts/predict_ray.py", as_flags(**flags))
    assert done.returncode == 0 and f"{len(before)} are there already" in done.stderr, done.stderr
    shards = sorted(flags["output_dir"].glob("part-*"))
    assert len(shards) == 12 and all(path.stat().st_mtime_ns == at for path, at in before.items())
    answers = [json.loads(line) for path in shards for line in path.read_text(encoding="utf-8").splitlines()]
    expected = load_predictor(flags["model_dir"], device="cpu")(texts)
    assert [one["text"] for one in answers] == texts
    assert [one["label"] for one in answers] == [one["label"] for one in expected]
    for one, other in zip(answers, expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)
    again = run("scripts/predict_ray.py", as_flags(**flags))
    assert again.returncode == 0 and "12 are there already" in again.stderr
    other = run("scripts/predict_ray.py", as_flags(**{**flags, "with_text": False}))
    assert other.returncode == 2 and "plan.json is of another input, model or flags" in other.stderr


@pytest.mark.slow
def test_a_bad_row_stops_its_shard_alone(task):
    pytest.importorskip("ray", reason="Ray is not installed: pip install bertorch[ray]")
    flags, _ = task
    (flags["input"] / "05.tsv").write_text("a\tb\tc\td\n", encoding="utf-8")
    done = run("scripts/predict_ray.py", as_flags(**flags))
    assert done.returncode == 2 and "4 columns where" in done.stderr and "1 of 13 shards failed" in done.stderr
    assert len(list(flags["output_dir"].glob("part-*"))) == 12
    assert not list(flags["output_dir"].glob(".*")), sys.platform
