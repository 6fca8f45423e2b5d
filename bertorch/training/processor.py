"""What the processor can do, and how much of it other programs leave."""

import os
import time
from pathlib import Path

from loguru import logger

CPUINFO, STAT, QUOTA = Path("/proc/cpuinfo"), Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.max")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's


def lacks_bf16() -> bool:
    """Whether the processor has no instructions for bf16, which is then slower than fp32; False where nothing tells."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return False
    flags = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return bool(flags) and not _BF16 & set(flags[0])


class Crowding:
    """Tells once, at the first ``report``, where several threads compute and other programs leave them fewer cores.

    Args:
        threads: those of this process.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self.before = _seconds()

    def report(self) -> None:
        before, now, self.before = self.before, _seconds(), None
        if before is None or now is None or now[0] == before[0]:
            return
        wall, busy, own = (end - start for end, start in zip(now, before, strict=True))
        cores = _cores()
        left = min(max(cores - (busy - own) / wall, 0.0), cores)
        if self.threads > max(left + 0.5, 1):
            logger.warning(
                f"{self.threads} threads compute, and other programs leave {left:.1f} of {cores:g} cores; "
                f"OMP_NUM_THREADS={max(1, round(left))} may be faster"
            )


def _cores() -> float:
    """How many this process may use, by its affinity and, in a container, its quota."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = QUOTA.read_text(encoding="utf-8").split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # none; "max"
        return cores


def _seconds() -> tuple[float, float, float] | None:
    """Seconds by the clock, seconds that the cores of this process were busy, and those of this process; None: unknown."""
    try:
        lines = STAT.read_text(encoding="utf-8").splitlines()
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # not Linux
        return None
    times = [[int(value) for value in line.split()[1:9]] for line in lines if line.split()[0] in names]
    busy = sum(sum(ticks) - ticks[3] - ticks[4] for ticks in times) / os.sysconf("SC_CLK_TCK")  # less idle, and disk waits
    return time.perf_counter(), busy, time.process_time()
