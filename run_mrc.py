"""Fine-tune an encoder to answer questions from passages: a span, yes, no, or no answer.

    python run_mrc.py --train_data_file data/reading/train.json --dev_data_file data/reading/dev.json \
        --pretrained_model_name_or_path models/bertorch-tiny-zh --save_best_model
    torchrun --nproc_per_node=2 run_mrc.py ...

Files have the layout of SQuAD v1.1 or v2.0, as CMRC2018, DRCD, DuReader-robust and CJRC do, plain or .gz. Passages of any
length are read in overlapping windows.
"""

from bertorch.data.tokenizing import from_cache
from bertorch.tasks.reading.answers import load_reader, score_readings, write_submission
from bertorch.tasks.reading.arguments import add_reading_arguments
from bertorch.tasks.reading.data_report import report_questions
from bertorch.tasks.reading.description import Description
from bertorch.tasks.reading.predictor import Predictor
from bertorch.tasks.reading.report import reading_details
from bertorch.tasks.reading.rows import (
    ReadingSamples,
    ReadingTokenizer,
    answer_types_of,
    collate_reading,
    read_questions,
    window_questions,
)
from bertorch.tasks.reading.scores import scorer_for
from bertorch.training.arguments import training_parser
from bertorch.training.evaluation import Evaluation
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step


def parse_args():
    parser = training_parser("Fine-tune an encoder to answer questions from passages.", rows_of_texts=False)
    add_reading_arguments(parser)
    return parser.parse_args()


def load_samples(path, args, tokenizer, name, questions):
    """The windows of a set; the place to edit for data of another shape."""
    key = (tokenizer.fingerprint, args.bad_rows, args.encoding, name)
    unknown_id = tokenizer.pretrained.unk_token_id
    return from_cache(path, key, lambda: window_questions(questions, tokenizer, unknown_id), ReadingSamples, args.cache_dir)


def evaluate(predictor, samples, questions, threshold):
    """Loss, EM and F1 over all questions, the same on any number of processes; and what the report shows."""
    scorer = predictor.description.scorer
    readings, loss = predictor.read(samples, questions)
    metrics, threshold = score_readings(readings, questions, scorer, threshold)
    return Evaluation(
        {"loss": loss, **metrics, "null_threshold": threshold},
        lambda: reading_details(readings, questions, scorer, threshold),
        keep={"null_score_diff_threshold": threshold},
    )


def test(predictor, samples, questions, run):
    """Answer the test set with the saved model: ``{id: answer}`` in ``saved_dir/test_predictions.json``."""
    readings, _ = predictor.read(samples, questions)
    threshold = predictor.description.null_score_diff_threshold
    if all(question.answers for question in questions):
        run.report("test", score_readings(readings, questions, predictor.description.scorer, threshold)[0])
    write_submission(run.directory / "test_predictions.json", readings, questions, threshold, predictor.compute)


def main(args):
    processes = start_training(args)

    # data
    questions = load_sets(
        args,
        processes,
        lambda path, name: read_questions(path, args.bad_rows, name != "test", name == "train", args.encoding),
    )
    types = answer_types_of(questions["train"], args.answer_types, args.train_data_file)
    directory, texts = open_tokenizer(args, processes)
    tokenizer = ReadingTokenizer(texts, args.max_query_length, args.doc_stride)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, tokenizer, name, questions[name]))
    data_report = report_questions(sets, questions, args.max_seq_length)

    # model
    description = Description(
        answer_types=types,
        scorer=args.scorer or scorer_for(questions["train"]),
        null_score_diff_threshold=args.null_score_diff_threshold or 0.0,
        max_seq_length=args.max_seq_length,
        chinese=args.chinese,
        doc_stride=args.doc_stride,
        max_query_length=args.max_query_length,
        max_answer_length=args.max_answer_length,
        n_best_size=args.n_best_size,
    )
    model = load_reader(directory, description, args.init_from_ckpt).to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, different dropout on each rank
    compute = Compute(args.eval_batch_size, processes, args.precision)
    predictor = Predictor(model, tokenizer, description, compute)

    # training
    run = Run(args, model, sets["train"], processes, texts.pretrained, description, collate_reading, data_report=data_report)
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(predictor, sets["dev"], questions["dev"], args.null_score_diff_threshold))
        if run.saving_due:
            run.save()

    if args.do_test:
        processes.gather(None)  # the main process has finished writing
        test(Predictor.open(args.saved_dir, compute), sets["test"], questions["test"], run)


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
