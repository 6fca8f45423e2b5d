"""Training steps and evaluations on a pretended GPU: finds what would wait for a real one, or fail on it.

Tensors have shapes and a device but no values (torch's ``FakeTensorMode``): no kernel runs, and no GPU is needed. ``Watch``
sees every operator and notes what a step must not do:

- tensors of several devices in one operator,
- operators that make the host wait for the GPU: ``.item()``, ``nonzero``, indexing with a mask, a blocking copy,
- copies to the GPU from memory that is not pinned, which wait too.

The tests start ``python -m tests.pretended_cuda CASES`` as a process of its own, because it is good for nothing else: half
of ``torch.cuda`` is replaced. Gradients need a small library (``pretended_cuda.cpp``) that is loaded before torch; without a
C++ compiler, only forward passes and updates are seen.
"""

import collections
import contextlib
import ctypes
import functools
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

LIBRARY = "BERTORCH_PRETENDED_CUDA"  # the environment variable that names the compiled library
if LIBRARY in os.environ:
    ctypes.CDLL(os.environ[LIBRARY], ctypes.RTLD_GLOBAL)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from loguru import logger  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
_MOST_SECONDS = 300  # of the processor: without values, a loop until something is reached never ends
SOURCE = Path(__file__).with_suffix(".cpp")

# Operators that make the host wait: for a value, or for the size of their result.
WAITING = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "equal", "is_nonzero", "bincount", "masked_scatter_backward",
}  # fmt: skip
# Operators without a kernel.
VIEWS = {
    "_conj", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach", "device", "diagonal", "empty",
    "empty_like", "empty_strided", "expand", "lift_fresh", "new_empty", "new_empty_strided", "permute", "prim::device",
    "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unflatten",
    "unsqueeze", "view", "set_data", "is_pinned",
}  # fmt: skip
# Operators that read, of their first argument, only what they return.
GATHERING = {"embedding", "index_select", "gather", "index"}
# Operators that write their first argument without reading it.
OVERWRITING = {"copy_", "zero_", "fill_", "bernoulli_", "random_", "uniform_", "normal_"}


def compiled(folder: Path) -> Path:
    """Compile the library; raises ``subprocess.CalledProcessError`` or ``FileNotFoundError`` where that fails."""
    from torch.utils.cpp_extension import include_paths

    library, libraries = folder / "libpretended_cuda.so", Path(torch.__file__).parent / "lib"
    command = [
        os.environ.get("CXX", "c++"), "-std=c++20", "-O0", "-shared", "-fPIC", *(f"-I{path}" for path in include_paths()),
        str(SOURCE), "-o", str(library), f"-L{libraries}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{libraries}",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def guard_without_library() -> None:
    """Let torch hold tensors on "cuda" without the library, by the guard that a CUDA build has where there is no GPU."""
    c10 = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    slots = (ctypes.c_void_p * 2).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")  # of cpu and cuda
    zero = ctypes.CFUNCTYPE(ctypes.c_long)(lambda: 0)
    table = (ctypes.c_void_p * 64)(
        *[ctypes.cast(zero, ctypes.c_void_p).value] * 64
    )  # of virtual methods; deviceCount() is 0
    guard = (ctypes.c_void_p * 1)(ctypes.addressof(table))
    slots[1] = ctypes.addressof(guard)
    torch._C._ensureCUDADeviceGuardSet()


class Watch(TorchDispatchMode):
    """Notes every operator while ``phase`` is set.

    Attributes:
        phase: the part of a step that is watched, such as ``forward``; None: nothing is noted.
        findings: (phase, what is wrong, where) -> how often.
        launches: phase -> operators that launch kernels on the GPU; one over a list of tensors counts as one.
        operators: (phase, name) -> the same.
        moved: phase -> bytes that these operators read and write, each argument once.
        waits: how often the host waited for the GPU as it may: for an event, or by ``torch.cuda.synchronize()``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase: str | None = None
        self.clear()

    def clear(self) -> None:
        self.findings: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.launches: collections.Counter[str] = collections.Counter()
        self.operators: collections.Counter[tuple[str, str]] = collections.Counter()
        self.moved: collections.Counter[str] = collections.Counter()
        self.waits = 0
        self._arriving: list[Tensor] = []  # copies to the host that may not have ended

    def note(self, what: str) -> None:
        if self.phase is not None:
            self.findings[self.phase, what, _where()] += 1

    def event(self) -> SimpleNamespace:
        """An event after all copies up to now."""
        before = list(self._arriving)
        return SimpleNamespace(synchronize=lambda: self.wait(before))

    def wait(self, copies: list[Tensor] | None = None) -> None:
        """The host waits for the GPU, until these copies have ended; None: all."""
        self.waits += self.phase is not None
        ended = {id(copy) for copy in (self._arriving if copies is None else copies)}
        self._arriving = [copy for copy in self._arriving if id(copy) not in ended]

    def values(self, tensor: Tensor) -> np.ndarray:
        """Ones in place of the values of a tensor on the host."""
        if tensor.device.type != "cpu":
            self.note("reads values that are on the GPU")
        elif any(tensor is one for one in self._arriving):
            self.note("reads a copy from the GPU before it has ended")
        with unset_fake_temporarily():
            return torch.ones(tensor.shape, dtype=tensor.dtype).numpy()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(one.device.type == "cuda" for one in given)
        if name == "_local_scalar_dense" and not (given[0].device.type == "cpu" and not isinstance(given[0], FakeTensor)):
            if on_gpu:
                self.note(".item(): the host waits for a value")
            kind = given[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        if on_gpu:
            self._check(name, args, kwargs, given)
        if name == "nonzero" and on_gpu:
            return given[0].new_empty((0, given[0].dim()), dtype=torch.long)
        try:
            result = func(*args, **kwargs)
        except Exception as error:
            self.note(f"{name} fails: {str(error).splitlines()[0][:200]}")
            raise
        self._check_copy(name, args, kwargs, result)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if self.phase is not None and name not in VIEWS and (on_gpu or any(one.device.type == "cuda" for one in made)):
            self.launches[self.phase] += 1
            self.operators[self.phase, name] += 1
            self.moved[self.phase] += _moved(func, name, args, given, made)
        return result

    def _check(self, name: str, args: tuple, kwargs: dict, given: list[Tensor]) -> None:
        if name in WAITING:
            self.note(f"{name}: the host waits for a value")
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.note("repeat_interleave without output_size: the host waits for the size")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    self.note(f"{name} with a mask: the host waits for the number of places")
                if index is not None and index.device.type == "cpu":
                    self.note(f"{name} with places on the host: a copy that waits")

    def _check_copy(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        if name not in ("_to_copy", "copy_"):
            return
        source, target = (args[0], result) if name == "_to_copy" else (args[1], args[0])
        if source.device.type == target.device.type:
            return
        waits = not (kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2]))
        if source.device.type == "cpu":
            if source.dim() == 0 and name == "copy_":
                return  # a number, which travels with the launch
            if not getattr(source, "_pinned", False):
                self.note("a copy to the GPU from memory that is not pinned")
            elif waits:
                self.note("a copy to the GPU that waits: give non_blocking=True")
        elif waits:
            self.note("a copy to the host that waits")
        else:
            self._arriving.append(target)


def _moved(func, name: str, args: tuple, given: list[Tensor], made: list[Tensor]) -> int:
    written = [
        leaf
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
        for leaf in tree_leaves(value)
        if isinstance(leaf, Tensor)
    ]
    read = given[1:] if name in GATHERING or name in OVERWRITING else given
    if not written:
        written = made
    if name in GATHERING:
        read = [*read, *made]
    return sum(_size(one) for one in [*read, *written] if one.device.type == "cuda")


def _size(tensor: Tensor) -> int:
    places = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places *= size if stride else 1
    return places * tensor.element_size()


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith(f"{ROOT}{os.sep}") and frame.filename != __file__


def _where() -> str:
    """The line of the project that called the operator; in the backward pass, the node."""
    for frame in reversed(traceback.extract_stack()):
        if _is_ours(frame):
            return f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno} {frame.line}"
    node = torch._C._current_autograd_node()
    return "backward" if node is None else node.name()


watch = Watch()


def pretend(capability: tuple[int, int] = (9, 0)) -> None:
    """Replace what would look for a GPU. There is no way back: end the process afterwards."""
    if LIBRARY not in os.environ:
        guard_without_library()
    FakeTensorMode.avoid_device_init = property(lambda self: True)
    stream = SimpleNamespace(synchronize=watch.wait, record_event=watch.event)
    properties = SimpleNamespace(major=capability[0], minor=capability[1], name="pretended", total_memory=80 * 2**30)
    for name, value in {
        "is_available": True, "device_count": 1, "set_device": None, "current_device": 0, "is_bf16_supported": True,
        "max_memory_allocated": 0, "get_rng_state": None, "is_current_stream_capturing": False, "current_stream": stream,
        "get_device_capability": capability, "get_device_properties": properties,
    }.items():  # fmt: skip
        setattr(torch.cuda, name, lambda *args, value=value, **kwargs: value)
    torch.cuda.get_rng_state = lambda *args: torch.zeros(16, dtype=torch.uint8)
    torch.cuda.synchronize = lambda *args: watch.wait()
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    Tensor.pin_memory = _pin
    FakeTensor.numpy = lambda self, *args, **kwargs: watch.values(self)
    FakeTensor.tolist = lambda self: watch.values(self).tolist()
    nn.Module.to = _module_to
    nn.init.trunc_normal_ = lambda tensor, *args, **kwargs: tensor  # torch's draws until all values are within the bounds
    torch.utils._foreach_utils._foreach_supported_types.append(FakeTensor)  # norms of many tensors at once, as on a GPU
    # Without values an attention backend cannot prove right.
    importlib.import_module("bertorch.encoder.attention").find_fault = lambda *given: None


def _with_values(function: Callable) -> Callable:
    """Call a function that works on the host, with tensors that have values."""

    def called(*args, **kwargs):
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return called


def _pin(self: Tensor, *args, **kwargs) -> Tensor:
    self._pinned = True
    return self


def _module_to(self: nn.Module, device: torch.device) -> nn.Module:
    """torch's own swaps the insides of the tensors, which those without values do not allow."""
    for module in self.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(parameter.detach().to(device), requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return self


class _Done(Exception):
    pass


def _watched_run(script: ModuleType, updates: int, dropout: float | None, backward: bool, evaluate: bool) -> type:
    class WatchedRun(script.Run):
        """Watches the last of ``updates`` updates, or with ``evaluate`` the evaluation after it; then ends the run."""

        def __init__(self, args, model, *others, **more):
            if dropout is not None:
                model.encoder.set_dropout(dropout)
            super().__init__(args, model, *others, **more)
            # Always the first batch: what torch has learned of its shapes makes the second update faster.
            rows, collate = self._plan(0)[0], _with_values(self.collate)
            first = functools.cache(lambda: collate(self.samples, rows))
            self.collate = lambda samples, rows: first()
            watch.clear()
            watch.phase = "forward"

        def backward(self, loss):
            watch.phase = "backward"
            if backward:
                super().backward(loss)
            else:  # all but the gradients
                self._batch_count, loss.logits = loss.count, None
                for parameter in self.parameters:
                    parameter.grad = torch.zeros_like(parameter)
            watch.phase = "forward"

        def autocast(self):
            stack = contextlib.ExitStack()
            if not backward:
                stack.enter_context(torch.no_grad())
            stack.enter_context(super().autocast())
            return stack

        def step(self):
            watch.phase = "update"
            super().step()
            watch.phase = "forward"
            if self.global_step == updates and not evaluate:
                raise _Done
            if self.global_step == updates - 1 and self._update_due and not evaluate:
                watch.clear()  # the first updates may prepare something

    return WatchedRun


def _watched_evaluation(evaluate):
    def watched(*args, **kwargs):
        watch.clear()
        watch.phase = "evaluation"
        try:
            evaluate(*args, **kwargs)
        finally:
            watch.phase = None
        raise _Done

    return watched


def observe(case: dict[str, Any]) -> dict[str, Any]:
    """Run a script up to its second update, which is watched, or its first evaluation.

    Args:
        case: ``script`` without ``.py``, ``flags``, and if wished ``dropout``, ``evaluate``, ``plant`` (of ``PLANTS``).

    Returns:
        ``findings``, lines that say what is wrong; ``error``, why the run ended early, or None; ``launches``; ``waits``.
    """
    script = importlib.import_module(case["script"])
    kept = {name: getattr(script, name) for name in ("Run", "evaluate")}
    evaluate, updates = case.get("evaluate", False), 1 if case.get("evaluate") else 2
    backward = LIBRARY in os.environ
    script.Run = _watched_run(script, updates, case.get("dropout"), backward, evaluate)
    script.evaluate = _watched_evaluation(script.evaluate)
    error = None
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        flags = {"device": "cuda", "max_steps": 1000, "eval_steps": 1, "save_steps": 10**6, "logging_steps": 10**6,
                 "saved_dir": folder, "overwrite": True, "max_seq_length": 64, "batch_size": 8, "eval_batch_size": 32,
                 **case["flags"]}  # fmt: skip
        sys.argv = [f"{case['script']}.py"]
        for name, value in flags.items():
            sys.argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]
        stack.enter_context(PLANTS[case.get("plant")]())
        args = script.parse_args()
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), watch:
                script.main(args)
            error = "the run ended too early"
        except _Done:
            pass
        except BaseException as caught:
            frames = [frame for frame in traceback.extract_tb(caught.__traceback__) if _is_ours(frame)]
            named = " < ".join(f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}" for frame in reversed(frames[-4:]))
            error = f"{type(caught).__name__}: {str(caught).splitlines()[0] if str(caught) else ''} ({named})"
        finally:
            watch.phase = None
            for name, value in kept.items():
                setattr(script, name, value)
    findings = sorted(f"{phase}: {what} [{where}] x{count}" for (phase, what, where), count in watch.findings.items())
    return {"findings": findings, "error": error, "launches": dict(watch.launches), "waits": watch.waits}


# What the guard must find: mistakes, planted in a head.


@contextlib.contextmanager
def _planted(change):
    """Change the classifier's scores."""
    from bertorch.tasks.classification.head import Classifier

    inner = Classifier.forward

    def forward(self, batch):
        loss = inner(self, batch)
        loss.total = change(loss.total, loss.logits)
        return loss

    Classifier.forward = forward
    try:
        yield
    finally:
        Classifier.forward = inner


class _SelectsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, total, logits):
        ctx.save_for_backward(logits)
        return total.clone()

    @staticmethod
    def backward(ctx, gradient):
        (logits,) = ctx.saved_tensors
        return gradient + logits.masked_select(logits > 0).sum(), torch.zeros_like(logits)


PLANTS = {
    None: contextlib.nullcontext,
    "item": lambda: _planted(lambda total, logits: total * logits.abs().max().item()),
    "if": lambda: _planted(lambda total, logits: total * 2 if total > 1 else total),
    "mask": lambda: _planted(lambda total, logits: total + logits[logits > 0].sum()),
    "tolist": lambda: _planted(lambda total, logits: total + len(logits.tolist())),
    "cpu": lambda: _planted(lambda total, logits: total + logits.cpu().shape[0]),
    "arange": lambda: _planted(lambda total, logits: total + (logits * torch.arange(logits.shape[1])).sum()),
    "arange as index": lambda: _planted(lambda total, logits: total + logits[torch.arange(len(logits))].sum()),
    "tensor": lambda: _planted(lambda total, logits: total + torch.tensor([1.0, 2.0], device=logits.device).sum()),
    "pageable": lambda: _planted(lambda total, logits: total + torch.ones(2).to(logits.device, non_blocking=True).sum()),
    "sizes": lambda: _planted(lambda total, logits: total + logits.repeat_interleave((logits > 0).long()[:, 0], 0).sum()),
    "backward": lambda: _planted(_SelectsInBackward.apply),
    "masked_scatter": lambda: _planted(lambda total, logits: total + logits.masked_scatter(logits > 0, logits * 2).sum()),
}


def prepare() -> None:
    """``pretend``, and what the scripts do on the host works with values."""
    resource.setrlimit(resource.RLIMIT_CPU, (_MOST_SECONDS, _MOST_SECONDS))
    logger.remove()
    torch.set_num_threads(1)
    pretend()
    import bertorch.training.process_group
    from bertorch.encoder import TokenBatch
    from bertorch.tasks.pretraining.masking import Masking

    bertorch.training.process_group.set_up_logging = lambda **how: None  # nothing is logged
    TokenBatch.from_lengths = _with_values(TokenBatch.from_lengths)
    Masking.collate = _with_values(Masking.collate)


def main() -> None:
    prepare()
    for case in json.loads(Path(sys.argv[1]).read_text()):
        print(json.dumps(observe(case)), flush=True)
    os._exit(0)  # torch would look for its GPU while it ends


if __name__ == "__main__":
    main()
