"""Evaluation of sentence vectors: similarities of pairs against their scores, and classes of pairs."""

import argparse

import numpy as np

from bertorch.data.tokenizing import Samples
from bertorch.errors import UserError
from bertorch.tasks.classification.report import classification_details
from bertorch.tasks.classification.scores import METRICS as CLASS_METRICS
from bertorch.tasks.classification.targets import OneLabel
from bertorch.tasks.prediction import write_predictions
from bertorch.tasks.sentences.predictor import Predictor
from bertorch.tasks.sentences.report import similarity_details
from bertorch.tasks.sentences.scores import (
    METRICS,
    check_scores,
    cosines,
    label_scores,
    pair_class_metrics,
    similarity_metrics,
)
from bertorch.training.evaluation import Evaluation
from bertorch.training.run import Run


def check_metric(args: argparse.Namespace, sets: dict[str, Samples], labels: list[str] | None = None) -> None:
    """Raises UserError if ``--metric`` cannot be computed on the development set; ``labels``: the classes, if any."""
    if args.metric in CLASS_METRICS:
        if labels is None:
            raise UserError(f"--metric {args.metric} is for classes; --objective {args.objective} has {', '.join(METRICS)}")
        OneLabel(labels).check_metric(args.metric)
    elif "dev" in sets:
        scores = sets["dev"].labels
        if labels is not None:
            of_classes = label_scores(labels)
            if of_classes is None:
                raise UserError(f"--metric {args.metric} needs classes that are numbers, not {labels[0]!r}; use accuracy")
            scores = of_classes[scores]
        check_scores(scores, args.metric, args.dev_data_file)


def evaluate(predictor: Predictor, samples: Samples) -> Evaluation:
    """Metrics of similarities and classes, the same on any number of processes; and what the report shows."""
    u, v = predictor.pair_vectors(samples)
    if not predictor.description.has_classes:
        return Evaluation(similarity_metrics(cosines(u, v), samples.labels), lambda: similarity_details(u, v, samples))
    logits = predictor.logits(u, v)
    metrics = pair_class_metrics(logits, cosines(u, v), samples.labels, predictor.description.labels)
    return Evaluation(metrics, lambda: classification_details(logits, samples) | similarity_details(u, v, samples))


def test(predictor: Predictor, samples: Samples, run: Run) -> None:
    """Predict cosines or classes of the test pairs with the saved model; writes ``saved_dir/test_predictions.tsv``."""
    u, v = predictor.pair_vectors(samples)
    similarities = cosines(u, v)
    if not predictor.description.has_classes:
        if not np.isnan(samples.labels).any():
            run.report("test", similarity_metrics(similarities, samples.labels))
        return write_predictions(run.directory, predictor.compute, (f"{similarity:.6f}" for similarity in similarities))
    logits, labels = predictor.logits(u, v), predictor.description.labels
    if (samples.labels >= 0).all():
        run.report("test", pair_class_metrics(logits, similarities, samples.labels, labels))
    write_predictions(run.directory, predictor.compute, (labels[prediction] for prediction in logits.argmax(axis=1)))
