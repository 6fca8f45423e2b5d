"""The result of an evaluation: its metrics, details for the report, and values to save with the model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """What a script's ``evaluate`` returns and ``run.record`` takes.

    Attributes:
        metrics: the figures; ``--metric`` names the one that selects the best model.
        details: makes the details for the report: small and JSON-serializable, with texts as token ids under
            ``token_ids``. Called only if the model is kept, and written with it.
        keep: values that the model needs, such as a threshold; saved in its ``bertorch.json``.
    """

    metrics: dict[str, float]
    details: Callable[[], dict[str, Any]] | None = None
    keep: dict[str, Any] = field(default_factory=dict)
