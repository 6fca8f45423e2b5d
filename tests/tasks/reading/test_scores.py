"""EM and F1 against the published definitions written out again, and against cases worked out by hand."""

import collections
import re
import string

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.tokenize import word_tokenize

from bertorch.tasks.reading.rows import Question
from bertorch.tasks.reading.scores import (
    SCORERS,
    best_null_threshold,
    cjrc_scores,
    cmrc_scores,
    reading_metrics,
    scorer_for,
    squad_scores,
)

# The official scorers, written from their definitions, step by step as these are.


def official_squad(prediction: str, answers: list[str]) -> tuple[float, float]:
    """evaluate-v2.0.py: the tokens of lower case, no punctuation, no articles; reference answers without any are dropped."""

    def normalize(text):
        text = text.lower()
        text = "".join(sign for sign in text if sign not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def f1(gold, found):
        gold, found = normalize(gold).split(), normalize(found).split()
        same = sum((collections.Counter(gold) & collections.Counter(found)).values())
        if not gold or not found:
            return float(gold == found)
        if not same:
            return 0.0
        precision, recall = same / len(found), same / len(gold)
        return 2 * precision * recall / (precision + recall)

    gold = [answer for answer in answers if normalize(answer)] or [""]
    return max(float(normalize(one) == normalize(prediction)) for one in gold), max(f1(one, prediction) for one in gold)


_LEFT_OUT = ["-", ":", "_", "*", "^", "/", "\\", "~", "`", "+", "=", "，", "。", "：", "？", "！", "“", "”", "；", "’", "《",
             "》", "……", "·", "、", "「", "」", "（", "）", "－", "～", "『", "』"]  # fmt: skip


def official_cmrc(prediction: str, answers: list[str]) -> tuple[float, float]:
    """cmrc2018_evaluate.py, but for the division of English into sentences before its words are split."""

    def segments(text):
        found, rest = [], ""
        for sign in text.lower().strip():
            if sign in _LEFT_OUT:
                continue
            if "\u4e00" <= sign <= "\u9fa5":
                found += [*word_tokenize(rest, preserve_line=True), sign] if rest else [sign]
                rest = ""
            else:
                rest += sign
        return found + (word_tokenize(rest, preserve_line=True) if rest else [])

    def shared_run(one, other):
        runs = {tuple(one[start:end]) for start in range(len(one)) for end in range(start + 1, len(one) + 1)}
        every = {tuple(other[start:end]) for start in range(len(other)) for end in range(start + 1, len(other) + 1)}
        return max((len(run) for run in runs & every), default=0)

    def f1(answer):
        gold, found = segments(answer), segments(prediction)
        run = shared_run(gold, found)
        if not run:
            return 0.0
        precision, recall = run / len(found), run / len(gold)
        return 2 * precision * recall / (precision + recall)

    def plain(text):
        return "".join(sign for sign in text.lower().strip() if sign not in _LEFT_OUT)

    return max(float(plain(one) == plain(prediction)) for one in answers), max(map(f1, answers))


def official_cjrc(prediction: str, answers: list[str]) -> tuple[float, float]:
    """The scorer of CJRC, after CoQA's: each of several answers is left out in turn."""

    def signs(text):
        return [sign for sign in text.lower() if sign.isdigit() or sign.isalpha()]

    def f1(gold):
        gold, found = signs(gold), signs(prediction)
        if not gold or not found:
            return float(gold == found)
        same = sum(min(gold.count(sign), found.count(sign)) for sign in set(gold))
        return 2 * same / (len(gold) + len(found))

    sums = [0.0, 0.0]
    for left_out in range(len(answers)):
        others = [one for place, one in enumerate(answers) if place != left_out] or answers
        sums[0] += max(float(signs(one) == signs(prediction)) for one in others)
        sums[1] += max(f1(one) for one in others)
    return sums[0] / len(answers), sums[1] / len(answers)


OFFICIAL = {"squad": official_squad, "cmrc": official_cmrc, "cjrc": official_cjrc}
ENGLISH = ["the", "a", "An", "cat", "Cat", "theme", "2,000", "U.S.", "don't", "-", "well-known", "’", "", "\t", "été", "$5"]
CHINESE = [
    "北京",
    "京",
    "，",
    "。",
    "天",
    "Windows",
    "xp",
    "3.5",
    "-",
    "·",
    "…",
    "……",
    " ",
    "（",
    "中",
    "don't",
    "龥",
    "\u9fa6",
    '"',
    "A.B.",
]


def texts(words: list[str], joint: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(words), max_size=7).map(joint.join)


# SQuAD


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The cat.", ["cat"], 1, 1),
        ("a CAT", ["the cat!", "dog"], 1, 1),
        ("theme", ["the me"], 0, 0),
        ("well-known", ["well known"], 0, 0),  # one word: wellknown
        ("U.S.", ["US"], 1, 1),
        ("black cat", ["the cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("old black cat", ["cat sat", "black cat sat down"], 0, 4 / 7),
        ("", [""], 1, 1),
        ("cat", [""], 0, 0),
        ("", ["cat"], 0, 0),
        ("the", [""], 1, 1),  # nothing is left of it
        ("", ["the", "cat"], 0, 0),  # an answer of which nothing is left does not count beside another
        ("", ["the", "..."], 1, 1),
        ("北京。", ["北京"], 0, 0),  # punctuation is ASCII's
        ("  new \n york ", ["new york"], 1, 1),
    ],
)
def test_squad_by_hand(prediction, answers, exact, f1):
    assert squad_scores(prediction, answers) == pytest.approx((exact, f1))


@given(texts(ENGLISH, " "), st.lists(texts(ENGLISH, " "), min_size=1, max_size=4))
@example("the", ["a", "an"])
def test_squad_is_the_official_scorer(prediction, answers):
    assert squad_scores(prediction, answers) == pytest.approx(official_squad(prediction, answers))


# CMRC2018


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("北京", ["北京"], 1, 1),
        ("《北京》。", ["北京"], 1, 1),
        ("北京，", ["北-京"], 1, 1),
        ("北京市", ["北京"], 0, 4 / 5),
        ("北东京", ["北京"], 0, 2 / 5),  # a subsequence of two, a run of one
        ("上海", ["北京", "上海市"], 0, 4 / 5),
        ("上海", ["上海市", "上海"], 1, 1),
        ("天津", ["北京"], 0, 0),
        ("WINDOWS系统", ["windows 系统"], 0, 1),  # the blank separates the texts and not their segments
        ("Windows XP系统", ["windows系统"], 0, 4 / 7),  # windows xp 系 统, of which 系 统
        ("1998年", ["1998"], 0, 2 / 3),
        ("new york city", ["new york"], 0, 4 / 5),
        ("a-b", ["ab"], 1, 1),
        ("", ["北京"], 0, 0),
        ("北京", [""], 0, 0),
        ("", [""], 1, 1),
        ("，", ["。"], 1, 0),  # nothing is left of both: equal texts, no run
    ],
)
def test_cmrc_by_hand(prediction, answers, exact, f1):
    assert cmrc_scores(prediction, answers) == pytest.approx((exact, f1))


@given(texts(CHINESE, ""), st.lists(texts(CHINESE, ""), min_size=1, max_size=3))
@example("北京北", ["京北京"])
def test_cmrc_is_the_official_scorer(prediction, answers):
    expected = (1, 1) if not prediction and "" in answers else official_cmrc(prediction, answers)
    assert cmrc_scores(prediction, answers) == pytest.approx(expected)


# CJRC


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("张三", ["张三"], 1, 1),
        ("张三。", ["张三", "李四"], 1 / 2, 1 / 2),  # without 张三 it is wrong
        ("张三", ["张三", "张三", "李四"], 1, 1),
        ("张三", ["张三", "李四", "王五"], 2 / 3, 2 / 3),
        ("张三和李四", ["张三", "李四", "张三李四"], 0, (8 / 9 + 8 / 9 + 4 / 7) / 3),
        ("YES", ["YES", "YES", "NO"], 1, 1),
        ("yes", ["NO", "NO", "YES"], 2 / 3, 2 / 3),
        ("", ["", "", ""], 1, 1),
        ("", ["", "", "张三"], 1, 1),
        ("张三", ["", "", ""], 0, 0),
        ("3,000元", ["3000元"], 1, 1),
        ("三张", ["张三"], 0, 1),  # a bag of signs
        ("!", [""], 1, 1),
    ],
)
def test_cjrc_by_hand(prediction, answers, exact, f1):
    assert cjrc_scores(prediction, answers) == pytest.approx((exact, f1))


@given(texts(CHINESE, ""), st.lists(texts(CHINESE, ""), min_size=1, max_size=4))
def test_cjrc_is_the_official_scorer(prediction, answers):
    assert cjrc_scores(prediction, answers) == pytest.approx(official_cjrc(prediction, answers))


def test_which_scorer():
    english, chinese = "The treaty was signed in 北京.", "条约在北京签订，signed。"
    for context, kinds, expected in (
        (english, ["span", "none"], "squad"), (chinese, ["span", "none"], "cmrc"), (chinese, ["span", "yes"], "cjrc"),
        (english, ["no"], "cjrc"),
    ):  # fmt: skip
        assert scorer_for([Question(1, "1", "q", context, ["x"], kind) for kind in kinds]) == expected


# Metrics of a set


@pytest.mark.parametrize("scorer", SCORERS)
def test_metrics_of_each_kind(scorer):
    """By the definitions above; those of the whole set are the means of the parts, weighted."""
    rows = [  # prediction, answers, kind
        ("cat", ["the cat", "cat"], "span"), ("the black cat", ["cat"], "span"), ("", ["dog"], "span"),
        ("YES", ["YES", "YES"], "yes"), ("NO", ["YES"], "yes"), ("cat", ["NO"], "no"), ("NO", ["NO"], "no"),
        ("", [""], "none"), ("cat", [""], "none"), ("", [""], "none"),
    ]  # fmt: skip
    predictions, answers, kinds = zip(*rows, strict=True)
    scores = [
        (1, 1) if not prediction and known == [""] else OFFICIAL[scorer](prediction, known) for prediction, known, _ in rows
    ]

    def mean(part, *chosen):
        return np.mean([score[part] for score, kind in zip(scores, kinds, strict=True) if kind in chosen])

    every, answerable = ("span", "yes", "no", "none"), ("span", "yes", "no")
    expected = {
        "em": mean(0, *every), "f1": mean(1, *every), "average": (mean(0, *every) + mean(1, *every)) / 2,
        "has_answer_em": mean(0, *answerable), "has_answer_f1": mean(1, *answerable),
        "no_answer_em": mean(0, "none"), "no_answer_f1": mean(1, "none"), "yes_em": mean(0, "yes"), "no_em": mean(0, "no"),
    }  # fmt: skip
    found = reading_metrics(scorer, predictions, answers, kinds)
    assert found == pytest.approx(expected)
    for part in ("em", "f1"):
        assert found[part] == pytest.approx((7 * found[f"has_answer_{part}"] + 3 * found[f"no_answer_{part}"]) / 10)


@pytest.mark.parametrize(
    ("kinds", "parts"),
    [
        (["span", "span"], set()),
        (["none", "none"], set()),
        (["yes", "yes"], set()),
        (["span", "none"], {"has_answer_em", "has_answer_f1", "no_answer_em", "no_answer_f1"}),
        (["yes", "no"], {"yes_em", "no_em"}),
        (["yes", "none"], {"has_answer_em", "has_answer_f1", "no_answer_em", "no_answer_f1", "yes_em"}),
    ],
)
def test_parts_where_there_are_several(kinds, parts):
    found = reading_metrics("squad", ["a cat", ""], [["cat"], ["x"]], kinds)
    assert set(found) == {"em", "f1", "average"} | parts
    assert all(isinstance(value, float) for value in found.values())


# Threshold


def score_at(threshold, differences, scores_with, scores_without):
    """What a threshold scores: a question is not answered where its difference is above it."""
    rows = zip(differences, scores_with, scores_without, strict=True)
    return np.mean([without if difference > threshold else known for difference, known, without in rows])


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(-3, 3), st.integers(-1000, 1000).map(lambda number: number / 7)),  # ties, and others
            st.sampled_from([0.0, 0.25, 0.5, 1.0]),
            st.sampled_from([0.0, 1.0]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_threshold_is_better(rows):
    differences, known, without = zip(*rows, strict=True)
    threshold, score = best_null_threshold(differences, known, without)
    cuts = sorted(set(differences))
    every = [cuts[0] - 1, *cuts, cuts[-1] + 1]
    assert score == pytest.approx(max(score_at(one, differences, known, without) for one in every))
    assert score_at(threshold, differences, known, without) == pytest.approx(score)


def test_thresholds_by_hand():
    answered, silent = (1.0, 0.0), (0.0, 1.0)

    def best(*rows):
        differences, scores = zip(*rows, strict=True)
        return best_null_threshold(differences, *zip(*scores, strict=True))

    threshold, score = best((-4, answered), (-2, answered), (3, silent), (5, silent))
    assert -2 <= threshold < 3 and score == 1
    threshold, score = best((-4, silent), (2, silent))
    assert threshold < -4 and score == 1
    threshold, score = best((-4, answered), (2, answered))
    assert threshold >= 2 and score == 1
    # equal differences are decided together
    threshold, score = best((1, answered), (1, answered), (1, silent))
    assert threshold >= 1 and score == pytest.approx(2 / 3)


def test_a_question_that_cannot_be_answered():
    """An empty passage: its difference is infinite."""
    threshold, score = best_null_threshold([-1.0, np.inf], [1.0, 0.0], [0.0, 1.0])
    assert score == 1 and threshold >= -1
    assert best_null_threshold([np.inf], [0.0], [1.0])[1] == 1


def test_a_threshold_between_neighbouring_numbers():
    lower = np.nextafter(1.0, 2.0)
    rows = ([lower, np.nextafter(lower, 2.0)], [1.0, 0.0], [0.0, 1.0])
    threshold, score = best_null_threshold(*rows)
    assert score == 1 and score_at(threshold, *rows) == score
