"""Fine-tune an encoder to choose the right one of several options.

    python run_choice.py --train_data_file data/choice/train.jsonl --dev_data_file data/choice/dev.jsonl \
        --pretrained_model_name_or_path models/bertorch-tiny-zh --max_seq_length 128 --max_qa_length 48 --save_best_model
    torchrun --nproc_per_node=2 run_choice.py ...

Files have the layout of RACE (a folder of articles), C3, DREAM, ChID or SWAG, or rows of context, question, options and
label in json or in a table. Questions may have different numbers of options.
"""

from dataclasses import replace

from bertorch.data.report import report_data
from bertorch.data.tokenizing import tokenize_cached
from bertorch.tasks.choice.arguments import add_choice_arguments
from bertorch.tasks.choice.description import Description
from bertorch.tasks.choice.head import load_chooser
from bertorch.tasks.choice.predictor import Predictor
from bertorch.tasks.choice.report import choice_details
from bertorch.tasks.choice.rows import ChoiceTokenizer, choice_files, collate_choices, iter_choices, option_names
from bertorch.tasks.choice.scores import choice_metrics
from bertorch.tasks.prediction import write_predictions
from bertorch.training.arguments import settle_dev_files, training_parser
from bertorch.training.evaluation import Evaluation
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step


def parse_args():
    parser = training_parser(
        "Fine-tune an encoder to choose the right one of several options.", rows_of_texts=False, several_dev_files=True
    )
    add_choice_arguments(parser)
    args = parser.parse_args()
    settle_dev_files(parser, args)
    return args


def load_samples(path, args, tokenizer, name):
    """Token ids and right options of a set; the place to edit for data of another shape."""
    needed = name != "test"
    how = (args.bad_rows, needed, args.encoding)

    def rows():
        for row in iter_choices(path, *how):
            yield row.line, row.texts, -1 if row.label is None else row.label

    return tokenize_cached(choice_files(path), rows, tokenizer, ("choice", *how), args.cache_dir, separate=True)


def evaluate(predictor, sets):
    """Metrics of the development set, the same on any number of processes; and of further sets, under their names."""
    dev = sets["dev"]
    probabilities = predictor.probabilities(dev)
    evaluation = Evaluation(choice_metrics(probabilities, dev.labels), lambda: choice_details(probabilities, dev))
    figures = {}
    for name in (name for name in sets if name not in ("train", "dev", "test")):
        found = choice_metrics(predictor.probabilities(sets[name]), sets[name].labels)
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    return replace(evaluation, metrics=evaluation.metrics | figures)


def test(predictor, samples, run):
    """Choose for the test set with the saved model; writes places from 0 to ``saved_dir/test_predictions.tsv``."""
    probabilities = predictor.probabilities(samples)
    if samples.has_label.all():
        run.report("test", choice_metrics(probabilities, samples.labels))
    write_predictions(run.directory, predictor.compute, (str(shares.argmax()) for shares in probabilities))


def main(args):
    processes = start_training(args)

    # data
    directory, texts = open_tokenizer(args, processes)
    tokenizer = ChoiceTokenizer(texts, args.max_qa_length)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, tokenizer, name))
    options = max(max(samples.row_starts[1:] - samples.row_starts[:-1]) for samples in sets.values())
    data_report = report_data(sets, args.max_seq_length, option_names(options))

    # model
    model = load_chooser(directory, args.init_from_ckpt).to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, different dropout on each rank
    description = Description(max_seq_length=args.max_seq_length, chinese=args.chinese, max_qa_length=args.max_qa_length)
    compute = Compute(args.eval_batch_size, processes, args.precision)
    predictor = Predictor(model, tokenizer, description, compute)

    # training
    run = Run(args, model, sets["train"], processes, texts.pretrained, description, collate_choices, data_report=data_report)
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
