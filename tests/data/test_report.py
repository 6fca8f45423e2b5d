"""The data reports printed before training."""

import json

import numpy as np
import pytest

from bertorch.data.report import report_data
from bertorch.data.tokenizing import Samples, TextTokenizer, load_tokenizer
from bertorch.tasks.entities.data_report import report_entities
from bertorch.tasks.entities.windows import TaggedSamples
from bertorch.tasks.pretraining.data_report import report_documents
from bertorch.tasks.pretraining.rows import tokenize_documents
from bertorch.tasks.reading.data_report import report_questions
from bertorch.tasks.reading.rows import Question, ReadingTokenizer, window_questions


def samples_of(lengths: list[int], labels: list[int], hashes: list[int], unknown: int = 0, room: int = 96) -> Samples:
    """Sequences of these lengths, cut at ``room`` tokens, as many a row as there are fewer labels."""
    uncut, lengths = lengths, [min(length, room) for length in lengths]
    return Samples(
        input_ids=np.zeros(sum(lengths), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        second=np.array(lengths, dtype=np.int32),
        row_starts=np.arange(0, len(lengths) + 1, len(lengths) // len(labels)),
        labels=np.array(labels, dtype=np.int64),
        text_hashes=np.array(hashes, dtype=np.uint64),
        lines=np.arange(len(lengths), dtype=np.int64),
        uncut_lengths=np.array(uncut, dtype=np.int32),
        unknown=unknown,
    )


def test_rows_lengths_shares_and_label_counts(messages):
    lengths = [4] * 50 + [8] * 43 + [17, 20, 30, 40, 50, 60, 70]
    train = samples_of(lengths, [0, 1] * 30 + [0] * 40, list(range(100)), unknown=6, room=16)
    report = report_data({"train": train}, 16, ["bad", "good"])
    assert report == {
        "train": {
            "figures": {
                # the 50th and 51st of 100 sorted lengths are 4 and 8, the 90th 8, the 95th and 96th 20 and 30, the 99th 60
                "rows": 100, "tokens_mean": 8.3, "tokens_p50": 6, "tokens_p90": 8, "tokens_p95": 20, "tokens_p99": 60,
                "tokens_longest": 70, "truncated_share": 0.07, "unknown_share": 6 / (50 * 4 + 43 * 8 + 7 * 16),
            },
            "counts": {"bad": 70, "good": 30},
        }
    }  # fmt: skip
    json.dumps(report)
    rows, labels = messages
    assert rows.startswith("train: 100 rows, ") and "tokens mean=8.3 p50=6 p90=8 p95=20 p99=60 longest=70, " in rows
    assert "7.0% over 16" in rows
    assert "0.91% [UNK]" in rows  # 6 of 656 that are left
    assert labels == "train: labels bad 70, good 30"


def test_texts_that_also_stand_in_the_training_set(messages):
    train = samples_of([3] * 4, [0, 1, 0, 1], [1, 2, 3, 2**64 - 1])
    dev = samples_of([3] * 4, [0, 1, 1, 0], [2**64 - 1, 7, 2, 2])
    test = samples_of([3] * 2, [0, 1], [8, 7])
    report = report_data({"train": train, "dev": dev, "test": test}, 16, ["a", "b"])
    assert [report[name]["figures"].get("texts_also_in_train") for name in report] == [None, 3, 0]
    shared = [message for message in messages if "are also in" in message]
    assert shared == ["3 of 4 texts of dev are also in train"]


def test_of_pairs_that_are_encoded_apart_texts_are_counted_among_texts(messages):
    """All four texts of two rows, not four of two; three of the test set's six."""
    train = samples_of([3] * 6, [0, 1, 0], [1, 2, 3, 4, 5, 6])
    dev, test = samples_of([3] * 4, [0, 1], [6, 1, 2, 2]), samples_of([3] * 6, [0, 1, 1], [7, 6, 8, 1, 9, 5])
    report = report_data({"train": train, "dev": dev, "test": test}, 16)
    assert [message for message in messages if "are also in" in message] == [
        "4 of 4 texts of dev are also in train", "3 of 6 texts of test are also in train",
    ]  # fmt: skip
    assert [report[name]["figures"]["rows"] for name in report] == [3, 2, 3]
    assert [report[name]["figures"]["texts"] for name in report] == [6, 4, 6]
    assert messages[1].startswith("dev: 2 rows of 4 texts, ")


def test_a_question_counts_once_however_many_windows_its_passage_takes(tiny_model, messages):
    encoder = ReadingTokenizer(TextTokenizer(load_tokenizer(tiny_model("bert")), 24), 8, 5)
    long, short = "酒店服务" * 10, "酒店"
    listed = {
        "train": [Question(1, "1", "where", long, [""])],
        "dev": [Question(1, "1", "where", long, [""]), Question(2, "2", "where", short, [""])],
    }
    sets = {name: window_questions(questions, encoder) for name, questions in listed.items()}
    assert len(sets["dev"]) > 3
    report = report_questions(sets, listed, 24)
    assert [message for message in messages if "are also in" in message] == ["1 of 2 questions of dev are also in train"]
    figures = report["dev"]["figures"]
    assert figures["questions_also_in_train"] == 1
    # five pieces of the question and three special tokens beside 40 and 2 of the passages
    assert (figures["tokens_mean"], figures["tokens_p50"], figures["tokens_longest"]) == (29.0, 29, 48)
    assert figures["in_windows_share"] == 0.5


@pytest.mark.parametrize(("unknown", "warned"), [(0, False), (30, False), (31, True), (217, True)])
def test_many_unknown_tokens_are_a_warning_for_each_set(messages, unknown, warned):
    train, dev = samples_of([10] * 100, [0] * 100, list(range(100))), samples_of([10] * 100, [0] * 100, [0] * 100, unknown)
    report_data({"train": train, "dev": dev}, 16)
    said = [message for message in messages if "the vocabulary lacks" in message]
    assert [message.split(";")[0] for message in said] == [
        f"dev: the vocabulary lacks {unknown / 10:.2f}% of the tokens (a vocabulary that fits lacks less than 1%)"
    ] * warned
    assert all(word in message for message in said for word in ("language", "traditional", "do_lower_case"))


def test_unknown_units_of_entity_texts_are_a_warning_too(messages):
    report_entities(
        {"train": tagged([50, 50], [0], [1, 2], unknown=4), "dev": tagged([100], [0], [3], unknown=3)}, ["PER"], 32
    )
    assert [message.split(" of ")[0] for message in messages if "lacks" in message] == ["train: the vocabulary lacks 4.00%"]


def test_unknown_tokens_of_passages_and_documents_are_a_warning_too(tiny_model, tmp_path, messages):
    texts = TextTokenizer(load_tokenizer(tiny_model("bert")), 24)
    asked = [Question(1, "1", "where", "酒店" * 4 + "龘", [""])]
    report_questions({"dev": window_questions(asked, ReadingTokenizer(texts, 8, 5), texts.pretrained.unk_token_id)},
                     {"dev": asked}, 24)  # fmt: skip
    (tmp_path / "a.txt").write_text("酒店" * 10 + "龘" * 5 + "\n", encoding="utf-8")
    report_documents({"train": tokenize_documents([tmp_path / "a.txt"], texts, 22, False)})
    assert [message.split("%")[0] for message in messages if "lacks" in message] == [
        "dev: the vocabulary lacks 11.11", "train: the vocabulary lacks 20.00",
    ]  # fmt: skip


def test_labels_without_a_row_are_a_warning(messages):
    report_data({"train": samples_of([3] * 3, [0, 3, 0], [1, 2, 3])}, 16, ["a", "b", "c", "d"])
    assert "train: labels a 2, b 0, c 0, d 1" in messages
    assert "train: no row with label b, c" in messages


def test_a_test_set_without_labels_has_no_counts(messages):
    report_data({"test": samples_of([3] * 2, [-1, -1], [1, 2])}, 16, ["a", "b"])
    assert len(messages) == 1 and messages[0].startswith("test: 2 rows, ")


def tagged(
    counts: list[int],
    entities: list[int],
    hashes: list[int],
    windows: list[int] | None = None,
    width: int = 1,
    **numbers: int,
) -> TaggedSamples:
    """Texts of so many units, all ``width`` characters wide, in so many windows; the type ids of all entities."""
    windows = windows or [1] * len(counts)
    total, starts = sum(counts), np.arange(sum(counts)) * width
    tokens = total + 2 * sum(windows)
    return TaggedSamples(
        input_ids=np.zeros(tokens, dtype=np.int32),
        offsets=np.linspace(0, tokens, sum(windows) + 1).astype(np.int64),
        second=np.zeros(sum(windows), dtype=np.int32),
        text_hashes=np.array(hashes, dtype=np.uint64),
        row_starts=np.concatenate([[0], np.cumsum(windows)]),
        labels=np.full(len(counts), -1),
        lines=np.arange(len(counts)),
        uncut_lengths=np.array(counts, dtype=np.int32) + 2,
        units=np.full(tokens, -1, dtype=np.int32),
        unit_starts=np.concatenate([[0], np.cumsum(counts)]),
        unit_tokens=np.arange(total),
        unit_offsets=np.stack([starts, starts + width], axis=1),
        tags=np.full(total, -1),
        entities=np.array([[kind, 0, 1] for kind in entities], dtype=np.int32).reshape(-1, 3),
        spans=np.array([[kind, 0, 1] for kind in entities], dtype=np.int32).reshape(-1, 3),
        entity_starts=np.array([0] * len(counts) + [len(entities)]),
        spaces=np.zeros(total, dtype=bool),
        **{"unknown": 0, "blank": 0, "labelled": 1, **numbers},
    )


def test_texts_windows_and_entity_counts(messages):
    windows = [1] * 97 + [2, 2, 5]
    samples = tagged([10] * 50 + [20] * 49 + [70], [0, 2, 2, 0, 2, 1], list(range(100)), windows, unknown=31, blank=8)
    report_entities({"train": samples}, ["PER", "LOC", "ORG"], 32)
    texts, tokens, entities = messages
    # of 100 texts the 50th and 51st have 10 and 20 units, the 90th and 91st 20, the 99th 20 and the last 70; 1,550 in all
    assert texts.startswith("train: 100 texts, characters mean=15.5 p50=15 p90=20 p95=20 p99=20 longest=70, ")
    assert tokens == "train: tokens mean=17.5 p50=17 p90=22 p95=22 p99=22 longest=72, 3.0% in windows of 32"
    assert texts.endswith("2.00% unknown, 0.52% blank")
    assert entities == "train: 6 entities, PER 2, LOC 1, ORG 3"


def test_units_of_several_characters_are_words(messages):
    report_entities({"train": tagged([3], [0], [1], width=4)}, ["PER"], 32)
    assert messages[0].startswith("train: 1 texts, words mean=3.0 p50=3 ")


def test_types_without_an_entity_are_a_warning(messages):
    report_entities({"train": tagged([5, 5], [1, 1], [1, 2])}, ["PER", "LOC", "ORG"], 32)
    assert messages[2:] == ["train: 2 entities, PER 0, LOC 2, ORG 0", "train: no entity of type PER, ORG"]


def test_each_set_has_its_own_entities_and_shared_texts_are_told(messages):
    sets = {"train": tagged([5, 5], [0], [1, 2]), "dev": tagged([5, 5, 5], [0, 0], [2, 3, 4]), "test": tagged([4], [], [3])}
    report_entities(sets, ["PER"], 32)
    assert [message.split(", ")[0] for message in messages if ": tokens " not in message] == [
        "train: 2 texts", "train: 1 entities", "dev: 3 texts", "dev: 2 entities", "test: 1 texts",
        "1 of 3 texts of dev are also in train",
    ]  # fmt: skip
