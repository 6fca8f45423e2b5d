"""The data report printed before training."""

import numpy as np

from bertorch.data.report import report_data
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
    report_data({"train": train}, 16, ["bad", "good"])
    rows, labels = messages
    assert rows.startswith("train: 100 rows, ") and "p50=6 p90=8 p99=8 longest=16" in rows
    assert "3.0% cut at max_seq_length 16" in rows
    assert "0.99% unknown tokens" in rows  # 6 of 608
    assert labels == "train: labels bad 70, good 30"


def test_texts_that_also_stand_in_the_training_set(messages):
    train = samples_of([3] * 4, [0, 1, 0, 1], [1, 2, 3, 2**64 - 1])
    dev = samples_of([3] * 4, [0, 1, 1, 0], [2**64 - 1, 7, 2, 2])
    test = samples_of([3] * 2, [0, 1], [8, 7])
    report_data({"train": train, "dev": dev, "test": test}, 16, ["a", "b"])
    shared = [message for message in messages if "also stand" in message]
    assert shared == ["3 of 4 texts of dev also stand in train"]


def test_labels_without_a_row_are_a_warning(messages):
    report_data({"train": samples_of([3] * 3, [0, 3, 0], [1, 2, 3])}, 16, ["a", "b", "c", "d"])
    assert "train: labels a 2, b 0, c 0, d 1" in messages
    assert "train: no row with label b, c" in messages


def test_a_test_set_without_labels_has_no_counts(messages):
    report_data({"test": samples_of([3] * 2, [-1, -1], [1, 2])}, 16, ["a", "b"])
    assert len(messages) == 1 and messages[0].startswith("test: 2 rows, ")
