"""The flags of run_ner.py."""

import argparse

from bertorch.data.files import OBJECT_FORMATS
from bertorch.tasks.entities.description import HEADS
from bertorch.tasks.entities.rows import UNITS
from bertorch.tasks.entities.scores import METRICS
from bertorch.tasks.entities.tags import SCHEMES
from bertorch.training.arguments import (
    CLASS_LOSS_FLAGS,
    ArgumentParser,
    add_class_loss_arguments,
    add_dropout_samples_argument,
    add_input_format_argument,
    count,
    not_negative,
    refuse_tricks,
)


def add_entity_arguments(parser: ArgumentParser) -> None:
    """The flags of the task."""
    task = parser.add_argument_group("entities")
    task.add_argument(
        "--label_file",
        default=None,
        help="the tags (O, B-PER, ...) or entity types (PER, ...), one per line; default: the types of the training set",
    )
    add_input_format_argument(task, ("columns", *OBJECT_FORMATS))
    task.add_argument("--tag", choices=SCHEMES, default="bios", help="tagging scheme of the model; files may use any other")
    task.add_argument(
        "--ner_head", choices=HEADS, default="linear",
        help="a linear layer, a CRF on top of it, or scores of spans, which find nested entities",
    )  # fmt: skip
    task.add_argument("--use_crf", action="store_true", help="the same as --ner_head crf")
    task.add_argument(
        "--crf_learning_rate", type=not_negative, default=5e-5, help="highest learning rate of the CRF's own weights"
    )
    task.add_argument(
        "--no_crf_constraints", action="store_true", help="allow the CRF invalid tag sequences, such as I- after O"
    )
    task.add_argument(
        "--doc_stride", type=count, default=None,
        help="tokens that neighbouring windows share in texts longer than --max_seq_length; default: half a window",
    )  # fmt: skip
    task.add_argument(
        "--unit", choices=UNITS, default="character",
        help="what to split plain text into; files that list characters or words are used as they are",
    )  # fmt: skip
    task.add_argument("--metric", choices=METRICS, default="f1", help="which metric decides the best model")
    add_class_loss_arguments(task)
    add_dropout_samples_argument(task)


def settle_entity_arguments(parser: ArgumentParser, args: argparse.Namespace) -> None:
    """Turn ``--use_crf`` into ``--ner_head crf``; exit with a one-line error if flags contradict the head."""
    if args.use_crf and args.ner_head == "global_pointer":
        parser.error("--use_crf and --ner_head global_pointer contradict each other; give one")
    if args.ner_head == "global_pointer" and args.metric != "f1":
        parser.error(f"--metric {args.metric} is for tags; --ner_head global_pointer has f1")
    args.ner_head = "crf" if args.use_crf else args.ner_head
    if args.ner_head != "linear":
        refuse_tricks(parser, args, CLASS_LOSS_FLAGS, "tags that are decided one by one, --ner_head linear")
    if args.ner_head == "global_pointer":
        refuse_tricks(parser, args, ("dropout_samples", "r_drop_weight"), "tags; --ner_head global_pointer has spans")


def how_to_read(args: argparse.Namespace) -> dict[str, str | None]:
    """The arguments of ``read_documents`` that flags set; part of the cache key."""
    return {"bad_rows": args.bad_rows, "kind": args.input_format, "encoding": args.encoding}
