"""Compare many runs in one table: the flags that differ, metrics, speed and memory.

python scripts/compare.py runs
python scripts/compare.py runs/a runs/b --format markdown --sort accuracy
"""

from bertorch.reporting.comparison import FORMATS, comparison, sorted_by
from bertorch.reporting.runs import find_runs
from bertorch.training.arguments import ArgumentParser
from bertorch.training.process_group import run_script


def parse_args():
    parser = ArgumentParser("Compare many runs in one table.")
    parser.add_argument(
        "directories", nargs="+", metavar="DIR",
        help="the saved directory of a run, or a directory with runs at any depth: every directory with metrics.jsonl or "
        "bertorch.json (for --seeds: one run per seed)",
    )  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="text", help="tsv keeps every digit")
    parser.add_argument(
        "--sort", default=None, metavar="METRIC",
        help="list the best first, by a metric such as accuracy or another column of the table; "
        "losses, perplexity and memory start from the lowest",
    )  # fmt: skip
    return parser.parse_args()


def main(args):
    columns, rows = comparison(find_runs(args.directories))
    if args.sort is not None:
        rows = sorted_by(columns, rows, args.sort)
    text = FORMATS[args.format](columns, rows)
    print(text.encode(errors="replace").decode())  # JSON may hold lone surrogates, which cannot be printed


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
