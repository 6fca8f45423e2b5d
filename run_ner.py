"""Fine-tune an encoder to find entities: a tag for each character or word, with or without a CRF, or spans.

    python run_ner.py --train_data_file data/entities/train.jsonl --dev_data_file data/entities/dev.jsonl \
        --label_file data/entities/labels.txt --pretrained_model_name_or_path models/bertorch-tiny-zh --use_crf
    torchrun --nproc_per_node=2 run_ner.py ...

Files are json lines, {"text": ["小", "明"], "label": ["B-PER", "I-PER"]} or {"text": "小明", "entities": [[0, 2, "PER"]]},
or columns: token, space or TAB, tag, with a blank line between texts. Texts of any length are read in overlapping windows.
"""

from pathlib import Path

import numpy as np
from loguru import logger

from bertorch.data.files import read_labels
from bertorch.data.tokenizing import from_cache
from bertorch.tasks.entities.answers import entity_metrics, in_characters, load_entity_head
from bertorch.tasks.entities.arguments import add_entity_arguments, how_to_read, settle_entity_arguments
from bertorch.tasks.entities.batching import collate_spans, collate_tags
from bertorch.tasks.entities.data_report import report_entities
from bertorch.tasks.entities.description import Description
from bertorch.tasks.entities.predictor import Predictor
from bertorch.tasks.entities.report import entity_details
from bertorch.tasks.entities.rows import find_types, read_documents
from bertorch.tasks.entities.tags import TagSet, types_of
from bertorch.tasks.entities.windows import TaggedSamples, UnitTokenizer, tag_documents
from bertorch.tasks.prediction import write_predictions
from bertorch.training.arguments import training_parser
from bertorch.training.evaluation import Evaluation
from bertorch.training.inference import Compute
from bertorch.training.process_group import run_script, set_seed
from bertorch.training.run import Run
from bertorch.training.seeds import for_each_seed
from bertorch.training.start import load_sets, open_tokenizer, start_training
from bertorch.training.step import train_step
from bertorch.training.tricks import class_loss


def parse_args():
    parser = training_parser("Fine-tune an encoder to find entities.", rows_of_texts=False)
    add_entity_arguments(parser)
    args = parser.parse_args()
    settle_entity_arguments(parser, args)
    return args


def load_samples(path, args, tokenizer, types, tag_set, name):
    """Windows, tags and entities of a set; the place to edit for data of another shape."""
    label_needed, how = name != "test", how_to_read(args)

    def samples():
        documents = read_documents(path, types, label_needed=label_needed, **how)
        return tag_documents(documents, tokenizer, types, tag_set, path, split_long=name == "train")

    read_as = (Path(path).suffixes, types, tag_set and tag_set.labels, how, name)
    return from_cache(path, (tokenizer.fingerprint, read_as), samples, TaggedSamples, args.cache_dir)


def evaluate(predictor, samples):
    """Loss and entity scores over all of ``samples``, the same on any number of processes, and what the report shows."""
    types, found = predictor.description.types, predictor.find(samples)
    metrics, table = entity_metrics(samples, found, types)
    logger.info(f"entities by type\n{table}")
    entities = (in_characters(samples, row, spans) for row, spans in enumerate(found.spans))
    return Evaluation(metrics, lambda: entity_details(samples, entities, types))


def test(predictor, samples, run):
    """Predict the test set with the saved model: line, type, start and end of each entity in ``test_predictions.tsv``."""
    found = predictor.find(samples)
    if samples.labelled:
        metrics, table = entity_metrics(samples, found, predictor.description.types)
        run.report("test", metrics)
        logger.info(f"entities by type\n{table}")
    entities = ((row, one) for row, spans in enumerate(found.spans) for one in in_characters(samples, row, spans))
    lines = (f"{samples.lines[row]}\t{kind}\t{start}\t{end}" for row, (kind, start, end) in entities)
    write_predictions(run.directory, predictor.compute, lines)


def main(args):
    processes = start_training(args)

    # data
    labels = read_labels(args.label_file) if args.label_file else find_types(args.train_data_file, **how_to_read(args))
    types = types_of(labels, args.label_file)
    spans = args.ner_head == "global_pointer"
    tag_set = None if spans else TagSet.from_labels(labels, types, args.tag)
    directory, texts = open_tokenizer(args, processes)
    tokenizer = UnitTokenizer(texts, args.unit, args.doc_stride)
    sets = load_sets(args, processes, lambda path, name: load_samples(path, args, tokenizer, types, tag_set, name))
    data_report = report_entities(sets, types, args.max_seq_length)

    # model
    description = Description(
        ner_head=args.ner_head,
        types=types,
        labels=types if spans else tag_set.labels,
        tag=args.tag,
        crf_constraints=not args.no_crf_constraints,
        unit=sets["train"].unit,
        doc_stride=args.doc_stride,
        max_seq_length=args.max_seq_length,
        chinese=args.chinese,
    )
    model = load_entity_head(directory, description, args.init_from_ckpt)
    if not spans:
        model.class_loss = class_loss(args, np.bincount(sets["train"].tags, minlength=len(tag_set.labels)))
        model.dropout_samples = args.dropout_samples
    model.to(processes.device)
    set_seed(args.seed, processes.rank)  # same weights everywhere, different dropout on each rank
    compute = Compute(args.eval_batch_size, processes, args.precision)
    predictor = Predictor(model, tokenizer, description, compute)

    # training
    collate = collate_spans if spans else collate_tags
    rates = {"crf": args.crf_learning_rate}
    run = Run(args, model, sets["train"], processes, texts.pretrained, description, collate, rates, data_report)
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
