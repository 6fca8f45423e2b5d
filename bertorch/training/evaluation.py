"""What an evaluation found, as one value: figures, what the report shows, and what the model must keep of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """What a script's ``evaluate`` returns and ``run.record`` takes.

    Attributes:
        metrics: the figures; ``--metric`` names the one that decides.
        details: makes what else the report shows, small and fit for JSON, with token ids under ``token_ids`` where it shows
            texts. Called only where the model is kept, and written with it.
        keep: what the saved model must keep, such as a threshold: these entries stand in its ``bertorch.json``.
    """

    metrics: dict[str, float]
    details: Callable[[], dict[str, Any]] | None = None
    keep: dict[str, Any] = field(default_factory=dict)
