"""Train sentence vectors on plain sentences: SimCSE, dropout as the only augmentation (Gao et al. 2021).

    python run_simcse.py --train_data_file data/sentences/train.txt --dev_data_file data/graded/dev.tsv \
        --pretrained_model_name_or_path models/bertorch-tiny-zh --pooling_mode mean --save_best_model
    torchrun --nproc_per_node=2 run_simcse.py ...

The training file has one sentence per line; the development and test sets are scored pairs, text TAB text TAB score.
"""

from pathlib import Path

from bertorch.data.report import report_data
from bertorch.data.rows import read_rows
from bertorch.data.tokenizing import tokenize_cached
from bertorch.encoder.weights import report_unused
from bertorch.tasks.sentences.arguments import add_contrastive_arguments, add_sentence_arguments
from bertorch.tasks.sentences.contrastive import Contrastive
from bertorch.tasks.sentences.description import Description
from bertorch.tasks.sentences.directory import new_sentence_encoder
from bertorch.tasks.sentences.evaluation import check_metric, evaluate, test
from bertorch.tasks.sentences.predictor import Predictor
from bertorch.tasks.sentences.rows import scored_samples
from bertorch.training.arguments import reading_flags, training_parser
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step


def parse_args():
    parser = training_parser("Train sentence vectors on plain sentences: SimCSE.")
    task = add_sentence_arguments(parser)
    add_contrastive_arguments(task)
    parser.set_defaults(dropout=0.1)  # it makes two views of a sentence
    return parser.parse_args()


def load_samples(path, args, tokenizer, name):
    """Token ids of a set, with scores where it is not the training set; the place to edit for data of another shape."""
    if name != "train":
        how = reading_flags(args, name, like_train=False)
        return scored_samples(path, tokenizer, score_needed=name == "dev", cache_dir=args.cache_dir, **how)

    how = reading_flags(args, name)

    def rows():
        for row in read_rows(path, label_needed=False, **how):
            yield row.line, row.texts, -1

    read_as = ("sentences", Path(path).suffixes, how)
    samples = tokenize_cached(path, rows, tokenizer, read_as, args.cache_dir)
    samples.copies = 2  # every sentence is in its batch twice, with different dropout masks
    return samples


def main(args):
    processes = start_training(args)

    # data
    directory, tokenizer = open_tokenizer(args, processes)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, tokenizer, name))
    check_metric(args, sets)
    data_report = report_data(sets, args.max_seq_length)

    # model
    sentence, rest = new_sentence_encoder(
        directory, args.pooling_mode, args.output_emb_size, args.normalize, init_from_ckpt=args.init_from_ckpt,
        pooling_layers=args.pooling_layers,
    )  # fmt: skip
    report_unused(rest, args.init_from_ckpt or directory)
    sentence.chunk_size = args.chunk_size
    model = Contrastive(sentence, args.margin, args.scale, False, args.mask_duplicates, not args.no_gather_negatives)
    model.to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, different dropout on each rank
    description = Description(
        pooling_mode=args.pooling_mode,
        max_seq_length=args.max_seq_length,
        truncation=args.truncation,
        chinese=args.chinese,
        max_part_lengths=args.max_part_lengths,
    )
    compute = Compute(args.eval_batch_size, processes, args.precision)
    predictor = Predictor(sentence, tokenizer, description, compute)

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
