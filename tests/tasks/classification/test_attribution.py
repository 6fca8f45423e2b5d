"""Integrated gradients: by hand where a logit is simple, by transformers where it is not, and complete."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from bertorch.data.rows import Row
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer, tokenize
from bertorch.encoder import TokenBatch
from bertorch.tasks.classification import attribution
from bertorch.tasks.classification.attribution import Attribution, explain_rows, gaps_of, integrated_gradients, report_gaps
from bertorch.tasks.classification.head import load_trained_classifier
from bertorch.tasks.sentences.encoder import SentenceEncoder
from bertorch.tasks.sentences.pair import SentencePair
from bertorch.training.inference import Compute
from bertorch.training.process_group import Processes
from tests.closeness import assert_close

HEAD = "ForSequenceClassification"
ALONE = Processes(0, 0, 1, torch.device("cpu"))
ROWS = [("房间很干净,但是早餐差!",), ("x1 ꙮ 好",), ("",), ("的" * 60,)]
PAIRS = [("早餐 (差)", "１２ 房间😀好"), ("的" * 50, "一是不")]


def explained(directory, texts, steps=8, length=24, truncation="head", encoder=None, processes=ALONE):
    """``(explanations, model)`` of rows, by the classifier of a directory."""
    model = load_trained_classifier(directory, num_labels=3).to(processes.device)
    encoder = encoder or TextTokenizer(load_tokenizer(directory), length, truncation)
    rows = [Row(line, one, None) for line, one in enumerate(texts, 1)]
    samples = tokenize(((row.line, row.texts, -1) for row in rows if row.texts), encoder)
    logits = Compute(8, processes).of_sequences(model, model.logits, samples)
    found = explain_rows(model, model.logits, rows, samples, logits, encoder, steps)
    report_gaps(gaps_of(rows, found), encoder.max_seq_length, steps)
    return found, model


def theirs(directory, texts, steps, length=24):
    """Of each token text, offsets and attribution, and the logits' difference: transformers, on a padded batch of one."""
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()
    tokenizer = load_tokenizer(directory)
    encoded = tokenizer(
        *texts, truncation="longest_first", max_length=length, padding="max_length", return_tensors="pt",
        return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    of_text = torch.tensor([one is not None for one in encoded.sequence_ids(0)])
    ids = encoded["input_ids"]
    embed = model.get_input_embeddings()
    ends = embed(torch.where(of_text, tokenizer.mask_token_id, ids)).detach(), embed(ids).detach()
    given = {name: encoded[name] for name in ("attention_mask", "token_type_ids")}

    def logits(embeddings):
        return model(inputs_embeds=embeddings, **given).logits[0]

    target = int(logits(ends[1]).argmax())
    total = torch.zeros_like(ends[0])
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        point = torch.lerp(*ends, float(node + 1) / 2).requires_grad_()
        total += torch.autograd.grad(logits(point)[target], point)[0] * weight / 2
    values = (total * (ends[1] - ends[0])).sum(-1)[0].double().numpy()
    places = zip(encoded.sequence_ids(0), encoded["offset_mapping"][0].tolist(), values, strict=True)
    difference = (logits(ends[1]) - logits(ends[0]))[target].item()
    summed: dict[tuple[int, int, int], float] = {}
    for number, offset, value in places:
        if number is not None:
            place = (number, *offset)
            summed[place] = summed.get(place, 0.0) + value
    return [(*place, value) for place, value in summed.items()], difference


@pytest.mark.parametrize("texts", [ROWS[0], ROWS[3], *PAIRS])
def test_as_transformers_computes_it(family, tiny_model, texts):
    """Every sign, with its place in its text; one is one token here, or several bytes of one."""
    directory = tiny_model(family, HEAD, num_labels=3)
    (found,), _ = explained(directory, [texts])
    expected, difference = theirs(directory, texts, 8)
    listed = [(number, *span) for number, spans in enumerate(found.spans) for span in spans]
    assert [span[:3] for span in listed] == [span[:3] for span in expected]
    assert_close([span[3] for span in listed], [span[3] for span in expected], 1e-4)
    assert_close(found.logit - found.baseline_logit, difference, of=max(abs(found.logit), abs(found.baseline_logit)))


def test_complete(family, tiny_model):
    """The gap vanishes as steps grow, whatever the row; a row without characters has none."""
    directory = tiny_model(family, HEAD, num_labels=3)
    # DistilBERT's classifier has a relu, whose kink makes the gap fall only as fast as steps grow.
    most, small = (512, 2e-2) if family == "distilbert" else (32, 2e-3)
    gaps = np.array([[one.gap for one in explained(directory, [*ROWS, *PAIRS], steps)[0]] for steps in (1, 8, most)])
    assert gaps[0].max() > 0.02
    assert gaps[1].max() < gaps[0].max()
    assert gaps[2].max() < small


def test_a_linear_logit_by_hand(tiny_model):
    """F = sum of x . w: each token has (x - b) . w, with one step; special tokens have nothing."""
    encoder, row, of_text = small_row(tiny_model)
    weight = torch.randn(3, encoder.config.embedding_size, generator=torch.Generator().manual_seed(1))

    def logits(tokens):
        x = encoder.embeddings.word(tokens.input_ids) @ weight.T  # [total_tokens, 3]
        return torch.stack([part.sum(0) for part in x.split(tokens.lengths)])

    found = integrated_gradients(encoder, logits, row, of_text, 1, 4, 1)
    word = encoder.embeddings.word.weight.detach()
    expected = (word[row.input_ids] - word[4]) @ weight[1] * of_text
    assert_close(found.tokens, expected)
    assert (found.tokens[~of_text.numpy()] == 0).all() and found.gap < 1e-4


def test_a_cubic_logit_by_hand(tiny_model):
    """F = (sum of x . w)^3: each token has (x - b) . w times the mean of 3 f^2 from b to x, exact from two steps on."""
    encoder, row, of_text = small_row(tiny_model)
    weight = torch.randn(encoder.config.embedding_size, generator=torch.Generator().manual_seed(1))

    def logits(tokens):
        x = encoder.embeddings.word(tokens.input_ids) @ weight
        return torch.stack([part.sum() ** 3 for part in x.split(tokens.lengths)])[:, None]

    word = encoder.embeddings.word.weight.detach()
    x, b = (word[ids] @ weight for ids in (row.input_ids, torch.where(of_text, 4, row.input_ids)))
    f, g = x.sum().item(), b.sum().item()
    expected = (x - b).numpy() * (f * f + f * g + g * g)
    np.testing.assert_allclose(integrated_gradients(encoder, logits, row, of_text, 0, 4, 2).tokens, expected, rtol=1e-4)
    assert integrated_gradients(encoder, logits, row, of_text, 0, 4, 1).gap > 1e-2


def small_row(tiny_model):
    encoder = load_trained_classifier(tiny_model("bert", HEAD, num_labels=3), 3).encoder.requires_grad_(False)
    ids = torch.tensor([2, 50, 4, 60, 3, 70, 3])
    row = TokenBatch.from_lengths(ids, torch.zeros_like(ids), [7])
    return encoder, row, torch.tensor([False, True, True, True, False, True, False])


def test_how_many_points_go_together_does_not_matter(tiny_model, monkeypatch):
    directory = tiny_model("bert", HEAD, num_labels=3)
    at_once, model = explained(directory, ROWS)
    monkeypatch.setattr(attribution, "_TOKENS", 50)
    for one, other in zip(at_once, explained(directory, ROWS)[0], strict=True):
        assert [span[:2] for span in one.spans[0]] == [span[:2] for span in other.spans[0]]
        assert_close(*([span[2] for span in some.spans[0]] for some in (one, other)))
    assert not model.encoder.embeddings.word._forward_hooks  # the encoder is as it was


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tiny_model):
    directory = tiny_model("albert", HEAD, num_labels=3)
    on_gpu = Processes(0, 0, 1, torch.device("cuda", 0))
    found, expected = (explained(directory, [*ROWS, *PAIRS], processes=where)[0] for where in (on_gpu, ALONE))
    for one, other in zip(found, expected, strict=True):
        values = [[span[2] for spans in some.spans for span in spans] for some in (one, other)]
        assert_close(*values, 1e-3)


def test_what_was_cut_is_left_out_and_said(tiny_model, messages):
    directory = tiny_model("bert", HEAD, num_labels=3)
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 30)))
    for truncation, left_out in (("head", (18, 30)), ("tail", (0, 12)), ("head_tail", (4, 16))):
        (one, short), _ = explained(directory, [(f"{text}",), ("好",)], 1, 20, truncation)
        assert one.left_out == [left_out] and short.left_out == [None]
        covered = {place for start, end, _ in one.spans[0] for place in range(start, end)}
        assert covered == set(range(30)) - set(range(*left_out))
    assert "1 rows have more than 20 tokens; the text cut off has no attribution" in messages


def test_the_gap_is_reported(tiny_model, messages):
    directory = tiny_model("bert", HEAD, num_labels=3)
    explained(directory, ROWS, 1)
    assert any("raise --explain_steps 1 to bring them nearer" in message for message in messages)
    explained(directory, ROWS, 32)
    assert "the attributions add up to the difference of the logits" in messages[-2] + messages[-1]


def test_gap_of_logits_that_hardly_differ():
    assert Attribution(np.array([0.3, -0.2]), 1.0, 0.8).gap == pytest.approx(0.5)
    assert Attribution(np.zeros(2), 1.0, 1.0 - 1e-7).gap < 1e-3


def test_characters_of_bytes_and_of_pieces(tiny_model):
    """Bytes of one character are one span; the blank that a token begins with is no part of it."""
    directory = tiny_model("bert", HEAD, num_labels=3)
    signs = ["", "", "[CLS]", "[SEP]", "", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    byte_level = Tokenizer(models.BPE(vocab={sign: place for place, sign in enumerate(signs) if sign}, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = ["<unk>", "▁", "▁好", "差", "的", "▁12", "[CLS]", "[SEP]"]
    scores = [0.0, -3.0, -2.0, -2.0, -2.0, -2.0, 0.0, 0.0]
    unigram = Tokenizer(models.Unigram(list(zip(words, scores, strict=True)), 0))
    unigram.normalizer, unigram.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    for tokenizer, text, expected in (
        (byte_level, "a😀 好", ["a", "😀", " ", "好"]),
        (unigram, "差的 好 １２😀ﷺ", ["差", "的", "好", "１２", "😀ﷺ"]),
    ):
        ends = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=None)
        encoder = TextTokenizer(fast, 64)
        (found,), _ = explained(directory, [(text,)], 16, encoder=encoder)
        assert [text[start:end] for start, end, _ in found.spans[0]] == expected
        assert sum(value for _, _, value in found.spans[0]) == pytest.approx(found.logit - found.baseline_logit, rel=0.02)


def test_two_sequences_through_their_vectors(tiny_model):
    """Sentence vectors: each text is a sequence of its own, and both walk the path together."""
    directory = tiny_model("bert")
    encoder = load_trained_classifier(tiny_model("bert", HEAD, num_labels=3), 3, "mean").encoder
    torch.manual_seed(0)
    model = SentencePair(SentenceEncoder(encoder, "mean"), "softmax", 3, concat_multiply=True).eval()
    torch.nn.init.normal_(model.classifier.weight)
    text_encoder = TextTokenizer(load_tokenizer(directory), 16)
    rows = [Row(1, ("好 差", "房间很干净,但是早餐差!的"), None), Row(2, ("的", "的"), None)]
    samples = tokenize(((row.line, row.texts, -1) for row in rows), text_encoder, separate=True)

    def logits(tokens):
        return model.logits(*model.sentence(tokens).chunk(2))

    vectors = Compute(8, ALONE).of_sequences(model.sentence, model.sentence, samples)
    with torch.no_grad():
        expected = model.logits(*(torch.from_numpy(vectors[place::2]) for place in (0, 1))).numpy()
    first, _ = explain_rows(model, logits, rows, samples, expected, text_encoder, 64)
    assert first.logit == pytest.approx(expected[0].max(), rel=1e-4)
    assert [text[start:end] for text, spans in zip(rows[0].texts, first.spans, strict=True) for start, end, _ in spans] == [
        *"好差房间很干净,但是早餐差!的"
    ]
    assert first.gap < 0.01 and first.left_out == [None, None]
