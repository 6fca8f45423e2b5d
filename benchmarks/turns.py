"""Benchmarks whose sides take turns: each is a process of its own, and one of them works at a time.

No command: the programs beside this file use it. The one who measures starts a worker for each side, which is the same file
with a hidden flag, asks one after the other through their standard input, and reads a JSON line as the answer.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chunked_batch import ROOT

# Libraries are imported where they are used: a worker loads those of its own side, because its memory is compared.

SHAPES = {"base": (12, 768, 12), "tiny": (6, 128, 2)}  # layers, hidden size, heads
# Families that a random encoder may have: what their configurations say beside the sizes, as published models do.
FAMILIES = {
    "bert": {},
    "modernbert": {"intermediate_size": 1.5, "classifier_pooling": "mean"},  # in hidden sizes
    "roformer": {},
    "deberta-v2": {  # the values of its third version
        "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True, "position_buckets": 256,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
    },
    "xlnet": {},
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of all benchmarks whose sides take turns."""
    parser.add_argument(
        "--shape", choices=SHAPES, default="tiny", help="base: 12 layers, 768 wide; tiny: 6 layers, 128 wide"
    )
    parser.add_argument("--family", choices=FAMILIES, default="bert", help="of the encoder, on all sides")
    parser.add_argument("--pairs", type=int, default=5, help="chunks of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--data_dir", type=Path, default=ROOT.parent / "shared" / "data", help="if there is none, the sample sets are taken"
    )
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)


def on_gpu() -> bool:
    """Whether this process has computed on a GPU; without loading torch for it."""
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()


class Turns:
    """A worker's end: it waits for a word from the one who measures, works, and answers with a JSON line."""

    def __init__(self):
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print goes to the log
        self.start()

    def wait(self) -> str:
        """The next word; ends the process when there is none to come."""
        word = sys.stdin.readline()
        if not word:
            sys.exit()
        self.start()
        return word.strip()

    def start(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        if on_gpu():
            sys.modules["torch"].cuda.synchronize()
        ended = time.perf_counter(), time.process_time()
        self.wall, self.cpu = (end - start for start, end in zip(self.started, ended, strict=True))

    def answer(self, **figures: Any) -> None:
        """What was measured between ``start`` and ``stop``, and the peak memory in MB: the GPU's where one computes."""
        if on_gpu():
            memory = sys.modules["torch"].cuda.max_memory_reserved() / 2**20
        else:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            memory = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        print(json.dumps({**figures, "wall": self.wall, "cpu": self.cpu, "memory": memory}), file=self.answers, flush=True)


class Worker:
    """A worker, seen from the one who measures."""

    def __init__(self, name: str, job: dict[str, Any], threads: int, directory: Path):
        self.name, self.log = name, directory / f"{name.replace(' ', '-')}.log"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "BERTORCH_CACHE": str(directory / "cache")}
        environment |= {variable: str(threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")}
        if not name.startswith("bertorch"):  # their own defaults, where our package would set its own
            environment |= {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1024", "GOMP_SPINCOUNT": "300000"}
        command = [sys.executable, *sys.argv, "--worker", json.dumps(job)]
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def ask(self, word: object = "go") -> dict[str, Any]:
        with contextlib.suppress(BrokenPipeError):  # answer() says why
            print(word, file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self, optional: bool = False) -> dict[str, Any] | None:
        """The worker's next one; None where it is ``optional`` and the worker has ended with a line that says why."""
        line = self.process.stdout.readline().strip()
        log = self.log.read_text(encoding="utf-8").strip()
        if not line and self.process.wait() < 0:
            raise SystemExit(
                f"{self.name}: killed by signal {-self.process.returncode}; all sides at once may need more memory"
            )
        if not line and (not optional or "Traceback" in log or not log):
            raise SystemExit(f"{self.name}:\n{log[-3000:]}")
        print(f"{self.name}: {line or log.splitlines()[-1]}", file=sys.stderr, flush=True)
        return json.loads(line) if line else None

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def in_turn(names: list[str], pairs: int) -> list[list[str]]:
    """The order of the sides in each pair: another one begins."""
    return [names[pair % len(names) :] + names[: pair % len(names)] for pair in range(pairs)]


def clock(args: argparse.Namespace) -> str:
    """CPU time where one thread computes, which other programs disturb less; wall time elsewhere."""
    return "cpu" if args.threads == 1 and args.device == "cpu" else "wall"


def seconds(figures: dict[str, Any], args: argparse.Namespace) -> float:
    return figures[clock(args)]


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}..{max(values):,.{digits}f})"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(args: argparse.Namespace, *packages: str) -> str:
    """Processor, threads, clock and versions."""
    versions = []
    for package in ("torch", "transformers", *packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    processor = cpu_name()
    if args.device == "cuda":
        import torch

        processor = f"{torch.cuda.get_device_name()}; {processor}"
    measured = {"cpu": "CPU time of the process", "wall": "wall time"}[clock(args)]
    return f"{processor}; threads: {args.threads}; seconds: {measured}; {', '.join(versions)}"


def random_encoder(args: argparse.Namespace, directory: Path) -> Path:
    """An encoder of random weights in Hugging Face's layout, with a real vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModel, BertTokenizer

    layers, hidden, heads = SHAPES[args.shape]
    vocabulary = args.data_dir / "vocab" / "google_zh_vocab.txt"
    source, saved = directory / "vocabulary", directory / "encoder"
    source.mkdir()
    found = vocabulary if vocabulary.is_file() else ROOT / "models" / "bertorch-tiny-zh" / "vocab.txt"
    (source / "vocab.txt").write_bytes(found.read_bytes())
    tokenizer = BertTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(saved)
    torch.manual_seed(0)
    traits = {"intermediate_size": 4, **FAMILIES[args.family]}
    traits["intermediate_size"] = int(traits["intermediate_size"] * hidden)
    traits |= {"num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads}
    if args.family == "xlnet":
        names = {"num_hidden_layers": "n_layer", "hidden_size": "d_model", "num_attention_heads": "n_head"}
        traits = {{**names, "intermediate_size": "d_inner"}[name]: value for name, value in traits.items()}
    config = AutoConfig.for_model(
        args.family, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **traits
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(saved)
    return saved
