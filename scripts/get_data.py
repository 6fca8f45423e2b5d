"""Get public data sets and lay them out as the commands in the documents expect them.

python scripts/get_data.py --list
python scripts/get_data.py chnsenticorp afqmc cmrc2018
"""

from bertorch.data.public_sets import GROUPS, SETS, get_set, listing
from bertorch.training.arguments import ArgumentParser
from bertorch.training.process_group import run_script


def parse_args():
    parser = ArgumentParser("Get public data sets from their original addresses; each file is checked.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join([*SETS, *GROUPS])}")
    parser.add_argument("--list", action="store_true", help="show the sets with size, folder and licence, and get none")
    parser.add_argument("--output_dir", default="data", help="where the folders of the sets are made")
    parser.add_argument(
        "--mirror", default=None, metavar="ADDRESS",
        help="get files from below this address, as ADDRESS/host/path in place of https://host/path",
    )  # fmt: skip
    args = parser.parse_args()
    unknown = next((name for name in args.names if name not in (*SETS, *GROUPS)), None)
    if unknown is not None:
        parser.error(f"{unknown!r} is not a set; --list shows them")
    if not args.names and not args.list:
        parser.error("name a set; --list shows them")
    return args


def main(args):
    if args.list:
        rows = [("name", "size", "folder", "licence"), *listing()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
        return
    for one in dict.fromkeys(one for name in args.names for one in GROUPS.get(name, [name])):
        get_set(one, args.output_dir, args.mirror)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))
