"""The flags of predict.py."""

from bertorch.data.files import INPUT_FORMATS
from bertorch.data.tokenizing import TRUNCATIONS
from bertorch.heads.pooling import PLAIN_POOLING_HELP, PLAIN_POOLING_MODES
from bertorch.tasks.entities.rows import UNITS
from bertorch.tasks.reading.scores import SCORERS
from bertorch.training.arguments import (
    ArgumentParser,
    add_bad_rows_argument,
    add_columns_argument,
    add_device_argument,
    add_encoding_argument,
    count,
    whole_number,
)
from bertorch.training.process_group import PRECISIONS


def prediction_parser() -> ArgumentParser:
    """A parser with every flag of predict.py; the help of a flag for one task alone begins with that task."""
    parser = ArgumentParser(
        "Predict with a saved model: one answer per row, in the order of the rows; an empty one for a row without text."
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model_dir", default=None,
        help="the saved directory of a run, or a directory of transformers (classifier, question answering, ...) or of "
        "sentence-transformers",
    )  # fmt: skip
    model.add_argument(
        "--pretrained_model_name_or_path",
        default=None,
        help="where configuration and vocabulary are, if --init_from_ckpt is a file",
    )
    model.add_argument("--init_from_ckpt", default=None, help="a .bin or .safetensors file with the trained weights")
    model.add_argument(
        "--pooling_mode",
        choices=PLAIN_POOLING_MODES,
        default=None,
        help="make sentence vectors with a plain encoder; " + PLAIN_POOLING_HELP,
    )
    model.add_argument(
        "--output_emb_size", type=whole_number, default=None,
        help="width of the vectors; an error if the model has another",
    )  # fmt: skip
    model.add_argument("--normalize", action="store_true", help="scale sentence vectors to length 1")
    model.add_argument("--label_file", default=None, help="the labels, if the model has none of its own")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--input_file", default=None,
        help=".tsv/.txt, .csv, .json or .jsonl, also .gz; .parquet, .xlsx; default: standard input. A blank row keeps its "
        "place with an empty answer: an empty line, null in json lines, nan in .npy",
    )  # fmt: skip
    data.add_argument(
        "--input_format", choices=(*INPUT_FORMATS, "text", "columns"), default=None,
        help="text: one text per line, TABs included; default: decided by the file's ending and first lines; a pipe holds "
        "json lines if its first line is an object, else tsv; entities: text, or with --evaluate columns (token and tag); "
        "reading: json in SQuAD's layout, jsonl with question and context, or tsv of question, TAB, passage; choice: json, "
        "or a table whose first row names its columns",
    )  # fmt: skip
    data.add_argument(
        "--is_text_pair", action="store_true",
        help="rows hold two texts; a classifier's directory says so itself, for sentence vectors the first row decides",
    )  # fmt: skip
    data.add_argument(
        "--corpus", default=None, help="for each row, find the most similar texts in this file, one text per line"
    )
    data.add_argument(
        "--top_k", type=whole_number, default=10, help="how many lines of --corpus, tokens for [MASK], or spans of --explain"
    )
    data.add_argument(
        "--doc_stride", type=count, default=None,
        help="entities, reading: tokens that neighbouring windows of a long text share; default: as in training",
    )  # fmt: skip
    data.add_argument(
        "--unit", choices=UNITS, default=None,
        help="entities: what to split plain text into; default: as in training",
    )  # fmt: skip
    data.add_argument("--question", default=None, help="reading: one question, with --context or --context_file")
    data.add_argument("--context", default=None, help="reading: the passage of --question")
    data.add_argument("--context_file", default=None, help="reading: a text file that holds the passage")
    data.add_argument(
        "--null_score_diff_threshold",
        type=float,
        default=None,
        help="reading: give no answer if that scores this much higher than the best span; default: as in training",
    )
    data.add_argument(
        "--scorer", choices=SCORERS, default=None, help="reading: whose EM and F1; default: decided by the data"
    )
    data.add_argument("--max_seq_length", type=whole_number, default=None, help="default: as in training")
    data.add_argument("--truncation", choices=TRUNCATIONS, default=None, help="default: as in training")
    add_columns_argument(data)
    add_bad_rows_argument(data)
    add_encoding_argument(data)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output_file", default=None,
        help="tsv, json lines if it ends in .jsonl, vectors also .npy; it is named .part until it is complete; default: "
        "standard output",
    )  # fmt: skip
    output.add_argument(
        "--output_format",
        choices=("tsv", "jsonl"),
        default=None,
        help="default: decided by the file's ending, tsv for stdout",
    )
    output.add_argument("--with_text", action="store_true", help="also give the text, or texts, that each answer is for")
    output.add_argument(
        "--with_label", action="store_true", help="also give the label, score, entities or answers that the input has"
    )
    output.add_argument("--header", action="store_true", help="tables: name the columns in a first line")
    output.add_argument(
        "--probabilities",
        action="store_true",
        help="also give the probability of each label, in the order of the labels, or of each option",
    )
    output.add_argument(
        "--evaluate", action="store_true",
        help="rows have labels, scores or entities: print metrics, a table of the classes and confusions; for queries with "
        "positives (no labels needed), recall and reciprocal rank",
    )  # fmt: skip
    output.add_argument(
        "--explain", action="store_true",
        help="labels, classes of pairs: show which characters decided, by integrated gradients; in colour on a terminal, a "
        "page if --output_file ends in .html, every span in json lines, else the strongest spans and their signed shares",
    )  # fmt: skip
    output.add_argument(
        "--explain_steps", type=whole_number, default=32, help="points of the integral; more make --explain more accurate"
    )
    output.add_argument("--color", action="store_true", help="entities: print the texts with their entities coloured")
    output.add_argument(
        "--n_best", type=count, default=0,
        help="give the N likeliest answers to a question, or tag sequences of a CRF, in json lines",
    )  # fmt: skip
    output.add_argument("--submission_file", default=None, help="reading: write {id: answer}, as official scorers expect it")
    output.add_argument("--batch_size", type=whole_number, default=64, help="rows or windows per forward pass")
    output.add_argument(
        "--precision", choices=PRECISIONS, default="auto",
        help="number format to compute in; auto: bf16 on a GPU of compute capability 8.0 or newer, else fp32",
    )  # fmt: skip
    add_device_argument(output)
    return parser
