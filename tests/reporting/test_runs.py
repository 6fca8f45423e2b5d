"""Directories of runs, whole and broken, as reports and tables show them."""

import html
import json
import re
import shutil
import tempfile

import pytest

from bertorch.errors import UserError
from bertorch.reporting.charts import _tick, averaged, curves, nice_ticks, ticks_within
from bertorch.reporting.comparison import as_markdown, as_text, as_tsv, comparison, sorted_by
from bertorch.reporting.page import Html, chosen_rows, number, page, table, tag
from bertorch.reporting.report import bounds_of, duration, report_finished, write_report
from bertorch.reporting.runs import differing_flags, find_runs, read_run
from bertorch.tasks.entities.report import KINDS
from tests.processes import finished

HOSTILE = "<script>alert(1)</script>\"'&<img src=http://x.y/z onerror=alert(1)>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def write_run(directory, flags=None, accuracies=(0.5, 0.75, 0.7), test=None, evaluation=None, labels=("bad", "good")):
    """A run with an evaluation every 10 steps; the best model is kept."""
    directory.mkdir(parents=True)
    lines = [
        {"kind": "train", "global_step": step, "epoch": 1, "batch": step, "loss": 1 / step, "learning_rate": 0.1,
         "steps_per_second": speed, "peak_memory_mb": 100.0 + step}
        for step, speed in ((5, 1.0), (10, 4.0), (15, 2.0))
    ]  # fmt: skip
    lines += [
        {"kind": "eval", "global_step": 10 * place, "loss": 2.0 - accuracy, "accuracy": accuracy}
        for place, accuracy in enumerate(accuracies, 1)
    ]
    lines += [{"kind": "test", "global_step": 30, "accuracy": test}] if test is not None else []
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = {
        "metric": "accuracy",
        "seed": 1,
        "train_data_file": "train.tsv",
        "saved_dir": str(directory),
        **(flags or {}),
    }
    description = {"task": "classification", "labels": list(labels), "global_step": 20, "arguments": arguments}
    (directory / "bertorch.json").write_text(json.dumps(description))
    data = {
        "train": {"figures": {"rows": 1234, "tokens_p50": 7, "unknown_share": 0.125}, "counts": {labels[0]: 1, labels[1]: 3}}
    }
    (directory / "data_report.json").write_text(json.dumps(data))
    if evaluation:
        (directory / "evaluation.json").write_text(json.dumps({"global_step": 20, "metrics": {}, **evaluation}))
    return directory


def classified(text="好"):
    empty = {"count": 0, "confidence": None, "accuracy": None}
    example = {"line": 7, "label": 1, "predicted": 0, "confidence": 0.99, "label_probability": 0.01, "texts": [text, text]}
    return {
        "classification": {
            "right": [3, 1], "labelled": [4, 2], "predicted": [4, 2], "confusion": [[3, 1], [1, 1]], "wrong": 2,
            "calibration": [*[empty] * 9, {"count": 6, "confidence": 0.95, "accuracy": 2 / 3}], "examples": [example],
            "expected_calibration_error": 0.2833,
        }
    }  # fmt: skip


def report(*directories, output_file):
    write_report(directories, output_file)
    text = output_file.read_text(encoding="utf-8")
    assert_self_contained(text)
    return text


def assert_self_contained(text):
    """Nothing that loads and nothing that runs, and a browser is told so."""
    assert "Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    tags = set(re.findall(r"<([a-z0-9]+)", text))
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "image", "use", "foreignobject"}
    within = " ".join(re.findall(r"<[^>]*>", text))
    assert not re.search(r"\b(src|href|srcset|on[a-z]+)\s*=", within) and "url(" not in text and "@import" not in text


class TestPage:
    def test_only_html_is_not_escaped(self):
        assert tag("b", "<i>", Html("<br>"), 3, None, title='"&') == '<b title="&quot;&amp;">&lt;i&gt;<br>3</b>'
        assert "<script>" not in page(
            HOSTILE, HOSTILE, table([HOSTILE], [[HOSTILE]]), curves(HOSTILE, [(HOSTILE, [(1, 2)])])
        )

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            (None, "–"),
            (1234567, "1,234,567"),
            (0.123456, "0.1235"),
            (5e-5, "5e-05"),
            (12345.6, "12,346"),
            (float("nan"), "nan"),
        ],
    )
    def test_numbers(self, value, written):
        assert number(value) == written

    def test_ticks(self):
        assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
        assert nice_ticks(0.61, 0.79) == [0.6, 0.65, 0.7, 0.75, 0.8]
        assert nice_ticks(3, 3)[0] <= 1.5 and nice_ticks(0, 0)[-1] >= 0.5
        assert nice_ticks(-1, 1e-9)[0] == -1

    @pytest.mark.parametrize(
        ("values", "bounds", "ends"),
        [
            ([0.93], (0, 1), (0.4, 1)), ([0.93], None, (0.4, 1.4)), ([0.02, 0.97], (0, 1), (0, 1)),
            ([1, 1], (0, 1), (0.5, 1)),
            ([-0.93], (-1, 1), (-1, -0.4)), ([-0.1, 0.99], (-1, 1), (-0.5, 1)), ([0.0], (0, 1), (0, 0.5)),
            ([0.5, 93.0], (0, 1), (0, 100)), ([-1, 1], (-1, 1), (-1, 1)),
        ],
    )  # fmt: skip
    def test_axes_end_at_the_bound_of_a_figure(self, values, bounds, ends):
        """Unless the values do not."""
        ticks = ticks_within(min(values), max(values), bounds)
        assert (ticks[0], ticks[-1]) == ends

    @pytest.mark.parametrize(
        ("name", "bounds"),
        [("accuracy", (0, 1)), ("conlleval_f1", (0, 1)), ("has_answer_em", (0, 1)), ("recall@10", (0, 1)), ("mrr", (0, 1)),
         ("spearman", (-1, 1)), ("masked_lm_accuracy", (0, 1)), ("loss", None), ("f1_threshold", None), ("perplexity", None),
         ("learning_rate", None)],
    )  # fmt: skip
    def test_bounds_of_figures(self, name, bounds):
        assert bounds_of(name) == bounds
        drawn = curves(name, [("", [(1, 0.93)])], bounds=bounds_of(name))
        assert (">1.4<" in drawn) is (bounds is None)

    @pytest.mark.parametrize(
        ("value", "written"),
        [(2.5e-5, "2.5e-5"), (0.000175, "1.75e-4"), (0.25, "0.25"), (-3e-7, "-3e-7"), (0, "0"), (123_456, "123.5k"),
         (2_000_000, "2M"), (1500, "1500")],
    )  # fmt: skip
    def test_numbers_of_axes_are_short(self, value, written):
        drawn = curves("a", [("", [(1, value), (2, value)])])
        assert f">{written}<" in drawn if value == 0 else _tick(value) == written

    @pytest.mark.parametrize(
        ("seconds", "written"),
        [
            (0.4, "0 s"),
            (59.4, "59 s"),
            (59.6, "1 min 0 s"),
            (200, "3 min 20 s"),
            (3600, "1 h 0 min"),
            (90_059, "25 h 0 min"),
        ],
    )
    def test_durations(self, seconds, written):
        assert duration(seconds) == written

    def test_long_tables_show_the_first_rows_of_each_order_and_fold_the_rest(self):
        rows = [[f"row{place}", place] for place in range(119)]
        orders = {"worst": [(place * 7) % 119 for place in range(119)], "largest": [-place for place in range(119)]}
        worst, largest = sorted(range(119), key=lambda place: (place * 7) % 119)[:10], list(range(118, 108, -1))
        parts = chosen_rows(["a", "b"], rows, orders, ["mean", 59])
        shown = [re.findall(r"row(\d+)<", part) for part in parts]
        assert [list(map(int, places)) for places in shown if places] == [worst, largest, list(range(119))]
        assert parts[-1].startswith("<details><summary>all 119</summary>") and "The 10 worst of 119:" in parts[0]
        assert [part.count(">mean<") for part in parts] == [0, 1, 0, 1, 1]
        (whole,) = chosen_rows(["a", "b"], rows[:20], {}, ["mean", 59])
        assert "<details" not in whole and len(re.findall("row", whole)) == 20

    def test_long_curves_are_averaged(self):
        assert averaged([(1, 1), (2, 3), (3, 5)], 2) == [(1.5, 2), (3, 5)]
        assert averaged([(1, 1), (2, 3)], 2) == [(1, 1), (2, 3)]
        drawn = curves("loss", [("a", [(step, 1.0) for step in range(100_000)])])
        assert len(drawn) < 20_000 and "averaged" in drawn

    def test_curves_without_numbers(self):
        assert curves("loss", [("a", []), ("b", [(1, float("nan")), (2, float("inf"))])]) is None
        assert "circle" in curves("loss", [("a", [(1, 0.5), (2, float("nan"))])])


class TestFinding:
    def test_at_any_depth_and_seeds_instead_of_their_parent(self, tmp_path):
        for name in ("a", "deep/er/b", "s/seed-1", "s/seed-2", "s/training_state/x"):
            write_run(tmp_path / name)
        shutil.copy(tmp_path / "s/seed-1/metrics.jsonl", tmp_path / "s")
        (tmp_path / "s/seeds.json").write_text("{}")
        assert [run.name for run in find_runs([tmp_path])] == ["a", "deep/er/b", "s/seed-1", "s/seed-2"]
        assert [run.name for run in find_runs([tmp_path / "a", tmp_path / "a", tmp_path / "deep"])] == ["a", "deep/er/b"]
        shutil.rmtree(tmp_path / "s/seed-1"), shutil.rmtree(tmp_path / "s/seed-2")
        assert [run.name for run in find_runs([tmp_path / "s"])] == ["s"]

    @pytest.mark.parametrize(("name", "said"), [("absent", "no such directory"), ("empty", "no run here or below")])
    def test_mistakes(self, tmp_path, name, said):
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match=said):
            find_runs([tmp_path / name])

    def test_figures(self, tmp_path):
        run = read_run(write_run(tmp_path / "a", test=0.6))
        assert (run.best["accuracy"], run.best["global_step"], run.last["accuracy"], run.test["accuracy"]) == (
            0.75,
            20,
            0.7,
            0.6,
        )
        assert (run.steps, run.steps_per_second, run.peak_memory_mb) == (30, 2.0, 115.0)
        assert run.missing == ["evaluation.json is not there: what the predictions were is left out"]

    def test_flags(self, tmp_path):
        runs = [read_run(write_run(tmp_path / name, {"seed": seed, "rate": 1})) for name, seed in (("a", 1), ("b", 2))]
        assert differing_flags(runs) == ["seed"]
        (tmp_path / "b" / "bertorch.json").unlink()
        assert differing_flags([runs[0], read_run(tmp_path / "b")]) == []


class TestReport:
    def test_whole(self, tmp_path):
        text = report(write_run(tmp_path / "a", test=0.6, evaluation=classified()), output_file=tmp_path / "report.html")
        for part in (
            "<h2>Curves",
            "best accuracy, step 20",
            "<h2>Classes",
            "0.2833",
            "好 ⏐ 好",
            "12.5 %",
            "1,234",
            "--metric",
        ):
            assert part in text
        assert "left out" not in text and "Left out" not in text and text.count("<svg") == 6

    def test_many_labels(self, tmp_path):
        """The worst and the most frequent first, all of them and the counts folded away."""
        names = [f"label{place:03}" for place in range(119)]
        many = classified()["classification"]
        many["labelled"] = [500 - place for place in range(118)] + [0]
        many["right"] = [0 if place in (50, 60) else 1 for place in range(118)] + [0]
        many["predicted"] = [100 + place for place in range(119)]
        del many["confusion"]
        many["confused"] = [[place, place + 1, 90 - place] for place in range(50)]
        write_run(tmp_path / "a", evaluation={"classification": many}, labels=names)
        data = {"train": {"figures": {"rows": 9}, "counts": {name: place for place, name in enumerate(names)}}}
        (tmp_path / "a" / "data_report.json").write_text(json.dumps(data))
        text = report(tmp_path / "a", output_file=tmp_path / "report.html")
        unfolded = re.sub("<details>.*?</details>", "", text)
        worst, frequent = (part.split("</table>")[0] for part in re.split("The 10 [a-z ]*[F1]* of 119:", unfolded)[1:3])
        assert re.findall(r"label(\d+)", worst)[:2] == ["050", "060"] and "label118" not in worst  # which has no row
        assert re.findall(r"label(\d+)", frequent) == [f"{place:03}" for place in range(10)]
        assert worst.count("macro mean") == frequent.count("macro mean") == 1
        assert len(re.findall(r"<tr><td>label", unfolded)) == 10 + 10 + 15 + 10 + 10
        assert text.count("<summary>all 119</summary>") == 2 and "<summary>35 more</summary>" in text

    @pytest.mark.parametrize("labels", [12, 13])
    def test_a_wide_confusion_matrix_is_folded_below_the_commonest_mistakes(self, tmp_path, labels):
        names = [f"label{place:02}" for place in range(labels)]
        evaluation = classified()
        confusion = [[9 if a == b else a * (b == 0) for b in range(labels)] for a in range(labels)]
        counts = {"right": [9] * labels, "labelled": [9] * labels, "predicted": [9] * labels, "confusion": confusion}
        evaluation["classification"] |= counts
        text = report(write_run(tmp_path / "a", evaluation=evaluation, labels=names), output_file=tmp_path / "report.html")
        assert ("<details><summary>confusion matrix" in text) is (labels > 12)
        if labels > 12:
            listed = text.split("Labels that are confused most")[1].split("</table>")[0]
            found = re.findall(r"<td>label(\d\d)</td><td>label(\d\d)</td><td class=\"n\">(\d+)", listed)
            assert [tuple(map(int, row)) for row in found] == [(place, 0, place) for place in range(12, 0, -1)]

    def test_command_date_and_duration(self, tmp_path):
        """Of the saved model's description or the newest state; the duration is that of the last line."""
        run = write_run(tmp_path / "a")
        description = json.loads((run / "bertorch.json").read_text())
        kept = {"command": f"run_x.py --train_data_file 'a b' {HOSTILE}", "started": "2031-02-03 04:05:06+08:00"}
        (run / "bertorch.json").write_text(json.dumps({**description, **kept}))
        with open(run / "metrics.jsonl", "a") as handle:
            handle.write(json.dumps({"kind": "train", "global_step": 30, "loss": 1.0, "seconds": 200.4}) + "\n")
        text = report(run, output_file=tmp_path / "report.html")
        assert "started 2031-02-03 04:05:06+08:00, took 3 min 20 s" in text
        assert '<pre>run_x.py <span class="flag">--train_data_file</span> &#x27;a b&#x27; &lt;script&gt;' in text
        assert "<figcaption>seconds" not in text
        state = run / "training_state" / "step-00000030"
        state.mkdir(parents=True)
        (state / "state.json").write_text(json.dumps({**kept, "finished": True, "global_step": 30, "seconds": 3725.0}))
        (run / "bertorch.json").unlink()
        text = report(run, output_file=tmp_path / "report.html")
        assert "started 2031-02-03 04:05:06+08:00, took 1 h 2 min" in text and "<pre>run_x.py" in text
        write_run(tmp_path / "b")
        text = report(run, tmp_path / "b", output_file=tmp_path / "both.html")
        row = text.split("<h2>Runs")[1].split("</table>")[0]
        assert all(part in row for part in ("<td>a</td>", "2031-02-03", "1 h 2 min", "run_x.py --train_data_file"))

    @pytest.mark.parametrize("value", [5, [], {}, None, True, -1.0, 1e300, "x" * 9])
    def test_odd_commands_dates_and_durations(self, tmp_path, value):
        run = write_run(tmp_path / "a")
        description = json.loads((run / "bertorch.json").read_text())
        (run / "bertorch.json").write_text(json.dumps({**description, "command": value, "started": value}))
        with open(run / "metrics.jsonl", "a") as handle:
            handle.write(json.dumps({"kind": "train", "global_step": 30, "loss": 1.0, "seconds": value}) + "\n")
        text = report(run, output_file=tmp_path / "report.html")
        assert ("started" in text) is ("<pre>" in text) is isinstance(value, str)
        assert re.findall(r"took (\d+ s)", text) == (["5 s"] if value == 5 else [])

    def test_hostile_texts_paths_labels_and_flags(self, tmp_path):
        name = HOSTILE.replace("/", "∕")
        evaluation = classified(HOSTILE)
        write_run(tmp_path / name / "one", {"train_data_file": HOSTILE}, evaluation=evaluation, labels=(HOSTILE, "b"))
        write_run(tmp_path / name / "two")
        text = report(tmp_path / name / "one", output_file=tmp_path / "one.html")
        assert text.count("&lt;script&gt;alert(1)") > 5
        assert "&lt;script&gt;alert(1)" in report(tmp_path / name, output_file=tmp_path / "two.html")

    @pytest.mark.parametrize("kept", ["metrics.jsonl", "bertorch.json"])
    def test_what_is_missing_is_said(self, tmp_path, kept):
        write_run(tmp_path / "a", evaluation=classified())
        for path in (tmp_path / "a").iterdir():
            if path.name != kept:
                path.unlink()
        text = report(tmp_path / "a", output_file=tmp_path / "report.html")
        assert "data_report.json is not there: the data report is left out" in text
        other = {"metrics.jsonl": "bertorch.json", "bertorch.json": "metrics.jsonl"}[kept]
        assert f"{other} is not there" in text and ("<svg" in text) is (kept == "metrics.jsonl")

    def test_a_killed_run(self, tmp_path):
        """Killed before the first save: a journal cut short, and nothing else but the data report."""
        run = write_run(tmp_path / "a")
        (run / "bertorch.json").unlink()
        lines = (run / "metrics.jsonl").read_text().splitlines()[:2]
        (run / "metrics.jsonl").write_text("\n".join([*lines, '{"kind": "train", "global', "[1]", '{"global_step": "x"}']))
        text = report(run, output_file=tmp_path / "report.html")
        assert "metrics.jsonl: 3 damaged lines are left out" in text and "There was no evaluation." in text
        assert "Not known: neither a model nor a training state was saved." in text

    def test_flags_and_end_of_a_run_that_can_go_on(self, tmp_path):
        run = write_run(tmp_path / "a")
        (run / "bertorch.json").unlink()
        state = run / "training_state" / "step-00000020"
        state.mkdir(parents=True)
        (state / "state.json").write_text(json.dumps({"finished": False, "global_step": 20, "arguments": {"seed": 17}}))
        text = report(run, output_file=tmp_path / "report.html")
        assert "--resume continues from step 20" in text and "--seed" in text

    @pytest.mark.parametrize(
        "content", ['{"global_step": 1, "classification": {"right": [1]}}', "{", "[]", '{"reading": 3}']
    )
    def test_damaged_details(self, tmp_path, content):
        run = write_run(tmp_path / "a")
        (run / "evaluation.json").write_text(content)
        text = report(run, output_file=tmp_path / "report.html")
        assert ("Left out: the files of this run are not as they should be" in text) is (
            "right" in content or "3" in content
        )

    def test_side_by_side(self, tmp_path):
        for place in range(10):
            write_run(tmp_path / f"run-{place}", {"seed": place}, accuracies=(0.1 * place,))
        text = report(tmp_path, output_file=tmp_path / "report.html")
        assert "<h1>10 runs" in text and "dashed" in text and text.count("--seed") == 1
        assert all(f"run-{place}" in text for place in range(10))

    def test_a_report_that_fails_is_a_warning(self, tmp_path, messages):
        report_finished([tmp_path / "absent"], tmp_path)
        assert len(messages) == 1 and "no report was written" in messages[0] and "\n" not in messages[0]


class TestComparison:
    @pytest.fixture
    def runs(self, tmp_path):
        write_run(tmp_path / "a|b", {"seed": 1, "files": ["x", "y"]}, test=0.6)
        write_run(tmp_path / "c", {"seed": 2, "files": ["x"]}, accuracies=(0.9, 0.8))
        write_run(tmp_path / "d", {"seed": 2, "files": ["x"]}, accuracies=())
        return find_runs([tmp_path])

    def test_columns_and_rows(self, runs):
        columns, rows = comparison(runs)
        assert columns == ["run", "--seed", "--files", "best accuracy", "best step", "eval loss", "eval accuracy",
                           "test accuracy", "steps", "steps/s", "peak MB"]  # fmt: skip
        assert rows[1] == {
            "run": "c", "--seed": 2, "--files": ["x"], "best accuracy": 0.9, "best step": 10, "eval loss": 1.2,
            "eval accuracy": 0.8, "steps": 20, "steps/s": 2.0, "peak MB": 115.0,
        }  # fmt: skip

    def test_tsv_has_every_digit(self, runs):
        lines = as_tsv(*comparison(runs)).split("\n")
        assert lines[0].split("\t")[:4] == ["run", "--seed", "--files", "best accuracy"]
        assert lines[1].split("\t") == ["a|b", "1", "x y", "0.75", "20", "1.3", "0.7", "0.6", "30", "2.0", "115.0"]
        assert lines[3].split("\t") == ["d", "2", "x", "", "", "", "", "", "15", "2.0", "115.0"]

    def test_markdown(self, runs):
        head, rule, first, *_ = as_markdown(*comparison(runs)).split("\n")
        assert head.startswith("| run | --seed |") and rule == "|" + " --- |" * 11
        assert first.startswith("| a\\|b | 1 | x y | 0.7500 | 20 |")

    def test_text_stands_in_columns(self, runs):
        runs[1].name = "中文"
        head, *lines = as_text(*comparison(runs)).split("\n")
        assert head.startswith("run   --seed")  # two characters, four places
        assert lines[1].startswith("中文       2") and lines[0].startswith("a|b        1")
        assert lines[2].split() == ["d", "2", "x", "-", "-", "-", "-", "-", "15", "2.0000", "115.0"]

    def test_sorting(self, runs):
        columns, rows = comparison(runs)
        assert [row["run"] for row in sorted_by(columns, rows, "accuracy")] == ["c", "a|b", "d"]
        assert [row["run"] for row in sorted_by(columns, rows, "loss")] == ["c", "a|b", "d"]
        assert [row["run"] for row in sorted_by(columns, rows, "steps")] == ["a|b", "c", "d"]
        with pytest.raises(UserError, match="--sort f1: no run has this metric; known are --seed"):
            sorted_by(columns, rows, "f1")


def measured(tmp_path, pages, width):
    """What a browser makes of each page: name of its frame, the width it takes and has, charts, height, clipped labels of
    charts, and the heads of tables that are wider than their place."""
    frames = "".join(f'<iframe id="{name}" src="{name}.html" width="{width}" height="800"></iframe>' for name in pages)
    measure = """onload = () => { document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
        const root = frame.contentDocument.documentElement;
        const clipped = [...root.querySelectorAll("svg text")].filter(text => {
            const [own, whole] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
            return own.left < whole.left || own.right > whole.right;
        }).map(text => text.textContent);
        const wide = [...root.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth)
            .map(box => box.querySelector("tr").textContent);
        return [frame.id, root.scrollWidth, root.clientWidth, root.querySelectorAll("svg").length, root.scrollHeight,
                clipped, wide];
    })) }"""
    (tmp_path / "frames.html").write_text(f"<!doctype html><title></title>{frames}<script>{measure}</script>")
    with tempfile.TemporaryDirectory() as profile:
        done = finished(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--allow-file-access-from-files", f"--user-data-dir={profile}", "--dump-dom",
             str(tmp_path / "frames.html")]
        )  # fmt: skip
    title = re.search("<title>(.*?)</title>", done.stdout)
    assert title, done.stderr
    return json.loads(html.unescape(title[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome here")
class TestInABrowser:
    def test_on_a_phone(self, tmp_path):
        """In a browser 390 pixels wide nothing is wider than the page, whatever stands in it; tables scroll within."""
        evaluation = classified("very" * 100)
        for name in ("one", "two" * 40):
            run = write_run(tmp_path / "runs" / name, {"seed": name, "flag": "/long" * 50}, test=0.5, evaluation=evaluation)
            description = json.loads((run / "bertorch.json").read_text())
            (run / "bertorch.json").write_text(json.dumps({**description, "command": "run.py --flag " + "/long" * 50}))
            with open(run / "metrics.jsonl", "a") as handle:  # the longest labels that an axis may have
                handle.writelines(
                    json.dumps({"kind": "train", "global_step": step, "loss": 1.0, "small": small, "near": near}) + "\n"
                    for step, small, near in ((20, 2.5e-5, 0.998251), (123_456, 1.75e-4, 0.999))
                )
        pages = {"one": report(tmp_path / "runs" / "one", output_file=tmp_path / "one.html")}
        pages["both"] = report(tmp_path / "runs", output_file=tmp_path / "both.html")
        for name, wanted, given, charts, height, clipped, _ in measured(tmp_path, pages, 390):
            assert given == 390 and wanted <= 390, name
            assert charts >= 7 and height > 1000
            assert clipped == []

    def test_on_a_desk(self, tmp_path):
        """1280 pixels hold every column of the table of entities."""
        counts = {"right": 1100, "labelled": 2300, "found": 3700, **dict.fromkeys(KINDS, 1234)}
        types = [{"type": name, **counts} for name in ("ORGANISATION", "TITLE", "人名")]
        details = {"types": types, "confused": [], "mistakes": 0, "examples": []}
        write_run(tmp_path / "a", evaluation={"entities": details})
        text = report(tmp_path / "a", output_file=tmp_path / "one.html")
        ((_, wanted, given, *_, clipped, wide),) = measured(tmp_path, {"one": text}, 1280)
        assert (given, clipped, wide) == (1280, [], []) and wanted <= 1280 and "invented" in text
