"""The data report that scripts print before training, and that a run keeps.

Each function logs what it finds and returns it: of each set its ``figures``, a number a name, and its ``counts`` of
something (labels, entities, answers), as ``data_report.json`` holds them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from loguru import logger

from bertorch.data.documents import Documents
from bertorch.data.reading import Question, ReadingSamples
from bertorch.data.tagging import TaggedSamples
from bertorch.data.tokenizing import Samples

Report = dict[str, dict[str, Any]]


def report_data(sets: dict[str, Samples], max_seq_length: int, labels: Sequence[str] = ()) -> Report:
    """Rows, labels and their counts, lengths, truncated rows, unknown tokens of each set; texts that sets share."""
    report: Report = {}
    for name, samples in sets.items():
        lengths = _lengths(samples.lengths)
        logger.info(
            f"{name}: {len(samples)} rows, tokens {_shown(lengths)}, "
            f"{samples.truncated / len(samples.lengths):.1%} cut at max_seq_length {max_seq_length}, "
            f"{samples.unknown / len(samples.input_ids):.2%} unknown tokens"
        )
        report[name] = {
            "figures": {
                "rows": len(samples),
                **_of(lengths, "tokens"),
                "truncated_share": samples.truncated / len(samples.lengths),
                "unknown_share": samples.unknown / len(samples.input_ids),
            }
        }
        known = samples.labels[samples.labels >= 0]
        if samples.labels.dtype.kind == "f" and len(known):
            spread = {"lowest_score": known.min(), "mean_score": known.mean(), "highest_score": known.max()}
            report[name]["figures"].update({figure: float(value) for figure, value in spread.items()})
        if len(labels) and len(known):
            counts = np.bincount(known, minlength=len(labels))
            report[name]["counts"] = dict(zip(labels, counts.tolist(), strict=True))
            logger.info(
                f"{name}: labels " + ", ".join(f"{label} {count}" for label, count in zip(labels, counts, strict=True))
            )
            missing = [label for label, count in zip(labels, counts, strict=True) if not count]
            if missing:
                logger.warning(f"{name}: no row with label {', '.join(missing)}")
    return _with_shared_texts(report, sets)


def _lengths(lengths: np.ndarray, shares: Sequence[int] = (50, 90, 99)) -> dict[str, int]:
    """Percentiles of lengths, and the longest."""
    return {f"p{share}": int(np.percentile(lengths, share)) for share in shares} | {"longest": int(lengths.max())}


def _of(lengths: dict[str, int], what: str) -> dict[str, int]:
    return {f"{what}_{name}": length for name, length in lengths.items()}


def _shown(lengths: dict[str, int]) -> str:
    return " ".join(f"{name}={length}" for name, length in lengths.items())


def _with_shared_texts(report: Report, sets: dict[str, Samples]) -> Report:
    """Warn of texts that stand in the first set and in another, and add their numbers."""
    names = list(sets)
    for other in names[1:]:
        shared = int(np.isin(sets[other].text_hashes, sets[names[0]].text_hashes).sum())
        report[other]["figures"][f"texts_also_in_{names[0]}"] = shared
        if shared:
            logger.warning(f"{shared} of {len(sets[other])} texts of {other} also stand in {names[0]}")
    return report


def report_entities(sets: dict[str, TaggedSamples], types: Sequence[str], max_seq_length: int) -> Report:
    """What each set holds: texts, their lengths in units, entities by type, unknown and blank units; shared texts."""
    report: Report = {}
    for name, samples in sets.items():
        counts = samples.unit_counts
        in_windows = (np.diff(samples.row_starts) > 1).mean()
        lengths = _lengths(counts)
        units = len(samples.unit_tokens)
        logger.info(
            f"{name}: {len(samples)} texts, {samples.unit}s {_shown(lengths)}, "
            f"{in_windows:.1%} longer than max_seq_length {max_seq_length} and read in windows, "
            f"{samples.unknown / units:.2%} unknown, {samples.blank / units:.2%} blank"
        )
        numbers = np.bincount(samples.entities[:, 0], minlength=len(types))
        report[name] = {
            "figures": {
                "texts": len(samples),
                **_of(lengths, f"{samples.unit}s"),
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
    return _with_shared_texts(report, sets)


def report_questions(sets: dict[str, ReadingSamples], questions: dict[str, list[Question]], max_seq_length: int) -> Report:
    """What each set holds: questions, windows, kinds of answers, unknown tokens, cut questions; shared ones."""
    report: Report = {}
    for name, samples in sets.items():
        kinds = Counter(question.kind for question in questions[name] if question.answers)
        windows = np.bincount(samples.questions)
        tokens = (samples.token_offsets[:, 0] >= 0).sum()
        logger.info(
            f"{name}: {len(questions[name])} questions in {len(samples)} windows, {(windows > 1).mean():.1%} with passages "
            f"longer than max_seq_length {max_seq_length}, {samples.unknown / max(1, tokens):.2%} unknown tokens, "
            f"{samples.cut_questions} questions cut"
        )
        report[name] = {
            "figures": {
                "questions": len(questions[name]),
                "windows": len(samples),
                **_of(_lengths(samples.lengths), "tokens_of_a_window"),
                "in_windows_share": float((windows > 1).mean()),
                "unknown_share": float(samples.unknown / max(1, tokens)),
                "questions_cut": samples.cut_questions,
            },
            "counts": dict(kinds.most_common()),
        }
        if kinds:
            logger.info(f"{name}: answers " + ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()))
    return _with_shared_texts(report, sets)


def report_documents(sets: dict[str, Documents]) -> Report:
    """What each set holds: documents, sentences, texts and their lengths, unknown tokens, sentences cut."""
    report: Report = {}
    for name, documents in sets.items():
        lengths = _lengths(documents.row_lengths, (10, 50, 90))
        shown = _shown({name: length for name, length in lengths.items() if name != "longest"})
        logger.info(
            f"{name}: {documents.text_documents[-1] + 1} documents, {len(documents.sentence_starts) - 1} sentences, "
            f"{len(documents)} texts, {len(documents.input_ids)} tokens ({shown} a text), "
            f"{documents.unknown / len(documents.input_ids):.2%} unknown, {documents.divided} sentences cut at the length"
        )
        report[name] = {
            "figures": {
                "documents": int(documents.text_documents[-1]) + 1,
                "sentences": len(documents.sentence_starts) - 1,
                "texts": len(documents),
                "tokens": len(documents.input_ids),
                **_of(lengths, "tokens_of_a_text"),
                "unknown_share": documents.unknown / len(documents.input_ids),
                "sentences_cut": documents.divided,
            }
        }
    return report
