"""Answer files of any size on many machines, with Ray Data: one predictor in each worker.

    python scripts/predict_ray.py --model_dir checkpoint --input rows.jsonl more.txt.gz --output_dir answers --workers 2
    python scripts/predict_ray.py --model_dir checkpoint --input s3://bucket/rows --output_dir s3://bucket/answers \
        --address auto --workers 16 --gpus_per_worker 1 --precision bf16

The input is cut into shards of --shard_mb, at the ends of lines. Each becomes one file of json lines; in the order of their
names they have the order of the rows. A shard is complete or absent, so the same command continues what was stopped: it
makes those that are missing. Paths may be of any file system that pyarrow opens, such as s3://, gs:// and hdfs://; all
machines must see them, and the model. Files are UTF-8: a text per line, or .tsv, or .jsonl, each also .gz, which is not cut.
"""

import contextlib
import gzip
import io
import itertools
import json
import logging
import posixpath
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from loguru import logger

from bertorch import load_predictor
from bertorch.data.files import BadRows, read_cells
from bertorch.data.rows import TEXT_ROLES, Columns, Row
from bertorch.encoder.hub import local_directory
from bertorch.errors import UnusableRow, UserError
from bertorch.tasks.prediction import task_of
from bertorch.training.arguments import ArgumentParser, whole_number
from bertorch.training.logging import set_up_logging
from bertorch.training.process_group import run_script

PLAN = "plan.json"  # what the shards are made of, beside them
FORMATS = ("text", "tsv", "jsonl")
BATCHES = 8  # answered at a time


def parse_args():
    parser = ArgumentParser("Answer files of any size on many machines, with Ray Data.")
    parser.add_argument("--model_dir", required=True, help="as for predict.py")
    parser.add_argument("--input", nargs="+", required=True, help="files, directories or URIs")
    parser.add_argument("--output_dir", required=True, help="a directory or URI, for the shards of answers")
    parser.add_argument(
        "--input_format", choices=FORMATS, default=None, help="default: decided by each file's ending, text for .txt"
    )
    parser.add_argument("--is_text_pair", action="store_true", help="rows hold two texts, or a question and its passage")
    parser.add_argument("--with_text", action="store_true", help="also give the texts that each answer is for")
    parser.add_argument("--bad_rows", choices=("error", "skip"), default="error", help="skip gives them an empty answer")
    parser.add_argument("--workers", type=whole_number, default=2, help="predictors at work at a time")
    parser.add_argument("--cpus_per_worker", type=whole_number, default=1, help="processor cores of a worker")
    parser.add_argument("--gpus_per_worker", type=float, default=0, help="GPUs of a worker; 0.5 lets two share one")
    parser.add_argument("--batch_size", type=whole_number, default=64, help="rows or windows per forward pass")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="number format to compute in")
    parser.add_argument("--pooling_mode", default=None, help="make sentence vectors with a plain encoder, as for predict.py")
    parser.add_argument("--shard_mb", type=whole_number, default=64, help="megabytes of input in a shard")
    parser.add_argument("--address", default=None, help="of a running Ray cluster, such as auto; default: start one here")
    return parser.parse_args()


def file_system(path: str) -> tuple[Any, str]:
    """The pyarrow file system of a path or URI, and the path in it."""
    from pyarrow import fs

    return fs.FileSystem.from_uri(path if "://" in path else str(Path(path).absolute()))


def input_files(paths: list[str]) -> list[tuple[str, int]]:
    """``(path or URI, bytes)`` of every file, in order; directories give all their files, sorted by name.

    Raises:
        UserError: a path does not exist, or is an empty directory.
    """
    from pyarrow import fs

    found = []
    for path in paths:
        system, inside = file_system(path)
        info = system.get_file_info(inside)
        if info.type == fs.FileType.File:
            found.append((path, info.size))
            continue
        selector = fs.FileSelector(inside, recursive=True, allow_not_found=True)
        files = [one for one in system.get_file_info(selector) if one.type == fs.FileType.File and one.size]
        if not files:
            raise UserError(f"{path}: no such file, or a directory without files")
        for one in sorted(files, key=lambda one: one.path):
            found.append((posixpath.join(path, posixpath.relpath(one.path, inside)), one.size))
    return found


def plan_shards(files: list[tuple[str, int]], size: int) -> list[dict[str, Any]]:
    """Byte ranges of the files, ``size`` each; a line belongs to the range in which it begins. A .gz is one range."""
    ranges = []
    for path, length in files:
        step = length if path.lower().endswith(".gz") else size
        ranges += [{"path": path, "start": start, "end": min(start + step, length)} for start in range(0, length, step)]
    return [{"name": f"part-{place:05}-of-{len(ranges):05}.jsonl", **one} for place, one in enumerate(ranges)]


def open_shard(shard: dict[str, Any]) -> BinaryIO:
    """The lines that begin in the shard's range; a plain file's are read into memory."""
    system, inside = file_system(shard["path"])
    file = system.open_input_file(inside)
    if shard["path"].lower().endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    begin = max(shard["start"] - 1, 0)
    with file:
        file.seek(begin)
        begin += len(_rest_of_line(file)) if shard["start"] else 0
        file.seek(begin)
        data = file.read(max(shard["end"] - begin, 0))
        if data and not data.endswith(b"\n"):
            data += _rest_of_line(file)
    return io.BytesIO(data)


def _rest_of_line(file: Any) -> bytes:
    found = b""
    while not found.endswith(b"\n") and (block := file.read(1 << 16)):
        head, end, _ = block.partition(b"\n")
        found += head + end
    return found


def rows_of(shard: dict[str, Any], settings: dict[str, Any], bad: BadRows) -> Iterator[Row]:
    """The rows of a shard; a blank one, or a bad one that is skipped, has no texts."""
    ending = Path(shard["path"].lower().removesuffix(".gz")).suffix
    kind = settings["input_format"] or {".jsonl": "jsonl", ".tsv": "tsv"}.get(ending, "text")
    texts = 2 if settings["is_text_pair"] else 1
    keys = {"jsonl": ("question", "context")} if settings["is_question"] else {}
    columns = ",".join(keys[kind]) if kind in keys else None
    place = Columns(shard["path"], kind, texts, columns, False, None, "--input")
    with open_shard(shard) as stream:
        for line, cells in read_cells(shard["path"], bad, stream, kind, keep_all=True, encoding="utf-8"):
            try:
                row = None if cells is None else place.row(line, cells)
            except UnusableRow as error:
                bad.add(line, error.problem, error.remedy)
                row = None
            yield row if row is not None and all(row.texts) else Row(line, (), None)


class Answerer:
    """A worker: opens the model once, then makes the shards that it is given."""

    def __init__(self, settings: dict[str, Any]):
        set_up_logging(is_main=False)
        self.settings = settings
        how = {name: settings[name] for name in ("batch_size", "precision", "pooling_mode")}
        self.predictor = load_predictor(settings["model_dir"], **how)
        self.system, self.directory = file_system(settings["output_dir"])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards of a batch; an error that a user can mend is a value, so that others go on."""
        made = [self.make(json.loads(shard)) for shard in batch["shard"]]
        return {name: [one[name] for one in made] for name in ("name", "rows", "error")}

    def make(self, shard: dict[str, Any]) -> dict[str, Any]:
        final = posixpath.join(self.directory, shard["name"])
        unfinished = posixpath.join(self.directory, f".{shard['name']}.{uuid.uuid4().hex}.tmp")
        bad, count = BadRows(f"{shard['path']} from byte {shard['start']}", self.settings["bad_rows"]), 0
        try:
            rows = rows_of(shard, self.settings, bad)
            with self.system.open_output_stream(unfinished) as out:
                while block := list(itertools.islice(rows, BATCHES * self.settings["batch_size"])):
                    out.write("".join(self.lines(block)).encode())
                    count += len(block)
                bad.close()
            self.system.move(unfinished, final)
        except UserError as error:
            with contextlib.suppress(OSError):
                self.system.delete_file(unfinished)
            return {"name": shard["name"], "rows": count, "error": str(error)}
        return {"name": shard["name"], "rows": count, "error": ""}

    def lines(self, rows: list[Row]) -> Iterator[str]:
        """A line of json for each row."""
        texts = 2 if self.settings["is_text_pair"] else 1
        given = [row.texts or ("",) * texts for row in rows]
        answers = self.predictor([one if texts == 2 else one[0] for one in given])
        for row, answer in zip(rows, answers, strict=True):
            shown = dict(zip(TEXT_ROLES[texts], row.texts or (None,) * texts, strict=True))
            answer = {**answer, **shown} if self.settings["with_text"] else answer
            yield json.dumps(answer, ensure_ascii=False) + "\n"


def read_plan(args: Any) -> tuple[list[dict[str, Any]], set[str]]:
    """The shards, and the names of those that are there; the plan is kept in the output directory.

    Raises:
        UserError: the directory holds the shards of another input, model or --shard_mb.
    """
    from pyarrow import fs

    shards = plan_shards(input_files(args.input), args.shard_mb << 20)
    what = {name: getattr(args, name) for name in ("model_dir", "input_format", "is_text_pair", "with_text", "pooling_mode")}
    plan = json.dumps({**what, "shards": shards}, ensure_ascii=False, indent=1).encode()
    system, directory = file_system(args.output_dir)
    system.create_dir(directory, recursive=True)
    path = posixpath.join(directory, PLAN)
    if system.get_file_info(path).type == fs.FileType.File:
        with system.open_input_file(path) as file:
            if file.read() != plan:
                raise UserError(
                    f"{args.output_dir}: {PLAN} is of another input, model or flags; choose another --output_dir"
                )
    else:
        with system.open_output_stream(path) as file:
            file.write(plan)
    files = system.get_file_info(fs.FileSelector(directory))
    return shards, {one.base_name for one in files if one.base_name.startswith("part-")}


def main():
    args = parse_args()
    set_up_logging(is_main=True)
    try:
        import ray
    except ImportError:
        raise UserError("scripts/predict_ray.py needs packages: pip install bertorch[ray]") from None
    directory = local_directory(args.model_dir)
    args.model_dir = str(directory.absolute())
    settings = {**vars(args), "is_question": task_of(directory, args.pooling_mode) == "reading"}
    if settings["is_question"] and not args.is_text_pair:
        raise UserError("--is_text_pair is needed: rows of a reader hold a question and its passage")
    shards, there = read_plan(args)
    missing = [shard for shard in shards if shard["name"] not in there]
    logger.info(f"{len(shards)} shards of {len({shard['path'] for shard in shards})} files, {len(there)} are there already")
    if not missing:
        return
    ray.init(address=args.address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    logging.getLogger("ray.data").setLevel("ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items([{"shard": json.dumps(shard)} for shard in missing], override_num_blocks=len(missing))
    made = data.map_batches(
        Answerer,
        fn_constructor_args=(settings,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(args.workers, len(missing))),
        num_cpus=args.cpus_per_worker,
        num_gpus=args.gpus_per_worker or None,
    )
    errors = []
    for number, one in enumerate(made.iter_rows(), 1):
        errors += [one["error"]] if one["error"] else []
        logger.info(f"{one['name']}: {one['rows']} rows, {number} of {len(missing)} shards" + " failed" * bool(one["error"]))
    ray.shutdown()
    if errors:
        raise UserError(f"{errors[0]}\n{len(errors)} of {len(missing)} shards failed; the others are written")
    logger.info(f"answers in {args.output_dir}")


if __name__ == "__main__":
    run_script(main)
