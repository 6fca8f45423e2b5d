"""How explanations are written: nothing of a text is lost, and nothing of it is taken for markup."""

import argparse
import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from bertorch.data.rows import Row
from bertorch.tasks.classification.attribution import Explanation
from bertorch.tasks.classification.explanations import explanation_lines, explanation_output

LABELS = ["bad", "<i>good</i>"]
HOSTILE = "<script>alert(\"1\")</script> &amp; \x1b[31m\t'x'\u2028y"


def explanation(*texts, left_out=None):
    """Every third character of each text is attributed, in turn for and against."""
    spans = [[(place, place + 1, 0.5 - place % 2) for place in range(0, len(text), 3)] for text in texts]
    return Explanation(np.array([0.25, 0.75]), 1.5, -0.5, 0.012, spans, left_out or [None] * len(texts))


def namespace(**flags):
    defaults = {
        "output_file": None,
        "output_format": None,
        "probabilities": False,
        "top_k": 2,
        "header": False,
        "evaluate": False,
    }
    return argparse.Namespace(**{**defaults, **flags})


def lines(rows, explanations, **flags):
    return explanation_lines(namespace(**flags), rows, LABELS, explanations, max(len(row.texts) for row in rows))


class Page(HTMLParser):
    """The tags of a page, and what stands in its paragraphs."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.paragraphs = [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "p":
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "p" in self.open:
            self.paragraphs[-1] += data


def test_a_page_escapes_what_is_hostile_and_shows_all_of_it(tmp_path):
    sections = lines([Row(7, (HOSTILE,), None)], [explanation(HOSTILE)], output_file=str(tmp_path / "x.HTML"))
    output = explanation_output(namespace(output_file=str(tmp_path / "x.HTML")), LABELS, 1)
    output.write(sections, 1)
    output.finish()
    page = (tmp_path / "x.HTML").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and "viewport" in page and "http" not in page and page.endswith("</html>\n")
    (section,) = sections
    assert section in page
    reader = Page(section)
    assert reader.open == [] and reader.tags == {"section", "h2", "p", "span", "small"}
    assert "<i>" not in section and "<script" not in section and "\x1b" not in section
    assert reader.paragraphs == [HOSTILE.replace("\x1b", " ").replace("\t", " ").replace("\u2028", " ")]
    assert "line 7" in section and "gap 1.2%" in section


def test_a_page_of_pairs_cut_texts_and_rows_that_cannot_be_read():
    rows = [Row(1, ("abcdef", "gh"), None), Row(2, (), None)]
    pair, lost = lines(rows, [explanation("abcdef", "gh", left_out=[(4, 6), None]), None], output_file="x.html")
    assert pair.count("<p") == 2 and '<span class="cut">ef</span>' in pair
    assert 'class="f" style="--s:0.60" title="+0.5000">a</span>' in pair and 'class="a"' in pair
    assert "line 2" in lost


def test_json_lines_have_every_span():
    rows = [Row(1, ("ab<cd", "好"), None), Row(2, (), None)]
    found = [json.loads(line) for line in lines(rows, [explanation("ab<cd", "好"), None], output_file="x.jsonl")]
    assert found[1] == {"label": None}
    assert found[0] == {
        "label": "<i>good</i>", "probability": 0.75, "logit": 1.5, "baseline_logit": -0.5, "gap": 0.012,
        "texts": [
            {"text": "ab<cd", "left_out": None, "attributions": [[0, 1, "a", 0.5], [3, 4, "c", -0.5]]},
            {"text": "好", "left_out": None, "attributions": [[0, 1, "好", 0.5]]},
        ],
    }  # fmt: skip
    (line,) = lines(rows[:1], [explanation("a", "b")], output_format="jsonl", probabilities=True)
    assert json.loads(line)["probabilities"] == {"bad": 0.25, "<i>good</i>": 0.75}


def test_cells_hold_the_strongest_spans_and_no_line_or_tab_of_a_text():
    rows = [Row(1, ("a\tb\nc", "好坏"), None), Row(2, (), None), Row(3, ("", ""), None)]
    one = Explanation(np.array([0.25, 0.75]), 1.0, 0.0, 0.0, [[(0, 1, 0.1), (2, 3, -0.6), (4, 5, 0.2)], [(0, 1, 0.1)]],
                      [None, (1, 2)])  # fmt: skip
    empty = Explanation(np.array([0.75, 0.25]), 1.0, 1.0, 0.0, [[], []], [None, None])
    found = lines(rows, [one, None, empty], probabilities=True)
    assert [line.rstrip("\n").split("\t") for line in found] == [
        ["<i>good</i>", "0.750000", "0.250000", "0.750000", "a b c", "b:-0.60 c:+0.20", "好[…]", "好:+0.10"],
        [""] * 8,
        ["bad", "0.750000", "0.750000", "0.250000", "", "", "", ""],
    ]
    assert all(len(line.splitlines()) == 1 for line in found)


def test_a_terminal_has_colours_and_no_signs_that_steer_it(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    rows = [Row(1, ("ab\x1b[2Jcdef",), None), Row(2, (), None)]
    one = Explanation(np.array([0.25, 0.75]), 1.0, 0.0, 0.0, [[(0, 1, 0.9), (1, 2, -0.3), (6, 7, 0.001)]], [(7, 10)])
    found = lines(rows, [one, None])
    assert found == [
        "\033[1m<i>good</i>\033[0m 0.75  \033[30;48;5;75ma\033[0m\033[30;48;5;216mb\033[0m [2Jc\033[2m[…]\033[0m\n", "\n"
    ]  # fmt: skip
    assert "\033" not in lines(rows, [one, None], output_format="tsv")[0]


@pytest.mark.parametrize("name", ["x.tsv", "x.txt", None])
def test_a_file_and_a_pipe_get_cells(name):
    (line,) = lines([Row(1, ("abc",), None)], [explanation("abc")], output_file=name)
    assert line == "<i>good</i>\t0.750000\tabc\ta:+1.00\n"
