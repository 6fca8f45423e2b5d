"""Speed of training, beside the Hugging Face Trainer and, for in-batch negatives, that of sentence-transformers.

    python benchmarks/train_speed.py --shape tiny --steps 40                       # six tasks, an encoder of 6 x 128
    python benchmarks/train_speed.py --shape base --steps 4 --tasks afqmc --sides bertorch trainer-tuned --precision bf16

Sides: bertorch, the loop of the task's script; bertorch-grouped, the same with --group_by_length; trainer, with its
defaults, in fp32; trainer-tuned, batches grouped by length, fused AdamW (its default), and like ours in each --precision:
where the processor has no bf16 instructions, fp32 is its best; bertorch-compiled, ours with --compile, left out unless it is
named. For resume-crf the Trainer has a BertModel, a linear layer and pytorch-crf, for cmrc-512 the windows of transformers'
recipe; for in-batch-negatives it is SentenceTransformerTrainer, which cannot group, and the rows are AFQMC's pairs with
label 1. Needs accelerate, for resume-crf pytorch-crf and seqeval, for in-batch-negatives sentence-transformers and datasets;
a side whose package is missing is left out.

Each side is a process that builds its model, of random weights and the same for all, trains --steps updates to warm up, and
waits. Then one process at a time trains a chunk of --steps updates, in turn, --pairs times; who begins changes from pair to
pair. Every side draws the batches of an epoch over the same rows, by its own sampler and with the same seed, and trains
--steps * (--pairs + 1) of them, evenly spaced from the fewest tokens to the most, of which each chunk gets its share: a
chunk is an epoch in small, also where batches are grouped by length.

Seconds are CPU time of the process with one thread, wall time with more or with --device cuda. The share of the ceiling is
the model's arithmetic over real tokens a second, divided by the best GFLOP/s of torch.mm in the same precision, measured
between the chunks:
    model    3 * (layers * (24 * T * D^2 + 4 * S * D) + head)        forward, and twice that backward
             T real tokens, S the sum of squared lengths, D hidden size, B rows; head: 2 * B * D * (D + labels) for
             classes, 2 * T * D * tags, 2 * T * D * 2 for answers, 2 * B * B * D for in-batch negatives.
             For classes our last layer makes only keys and values of all tokens, 4 * T * D^2 + 20 * B * D^2 + 4 * T * D
             That is BERT's arithmetic; the share of another --family is left out.
    ceiling  the six linear maps of a block over T tokens, 4 of [D, D], [D, 4D] and [4D, D], each y = x w^T, and backward
             g w and g^T x
Peak memory is VmHWM of the process, with its libraries and its data, or with --device cuda what torch reserved there.
"""

import argparse
import contextlib
import importlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from chunked_batch import ROOT
from turns import SHAPES, Turns, Worker, add_arguments, clock, in_turn, machine, random_encoder, seconds, spread

from bertorch.data.files import read_labels

# Libraries are imported where they are used: a worker loads those of its own side, because its memory is compared.

SIDES = ("bertorch", "bertorch-grouped", "trainer", "trainer-tuned", "bertorch-compiled")
PACKAGES = {"torchcrf": "pytorch-crf", "sentence_transformers": "sentence-transformers"}
LEARNING_RATE = 5e-5


@dataclass(frozen=True)
class Task:
    """What is trained: our script, its head (``classes``, ``tags``, ``answers``, ``pairs``) and the training set.

    ``file`` lies in --data_dir, with the labels beside it; where that is not there, ``sample`` in data/ is taken.
    """

    script: str
    head: str
    max_seq_length: int
    file: str
    sample: str
    flags: tuple[str, ...] = ()
    rows: int = 6400  # from the start of the file


_REVIEWS = ("classification/chnsenticorp/train.tsv", "reviews/train.tsv")
_ENTITIES = ("ner/resume/train.json", "entities/train.jsonl")
_QUESTIONS = ("mrc/cmrc2018/squad_style_train.json.gz", "reading/train.json")
_VECTORS = ("--pooling_mode", "mean", "--margin", "0", "--no-mask_duplicates")
TASKS = {
    "chnsenticorp-128": Task("run_classifier", "classes", 128, *_REVIEWS),
    "chnsenticorp-256": Task("run_classifier", "classes", 256, *_REVIEWS),
    "chnsenticorp-512": Task("run_classifier", "classes", 512, *_REVIEWS),
    "afqmc": Task("run_classifier", "classes", 128, "pair/afqmc/train.txt", "nli/train.tsv", ("--is_text_pair",)),
    "resume-crf": Task("run_ner", "tags", 256, *_ENTITIES, ("--ner_head", "crf")),
    "cmrc-512": Task("run_mrc", "answers", 512, *_QUESTIONS, ("--doc_stride", "128"), rows=1600),
    "in-batch-negatives": Task("run_batchneg", "pairs", 64, "pair/afqmc/train.txt", "paraphrases/train.tsv", _VECTORS),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    usual = [name for name in TASKS if name != "chnsenticorp-512"]
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=usual)
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES[:4]))
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), nargs="+", default=["fp32", "bf16"], help="of all sides but trainer"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="updates of a chunk")
    parser.add_argument("--seed", type=int, default=1)
    add_arguments(parser)
    return parser.parse_args()


# The rows that all sides train on.


def write_rows(args: argparse.Namespace, task: Task, directory: Path) -> tuple[dict[str, str], str]:
    """Write the training file; returns it and its labels, and a line on them."""
    there = args.data_dir.is_dir()
    data = args.data_dir / task.file if there else ROOT / "data" / task.sample
    labels = data.with_name("labels.txt") if task.head in ("classes", "tags") else ""
    if task.head == "answers":
        found = paragraphs(data)
    else:
        with open(data, encoding="utf-8") as handle:
            found = [line for line in handle if line.strip()]
    if task.head == "pairs" and there:
        found = [line.rpartition("\t")[0] + "\n" for line in found if line.endswith("\t1\n")]
    if task.head == "tags" and not there:
        found, labels = tagged(found, directory / "labels.txt")
    count = max((args.pairs + 1) * args.steps * args.batch_size, min(task.rows, len(found)))
    rows = itertools.islice(itertools.cycle(found), count)
    if task.head == "answers":
        rows = [{"context": text, "qas": [{**entry, "id": str(place)}]} for place, (text, entry) in enumerate(rows)]
        rows = [json.dumps({"data": [{"paragraphs": rows}]})]
    path = directory / ("train.json" if task.head in ("tags", "answers") else "train.tsv")
    path.write_text("".join(rows), encoding="utf-8")
    name = task.file if there else f"the sample set data/{task.sample}"
    said = f"the first {count:,} rows of {name}" if count <= len(found) else f"{count:,} rows, {name} repeated"
    return {"file": str(path), "labels": str(labels)}, said


def paragraphs(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Passages and the questions that a span of them answers."""
    from bertorch.tasks.reading.rows import read_questions

    return [
        (one.context, {"question": one.text, "answers": [{"text": one.answers[0], "answer_start": one.start}]})
        for one in read_questions(path)
        if one.kind == "span"
    ]


def tagged(rows: list[str], labels: Path) -> tuple[list[str], Path]:
    """The sample entities with a tag for each character, BIOS as those of resume, and the file of the tags."""
    lines, known = [], {"O"}
    for row in map(json.loads, rows):
        tags = ["O"] * len(row["text"])
        for start, end, kind in row["entities"]:
            tags[start:end] = [f"S-{kind}"] if end == start + 1 else [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
        known.update(tags)
        lines.append(json.dumps({"text": list(row["text"]), "label": tags}) + "\n")
    labels.write_text("".join(f"{tag}\n" for tag in sorted(known)), encoding="utf-8")
    return lines, labels


# The workers.


class Chunks:
    """Which batches a worker trains, and what is in them."""

    def __init__(self, args: argparse.Namespace, task: Task, turns: Turns):
        self.args, self.task, self.turns = args, task, turns
        self.labels = read_labels(args.worker["labels"]) if args.worker["labels"] else []
        self.done = 0

    def deal(self, batches: list[np.ndarray], lengths: np.ndarray) -> list[np.ndarray]:
        """Of the batches of an epoch those that are trained, chunk after chunk.

        Args:
            batches: the rows of each, as the side's sampler drew them.
            lengths: tokens of each row's sequences, ``[rows, sequences]``.
        """
        args, dealt = self.args, [[] for _ in range(self.args.pairs + 1)]
        full = sorted((rows for rows in batches if len(rows) == args.batch_size), key=lambda rows: -lengths[rows].sum())
        wanted = len(dealt) * args.steps
        for place in range(wanted):  # the longest first, each to the chunk with the fewest tokens that has room
            rows = full[(2 * place + 1) * len(full) // (2 * wanted)]
            room = [chunk for chunk in dealt if len(chunk) < args.steps]
            min(room, key=lambda chunk: sum(lengths[batch].sum() for batch in chunk)).append(rows)
        for number, chunk in enumerate(dealt):
            random.Random(args.seed + number).shuffle(chunk)
        self.counts = [[self._count(lengths[rows]) for rows in chunk] for chunk in dealt]
        return [rows for chunk in dealt for rows in chunk]

    def _count(self, lengths: np.ndarray) -> dict[str, int]:
        """What is in a batch; the formula stands at the top."""
        layers, hidden, _ = SHAPES[self.args.shape]
        rows, tokens, squares = len(lengths), int(lengths.sum()), int((lengths.astype(np.int64) ** 2).sum())
        head = {
            "classes": rows * (hidden + len(self.labels)), "tags": tokens * len(self.labels), "answers": 2 * tokens,
            "pairs": rows * rows,
        }[self.task.head]  # fmt: skip
        last = layer = 24 * tokens * hidden**2 + 4 * squares * hidden
        theirs = self.args.worker["side"].startswith("trainer")
        if self.task.head == "classes" and not theirs:
            last = (4 * tokens + 20 * rows) * hidden**2 + 4 * tokens * hidden
        flops = 3 * ((layers - 1) * layer + last + 2 * head * hidden)
        padded = rows * int(lengths.max(axis=0).sum()) if theirs else tokens
        return {"samples": rows, "tokens": tokens, "padded": padded, "flops": flops}

    def answer(self, loss: float) -> None:
        """Say what the chunk took, and wait until it is this worker's turn again; ends the process after the last one."""
        of_batches = self.counts[self.done]
        self.turns.answer(**{key: sum(batch[key] for batch in of_batches) for key in of_batches[0]}, loss=loss)
        self.done += 1
        if self.args.shape == "base":  # room for the others
            from bertorch.memory import give_back_memory

            give_back_memory()
        if self.done == len(self.counts):
            sys.exit()
        self.turns.wait()


def train_bertorch(args: argparse.Namespace, task: Task, chunks: Chunks) -> None:
    """The task's script as it stands, with a Run that stops after each chunk."""
    script, job = importlib.import_module(task.script), args.worker

    class PacedRun(script.Run):
        def _plan(self, epoch: int) -> list[np.ndarray]:
            return chunks.deal(super()._plan(epoch), self.samples.lengths.reshape(len(self.samples), -1))

        def step(self) -> None:
            super().step()
            if self.global_step % args.steps == 0:
                chunks.turns.stop()
                last = self.journal.path.read_text(encoding="utf-8").splitlines()[-1]
                chunks.answer(json.loads(last)["loss"])

    script.Run = PacedRun
    values = {
        "train_data_file": job["file"], "pretrained_model_name_or_path": job["encoder"], "batch_size": args.batch_size,
        "max_seq_length": task.max_seq_length, "learning_rate": LEARNING_RATE, "seed": args.seed, "device": args.device,
        "max_steps": (args.pairs + 1) * args.steps, "logging_steps": args.steps, "save_steps": 10**9,
        "precision": job["precision"], "saved_dir": job["saved_dir"],
    }  # fmt: skip
    flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
    flags += ["--label_file", job["labels"]] if job["labels"] else []
    flags += {"bertorch-grouped": ["--group_by_length"], "bertorch-compiled": ["--compile"]}.get(job["side"], [])
    sys.argv = [f"{task.script}.py", *flags, *task.flags]
    script.main(script.parse_args())


def train_trainer(args: argparse.Namespace, task: Task, chunks: Chunks) -> None:
    """The Trainer, stopped after each chunk by a callback."""
    job = args.worker
    if task.head == "pairs":
        import datasets  # noqa: F401  without it, this Trainer cannot be made
        from sentence_transformers import SentenceTransformerTrainer as Trainer
        from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
    else:
        from transformers import Trainer, TrainingArguments
    from transformers import TrainerCallback, set_seed

    set_seed(args.seed)
    model, train_set, lengths, more = trainer_parts(args, task, chunks)

    class Pace(TrainerCallback):
        def on_log(self, *given: Any, logs: dict[str, float], **others: Any) -> None:
            if "loss" in logs:  # logs of the training come once a chunk
                chunks.turns.stop()
                chunks.answer(float(logs["loss"]))

    def dealt(order: list[int]) -> list[int]:
        batches = [np.array(order[start : start + args.batch_size]) for start in range(0, len(order), args.batch_size)]
        return [int(row) for rows in chunks.deal(batches, lengths) for row in rows]

    class PacedTrainer(Trainer):
        def _get_train_sampler(self, *given: Any) -> list[int]:
            return dealt(list(super()._get_train_sampler(*given)))

        def get_batch_sampler(self, *given: Any, **others: Any) -> Any:  # what sentence-transformers has instead
            sampler = super().get_batch_sampler(*given, **others)
            sampler.sampler = dealt([row for rows in sampler for row in rows])
            return sampler

    tuned = {"train_sampling_strategy": "group_by_length"} if job["side"] == "trainer-tuned" else {}
    settings = TrainingArguments(
        output_dir=job["saved_dir"], per_device_train_batch_size=args.batch_size, learning_rate=LEARNING_RATE,
        seed=args.seed, max_steps=(args.pairs + 1) * args.steps, logging_steps=args.steps, save_strategy="no", report_to=[],
        disable_tqdm=True, use_cpu=args.device == "cpu", bf16=job["precision"] == "bf16", **tuned,
    )  # fmt: skip
    PacedTrainer(model, settings, train_dataset=train_set, callbacks=[Pace()], **more).train()


def trainer_parts(args: argparse.Namespace, task: Task, chunks: Chunks) -> tuple[Any, Any, np.ndarray, dict[str, Any]]:
    """Model, training set, lengths ``[rows, sequences]``, and what else the Trainer wants."""
    import transformers

    from bertorch.data.rows import read_rows
    from bertorch.data.tokenizing import load_tokenizer

    file, encoder, labels, most = args.worker["file"], args.worker["encoder"], chunks.labels, task.max_seq_length
    tokenizer = load_tokenizer(encoder)
    if task.head == "pairs":
        from datasets import Dataset
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

        model = SentenceTransformer(encoder, device=args.device)  # of a plain encoder: mean pooling
        model.max_seq_length = most
        texts = list(zip(*(row.texts for row in read_rows(file, True, label_needed=False)), strict=True))
        ids = [tokenizer(list(column), truncation=True, max_length=most)["input_ids"] for column in texts]
        lengths = np.array([[len(one) for one in column] for column in ids]).T
        train_set = Dataset.from_dict(dict(zip(("anchor", "positive"), texts, strict=True)))
        return model, train_set, lengths, {"loss": MultipleNegativesRankingLoss(model)}
    collator = transformers.DataCollatorWithPadding(tokenizer)
    if task.head == "classes":
        from classifier_quality import trainer_samples

        samples = trainer_samples(read_rows(file, "--is_text_pair" in task.flags, labels), labels, tokenizer, most)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=len(labels))
    elif task.head == "tags":
        from ner_quality import read_texts, tag_samples

        samples, _ = tag_samples(read_texts(Path(file)), labels, tokenizer, most)
        model, collator = crf_model(encoder, len(labels)), transformers.DataCollatorForTokenClassification(tokenizer)
    else:
        from reading_quality import TrainerSide

        recipe = {"pretrained_model_name_or_path": encoder, "max_seq_length": most, "doc_stride": int(task.flags[-1])}
        samples, _ = TrainerSide(argparse.Namespace(**recipe), {"train": file}).samples["train"]
        model = transformers.AutoModelForQuestionAnswering.from_pretrained(encoder)
    return model, samples, np.array([[len(sample["input_ids"])] for sample in samples]), {"data_collator": collator}


def crf_model(encoder: str, tags: int) -> Any:
    """A linear layer and pytorch-crf over a BertModel, as people put them together."""
    import torch
    import torchcrf
    from transformers import BertModel

    class BertCrf(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel.from_pretrained(encoder, add_pooling_layer=False)
            self.dropout = torch.nn.Dropout(self.bert.config.hidden_dropout_prob)
            self.classifier = torch.nn.Linear(self.bert.config.hidden_size, tags)
            self.crf = torchcrf.CRF(tags, batch_first=True)

        def forward(self, input_ids, attention_mask, token_type_ids, labels):
            states = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
            emissions = self.classifier(self.dropout(states)).float()
            wanted = labels[:, 1:]  # pytorch-crf wants a tag in the first place, and [CLS] has none
            loss = -self.crf(emissions[:, 1:], wanted.clamp(min=0), mask=wanted >= 0, reduction="token_mean")
            return {"loss": loss}

    return BertCrf()


def serve_ceiling(args: argparse.Namespace, turns: Turns) -> NoReturn:
    """GFLOP/s of matrix products, each time it is asked, for a number of tokens."""
    import torch

    now = {"cpu": time.process_time, "wall": time.perf_counter}[clock(args)]
    hidden = SHAPES[args.shape][1]
    maps = [(hidden, hidden)] * 4 + [(hidden, 4 * hidden), (4 * hidden, hidden)]
    while True:
        tokens, best = int(turns.wait()), {}
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            kind = {"device": args.device, "dtype": dtype}
            inputs, outputs = (
                {n: torch.randn(tokens, n).to(args.device, dtype) for n in (hidden, 4 * hidden)} for _ in range(2)
            )
            weights = [torch.randn(n, k).to(**kind) for k, n in maps]
            gradients = [torch.empty_like(weight) for weight in weights]
            rounds = []
            while len(rounds) < 4 or sum(rounds) < 0.5:
                started = now()
                for (k, n), weight, gradient in zip(maps, weights, gradients, strict=True):
                    torch.mm(inputs[k], weight.t(), out=outputs[n])
                    torch.mm(inputs[n], weight, out=outputs[k])
                    torch.mm(inputs[n].t(), inputs[k], out=gradient)
                if args.device == "cuda":
                    torch.cuda.synchronize()
                rounds.append(now() - started)
            best[precision] = sum(6 * tokens * k * n for k, n in maps) / min(rounds) / 1e9
        turns.stop()
        turns.answer(**best)


def work(args: argparse.Namespace) -> NoReturn:
    turns, side = Turns(), args.worker["side"]
    if side == "ceiling":
        serve_ceiling(args, turns)
    task = TASKS[args.worker["task"]]
    train = train_trainer if side.startswith("trainer") else train_bertorch
    try:
        train(args, task, Chunks(args, task, turns))
    except ModuleNotFoundError as error:
        sys.exit(f"left out, it needs {error.name}: pip install {PACKAGES.get(error.name, error.name)}")
    sys.exit()


# The one who measures.


def measure(args: argparse.Namespace, name: str, encoder: Path, directory: Path) -> str:
    """Markdown for one task."""
    task = TASKS[name]
    job, said = write_rows(args, task, directory)
    same = ("trainer-tuned", "fp32") if task.head == "pairs" else None  # cannot group, and so is trainer once more
    chosen = [(side, precision) for side in args.sides for precision in (["fp32"] if side == "trainer" else args.precision)]
    workers: dict[str, Worker] = {}
    figures: dict[str, list[dict[str, Any]]] = {}
    best, batch_tokens = {"fp32": 0.0, "bf16": 0.0}, 0
    with contextlib.ExitStack() as stack:

        def start(title: str, **more: str) -> Worker:
            worker = Worker(title, {**job, **more}, args.threads, directory)
            stack.callback(worker.close)
            return worker

        for side, precision in chosen:
            if (side, precision) == same:
                continue
            title = f"{side} {precision}"
            saved = {"encoder": str(encoder), "saved_dir": str(directory / f"{side}-{precision}")}
            worker = start(title, task=name, side=side, precision=precision, **saved)
            warm = worker.answer(optional=True)
            if warm is not None:
                workers[title], figures[title] = worker, []
                batch_tokens = batch_tokens or round(warm["tokens"] / args.steps)
        if not workers:
            raise SystemExit(f"{name}: no side is left")
        ceiling = start("ceiling", side="ceiling")
        for order in in_turn(list(workers), args.pairs):
            found = ceiling.ask(batch_tokens)
            best = {precision: max(value, found[precision]) for precision, value in best.items()}
            for title in order:
                figures[title].append(workers[title].ask())
    return (
        f"## {name}\n\n{task.script}.py, {said}; max_seq_length {task.max_seq_length}, {batch_tokens:,} tokens a batch; "
        f"matrix products: {best['fp32']:.0f} GFLOP/s in fp32, {best['bf16']:.0f} in bf16\n\n" + table(args, figures, best)
    )


def table(args: argparse.Namespace, figures: dict[str, list[dict[str, Any]]], best: dict[str, float]) -> str:
    """A line a side."""

    def a_second(title: str, key: str) -> list[float]:
        return [chunk[key] / seconds(chunk, args) for chunk in figures[title]]

    ours = [title for title in figures if title.startswith("bertorch")]
    head = ["side", "samples/s", "real tokens/s", *(f"{title} is faster by" for title in ours), "padded / real tokens"]
    head += ["share of ceiling %", "peak memory MB", "last loss"]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " --- |" * (len(head) - 1)]
    for title, chunks in figures.items():
        cells = [title, spread(a_second(title, "samples"), 1), spread(a_second(title, "tokens"), 0)]
        for other in ours:
            both = zip(a_second(other, "samples"), a_second(title, "samples"), strict=True)
            cells.append("-" if other == title else spread([mine / theirs for mine, theirs in both], 2))
        cells.append(f"{sum(chunk['padded'] for chunk in chunks) / sum(chunk['tokens'] for chunk in chunks):.2f}")
        share = 100 * statistics.median(a_second(title, "flops")) / 1e9 / best[title.split()[-1]]
        cells.append(f"{share:.0f}" if args.family == "bert" else "-")
        cells += [f"{chunks[-1]['memory']:,.0f}", f"{chunks[-1]['loss']:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    if args.worker:
        work(args)
    layers, hidden, heads = SHAPES[args.shape]
    print(
        f"{machine(args, 'sentence-transformers', 'datasets')}\n\n{args.family}, {layers} layers, {hidden} wide, {heads} "
        f"heads, random weights; batch size {args.batch_size}; medians of {args.pairs} chunks of {args.steps} updates "
        "(lowest..highest); "
        "faster by: median over the pairs of their seconds a sample, divided by ours\n"
    )
    with tempfile.TemporaryDirectory() as temporary:
        encoder = random_encoder(args, Path(temporary))
        for name in args.tasks:
            directory = Path(temporary) / name
            directory.mkdir()
            print(measure(args, name, encoder, directory) + "\n", flush=True)


if __name__ == "__main__":
    main()
