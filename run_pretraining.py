"""Pretrain an encoder on plain text, from scratch or from a checkpoint: masked tokens, and the order of sentences.

    python run_pretraining.py --train_data_file corpus/part-*.txt.gz --dev_data_file corpus/dev.txt \
        --pretrained_model_name_or_path models/bertorch-tiny-zh --objectives mlm,sop
    torchrun --nproc_per_node=2 run_pretraining.py ...

Files hold one sentence per line and a blank line between documents, plain or .gz.
"""

import argparse
import math

import torch

from bertorch.copies import Fetch
from bertorch.data.batching import evaluation_plan
from bertorch.errors import UserError
from bertorch.tasks.pretraining.data_report import report_documents
from bertorch.tasks.pretraining.description import Description
from bertorch.tasks.pretraining.head import load_language_model
from bertorch.tasks.pretraining.masking import OBJECTIVES, Masking
from bertorch.tasks.pretraining.rows import tokenize_documents
from bertorch.training.arguments import proportion, training_parser, whole_number
from bertorch.training.evaluation import Evaluation
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run, autocast
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step

METRICS = ("masked_lm_accuracy", "sentence_order_accuracy")


def objectives(text):
    names = text.split(",")
    if names[0] != "mlm" or len(names) > 2 or not set(names) <= set(OBJECTIVES) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"mlm, or mlm,sop, or mlm,nsp are possible, found {text}")
    return names


def parse_args():
    parser = training_parser("Pretrain an encoder on plain text.", rows_of_texts=False, documents=True)
    task = parser.add_argument_group("pretraining")
    task.add_argument(
        "--objectives", type=objectives, default="mlm",
        help="mlm: masked tokens; mlm,sop: also the order of two segments (ALBERT); mlm,nsp: also whether the second "
        "segment is from another document (BERT)",
    )  # fmt: skip
    task.add_argument("--masked_share", type=proportion, default=0.15, help="share of the tokens to predict")
    task.add_argument("--whole_words", action="store_true", help="mask whole words; Chinese words need jieba")
    task.add_argument("--longest_ngram", type=whole_number, default=1, help="mask runs of up to N words")
    task.add_argument("--max_predictions", type=whole_number, default=None, help="most tokens to predict in a text")
    task.add_argument("--metric", choices=METRICS, default="masked_lm_accuracy", help="which metric decides the best model")
    return parser.parse_args()


def load_samples(paths, args, tokenizer, masking):
    """Token ids of a set of files; the place to edit for data of another shape."""
    documents = tokenize_documents(paths, tokenizer, masking.room, args.whole_words, args.cache_dir, args.encoding)
    masking.check(documents, paths[0])
    return documents


@torch.no_grad()
def evaluate(model, documents, masking, args, processes):
    """Loss, accuracy and perplexity of masked tokens, and of the order, the same on any number of processes."""
    model.eval()
    sums = torch.zeros(6, dtype=torch.float64, device=processes.device)
    for texts in evaluation_plan(documents.row_lengths, args.eval_batch_size)[processes.rank :: processes.world_size]:
        batch = masking.collate(documents, texts).to(processes.device)
        with autocast(processes.device, args.precision):
            loss = model(batch)
        parts = (loss.masked_loss, loss.correct, loss.count, loss.order_loss, loss.correct_orders, loss.orders)
        for place, part in enumerate(parts):
            sums[place] += part
    summed = Fetch(sums).arrays()[0].tolist()
    masked_loss, correct, masked, order_loss, correct_orders, orders = processes.sum(summed)
    metrics = {"loss": masked_loss / masked, "masked_lm_loss": masked_loss / masked, "masked_lm_accuracy": correct / masked}
    metrics["perplexity"] = math.exp(min(metrics["masked_lm_loss"], 700.0))
    if orders:
        metrics["loss"] += order_loss / orders
        metrics |= {"sentence_order_loss": order_loss / orders, "sentence_order_accuracy": correct_orders / orders}
    return Evaluation(metrics)


def main(args):
    processes = start_training(args)
    if args.metric == "sentence_order_accuracy" and len(args.objectives) == 1:
        raise UserError("--metric sentence_order_accuracy needs --objectives mlm,sop or mlm,nsp")

    # data
    directory, tokenizer = open_tokenizer(args, processes)
    masking = Masking(
        tokenizer, args.objectives, args.masked_share, args.whole_words, args.longest_ngram, args.seed, args.max_predictions
    )
    sets = load_sets(args, processes, lambda paths, name: load_samples(paths, args, tokenizer, masking))
    data_report = report_documents(sets)

    # model
    order_weight = masking.expected(sets["train"])  # both objectives have equal weight
    model = load_language_model(directory, len(args.objectives) == 2, order_weight, args.init_from_ckpt)
    model = model.to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, different dropout on each rank
    description = Description(objectives=args.objectives, max_seq_length=args.max_seq_length, chinese=args.chinese)

    # training
    run = Run(
        args, model, sets["train"], processes, tokenizer.pretrained, description,
        lambda documents, texts: masking.collate(documents, texts, run.epoch), data_report=data_report,
    )  # fmt: skip
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(model, sets["dev"], masking, args, processes))
        if run.saving_due:
            run.save()


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
