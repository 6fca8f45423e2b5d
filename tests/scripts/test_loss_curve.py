"""A training is that of the padded reference, update by update."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from bertorch.data.batching import epoch_plan
from bertorch.data.files import read_labels
from bertorch.data.rows import read_rows
from tests.scripts.launch import REVIEWS, ROOT, call, journal, training_flags

ENCODER = ROOT / "models" / "bertorch-tiny-zh"
LENGTH, BATCH_SIZE, RATE, UPDATES = 64, 16, 5e-4, 60


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """The shipped encoder with a head over it, in transformers' layout, and without dropout: its masks would differ."""
    directory = tmp_path_factory.mktemp("start")
    shutil.copytree(ENCODER, directory, dirs_exist_ok=True)
    torch.manual_seed(0)
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    AutoModelForSequenceClassification.from_pretrained(ENCODER, num_labels=2, **none).save_pretrained(directory)
    return directory


def reference(start: Path, labels: list[str]) -> list[float]:
    """The losses of a plain loop: padding, torch's AdamW, the schedule of transformers."""
    model = AutoModelForSequenceClassification.from_pretrained(start, dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(start)
    rows = list(read_rows(REVIEWS / "train.tsv", False, labels))
    whole = [tokenizer(row.texts[0], truncation=True, max_length=LENGTH) for row in rows]
    lengths = np.array([len(one["input_ids"]) for one in whole])
    decayed = [p for name, p in model.named_parameters() if not ("bias" in name or "LayerNorm" in name)]
    others = [p for name, p in model.named_parameters() if "bias" in name or "LayerNorm" in name]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = get_linear_schedule_with_warmup(optimizer, UPDATES // 10, UPDATES)
    losses, epoch = [], 0
    while len(losses) < UPDATES:
        for batch in epoch_plan(lengths, BATCH_SIZE, 1, 0, 1, epoch)[: UPDATES - len(losses)]:
            padded = tokenizer.pad([whole[row] for row in batch], return_tensors="pt")
            loss = model(**padded, labels=torch.tensor([labels.index(rows[row].label) for row in batch])).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        epoch += 1
    return losses


def test_the_loss_of_every_update(start, tmp_path, monkeypatch):
    flags = training_flags(
        start, tmp_path / "saved", dev_data_file=None, init_from_ckpt=start, max_seq_length=LENGTH, batch_size=BATCH_SIZE,
        learning_rate=RATE, warmup_proportion=0.1, weight_decay=0.01, max_grad_norm=1.0, scheduler="linear",
        max_steps=UPDATES, logging_steps=1, save_steps=UPDATES, seed=1, device="cpu",
    )  # fmt: skip
    assert call("run_classifier.py", flags, monkeypatch) == 0
    found = np.array([line["loss"] for line in journal(tmp_path / "saved", "train")])
    expected = np.array(reference(start, read_labels(REVIEWS / "labels.txt")))
    assert len(found) == UPDATES and expected[-10:].mean() < 0.8 * expected[0]  # it learns something
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # single precision, through updates that amplify its rounding
    np.testing.assert_allclose(found[:10], expected[:10], rtol=1e-5)
