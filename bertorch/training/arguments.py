"""The flags that all scripts share, each declared once."""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from loguru import logger

from bertorch.data.chinese import CHINESE
from bertorch.data.encodings import encoding_name
from bertorch.data.files import INPUT_FORMATS
from bertorch.data.tokenizing import TRUNCATIONS
from bertorch.errors import UserError
from bertorch.training.optimizer import OPTIMIZERS
from bertorch.training.process_group import PRECISIONS, is_main_process
from bertorch.training.schedules import SCHEDULES
from bertorch.training.tricks import check_tricks


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Show only defaults that are informative."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class ArgumentParser(argparse.ArgumentParser):
    """argparse with one line per mistake, printed by the main process only, and no abbreviated flags."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        if is_main_process():
            print(f"{self.prog}: {message}; --help lists the flags", file=sys.stderr)
        sys.exit(2)


def whole_number(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, found {text}")
    return value


def _whole_numbers(text: str) -> list[int]:
    return [whole_number(one) for one in text.split(",")]


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, found {text}")
    return value


def not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must not be negative, found {text}")
    return value


def proportion(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, found {text}")
    return value


def below_one(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, found {text}")
    return value


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be between 0 and 4294967295, found {text}")
    return value


def training_parser(
    description: str, rows_of_texts: bool = True, documents: bool = False, several_dev_files: bool = False
) -> ArgumentParser:
    """A parser with every shared flag of a training script; the script adds its own.

    Args:
        description: of the script.
        rows_of_texts: files have columns, and long texts are truncated; False for tasks with their own formats and windows.
        documents: a data set is several plain-text files, in which no row can be bad.
        several_dev_files: ``--dev_data_file`` accepts several data sets; see ``settle_dev_files``.
    """
    parser = ArgumentParser(description)

    model = parser.add_argument_group("model")
    model.add_argument(
        "--pretrained_model_name_or_path", default="bert-base-chinese",
        help="a local Hugging Face model directory, or a name on the hub; a directory without weights trains from scratch",
    )  # fmt: skip
    model.add_argument(
        "--from_tf", action="store_true",
        help="--pretrained_model_name_or_path is a TensorFlow checkpoint of BERT, ALBERT, SimBERT or RoFormer",
    )  # fmt: skip
    model.add_argument(
        "--config_file", default=None,
        help="the model's configuration if it is not called config.json: a path, or the name of a file in its directory",
    )  # fmt: skip
    model.add_argument(
        "--vocab_file", default=None,
        help="the model's vocabulary if it has another name, likewise: vocab.txt, a SentencePiece .model or tokenizer.json",
    )  # fmt: skip
    model.add_argument(
        "--init_from_ckpt", default=None, help="start from these weights: a saved directory, .safetensors or .bin file"
    )
    model.add_argument(
        "--add_tokens", nargs="+", default=[], metavar="TOKEN",
        help="text that becomes one token each, such as [CAT=FASHION]; its embedding starts as the mean of all, or is that "
        "of the vocabulary if it has the token",
    )  # fmt: skip
    model.add_argument(
        "--extend_positions", action="store_true",
        help="make position embeddings for a --max_seq_length beyond the model's (hierarchical decomposition, Su 2020); "
        "models without a table of positions need no flag",
    )  # fmt: skip
    model.add_argument("--gradient_checkpointing", action="store_true", help="save memory by computing activations twice")
    model.add_argument("--compile", action="store_true", help="compile the encoder's layers, all as one")

    data = parser.add_argument_group("data")
    if documents:
        what = "one sentence per line, a blank line between documents; plain or .gz, or .parquet"
        data.add_argument("--train_data_file", required=True, nargs="+", help=f"training set, {what}")
        data.add_argument("--dev_data_file", default=None, nargs="+", help="development set, evaluated during training")
        parser.set_defaults(test_data_file=None, do_test=False)
    else:
        data.add_argument(
            "--train_data_file",
            required=True,
            help="training set: .tsv/.txt, .csv, .json or .jsonl, also .gz; .parquet, .xlsx",
        )
        data.add_argument(
            "--dev_data_file", default=None, nargs="+" if several_dev_files else None,
            help="development set, evaluated during training"
            + "; of several files the first decides, figures of the others are logged under their names" * several_dev_files,
        )  # fmt: skip
        data.add_argument("--test_data_file", default=None, help="test set for --do_test; it needs no label column")
        data.add_argument(
            "--do_test", action="store_true", help="after training, predict --test_data_file with the saved model"
        )
    data.add_argument("--max_seq_length", type=whole_number, default=128, help="longest sequence, in tokens")
    if rows_of_texts:
        data.add_argument(
            "--truncation", choices=TRUNCATIONS, default="head", help="which part of a text that is too long to keep"
        )
        data.add_argument(
            "--max_part_lengths", type=_whole_numbers, default=None, metavar="N,N,...",
            help="longest parts of a row, in tokens, before the whole is cut, such as 50,200,200: its texts, and what [SEP] "
            "divides a text into",
        )  # fmt: skip
        add_columns_argument(data)
        data.add_argument("--dev_columns", default=None, help="like --columns, for the development set, and the test set")
        data.add_argument("--test_columns", default=None, help="like --columns, for the test set")
        add_input_format_argument(data, INPUT_FORMATS)
    else:
        parser.set_defaults(truncation="head", max_part_lengths=None)
    if not documents:
        add_bad_rows_argument(data)
    add_encoding_argument(data)
    data.add_argument(
        "--chinese", choices=CHINESE, default=None,
        help="convert the characters of all texts (OpenCC) before they are tokenized; predict.py then does so too",
    )  # fmt: skip
    data.add_argument("--cache_dir", default=None, help="token cache; default: $BERTORCH_CACHE or ~/.cache/bertorch")
    data.add_argument("--num_workers", type=whole_number, default=None, help="threads for tokenizing; default: all cores")

    parser.set_defaults(further_dev_files={})

    optimisation = parser.add_argument_group("optimisation")
    optimisation.add_argument("--batch_size", type=whole_number, default=32, help="rows per process and forward pass")
    optimisation.add_argument(
        "--group_by_length", action="store_true",
        help="batch rows of similar length: faster where padding is costly, but batches are less random",
    )  # fmt: skip
    optimisation.add_argument(
        "--gradient_accumulation_steps", type=whole_number, default=1, help="batches per weight update"
    )
    optimisation.add_argument(
        "--ddp_compression", choices=("bf16",), default=None,
        help="exchange gradients between processes in bf16: half the bytes, for slow networks; default: in 32 bits",
    )  # fmt: skip
    optimisation.add_argument(
        "--optimizer", choices=OPTIMIZERS, default="adamw", help="adamw, or lamb for batches of thousands"
    )
    optimisation.add_argument("--learning_rate", type=not_negative, default=5e-5, help="highest learning rate")
    optimisation.add_argument("--scheduler", choices=SCHEDULES, default="linear", help="how the learning rate changes")
    optimisation.add_argument(
        "--warmup_proportion", type=proportion, default=0.0, help="share of all steps over which the rate rises from 0"
    )
    optimisation.add_argument(
        "--warmup_steps", type=count, default=None, help="updates over which the rate rises, in place of a share of all"
    )
    optimisation.add_argument(
        "--weight_decay", type=not_negative, default=0.0, help="weight decay; biases and layer norms have none"
    )
    optimisation.add_argument(
        "--adam_betas", type=below_one, nargs=2, default=None, metavar=("BETA1", "BETA2"),
        help="share of the averages of gradients and of their squares that an update keeps; default: 0.9 0.999",
    )  # fmt: skip
    optimisation.add_argument(
        "--adam_epsilon", type=not_negative, default=None,
        help="added to the root of the second average; default: 1e-8 for adamw, 1e-6 for lamb",
    )  # fmt: skip
    optimisation.add_argument(
        "--dropout", type=below_one, default=None, help="dropout of the encoder, in place of its config.json's"
    )
    optimisation.add_argument("--max_grad_norm", type=not_negative, default=1.0, help="gradient clipping; 0 for none")
    optimisation.add_argument("--epochs", type=whole_number, default=3, help="passes over the training set")
    optimisation.add_argument(
        "--max_steps", type=whole_number, default=None, help="stop after N updates; overrides --epochs"
    )
    optimisation.add_argument("--seed", type=seed, default=1000, help="fixes weights, order and dropout")
    optimisation.add_argument(
        "--deterministic", action="store_true",
        help="on a GPU, add up in a fixed order: the same flags and --seed give the same weights to the bit, more slowly",
    )  # fmt: skip
    optimisation.add_argument(
        "--seeds", type=seed, nargs="+", default=None,
        help="train once per seed, each in a folder of --saved_dir; report mean, highest and deviation, keep the best model",
    )  # fmt: skip
    optimisation.add_argument(
        "--precision", choices=PRECISIONS, default="auto",
        help="bf16 and fp16 compute in 16 bits and keep the weights in 32; fp16 needs a GPU; auto: bf16 on a GPU of compute "
        "capability 8.0 or newer, else fp32",
    )  # fmt: skip
    add_device_argument(optimisation)

    tricks = parser.add_argument_group("tricks, off by default")
    tricks.add_argument(
        "--fgm_epsilon", type=not_negative, default=0.0,
        help="add a pass to each step, word embeddings moved this far along their gradient (FGM, Miyato et al. 2017); "
        "0.5 to 1 is usual",
    )  # fmt: skip
    tricks.add_argument(
        "--r_drop_weight",
        type=not_negative,
        default=0.0,
        help="weight of the divergence between two passes with different dropout (R-Drop, Liang et al. 2021); 1 to 5 is "
        "usual",
    )
    tricks.add_argument(
        "--ema_decay",
        type=below_one,
        default=0.0,
        help="evaluate and save an exponential moving average of the weights; 0.99 to 0.9999, higher for more updates",
    )
    tricks.add_argument(
        "--layer_decay",
        type=proportion,
        default=1.0,
        help="multiply the learning rate by this from each layer to the one below (Howard & Ruder 2018); 0.8 to 0.95 is "
        "usual",
    )
    tricks.add_argument("--freeze_embeddings", action="store_true", help="do not train the embeddings")
    tricks.add_argument("--freeze_layers", type=count, default=0, help="do not train the embeddings and the lowest N layers")

    output = parser.add_argument_group("output")
    output.add_argument("--saved_dir", default="checkpoint", help="where to write the model, metrics and training state")
    output.add_argument("--logging_steps", type=whole_number, default=20, help="updates between log lines")
    output.add_argument(
        "--save_steps", type=whole_number, default=None,
        help="updates between saves; default: 100, and on a GPU as many hundreds as keep saving under 5 %% of the time",
    )  # fmt: skip
    output.add_argument(
        "--save_seconds", type=not_negative, default=None,
        help="save when this much time has passed since the last save: alone, or besides --save_steps",
    )  # fmt: skip
    output.add_argument(
        "--save_in_background", action=argparse.BooleanOptionalAction, default=None,
        help="write copies of weights and state while the training goes on; default: on a GPU. On a CPU the copies take "
        "memory, and the writing takes time from the training",
    )  # fmt: skip
    output.add_argument(
        "--eval_steps", type=whole_number, default=None, help="updates between evaluations; default: --save_steps, or 100"
    )
    output.add_argument("--eval_batch_size", type=whole_number, default=None, help="default: --batch_size")
    output.add_argument("--save_best_model", action="store_true", help="save the model that is best on the development set")
    output.add_argument(
        "--early_stopping_patience",
        type=whole_number,
        default=None,
        help="stop after N evaluations without a new best",
    )
    output.add_argument("--resume", action="store_true", help="continue from the training state in --saved_dir")
    output.add_argument("--overwrite", action="store_true", help="replace the run that --saved_dir already holds")
    output.add_argument("--tensorboard", action="store_true", help="write TensorBoard events to --saved_dir/tensorboard")

    parser.add_argument(
        "--local_rank", "--local-rank", type=int, default=-1,
        help="number of this process on its machine; torch.distributed.launch passes it, torchrun needs no flag",
    )  # fmt: skip
    return parser


def settle_dev_files(parser: ArgumentParser, args: argparse.Namespace) -> None:
    """Keep the first development file in ``dev_data_file``, and the others by name in ``further_dev_files``.

    The name is the file name without its extensions; if two files share a name, the script ends.
    """
    if args.dev_data_file is None:
        return
    args.dev_data_file, *others = args.dev_data_file
    for path in others:
        name = Path(path).name.split(".")[0]
        if name in ("train", "dev", "test", *args.further_dev_files) or not name:
            parser.error(f"--dev_data_file {path}: figures would be called {name!r}, as others are; rename the file")
        args.further_dev_files[name] = path


CLASS_LOSS_FLAGS = ("label_smoothing", "focal_gamma", "class_weights")


def add_class_loss_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the flags that ``class_loss`` reads."""
    group.add_argument(
        "--label_smoothing",
        type=below_one,
        default=0.0,
        help="share of each target to spread over all classes; 0.1 is usual",
    )
    group.add_argument(
        "--focal_gamma", type=not_negative, default=0.0,
        help="the higher, the less a well-learned example counts (focal loss, Lin et al. 2017); 2 is usual",
    )  # fmt: skip
    group.add_argument(
        "--class_weights", nargs="+", default=None, metavar="WEIGHT",
        help="weight of each class in the loss, in the order of the label file; or balanced, so all classes count equally",
    )  # fmt: skip


def add_dropout_samples_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dropout_samples", type=whole_number, default=1,
        help="average the loss over N dropout masks before the last layer (multi-sample dropout, Inoue 2019); 5 is "
        "usual",
    )  # fmt: skip


def add_pooling_layers_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--pooling_layers", type=whole_number, default=None,
        help="how many of the last layers --pooling_mode scalar_mix and cls_layers take; default: 4",
    )  # fmt: skip


def refuse_tricks(parser: ArgumentParser, args: argparse.Namespace, names: Sequence[str], what: str) -> None:
    """End with a one-line error if one of these flags is set; ``what`` says what they are for."""
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} is for {what}")


def add_columns_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--columns", default=None,
        help="columns to read, such as sentence,label: names in the header row, or else the role of each position "
        "(text, text_a, text_b, label, _ for none); keys for json lines",
    )  # fmt: skip


def add_bad_rows_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--bad_rows", choices=("error", "skip"), default="error", help="at rows that cannot be used, stop or leave them out"
    )


def add_input_format_argument(group: argparse._ArgumentGroup, formats: Sequence[str]) -> None:
    group.add_argument(
        "--input_format", choices=formats, default=None,
        help="of the files; default: by the ending and, where it says .csv, .tsv, .txt or .json, by the first lines",
    )  # fmt: skip


def add_encoding_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--encoding", type=_encoding, default=None,
        help="of the files, such as gb18030 or big5; default: detected, UTF-8, UTF-16, or GBK and GB18030",
    )  # fmt: skip


def _encoding(text: str) -> str:
    try:
        return encoding_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def reading_flags(args: argparse.Namespace, name: str, like_train: bool = True) -> dict[str, str | None]:
    """The arguments that the flags give to ``read_rows`` and similar functions; they are part of the cache key.

    Args:
        args: the flags.
        name: the data set, ``train``, ``dev`` or ``test``. The test set's columns come from ``--test_columns``, else
            ``--dev_columns``, else ``--columns``; the development set's from the last two.
        like_train: False if these two sets do not have the columns of the training set, so that ``--columns`` does not
            apply to them.
    """
    candidates = {"train": [], "dev": ["dev_columns"], "test": ["test_columns", "dev_columns"]}[name]
    candidates += ["columns"] if name == "train" or like_train else []
    columns = next((given for flag in candidates if (given := getattr(args, flag)) is not None), None)
    return {
        "columns": columns,
        "columns_flag": f"--{candidates[0]}",
        "bad_rows": args.bad_rows,
        "kind": args.input_format,
        "encoding": args.encoding,
    }


def add_device_argument(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", default=None, help="cpu, cuda or cuda:1; default: cuda if there is one")


def check_training_arguments(args: argparse.Namespace) -> None:
    """Fill in defaults that depend on other flags, and refuse flags that contradict each other.

    Raises:
        UserError: flags contradict each other.
    """
    args.eval_steps = args.eval_steps or args.save_steps or 100
    args.eval_batch_size = args.eval_batch_size or args.batch_size
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one")
    if args.do_test and args.test_data_file is None:
        raise UserError("--do_test needs --test_data_file")
    if args.test_data_file is not None and not args.do_test:
        logger.warning(f"--test_data_file {args.test_data_file} is not read; add --do_test to predict it after training")
    for flag in ("save_best_model", "early_stopping_patience"):
        if getattr(args, flag) and args.dev_data_file is None:
            raise UserError(f"--{flag} needs --dev_data_file")
    if args.warmup_steps is not None and args.warmup_proportion:
        raise UserError("--warmup_steps and --warmup_proportion contradict each other; give one")
    check_tricks(args)
    logger.info(f"{datetime.now().date()}; {args.saved_dir}: its bertorch.json will hold all {len(vars(args))} flags")
    if args.num_workers:
        os.environ["RAYON_NUM_THREADS"] = str(args.num_workers)
