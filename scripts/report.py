"""Write the report of a run, or of several side by side: one HTML file that loads nothing else.

    python scripts/report.py checkpoint
    python scripts/report.py runs/a runs/b --output_file runs/report.html

Every training run writes its own report when it ends; this script writes it again, also for a run that was killed.
"""

from pathlib import Path

from bertorch.errors import UserError
from bertorch.reporting.report import write_report
from bertorch.reporting.runs import REPORT
from bertorch.training.arguments import ArgumentParser
from bertorch.training.process_group import run_script


def parse_args():
    parser = ArgumentParser("Write the report of a run, or of several side by side.")
    parser.add_argument(
        "directories", nargs="+", metavar="DIR",
        help="the saved directory of a run, or a directory with runs at any depth (for --seeds: one run per seed)",
    )  # fmt: skip
    parser.add_argument(
        "--output_file",
        default=None,
        help="default: report.html in DIR, or in the current directory for several DIRs",
    )
    return parser.parse_args()


def main(args):
    several = len(args.directories) > 1
    path = Path(args.output_file or (REPORT if several else Path(args.directories[0]) / REPORT))
    if path.is_dir():
        raise UserError(f"--output_file {path}: this is a directory; name a file")
    try:
        runs = write_report(args.directories, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); name another --output_file") from None
    print(f"{path}: {runs} run{'s' if runs > 1 else ''}")


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
