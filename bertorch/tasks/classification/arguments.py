"""The flags of run_classifier.py."""

import argparse

from bertorch.encoder.config import ACTIVATIONS
from bertorch.heads.pooling import POOLING_HELP, POOLING_MODES
from bertorch.tasks.classification.targets import METRICS_OF_TARGETS, TARGETS
from bertorch.training.arguments import (
    ArgumentParser,
    add_class_loss_arguments,
    add_dropout_samples_argument,
    add_pooling_layers_argument,
    settle_dev_files,
    whole_number,
)


def add_classifier_arguments(parser: ArgumentParser) -> None:
    """Add the flags of classification."""
    task = parser.add_argument_group("classification")
    task.add_argument(
        "--target", choices=TARGETS, default="label",
        help="what a row has. label: one label. labels: several or none, a|b in a column, a list in json lines, or a column "
        "of 0 and 1 for each label. score: a number",
    )  # fmt: skip
    task.add_argument(
        "--label_file", default=None,
        help="the labels, one per line; default: those of the training set, sorted",
    )  # fmt: skip
    task.add_argument("--is_text_pair", action="store_true", help="rows hold two texts")
    task.add_argument(
        "--metric", choices=METRICS_OF_TARGETS, default=None,
        help="which metric decides the best model; default: accuracy for label, micro_f1 for labels, spearman for score; f1 "
        "is for two labels",
    )  # fmt: skip
    task.add_argument(
        "--pooling_mode", choices=POOLING_MODES, default="linear",
        help="what to classify: linear as transformers does, or pooled states; " + POOLING_HELP,
    )  # fmt: skip
    add_pooling_layers_argument(task)
    task.add_argument(
        "--head_layers", type=whole_number, default=1,
        help="layers of the head; those before the last are as wide as the encoder, with --head_activation",
    )  # fmt: skip
    task.add_argument("--head_activation", choices=ACTIVATIONS, default="tanh", help="of the layers before the last")
    add_class_loss_arguments(task)
    add_dropout_samples_argument(task)


def parse_classifier_arguments(parser: ArgumentParser) -> argparse.Namespace:
    """Parse the flags; the default of ``--metric`` depends on ``--target``."""
    args = parser.parse_args()
    settle_dev_files(parser, args)
    args.metric = args.metric or TARGETS[args.target].metrics[0]
    return args
