"""The encoder that comes with the repository: small, whole, and the same to transformers."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertForPreTraining

from bertorch.data.tokenizing import load_tokenizer
from bertorch.encoder.layers import first_tokens
from bertorch.encoder.tokens import from_padded
from bertorch.tasks.pretraining.head import load_language_model, load_trained_language_model
from tests.closeness import assert_close

DIRECTORY = Path(__file__).parents[2] / "models" / "bertorch-tiny-zh"

KNOWN = [
    ("中国的首都是北[MASK]。", "京"),
    ("这家酒店的服务态度非[MASK]好。", "常"),
    ("他是一[MASK]中国人。", "个"),
    ("我们应该保护环[MASK]。", "境"),
    ("他在大学学习计算[MASK]。", "机"),
]


def test_it_takes_six_megabytes_at_most():
    assert sum(file.stat().st_size for file in DIRECTORY.iterdir()) <= 6_000_000


def test_it_reads_as_transformers_reads_it():
    texts = [text for text, _ in KNOWN]
    tokenizer = AutoTokenizer.from_pretrained(DIRECTORY)
    assert len(tokenizer) == json.loads((DIRECTORY / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert load_tokenizer(DIRECTORY)(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    theirs, report = BertForPreTraining.from_pretrained(DIRECTORY, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    ours = load_language_model(DIRECTORY, with_order=True, order_weight=1.0)
    with torch.no_grad():
        expected = theirs.eval()(**batch)
        tokens = from_padded(**batch)
        states = ours.eval().encoder(tokens)
        found = ours.token_logits(states), ours.order(ours.encoder.pooler(first_tokens(states, tokens)))
    real = batch["attention_mask"].bool()
    assert_close(found[0], expected.prediction_logits[real])
    assert_close(found[1], expected.seq_relationship_logits)


@pytest.mark.parametrize(("text", "missing"), KNOWN)
def test_it_has_learnt_some_chinese(text, missing):
    tokenizer = load_tokenizer(DIRECTORY)
    batch = tokenizer([text], return_tensors="pt")
    model = load_trained_language_model(DIRECTORY).eval()
    with torch.no_grad():
        logits = model.token_logits(model.encoder(from_padded(**batch)))
    place = batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    assert tokenizer.decode(logits[place].argmax()) == missing
