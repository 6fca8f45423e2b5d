"""Break the saving of a model and of a training state at every point of it; show that each leaves something whole.

    python -m tests.training.broken_writer lines    # before every line of checkpoints.py and writing.py that runs
    python -m tests.training.broken_writer calls    # at every system call that writes, makes, renames or removes (strace)
    unshare -rm python -m tests.training.broken_writer disks    # on disks of all sizes, which are full sooner or later
    python -m tests.training.broken_writer bits --every 499         # flip a bit in each so-manieth byte of what was saved
    python -m tests.training.broken_writer lines --background      # the same for the thread that writes

A first model and a first state lie in a directory; saving the second ones over them is what is killed. After every kill the
state must be the first or the second, bit for bit, and so must the model; then saving once more must work. A full disk must
be said in one line, keep what was saved, and leave nothing unfinished. A flipped bit must be noticed, or change nothing that
is read.
"""

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import torch

from bertorch.checksums import tensors_checksum
from bertorch.data.tokenizing import load_tokenizer
from bertorch.encoder import Encoder
from bertorch.encoder.config import EncoderConfig, read_json_object
from bertorch.encoder.weights import read_weights
from bertorch.errors import UserError
from bertorch.reporting.runs import latest_state
from bertorch.tasks.classification.head import Classifier, load_trained_classifier
from bertorch.training.checkpoints import load_state, save_model, save_state
from bertorch.training.saving import finish_writing
from tests.scripts.launch import ROOT

ENCODER = ROOT / "data" / "tiny-encoder"
WATCHED = {str(ROOT / "bertorch" / name) for name in ("training/checkpoints.py", "writing.py")}
CALLS = (
    "openat", "write", "pwrite64", "writev", "ftruncate", "fsync", "rename", "renameat2", "unlink", "unlinkat", "mkdir",
    "rmdir", "chmod",
)  # fmt: skip


class Writer:
    """A model that is all ``value``, and how it is saved."""

    def __init__(self, background: bool):
        self.background = background
        sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = EncoderConfig.from_dict({**read_json_object(ENCODER / "config.json"), **sizes})
        self.model = Classifier(Encoder(config, with_pooler=True), num_labels=2)
        self.tokenizer = load_tokenizer(ENCODER)

    def save(self, directory: Path, value: int) -> None:
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.fill_(value)
        tensors = {"optimizer": torch.full((50_000,), float(value))}
        description = {"task": "classification", "labels": ["0", "1"], "max_seq_length": 32, "value": value}
        save_model(directory, self.model, self.tokenizer, description, {"global_step": value}, self.background)
        save_state(directory, value, self.model, tensors, {"global_step": value}, self.background)
        if self.background:
            with torch.no_grad():  # as the next updates do
                for tensor in (*self.model.parameters(), *tensors.values()):
                    tensor.fill_(99)
        finish_writing()

    def found(self, directory: Path) -> tuple[int, int]:
        """The values of state and model, each of which must be of one piece; 0 where there is none."""
        step = model = 0
        if latest_state(directory):
            tensors, state = load_state(latest_state(directory), self.model)
            step = state["global_step"]
            values = {float(number) for parameter in self.model.parameters() for number in parameter.detach().aminmax()}
            assert values | set(tensors["optimizer"].tolist()) == {step}
        if (directory / "bertorch.json").exists():
            load_trained_classifier(directory, 2)
            values = {float(number) for tensor in read_weights(directory).values() for number in tensor.aminmax()}
            assert len(values) == 1
            model = int(values.pop())
        return step, model


def kill_at_line(number: int) -> None:
    """Let this process be killed before the watched line with this number, counted from now."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    threading.settrace(trace)


def kill_at_call(pid: int, call: str, number: int) -> subprocess.Popen:
    """Attach a tracer that kills the stopped process at its so-manieth ``call``, then let it go on."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={call}"]
    tracer = subprocess.Popen([*command, "-e", f"inject={call}:signal=SIGKILL:when={number}"], stderr=subprocess.DEVNULL)
    status = Path(f"/proc/{pid}/status")
    while "TracerPid:\t0" in status.read_text():
        if tracer.poll() is not None:
            raise SystemExit("strace cannot attach to a process here")
        time.sleep(0.005)
    os.kill(pid, signal.SIGCONT)
    return tracer


def was_killed(writer: Writer, directory: Path, call: str | None, number: int) -> bool:
    """Save the second ones in a process that is killed, at a line if ``call`` is None; False where it came to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            if call is None:
                kill_at_line(number)
            else:
                os.kill(os.getpid(), signal.SIGSTOP)
            writer.save(directory, 2)
            os._exit(0)
        finally:
            os._exit(1)
    tracer = None
    if call is not None:
        os.waitpid(pid, os.WUNTRACED)
        tracer = kill_at_call(pid, call, number)
    _, status = os.waitpid(pid, 0)
    if tracer is not None:
        tracer.wait()
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "saving failed"
    return os.WIFSIGNALED(status)


def kill_everywhere(writer: Writer, folder: Path, how: str, every: int) -> None:
    """Print how often what was found after the kills."""
    first, directory = folder / "first", folder / "killed"
    writer.save(first, 1)
    outcomes: Counter[tuple[int, int]] = Counter()
    for kind in [None] if how == "lines" else CALLS:
        for number in itertools.count(1, every):
            shutil.rmtree(directory, ignore_errors=True)
            shutil.copytree(first, directory)
            if not was_killed(writer, directory, kind, number):
                break
            outcomes[writer.found(directory)] += 1
            writer.save(directory, 3)
            assert writer.found(directory) == (3, 3)
            left = [path.name for path in (directory / "training_state").iterdir()]
            assert left == ["step-00000003"], left
    print(f"killed at {outcomes.total()} {how}: {told(outcomes)}; always whole")


def fill_disks(writer: Writer, folder: Path, every: int) -> None:
    """Print how often what was found on disks that became full."""
    disk, outcomes = folder / "disk", Counter()
    disk.mkdir()
    for pages in itertools.count(1, every):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={pages * 4}k", "none", str(disk)], check=True)
        try:
            writer.save(disk / "out", 1)
            writer.save(disk / "out", 2)
        except UserError as error:
            assert "No space left on device); what was saved before is kept" in str(error), error
        found = writer.found(disk / "out")
        left = list(disk.rglob("*.tmp"))
        subprocess.run(["umount", str(disk)], check=True)
        assert not left, left
        if found == (2, 2):
            break
        outcomes[found] += 1
    print(f"{outcomes.total()} disks full: {told(outcomes)}; always whole")


def flip_bits(writer: Writer, folder: Path, every: int) -> None:
    """Print in how many bytes of a state and of a model a flipped bit was noticed."""
    writer.save(folder, 1)
    state, noticed, harmless = latest_state(folder), Counter(), Counter()
    expected = tensors_checksum(read_weights(folder))
    for path in (*sorted(state.iterdir()), folder / "model.safetensors"):
        content = path.read_bytes()
        for place in range(0, len(content), every):
            flipped = bytearray(content)
            flipped[place] ^= 1 << place % 8
            path.write_bytes(flipped)
            try:
                if path.parent == state:
                    load_state(state, writer.model)
                assert path.parent == folder and tensors_checksum(read_weights(folder)) == expected, (path, place)
                harmless[path.name] += 1
            except UserError as error:
                assert str(path.parent) in str(error)
                noticed[path.parent == state] += 1
        path.write_bytes(content)
    print(
        f"{noticed[True]} bits flipped in a training state, all noticed; in model.safetensors {noticed[False]} noticed, and "
        f"{harmless.total()} that change nothing"
    )


def told(outcomes: Counter[tuple[int, int]]) -> str:
    names = ("no", "the first", "the second")
    return ", ".join(
        f"{count} times {names[state]} state and {names[model]} model" for (state, model), count in sorted(outcomes.items())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("lines", "calls", "disks", "bits"))
    parser.add_argument("--every", type=int, default=1, help="leave out points in between")
    parser.add_argument("--background", action="store_true", help="let the thread write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.how == "disks":
            fill_disks(Writer(args.background), Path(folder), args.every)
        elif args.how == "bits":
            flip_bits(Writer(args.background), Path(folder), args.every)
        else:
            kill_everywhere(Writer(args.background), Path(folder), args.how, args.every)


if __name__ == "__main__":
    main()
