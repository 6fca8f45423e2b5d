"""Models that grow: the tables against others computed by hand, what is saved in transformers, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from bertorch.data.larger_model import larger_model
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer, open_text_tokenizer
from bertorch.encoder import TokenBatch, load_config, load_encoder
from bertorch.encoder.weights import read_model
from bertorch.errors import UserError
from bertorch.heads.loading import load_head
from bertorch.tasks.pretraining.head import LanguageModel
from tests.closeness import assert_close
from tests.conftest import AFTER_PADDING
from tests.scripts.launch import DATA, as_flags, call

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"


@pytest.fixture
def bert(tiny_model, tmp_path) -> Path:
    """A copy of the tiny BERT that a test may change."""
    return Path(shutil.copytree(tiny_model("bert"), tmp_path / "bert"))


def test_positions_by_hand(tiny_model, tmp_path):
    """Each new row written out from the trained ones; alpha is 0.4."""
    directory = tiny_model("bert")
    larger = larger_model(directory, 96 * 2 + 5, extend_positions=True, cache_dir=tmp_path)
    trained = load_file(directory / "model.safetensors")[POSITIONS].double()
    table = load_encoder(larger)[0].embeddings.position.weight.detach().double()
    assert len(table) == 197 and torch.equal(table[:96], trained)
    first = trained[0]
    for place in (96, 97, 191, 192, 196):
        far, near = trained[place // 96], trained[place % 96]
        expected = 0.4 * (far - 0.4 * first) / 0.6 + 0.6 * (near - 0.4 * first) / 0.6
        torch.testing.assert_close(table[place], expected, rtol=1e-6, atol=1e-7)


def test_positions_of_every_family(family, tiny_model, tmp_path):
    """Rows before the first position stay, and texts within the trained length get the same states, longer ones some."""
    directory = tiny_model(family)
    offset = 2 if family in AFTER_PADDING else 0
    larger = larger_model(directory, 120, extend_positions=True, cache_dir=tmp_path)
    before, after = load_encoder(directory)[0].eval(), load_encoder(larger)[0].eval()
    if before.config.has("embeddings.position"):
        table = after.embeddings.position.weight
        assert torch.equal(table[:96], before.embeddings.position.weight) and len(table) == 120 + offset
    open_text_tokenizer(larger, 120)
    ids = torch.randint(5, before.config.vocab_size, (120,), generator=torch.Generator().manual_seed(0))
    short = TokenBatch.from_lengths(ids[:60], torch.zeros(60, dtype=torch.long), [40, 20])
    assert torch.equal(before(short), after(short))
    assert after(TokenBatch.from_lengths(ids, torch.zeros(120, dtype=torch.long), [120])).isfinite().all()


def test_positions_end(tiny_model, tmp_path):
    directory = tiny_model("bert", max_position_embeddings=4)
    assert load_config(larger_model(directory, 16, extend_positions=True, cache_dir=tmp_path)).max_seq_length == 16
    with pytest.raises(UserError, match="4 positions make at most 16"):
        larger_model(directory, 17, extend_positions=True, cache_dir=tmp_path)


def test_without_the_flag_the_length_is_refused(tiny_model, tmp_path):
    directory = larger_model(tiny_model("bert"), 120, cache_dir=tmp_path)
    assert directory == tiny_model("bert")
    with pytest.raises(UserError, match="positions for 96 tokens; --extend_positions"):
        open_text_tokenizer(directory, 120)


def test_a_length_that_fits_changes_nothing(tiny_model, tmp_path):
    for family in ("bert", "roformer"):
        assert larger_model(tiny_model(family), 96, extend_positions=True, cache_dir=tmp_path) == tiny_model(family)


def test_roformer_takes_any_length(tiny_model, tmp_path, messages):
    """Its positions are a function, which transformers computes when it has the longer table."""
    directory = tiny_model("roformer")
    larger = larger_model(directory, 150, cache_dir=tmp_path)
    assert [line for line in messages if "150 is beyond the 96 tokens" in line]
    encoder = load_encoder(larger)[0].eval()
    assert open_text_tokenizer(larger, 150).max_seq_length == 150
    longer = transformers.RoFormerConfig.from_pretrained(directory, max_position_embeddings=150)
    theirs = transformers.RoFormerModel(longer).eval()
    tensors = load_file(directory / "model.safetensors")
    del tensors["encoder.embed_positions.weight"]
    theirs.load_state_dict(tensors, strict=False)
    ids = torch.randint(5, longer.vocab_size, (1, 150), generator=torch.Generator().manual_seed(0))
    batch = TokenBatch.from_lengths(ids[0], torch.zeros(150, dtype=torch.long), [150])
    with torch.no_grad():
        assert_close(encoder(batch), theirs(ids).last_hidden_state[0])


def test_trained_rotary_positions_take_no_more(tiny_model, tmp_path):
    directory = Path(shutil.copytree(tiny_model("roformer"), tmp_path / "roformer"))
    tensors = load_file(directory / "model.safetensors")
    tensors["encoder.embed_positions.weight"] += 0.1
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(UserError, match="96 trained positions"):
        load_encoder(larger_model(directory, 97, cache_dir=tmp_path))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "electra", "distilbert", "roformer", "mpnet"])
def test_new_tokens_start_as_the_mean(family, tiny_model, tmp_path):
    head = "ForMaskedLM"
    directory = tiny_model(family, head)
    larger = larger_model(directory, 32, ["[CAT=FASHION]", "[CAT=食]"], cache_dir=tmp_path)
    before, after = (load_head(one, LanguageModel, one) for one in (directory, larger))
    old = before.encoder.config.vocab_size
    words = after.encoder.embeddings.word.weight
    assert words.shape[0] == old + 2 == load_config(larger).vocab_size
    assert torch.equal(words[:old], before.encoder.embeddings.word.weight)
    for row in (old, old + 1):
        torch.testing.assert_close(words[row], before.encoder.embeddings.word.weight.mean(dim=0))
        torch.testing.assert_close(after.bias[row], before.bias.mean())
    encoder = TextTokenizer(load_tokenizer(larger), 32)
    plain = TextTokenizer(load_tokenizer(directory), 32)
    start, end = (plain.encode([("天",)])[0][0][place] for place in (0, -1))
    found = encoder.encode([("天[CAT=FASHION]天[CAT=食]",)])[0][0]
    known = plain.encode([("天",)])[0][0][1:-1]
    assert found == [start, *known, old, *known, old + 1, end]


def test_a_token_of_the_vocabulary_takes_its_row(bert, tmp_path):
    """No table grows; and ``[unused1]`` in a text is that token without a flag."""
    words = (bert / "vocab.txt").read_text(encoding="utf-8").splitlines()
    words[50], words[51] = "[unused1]", "房间"
    (bert / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    assert load_tokenizer(bert)("[unused1]a", add_special_tokens=False).input_ids == [50, words.index("a")]
    larger = larger_model(bert, 32, ["房间"], cache_dir=tmp_path)
    assert load_config(larger).vocab_size == len(words)
    assert load_tokenizer(larger)("a房间[unused1]", add_special_tokens=False).input_ids == [words.index("a"), 51, 50]
    assert 51 not in load_tokenizer(bert)("房间", add_special_tokens=False).input_ids


def test_a_tokenizer_that_brings_more_tokens(bert, tmp_path):
    """Tokens that were added to it, but not to the model."""
    tokenizer = AutoTokenizer.from_pretrained(bert)
    old = load_config(bert).vocab_size
    tokenizer.add_tokens(["[A]", "[B]"])
    tokenizer.save_pretrained(bert)
    larger = larger_model(bert, 32, cache_dir=tmp_path)
    assert load_config(larger).vocab_size == old + 2
    assert load_tokenizer(larger)("[B]", add_special_tokens=False).input_ids == [old + 1]


def test_a_vocabulary_of_another_model_is_refused_as_ever(bert, tmp_path):
    with (bert / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("龘\n")
    larger = larger_model(bert, 32, cache_dir=tmp_path)
    assert larger == bert
    with pytest.raises(UserError, match="take the vocabulary of this model"):
        open_text_tokenizer(larger, 32)


def test_a_vocabulary_with_a_word_twice(bert, tmp_path):
    """The tokenizers library counts words, so that the next id would be another word's."""
    with (bert / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("的\n龘\n")
    with pytest.raises(UserError, match="holds a word twice"):
        larger_model(bert, 32, ["[A]"], cache_dir=tmp_path)


def test_blank_tokens_are_refused(bert, tmp_path):
    with pytest.raises(UserError, match="blank"):
        larger_model(bert, 32, [" "], cache_dir=tmp_path)


def test_made_once(bert, tmp_path):
    first, second = (larger_model(bert, 32, ["[A]"], cache_dir=tmp_path / "cache") for _ in range(2))
    assert first == second != larger_model(bert, 32, ["[B]"], cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "larger").iterdir())) == 2
    assert first.joinpath("model.safetensors").is_symlink()
    (bert / "model.safetensors").write_bytes(b"other")
    assert first != larger_model(bert, 32, ["[A]"], cache_dir=tmp_path / "cache")


def test_weights_of_a_run_that_had_grown_stay(bert, tmp_path):
    """``--init_from_ckpt`` may name weights from before or from after; both fit."""
    larger = larger_model(bert, 120, ["[A]"], extend_positions=True, cache_dir=tmp_path)
    grown = read_model(bert, load_config(larger))
    torch.save({name: tensor + 1 for name, tensor in grown.items()}, tmp_path / "after.bin")
    again = read_model(tmp_path / "after.bin", load_config(larger))
    assert all(torch.equal(again[name], grown[name] + 1) for name in grown)


def test_from_training_to_transformers(tiny_model, tmp_path, monkeypatch):
    """What is saved is a plain model with larger tables: transformers opens it, and predict.py reads the token."""
    saved = tmp_path / "saved"
    rows = tmp_path / "rows.tsv"
    long = "很好吃" * 45
    rows.write_text(f"[CAT=FASHION]{long}\tpositive\n[CAT=食]不好\tnegative\n" * 4, encoding="utf-8")
    flags = as_flags(
        pretrained_model_name_or_path=tiny_model("bert"), train_data_file=rows, saved_dir=saved, max_steps=2, device="cpu",
        label_file=DATA / "reviews" / "labels.txt", max_seq_length=140, extend_positions=True, seed=1, learning_rate=1e-3,
    )  # fmt: skip
    assert call("run_classifier.py", [*flags, "--add_tokens", "[CAT=FASHION]", "[CAT=食]"], monkeypatch) == 0
    model, report = AutoModel.from_pretrained(saved, output_loading_info=True)
    assert not report["missing_keys"] and not report["mismatched_keys"]
    old = load_config(tiny_model("bert")).vocab_size
    assert model.embeddings.word_embeddings.weight.shape[0] == old + 2
    assert model.embeddings.position_embeddings.weight.shape[0] == 140
    assert "larger_than" not in json.loads((saved / "config.json").read_text())
    assert AutoTokenizer.from_pretrained(saved)("[CAT=食]", add_special_tokens=False).input_ids == [old + 1]
    answers = tmp_path / "answers.jsonl"
    given = as_flags(model_dir=saved, input_file=rows, output_file=answers, device="cpu", probabilities=True)
    assert call("predict.py", given, monkeypatch) == 0
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(saved).eval()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    with torch.no_grad():
        logits = classifier(**tokenizer(f"[CAT=FASHION]{long}", return_tensors="pt")).logits
    found = json.loads(answers.read_text(encoding="utf-8").splitlines()[0])
    assert found["probabilities"][found["label"]] == pytest.approx(logits.softmax(-1).max().item(), abs=2e-6)
