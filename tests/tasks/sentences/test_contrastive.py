"""The in-batch loss by hand, by its definition and by sentence-transformers; what is masked out of it as a duplicate."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn

from bertorch.data.batching import Batch, collate
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer, tokenize
from bertorch.encoder import TokenBatch
from bertorch.heads.loss import Loss
from bertorch.tasks.sentences.contrastive import Contrastive, duplicates
from bertorch.tasks.sentences.directory import new_sentence_encoder


class Given(nn.Module):
    """Stands for a sentence encoder: its vectors are given."""

    def __init__(self, vectors: Tensor):
        super().__init__()
        self.vectors = nn.Parameter(vectors)

    def forward(self, tokens: None) -> Tensor:
        return self.vectors


def batch(rows: int, hashes: list[int], places: Tensor | None = None) -> Batch:
    """``rows`` texts, as many positives, then hard negatives; one hash each."""
    count = len(hashes)
    places = torch.arange(count) if places is None else places
    owners = torch.arange(count) % rows
    return Batch(None, torch.full((rows,), -1), np.arange(rows), places, owners, torch.tensor(hashes))


def loss(vectors: Tensor, rows: int, hashes: list[int] | None = None, **options) -> Loss:
    """Of vectors in the order of ``batch``; all texts differ where no hashes are given."""
    options = {"margin": 0.0, **options}
    return Contrastive(Given(vectors), **options)(batch(rows, list(range(len(vectors))) if hashes is None else hashes))


# Two texts, their positives and a hard negative. All have Euclidean length 1, 2, 3, 4 or 5, and the cosines
#            v0   v1   n
#       u0   0.6  0    0.8
#       u1   0.8  1    0.6
# With the scale 5 ln 2, exp(scale * cosine) is 2 ** (5 * cosine): 8 1 16 in the first line, 16 32 8 in the second.
BY_HAND = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [0.0, 3.0], [3.2, 2.4]], dtype=torch.float64)
SCALE = 5 * math.log(2)


@pytest.mark.parametrize(
    ("negatives", "options", "shares"),
    [
        (0, {}, [8 / (8 + 1), 32 / (16 + 32)]),
        (1, {}, [8 / (8 + 1 + 16), 32 / (16 + 32 + 8)]),
        # 0.2 less for a positive halves its 2 ** (5 * cosine).
        (0, {"margin": 0.2}, [4 / (4 + 1), 16 / (16 + 16)]),
        (1, {"margin": 0.2}, [4 / (4 + 1 + 16), 16 / (16 + 16 + 8)]),
        # The other direction reads the columns, and knows no hard negatives; the mean of logs is the log of a root.
        (0, {"mean_loss": True}, [(8 / 9 * 8 / 24) ** 0.5, (32 / 48 * 32 / 33) ** 0.5]),
        (1, {"mean_loss": True}, [(8 / 25 * 8 / 24) ** 0.5, (32 / 56 * 32 / 33) ** 0.5]),
        (0, {"mean_loss": True, "margin": 0.2}, [(4 / 5 * 4 / 20) ** 0.5, (16 / 32 * 16 / 17) ** 0.5]),
    ],
)
def test_by_hand(negatives, options, shares):
    found = loss(BY_HAND[: 4 + negatives], 2, scale=SCALE, **options)
    assert found.total.item() == pytest.approx(-math.log(shares[0]) - math.log(shares[1]), rel=1e-7)
    assert found.count == 2 and found.correct is None


def test_defaults():
    """Scale 20 and margin 0.2, one direction, duplicates masked."""
    found = Contrastive(Given(BY_HAND))(batch(2, [0, 1, 2, 3, 3])).total.item()
    first = math.exp(20 * 0.4) / (math.exp(20 * 0.4) + math.exp(0) + math.exp(20 * 0.8))
    second = math.exp(20 * 0.8) / (math.exp(20 * 0.8) + math.exp(20 * 0.8))  # of u1 and v0; the negative is v1's text
    assert found == pytest.approx(-math.log(first) - math.log(second), rel=1e-6)


def test_texts_are_found_at_their_places():
    """The batch holds its sequences in the order of their lengths."""
    order = torch.tensor([3, 0, 4, 1, 2])
    stored = torch.empty_like(BY_HAND).index_copy(0, order, BY_HAND)
    model = Contrastive(Given(stored), scale=SCALE, margin=0.0)
    found = model(batch(2, [0, 1, 2, 3, 4], places=order)).total.item()
    assert found == pytest.approx(math.log(25 / 8) + math.log(56 / 32), rel=1e-12)


def draw(count: int, width: int = 6) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def gradient(value: Tensor, vectors: Tensor) -> Tensor:
    return torch.autograd.grad(value, vectors)[0]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("negatives", [(), (7,), (7, 7), (7, 3)], ids=str)
def test_sentence_transformers_agrees(negatives, symmetric):
    """Value and gradient of MultipleNegativesRankingLoss, at its own scale of 20.

    Its symmetric form adds half of both directions, documents to queries for the positives alone. Where not all rows
    have a second hard negative, the columns are of unequal length.
    """
    rows = 7
    vectors = draw(2 * rows + sum(negatives))
    columns = vectors.clone().requires_grad_()
    directions = ("query_to_doc", "doc_to_query") if symmetric else ("query_to_doc",)
    partition = "per_direction" if symmetric else "joint"
    theirs = MultipleNegativesRankingLoss(None, directions=directions, partition_mode=partition)
    expected = theirs.compute_loss_from_embeddings(list(columns.split([rows, rows, *negatives])), None)
    model = Contrastive(Given(vectors), margin=0.0, mean_loss=symmetric)
    found = model(batch(rows, list(range(len(vectors)))))
    torch.testing.assert_close(found.mean, expected, rtol=1e-10, atol=0)
    ours = gradient(found.mean, model.sentence.vectors)
    torch.testing.assert_close(ours, gradient(expected, columns), rtol=0, atol=1e-10)


def by_definition(
    vectors: Tensor, hashes: list[int], rows: int, scale: float, margin: float, mean: bool, mask: bool
) -> float:
    """The class's docstring, term by term."""
    unit = [row / row.norm() for row in vectors.detach()]
    texts, candidates = unit[:rows], unit[rows:]
    pairs = [{hashes[row], hashes[rows + row]} for row in range(rows)]
    known = [*pairs, *({one} for one in hashes[2 * rows :])]

    def cost(row: int, anchor: Tensor, others: list[Tensor], theirs: list[set[int]]) -> float:
        scores = {}
        for number, other in enumerate(others):
            if number == row or not mask or not (theirs[number] & pairs[row]):
                scores[number] = scale * ((anchor @ other).item() - margin * (number == row))
        return math.log(sum(math.exp(score) for score in scores.values())) - scores[row]

    forth = sum(cost(row, texts[row], candidates, known) for row in range(rows))
    back = sum(cost(row, candidates[row], texts, pairs) for row in range(rows))
    return (forth + back) / 2 if mean else forth


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_definition(data):
    rows = data.draw(st.integers(1, 5))
    count = 2 * rows + data.draw(st.integers(0, 4))
    hashes = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    mean, mask = data.draw(st.booleans()), data.draw(st.booleans())
    scale, margin = data.draw(st.sampled_from([1.0, 20.0])), data.draw(st.sampled_from([0.0, 0.25]))
    vectors = draw(count)
    model = Contrastive(Given(vectors), margin, scale, mean, mask)
    found = model(batch(rows, hashes)).total
    assert found.item() == pytest.approx(
        by_definition(vectors, hashes, rows, scale, margin, mean, mask), rel=1e-9, abs=1e-12
    )
    assert gradient(found, model.sentence.vectors).isfinite().all()


@pytest.mark.parametrize(
    ("case", "hashes", "kept"),
    [
        # Which of 8 1 16 and 16 32 8 (see BY_HAND) each row's sum keeps.
        ("all differ", [0, 1, 2, 3, 4], [[8, 1, 16], [16, 32, 8]]),
        ("the same text twice", [0, 0, 2, 3, 4], [[8, 16], [32, 8]]),
        ("the same positive twice", [0, 1, 2, 2, 4], [[8, 16], [32, 8]]),
        ("a text is another's positive", [0, 1, 2, 0, 4], [[8, 16], [32, 8]]),
        ("a positive is another's text", [0, 2, 2, 3, 4], [[8, 16], [32, 8]]),
        ("a text is its own positive, as in SimCSE", [0, 1, 0, 1, 4], [[8, 1, 16], [16, 32, 8]]),
        ("the negative is the first text", [0, 1, 2, 3, 0], [[8, 1], [16, 32, 8]]),
        ("the negative is the first positive", [0, 1, 2, 3, 2], [[8, 1], [16, 32, 8]]),
        ("the negative is the second positive", [0, 1, 2, 3, 3], [[8, 1, 16], [16, 32]]),
        ("nothing but duplicates", [5, 5, 5, 5, 5], [[8], [32]]),
    ],
)
def test_duplicates_are_no_negatives(case, hashes, kept):
    found = loss(BY_HAND, 2, hashes, scale=SCALE).total.item()
    assert found == pytest.approx(math.log(sum(kept[0]) / 8) + math.log(sum(kept[1]) / 32), rel=1e-12, abs=1e-12), case
    unmasked = loss(BY_HAND, 2, hashes, scale=SCALE, mask_duplicates=False).total.item()
    assert unmasked == pytest.approx(math.log(25 / 8) + math.log(56 / 32), rel=1e-12)


def test_duplicates_are_no_negatives_of_the_other_direction():
    found = loss(BY_HAND[:4], 2, [0, 0, 2, 3], scale=SCALE, mean_loss=True).total.item()
    assert found == pytest.approx(0.0, abs=1e-12)  # both rows are left with their positive
    unmasked = loss(BY_HAND[:4], 2, [0, 0, 2, 3], scale=SCALE, mean_loss=True, mask_duplicates=False).total.item()
    assert unmasked == pytest.approx((math.log(9 / 8) + math.log(48 / 32) + math.log(24 / 8) + math.log(33 / 32)) / 2)


def test_a_masked_candidate_gets_no_gradient():
    """The hard negative is the first text: the second row alone pushes it away, as sentence-transformers' loss would."""
    vectors = draw(5)
    model = Contrastive(Given(vectors), margin=0.0)
    found = gradient(model(batch(2, [0, 1, 2, 3, 0])).total, model.sentence.vectors)
    columns = vectors.clone().requires_grad_()
    second, others = columns[1:2], columns[2:].unbind(0)  # the second text, its own positive first
    theirs = MultipleNegativesRankingLoss(None)
    expected = theirs.compute_loss_from_embeddings([second, *(others[place][None] for place in (1, 0, 2))], None)
    torch.testing.assert_close(found[4], gradient(expected, columns)[4])
    alone = Contrastive(Given(vectors[:3]))
    found = gradient(alone(batch(1, [0, 1, 1])).total, alone.sentence.vectors)
    assert (found == 0).all()


_HASHES = st.integers(-2, 4)
_PAIRS = st.lists(st.tuples(_HASHES, _HASHES), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(_PAIRS, _PAIRS)
def test_duplicates_one_by_one(pairs, known):
    found = duplicates(torch.tensor(pairs), torch.tensor(known))
    assert found.dtype == torch.bool
    for (row, mine), (column, theirs) in product(enumerate(pairs), enumerate(known)):
        assert found[row, column].item() == any(one == other for one in mine for other in theirs)


def test_hashes_are_compared_in_all_their_bits():
    near = torch.tensor([[2**53, 2**62]])
    assert not duplicates(near, near + 1).any()


@pytest.mark.parametrize("mean_loss", [False, True])
def test_a_batch_of_one_row(mean_loss):
    """A last batch: without anything to tell apart the loss is 0, and its gradient too."""
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [4.0, 3.0]], dtype=torch.float64)
    model = Contrastive(Given(vectors[:2]), mean_loss=mean_loss)
    found = model(batch(1, [0, 1]))
    assert (found.total.item(), found.count) == (0.0, 1)
    assert gradient(found.total, model.sentence.vectors).abs().max() < 1e-12
    # With a hard negative, 2 ** 3 for the positive and 2 ** 4 for the negative; back there is but one text.
    found = loss(vectors, 1, scale=SCALE, mean_loss=mean_loss).total.item()
    assert found == pytest.approx(math.log(24 / 8) / (2 if mean_loss else 1), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_similarities_of_half_precision_vectors_are_computed_in_fp32(dtype):
    vectors = draw(12).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(vectors, 4, mean_loss=True).total
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(vectors.float(), 4, mean_loss=True).total, rtol=1e-6, atol=0)


TEXTS = [
    ("房间干净", "房间很干净，服务也好", "早餐很差"),
    ("电影好看", "好看的电影", "书不好"),
    ("早餐很差", "早餐不好吃"),  # its text is the first row's negative
    ("质量好", "质量很好，喜欢"),
    ("质量好", "价格便宜，质量好"),  # a text that stands in two rows
]


@pytest.mark.parametrize("mean_loss", [False, True])
def test_from_texts_to_the_loss(tiny_model, mean_loss):
    """Texts of unequal lengths, packed by length: the loss is the definition's over each text's own vector."""
    directory = tiny_model("bert")
    encoder = TextTokenizer(load_tokenizer(directory), 32)
    samples = tokenize(((row, texts, -1) for row, texts in enumerate(TEXTS)), encoder, separate=True)
    sentence, _ = new_sentence_encoder(directory, "mean", dropout=0.0)
    model = Contrastive(sentence.double(), margin=0.25, mean_loss=mean_loss)
    found = model(collate(samples, np.array([3, 0, 4, 2, 1])))
    flat = [texts[turn] for turn in range(3) for texts in TEXTS if len(texts) > turn]
    with torch.no_grad():
        vectors = torch.cat([sentence(tokens) for tokens in packed(encoder, flat)])
    hashes = [flat.index(text) for text in flat]
    expected = by_definition(vectors, hashes, len(TEXTS), 20.0, 0.25, mean_loss, True)
    assert found.total.item() == pytest.approx(expected, rel=1e-9)
    assert expected != pytest.approx(by_definition(vectors, hashes, len(TEXTS), 20.0, 0.25, mean_loss, False), rel=1e-3)
    assert found.count == len(TEXTS)


def packed(encoder: TextTokenizer, texts: list[str]) -> list[TokenBatch]:
    """Each text for itself."""
    ids = [ids for ids, *_ in encoder.encode([(text,) for text in texts])]
    return [TokenBatch.from_lengths(torch.tensor(one), torch.zeros(len(one), dtype=torch.long), [len(one)]) for one in ids]


@pytest.mark.parametrize("mode", ["linear", "cls", "first_last"])
def test_simcse(tiny_model, mode):
    """Every sentence twice, each time with another dropout; every weight has a gradient."""
    directory = tiny_model("bert")
    encoder = TextTokenizer(load_tokenizer(directory), 32)
    samples = tokenize(((row, texts[:1], -1) for row, texts in enumerate(TEXTS[:4])), encoder, separate=True)
    samples.copies = 2
    sentence, _ = new_sentence_encoder(directory, mode, dropout=0.2)
    model = Contrastive(sentence, margin=0.0).train()
    seen = []
    sentence.register_forward_hook(lambda module, args, vectors: seen.append(vectors.detach()))
    data = collate(samples, np.arange(4))
    torch.manual_seed(0)
    found = model(data)
    found.total.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    vectors = seen[0][data.places].double()
    assert len(vectors) == 8 and (vectors[:4] - vectors[4:]).abs().amax(dim=1).min() > 0.01
    assert found.total.item() == pytest.approx(by_definition(vectors, [0, 1, 2, 3] * 2, 4, 20.0, 0.0, False, True), rel=1e-4)


def test_saved_is_the_sentence_encoder_alone(tiny_model):
    sentence, _ = new_sentence_encoder(tiny_model("bert"), "mean")
    model = Contrastive(sentence)
    assert model.encoder is sentence.encoder
    assert {name for name, _ in model.named_parameters()} == {f"sentence.{name}" for name, _ in sentence.named_parameters()}
    tensors = model.saved_files(32)["model.safetensors"]
    assert len(tensors) == len(list(sentence.parameters()))
    assert model.saved_files(32)["sentence_bert_config.json"]["max_seq_length"] == 32
