"""The data reports printed before training."""

import json

import numpy as np

from bertorch.data.report import report_data, report_entities
from bertorch.data.tagging import TaggedSamples
from bertorch.data.tokenizing import Samples


def samples_of(lengths: list[int], labels: list[int], hashes: list[int], truncated: int = 0, unknown: int = 0) -> Samples:
    return Samples(
        input_ids=np.zeros(sum(lengths), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        second=np.array(lengths, dtype=np.int32),
        row_starts=np.arange(len(lengths) + 1),
        labels=np.array(labels, dtype=np.int64),
        text_hashes=np.array(hashes, dtype=np.uint64),
        lines=np.arange(len(lengths), dtype=np.int64),
        truncated=truncated,
        unknown=unknown,
    )


def test_rows_lengths_shares_and_label_counts(messages):
    train = samples_of([4] * 50 + [8] * 49 + [16], [0, 1] * 30 + [0] * 40, list(range(100)), truncated=3, unknown=6)
    report = report_data({"train": train}, 16, ["bad", "good"])
    assert report == {
        "train": {
            "figures": {
                "rows": 100, "tokens_p50": 6, "tokens_p90": 8, "tokens_p99": 8, "tokens_longest": 16,
                "truncated_share": 0.03, "unknown_share": 6 / 608,
            },
            "counts": {"bad": 70, "good": 30},
        }
    }  # fmt: skip
    json.dumps(report)
    rows, labels = messages
    assert rows.startswith("train: 100 rows, ") and "p50=6 p90=8 p99=8 longest=16" in rows
    assert "3.0% cut at max_seq_length 16" in rows
    assert "0.99% unknown tokens" in rows  # 6 of 608
    assert labels == "train: labels bad 70, good 30"


def test_texts_that_also_stand_in_the_training_set(messages):
    train = samples_of([3] * 4, [0, 1, 0, 1], [1, 2, 3, 2**64 - 1])
    dev = samples_of([3] * 4, [0, 1, 1, 0], [2**64 - 1, 7, 2, 2])
    test = samples_of([3] * 2, [0, 1], [8, 7])
    report = report_data({"train": train, "dev": dev, "test": test}, 16, ["a", "b"])
    assert [report[name]["figures"].get("texts_also_in_train") for name in report] == [None, 3, 0]
    shared = [message for message in messages if "also stand" in message]
    assert shared == ["3 of 4 texts of dev also stand in train"]


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
        truncated=0,
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
    texts, entities = messages
    # of 100 texts the 50th and 51st have 10 and 20 units, the 90th and 91st 20, the 99th 20 and the last 70; 1,550 in all
    assert texts.startswith("train: 100 texts, characters p50=15 p90=20 p99=20 longest=70, ")
    assert "3.0% longer than max_seq_length 32 and read in windows" in texts
    assert texts.endswith("2.00% unknown, 0.52% blank")
    assert entities == "train: 6 entities, PER 2, LOC 1, ORG 3"


def test_units_of_several_characters_are_words(messages):
    report_entities({"train": tagged([3], [0], [1], width=4)}, ["PER"], 32)
    assert messages[0].startswith("train: 1 texts, words p50=3 ")


def test_types_without_an_entity_are_a_warning(messages):
    report_entities({"train": tagged([5, 5], [1, 1], [1, 2])}, ["PER", "LOC", "ORG"], 32)
    assert messages[1:] == ["train: 2 entities, PER 0, LOC 2, ORG 0", "train: no entity of type PER, ORG"]


def test_each_set_has_its_own_entities_and_shared_texts_are_told(messages):
    sets = {"train": tagged([5, 5], [0], [1, 2]), "dev": tagged([5, 5, 5], [0, 0], [2, 3, 4]), "test": tagged([4], [], [3])}
    report_entities(sets, ["PER"], 32)
    assert [message.split(", ")[0] for message in messages] == [
        "train: 2 texts", "train: 1 entities", "dev: 3 texts", "dev: 2 entities", "test: 1 texts",
        "1 of 3 texts of dev also stand in train",
    ]  # fmt: skip
