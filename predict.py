"""Predict with a saved model: one answer per row, in the order of the rows.

    python predict.py --model_dir checkpoint --input_file data/reviews/test.tsv --output_file predictions.tsv
    python predict.py --model_dir checkpoint --input_file data/reviews/test.tsv --evaluate
    echo "房间很干净，下次还会来" | python predict.py --model_dir checkpoint --probabilities

    tail -f log.txt | python predict.py --model_dir checkpoint --with_text

Answers come while rows come, in their order; of a file, block by block. Under torchrun the processes share the blocks.
Until it is complete, --output_file has the ending .part, which stays after Ctrl-C.

It needs only the directory of a run. A classifier gives labels, and with --explain the reasons for them. A
sentence encoder gives cosines (or classes) of pairs, vectors of texts (.npy or json lines), and with --corpus the most
similar lines of a file. An entity model gives the type, text, start, end and confidence of each entity, in texts of any
length. A reader answers --question from --context, or the questions of a file in SQuAD's layout. A chooser gives the
likeliest option of each question. A language model fills [MASK].

A row with a blank text (of a pair, either text) keeps its place and gets an empty answer: the label, cosine or vector is
empty, null in json lines, nan in .npy, and there are no entities, hits or masks; a question about a blank passage has the
answer "". With --evaluate such a row is a bad row, as in training, and blank lines do not count in the metrics.

Directories saved by transformers (sequence and token classifiers, question answering, multiple choice, masked language
models) and by sentence-transformers work as well.
"""

from bertorch.data.files import read_labels
from bertorch.errors import UserError
from bertorch.tasks.arguments import prediction_parser
from bertorch.tasks.classification.explanations import check_explain
from bertorch.tasks.prediction import model_directory, task_of
from bertorch.tasks.streaming import is_pipe
from bertorch.tasks.table import part
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, start_processes


def main():
    args = prediction_parser().parse_args()
    if args.explain and args.precision == "auto":
        args.precision = "fp32"  # explanations compare differences too small for 16 bits
    processes = start_processes(args)
    if processes.world_size > 1 and args.question is None and is_pipe(args.input_file):
        raise UserError("several processes cannot share a pipe; give a file as --input_file")
    if (args.model_dir is None) == (args.pretrained_model_name_or_path is None):
        raise UserError("name the model with --model_dir, or with --pretrained_model_name_or_path and --init_from_ckpt")
    directory = model_directory(args)
    labels = read_labels(args.label_file) if args.label_file else None
    task = task_of(directory, args.pooling_mode, args.init_from_ckpt, labels)
    if args.explain:
        check_explain(args, task, directory)
    part(task, "predict").predict(args, directory, Compute(args.batch_size, processes, args.precision))


if __name__ == "__main__":
    run_script(main)
