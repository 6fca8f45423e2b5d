"""What every training script does before it builds a model: flags, processes, tokenizer, labels and data sets."""

import argparse
from collections.abc import Callable
from pathlib import Path

from bertorch.data.files import read_labels
from bertorch.data.larger_model import larger_model
from bertorch.data.rows import find_labels
from bertorch.data.tokenizing import Samples, TextTokenizer, open_text_tokenizer
from bertorch.encoder.hub import local_directory, renamed_directory
from bertorch.encoder.tensorflow import converted_directory
from bertorch.training.arguments import check_training_arguments, reading_flags
from bertorch.training.checkpoints import check_saved_dir
from bertorch.training.process_group import Processes, be_deterministic, set_seed, start_processes


def start_training(args: argparse.Namespace) -> Processes:
    """Join the other processes, check the flags and seed all generators.

    Raises:
        UserError: flags contradict each other, or ``--saved_dir`` already holds a run.
    """
    processes = start_processes(args)
    check_training_arguments(args)
    check_saved_dir(args)
    if args.deterministic:
        be_deterministic()
    set_seed(args.seed)
    return processes


def open_tokenizer(args: argparse.Namespace, processes: Processes) -> tuple[Path, TextTokenizer]:
    """Find the directory of ``--pretrained_model_name_or_path`` and open its tokenizer.

    A name on the hub is downloaded; with ``--from_tf``, the checkpoint is converted into the cache. ``--config_file`` and
    ``--vocab_file`` replace the files with standard names. ``--add_tokens`` and ``--extend_positions`` make it larger.

    Raises:
        UserError: the model does not exist, has too few positions for ``--max_seq_length``, or another model's vocabulary.
    """
    name = args.pretrained_model_name_or_path
    named = (args.config_file, args.vocab_file)
    directory = processes.first_on_each_machine(
        lambda: (
            converted_directory(name, args.cache_dir, *named)
            if args.from_tf
            else renamed_directory(local_directory(name), *named, args.cache_dir)
        )
    )
    directory = processes.first_on_each_machine(
        lambda: larger_model(directory, args.max_seq_length, args.add_tokens, args.extend_positions, args.cache_dir)
    )
    return directory, open_text_tokenizer(
        directory,
        args.max_seq_length,
        args.truncation,
        chinese=args.chinese,
        max_part_lengths=args.max_part_lengths,
    )


def load_labels(args: argparse.Namespace, is_text_pair: bool, several: bool = False) -> list[str]:
    """Read the labels from ``--label_file``, or else from the training set; see ``find_labels``."""
    if args.label_file:
        return read_labels(args.label_file)
    return find_labels(args.train_data_file, is_text_pair, several, **reading_flags(args, "train"))


def load_sets(args: argparse.Namespace, processes: Processes, load: Callable[[str, str], Samples]) -> dict[str, Samples]:
    """Call ``load(path, name)`` for the data sets in the flags: ``train``, ``dev``, and ``test`` with ``--do_test``.

    Further development files come before ``test``, under their names in ``further_dev_files``.
    """
    further = args.further_dev_files
    files = {"train": args.train_data_file, "dev": args.dev_data_file, **further}
    files["test"] = args.test_data_file if args.do_test else None
    return processes.first_on_each_machine(
        lambda: {name: load(path, "dev" if name in further else name) for name, path in files.items() if path}
    )
