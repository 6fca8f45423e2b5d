"""The flags that the scripts for sentence vectors share, each declared once."""

import argparse

from bertorch.heads.pooling import POOLING_HELP, POOLING_MODES
from bertorch.tasks.classification.scores import METRICS as CLASS_METRICS
from bertorch.tasks.sentences.pair import OBJECTIVES
from bertorch.tasks.sentences.scores import METRICS
from bertorch.training.arguments import (
    CLASS_LOSS_FLAGS,
    ArgumentParser,
    add_class_loss_arguments,
    add_pooling_layers_argument,
    not_negative,
    refuse_tricks,
    whole_number,
)


def add_sentence_arguments(parser: ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags of the scripts that train sentence vectors; returns their group, so that a script can add its own."""
    group = parser.add_argument_group("sentence vectors")
    group.add_argument("--pooling_mode", choices=POOLING_MODES, default="linear", help=POOLING_HELP)
    add_pooling_layers_argument(group)
    group.add_argument(
        "--output_emb_size", type=whole_number, default=None,
        help="width of the vectors, from a dense layer; default: the encoder's hidden_size",
    )  # fmt: skip
    group.add_argument("--normalize", action="store_true", help="scale vectors to length 1; cosines do not change")
    group.add_argument(
        "--chunk_size", type=whole_number, default=None,
        help="encode N texts at a time, and each again for its gradient: a large --batch_size in the memory of a small "
        "one, with the same gradient",
    )  # fmt: skip
    group.add_argument(
        "--no_gather_negatives", action="store_true", help="compare with the texts of one process, not of all"
    )
    return group


def add_contrastive_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the flags of the scripts that train with in-batch negatives."""
    group.add_argument(
        "--margin", type=not_negative, default=0.2, help="subtracted from the positive's cosine before the softmax"
    )
    group.add_argument("--scale", type=not_negative, default=20.0, help="factor of the cosines, the inverse temperature")
    group.add_argument("--metric", choices=METRICS, default="spearman", help="which metric decides the best model")
    group.add_argument(
        "--mask_duplicates", action=argparse.BooleanOptionalAction, default=True,
        help="do not train a text that is in the batch twice as a negative of itself or of its partner",
    )  # fmt: skip


def add_pair_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the flags for training on classes, scores or triplets; see ``SentencePair``."""
    group.add_argument("--objective", choices=OBJECTIVES, default="softmax", help="what the vectors are trained for")
    group.add_argument(
        "--label_file", default=None, help="softmax: the classes, one per line; default: those of the training set"
    )
    group.add_argument("--is_nli", action="store_true", help="train on natural language inference")
    group.add_argument("--concat_multiply", action="store_true", help="softmax: (u, v, |u-v|, u*v) instead of (u, v, |u-v|)")
    group.add_argument("--scale", type=not_negative, default=20.0, help="cosent: factor of the cosines")
    group.add_argument("--max_score", type=not_negative, default=None, help="cosine_mse: the score that means equal; "
                       "default: the highest in the training set")  # fmt: skip
    group.add_argument(
        "--triplet_margin",
        type=not_negative,
        default=1.0,
        help="triplet: how much farther away the negative must be, in Euclidean distance",
    )
    group.add_argument("--metric", choices=(*CLASS_METRICS, *METRICS), default=None,
                       help="which metric decides the best model; default: accuracy for softmax, else spearman")  # fmt: skip
    add_class_loss_arguments(group)


def settle_pair_arguments(parser: ArgumentParser, args: argparse.Namespace) -> None:
    """Fill in the default metric of the objective; exit with one line if flags contradict it."""
    if args.objective != "softmax":
        refuse_tricks(parser, args, (*CLASS_LOSS_FLAGS, "r_drop_weight"), f"classes; --objective {args.objective} has none")
        if args.is_nli or args.label_file:
            parser.error(f"--objective {args.objective} has no classes; leave out --is_nli and --label_file")
    args.metric = args.metric or ("accuracy" if args.objective == "softmax" else "spearman")
