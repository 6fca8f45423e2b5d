"""No process outlives its test; where one does, the suite fails, names it and ends it."""

import os
import re
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import finished, started

ROOT = Path(__file__).parents[1]
LEAKS = """
import subprocess
def test_a_child(): subprocess.Popen(["sleep", "1000"])
def test_an_orphan_in_a_session_of_its_own(): subprocess.run(["sh", "-c", "setsid sleep 1000 &"])
"""
NONE = """
import subprocess
def test_one_that_is_about_to_end(): subprocess.run(["sh", "-c", "sleep 0.3 &"])
"""

pytestmark = pytest.mark.slow


def suite(tmp_path, tests, workers):
    (tmp_path / "test_some.py").write_text(tests, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "tests.processes", "-q", "-n", str(workers), "test_some.py"]
    return finished(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_that_are_left_fail_the_suite(tmp_path, workers):
    done = suite(tmp_path, LEAKS, workers)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED and "2 passed" in done.stdout, done.stdout
    left = re.findall(r"a test has left a process behind, (\d+): (.*)", done.stdout)
    assert len(left) == 2 and all("sleep 1000" in command for _, command in left)
    assert not any(psutil.pid_exists(int(pid)) for pid, _ in left)


def test_a_suite_that_leaves_none_passes(tmp_path):
    done = suite(tmp_path, NONE, 2)
    assert done.returncode == 0 and "left a process" not in done.stdout, done.stdout


def test_a_test_that_fails_leaves_none():
    """Neither its process nor those that this has started, in sessions of their own too."""
    code = (
        "import subprocess; one = subprocess.Popen(['sleep', '1000'], start_new_session=True); print(flush=True); one.wait()"
    )
    with pytest.raises(ZeroDivisionError), started([sys.executable, "-c", code]) as process:
        process.stdout.readline()
        (nested,) = psutil.Process(process.pid).children()
        raise ZeroDivisionError
    assert process.returncode < 0
    psutil.wait_procs([nested], timeout=60)
    assert not nested.is_running() or nested.status() == psutil.STATUS_ZOMBIE


def test_the_output_of_a_process():
    code = "import sys; print(sys.stdin.read()); print(2, file=sys.stderr); sys.exit(3)"
    done = finished([sys.executable, "-c", code], input="1")
    assert (done.returncode, done.stdout, done.stderr) == (3, "1\n", "2\n")
