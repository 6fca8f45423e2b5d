"""Train sentence vectors on pairs: Sentence-BERT's softmax over classes, CoSENT, cosine regression or triplets.

    python run_sentencebert.py --train_data_file data/nli/train.tsv --dev_data_file data/nli/dev.tsv --is_nli \
        --label_file data/nli/labels.txt --pretrained_model_name_or_path models/bertorch-tiny-zh --pooling_mode mean
    python run_sentencebert.py --objective cosent --train_data_file data/graded/train.tsv \
        --dev_data_file data/graded/dev.tsv --pretrained_model_name_or_path models/bertorch-tiny-zh --pooling_mode mean
    torchrun --nproc_per_node=2 run_sentencebert.py ...

Rows are text TAB text TAB class, or score for cosent and cosine_mse. Triplets are text TAB positive TAB negative,
or json lines with query, pos and neg; their development and test sets are scored pairs.
"""

from pathlib import Path

from bertorch.data.report import report_data
from bertorch.data.rows import read_rows
from bertorch.data.tokenizing import tokenize_cached
from bertorch.encoder.weights import report_unused
from bertorch.errors import UserError
from bertorch.tasks.classification.targets import OneLabel
from bertorch.tasks.sentences.arguments import add_pair_arguments, add_sentence_arguments, settle_pair_arguments
from bertorch.tasks.sentences.description import Description
from bertorch.tasks.sentences.directory import new_sentence_encoder
from bertorch.tasks.sentences.evaluation import check_metric, evaluate, test
from bertorch.tasks.sentences.pair import SentencePair
from bertorch.tasks.sentences.predictor import Predictor
from bertorch.tasks.sentences.rows import read_positives, scored_samples
from bertorch.training.arguments import reading_flags, training_parser
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_labels, load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step


def parse_args():
    parser = training_parser("Train sentence vectors on pairs.")
    add_pair_arguments(add_sentence_arguments(parser))
    args = parser.parse_args()
    settle_pair_arguments(parser, args)
    return args


def load_samples(path, args, labels, tokenizer, name):
    """Token ids of a set with labels or scores; the place to edit for data of another shape."""
    how = reading_flags(args, name)
    if args.objective in ("cosent", "cosine_mse") or (args.objective == "triplet" and name != "train"):
        return scored_samples(path, tokenizer, score_needed=name != "test", cache_dir=args.cache_dir, **how)

    def rows():
        if args.objective == "triplet":
            for row in read_positives(path, 1, negative_needed=True, **how):
                yield row.line, row.texts, -1
        else:
            for row in read_rows(path, True, labels, label_needed=name != "test", **how):
                yield row.line, row.texts, labels.index(row.label) if row.label is not None else -1

    read_as = (args.objective, Path(path).suffixes, labels, how, name != "test")
    return tokenize_cached(path, rows, tokenizer, read_as, args.cache_dir, separate=True)


def main(args):
    processes = start_training(args)

    # data
    softmax = args.objective == "softmax"
    labels = load_labels(args, is_text_pair=True) if softmax else None
    directory, tokenizer = open_tokenizer(args, processes)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, labels, tokenizer, name))
    check_metric(args, sets, labels)
    data_report = report_data(sets, args.max_seq_length, labels or ())

    # model
    sentence, rest = new_sentence_encoder(
        directory, args.pooling_mode, args.output_emb_size, args.normalize, init_from_ckpt=args.init_from_ckpt,
        pooling_layers=args.pooling_layers,
    )  # fmt: skip
    sentence.chunk_size = args.chunk_size
    highest = float(sets["train"].labels.max()) if args.max_score is None else args.max_score
    if args.objective == "cosine_mse" and highest <= 0:
        raise UserError(f"{args.train_data_file}: the highest score is {highest:g}; give --max_score, above 0")
    model = SentencePair(
        sentence, args.objective, len(labels or ()), args.concat_multiply, args.scale, highest, args.triplet_margin,
        not args.no_gather_negatives,
    )  # fmt: skip
    taken = model.fill_head(rest, args.init_from_ckpt or directory, required=False)
    report_unused({name: rest[name] for name in rest if name not in taken}, args.init_from_ckpt or directory)
    if softmax:
        model.class_loss = OneLabel(labels).loss(args, sets["train"])
    model.to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, different dropout on each rank
    description = Description(
        objective=args.objective,
        pooling_mode=args.pooling_mode,
        max_seq_length=args.max_seq_length,
        truncation=args.truncation,
        chinese=args.chinese,
        max_part_lengths=args.max_part_lengths,
        labels=labels,
        concat_multiply=args.concat_multiply if softmax else None,
    )
    compute = Compute(args.eval_batch_size, processes, args.precision)
    predictor = Predictor(sentence, tokenizer, description, compute, model)

    # training
    run = Run(args, model, sets["train"], processes, tokenizer.pretrained, description, data_report=data_report)
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(predictor, sets["dev"]))
        if run.saving_due:
            run.save()

    if args.do_test:
        processes.gather(None)  # the main process has finished writing
        test(Predictor.open(args.saved_dir, compute), sets["test"], run)


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
