"""The data report that scripts print before training, and that a run saves.

Each function logs what it finds and returns it: for each set its ``figures``, one number per name, and its ``counts`` of
labels, entities or answers, as in ``data_report.json``. Lengths are those of whole texts, special tokens included, before
truncation or splitting into windows: use them to choose ``--max_seq_length``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from loguru import logger

from bertorch.data.tokenizing import Samples

Report = dict[str, dict[str, Any]]
# Vocabularies that fit lack at most 0.94 % of the tokens of Chinese and English test sets; those of another language lack
# more than 50 %; lower-case ones, on mixed-case text that is not lower-cased, lack 7 % or more.
_MANY_UNKNOWN = 0.03


def report_data(sets: dict[str, Samples], max_seq_length: int, labels: Sequence[str] = ()) -> Report:
    """Report rows, label counts, lengths, truncated rows and unknown tokens of each set, and texts that sets share."""
    report: Report = {}
    for name, samples in sets.items():
        texts = len(samples.lengths)
        lengths, truncated = lengths_of(samples.uncut_lengths), float((samples.uncut_lengths > max_seq_length).mean())
        unknown = samples.unknown / len(samples.input_ids)
        logger.info(
            f"{name}: {len(samples)} rows{f' of {texts} texts' if texts != len(samples) else ''}, tokens {shown(lengths)}, "
            f"{truncated:.1%} over {max_seq_length}, {unknown:.2%} [UNK]"
        )
        warn_of_unknown(name, unknown)
        report[name] = {
            "figures": {
                "rows": len(samples),
                **({"texts": texts} if texts != len(samples) else {}),
                **named(lengths, "tokens"),
                "truncated_share": truncated,
                "unknown_share": unknown,
            }
        }
        are_scores = samples.labels.dtype.kind == "f"
        known = samples.labels[samples.has_label]
        if are_scores and len(known):
            spread = {"lowest_score": known.min(), "mean_score": known.mean(), "highest_score": known.max()}
            report[name]["figures"].update({figure: float(value) for figure, value in spread.items()})
        if len(labels) and len(known) and not are_scores:
            several = known.ndim == 2
            if several:
                report[name]["figures"]["without_label_share"] = float((known.sum(axis=1) == 0).mean())
            counts = known.sum(axis=0, dtype=np.int64) if several else np.bincount(known, minlength=len(labels))
            report[name]["counts"] = dict(zip(labels, counts.tolist(), strict=True))
            logger.info(
                f"{name}: labels " + ", ".join(f"{label} {count}" for label, count in zip(labels, counts, strict=True))
            )
            missing = [label for label, count in zip(labels, counts, strict=True) if not count]
            if missing:
                logger.warning(f"{name}: no row with label {', '.join(missing)}")
    return with_shared(report, {name: samples.text_hashes for name, samples in sets.items()}, "texts")


def lengths_of(lengths: np.ndarray, shares: Sequence[int] = (50, 90, 95, 99)) -> dict[str, float]:
    """Mean, percentiles and maximum of lengths."""
    percentiles = {f"p{share}": int(np.percentile(lengths, share)) for share in shares}
    return {"mean": round(float(lengths.mean()), 1), **percentiles, "longest": int(lengths.max())}


def named(lengths: dict[str, float], what: str) -> dict[str, float]:
    """The figures of ``lengths_of``, with ``what`` before their names."""
    return {f"{what}_{name}": length for name, length in lengths.items()}


def shown(lengths: dict[str, float]) -> str:
    """The figures of ``lengths_of``, formatted for a log line."""
    return " ".join(f"{name}={length}" for name, length in lengths.items())


def warn_of_unknown(name: str, share: float) -> None:
    """Warn if the vocabulary lacks more than a few percent of a set's tokens."""
    if share > _MANY_UNKNOWN:
        logger.warning(
            f"{name}: the vocabulary lacks {share:.2%} of the tokens (a vocabulary that fits lacks less than 1%); check "
            "that the model is for the language of the texts, that both have simplified or both traditional characters "
            "(--chinese converts them), and that do_lower_case in tokenizer_config.json is true for a lower-case vocabulary"
        )


def with_shared(report: Report, hashes: dict[str, np.ndarray], what: str) -> Report:
    """Warn of texts (or questions) that are in both the first set and another, and add their counts to the report.

    Args:
        report: the report to extend.
        hashes: for each set, one hash per text, ``[texts]``.
        what: what to call them, for example texts.
    """
    first, *others = hashes
    for other in others:
        shared = int(np.isin(hashes[other], hashes[first]).sum())
        report[other]["figures"][f"{what}_also_in_{first}"] = shared
        if shared:
            logger.warning(f"{shared} of {len(hashes[other])} {what} of {other} are also in {first}")
    return report
