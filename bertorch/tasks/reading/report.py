"""Reading comprehension: the details that an evaluation saves, and their section in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bertorch.reporting.examples import examples_table
from bertorch.reporting.page import Html, join, note, number, percent, shaded, table, tag
from bertorch.reporting.readable import shortened
from bertorch.tasks.reading.rows import Question
from bertorch.tasks.reading.scores import SCORERS

if TYPE_CHECKING:  # this module loads models, which a report does not need
    from bertorch.tasks.reading.answers import Candidate, Reading

EXAMPLES = 50
_AROUND = 40  # characters of the passage on either side of the right answer
_LONGEST = 200  # characters of a question or answer


def reading_details(
    readings: Sequence[Reading], questions: Sequence[Question], scorer: str, threshold: float
) -> dict[str, Any]:
    """Counts of right against predicted kinds of answers, and the wrong answers that the model is surest of.

    Args:
        readings: the model's candidate answers to each question.
        questions: the questions, with their answers.
        scorer: a key of ``SCORERS``; an answer is wrong if its exact match is 0.
        threshold: a question gets no answer if its reading's ``difference`` is above it.
    """
    answers = [reading.answer(threshold) for reading in readings]
    kinds = Counter((question.kind, answer.kind) for question, answer in zip(questions, answers, strict=True))
    unlike = [place for place, answer in enumerate(answers) if answer.text not in questions[place].answers]
    sure = {place: _share(readings[place], answers[place]) for place in unlike}
    examples = []
    for place in sorted(unlike, key=lambda one: -sure[one]):  # scored only until there are enough
        if len(examples) == EXAMPLES:
            break
        question, answer = questions[place], answers[place]
        exact, f1 = SCORERS[scorer](answer.text, question.answers)
        if exact < 1:
            examples.append(
                {
                    "line": question.line,
                    "question": shortened(question.text, _LONGEST),
                    "passage": _around(question),
                    "answers": [shortened(text, _LONGEST) for text in dict.fromkeys(question.answers)][:3],
                    "kind": question.kind,
                    "predicted": shortened(answer.text, _LONGEST),
                    "predicted_kind": answer.kind,
                    "probability": round(sure[place], 4),
                    "f1": round(float(f1), 4),
                }
            )
    listed = [[kind, given, count] for (kind, given), count in sorted(kinds.items())]
    return {"reading": {"kinds": listed, "threshold": float(threshold), "examples": examples}}


def _share(reading: Reading, answer: Candidate) -> float:
    """The answer's share in the softmax over all candidates; 1 if there are no candidates."""
    return next((share for candidate, share in reading.probabilities() if candidate == answer), 1.0)


def _around(question: Question) -> list[str]:
    """The passage before the right answer, the answer, and the passage after; the beginning if the answer has no place."""
    if question.start < 0:
        return [shortened(question.context, 3 * _AROUND), "", ""]
    low, high = max(0, question.start - _AROUND), question.end + _AROUND
    before = ("…" if low else "") + question.context[low : question.start]
    after = question.context[question.end : high] + ("…" if high < len(question.context) else "")
    return [before, shortened(question.context[question.start : question.end], _LONGEST), after]


TITLE = "Answers"


def section(details: dict[str, Any], labels: Sequence[str] | None) -> Html:
    """The section: kinds of answers, and wrong answers beside the right ones."""
    names = list(dict.fromkeys(name for kind, given, _ in details["kinds"] for name in (kind, given)))
    counts = {(kind, given): count for kind, given, count in details["kinds"]}
    parts = []
    if len(names) > 1:
        totals = {name: max(1, sum(counts.get((name, given), 0) for given in names)) for name in names}
        rows = [
            [name, *(shaded(counts.get((name, given), 0), counts.get((name, given), 0) / totals[name]) for given in names)]
            for name in names
        ]
        parts += [
            tag("h3", "Kinds of answers"),
            note(
                "A line the kind of the right answer, a column that of the prediction. A question is taken to have no "
                f"answer where that scores higher by more than {number(details['threshold'])}."
            ),  # fmt: skip
            table(["", *names], rows),
        ]
    parts.append(tag("h3", "Wrong answers, the surest first"))
    if not details["examples"]:
        return join([*parts, note("None.")])
    listed = []
    for one in details["examples"]:
        before, answer, after = one["passage"]
        passage = tag("td", before, tag("mark", answer) if answer else None, after, class_="text")
        right = " / ".join(text or "(no answer)" for text in one["answers"])
        predicted = one["predicted"] or "(no answer)"
        listed.append(
            [
                tag("td", one["line"], class_="n"),
                one["question"],
                right,
                predicted,
                tag("td", percent(one["probability"]), class_="n"),
                one["f1"],
                passage,
            ]
        )
    head = ["line", "question", "right", "predicted", "probability", "F1", "passage at the right answer"]
    note_of_share = "The probability is the share in the softmax over all candidates of the question."
    return join([*parts, note(note_of_share), *examples_table(head, listed, texts=(1, 2, 3))])
