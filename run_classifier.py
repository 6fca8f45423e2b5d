"""Fine-tune an encoder to classify texts or text pairs.

    python run_classifier.py --train_data_file data/reviews/train.tsv --dev_data_file data/reviews/dev.tsv \
        --label_file data/reviews/labels.txt --pretrained_model_name_or_path models/bertorch-tiny-zh --save_best_model
    torchrun --nproc_per_node=2 run_classifier.py ...

Rows are text TAB label, or text TAB text TAB label with --is_text_pair; csv, json lines and other columns with --columns.
"""

from pathlib import Path

import numpy as np

from bertorch.data.files import read_labels
from bertorch.data.report import report_data
from bertorch.data.rows import Row, read_rows
from bertorch.data.tokenizing import tokenize_cached
from bertorch.errors import UserError
from bertorch.heads.pooling import POOLING_MODES
from bertorch.tasks.classification.head import load_classifier, load_trained_classifier
from bertorch.tasks.classification.report import classification_details
from bertorch.tasks.classification.scores import METRICS, classification_metrics
from bertorch.training.arguments import add_class_loss_arguments, add_dropout_samples_argument, training_parser
from bertorch.training.evaluation import Evaluation
from bertorch.training.inference import compute, write_predictions
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step
from bertorch.training.tricks import class_loss


def parse_args():
    parser = training_parser("Fine-tune an encoder to classify texts or text pairs.")
    task = parser.add_argument_group("classification")
    task.add_argument("--label_file", required=True, help="the labels, one a line")
    task.add_argument("--is_text_pair", action="store_true", help="rows hold two texts")
    task.add_argument("--metric", choices=METRICS, default="accuracy", help="what makes a model the best; f1: two labels")
    task.add_argument(
        "--pooling_mode", choices=POOLING_MODES, default="linear",
        help="what is classified: linear as transformers does, or pooled states of one layer or the mean of two",
    )  # fmt: skip
    add_class_loss_arguments(task)
    add_dropout_samples_argument(task)
    return parser.parse_args()


def load_samples(path, args, labels, encoder, name):
    """Token ids and label ids of a set; the place to edit for data of another shape."""
    label_ids = {label: index for index, label in enumerate(labels)}
    label_needed = name != "test"

    def rows():
        row: Row
        for row in read_rows(path, args.is_text_pair, labels, args.columns, args.bad_rows, label_needed):
            yield row.line, row.texts, label_ids.get(row.label, -1)

    read_as = (Path(path).suffixes, args.is_text_pair, labels, args.columns, args.bad_rows, label_needed)
    return tokenize_cached(path, rows, encoder, read_as, args.cache_dir)


def evaluate(model, samples, args, processes):
    """Loss, accuracy and F1 over all of ``samples``, the same on any number of processes; and what the report shows."""
    logits = compute(model, model.logits, samples, args.eval_batch_size, processes, args.precision)
    return Evaluation(classification_metrics(logits, samples.labels), lambda: classification_details(logits, samples))


def test(args, labels, samples, processes, run):
    """Predict the test set with the saved model; its predictions stand in ``saved_dir/test_predictions.tsv``."""
    model = load_trained_classifier(args.saved_dir, len(labels), args.pooling_mode).to(processes.device)
    logits = compute(model, model.logits, samples, args.eval_batch_size, processes, args.precision)
    if (samples.labels >= 0).all():
        run.report("test", classification_metrics(logits, samples.labels))
    write_predictions(args, processes, (labels[prediction] for prediction in logits.argmax(axis=1)))


def main(args):
    processes = start_training(args)

    # data
    labels = read_labels(args.label_file)
    if args.metric == "f1" and len(labels) != 2:
        raise UserError(f"--metric f1 is for two labels, {args.label_file} has {len(labels)}; use macro_f1")
    directory, encoder = open_tokenizer(args, processes)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, labels, encoder, name))
    data_report = report_data(sets, args.max_seq_length, labels)

    # model
    model = load_classifier(directory, len(labels), args.pooling_mode, args.init_from_ckpt).to(processes.device)
    model.class_loss = class_loss(args, np.bincount(sets["train"].labels, minlength=len(labels))).to(processes.device)
    model.dropout_samples = args.dropout_samples
    set_seed(args.seed, processes.rank)  # same weights everywhere, dropout of its own on each rank
    description = {
        "task": "classification",
        "labels": labels,
        "is_text_pair": args.is_text_pair,
        "pooling_mode": args.pooling_mode,
        "max_seq_length": args.max_seq_length,
        "truncation": args.truncation,
    }

    # training
    run = Run(args, model, sets["train"], processes, encoder.pretrained, description, data_report=data_report)
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(model, sets["dev"], args, processes))
        if run.saving_due:
            run.save()

    if args.do_test:
        processes.gather(None)  # the main process has finished writing
        test(args, labels, sets["test"], processes, run)


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
