"""What is read of the processor and of other programs' use of it, from files of a made-up machine."""

import os
import time

import pytest

from bertorch.training import processor, run
from bertorch.training.processor import Crowding, lacks_bf16
from tests.scripts.launch import call, training_flags

X86 = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f{}\nbugs\t\t: none\n"


@pytest.mark.parametrize(
    ("cpuinfo", "lacking"),
    [
        (X86.format(""), True),
        (X86.format(" avx512_bf16"), False),
        (X86.format(" amx_bf16 amx_tile"), False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", False),
        ("hart\t: 0\nisa\t: rv64imafdc\n", False),  # nothing is known
    ],
)
def test_bf16_instructions(cpuinfo, lacking, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert lacks_bf16() is lacking


def test_another_system_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    assert lacks_bf16() is False


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_bf16_without_instructions_is_one_warning(precision, small_encoder, tmp_path, monkeypatch, capsys):
    (tmp_path / "cpuinfo").write_text(X86.format(""))
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    flags = training_flags(small_encoder, tmp_path / "out", precision=precision, device="cpu", max_steps=1)
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert capsys.readouterr().err.count("no instructions for bf16") == (precision == "bf16")


class Machine:
    """A machine of four cores of which this process may use two, with a clock and counters of its own."""

    def __init__(self, directory, monkeypatch):
        self.stat, self.wall, self.own = directory / "stat", 100.0, 7.0
        self.monkeypatch = monkeypatch
        self.ticks = [0, 0, 0, 0]
        monkeypatch.setattr(processor, "STAT", self.stat)
        monkeypatch.setattr(processor, "QUOTA", directory / "cpu.max")
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 3})
        monkeypatch.setattr(os, "sysconf", lambda name: 100)
        monkeypatch.setattr(time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        self.let_pass(0, 0, [0, 0, 0, 0])

    def let_pass(self, seconds, own, busy):
        """``own`` seconds of this process's work, ``busy`` ones of each core."""
        self.wall, self.own = self.wall + seconds, self.own + own
        self.ticks = [ticks + round(100 * part) for ticks, part in zip(self.ticks, busy, strict=True)]
        idle = [round(100 * self.wall) - ticks for ticks in self.ticks]
        times = enumerate(zip(self.ticks, idle, strict=True))
        lines = [f"cpu{core} {busy} 0 0 {rest} 5 0 0 0 0 0" for core, (busy, rest) in times]
        self.stat.write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 0 0", *lines, "intr 5"]) + "\n")


@pytest.mark.parametrize(
    ("threads", "own", "busy", "quota", "said"),
    [
        (2, 20, [0, 10, 10, 10], None, ""),  # both cores are ours, whatever the other two do
        (2, 10, [10, 10, 0, 10], None, "2 threads compute, and other programs leave 1.0 of 2 cores; OMP_NUM_THREADS=1"),
        (1, 10, [10, 10, 0, 10], None, ""),
        (2, 17, [0, 10, 0, 10], None, ""),  # what runs for a moment beside it does not count
        (1, 2, [0, 10, 0, 10], None, ""),  # nothing to lower
        (2, 2, [0, 10, 0, 10], None, "2 threads compute, and other programs leave 0.2 of 2 cores; OMP_NUM_THREADS=1"),
        (2, 10, [0, 5, 0, 5], "100000 100000", "2 threads compute, and other programs leave 1.0 of 1 cores"),
        (2, 20, [0, 10, 0, 10], "max 100000", ""),
    ],
)
def test_more_threads_than_idle_cores(threads, own, busy, quota, said, tmp_path, monkeypatch, messages):
    machine = Machine(tmp_path, monkeypatch)
    if quota:
        (tmp_path / "cpu.max").write_text(quota)
    crowding = Crowding(threads)
    machine.let_pass(10, own, busy)
    crowding.report()
    machine.let_pass(10, 0, [10, 10, 10, 10])
    crowding.report()  # once is enough
    assert len(messages) == bool(said) and "".join(messages).startswith(said)


def test_a_training_says_it_once(small_encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "Crowding", lambda threads: Crowding(100))
    flags = training_flags(small_encoder, tmp_path / "out", device="cpu", logging_steps=1)
    assert call("run_classifier.py", flags, monkeypatch) == 0
    assert capsys.readouterr().err.count("100 threads compute") == 1
