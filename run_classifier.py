"""Fine-tune an encoder to classify texts or text pairs.

    python run_classifier.py --train_data_file data/reviews/train.tsv --dev_data_file data/reviews/dev.tsv \
        --label_file data/reviews/labels.txt --pretrained_model_name_or_path models/bertorch-tiny-zh --save_best_model
    torchrun --nproc_per_node=2 run_classifier.py ...

Rows are text TAB label, or text TAB text TAB label with --is_text_pair; csv, json lines and other columns with --columns.
"""

from dataclasses import replace
from pathlib import Path

from bertorch.data.report import report_data
from bertorch.data.rows import Row, read_rows
from bertorch.data.tokenizing import tokenize_cached
from bertorch.tasks.classification.arguments import add_classifier_arguments, parse_classifier_arguments
from bertorch.tasks.classification.description import Description
from bertorch.tasks.classification.head import load_classifier
from bertorch.tasks.classification.predictor import Predictor
from bertorch.tasks.classification.targets import target_of
from bertorch.tasks.prediction import answer_cell, write_predictions
from bertorch.training.arguments import reading_flags, training_parser
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step


def parse_args():
    parser = training_parser("Fine-tune an encoder to classify texts or text pairs.", several_dev_files=True)
    add_classifier_arguments(parser)
    return parse_classifier_arguments(parser)


def load_samples(path, args, target, tokenizer, name):
    """Token ids and targets of a set; the place to edit for data of another shape."""
    needed = name != "test"
    how = {**reading_flags(args, name), **target.reading}

    def rows():
        row: Row
        for row in read_rows(path, args.is_text_pair, label_needed=needed, check=target.read, **how):
            yield row.line, row.texts, target.read(row)

    read_as = (args.target, Path(path).suffixes, args.is_text_pair, target.labels, needed, how)
    return tokenize_cached(path, rows, tokenizer, read_as, args.cache_dir)


def evaluate(predictor, sets):
    """Metrics of the development set, the same on any number of processes; and of further sets, under their names."""
    target, dev = predictor.target, sets["dev"]
    evaluation = target.evaluation(predictor.logits(dev), dev)
    kept, figures = type(target)(target.labels, **evaluation.keep), {}
    for name in (name for name in sets if name not in ("train", "dev", "test")):
        found = kept.scores(predictor.logits(sets[name]), sets[name].labels)
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return replace(evaluation, metrics=evaluation.metrics | figures)


def test(predictor, samples, run):
    """Predict the test set with the saved model; writes ``saved_dir/test_predictions.tsv``."""
    logits = predictor.logits(samples)
    if samples.has_label.all():
        run.report("test", predictor.target.scores(logits, samples.labels))
    answers = (answer_cell(answer[predictor.target.key]) for answer in predictor.target.answers(logits))
    write_predictions(run.directory, predictor.compute, answers)


def main(args):
    processes = start_training(args)

    # data
    target = target_of(args)
    directory, tokenizer = open_tokenizer(args, processes)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, target, tokenizer, name))
    data_report = report_data(sets, args.max_seq_length, target.labels)

    # model
    description = Description(
        labels=target.labels,
        is_text_pair=args.is_text_pair,
        pooling_mode=args.pooling_mode,
        pooling_layers=args.pooling_layers,
        head_layers=args.head_layers,
        head_activation=args.head_activation,
        target=args.target,
        max_seq_length=args.max_seq_length,
        truncation=args.truncation,
        chinese=args.chinese,
        max_part_lengths=args.max_part_lengths,
    )
    model = load_classifier(directory, target.labels, args.pooling_mode, args.init_from_ckpt, **description.layers)
    model.class_loss = target.loss(args, sets["train"])
    model.dropout_samples = args.dropout_samples
    model.to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, different dropout on each rank
    compute = Compute(args.eval_batch_size, processes, args.precision)
    predictor = Predictor(model, tokenizer, description, compute)

    # training
    run = Run(args, model, sets["train"], processes, tokenizer.pretrained, description, data_report=data_report)
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(predictor, sets))
        if run.saving_due:
            run.save()

    if args.do_test:
        processes.gather(None)  # the main process has finished writing
        test(Predictor.open(args.saved_dir, compute), sets["test"], run)


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
