"""The chooser beside transformers' multiple-choice models of every family: scores, loss, gradients, saved directories."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoConfig

from bertorch.data.tokenizing import load_tokenizer, open_text_tokenizer, tokenize
from bertorch.encoder import load_config
from bertorch.errors import UserError
from bertorch.tasks.choice.description import Description
from bertorch.tasks.choice.head import load_chooser, load_trained_chooser
from bertorch.tasks.choice.rows import ChoiceRow, ChoiceTokenizer, collate_choices
from bertorch.training.checkpoints import save_model
from tests.conftest import TINY
from tests.padding import given_to, padded_left

ROWS = [
    ChoiceRow(1, ("酒店在北京东门，早餐便宜。",), "早餐怎么样", ["便宜", "贵", "没有"], 0),
    ChoiceRow(2, ("房间干净。",), "房间", ["不好", "干净", "很小"], 1),
    ChoiceRow(3, ("服务员不在，电话也没有人接，我们等了很长时间。",), "", ["大家很高兴", "后来走了", "电影好看"], 1),
]
SUMMARY = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "tanh", "summary_last_dropout": 0.0}


@pytest.fixture
def theirs(family, tiny_model):
    """The directory of a model of transformers with random weights, without dropout in front of its score."""
    more = SUMMARY if family == "roformer" else {}  # without them its head takes the last place, of padding too
    if family.startswith("electra"):
        more = {"summary_last_dropout": 0.0}
    return tiny_model(family, "ForMultipleChoice", **more)


def padded(model, batch) -> dict[str, torch.Tensor]:
    """A batch of rows with equally many options as a model of transformers takes it: ``[rows, options, length]``."""
    given = given_to(model, batch.tokens)
    given = padded_left(given) if model.config.model_type == "xlnet" else given
    by_row = torch.argsort(batch.places)
    return {name: part[by_row].view(-1, batch.options, part.shape[1]) for name, part in given.items()}


def batch_of(directory, rows):
    tokenizer = ChoiceTokenizer(open_text_tokenizer(directory, 64), 24)
    samples = tokenize(((row.line, row.texts, row.label) for row in rows), tokenizer, separate=True)
    return collate_choices(samples, np.arange(len(rows)))


def scores_of(model, batch) -> torch.Tensor:
    """Scores by row and option."""
    scores = model.scores(batch.tokens).squeeze(1)
    table = scores.new_full((len(batch.labels) * batch.options,), -torch.inf).index_copy(0, batch.places, scores)
    return table.view(-1, batch.options)


def test_scores_loss_and_gradients(theirs, family):
    reference = getattr(transformers, f"{TINY[family][0]}ForMultipleChoice").from_pretrained(theirs).eval()
    labels = torch.tensor([row.label for row in ROWS])
    model, batch = load_trained_chooser(theirs), batch_of(theirs, ROWS)
    expected = reference(**padded(reference, batch), labels=labels)
    expected.loss.backward()
    with torch.no_grad():
        torch.testing.assert_close(scores_of(model, batch), expected.logits, rtol=1e-4, atol=1e-5)
    loss = model(batch)
    loss.mean.backward()
    torch.testing.assert_close(loss.mean, expected.loss, rtol=1e-4, atol=1e-5)
    assert loss.count == 3 and loss.correct == (expected.logits.argmax(dim=1) == labels).sum()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for ours, name in model.weight_names().items():
        torch.testing.assert_close(model.get_parameter(ours).grad, gradients[name], rtol=1e-3, atol=1e-5)
    words = reference.get_input_embeddings().weight.grad
    torch.testing.assert_close(model.encoder.embeddings.word.weight.grad, words, rtol=1e-3, atol=1e-5)


def test_a_saved_directory_opens_in_transformers(family, tiny_model, tmp_path):
    """A head that has just been made on a plain encoder, too: transformers computes the same scores from the directory."""
    torch.manual_seed(1)
    model = load_chooser(tiny_model(family)).eval()
    with torch.no_grad():
        for name in model.weight_names():
            model.get_parameter(name).normal_(std=0.3)  # new ones are too small to tell options apart
    save_model(tmp_path, model, load_tokenizer(tiny_model(family)), Description(max_seq_length=64).to_json())
    kind = getattr(transformers, f"{TINY[family][0]}ForMultipleChoice")
    reference, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert reference.config.architectures == [kind.__name__]
    batch = batch_of(tmp_path, ROWS)
    with torch.no_grad():
        expected = reference.eval()(**padded(reference, batch)).logits
        found, reopened = scores_of(model, batch), scores_of(load_trained_chooser(tmp_path), batch)
    assert torch.equal(found, reopened)
    assert expected.std(dim=1).min() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_dropout_is_that_of_transformers(family, tiny_model, tmp_path):
    """As its class reads it from the configuration, where every rate has a value of its own."""
    directory = shutil.copytree(tiny_model(family), tmp_path / "rates")
    raw = json.loads((directory / "config.json").read_text())
    keys = ("hidden_dropout_prob", "dropout", "classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout",
            "cls_dropout", "pooler_dropout", "summary_last_dropout", "mlp_dropout")  # fmt: skip
    raw.update({key: 0.11 + 0.03 * place for place, key in enumerate(keys)})
    if family != "xlnet":  # whose configuration has usual values of its own
        raw.update(SUMMARY | {"summary_last_dropout": raw["summary_last_dropout"]})
    (directory / "config.json").write_text(json.dumps(raw))
    config = AutoConfig.from_pretrained(directory)
    reference = getattr(transformers, f"{TINY[family][0]}ForMultipleChoice")(config)
    rates = [module.p for name, module in reference.named_modules() if _in_front_of_the_score(name, module)]
    config = load_config(directory)
    ours = [config.choice_input_dropout] * ("dense" in config.choice) + [config.choice_dropout]
    if family == "xlnet":  # its encoder ends with that dropout
        rates.insert(0, reference.transformer.dropout.p)
    assert [rate for rate in ours if rate] == pytest.approx(rates)


def _in_front_of_the_score(name: str, module: torch.nn.Module) -> bool:
    own = name.split(".")[0] in ("dropout", "drop", "sequence_summary", "pooler", "head")
    return own and (isinstance(module, torch.nn.Dropout) or type(module).__name__ == "StableDropout") and module.p > 0


def test_ragged_rows(tiny_model):
    """Rows with 2, 3 and 4 options in one batch: the loss of each row alone, and its gradient."""
    model = load_chooser(tiny_model("bert")).eval()
    rows = [
        ChoiceRow(1, ("早餐便宜。",), "早餐", ["便宜", "贵"], 1),
        ChoiceRow(2, ("房间干净。",), "房间", ["不好", "干净", "很小", "太大"], 3),
        ChoiceRow(3, ("电话没有人接。",), "", ["走了", "等", "在"], 0),
    ]
    together = model(batch_of(tiny_model("bert"), rows))
    together.total.backward()
    gradient = model.classifier.weight.grad.clone()
    model.zero_grad()
    alone = [model(batch_of(tiny_model("bert"), [row])) for row in rows]
    sum(loss.total for loss in alone).backward()
    torch.testing.assert_close(together.total, sum(loss.total for loss in alone))
    torch.testing.assert_close(model.classifier.weight.grad, gradient, rtol=1e-4, atol=1e-6)
    assert together.count == 3 and together.logits.isneginf().sum(dim=1).tolist() == [2, 0, 1]
    assert together.correct == sum(loss.correct for loss in alone)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


@pytest.mark.parametrize("kind", ["last", "mean"])
def test_another_summary_is_refused(kind, tiny_model):
    with pytest.raises(UserError, match=f"summary_type '{kind}' is not supported"):
        load_trained_chooser(tiny_model("electra", "ForMultipleChoice", summary_type=kind))
