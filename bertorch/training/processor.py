"""What the processor supports, and how many of its cores other programs leave free."""

import os
import time
from pathlib import Path

from loguru import logger

CPUINFO, STAT, QUOTA = Path("/proc/cpuinfo"), Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.max")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is ARM's


def lacks_bf16() -> bool:
    """Whether the processor lacks bf16 instructions, which makes bf16 slower than fp32; False if unknown."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return False
    flags = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return bool(flags) and not _BF16 & set(flags[0])


class Crowding:
    """Warns, at the first ``report`` only, if other programs leave fewer cores than this process has threads.

    Args:
        threads: number of threads of this process.
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
    """The number of cores that this process may use: its affinity and, in a container, its quota."""
    cores = float(len(os.sched_getaffinity(0)))
    try:
        quota, period = QUOTA.read_text(encoding="utf-8").split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no quota file, or "max"
        return cores


def _seconds() -> tuple[float, float, float] | None:
    """Wall-clock seconds, busy seconds of this process's cores, and CPU seconds of this process; None if unknown."""
    try:
        lines = STAT.read_text(encoding="utf-8").splitlines()
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # not Linux
        return None
    times = [[int(value) for value in line.split()[1:9]] for line in lines if line.split()[0] in names]
    busy = sum(sum(ticks) - ticks[3] - ticks[4] for ticks in times) / os.sysconf("SC_CLK_TCK")  # minus idle and disk waits
    return time.perf_counter(), busy, time.process_time()
