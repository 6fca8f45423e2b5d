"""The data report that scripts print before training, and that a run keeps.

Each function logs what it finds and returns it: of each set its ``figures``, a number a name, and its ``counts`` of
something (labels, entities, answers), as ``data_report.json`` holds them. Lengths are those of whole texts, special tokens
included, before they are cut or read in windows: ``--max_seq_length`` is chosen by them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from loguru import logger

from bertorch.data.tokenizing import Samples
from bertorch.tasks.entities.windows import TaggedSamples
from bertorch.tasks.pretraining.rows import Documents
from bertorch.tasks.reading.rows import Question, ReadingSamples

Report = dict[str, dict[str, Any]]
# Vocabularies that fit lack at most 0.94 % of the tokens of Chinese and English test sets, those of another language more
# than 50 %, and of mixed case, lower-case ones read without lower-casing, 7 % or more.
_MANY_UNKNOWN = 0.03


def report_data(sets: dict[str, Samples], max_seq_length: int, labels: Sequence[str] = ()) -> Report:
    """Rows, labels and their counts, lengths, truncated rows, unknown tokens of each set; texts that sets share."""
    report: Report = {}
    for name, samples in sets.items():
        texts = len(samples.lengths)
        lengths, truncated = _lengths(samples.uncut_lengths), float((samples.uncut_lengths > max_seq_length).mean())
        unknown = samples.unknown / len(samples.input_ids)
        logger.info(
            f"{name}: {len(samples)} rows{f' of {texts} texts' if texts != len(samples) else ''}, tokens {_shown(lengths)}, "
            f"{truncated:.1%} longer than max_seq_length {max_seq_length} and cut, {unknown:.2%} unknown tokens"
        )
        _warn_of_unknown(name, unknown)
        report[name] = {
            "figures": {
                "rows": len(samples),
                **({"texts": texts} if texts != len(samples) else {}),
                **_of(lengths, "tokens"),
                "truncated_share": truncated,
                "unknown_share": unknown,
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
    return _with_shared(report, {name: samples.text_hashes for name, samples in sets.items()}, "texts")


def _lengths(lengths: np.ndarray, shares: Sequence[int] = (50, 90, 95, 99)) -> dict[str, float]:
    """Mean and percentiles of lengths, and the longest."""
    percentiles = {f"p{share}": int(np.percentile(lengths, share)) for share in shares}
    return {"mean": round(float(lengths.mean()), 1), **percentiles, "longest": int(lengths.max())}


def _of(lengths: dict[str, float], what: str) -> dict[str, float]:
    return {f"{what}_{name}": length for name, length in lengths.items()}


def _shown(lengths: dict[str, float]) -> str:
    return " ".join(f"{name}={length}" for name, length in lengths.items())


def _warn_of_unknown(name: str, share: float) -> None:
    if share > _MANY_UNKNOWN:
        logger.warning(
            f"{name}: the vocabulary lacks {share:.2%} of the tokens (a vocabulary that fits lacks less than 1%); check "
            "that the model is for the language of the texts, that both have simplified or both traditional characters "
            "(OpenCC converts texts), and that do_lower_case in tokenizer_config.json is true for a vocabulary in lower case"
        )


def _with_shared(report: Report, hashes: dict[str, np.ndarray], what: str) -> Report:
    """Warn of texts (or questions) that stand in the first set and in another, and add their numbers.

    Args:
        report: to add them to.
        hashes: of each set, one a text ``[texts]``.
        what: how they are called.
    """
    first, *others = hashes
    for other in others:
        shared = int(np.isin(hashes[other], hashes[first]).sum())
        report[other]["figures"][f"{what}_also_in_{first}"] = shared
        if shared:
            logger.warning(f"{shared} of {len(hashes[other])} {what} of {other} also stand in {first}")
    return report


def report_entities(sets: dict[str, TaggedSamples], types: Sequence[str], max_seq_length: int) -> Report:
    """What each set holds: texts, their lengths in units and tokens, entities by type, unknown units; shared texts."""
    report: Report = {}
    for name, samples in sets.items():
        counts = samples.unit_counts
        in_windows = (np.diff(samples.row_starts) > 1).mean()
        lengths, tokens = _lengths(counts), _lengths(samples.uncut_lengths)
        units = len(samples.unit_tokens)
        logger.info(
            f"{name}: {len(samples)} texts, {samples.unit}s {_shown(lengths)}, tokens {_shown(tokens)}, "
            f"{in_windows:.1%} longer than max_seq_length {max_seq_length} and read in windows, "
            f"{samples.unknown / units:.2%} unknown, {samples.blank / units:.2%} blank"
        )
        _warn_of_unknown(name, samples.unknown / units)
        numbers = np.bincount(samples.entities[:, 0], minlength=len(types))
        report[name] = {
            "figures": {
                "texts": len(samples),
                **_of(lengths, f"{samples.unit}s"),
                **_of(tokens, "tokens"),
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
    return _with_shared(report, {name: samples.text_hashes for name, samples in sets.items()}, "texts")


def report_questions(sets: dict[str, ReadingSamples], questions: dict[str, list[Question]], max_seq_length: int) -> Report:
    """What each set holds: questions, windows, kinds of answers, unknown tokens, cut questions; shared ones."""
    report: Report = {}
    for name, samples in sets.items():
        kinds = Counter(question.kind for question in questions[name] if question.answers)
        windows = np.bincount(samples.questions)
        lengths = _lengths(samples.uncut_lengths)
        unknown = float(samples.unknown / max(1, (samples.token_offsets[:, 0] >= 0).sum()))
        logger.info(
            f"{name}: {len(questions[name])} questions in {len(samples)} windows, tokens {_shown(lengths)}, "
            f"{(windows > 1).mean():.1%} with passages longer than max_seq_length {max_seq_length}, "
            f"{unknown:.2%} unknown tokens, {samples.cut_questions} questions cut"
        )
        _warn_of_unknown(name, unknown)
        report[name] = {
            "figures": {
                "questions": len(questions[name]),
                "windows": len(samples),
                **_of(lengths, "tokens"),
                "in_windows_share": float((windows > 1).mean()),
                "unknown_share": unknown,
                "questions_cut": samples.cut_questions,
            },
            "counts": dict(kinds.most_common()),
        }
        if kinds:
            logger.info(f"{name}: answers " + ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()))
    first_windows = {name: np.unique(samples.questions, return_index=True)[1] for name, samples in sets.items()}
    hashes = {name: samples.text_hashes[first_windows[name]] for name, samples in sets.items()}
    return _with_shared(report, hashes, "questions")


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
        _warn_of_unknown(name, documents.unknown / len(documents.input_ids))
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
