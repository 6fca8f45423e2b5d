"""Train sentence vectors on pairs: Sentence-BERT's softmax over classes, CoSENT, cosine regression or triplets.

    python run_sentencebert.py --train_data_file data/nli/train.tsv --dev_data_file data/nli/dev.tsv --is_nli \
        --label_file data/nli/labels.txt --pretrained_model_name_or_path models/bertorch-tiny-zh --pooling_mode mean
    python run_sentencebert.py --objective cosent --train_data_file data/graded/train.tsv \
        --dev_data_file data/graded/dev.tsv --pretrained_model_name_or_path models/bertorch-tiny-zh --pooling_mode mean
    torchrun --nproc_per_node=2 run_sentencebert.py ...

Rows are text TAB text TAB class, or a score for cosent and cosine_mse; triplets are text TAB positive TAB negative or json
lines with query, pos and neg, and are developed and tested on scored pairs.
"""

from pathlib import Path

import numpy as np

from bertorch.data.files import read_labels
from bertorch.data.report import report_data
from bertorch.data.rows import read_rows
from bertorch.data.tokenizing import tokenize_cached
from bertorch.encoder.weights import report_unused
from bertorch.errors import UserError
from bertorch.tasks.classification.report import classification_details
from bertorch.tasks.classification.scores import METRICS
from bertorch.tasks.sentences.directory import load_sentence_encoder, new_sentence_encoder
from bertorch.tasks.sentences.pair import OBJECTIVES, SentencePair, trained_pair
from bertorch.tasks.sentences.report import similarity_details
from bertorch.tasks.sentences.rows import read_positives, scored_samples
from bertorch.tasks.sentences.scores import METRICS as SIMILARITY_METRICS
from bertorch.tasks.sentences.scores import check_scores, cosines, label_scores, pair_class_metrics, similarity_metrics
from bertorch.training.arguments import (
    CLASS_LOSS_FLAGS,
    add_class_loss_arguments,
    add_sentence_arguments,
    not_negative,
    refuse_tricks,
    training_parser,
)
from bertorch.training.evaluation import Evaluation
from bertorch.training.inference import pair_logits, pair_vectors, test_pairs, vector_logits, write_predictions
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step
from bertorch.training.tricks import class_loss


def parse_args():
    parser = training_parser("Train sentence vectors on pairs.")
    task = add_sentence_arguments(parser)
    task.add_argument("--objective", choices=OBJECTIVES, default="softmax", help="what the vectors are trained for")
    task.add_argument("--label_file", default=None, help="softmax: the classes, one a line; default: 0 and 1")
    task.add_argument("--is_nli", action="store_true", help="train on natural language inference; needs --label_file")
    task.add_argument("--concat_multiply", action="store_true", help="softmax: (u, v, |u-v|, u*v) instead of (u, v, |u-v|)")
    task.add_argument("--scale", type=not_negative, default=20.0, help="cosent: factor of the cosines")
    task.add_argument("--max_score", type=not_negative, default=None, help="cosine_mse: the score of equal meaning; "
                      "default: the highest of the training set")  # fmt: skip
    task.add_argument("--triplet_margin", type=not_negative, default=1.0, help="triplet: a Euclidean distance")
    task.add_argument("--metric", choices=(*METRICS, *SIMILARITY_METRICS), default=None,
                      help="what makes a model the best; default: accuracy for softmax, else spearman")  # fmt: skip
    add_class_loss_arguments(task)
    args = parser.parse_args()
    if args.objective != "softmax":
        refuse_tricks(parser, args, (*CLASS_LOSS_FLAGS, "r_drop_weight"), f"classes; --objective {args.objective} has none")
    args.metric = args.metric or ("accuracy" if args.objective == "softmax" else "spearman")
    return args


def check_metric(args, labels, samples):
    """Raises UserError where ``--metric`` cannot be computed on the development set."""
    if args.objective != "softmax":
        known = ", ".join(SIMILARITY_METRICS)
        if args.metric in METRICS:
            raise UserError(f"--metric {args.metric} is for classes; --objective {args.objective} has {known}")
        check_scores(samples.labels, args.metric, args.dev_data_file)
    elif args.metric in SIMILARITY_METRICS:
        scores = label_scores(labels)
        if scores is None:
            raise UserError(f"--metric {args.metric} needs classes that are numbers, not {labels[0]!r}; use accuracy")
        check_scores(scores[samples.labels], args.metric, args.dev_data_file)
    elif args.metric == "f1" and len(labels) != 2:
        raise UserError(f"--metric f1 is for two classes, here are {len(labels)}; use macro_f1")


def load_samples(path, args, labels, encoder, name):
    """Token ids of a set with labels or scores; the place to edit for data of another shape."""
    columns = args.columns if name == "train" else args.dev_columns or args.columns
    if args.objective in ("cosent", "cosine_mse") or (args.objective == "triplet" and name != "train"):
        return scored_samples(path, encoder, columns, args.bad_rows, name != "test", args.cache_dir)

    def rows():
        if args.objective == "triplet":
            for row in read_positives(path, 1, columns, args.bad_rows, negative_needed=True):
                yield row.line, row.texts, -1
        else:
            for row in read_rows(path, True, labels, columns, args.bad_rows, name != "test"):
                yield row.line, row.texts, labels.index(row.label) if row.label is not None else -1

    read_as = (args.objective, Path(path).suffixes, labels, columns, args.bad_rows, name != "test")
    return tokenize_cached(path, rows, encoder, read_as, args.cache_dir, separate=True)


def evaluate(model, samples, args, labels, processes):
    """Figures of classes and of similarity, the same on any number of processes; and what the report shows."""
    u, v = pair_vectors(model.sentence, samples, args.eval_batch_size, processes, args.precision)
    if args.objective != "softmax":
        return Evaluation(similarity_metrics(cosines(u, v), samples.labels), lambda: similarity_details(u, v, samples))
    logits = vector_logits(model, u, v, processes)
    metrics = pair_class_metrics(logits, cosines(u, v), samples.labels, labels)
    return Evaluation(metrics, lambda: classification_details(logits, samples) | similarity_details(u, v, samples))


def test(args, labels, samples, processes, run):
    """Predict the test set with the saved model; the answers stand in ``saved_dir/test_predictions.tsv``."""
    if args.objective != "softmax":
        return test_pairs(args, samples, processes, run)
    sentence, _ = load_sentence_encoder(args.saved_dir)
    model = trained_pair(sentence, args.saved_dir, len(labels), args.concat_multiply).to(processes.device)
    logits, cosines = pair_logits(model, samples, args.eval_batch_size, processes, args.precision)
    if (samples.labels >= 0).all():
        run.report("test", pair_class_metrics(logits, cosines, samples.labels, labels))
    write_predictions(args, processes, (labels[prediction] for prediction in logits.argmax(axis=1)))


def main(args):
    processes = start_training(args)

    # data
    labels = read_labels(args.label_file) if args.label_file else ["0", "1"]
    if args.is_nli and not args.label_file:
        raise UserError("--is_nli needs --label_file")
    if args.objective != "softmax" and (args.is_nli or args.label_file):
        raise UserError(f"--objective {args.objective} knows no classes; leave out --is_nli and --label_file")
    directory, encoder = open_tokenizer(args, processes)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, labels, encoder, name))
    if "dev" in sets:
        check_metric(args, labels, sets["dev"])
    data_report = report_data(sets, args.max_seq_length, labels if args.objective == "softmax" else ())

    # model
    sentence, rest = new_sentence_encoder(
        directory, args.pooling_mode, args.output_emb_size, args.normalize, init_from_ckpt=args.init_from_ckpt
    )
    sentence.chunk_size = args.chunk_size
    highest = float(sets["train"].labels.max()) if args.max_score is None else args.max_score
    if args.objective == "cosine_mse" and highest <= 0:
        raise UserError(f"{args.train_data_file}: the highest score is {highest:g}; give --max_score, above 0")
    model = SentencePair(
        sentence, args.objective, len(labels), args.concat_multiply,
        args.scale, highest, args.triplet_margin, not args.no_gather_negatives,
    )  # fmt: skip
    taken = model.fill_head(rest, args.init_from_ckpt or directory, required=False)
    report_unused({name: rest[name] for name in rest if name not in taken}, args.init_from_ckpt or directory)
    model.to(processes.device)
    if args.objective == "softmax":
        model.class_loss = class_loss(args, np.bincount(sets["train"].labels, minlength=len(labels))).to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, dropout of its own on each rank
    description = {
        "task": "sentence_vectors",
        "objective": args.objective,
        **({"labels": labels, "concat_multiply": args.concat_multiply} if args.objective == "softmax" else {}),
        "pooling_mode": args.pooling_mode,
        "max_seq_length": args.max_seq_length,
        "truncation": args.truncation,
    }

    # training
    run = Run(args, model, sets["train"], processes, encoder.pretrained, description, data_report=data_report)
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(model, sets["dev"], args, labels, processes))
        if run.saving_due:
            run.save()

    if args.do_test:
        processes.gather(None)  # the main process has finished writing
        test(args, labels, sets["test"], processes, run)


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
