"""Compare sentence vectors trained by our scripts with those of sentence-transformers, same data and settings.

    python benchmarks/sentence_quality.py --recipe simcse --train_data_file DATA/sentences.txt --dev_data_file STS/dev.tsv \
        --pretrained_model_name_or_path MODEL --train_rows 5000 --seeds 1 2 3
    python benchmarks/sentence_quality.py --recipe batchneg --train_data_file DATA/pairs.tsv ...  # those with label 1
    python benchmarks/sentence_quality.py --recipe softmax --train_data_file NLI/train.tsv --label_file NLI/labels.txt \
        --nli_dev_data_file NLI/dev.tsv ...
    python benchmarks/sentence_quality.py --recipe cosent --train_data_file STS/train.tsv ...

For each seed it trains bertorch, in a process of its own, then a plain loop over the model and the loss module of
sentence-transformers in this one (its Trainer needs the datasets package): AdamW, linear schedule, clipping. It prints a
Markdown table of the last models: Spearman correlation of cosines with the scored pairs of the development set, each
side encoding with its own code, and for softmax also the accuracy on classes. The in-batch losses go without margin and
without masking of duplicates, which sentence-transformers does not have. Training seconds leave out starting, tokenizing
and evaluating. The seeds give the two sides different shuffles and dropout masks, and head weights of different
distributions (normal of 0.02; uniform, torch's default), so only means over seeds compare.
"""

import argparse
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
import transformers
from classifier_quality import ROOT, SAMPLE_SEED, percent, read_journal
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses, modules
from sentence_transformers.util import batch_to_device, pairwise_cos_sim
from torch import Tensor, nn

import bertorch
from bertorch.data.files import read_labels
from bertorch.data.rows import Row, read_rows
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.tasks.sentences.description import Description
from bertorch.tasks.sentences.directory import load_sentence_encoder, new_sentence_encoder
from bertorch.tasks.sentences.encoder import SentenceEncoder
from bertorch.tasks.sentences.predictor import Predictor
from bertorch.tasks.sentences.rows import scored_samples
from bertorch.training.inference import Compute
from bertorch.training.process_group import Processes

SIDES = ("bertorch", "sentence-transformers")
SCALE = 20.0
SCRIPTS = {
    "simcse": ["run_simcse.py", "--scale", str(SCALE), "--margin", "0", "--no-mask_duplicates"],
    "batchneg": ["run_batchneg.py", "--scale", str(SCALE), "--margin", "0", "--no-mask_duplicates"],
    "softmax": ["run_sentencebert.py", "--objective", "softmax", "--is_nli"],
    "cosent": ["run_sentencebert.py", "--objective", "cosent", "--scale", str(SCALE)],
}


@dataclass
class Result:
    """One training: figures of the last model on the development sets, and the seconds its updates took."""

    spearman: float
    accuracy: float | None
    seconds: float


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--recipe", choices=SCRIPTS, required=True)
    parser.add_argument(
        "--train_data_file", required=True, help="sentences; for batchneg pairs and a label; else scored pairs"
    )
    parser.add_argument("--dev_data_file", required=True, help="scored pairs")
    parser.add_argument("--label_file", default=None, help="softmax: the classes, one a line")
    parser.add_argument("--nli_dev_data_file", default=None, help="softmax: pairs with classes")
    parser.add_argument("--pretrained_model_name_or_path", required=True, help="a local model directory")
    parser.add_argument("--train_rows", type=int, default=None, help="train on a fixed random sample; default: all rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--warmup_proportion", type=float, default=0.1)
    parser.add_argument("--max_seq_length", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    if args.recipe == "softmax" and not (args.label_file and args.nli_dev_data_file):
        parser.error("--recipe softmax needs --label_file and --nli_dev_data_file")
    return args


def write_sample(args: argparse.Namespace, labels: list[str] | None, path: Path) -> list[Row]:
    """Write the training rows that bertorch reads; returns them for the other side."""
    plain = args.recipe == "simcse"
    rows = read_rows(args.train_data_file, not plain, labels, label_needed=not plain)
    if args.recipe == "batchneg":
        rows = [Row(row.line, row.texts, None) for row in rows if row.label == "1"]
    if args.train_rows is not None and args.train_rows < len(rows):
        rows = random.Random(SAMPLE_SEED).sample(rows, args.train_rows)
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        for row in rows:
            handle.write("\t".join((*row.texts, *([] if row.label is None else [row.label]))) + "\n")
    return rows


class BertorchSide:
    """Trains by a script of ours, and encodes the development pairs with our code."""

    def __init__(self, args: argparse.Namespace, train_file: Path, directory: Path, device: torch.device):
        self.args, self.train_file, self.directory, self.device = args, train_file, directory, device
        self.compute = Compute(args.batch_size, Processes(rank=0, local_rank=0, world_size=1, device=device))
        self.tokenizer = TextTokenizer(load_tokenizer(args.pretrained_model_name_or_path), args.max_seq_length)
        self.pairs = scored_samples(args.dev_data_file, self.tokenizer)

    def start(self) -> float:
        return self._spearman(new_sentence_encoder(self.args.pretrained_model_name_or_path, "mean")[0])

    def _spearman(self, sentence: SentenceEncoder) -> float:
        predictor = Predictor(sentence.to(self.device), self.tokenizer, Description(), self.compute)
        return float(spearmanr(predictor.cosines(self.pairs), self.pairs.labels).statistic)

    def train(self, seed: int) -> Result:
        """One run of the recipe's script, read back from what it saved."""
        args = self.args
        saved_dir = self.directory / f"bertorch-{seed}"
        script, *flags = SCRIPTS[args.recipe]
        command = [sys.executable, str(ROOT / script), *flags, "--train_data_file", str(self.train_file)]
        for name in ("pretrained_model_name_or_path", "batch_size", "learning_rate", "warmup_proportion", "max_seq_length"):
            command += [f"--{name}", str(getattr(args, name))]
        command += ["--epochs", str(args.epochs), "--pooling_mode", "mean", "--scheduler", "linear", "--weight_decay", "0"]
        command += ["--max_grad_norm", "1.0", "--seed", str(seed), "--saved_dir", str(saved_dir)]
        command += ["--save_steps", "1000000000"]
        if args.recipe == "softmax":
            command += ["--label_file", args.label_file, "--dev_data_file", args.nli_dev_data_file]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{script} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        last, seconds = read_journal(saved_dir)
        return Result(self._spearman(load_sentence_encoder(saved_dir)[0]), last.get("accuracy"), seconds)


class TheirSide:
    """The same training by the modules of sentence-transformers."""

    def __init__(self, args: argparse.Namespace, rows: list[Row], labels: list[str] | None, device: torch.device):
        self.args, self.labels, self.device = args, labels, device
        self.columns = [[row.texts[0] for row in rows], [row.texts[-1] for row in rows]]  # simcse: a sentence and itself
        self.targets = [self._target(row) for row in rows]
        self.pairs = read_rows(args.dev_data_file, True)

    def _target(self, row: Row) -> float:
        return 0 if row.label is None else self.labels.index(row.label) if self.labels else float(row.label)

    def _model(self) -> SentenceTransformer:
        path, length = self.args.pretrained_model_name_or_path, self.args.max_seq_length
        encoder = modules.Transformer(path, max_seq_length=length, model_kwargs={"dtype": torch.float32})
        pooling = modules.Pooling(encoder.get_embedding_dimension(), "mean")
        return SentenceTransformer(modules=[encoder, pooling], device=str(self.device))

    def _loss(self, model: SentenceTransformer) -> nn.Module:
        if self.args.recipe == "softmax":
            return losses.SoftmaxLoss(model, model.get_embedding_dimension(), len(self.labels))
        if self.args.recipe == "cosent":
            return losses.CoSENTLoss(model, scale=SCALE)
        return losses.MultipleNegativesRankingLoss(model, scale=SCALE)

    def _encode(self, model: SentenceTransformer, rows: list[Row]) -> list[Tensor]:
        sizes = {"batch_size": self.args.batch_size, "show_progress_bar": False, "convert_to_tensor": True}
        return [model.encode([row.texts[turn] for row in rows], **sizes) for turn in (0, 1)]

    def start(self) -> float:
        return self._spearman(self._model())

    def _spearman(self, model: SentenceTransformer) -> float:
        u, v = self._encode(model, self.pairs)
        cosines = pairwise_cos_sim(u, v).cpu().numpy()
        return float(spearmanr(cosines, [float(row.label) for row in self.pairs]).statistic)

    def _accuracy(self, model: SentenceTransformer, loss: nn.Module) -> float:
        rows = read_rows(self.args.nli_dev_data_file, True, self.labels)
        u, v = self._encode(model, rows)
        with torch.no_grad():
            predicted = loss.classifier(torch.cat([u, v, (u - v).abs()], dim=1)).argmax(dim=1).cpu().numpy()
        return float(np.mean(predicted == [self.labels.index(row.label) for row in rows]))

    def train(self, seed: int) -> Result:
        """AdamW, linear schedule and clipping over their loss; the last batch of an epoch may be short."""
        args = self.args
        transformers.set_seed(seed)
        model = self._model()
        loss = self._loss(model)
        batches = []
        for _ in range(args.epochs):
            for places in torch.randperm(len(self.targets)).split(args.batch_size):
                features = [model.preprocess([texts[place] for place in places]) for texts in self.columns]
                batches.append((features, torch.tensor([self.targets[place] for place in places])))
        optimizer = torch.optim.AdamW(loss.parameters(), lr=args.learning_rate, weight_decay=0.0, fused=True)
        warmup_steps = math.ceil(args.warmup_proportion * len(batches))
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup_steps, len(batches))
        loss.train()
        started = time.perf_counter()
        for features, targets in batches:
            features = [batch_to_device(dict(column), self.device) for column in features]  # their model adds to it
            loss(features, targets.to(self.device)).backward()
            nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        loss.eval()
        return Result(self._spearman(model), self._accuracy(model, loss) if self.labels else None, seconds)


def difference(ours: list[float | None], theirs: list[float | None]) -> str:
    """Of the means, in per cent; a dash where there is nothing to show."""
    if None in (*ours, *theirs):
        return "-"
    return f"{100 * (statistics.mean(ours) - statistics.mean(theirs)):+.2f}"


def table(starts: dict[str, float], results: dict[str, dict[int, Result]]) -> str:
    """Markdown: the untrained models, a line a seed and side, means with standard deviations, difference of the means."""
    lines = ["| seed | trained by | Spearman x100 | accuracy % | training seconds |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| untrained | {side} | {percent([start])} | - | - |" for side, start in starts.items()]
    for seed in results[SIDES[0]]:
        for side in SIDES:
            result = results[side][seed]
            shown = f"{percent([result.spearman])} | {percent([result.accuracy])} | {result.seconds:.0f}"
            lines.append(f"| {seed} | {side} | {shown} |")
    columns = {
        side: [[getattr(result, name) for result in results[side].values()] for name in ("spearman", "accuracy", "seconds")]
        for side in SIDES
    }
    if len(results[SIDES[0]]) > 1:
        for side, (spearmans, accuracies, seconds) in columns.items():
            shown = f"{percent(spearmans)} | {percent(accuracies)} | {statistics.mean(seconds):.0f}"
            lines.append(f"| mean ± sd | {side} | {shown} |")
    ours, theirs = columns.values()
    shown = " | ".join(difference(*both) for both in zip(ours[:2], theirs[:2], strict=True))
    seconds = statistics.mean(ours[2]) - statistics.mean(theirs[2])
    lines.append(f"| difference of means | {' - '.join(SIDES)} | {shown} | {seconds:+.0f} |")
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels = read_labels(args.label_file) if args.recipe == "softmax" else None
    results: dict[str, dict[int, Result]] = {side: {} for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        train_file = Path(temporary) / "train.tsv"
        rows = write_sample(args, labels, train_file)
        both = (BertorchSide(args, train_file, Path(temporary), device), TheirSide(args, rows, labels, device))
        sides = dict(zip(SIDES, both, strict=True))
        starts = {name: side.start() for name, side in sides.items()}
        print(f"untrained: {starts}", file=sys.stderr, flush=True)
        for seed in args.seeds:
            for name, side in sides.items():
                results[name][seed] = side.train(seed)
                print(f"seed {seed}, {name}: {results[name][seed]}", file=sys.stderr, flush=True)
    print(
        f"{args.recipe}: {len(rows)} training rows, {args.epochs} epochs, batch size {args.batch_size}, learning rate "
        f"{args.learning_rate:g}, max_seq_length {args.max_seq_length}, warmup {args.warmup_proportion:g}; torch "
        f"{torch.__version__}, transformers {transformers.__version__}, sentence-transformers "
        f"{sentence_transformers.__version__}, bertorch {bertorch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print(table(starts, results))


if __name__ == "__main__":
    main()
