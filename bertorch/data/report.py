"""The data report that every script prints before training."""

from collections.abc import Sequence

import numpy as np
from loguru import logger

from bertorch.data.tokenizing import Samples


def report_data(sets: dict[str, Samples], max_seq_length: int, labels: Sequence[str] = ()) -> None:
    """Log, for each set: rows, labels and their counts, lengths, truncated rows, unknown tokens; texts that sets share."""
    for name, samples in sets.items():
        lengths = samples.lengths
        shown = " ".join(f"p{share}={int(np.percentile(lengths, share))}" for share in (50, 90, 99))
        logger.info(
            f"{name}: {len(samples)} rows, tokens {shown} longest={lengths.max()}, "
            f"{samples.truncated / len(samples.lengths):.1%} cut at max_seq_length {max_seq_length}, "
            f"{samples.unknown / len(samples.input_ids):.2%} unknown tokens"
        )
        known = samples.labels[samples.labels >= 0]
        if len(labels) and len(known):
            counts = np.bincount(known, minlength=len(labels))
            logger.info(
                f"{name}: labels " + ", ".join(f"{label} {count}" for label, count in zip(labels, counts, strict=True))
            )
            missing = [label for label, count in zip(labels, counts, strict=True) if not count]
            if missing:
                logger.warning(f"{name}: no row with label {', '.join(missing)}")
    names = list(sets)
    for other in names[1:]:
        shared = int(np.isin(sets[other].text_hashes, sets[names[0]].text_hashes).sum())
        if shared:
            logger.warning(f"{shared} of {len(sets[other])} texts of {other} also stand in {names[0]}")
