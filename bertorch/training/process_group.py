"""The processes of a run: how they start, find each other and end."""

import argparse
import atexit
import errno
import functools
import gc
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from loguru import logger

from bertorch.errors import Interrupted, ProcessError, UserError
from bertorch.training.logging import set_up_logging
from bertorch.training.processor import lacks_bf16
from bertorch.training.saving import is_writing

T = TypeVar("T")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Processes:
    """This process and its place among those of the run.

    Attributes:
        rank: 0 for the main process, which logs and writes.
        local_rank: its number on this machine.
        world_size: the number of processes.
        device: where this process computes.
    """

    rank: int
    local_rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def alone(self) -> "Processes":
        """This process without the others, for work that it does not share."""
        return Processes(0, self.local_rank, 1, self.device)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in the order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def collect(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in the order of ranks, on the main process; an empty list on the others."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def sum(self, values: list[float]) -> list[float]:
        """The sums over ranks, in double precision."""
        if self.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def first_on_each_machine(self, make: Callable[[], T]) -> T:
        """Call ``make()`` on one process of each machine first, so that the others find its results in the cache.

        A UserError on any process is raised on all.
        """
        if self.world_size == 1:
            return make()
        result, problem = None, None
        for turn in (True, False):
            if (self.local_rank == 0) is turn:
                try:
                    result = make()
                except UserError as error:
                    problem = str(error)
            problems = [found for found in self.gather(problem) if found is not None]
            if problems:
                raise UserError(problems[0])
        return result


def is_main_process() -> bool:
    """Whether this is the process that logs and writes, for code without a ``Processes`` object."""
    return os.environ.get("RANK", "0") == "0"


def start_processes(args: argparse.Namespace) -> Processes:
    """Read this process's rank from the environment (torchrun, torch.distributed.launch) and start the process group.

    An ``args.precision`` of ``auto`` becomes the precision that suits the device.

    Raises:
        UserError: the device does not exist, or cannot compute in the precision asked for.
    """
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", max(getattr(args, "local_rank", -1), 0)))
    set_up_logging(is_main=rank == 0)
    device = device_of(args.device, local_rank, world_size)
    if getattr(args, "precision", None) == "auto":
        args.precision = _best_precision(device)
    if device.type == "cpu" and getattr(args, "precision", "fp32") == "fp16":
        raise UserError("--precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    if device.type == "cpu" and getattr(args, "precision", "fp32") == "bf16" and lacks_bf16():
        _say_once("WARNING", "--precision bf16: this processor has no instructions for bf16; fp32 is faster here")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        if world_size == 1 and args.device is None and torch.cuda.device_count() > 1:
            count = torch.cuda.device_count()
            _say_once("INFO", f"1 of {count} GPUs is used; torchrun --nproc_per_node={count} {sys.argv[0]} ... uses all")
    if world_size > 1 and not dist.is_initialized():  # one group for all seeds
        # Our handler could not run while torch waits here for the other processes, and torchrun would wait for the handler.
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # gloo carries the bookkeeping, which is on the host; nccl carries the gradients. With a device_id it connects now.
        if device.type == "cuda":
            dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
        else:
            dist.init_process_group("gloo")
        signal.signal(signal.SIGTERM, handler)
    return Processes(rank, local_rank, world_size, device)


def _best_precision(device: torch.device) -> str:
    """What ``--precision auto`` stands for.

    A GPU of compute capability 8.0 multiplies in bf16 about 16 times as fast as in fp32, and ends at the same scores. On a
    CPU it is fp32 even where there are bf16 instructions: the gain depends on the processor and the size of the model, and
    the same command should give the same weights everywhere.
    """
    if device.type != "cuda":
        return "fp32"
    major, minor = torch.cuda.get_device_capability(device)
    chosen = "bf16" if major >= 8 else "fp32"
    if chosen == "fp32":
        torch.set_float32_matmul_precision("high")
    _say_once(
        "INFO", f"--precision auto: {chosen}, for compute capability {major}.{minor}; --precision fp32 is the original's"
    )
    return chosen


def in_bf16(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A hook for DDP that exchanges gradients in bf16: half the bytes, of which each keeps 8 bits of precision.

    It is torch's own, which DDP refuses under its own name where gloo carries the gradients, though gloo has bf16.
    """
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook  # a second of start-up

    return bf16_compress_hook(None, bucket)


@functools.cache
def _say_once(level: str, message: str) -> None:
    logger.log(level, message)


def device_of(asked: str | None, local_rank: int = 0, world_size: int = 1) -> torch.device:
    """The device asked for; if None, a GPU if there is one, else the CPU.

    Raises:
        UserError: the device does not exist.
    """
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UserError(f"--device {asked}: no such device; use cpu, cuda or cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"--device {asked}: not supported; use cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UserError(f"--device {asked}: this machine has no GPU that torch can use; use --device cpu")
    count = torch.cuda.device_count()
    index = local_rank if world_size > 1 else (device.index or 0)
    if index >= count:
        raise UserError(
            f"GPU {index} is asked for, but this machine has {count}; start at most {count} processes on this machine"
        )
    return torch.device("cuda", index)


def set_seed(seed: int, rank: int = 0) -> None:
    """Seed all generators with ``seed + rank``, so that each rank draws its own dropout masks."""
    torch.manual_seed(seed + rank)
    random.seed(seed + rank)
    np.random.seed((seed + rank) % 2**32)


def be_deterministic() -> None:
    """Let torch use no operator whose result depends on timing; one that has no other way raises RuntimeError."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first product
    torch.utils.deterministic.fill_uninitialized_memory = False  # that only shows mistakes, and takes time
    torch.use_deterministic_algorithms(True)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main`` and exit with 0, 2 for a user's mistake, 128 + a signal's number, or 1 for anything else.

    The process group is destroyed only after all objects of ``main`` are gone: torch 2.13 with gloo sometimes aborts at
    exit when a DistributedDataParallel module outlives its group.
    """
    code = 0
    atexit.register(gc.freeze)  # saves the last garbage collection over all of torch's objects: half a second
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # the shell ignores it for background jobs
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except ProcessError as error:
        code = _say(2, str(error), everywhere=True)
    except UserError as error:
        code = _say(2, str(error))
    except Interrupted as error:
        code = _say(128 + error.signal_number, str(error))
    except KeyboardInterrupt as error:  # a Run adds what happened to its state
        code = _say(128 + signal.SIGINT, "; ".join(["interrupted", *error.args]))
    except BrokenPipeError:  # the reader of our standard output is gone: predict.py ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if _is_lost_connection(error):
            code = _say(1, "another process of the run has ended; its own lines say why. The last saved state is kept", True)
        elif isinstance(error, OSError) and error.errno in _NO_ROOM:  # for example, for a temporary file
            code = _say(2, f"{error.filename or 'what is written'}: {error.strerror}", True)
        elif out_of_memory(error):
            code = _say(2, "out of memory; lower --batch_size or --max_seq_length", True)
        else:
            traceback.print_exc()
            code = 1
    if dist.is_initialized() and code != 1:  # after a crash the other ranks may never join
        gc.collect()
        # Older torch (2.6 does, 2.11 does not) holds the GIL while it waits in the group's destructor. A gloo thread that
        # still has a tensor to release needs the GIL too: a deadlock.
        time.sleep(0.1)
        dist.destroy_process_group()
    sys.stdout.flush()
    if is_writing():  # given up by a second Ctrl-C; sys.exit would wait for it
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _say(code: int, message: str, everywhere: bool = False) -> int:
    rank = "" if is_main_process() else f"rank {os.environ['RANK']}: "
    if everywhere or not rank:
        print(f"{os.path.basename(sys.argv[0])}: {rank}{message}", file=sys.stderr, flush=True)
    return code


def _is_lost_connection(error: Exception) -> bool:
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


def out_of_memory(error: Exception) -> bool:
    """Whether torch or Python ran out of memory, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _stop(number: int, frame: object) -> None:
    raise Interrupted(number, f"stopped by {signal.Signals(number).name}")
