"""Exact match and F1 of answers, as the official scorers of SQuAD, CMRC2018 and CJRC define them.

The text ``""`` stands for no answer. Every score lies between 0 and 1; the official scripts print percentages.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from bertorch.tasks.reading.rows import Question

METRICS = ("f1", "em", "average")

# Signs that CMRC2018's scorer removes; its ellipsis entry has two characters, so it never matches a single one.
_CMRC_SIGNS = set("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_CHARACTER = re.compile("[\u4e00-\u9fa5]")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def squad_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 over words, the best over the answers (Rajpurkar et al. 2016, section 6.1; 2018 for no answer).

    Texts lose case, punctuation, articles and extra blanks. An answer that becomes empty counts only if all do.
    """
    known = [answer for answer in answers if _squad_text(answer)] or [""]
    exact = max(float(_squad_text(prediction) == _squad_text(answer)) for answer in known)
    return exact, max(_overlap(_squad_text(prediction).split(), _squad_text(answer).split()) for answer in known)


def _squad_text(text: str) -> str:
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _overlap(prediction: Sequence[str], answer: Sequence[str]) -> float:
    """F1 of the items that two lists share; if one is empty, 1 if both are, else 0."""
    if not prediction or not answer:
        return float(not prediction and not answer)
    return 2 * sum((Counter(prediction) & Counter(answer)).values()) / (len(prediction) + len(answer))


def cmrc_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match without punctuation, and F1 by the longest run of segments that both share (Cui et al. 2019, section 4).

    Segments are Chinese characters and the words between them, in lower case. The official scorer of CMRC2018 and DRCD takes
    a contiguous run, though it calls it a longest common sequence, and so does this. Words are split by NLTK's word
    tokenizer, without its division into sentences. For data with unanswerable questions, ``""`` equals ``""``.
    """
    if not prediction and "" in answers:
        return 1.0, 1.0
    exact = max(float(_cmrc_text(prediction) == _cmrc_text(answer)) for answer in answers)
    segments = _cmrc_segments(prediction)
    return exact, max(_run_overlap(segments, _cmrc_segments(answer)) for answer in answers)


def _cmrc_text(text: str) -> str:
    return "".join(sign for sign in text.lower().strip() if sign not in _CMRC_SIGNS)


def _cmrc_segments(text: str) -> list[str]:
    segments: list[str] = []
    for part in re.split("([\u4e00-\u9fa5])", _cmrc_text(text)):
        if part:
            segments += [part] if _CMRC_CHARACTER.match(part) else _words()(part)
    return segments


@cache
def _words() -> Callable[[str], list[str]]:
    from nltk.tokenize import NLTKWordTokenizer  # imported only to evaluate Chinese

    return NLTKWordTokenizer().tokenize


def _run_overlap(prediction: list[str], answer: list[str]) -> float:
    if not prediction or not answer:
        return 0.0
    longest, runs = 0, [0] * (len(answer) + 1)
    for segment in prediction:
        for place in range(len(answer), 0, -1):
            runs[place] = runs[place - 1] + 1 if answer[place - 1] == segment else 0
            longest = max(longest, runs[place])
    return 2 * longest / (len(prediction) + len(answer))


def cjrc_scores(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 over characters (letters and digits only), averaged over leaving out each answer in turn.

    Each of several answers is left out once, and the best score over the others counts. People are compared with other
    people's answers, so this measures models alike (Duan et al. 2019, CJRC, after CoQA's scorer). Yes and no are texts.
    """
    pairs = [(float(_cjrc_text(prediction) == _cjrc_text(answer)), _overlap(_cjrc_text(prediction), _cjrc_text(answer)))
             for answer in answers]  # fmt: skip
    rounds = [pairs[:left] + pairs[left + 1 :] for left in range(len(pairs))] if len(pairs) > 1 else [pairs]
    exact, f1 = (np.mean([max(pair[part] for pair in others) for others in rounds]) for part in (0, 1))
    return float(exact), float(f1)


def _cjrc_text(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isdigit() or sign.isalpha())


SCORERS: dict[str, Callable[[str, Sequence[str]], tuple[float, float]]] = {
    "squad": squad_scores,
    "cmrc": cmrc_scores,
    "cjrc": cjrc_scores,
}


def scorer_for(questions: Sequence[Question]) -> str:
    """The fitting scorer: ``cjrc`` if there are yes or no answers, ``cmrc`` for mostly Chinese passages, else ``squad``."""
    if any(question.kind in ("yes", "no") for question in questions):
        return "cjrc"
    text = "".join(question.context for question in questions[:100])
    return "cmrc" if len(_CMRC_CHARACTER.findall(text)) > len(text) / 3 else "squad"


def reading_metrics(
    scorer: str, predictions: Sequence[str], answers: Sequence[Sequence[str]], kinds: Sequence[str]
) -> dict[str, float]:
    """``em``, ``f1`` and their ``average`` over all questions, and over those of each kind if there are several.

    Args:
        scorer: a key of ``SCORERS``.
        predictions: one text per question, ``""`` for no answer.
        answers: the reference answers of each question.
        kinds: the kind of each question: ``span``, ``none``, ``yes`` or ``no``.
    """
    scores = np.array([SCORERS[scorer](*one) for one in zip(predictions, answers, strict=True)])
    em, f1 = scores.mean(axis=0)
    metrics = {"em": float(em), "f1": float(f1), "average": float((em + f1) / 2)}
    present = sorted(set(kinds))
    if "none" in present and len(present) > 1:
        answerable = np.array([kind != "none" for kind in kinds])
        for name, chosen in (("has_answer", answerable), ("no_answer", ~answerable)):
            metrics[f"{name}_em"], metrics[f"{name}_f1"] = map(float, scores[chosen].mean(axis=0))
    for kind in ("yes", "no"):
        if kind in present and len(present) > 1:
            metrics[f"{kind}_em"] = float(scores[[one == kind for one in kinds], 0].mean())
    return metrics


def best_null_threshold(
    differences: Sequence[float], scores_with: Sequence[float], scores_without: Sequence[float]
) -> tuple[float, float]:
    """The threshold that gives the best score, and that score; a question gets no answer if its difference is above it.

    Found over all questions as in SQuAD v2's scorer: by sorting, with ties decided together.

    Args:
        differences: for each question, the score of no answer minus that of the best answer.
        scores_with: the metric of each question's best answer.
        scores_without: the metric of giving no answer to each.
    """
    order = np.argsort(differences, kind="stable")
    sorted_differences = np.asarray(differences, dtype=float)[order]
    gains = np.asarray(scores_with, dtype=float)[order] - np.asarray(scores_without, dtype=float)[order]
    totals = np.concatenate([[0.0], np.cumsum(gains)]) + np.sum(scores_without)  # the first n are answered
    possible = np.concatenate([[True], sorted_differences[1:] > sorted_differences[:-1], [True]]) if len(order) else [True]
    best = max(np.flatnonzero(possible), key=lambda answered: totals[answered])
    if len(order) == 0:
        return 0.0, 0.0
    if best == 0:
        return float(sorted_differences[0] - 1.0), float(totals[0] / len(order))
    if best == len(order):
        return float(sorted_differences[-1] + 1.0), float(totals[-1] / len(order))
    lower, upper = sorted_differences[best - 1 : best + 1]
    middle = (lower + upper) / 2
    return float(middle if middle < upper else lower), float(totals[best] / len(order))
