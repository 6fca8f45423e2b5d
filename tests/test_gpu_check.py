"""The command for a machine with a GPU: what fails or hangs costs the other parts nothing, and there is always a table."""

import json
import os
import signal
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import PATIENCE, finished, started
from tests.scripts.launch import ROOT, environment

BENCHMARKS = ROOT / "benchmarks"
GOOD = """
import json, os
with open(os.environ["GPU_CHECK_RESULTS"], "a") as handle:
    handle.write(json.dumps({"part": "good", "row": "a case", "samples/s": 12345.6}) + "\\n")
"""
# It has measured something, and writes half a line, before it fails.
FAILS = """
import json, os
with open(os.environ["GPU_CHECK_RESULTS"], "a") as handle:
    handle.write(json.dumps({"part": "fails", "row": "before", "ms": 3}) + "\\n" + '{"part": "fails", "row": "ha')
raise RuntimeError("an illegal memory access was encountered")
"""
# Neither it nor its child listens.
HANGS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(900)"])
with open(sys.argv[1], "w") as handle:
    print(os.getpid(), child.pid, file=handle)
time.sleep(900)
"""  # noqa: E501


@pytest.fixture
def gpu_check(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    return gpu_check


def part(gpu_check, name, code, *arguments, limit=PATIENCE):
    return gpu_check.Part(name, limit, [sys.executable, "-c", code, *arguments], f"What {name} measures")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows(text: str) -> dict[str, list[str]]:
    """The rows of all tables, by their first cell."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: [cell.strip() for cell in cells[1:]] for cells in lines}


def test_what_fails_or_hangs_costs_the_others_nothing(gpu_check, tmp_path):
    pids = tmp_path / "pids"
    parts = [
        part(gpu_check, "fails", FAILS),
        part(gpu_check, "hangs", HANGS, str(pids), limit=3),
        gpu_check.Part("no-program", 60, [sys.executable, str(tmp_path / "nowhere.py")], ""),
        part(gpu_check, "good", GOOD),
    ]
    text = gpu_check.conduct(parts, tmp_path, 4 * PATIENCE, dict(os.environ))
    found = rows(text)
    assert found["fails"][0] == "failed" and "an illegal memory access was encountered" in found["fails"][2]
    assert found["hangs"][::2] == ["timed out", "killed after 3 s"]
    assert found["no-program"][0] == "failed" and "nowhere.py" in found["no-program"][2]
    assert found["good"][0] == "ok"
    assert found["a case"] == ["12,346"]
    assert found["before"] == ["3"]  # what it had measured; the half line is left aside
    assert "### What good measures" in text
    assert (tmp_path / "table.md").read_text() == text
    if pids.exists():  # on a very busy machine it may not have come that far
        assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_the_table_is_there_after_each_part(gpu_check, tmp_path):
    """A machine may be gone after ten minutes, without a word."""
    look = "import pathlib, sys; pathlib.Path(sys.argv[2]).write_text(pathlib.Path(sys.argv[1]).read_text())"
    gpu_check.conduct(
        [part(gpu_check, "good", GOOD), part(gpu_check, "looks", look, str(tmp_path / "table.md"), str(tmp_path / "seen"))],
        tmp_path,
        2 * PATIENCE,
        dict(os.environ),
    )
    assert rows((tmp_path / "seen").read_text())["a case"] == ["12,346"]


def test_parts_for_which_no_time_is_left_say_so(gpu_check, tmp_path):
    slow = "import time; time.sleep(900)"
    text = gpu_check.conduct([part(gpu_check, "slow", slow), part(gpu_check, "good", GOOD)], tmp_path, 2, dict(os.environ))
    assert rows(text)["slow"][0] == "timed out"
    assert rows(text)["good"] == ["not run", "", "no time was left"]


def test_an_interrupted_check_kills_its_part_and_prints_the_table(tmp_path):
    """As the machine's own limit does: SIGTERM to the command alone."""
    flags = ["--rehearse", "--out", str(tmp_path), "--parts", "device"]
    with started([sys.executable, str(BENCHMARKS / "gpu_check.py"), *flags], env=environment()) as process:
        for line in process.stderr:
            if line.startswith("device ..."):
                break
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out.startswith("Rehearsed on a CPU")


def test_speeds_stand_beside_those_of_the_trainer(gpu_check):
    results = [
        {"part": "training", "row": "a", "case": "a", "samples/s": 300.0},
        {"part": "training", "row": "b", "case": "b", "samples/s": 300.0},
        {"part": "trainer", "row": "a", "case": "a", "samples/s": 120.0},
        {"part": "trainer-grouped", "row": "a", "case": "a", "samples/s": 200.0},
        {"part": "training", "row": "c", "failed": "RuntimeError: a | b"},
    ]
    text = gpu_check.table(results, {})
    assert "| a | 300 | 2.50x |  |" in text.splitlines()
    assert "| b | 300 |  |  |" in text.splitlines()
    assert "| c |  |  | RuntimeError: a \\| b |" in text.splitlines()
    assert "| a | 120 |" in text.splitlines()


def test_only_packages_that_are_missing_are_unpacked(gpu_check, tmp_path):
    for name in ("loguru-0.0.1", "surely_not_there-1.0"):
        with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name.partition('-')[0]}.py", "answer = 42")
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("not a wheel")
    assert gpu_check.unpack_missing(tmp_path, tmp_path / "packages") == ["surely_not_there"]
    assert [path.name for path in (tmp_path / "packages").iterdir()] == ["surely_not_there.py"]


def test_every_part_has_a_function(gpu_check):
    import gpu_parts

    assert list(gpu_parts.RUNS) == list(gpu_check.PARTS)


def test_every_test_that_needs_a_gpu_is_among_those_that_are_run():
    """They are found by their mark."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__):
            assert text.count("skipif(not torch.cuda.is_available()") == text.count("mark.cuda"), path


def test_synthetic_rows_have_the_lengths_they_stand_for(gpu_check):
    """Of ChnSentiCorp's 9,600 training rows, the mean is 81.9 tokens of 128, and 105.7 of 512."""
    import gpu_parts

    for longest, mean in ((128, 81.9), (512, 105.7)):
        lengths = gpu_parts.synthetic_lengths("real", longest, 20_000)
        assert lengths.max() == longest and abs(lengths.mean() - mean) < 0.08 * mean
    assert set(gpu_parts.synthetic_lengths("full", 128, 10)) == {128}


@pytest.mark.slow
def test_a_rehearsal_runs_the_parts(tmp_path):
    """Our side and the Trainer's train, and a cell that fails is recorded while the next one is measured."""
    flags = ["--rehearse", "--out", str(tmp_path), "--seconds", str(PATIENCE), "--parts", "device", "training", "encoding"]
    done = finished([sys.executable, str(BENCHMARKS / "gpu_check.py"), *flags], env=environment())
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(one["part"], one["ended"]) for one in found if "ended" in one] == [
        ("device", "ok"), ("training", "ok"), ("encoding", "ok"),
    ]  # fmt: skip
    cells = [one for one in found if one.get("part") == "training" and "row" in one]
    assert len(cells) == 2 and all(one["samples/s"] > 0 for one in cells)
    encoded = [one for one in found if one.get("part") == "encoding" and "row" in one]
    assert any("FlashAttention2" in one.get("failed", "") for one in encoded)
    assert encoded[-1]["row"].startswith("bertorch") and encoded[-1]["texts/s"] > 0
    assert encoded[-1]["lowest cosine"] > 0.9999
