"""Fine-tune an encoder to answer questions from passages: a span, yes, no, or no answer.

    python run_mrc.py --train_data_file data/reading/train.json --dev_data_file data/reading/dev.json \
        --pretrained_model_name_or_path models/bertorch-tiny-zh --save_best_model
    torchrun --nproc_per_node=2 run_mrc.py ...

Files have the layout of SQuAD v1.1 or v2.0, as CMRC2018, DRCD, DuReader-robust and CJRC do, plain or .gz. Passages of any
length are read in overlapping windows.
"""

from bertorch.data.report import report_questions
from bertorch.data.tokenizing import from_cache
from bertorch.errors import UserError
from bertorch.tasks.reading.answers import load_reader, load_trained_reader, read_answers, score_readings, write_submission
from bertorch.tasks.reading.report import reading_details
from bertorch.tasks.reading.rows import (
    ANSWER_TYPES,
    ReadingSamples,
    ReadingTokenizer,
    answer_types_of,
    collate_reading,
    read_questions,
    window_questions,
)
from bertorch.tasks.reading.scores import METRICS, SCORERS, scorer_for
from bertorch.training.arguments import count, training_parser, whole_number
from bertorch.training.checkpoints import read_description
from bertorch.training.evaluation import Evaluation
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step


def parse_args():
    parser = training_parser("Fine-tune an encoder to answer questions from passages.", rows_of_texts=False)
    parser.set_defaults(max_seq_length=512)
    task = parser.add_argument_group("reading")
    task.add_argument(
        "--answer_types", choices=ANSWER_TYPES, default=None, help="what answers there may be; default: those of the data"
    )
    task.add_argument("--doc_stride", type=count, default=128, help="tokens that neighbouring windows of a passage share")
    task.add_argument("--max_query_length", type=whole_number, default=64, help="most tokens of a question")
    task.add_argument(
        "--max_answer_length", type=whole_number, default=90,
        help="most tokens of an answer; 99 %% of CMRC2018's training answers have 85 or fewer, English ones 30",
    )  # fmt: skip
    task.add_argument("--n_best_size", type=whole_number, default=20, help="how many answers of a window are looked at")
    task.add_argument(
        "--null_score_diff_threshold", type=float, default=None,
        help="a question has no answer where that scores so much higher than the best one; default: what is best on the "
        "development set",
    )  # fmt: skip
    task.add_argument(
        "--scorer", choices=SCORERS, default=None,
        help="whose EM and F1; default: cjrc where there are yes and no, cmrc for Chinese, else squad",
    )  # fmt: skip
    task.add_argument("--metric", choices=METRICS, default="f1", help="what makes a model the best")
    return parser.parse_args()


def load_samples(path, args, encoder, name, questions):
    """The windows of a set; the place to edit for data of another shape."""
    key = (encoder.fingerprint, args.bad_rows, name)
    unknown_id = encoder.pretrained.unk_token_id
    return from_cache(path, key, lambda: window_questions(questions, encoder, unknown_id), ReadingSamples, args.cache_dir)


def evaluate(model, samples, questions, description, args, processes):
    """Loss, EM and F1 over all questions, the same on any number of processes; and what the report shows."""
    how = (description, args.eval_batch_size, processes, args.precision)
    readings, loss = read_answers(model, samples, questions, *how)
    metrics, threshold = score_readings(readings, questions, description["scorer"], args.null_score_diff_threshold)
    return Evaluation(
        {"loss": loss, **metrics, "null_threshold": threshold},
        lambda: reading_details(readings, questions, description["scorer"], threshold),
        keep={"null_score_diff_threshold": threshold},
    )


def test(args, samples, questions, processes, run):
    """Answer the test set with the saved model: ``{id: answer}`` in ``saved_dir/test_predictions.json``."""
    description = read_description(args.saved_dir)
    model = load_trained_reader(args.saved_dir, description).to(processes.device)
    readings, _ = read_answers(model, samples, questions, description, args.eval_batch_size, processes, args.precision)
    threshold = description["null_score_diff_threshold"]
    if all(question.answers for question in questions):
        run.report("test", score_readings(readings, questions, description["scorer"], threshold)[0])
    write_submission(f"{args.saved_dir}/test_predictions.json", readings, questions, threshold, processes)


def main(args):
    processes = start_training(args)

    # data
    questions = load_sets(
        args, processes, lambda path, name: read_questions(path, args.bad_rows, name != "test", name == "train")
    )
    known = answer_types_of(questions["train"])
    types = args.answer_types or known
    if not set(ANSWER_TYPES[known]) <= set(ANSWER_TYPES[types]):
        raise UserError(f"{args.train_data_file} has answers of {known}; give --answer_types {known} or leave it out")
    directory, texts = open_tokenizer(args, processes)
    encoder = ReadingTokenizer(texts, args.max_query_length, args.doc_stride)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, encoder, name, questions[name]))
    data_report = report_questions(sets, questions, args.max_seq_length)

    # model
    description = {
        "task": "reading",
        "answer_types": types,
        "scorer": args.scorer or scorer_for(questions["train"]),
        "null_score_diff_threshold": args.null_score_diff_threshold or 0.0,
        "max_seq_length": args.max_seq_length,
        "doc_stride": args.doc_stride,
        "max_query_length": args.max_query_length,
        "max_answer_length": args.max_answer_length,
        "n_best_size": args.n_best_size,
    }
    model = load_reader(directory, description, args.init_from_ckpt).to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, dropout of its own on each rank

    # training
    run = Run(args, model, sets["train"], processes, texts.pretrained, description, collate_reading, data_report=data_report)
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(model, sets["dev"], questions["dev"], description, args, processes))
        if run.saving_due:
            run.save()

    if args.do_test:
        processes.gather(None)  # the main process has finished writing
        test(args, sets["test"], questions["test"], processes, run)


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
