"""The four objectives over two sentence vectors: by hand, and as sentence-transformers computes them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, CosineSimilarityLoss, SoftmaxLoss, TripletLoss
from torch import Tensor, nn

from bertorch.data.batching import Batch
from bertorch.data.tokenizing import load_tokenizer
from bertorch.encoder import TokenBatch
from bertorch.errors import UserError
from bertorch.heads.loss import Loss
from bertorch.tasks.sentences.directory import new_sentence_encoder
from bertorch.tasks.sentences.pair import OBJECTIVES, SentencePair, cosent
from bertorch.training.checkpoints import save_model
from tests.closeness import DOUBLE, assert_close

ROWS, WIDTH = 7, 6


class Given(nn.Module):
    """Stands for a sentence encoder: its vectors are given."""

    def __init__(self, vectors: Tensor):
        super().__init__()
        self.vectors = nn.Parameter(vectors)
        self.output_size = vectors.shape[1]
        self.encoder = SimpleNamespace(config=SimpleNamespace(initializer_range=0.02))

    def forward(self, tokens: None) -> Tensor:
        return self.vectors


class Columns(nn.Module):
    """Stands for a SentenceTransformer: a column of features is its vectors already."""

    device = torch.device("cpu")

    def forward(self, vectors: Tensor) -> dict[str, Tensor]:
        return {"sentence_embedding": vectors}


def batch(labels: Tensor, owners: list[int] = (), places: Tensor | None = None, tokens: TokenBatch | None = None) -> Batch:
    """All u, all v, then a hard negative for each of ``owners``."""
    rows = len(labels)
    owners = torch.tensor([*range(rows), *range(rows), *owners])
    places = torch.arange(len(owners)) if places is None else places
    return Batch(tokens, labels, np.arange(rows), places, owners, torch.arange(len(owners)))


def draw(count: int, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(count))


def gradient(value: Tensor, vectors: Tensor) -> Tensor:
    return torch.autograd.grad(value, vectors)[0]


def with_cosines(*cosines: float) -> Tensor:
    """All u, then all v, with these cosines and lengths other than 1."""
    u = torch.tensor([[3.0, 0.0]] * len(cosines), dtype=torch.float64)
    v = torch.tensor([[2 * cosine, 2 * math.sqrt(1 - cosine**2)] for cosine in cosines], dtype=torch.float64)
    return torch.cat([u, v])


@pytest.mark.parametrize("multiply", [False, True])
def test_softmax_of_sentence_transformers(multiply):
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    model = SentencePair(Given(draw(2 * ROWS)), "softmax", 3, multiply).double()
    with torch.no_grad():
        model.classifier.weight.copy_(draw(3, model.classifier.in_features))
        model.classifier.bias.copy_(draw(1, 3)[0])
    theirs = SoftmaxLoss(Columns(), WIDTH, 3, concatenation_sent_multiplication=multiply).double()
    theirs.classifier.load_state_dict(model.classifier.state_dict())
    vectors = model.sentence.vectors.detach().clone().requires_grad_()
    u, v = vectors.split(ROWS)
    _, expected = theirs([u, v], None)
    assert_close(model.logits(u, v), expected, DOUBLE)
    found, expected_loss = model(batch(labels)), theirs([u, v], labels)
    torch.testing.assert_close(found.mean.double(), expected_loss, rtol=1e-6, atol=0)  # the loss is taken in fp32
    ours = gradient(found.mean, model.sentence.vectors)
    assert_close(ours, gradient(expected_loss, vectors))
    assert found.count == ROWS
    assert 0 < found.correct.item() == sum(expected.argmax(dim=1).tolist()[row] == labels[row].item() for row in range(ROWS))


def test_softmax_features_by_hand():
    """u, v, |u-v|, u*v, in this order: the classifier's lines pick one each."""
    model = SentencePair(Given(draw(2, 2)), "softmax", 8, concat_multiply=True)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.eye(8))
    found = model.logits(torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 4.0]]))
    assert found.tolist() == [[1.0, -2.0, 3.0, 4.0, 2.0, 6.0, 3.0, -8.0]]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_classifier_starts_as_bert_starts_and_only_where_it_is_used(objective):
    model = SentencePair(Given(torch.zeros(2, 512)), objective, num_labels=3)
    if objective == "softmax":
        assert model.classifier.weight.shape == (3, 3 * 512)
        assert (model.classifier.bias == 0).all() and 0.018 < model.classifier.weight.std() < 0.022
    else:
        assert [name for name, _ in model.named_parameters()] == ["sentence.vectors"]


def test_cosent_by_hand():
    """Differences of cosines of 0.2 and 0.4, times 10 ln 2, are factors of 4 and 16; pairs of one score do not compare."""
    cosines, scale = torch.tensor([0.5, 0.3, 0.1], dtype=torch.float64), 10 * math.log(2)
    # The first has the lowest score and the highest cosine: exp(s (0.5 - 0.3)) + exp(s (0.5 - 0.1)) = 4 + 16.
    assert cosent(cosines, torch.tensor([1.0, 2.0, 2.0]), scale).item() == pytest.approx(math.log(1 + 4 + 16))
    assert cosent(cosines, torch.tensor([1.0, 2.0, 3.0]), scale).item() == pytest.approx(math.log(1 + 4 + 16 + 4))
    # In the right order each factor is one below 1.
    assert cosent(cosines, torch.tensor([3.0, 2.0, 2.0]), scale).item() == pytest.approx(math.log(1 + 1 / 4 + 1 / 16))
    # Through the head: the loss is one value for the batch, weighted by its rows.
    found = SentencePair(Given(with_cosines(0.5, 0.3, 0.1)), "cosent", scale=scale)(batch(torch.tensor([1.0, 2.0, 2.0])))
    assert (found.mean.item(), found.count) == (pytest.approx(math.log(21)), 3)
    assert found.total.item() == pytest.approx(3 * math.log(21))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cosent_on_a_gpu():
    cosines, scores = torch.rand(9, generator=torch.Generator().manual_seed(0)), torch.arange(9.0) % 4
    torch.testing.assert_close(cosent(cosines.cuda(), scores.cuda(), 20.0).cpu(), cosent(cosines, scores, 20.0))


def test_cosent_knows_only_the_order_of_scores():
    cosines, scores = draw(1, 9)[0].tanh(), torch.tensor([0.0, 3.0, 1.0, 1.0, 5.0, 2.0, 0.0, 3.0, 4.0])
    found = cosent(cosines, scores, 20.0)
    assert cosent(cosines, scores.exp() / 7 - 3, 20.0) == found
    order = torch.tensor([4, 0, 8, 1, 3, 2, 7, 5, 6])
    assert cosent(cosines[order], scores[order], 20.0).item() == pytest.approx(found.item(), rel=1e-12)


@pytest.mark.parametrize("scores", [[2.0] * 4, [1.0]], ids=["all the same score", "one row"])
def test_cosent_without_anything_to_compare(scores):
    vectors = draw(2 * len(scores))
    model = SentencePair(Given(vectors), "cosent")
    found = model(batch(torch.tensor(scores)))
    assert found.total.item() == 0.0
    assert (gradient(found.total, model.sentence.vectors) == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=10), st.sampled_from([1.0, 20.0]))
def test_cosent_of_sentence_transformers(scores, scale):
    labels = torch.tensor([float(score) for score in scores])
    model = SentencePair(Given(draw(2 * len(scores))), "cosent", scale=scale)
    found = model(batch(labels)).mean
    vectors = model.sentence.vectors.detach().clone().requires_grad_()
    expected = CoSENTLoss(None, scale=scale).compute_loss_from_embeddings(list(vectors.split(len(scores))), labels)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    ours = gradient(found, model.sentence.vectors)
    torch.testing.assert_close(ours, gradient(expected, vectors), rtol=0, atol=1e-9)


def test_cosine_mse_by_hand():
    model = SentencePair(Given(with_cosines(0.6, -0.5)), "cosine_mse", max_score=5.0)
    found = model(batch(torch.tensor([4.0, 0.0])))  # 0.6 against 4 / 5, -0.5 against 0
    assert (found.total.item(), found.count) == (pytest.approx(0.2**2 + 0.5**2, rel=1e-6), 2)


def test_cosine_mse_of_sentence_transformers():
    scores = torch.tensor([0.0, 5.0, 2.5, 1.0, 4.0, 3.0, 5.0])
    model = SentencePair(Given(draw(2 * ROWS).float()), "cosine_mse", max_score=5.0)
    found = model(batch(scores)).mean
    vectors = model.sentence.vectors.detach().clone().requires_grad_()
    expected = CosineSimilarityLoss(None).compute_loss_from_embeddings(list(vectors.split(ROWS)), scores / 5)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    ours = gradient(found, model.sentence.vectors)
    assert_close(ours, gradient(expected, vectors))


# u, v and a negative in a plane; distances 5 and 10, 5 and 1, 0 and 2.
TRIPLETS = [[0, 0], [1, 1], [2, 0], [3, 4], [4, 5], [2, 0], [6, 8], [1, 2], [0, 0]]


@pytest.mark.parametrize(("margin", "terms"), [(1.0, [0, 5, 0]), (4.0, [0, 8, 2]), (6.0, [1, 10, 4])])
def test_triplet_by_hand(margin, terms):
    """max(0, d(u, v) - d(u, n) + margin)"""
    vectors = torch.tensor(TRIPLETS, dtype=torch.float64)
    found = SentencePair(Given(vectors), "triplet", margin=margin)(batch(torch.full((3,), -1), owners=[0, 1, 2]))
    assert (found.total.item(), found.count) == (pytest.approx(sum(terms), abs=1e-4), 3)


@pytest.mark.parametrize("margin", [0.5, 1.0, 5.0])
def test_triplet_of_sentence_transformers(margin):
    """Their Euclidean distance; torch's adds 1e-6 to each difference."""
    model = SentencePair(Given(draw(3 * ROWS)), "triplet", margin=margin)
    found = model(batch(torch.full((ROWS,), -1), owners=list(range(ROWS)))).mean
    vectors = model.sentence.vectors.detach().clone().requires_grad_()
    theirs = TripletLoss(None, triplet_margin=margin)
    expected = theirs.compute_loss_from_embeddings(list(vectors.split(ROWS)), None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    ours = gradient(found, model.sentence.vectors)
    torch.testing.assert_close(ours, gradient(expected, vectors), rtol=0, atol=1e-5)


def test_triplet_with_several_negatives_a_row():
    """Each negative is a term against its own row; a row without one has none."""
    u = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 0.0]])
    v = torch.tensor([[3.0, 4.0], [10.0, 2.0], [9.0, 9.0]])  # distances 5, 2, and one that no term asks for
    negatives = torch.tensor([[0.0, 1.0], [10.0, 1.0], [0.0, 4.5], [10.0, 12.0]])  # of rows 0 1 0 1: 1, 1, 4.5, 12
    model = SentencePair(Given(torch.cat([u, v, negatives])), "triplet", margin=1.0)
    found = model(batch(torch.full((3,), -1), owners=[0, 1, 0, 1]))
    assert found.count == 4
    assert found.total.item() == pytest.approx((5 - 1 + 1) + (2 - 1 + 1) + (5 - 4.5 + 1) + 0, abs=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_texts_are_found_at_their_places(objective):
    """The batch holds its sequences in the order of their lengths."""
    vectors, places = draw(3 * ROWS), torch.randperm(3 * ROWS, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    labels = labels if objective == "softmax" else labels.double()
    plain = SentencePair(Given(vectors), objective).double()
    stored = torch.empty_like(vectors).index_copy(0, places, vectors)
    moved = SentencePair(Given(stored), objective).double()
    if objective == "softmax":
        moved.classifier.load_state_dict(plain.classifier.state_dict())
    owners = list(range(ROWS))
    found, expected = moved(batch(labels, owners, places)), plain(batch(labels, owners))
    assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    assert expected.total.item() > 0


@pytest.mark.parametrize("objective", ["cosent", "cosine_mse", "triplet"])
def test_similarities_of_half_precision_vectors_are_computed_in_fp32(objective):
    vectors = draw(3 * ROWS).bfloat16()
    data = batch(torch.tensor([0.0, 1.0, 1.0, 0.0, 0.5, 0.2, 0.1]), owners=list(range(ROWS)))
    with torch.autocast("cpu", torch.bfloat16):
        found = SentencePair(Given(vectors), objective)(data)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, SentencePair(Given(vectors.float()), objective)(data).total, rtol=1e-6, atol=0)


def tokens(count: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    lengths = [2 + place % 5 for place in range(count)]
    ids = torch.randint(5, 100, (sum(lengths),), generator=generator)
    return TokenBatch.from_lengths(ids, torch.zeros_like(ids), lengths)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mode", ["linear", "mean"])
def test_every_weight_has_a_gradient(tiny_model, objective, mode):
    """A weight without one would keep DistributedDataParallel waiting."""
    sentence, _ = new_sentence_encoder(tiny_model("bert"), mode, output_emb_size=6, normalize=True)
    model = SentencePair(sentence, objective).train()
    labels = torch.tensor([0, 1, 1]) if objective == "softmax" else torch.tensor([0.0, 1.0, 0.5])
    found = model(batch(labels, owners=[0, 1, 2], tokens=tokens(9)))
    assert isinstance(found, Loss) and (found.correct is None) == (objective != "softmax")
    found.mean.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A directory with a classifier of three labels over (u, v, |u-v|), and the model in it."""
    directory = tiny_model("bert")
    sentence, _ = new_sentence_encoder(directory, "mean")
    model = SentencePair(sentence, "softmax", num_labels=3)
    nn.init.normal_(model.classifier.weight)
    nn.init.normal_(model.classifier.bias)
    description = {
        "task": "sentence_vectors",
        "labels": ["no", "maybe", "yes"],
        "max_seq_length": 32,
        "pooling_mode": "mean",
    }
    save_model(tmp_path / "saved", model, load_tokenizer(directory), description)
    return tmp_path / "saved", model


def test_warm_start_of_the_classifier(saved):
    """From the directory of an earlier run: same vectors, same logits."""
    directory, trained = saved
    sentence, rest = new_sentence_encoder(directory, "mean")
    model = SentencePair(sentence, "softmax", num_labels=3)
    assert model.fill_head(rest, directory, required=False) == set(rest) == {"classifier.weight", "classifier.bias"}
    vectors, expected = model.eval().sentence(tokens(4)), trained.eval().sentence(tokens(4))
    assert torch.equal(vectors, expected)
    assert torch.equal(model.logits(vectors[:2], vectors[2:]), trained.logits(expected[:2], expected[2:]))


@pytest.mark.parametrize(("num_labels", "multiply"), [(2, False), (3, True)], ids=["other labels", "other features"])
def test_a_classifier_that_does_not_fit(saved, num_labels, multiply):
    directory, _ = saved
    sentence, rest = new_sentence_encoder(directory, "mean")
    model = SentencePair(sentence, "softmax", num_labels, multiply)
    before = model.classifier.weight.detach().clone()
    assert model.fill_head(rest, directory, required=False) == set()
    assert torch.equal(model.classifier.weight, before)
    with pytest.raises(
        UserError, match=rf"classifier\.weight is \[3, 96\], expected \[{num_labels}, {128 if multiply else 96}\]"
    ):
        model.fill_head(rest, directory, required=True)


@pytest.mark.parametrize("missing", ["classifier.weight", "classifier.bias"])
def test_half_a_classifier(saved, missing):
    """A bias belongs to its weight."""
    directory, _ = saved
    sentence, rest = new_sentence_encoder(directory, "mean")
    rest = {name: tensor for name, tensor in rest.items() if name != missing}
    model = SentencePair(sentence, "softmax", num_labels=3)
    for required in (False, True):
        with pytest.raises(UserError, match=missing):
            model.fill_head(rest, directory, required=required)
    assert (model.classifier.bias == 0).all()


def test_other_objectives_take_no_classifier(saved):
    directory, _ = saved
    sentence, rest = new_sentence_encoder(directory, "mean")
    model = SentencePair(sentence, "cosent")
    assert model.fill_head(rest, directory, required=False) == set()
    assert not any(name.startswith("classifier") for name in model.saved_files(32)["model.safetensors"])


def test_warm_start_from_a_single_file(saved, tiny_model):
    """The classifier stands beside the encoder's weights, under its own name."""
    directory, trained = saved
    checkpoint = directory / "model.safetensors"
    assert torch.equal(load_file(checkpoint)["classifier.weight"], trained.classifier.weight)
    sentence, rest = new_sentence_encoder(tiny_model("bert"), "mean", init_from_ckpt=checkpoint)
    model = SentencePair(sentence, "softmax", num_labels=3)
    assert model.fill_head(rest, checkpoint, required=True) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.classifier.bias, trained.classifier.bias)


def test_warm_start_from_a_checkpoint_of_distributed_training(saved, tiny_model, tmp_path):
    """DistributedDataParallel puts ``module.`` before every name."""
    directory, trained = saved
    checkpoint = tmp_path / "wrapped.bin"
    torch.save({f"module.{name}": tensor for name, tensor in load_file(directory / "model.safetensors").items()}, checkpoint)
    sentence, rest = new_sentence_encoder(tiny_model("bert"), "mean", init_from_ckpt=checkpoint)
    model = SentencePair(sentence, "softmax", num_labels=3)
    assert model.fill_head(rest, checkpoint, required=False) == set(rest)
    assert torch.equal(model.classifier.weight, trained.classifier.weight)
