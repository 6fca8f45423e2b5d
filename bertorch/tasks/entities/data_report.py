"""Statistics of entity data sets, before training."""

from collections.abc import Sequence

import numpy as np
from loguru import logger

from bertorch.data.report import Report, lengths_of, named, shown, warn_of_unknown, with_shared
from bertorch.tasks.entities.windows import TaggedSamples


def report_entities(sets: dict[str, TaggedSamples], types: Sequence[str], max_seq_length: int) -> Report:
    """Report each set's texts, their lengths in units and tokens, entities by type, unknown units, and shared texts."""
    report: Report = {}
    for name, samples in sets.items():
        counts = samples.unit_counts
        in_windows = (np.diff(samples.row_starts) > 1).mean()
        lengths, tokens = lengths_of(counts), lengths_of(samples.uncut_lengths)
        units = len(samples.unit_tokens)
        logger.info(
            f"{name}: {len(samples)} texts, {samples.unit}s {shown(lengths)}, {samples.unknown / units:.2%} unknown, "
            f"{samples.blank / units:.2%} blank"
        )
        logger.info(f"{name}: tokens {shown(tokens)}, {in_windows:.1%} in windows of {max_seq_length}")
        warn_of_unknown(name, samples.unknown / units)
        numbers = np.bincount(samples.entities[:, 0], minlength=len(types))
        report[name] = {
            "figures": {
                "texts": len(samples),
                **named(lengths, f"{samples.unit}s"),
                **named(tokens, "tokens"),
                "in_windows_share": float(in_windows),
                "unknown_share": samples.unknown / units,
                "blank_share": samples.blank / units,
                "entities": len(samples.entities),
            },
            "counts": dict(zip(types, numbers.tolist(), strict=True)),
        }
        if len(samples.entities):
            listed = ", ".join(f"{kind} {number}" for kind, number in zip(types, numbers, strict=True))
            logger.info(f"{name}: {len(samples.entities)} entities, {listed}")
            missing = [kind for kind, number in zip(types, numbers, strict=True) if not number]
            if missing:
                logger.warning(f"{name}: no entity of type {', '.join(missing)}")
    return with_shared(report, {name: samples.text_hashes for name, samples in sets.items()}, "texts")
