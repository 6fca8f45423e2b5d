"""The contract of a task: what each task's folder holds, under the same names.

``rows.py``         reads files: the usable rows, and one error for each bad row.
``description.py``  ``Description``: what ``bertorch.json`` holds of a model.
``head.py``         the head, an ``nn.Module`` that owns its encoder (``heads/loading.py`` has its contract).
``predictor.py``    ``Predictor``: predicts with a trained model; ``answers.py`` has the rest where it is long.
``scores.py``       the metrics of predictions; ``METRICS``: those that ``--metric`` may name.
``predict.py``      ``predict``: what the script ``predict.py`` runs for this task.
``report.py``       ``TITLE`` and ``section``: the task's part of ``report.html``, and what an evaluation keeps for it.

Other files hold what only that task has. Tasks find each other's modules by these names.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from bertorch.reporting.page import Html
from bertorch.tasks.description import Description
from bertorch.training.inference import Compute


class Predictor(Protocol):
    """Predicts with a trained model; ``predict.py``, evaluations and other programs all use it.

    Attributes:
        model: the head.
        tokenizer: turns texts into its input.
        description: what the model was trained for.
        compute: how answers are computed.
    """

    model: nn.Module
    tokenizer: Any
    description: Description
    compute: Compute

    @classmethod
    def open(cls, directory: str | Path, compute: Compute, **settings: Any) -> "Predictor":
        """Open the model in a saved directory, of a run or of another tool.

        Args:
            directory: holds configuration, vocabulary and weights.
            compute: how answers are computed.
            settings: what to change from training, such as ``max_seq_length``; each task lists its own.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        ...

    def __call__(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """One answer per row, in order: what ``predict.py`` writes as json lines."""
        ...


class PredictPart(Protocol):
    """The module ``predict.py`` of a task; ``streaming.py`` reads ahead, shares the rows and writes the answers."""

    predict: Callable[[argparse.Namespace, Path, Compute], None]  # read, predict, write; score with --evaluate


class ReportPart(Protocol):
    """The module ``report.py`` of a task."""

    TITLE: str
    section: Callable[[dict[str, Any], Sequence[str] | None], Html]  # takes what an evaluation kept, and the labels
