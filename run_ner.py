"""Fine-tune an encoder to find entities: a tag for each character or word, with or without a CRF, or spans.

    python run_ner.py --train_data_file data/entities/train.jsonl --dev_data_file data/entities/dev.jsonl \
        --label_file data/entities/labels.txt --pretrained_model_name_or_path models/bertorch-tiny-zh --use_crf
    torchrun --nproc_per_node=2 run_ner.py ...

Files are json lines, {"text": ["小", "明"], "label": ["B-PER", "I-PER"]} or {"text": "小明", "entities": [[0, 2, "PER"]]},
or columns: token, space or TAB, tag, a blank line between texts. Texts of any length are read in overlapping windows.
"""

from pathlib import Path

import numpy as np
from loguru import logger

from bertorch.data.files import read_labels
from bertorch.data.report import report_entities
from bertorch.data.tokenizing import from_cache
from bertorch.tasks.entities.answers import (
    entity_metrics,
    in_characters,
    load_entity_head,
    load_trained_entity_head,
    read_entities,
)
from bertorch.tasks.entities.batching import collate_spans, collate_tags
from bertorch.tasks.entities.report import entity_details
from bertorch.tasks.entities.rows import UNITS, read_documents
from bertorch.tasks.entities.scores import METRICS
from bertorch.tasks.entities.tags import SCHEMES, TagSet, types_of
from bertorch.tasks.entities.windows import TaggedSamples, UnitTokenizer, tag_documents
from bertorch.training.arguments import (
    CLASS_LOSS_FLAGS,
    add_class_loss_arguments,
    add_dropout_samples_argument,
    count,
    not_negative,
    refuse_tricks,
    training_parser,
)
from bertorch.training.evaluation import Evaluation
from bertorch.training.inference import write_predictions
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step
from bertorch.training.tricks import class_loss


def parse_args():
    parser = training_parser("Fine-tune an encoder to find entities.", rows_of_texts=False)
    task = parser.add_argument_group("entities")
    task.add_argument("--label_file", required=True, help="the tags (O, B-PER, ...) or entity types (PER, ...), one a line")
    task.add_argument("--tag", choices=SCHEMES, default="bios", help="scheme of the model's tags; files may have any other")
    task.add_argument(
        "--ner_head", choices=("linear", "crf", "global_pointer"), default="linear",
        help="a linear layer, a CRF on top of it, or scores of spans, which finds entities within each other",
    )  # fmt: skip
    task.add_argument("--use_crf", action="store_true", help="the same as --ner_head crf")
    task.add_argument("--crf_learning_rate", type=not_negative, default=5e-5, help="highest rate of the CRF's own weights")
    task.add_argument("--no_crf_constraints", action="store_true", help="let the CRF follow O by I- and the like")
    task.add_argument(
        "--doc_stride", type=count, default=None,
        help="tokens that neighbouring windows share, in texts longer than --max_seq_length; default: half a window",
    )  # fmt: skip
    task.add_argument(
        "--unit", choices=UNITS, default="character",
        help="what a plain text is divided into; files that list characters or words are taken as they are",
    )  # fmt: skip
    task.add_argument("--metric", choices=METRICS, default="f1", help="what makes a model the best")
    add_class_loss_arguments(task)
    add_dropout_samples_argument(task)
    args = parser.parse_args()
    if args.use_crf and args.ner_head == "global_pointer":
        parser.error("--use_crf and --ner_head global_pointer contradict each other; give one")
    if args.ner_head == "global_pointer" and args.metric != "f1":
        parser.error(f"--metric {args.metric} is for tags; --ner_head global_pointer has f1")
    args.ner_head = "crf" if args.use_crf else args.ner_head
    if args.ner_head != "linear":
        refuse_tricks(parser, args, CLASS_LOSS_FLAGS, "tags that are decided one by one, --ner_head linear")
    if args.ner_head == "global_pointer":
        refuse_tricks(parser, args, ("dropout_samples", "r_drop_weight"), "tags; --ner_head global_pointer has spans")
    return args


def load_samples(path, args, units, types, tag_set, name):
    """Windows, tags and entities of a set; the place to edit for data of another shape."""
    label_needed = name != "test"

    def samples():
        documents = read_documents(path, types, args.bad_rows, label_needed)
        return tag_documents(documents, units, types, tag_set, path, split_long=name == "train")

    read_as = (Path(path).suffixes, types, tag_set and tag_set.labels, args.bad_rows, name)
    return from_cache(path, (units.fingerprint, read_as), samples, TaggedSamples, args.cache_dir)


def evaluate(model, samples, types, args, processes):
    """Loss and entity scores over all of ``samples``, the same on any number of processes, and what the report shows."""
    reading = read_entities(model, samples, args.eval_batch_size, processes, args.precision)
    metrics, table = entity_metrics(samples, reading, types)
    logger.info(f"entities by type\n{table}")
    found = (in_characters(samples, row, spans) for row, spans in enumerate(reading.spans))
    return Evaluation(metrics, lambda: entity_details(samples, found, types))


def test(args, description, samples, processes, run):
    """Read the test set with the saved model: line, type, start and end of each entity in ``test_predictions.tsv``."""
    model = load_trained_entity_head(args.saved_dir, description).to(processes.device)
    reading = read_entities(model, samples, args.eval_batch_size, processes, args.precision)
    if samples.labelled:
        metrics, table = entity_metrics(samples, reading, description["types"])
        run.report("test", metrics)
        logger.info(f"entities by type\n{table}")
    found = ((row, one) for row, spans in enumerate(reading.spans) for one in in_characters(samples, row, spans))
    write_predictions(
        args, processes, (f"{samples.lines[row]}\t{kind}\t{start}\t{end}" for row, (kind, start, end) in found)
    )


def main(args):
    processes = start_training(args)

    # data
    labels = read_labels(args.label_file)
    types = types_of(labels, args.label_file)
    spans = args.ner_head == "global_pointer"
    tag_set = None if spans else TagSet.from_labels(labels, types, args.tag)
    directory, encoder = open_tokenizer(args, processes)
    units = UnitTokenizer(encoder, args.unit, args.doc_stride)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, units, types, tag_set, name))
    data_report = report_entities(sets, types, args.max_seq_length)

    # model
    description = {
        "task": "entities",
        "ner_head": args.ner_head,
        "types": types,
        "labels": types if spans else tag_set.labels,
        "tag": args.tag,
        "crf_constraints": not args.no_crf_constraints,
        "unit": sets["train"].unit,
        "doc_stride": args.doc_stride,
        "max_seq_length": args.max_seq_length,
    }
    model = load_entity_head(directory, description, args.init_from_ckpt).to(processes.device)
    if not spans:
        model.class_loss = class_loss(args, np.bincount(sets["train"].tags, minlength=len(tag_set.labels)))
        model.class_loss.to(processes.device)
        model.dropout_samples = args.dropout_samples
    set_seed(args.seed, processes.rank)  # same weights everywhere, dropout of its own on each rank

    # training
    collate = collate_spans if spans else collate_tags
    rates = {"crf": args.crf_learning_rate}
    run = Run(args, model, sets["train"], processes, encoder.pretrained, description, collate, rates, data_report)
    for batch in run.batches():
        train_step(run, batch)
        if run.evaluation_due:
            run.record(evaluate(model, sets["dev"], types, args, processes))
        if run.saving_due:
            run.save()

    if args.do_test:
        processes.gather(None)  # the main process has finished writing
        test(args, description, sets["test"], processes, run)


if __name__ == "__main__":
    run_script(lambda: for_each_seed(parse_args(), main))
