"""Statistics of question data sets, before training."""

from collections import Counter

import numpy as np
from loguru import logger

from bertorch.data.report import Report, lengths_of, named, shown, warn_of_unknown, with_shared
from bertorch.tasks.reading.rows import Question, ReadingSamples


def report_questions(sets: dict[str, ReadingSamples], questions: dict[str, list[Question]], max_seq_length: int) -> Report:
    """Report each set's questions, windows, kinds of answers, unknown tokens, cut questions, and shared questions."""
    report: Report = {}
    for name, samples in sets.items():
        kinds = Counter(question.kind for question in questions[name] if question.answers)
        windows = np.bincount(samples.questions)
        lengths = lengths_of(samples.uncut_lengths)
        unknown = float(samples.unknown / max(1, (samples.token_offsets[:, 0] >= 0).sum()))
        logger.info(
            f"{name}: {len(questions[name])} questions, {len(samples)} windows of {max_seq_length}, tokens {shown(lengths)}"
        )
        logger.info(
            f"{name}: {(windows > 1).mean():.1%} with several windows, {samples.cut_questions} questions cut, "
            f"{unknown:.2%} unknown tokens"
        )
        warn_of_unknown(name, unknown)
        report[name] = {
            "figures": {
                "questions": len(questions[name]),
                "windows": len(samples),
                **named(lengths, "tokens"),
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
    return with_shared(report, hashes, "questions")
