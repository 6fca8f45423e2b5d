"""What the folder of each task holds, under the same names: the contract of a task, written once.

``rows.py``         how files are read: rows that are good, and one error for each that is not.
``description.py``  ``Description``: what ``bertorch.json`` holds of a model.
``head.py``         the head, an ``nn.Module`` that owns its encoder (``heads/loading.py`` has its contract).
``predictor.py``    ``Predictor``: a trained model that answers. ``answers.py`` where that is long.
``scores.py``       figures of answers beside the truth; ``METRICS``, those that ``--metric`` may name.
``predict.py``      ``predict``, its page of the script of this name.
``report.py``       ``TITLE`` and ``section``: its part of ``report.html``; what an evaluation keeps for it.

Other files hold what only that task has. One task uses another by the names of these modules.
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
    """A trained model that answers: ``predict.py``, evaluations and programs of others ask it alone.

    Attributes:
        model: the head.
        tokenizer: how it reads texts.
        description: what it was trained for.
        compute: how answers are computed.
    """

    model: nn.Module
    tokenizer: Any
    description: Description
    compute: Compute

    @classmethod
    def open(cls, directory: str | Path, compute: Compute, **settings: Any) -> "Predictor":
        """The model of a saved directory, of a run or of another tool.

        Args:
            directory: holds configuration, vocabulary and weights.
            compute: how answers are computed.
            settings: what shall be other than in training, such as ``max_seq_length``; each task lists its own.

        Raises:
            UserError: something is missing, damaged or does not fit.
        """
        ...

    def __call__(self, rows: Sequence[Any]) -> list[dict[str, Any]]:
        """An answer to each row, in order, none left out: what ``predict.py`` writes as json lines."""
        ...


class PredictPart(Protocol):
    """The module ``predict.py`` of a task."""

    predict: Callable[[argparse.Namespace, Path, Compute], None]  # read the input, answer, write; with --evaluate scores


class ReportPart(Protocol):
    """The module ``report.py`` of a task."""

    TITLE: str
    section: Callable[[dict[str, Any], Sequence[str] | None], Html]  # what an evaluation kept, and the labels
