"""The parts of gpu_check.py, each run as a process: python3 benchmarks/gpu_parts.py PART --out FOLDER [--rehearse].

A cell (one model, one shape of batch) is trained by the task's own script, or by the Trainer, on synthetic rows: warm-up,
then as many updates as take SECONDS, but at least 20. ``real`` lengths are spread like those of ChnSentiCorp, ``full`` rows
all have the longest length, ``short`` ones 8 to 32 tokens. Encoders have random weights. A cell that fails is recorded, and
the next begins; only one model is in memory at a time.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chunked_batch import ROOT
from gpu_check import Results
from turns import SHAPES, cpu_name, random_encoder

# Tokens of its 9,600 training rows, at every twentieth of them from the shortest to the longest.
CHNSENTICORP = (6, 33, 37, 40, 44, 47, 51, 56, 62, 68, 75, 85, 95, 106, 127, 154, 170, 180, 189, 242, 1966)
CHARACTERS = "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可里后小么"
SECONDS, FEWEST, WARM_UP, PROBE = 3.0, 20, 5, 10
SHAPES |= {"4 layers": (4, 768, 12), "rehearsal": (2, 32, 2)}
# Cells of the classifier: encoder, batch size, max_seq_length, lengths. The most valuable first.
CELLS = (
    ("base", 256, 128, "real"), ("base", 32, 128, "real"), ("base", 256, 128, "full"), ("4 layers", 32, 32, "short"),
    ("base", 32, 512, "real"), ("base", 256, 512, "real"), ("base", 256, 512, "full"), ("base", 32, 128, "full"),
)  # fmt: skip
TASKS = ("crf", "pairs", "mlm")


class Enough(Exception):
    """The cell has been measured."""


class Check:
    """What all parts share: where they write, on which device, and how large."""

    def __init__(self, args: argparse.Namespace):
        self.part, self.out, self.tiny = args.part, args.out, args.rehearse
        self.device = torch.device("cpu" if args.rehearse else "cuda")
        if not args.rehearse and not torch.cuda.is_available():
            raise SystemExit("no GPU that torch can use; --rehearse runs on the CPU")
        self.precision = "fp32" if args.rehearse else "bf16"
        self.results = Results(Path(os.environ.get("GPU_CHECK_RESULTS", args.out / "results.jsonl")))

    def add(self, row: str, **figures: Any) -> None:
        self.results.add(part=self.part, row=row, **figures)

    @contextlib.contextmanager
    def recorded(self, row: str) -> Iterator[None]:
        """Record what fails inside and go on; free what was allocated."""
        try:
            yield
        except (Exception, SystemExit) as error:
            said = (str(error).strip().splitlines() or [""])[-1]
            print(f"{row}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self.add(row, failed=f"{type(error).__name__}: {said}"[:200])
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> float:
        """The most that torch has reserved on the GPU since the last cell, in GB."""
        return torch.cuda.max_memory_reserved() / 1e9 if self.device.type == "cuda" else 0.0

    def encoder(self, shape: str) -> Path:
        """A BERT of random weights, made once for all parts."""
        shape = "rehearsal" if self.tiny else shape
        made = self.out / "encoders" / shape.replace(" ", "-")
        if not made.is_dir():
            made.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=made.parent) as folder:
                args = argparse.Namespace(family="bert", shape=shape, data_dir=ROOT / "nowhere")
                random_encoder(args, Path(folder)).rename(made)
        return made


# Synthetic rows.


def synthetic_lengths(kind: str, longest: int, rows: int, seed: int = 0) -> np.ndarray:
    """Tokens of each row, special tokens included, int64 ``[rows]``."""
    rng = np.random.default_rng(seed)
    if kind == "full":
        return np.full(rows, longest)
    if kind == "short":
        return rng.integers(min(8, longest), min(32, longest) + 1, rows)
    drawn = np.interp(rng.random(rows), np.linspace(0, 1, len(CHNSENTICORP)), CHNSENTICORP)
    return np.clip(drawn.astype(np.int64), 6, longest)


def synthetic_texts(lengths: np.ndarray, seed: int = 1) -> list[str]:
    """Texts of as many tokens: each Chinese character is one, and two are special."""
    rng, signs = np.random.default_rng(seed), np.array(list(CHARACTERS))
    return ["".join(rng.choice(signs, length - 2)) for length in lengths]


def write_rows(check: Check, task: str, size: int, longest: int, kind: str) -> tuple[dict[str, str], float]:
    """Write a training file; its flags, and the mean number of tokens of a row."""
    rows = size * 4 if check.tiny else max(6400, 25 * size)
    lengths = synthetic_lengths(kind, longest, rows)
    texts = synthetic_texts(lengths)
    folder = check.out / "data" / f"{task}-{kind}-{longest}-{rows}"
    folder.mkdir(parents=True, exist_ok=True)
    train, labels = folder / "train.tsv", folder / "labels.txt"
    files = {"train_data_file": str(train), "label_file": str(labels)}
    match task:
        case "classes":
            lines = (f"{text}\t{row % 2}\n" for row, text in enumerate(texts))
            labels.write_text("0\n1\n")
        case "crf":
            train = train.with_name("train.json")
            files["train_data_file"] = str(train)
            tags = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
            lines = (
                json.dumps({"text": list(text), "label": [tags[place % 7] for place in range(len(text))]}) + "\n"
                for text in texts
            )
            labels.write_text("".join(f"{tag}\n" for tag in tags))
        case "pairs":
            del files["label_file"]
            lines = (f"{text}\t{other}\n" for text, other in zip(texts, synthetic_texts(lengths, seed=2), strict=True))
        case "mlm":  # a document for each text: none is put together with another
            del files["label_file"]
            lines = (f"{text}\n\n" for text in texts)
    train.write_text("".join(lines), encoding="utf-8")
    return files, float(lengths.mean()) * (2 if task == "pairs" else 1)


# Training.


class Pace:
    """Decides when a cell has been measured. ``step`` is called after every update."""

    def __init__(self, check: Check):
        self.check, self.done, self.began = check, 0, time.perf_counter()
        self.last = 0

    def step(self) -> None:
        self.done += 1
        if self.done in (WARM_UP, WARM_UP + PROBE, self.last):
            self.check.wait()
        now = time.perf_counter()
        if self.done == WARM_UP:
            self.warming, self.started = now - self.began, now
        if self.done == WARM_UP + PROBE:
            seconds, fewest = (0.2, 3) if self.check.tiny else (SECONDS, FEWEST)
            count = max(fewest, int(seconds / ((now - self.started) / PROBE)))
            self.started, self.count, self.last = now, count, self.done + count
        if self.last and self.done == self.last:
            self.seconds = (now - self.started) / self.count
            raise Enough


SCRIPTS = {"classes": "run_classifier", "crf": "run_ner", "pairs": "run_batchneg", "mlm": "run_pretraining"}
TASK_FLAGS = {
    "classes": [],
    "crf": ["--ner_head", "crf"],
    "pairs": ["--pooling_mode", "mean", "--margin", "0", "--no-mask_duplicates"],
    "mlm": ["--objectives", "mlm"],
}


def script_flags(check: Check, task: str, shape: str, size: int, longest: int, files: dict[str, str], saved: str) -> list:
    values = {
        **files, "pretrained_model_name_or_path": check.encoder(shape), "batch_size": size, "max_seq_length": longest,
        "max_steps": 10**6, "logging_steps": 10**6, "save_steps": 10**6, "precision": check.precision,
        "device": check.device.type, "saved_dir": saved,
    }  # fmt: skip
    return [*(str(part) for name, value in values.items() for part in (f"--{name}", value)), *TASK_FLAGS[task]]


def run_bertorch(
    check: Check, task: str, shape: str, size: int, longest: int, files: dict[str, str], paced: Any, flags: list[str]
) -> None:
    """Train with the task's script until ``paced.step`` raises Enough."""
    script = importlib.import_module(SCRIPTS[task])
    original = importlib.import_module("bertorch.training.run").Run

    class PacedRun(original):
        def step(self) -> None:
            super().step()
            paced.step()

    script.Run = PacedRun
    with tempfile.TemporaryDirectory() as saved, contextlib.suppress(Enough):
        sys.argv = [f"{SCRIPTS[task]}.py", *script_flags(check, task, shape, size, longest, files, saved), *flags]
        script.main(script.parse_args())


def run_trainer(
    check: Check, task: str, shape: str, size: int, longest: int, files: dict[str, str], paced: Any, settings: dict[str, Any]
) -> None:
    """Train with transformers' Trainer, or that of sentence-transformers for pairs, until ``paced.step`` raises Enough."""
    import train_speed
    import transformers

    Trainer, Arguments = transformers.Trainer, transformers.TrainingArguments
    if task == "pairs":
        import datasets  # noqa: F401  without it, this Trainer cannot be made
        from sentence_transformers import SentenceTransformerTrainer as Trainer
        from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    class Paced(transformers.TrainerCallback):
        def on_step_end(self, *given: Any, **others: Any) -> None:
            paced.step()

    encoder = str(check.encoder(shape))
    if task == "mlm":
        model, train_set, more = language_model(encoder, files["train_data_file"], longest)
    else:
        job = {"file": files["train_data_file"], "encoder": encoder}
        chunks = argparse.Namespace(labels=Path(files["label_file"]).read_text().split() if "label_file" in files else [])
        head = {"crf": "tags"}.get(task, task)
        described = train_speed.Task(SCRIPTS[task], head, longest, "", "", tuple(TASK_FLAGS[task]))
        wanted = argparse.Namespace(worker=job, device=check.device.type)
        model, train_set, _, more = train_speed.trainer_parts(wanted, described, chunks)
    with tempfile.TemporaryDirectory() as saved, contextlib.suppress(Enough):
        arguments = Arguments(
            output_dir=saved, per_device_train_batch_size=size, max_steps=10**6, save_strategy="no", report_to=[],
            disable_tqdm=True, use_cpu=check.device.type == "cpu", bf16=check.precision == "bf16", **settings,
        )  # fmt: skip
        Trainer(model, arguments, train_dataset=train_set, callbacks=[Paced()], **more).train()


def language_model(encoder: str, path: str, longest: int) -> tuple[Any, Any, dict[str, Any]]:
    """Model, training set and collator of masked tokens, as transformers' example puts them together."""
    import transformers

    from bertorch.data.tokenizing import load_tokenizer

    tokenizer = load_tokenizer(encoder)
    texts = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    samples = [{"input_ids": ids} for ids in tokenizer(texts, truncation=True, max_length=longest)["input_ids"]]
    model = transformers.AutoModelForMaskedLM.from_pretrained(encoder)
    return model, samples, {"data_collator": transformers.DataCollatorForLanguageModeling(tokenizer)}


def measure(
    check: Check, cell: tuple[str, int, int, str], train: Callable[..., None], how: Any, task: str = "classes"
) -> None:
    """Train a cell and record its speed."""
    shape, size, longest, kind = cell
    case = f"{task if task != 'classes' else shape}, {size} x {longest}, {kind}"
    if check.tiny:
        size, longest = 4, 24
    with check.recorded(case):
        files, tokens = write_rows(check, task, size, longest, kind)
        pace = Pace(check)
        train(check, task, shape, size, longest, files, pace, how)
        speed = size / pace.seconds
        check.add(
            case, case=case, **{
                "ms/step": 1000 * pace.seconds, "samples/s": speed, "real tokens/s": speed * tokens,
                f"first {WARM_UP} steps, s": pace.warming, "peak GB": check.memory(),
            },
        )  # fmt: skip


def train_cells(cells: tuple, train: Callable[..., None], how: Any, tasks: tuple[str, ...] = ("classes",)) -> Callable:
    def part(check: Check) -> None:
        for task in tasks:
            for cell in cells[:2] if check.tiny else cells:
                measure(check, cell, train, how, task)

    return part


# The other parts.


def device(check: Check) -> None:
    versions = {}
    for package in ("torch", "transformers", "tokenizers", "accelerate", "sentence-transformers", "flash-attn", "triton"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    check.add("python", value=f"{platform.python_version()}, {', '.join(f'{k} {v}' for k, v in versions.items())}")
    check.add("processor", value=f"{cpu_name()}, {os.cpu_count()} cores")
    if check.device.type == "cuda":
        found = torch.cuda.get_device_properties(0)
        memory = f"{found.total_memory / 1e9:.0f} GB"
        check.add("GPU", value=f"{found.name}, compute capability {found.major}.{found.minor}, {memory}")
        cudnn, count = torch.backends.cudnn.version(), torch.cuda.device_count()
        check.add("CUDA", value=f"{torch.version.cuda}, cuDNN {cudnn}, {count} GPUs")
        query = "--query-gpu=driver_version,clocks.max.sm,power.limit,temperature.gpu,utilization.gpu,memory.used"
        said = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True, check=False)
        check.add("driver, clock, power, temperature, use, memory", value=said.stdout.strip() or said.stderr.strip())


def packed_batch(check: Check, size: int, longest: int, kind: str) -> Any:
    from bertorch.encoder import TokenBatch

    lengths = sorted(synthetic_lengths(kind, longest, size).tolist(), reverse=True)
    ids = torch.zeros(sum(lengths), dtype=torch.long)
    return TokenBatch.from_lengths(ids, ids, lengths).to(check.device)


def attention_check(check: Check) -> None:
    """Each backend on this device: the self-check that decides whether it is used, without dropout and with."""
    from bertorch.encoder.attention import BACKENDS
    from bertorch.encoder.self_check import find_fault

    for backend, attend in BACKENDS.items():
        for dtype in (torch.float32,) if check.device.type == "cpu" else (torch.bfloat16, torch.float16, torch.float32):
            for width in (64, 32, 80):
                for windowed in (False, True):
                    kind = f"{str(dtype).removeprefix('torch.')}, head size {width}" + ", a window" * windowed
                    with check.recorded(f"{backend}, {kind}"):
                        fault = find_fault(attend, check.device, dtype, width, windowed)
                        check.add(f"{backend}, {kind}", **{"computes what BERT computes": (fault or "yes")[:160]})


def backends(check: Check) -> None:
    """Milliseconds of one attention, forward and backward, 12 heads of 64, with dropout and without."""
    from bertorch.encoder.attention import BACKENDS, attention

    dtype = torch.float32 if check.tiny else torch.bfloat16
    shapes = ((256, 128, "real"), (256, 128, "full"), (32, 128, "real"), (32, 512, "full"), (256, 512, "real"))
    for size, longest, kind in shapes:
        case = f"{size} x {longest}, {kind}"
        if check.tiny:
            size, longest = 4, 24
        batch = packed_batch(check, size, longest, kind)
        for dropout in (0.1, 0.0):
            for backend in BACKENDS:
                row = f"{case}, dropout {dropout}, {backend}"
                with check.recorded(row):
                    inputs = [
                        torch.randn(batch.total_tokens, 12, 64, device=check.device, dtype=dtype, requires_grad=True)
                        for _ in range(3)
                    ]
                    gradient = torch.ones_like(inputs[0])

                    def turn(backend=backend, inputs=inputs, gradient=gradient, batch=batch, dropout=dropout) -> None:
                        attention(*inputs, batch, dropout, backend).backward(gradient)

                    check.add(row, ms=1000 * seconds_each(check, turn), **{"peak GB": check.memory()})


def seconds_each(check: Check, turn: Callable[[], Any], most: float = 0.3) -> float:
    """Seconds of a call, the mean of as many as fit; the device is waited for at the end only."""
    for _ in range(3):
        turn()
    check.wait()
    started = time.perf_counter()
    turn()
    check.wait()
    count = max(2, min(200, int((0.01 if check.tiny else most) / max(time.perf_counter() - started, 1e-6))))
    started = time.perf_counter()
    for _ in range(count):
        turn()
    check.wait()
    return (time.perf_counter() - started) / count


def ceilings(check: Check) -> None:
    """What the device can do at most: matrix products, memory, copies."""
    size = 64 if check.tiny else 8192
    kinds = {"bf16": (torch.bfloat16, "highest"), "fp32": (torch.float32, "highest"), "TF32": (torch.float32, "high")}
    for name, (dtype, allowed) in kinds.items():
        with check.recorded(f"{name} matrix product"):
            torch.set_float32_matmul_precision(allowed)
            for rows, inner, columns in ((size, size, size), (32768 if not check.tiny else 64, 768, 3072)):
                left = torch.randn(rows, inner, device=check.device, dtype=dtype)
                right = torch.randn(inner, columns, device=check.device, dtype=dtype)
                took = seconds_each(check, lambda left=left, right=right: torch.mm(left, right))
                flops = 2 * rows * inner * columns / took
                check.add(f"{name}, {rows} x {inner} x {columns}", **{"TFLOP/s": flops / 1e12})
    torch.set_float32_matmul_precision("highest")
    count = 2**16 if check.tiny else 2**28
    with check.recorded("memory"):
        one, two = (torch.ones(count, device=check.device) for _ in range(2))
        check.add("copy on the device", **{"GB/s": 8 * count / seconds_each(check, lambda: two.copy_(one)) / 1e9})
        check.add("add in place", **{"GB/s": 12 * count / seconds_each(check, lambda: one.add_(two)) / 1e9})
        host = torch.ones(count // 4)
        targets = {"pageable": host} | ({"pinned": host.pin_memory()} if check.device.type == "cuda" else {})
        for name, memory in targets.items():
            there = seconds_each(check, lambda memory=memory: one[: count // 4].copy_(memory, non_blocking=True))
            back = seconds_each(check, lambda memory=memory: memory.copy_(one[: count // 4], non_blocking=True))
            check.add(f"host to device, {name}", **{"GB/s": count / there / 1e9})
            check.add(f"device to host, {name}", **{"GB/s": count / back / 1e9})


class Watch:
    """Profiles a few updates of a run, after its warm-up: a ``paced`` for the functions above."""

    def __init__(self, check: Check, steps: int = 10):
        self.check, self.steps, self.done = check, steps, 0

    def step(self) -> None:
        check, steps = self.check, self.steps
        self.done += 1
        if self.done in (WARM_UP, WARM_UP + 2 * steps):
            check.wait()
        if self.done == WARM_UP:
            self.started = time.perf_counter()
        if self.done == WARM_UP + steps:  # without the profiler: what the host takes, then what the device takes
            self.host = (time.perf_counter() - self.started) / steps
            check.wait()
            self.whole = (time.perf_counter() - self.started) / steps
            on_gpu = [torch.profiler.ProfilerActivity.CUDA] if check.device.type == "cuda" else []
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, *on_gpu])
            self.profile.start()
        if self.done == WARM_UP + 2 * steps:
            self.profile.stop()
            raise Enough


KINDS = {
    "attention": r"flash|fmha|attention|softmax",
    "matrix products": r"gemm|nvjet|cutlass|cublas|addmm|::mm|::bmm|matmul",
    "optimizer, clipping": r"multi_tensor|foreach|adam|lpnorm",
    "norm": r"layer_?norm|gamma_?beta",
    "dropout, random": r"dropout|philox|distribution|bernoulli|random",
    "copies, casts": r"memcpy|memset|copy|cast",
    "index": r"index|gather|scatter|embedding|sort",
    "reductions": r"reduce|sum|norm",
    "element-wise": r"elementwise|vectorized|triton",
}


def profiled(train: Callable[..., None], how: Any) -> Callable[[Check], None]:
    def part(check: Check) -> None:
        for cell in (CELLS[1], CELLS[0]):
            shape, size, longest, kind = cell
            case = f"{shape}, {size} x {longest}, {kind}"
            if check.tiny:
                size, longest = 4, 24
            with check.recorded(case):
                files, _ = write_rows(check, "classes", size, longest, kind)
                watch = Watch(check)
                train(check, "classes", shape, size, longest, files, watch, how)
                add_profile(check, case, watch)

    return part


def add_profile(check: Check, case: str, watch: Watch) -> None:
    on_gpu = check.device.type == "cuda"
    events = [
        (event.name, event.device_time_total if on_gpu else event.self_cpu_time_total)
        for event in watch.profile.events()
        if (event.device_type == torch.autograd.DeviceType.CUDA) is on_gpu and not event.is_user_annotation
    ]
    total = sum(took for _, took in events) or 1.0
    kernels = sum(not re.search("memcpy|memset", name, re.IGNORECASE) for name, _ in events)
    check.add(
        case,
        **{
            "ms/step": 1000 * watch.whole, "host ms/step": 1000 * watch.host, "kernel ms/step": total / 1000 / watch.steps,
            "launches/step": kernels / watch.steps,
        },
    )  # fmt: skip
    shares: dict[str, float] = {}
    names: dict[str, float] = {}
    for name, took in events:
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")
        shares[kind] = shares.get(kind, 0.0) + took
        names[name] = names.get(name, 0.0) + took
    for kind, took in sorted(shares.items(), key=lambda item: -item[1]):
        check.add(f"{case}: {kind}", **{"share %": round(100 * took / total, 1)})
    for name, took in sorted(names.items(), key=lambda item: -item[1])[:10]:
        check.add(f"{case}: `{name[:90]}`", **{"share %": round(100 * took / total, 1)})


def gpu_tests(check: Check) -> None:
    """The tests that are marked ``cuda``; on a CPU they are skipped."""
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.cuda" in path.read_text("utf-8")]
    report = check.out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-o", "addopts=--strict-markers", f"--junitxml={report}"]
    done = subprocess.run([*command, "-p", "no:cacheprovider", *files], cwd=ROOT, check=False)
    from xml.etree import ElementTree

    cases = ElementTree.parse(report).getroot().iter("testcase")
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    for case in cases:
        problem = next((one for one in case if one.tag in ("failure", "error")), None)
        ended = "failed" if problem is not None else "skipped" if case.find("skipped") is not None else "passed"
        counts[ended] += 1
        if problem is not None:
            check.add(f"{case.get('classname')}::{case.get('name')}", failed=(problem.get("message") or "")[:200])
    check.add("all", **counts)
    if done.returncode not in (0, 5):
        raise SystemExit("some tests failed")


def finetuning(check: Check) -> None:
    """The sample reviews on both devices: the losses fall alike, and the scores on the development set are close."""
    reviews, started = ROOT / "data" / "reviews", time.perf_counter()
    more = ["--max_steps", "4"] if check.tiny else ["--epochs", "3"]
    running = {}
    for name in dict.fromkeys(("cpu", check.device.type)):
        command = [
            sys.executable, str(ROOT / "run_classifier.py"), "--train_data_file", str(reviews / "train.tsv"),
            "--dev_data_file", str(reviews / "dev.tsv"), "--label_file", str(reviews / "labels.txt"), "--learning_rate",
            "5e-4", "--pretrained_model_name_or_path", str(ROOT / "models" / "bertorch-tiny-zh"), "--seeds", "1", "2", "3",
            "--precision", "fp32", "--device", name, "--overwrite", "--saved_dir", str(check.out / f"reviews-{name}"), *more,
        ]  # fmt: skip
        running[name] = subprocess.Popen(command, cwd=ROOT)
    for name, process in running.items():
        if process.wait():
            check.add(name, failed=f"exit code {process.returncode}")
            continue
        found = json.loads((check.out / f"reviews-{name}" / "seeds.json").read_text(encoding="utf-8"))["eval"]
        figures = {key: found[key]["mean"] for key in ("accuracy", "loss") if key in found}
        check.add(name, **figures, seeds=3, seconds=round(time.perf_counter() - started, 1))


def encoding(check: Check) -> None:
    """Texts a second, tokenizing included, of texts with real lengths."""
    import encode_speed

    count = 64 if check.tiny else 8192
    encoder = str(check.encoder("base"))
    for size, longest in ((32, 128), (256, 128), (256, 512)):
        texts = synthetic_texts(synthetic_lengths("real", 24 if check.tiny else longest, count))
        job = {"encoder": encoder, "precision": check.precision}
        args = argparse.Namespace(worker=job, device=check.device.type, batch_size=size, max_seq_length=longest)
        vectors: dict[str, np.ndarray] = {}
        speeds: dict[str, float] = {}
        sides = {
            "sentence-transformers": encode_speed.encode_theirs, "sentence-transformers, unpadded": encode_unpadded,
            "bertorch": encode_speed.encode_bertorch,
        }  # fmt: skip
        for side, make in sides.items():
            row = f"{side}, {size} x {longest}"
            with check.recorded(row):
                encode = make(args)
                vectors[side] = np.asarray(encode(texts[:256]), dtype=np.float32)
                check.wait()
                started = time.perf_counter()
                encode(texts)
                check.wait()
                speed = count / (time.perf_counter() - started)
                figures = {"texts/s": speed, "peak GB": check.memory()}
                for other, their_speed in speeds.items() if side == "bertorch" else ():
                    figures[f"against {other}"] = f"{speed / their_speed:.2f}x"
                    cosine = _cosine(vectors[side], vectors[other])
                    figures["lowest cosine"] = min(figures.get("lowest cosine", 1.0), cosine)
                speeds[side] = speed
                check.add(row, **figures)


def encode_unpadded(args: argparse.Namespace) -> Any:
    from sentence_transformers import SentenceTransformer

    kwargs = {"dtype": torch.bfloat16, "attn_implementation": "flash_attention_2"}
    model = SentenceTransformer(args.worker["encoder"], device=args.device, model_kwargs=kwargs)
    model.max_seq_length, model[0].unpad_inputs = args.max_seq_length, True
    return lambda texts: model.encode(texts, batch_size=args.batch_size, show_progress_bar=False)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


def saving(check: Check) -> None:
    """Seconds that a save of BERT-base holds the training up, by the thread and without; then a resumed run."""
    for flag in ("--save_in_background", "--no-save_in_background"):
        with check.recorded(f"base, 3 saves in 60 updates, {flag}"):
            save_often(check, flag)
    with check.recorded("resuming"):
        resuming(check)


def save_often(check: Check, flag: str) -> None:
    held: list[float] = []
    script = importlib.import_module("run_classifier")
    original = importlib.import_module("bertorch.training.run").Run

    class TimedRun(original):
        def save(self) -> None:
            check.wait()
            started = time.perf_counter()
            super().save()
            held.append(time.perf_counter() - started)

    script.Run = TimedRun
    size, longest = (4, 24) if check.tiny else (32, 128)
    files, _ = write_rows(check, "classes", size, longest, "real")
    with tempfile.TemporaryDirectory(dir=check.out) as saved:
        flags = [*script_flags(check, "classes", "base", size, longest, files, saved), flag]
        sys.argv = ["run_classifier.py", *flags, "--max_steps", "60", "--save_steps", "20", "--logging_steps", "60"]
        started = time.perf_counter()
        script.main(script.parse_args())
        whole = time.perf_counter() - started
        bytes_saved = sum(path.stat().st_size for path in Path(saved).rglob("*") if path.is_file())
    check.add(
        f"base, 3 saves in 60 updates, {flag}", **{
            "held up, s": statistics.median(held), "longest, s": max(held), "saved GB": bytes_saved / 1e9,
            "whole run, s": whole,
        },
    )  # fmt: skip


def resuming(check: Check) -> None:
    """A run of 40 updates beside one that ends after 25 and is resumed from 20."""
    from safetensors.torch import load_file

    from bertorch.training.saving import all_written

    script = importlib.import_module("run_classifier")
    original = importlib.import_module("bertorch.training.run").Run
    folders = {name: check.out / f"resume-{name}" for name in ("whole", "parts")}
    files, _ = write_rows(check, "classes", 8, 24, "real")
    for name, folder in folders.items():
        shutil.rmtree(folder, ignore_errors=True)
        flags = script_flags(check, "classes", "base", 8, 24, files, str(folder))
        flags += ["--max_steps", "40", "--save_steps", "10"]
        flags += ["--pretrained_model_name_or_path", str(ROOT / "data" / "tiny-encoder")]

        class EndingRun(original):
            ends = name == "parts"

            def step(self) -> None:
                super().step()
                if self.ends and self.global_step == 25:
                    raise Enough

        script.Run = EndingRun
        sys.argv = ["run_classifier.py", *flags]
        with contextlib.suppress(Enough), all_written():
            script.main(script.parse_args())
        if name == "parts":
            script.Run = original
            sys.argv = ["run_classifier.py", *flags, "--resume"]
            script.main(script.parse_args())
    whole, parts = (load_file(folder / "model.safetensors") for folder in folders.values())
    apart = max(float((whole[name] - parts[name]).abs().max()) for name in whole)
    equal = all(torch.equal(whole[name], parts[name]) for name in whole)
    check.add("resumed beside undisturbed", equal=equal, **{"largest difference": apart})


OTHERS = (("base", 32, 128, "real"),)
GROUPED = {"train_sampling_strategy": "group_by_length"}
RUNS: dict[str, Callable[[Check], None]] = {
    "device": device,
    "attention": attention_check,
    "training": train_cells(CELLS, run_bertorch, []),
    "trainer": train_cells(CELLS, run_trainer, {}),
    "profile": profiled(run_bertorch, []),
    "tests": gpu_tests,
    "finetuning": finetuning,
    "backends": backends,
    "compiled": train_cells(CELLS[:5], run_bertorch, ["--compile"]),
    "encoding": encoding,
    "grouped": train_cells((CELLS[0], CELLS[1], CELLS[5]), run_bertorch, ["--group_by_length"]),
    "trainer-grouped": train_cells((CELLS[0], CELLS[1], CELLS[5]), run_trainer, GROUPED),
    "ceilings": ceilings,
    "saving": saving,
    "tasks": train_cells(OTHERS, run_bertorch, [], TASKS),
    "trainer-tasks": train_cells(OTHERS, run_trainer, {}, TASKS),
    "trainer-compiled": train_cells(CELLS[:4], run_trainer, {"torch_compile": True}),
    "trainer-profile": profiled(run_trainer, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("part", choices=RUNS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    RUNS[args.part](Check(args))


if __name__ == "__main__":
    main()
