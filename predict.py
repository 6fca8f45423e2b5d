"""Predict with a saved model: one answer a row, in the order of the rows.

    python predict.py --model_dir checkpoint --input_file data/reviews/test.tsv --output_file predictions.tsv
    python predict.py --model_dir checkpoint --input_file data/reviews/test.tsv --evaluate
    echo "房间很干净，下次还会来" | python predict.py --model_dir checkpoint --probabilities

The directory of a run is all it needs; a sequence classifier that transformers saved does as well.
"""

import json
import sys
from pathlib import Path

import numpy as np
from loguru import logger
from scipy.special import softmax

from bertorch.data.files import as_stream, read_labels
from bertorch.data.rows import read_rows
from bertorch.data.tokenizing import TRUNCATIONS, TextEncoder, load_tokenizer, tokenize
from bertorch.encoder.config import load_config
from bertorch.encoder.hub import local_directory
from bertorch.errors import UserError
from bertorch.heads.classifier import load_trained_classifier
from bertorch.inference import predict_logits
from bertorch.metrics.classification import classification_metrics, per_class_table
from bertorch.training.arguments import ArgumentParser, add_device_argument, add_reading_arguments, whole_number
from bertorch.training.checkpoints import read_description, write_whole
from bertorch.training.process_group import run_script, start_processes


def parse_args():
    parser = ArgumentParser("Predict with a saved model: one answer a row, in the order of the rows.")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_dir", default=None, help="the saved directory of a run, or a sequence classifier of transformers"
    )
    model.add_argument(
        "--pretrained_model_name_or_path",
        default=None,
        help="configuration and vocabulary, where --init_from_ckpt is a file",
    )
    model.add_argument("--init_from_ckpt", default=None, help="a .bin or .safetensors file with the trained weights")
    model.add_argument("--label_file", default=None, help="the labels, where the model does not bring its own")
    data = parser.add_argument_group("data")
    data.add_argument("--input_file", default=None, help=".tsv/.txt, .csv or .jsonl, also .gz; default: standard input")
    data.add_argument(
        "--input_format", choices=("tsv", "csv", "jsonl"), default=None, help="default: by the ending, tsv for stdin"
    )
    data.add_argument("--is_text_pair", action="store_true", help="rows hold two texts; a run's directory knows by itself")
    data.add_argument("--max_seq_length", type=whole_number, default=None, help="default: that of the training")
    data.add_argument("--truncation", choices=TRUNCATIONS, default=None, help="default: that of the training")
    add_reading_arguments(data)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_file", default=None, help="tsv, or json lines where it ends in .jsonl; default: standard output"
    )
    output.add_argument(
        "--output_format", choices=("tsv", "jsonl"), default=None, help="default: by the ending, tsv for stdout"
    )
    output.add_argument(
        "--probabilities", action="store_true", help="the probability of each label too, in the labels' order"
    )
    output.add_argument(
        "--evaluate", action="store_true", help="rows have labels: print metrics, per-class table, confusions"
    )
    output.add_argument("--batch_size", type=whole_number, default=64, help="rows a forward pass")
    output.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="what to compute in")
    add_device_argument(output)
    return parser.parse_args()


def load_model(args):
    """The directory, the classifier in it, and how it reads texts."""
    if (args.model_dir is None) == (args.pretrained_model_name_or_path is None):
        raise UserError("name the model with --model_dir, or with --pretrained_model_name_or_path and --init_from_ckpt")
    directory = local_directory(args.model_dir or args.pretrained_model_name_or_path)
    config = load_config(directory)
    description = read_description(directory) or {"task": "classification"}
    if description["task"] != "classification":
        raise UserError(f"{directory}: a model for {description['task']}, which predict.py does not know")
    labels = read_labels(args.label_file) if args.label_file else description.get("labels") or config_labels(directory)
    model = load_trained_classifier(
        directory, len(labels), description.get("pooling_mode", "linear"), weights=args.init_from_ckpt
    )
    length = args.max_seq_length or description.get("max_seq_length") or min(512, config.max_seq_length)
    config.check_length(length, directory)
    truncation = args.truncation or description.get("truncation", "head")
    encoder = TextEncoder(load_tokenizer(directory), length, truncation)
    return model, encoder, labels, args.is_text_pair or description.get("is_text_pair", False)


def config_labels(directory):
    """The labels that transformers keeps in ``config.json``."""
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    id2label = config.get("id2label")
    if not isinstance(id2label, dict) or sorted(id2label) != sorted(str(index) for index in range(len(id2label))):
        raise UserError(f"{directory}: config.json names no labels (id2label); give them with --label_file")
    return [str(id2label[str(index)]) for index in range(len(id2label))]


def load_rows(args, labels, is_text_pair):
    """Every row of the input; a row that cannot be used stands there without texts."""
    stream = None if args.input_file else as_stream(sys.stdin.buffer.read())
    kind = args.input_format or ("tsv" if args.input_file is None else None)
    return read_rows(
        args.input_file or "<stdin>",
        is_text_pair,
        labels if args.evaluate else None,
        args.columns,
        args.bad_rows,
        label_needed=args.evaluate,
        stream=stream,
        kind=kind,
        keep_all=True,
    )


def output_lines(rows, probabilities, labels, args):
    """A line a row: label and, on request, probabilities; an empty answer for a row that could not be used."""
    as_json = args.output_format == "jsonl" or (args.output_format is None and str(args.output_file).endswith(".jsonl"))
    answers = iter(probabilities)
    for row in rows:
        values = next(answers) if row.texts else None
        label = labels[int(values.argmax())] if row.texts else None
        if as_json:
            answer = {"label": label}
            if args.probabilities and row.texts:
                answer["probabilities"] = {name: round(float(value), 6) for name, value in zip(labels, values, strict=True)}
            yield json.dumps(answer, ensure_ascii=False) + "\n"
        else:
            cells = [label or ""]
            if args.probabilities:
                cells += [f"{value:.6f}" for value in values] if row.texts else [""] * len(labels)
            yield "\t".join(cells) + "\n"


def main():
    args = parse_args()
    processes = start_processes(args)
    if processes.world_size > 1 and args.input_file is None:
        raise UserError("several processes cannot share standard input; give --input_file")

    # data and model
    model, encoder, labels, is_text_pair = load_model(args)
    model.to(processes.device)
    rows = load_rows(args, labels, is_text_pair)
    usable = [row for row in rows if row.texts]
    label_ids = {label: index for index, label in enumerate(labels)}
    samples = tokenize(((row.line, row.texts, label_ids.get(row.label, -1)) for row in usable), encoder)

    # prediction
    logits = predict_logits(model, samples, args.batch_size, processes, args.precision).astype(np.float64)
    probabilities = softmax(logits, axis=1)
    if not processes.is_main:
        return
    if args.evaluate:
        metrics = classification_metrics(logits, samples.labels)
        print(", ".join(f"{name}: {value:.5f}" for name, value in metrics.items()))
        print(per_class_table(logits.argmax(axis=1), samples.labels, labels))
    if args.output_file:
        with_lines = output_lines(rows, probabilities, labels, args)
        write_whole(Path(args.output_file), lambda unfinished: unfinished.write_text("".join(with_lines), encoding="utf-8"))
        logger.info(f"{len(rows)} predictions in {args.output_file}")
    elif not args.evaluate:
        sys.stdout.writelines(output_lines(rows, probabilities, labels, args))


if __name__ == "__main__":
    run_script(main)
