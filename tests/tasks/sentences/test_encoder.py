"""Sentence vectors are transformers' states, pooled by hand; chunks of a batch change neither vectors nor gradients."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModel

from bertorch.encoder import TokenBatch, load_encoder
from bertorch.errors import UserError
from bertorch.heads.pooling import PLAIN_POOLING_MODES, POOLING_MODES
from bertorch.tasks.sentences.directory import new_sentence_encoder
from bertorch.tasks.sentences.encoder import Dense, SentenceEncoder, gather, sizes_over_ranks
from tests.closeness import assert_close
from tests.conftest import WITHOUT_POOLER
from tests.padding import given_to

LENGTHS = [9, 4, 9, 1, 6]
# Mean over the tokens, then over the layers: the layers that a mode averages, as transformers counts `hidden_states`.
CLS = {"xlnet": -1}  # the place of the classification token, where it is not the first
LAYERS = {"mean": (3,), "first_last": (1, 3), "last_two": (2, 3)}


def draw(lengths: list[int] = LENGTHS, vocab_size: int = 100) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab_size, (sum(lengths),), generator=generator)
    return TokenBatch.from_lengths(ids, torch.randint(2, ids.shape, generator=generator), lengths)


@pytest.fixture(scope="module")
def reference(tiny_model) -> Callable:
    """``reference(family)`` -> what transformers computes for ``draw()``, real tokens only.

    The states after the embeddings and after each layer, a list over layers of lists over texts of ``[length, D]``; and
    the pooler's output ``[texts, D]``, or None.
    """
    known = {}

    def compute(family: str) -> tuple[list[list[Tensor]], Tensor | None]:
        if family not in known:
            model = AutoModel.from_pretrained(tiny_model(family)).eval()
            tokens = draw()
            with torch.no_grad():
                out = model(**given_to(model, tokens), output_hidden_states=True)
            # ALBERT records a state after each of a group's blocks; those after the last of them are a layer's. Megatron's
            # last layer is recorded twice, at last under the norm that the model ends with.
            states = out.hidden_states[:: getattr(model.config, "inner_group_num", 1)][: model.config.num_hidden_layers]
            states = [*states, out.last_hidden_state]
            known[family] = (
                [[row[:length] for row, length in zip(layer, LENGTHS, strict=True)] for layer in states],
                getattr(out, "pooler_output", None),
            )
        return known[family]

    return compute


@pytest.mark.parametrize("mode", [mode for mode in PLAIN_POOLING_MODES if mode != "linear"])
def test_vectors_from_transformers_states(family, mode, tiny_model, reference):
    layers, _ = reference(family)
    assert len(layers) == 4  # embeddings and three layers
    if mode in LAYERS:
        chosen = [layers[number] for number in LAYERS[mode]]
        expected = [torch.stack(states).mean(dim=0).mean(dim=0) for states in zip(*chosen, strict=True)]
    else:
        expected = [states[CLS.get(family, 0)] if mode == "cls" else states.max(dim=0).values for states in layers[3]]
    model, _ = new_sentence_encoder(tiny_model(family), mode)
    assert model.encoder.pooler is None  # DistributedDataParallel would wait for its gradient
    with torch.no_grad():
        assert_close(model.eval()(draw()), torch.stack(expected))


def test_linear_is_the_pooler(family, tiny_model, reference):
    layers, pooled = reference(family)
    model, _ = new_sentence_encoder(tiny_model(family), "linear")
    with torch.no_grad():
        vectors = model.eval()(draw())
    if pooled is not None:
        assert_close(vectors, pooled)
    dense = model.encoder.pooler.dense
    assert (pooled is None) == (family in WITHOUT_POOLER)
    if pooled is None:  # a new one, small and without bias
        assert (dense.bias == 0).all() and 0.01 < dense.weight.std() < 0.03
    first = torch.stack([states[CLS.get(family, 0)] for states in layers[3]])
    assert_close(vectors, torch.tanh(first @ dense.weight.T + dense.bias).detach())


@pytest.mark.parametrize("mode", ["scalar_mix", "cls_layers", "attention"])
def test_learned_vectors_from_transformers_states(family, mode, tiny_model, reference):
    """The definitions, text by text, with drawn weights."""
    layers, _ = reference(family)
    model, _ = new_sentence_encoder(tiny_model(family), mode, pooling_layers=None if mode == "attention" else 2)
    weights = torch.randn(32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for parameter in model.pooling.parameters():
            parameter.copy_(weights[: parameter.numel()])
    expected = []
    for before, last in zip(layers[2], layers[3], strict=True):
        if mode == "scalar_mix":
            first, second = weights[:2].exp() / weights[:2].exp().sum()
            expected.append((first * before + second * last).mean(dim=0))
        elif mode == "cls_layers":
            place = CLS.get(family, 0)
            expected.append(torch.cat([before[place], last[place]]))
        else:
            share = (last @ weights).exp()
            expected.append((share[:, None] * last).sum(dim=0) / share.sum())
    assert model.output_size == len(expected[0]) and model.encoder.pooler is None
    with torch.no_grad():
        assert_close(model.eval()(draw()), torch.stack(expected))


@pytest.mark.parametrize("mode", ["scalar_mix", "attention"])
def test_learned_weights_start_equal_and_learn(mode, tiny_model):
    """At first they are the mean; their gradient is that of differences of the loss."""
    model = new_sentence_encoder(tiny_model("bert"), mode, dropout=0.0)[0].double()
    states = model.encoder(draw(), (1, 2, 3))
    mixed = sum(states) / 3 if mode == "scalar_mix" else states[-1]
    assert_close(model(draw()), torch.stack([part.mean(dim=0) for part in mixed.split(LENGTHS)]).detach())
    (weights,) = model.pooling.parameters()
    (gradient,) = torch.autograd.grad(model(draw()).square().sum(), weights)
    with torch.no_grad():
        for place in range(3):
            moved = []
            for step in (1e-5, -2e-5):
                weights[place] += step
                moved.append(model(draw()).square().sum())
            weights[place] += 1e-5
            assert (moved[0] - moved[1]).item() / 2e-5 == pytest.approx(gradient[place].item(), rel=1e-5, abs=1e-9)


def test_large_scores_of_attention(tiny_model):
    """Their exponentials are beyond fp32; the softmax is not."""
    model, _ = new_sentence_encoder(tiny_model("bert"), "attention")
    with torch.no_grad():
        model.pooling.scores.fill_(1e4)
        states = model.eval().encoder(draw()).split(LENGTHS)
        expected = torch.stack([part[part.sum(dim=1).argmax()] for part in states])
        assert_close(model(draw()), expected)


@pytest.mark.parametrize(("mode", "count", "says"), [("scalar_mix", 4, "has 3 layers"), ("mean", 2, "takes none")])
def test_layers_that_do_not_fit(tiny_model, mode, count, says):
    with pytest.raises(UserError, match=says):
        new_sentence_encoder(tiny_model("bert"), mode, pooling_layers=count)


def test_modes_differ(tiny_model):
    """So that one mode's expectation cannot be met by another's code."""
    vectors = []
    for mode in PLAIN_POOLING_MODES:
        torch.manual_seed(0)
        vectors.append(new_sentence_encoder(tiny_model("bert"), mode)[0].eval()(draw()).detach())
    for first, one in enumerate(vectors):
        assert all((one - other).abs().max() > 0.05 for other in vectors[:first])


@pytest.mark.parametrize("average", [(0,), (0, 3), (2,), (1, 1, 3), (3, 2, 1, 0)], ids=str)
def test_states_of_layers(family, average, tiny_model, reference):
    layers, _ = reference(family)
    encoder, _ = load_encoder(tiny_model(family))
    with torch.no_grad():
        for found, number in zip(encoder.eval()(draw(), average), average, strict=True):
            assert_close(found, torch.cat(layers[number]))
        assert torch.equal(encoder(draw(), (3,))[0], encoder(draw()))


def test_average_layers_with_gradient_checkpointing(tiny_model):
    gradients = []
    for checkpointing in (False, True):
        model, _ = new_sentence_encoder(tiny_model("albert"), "first_last", dropout=0.0)
        model.encoder.gradient_checkpointing = checkpointing
        model.double()(draw()).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_same_gradients(*gradients, tolerance=1e-12)


def test_averages_of_a_model_of_one_layer(tiny_model):
    """Its first layer is its last; the one before it are the embeddings."""
    directory = tiny_model("bert", num_hidden_layers=1)
    encoder = load_encoder(directory)[0].eval()
    tokens = draw()
    with torch.no_grad():
        last, embedded = encoder(tokens), encoder.embeddings(tokens)
        for mode, states in (("first_last", last), ("last_two", (embedded + last) / 2)):
            vectors = new_sentence_encoder(directory, mode)[0].eval()(tokens)
            assert_close(vectors, torch.stack([part.mean(dim=0) for part in states.split(LENGTHS)]))


@pytest.mark.parametrize("act", [None, "tanh", "relu"])
@pytest.mark.parametrize("normalize", [False, True], ids=["as it is", "normalized"])
def test_dense_layers_and_length_one(tiny_model, act, normalize):
    encoder, _ = load_encoder(tiny_model("bert"))
    layers = [Dense(32, 8, act), Dense(8, 5)]
    model = SentenceEncoder(encoder, "mean", layers, normalize).eval()
    assert model.output_size == 5 and SentenceEncoder(encoder, "mean").output_size == 32
    with torch.no_grad():
        mean = torch.stack([part.mean(dim=0) for part in encoder(draw()).split(LENGTHS)])
        first, second = (layer.linear for layer in layers)
        inner = mean @ first.weight.T + first.bias
        inner = {None: lambda x: x, "tanh": torch.tanh, "relu": lambda x: x.clamp(min=0)}[act](inner)
        expected = inner @ second.weight.T + second.bias
        if normalize:
            expected = expected / expected.square().sum(dim=1, keepdim=True).sqrt()
        assert_close(model(draw()), expected)


def test_vectors_do_not_depend_on_the_company(family, tiny_model):
    """A text alone, among others and in another order."""
    model = new_sentence_encoder(tiny_model(family), "first_last")[0].eval()
    tokens = draw()
    with torch.no_grad():
        together = model(tokens)
        assert_close(torch.cat([model(one) for one in tokens.split(1)]), together)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 14))
def test_split(lengths, size):
    """Each part is what packing its texts alone would give."""
    tokens = draw(lengths)
    parts = list(tokens.split(size))
    assert [part.lengths for part in parts] == [lengths[start : start + size] for start in range(0, len(lengths), size)]
    ids, types = tokens.input_ids.split(lengths), tokens.token_type_ids.split(lengths)
    for number, part in enumerate(parts):
        chosen = slice(number * size, (number + 1) * size)
        alone = TokenBatch.from_lengths(torch.cat(ids[chosen]), torch.cat(types[chosen]), lengths[chosen])
        for name, value in vars(alone).items():
            found = getattr(part, name)
            if isinstance(value, Tensor):
                assert torch.equal(found, value) and found.dtype == value.dtype, name
            else:
                assert found == value, name


def trained(directory, mode: str = "mean", dropout: float = 0.0, **options) -> SentenceEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(1)  # of a new pooler or dense layer
        model, _ = new_sentence_encoder(directory, mode, dropout=dropout, **options)
    return model.double().train()


def step(model: SentenceEncoder, tokens: TokenBatch, chunk_size: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Vectors, and the gradients of a loss that sees all of them together."""
    model.chunk_size = chunk_size
    return backward(model, model(tokens))


def backward(model: SentenceEncoder, vectors: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    torch.logsumexp((vectors @ vectors.T).flatten(), dim=0).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for name, gradient in gradients.items() if "key.bias" not in name)
    return vectors.detach(), gradients


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        assert_close(found[name], gradient, tolerance, largest, name)


@pytest.mark.parametrize("mode", POOLING_MODES)
@pytest.mark.parametrize("chunk_size", [1, 2, 4])
def test_chunks_without_dropout(tiny_model, mode, chunk_size):
    model = trained(tiny_model("bert"), mode, output_emb_size=6, normalize=True)
    vectors, gradients = step(model, draw(), chunk_size)
    expected, expected_gradients = step(model, draw(), None)
    assert_close(vectors, expected, 1e-10)
    assert_same_gradients(gradients, expected_gradients, 1e-10)


def test_chunks_of_every_family(family, tiny_model):
    model = trained(tiny_model(family), "first_last")
    vectors, gradients = step(model, draw(), 2)
    expected, expected_gradients = step(model, draw(), None)
    assert_close(vectors, expected, 1e-10)
    assert_same_gradients(gradients, expected_gradients, 1e-10)


@pytest.mark.parametrize("inner", [False, True], ids=["chunks", "chunks and gradient checkpointing"])
def test_chunks_with_dropout(tiny_model, inner):
    """The second pass over a chunk draws the masks of the first, and leaves the generator where it was."""
    model = trained(tiny_model("bert"), "linear", dropout=0.3, output_emb_size=6)
    model.encoder.gradient_checkpointing = inner
    tokens = draw()
    torch.manual_seed(3)
    vectors, gradients = step(model, tokens, 2)
    drawn = torch.rand(4)
    model.encoder.gradient_checkpointing = False
    model.chunk_size = None
    torch.manual_seed(3)
    expected, expected_gradients = backward(model, torch.cat([model(part) for part in tokens.split(2)]))
    assert torch.equal(drawn, torch.rand(4))
    assert_close(vectors, expected, 1e-12)
    assert_same_gradients(gradients, expected_gradients, 1e-12)
    torch.manual_seed(4)
    assert (model(tokens) - expected).abs().max() > 0.01  # and there was dropout


def test_chunks_in_mixed_precision(tiny_model):
    """Both passes over a chunk run in the same precision: the gradients are those of bf16, not a mixture."""
    model = trained(tiny_model("bert")).float()
    results = []
    for chunk_size in (2, None):
        model.chunk_size = chunk_size
        with torch.autocast("cpu", torch.bfloat16):
            vectors = model(draw()) if chunk_size else torch.cat([model(part) for part in draw().split(2)])
        results.append(backward(model, vectors.float())[1])
    assert_same_gradients(*results, tolerance=1e-6)


def test_what_is_chunked(tiny_model):
    """In training, batches larger than a chunk; each chunk is encoded once more in the backward pass."""
    model = trained(tiny_model("bert"))
    seen: list[int] = []
    model.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].batch_size))
    model.chunk_size = 2
    vectors = model(draw())
    assert seen == [2, 2, 1]
    vectors.sum().backward()
    assert sorted(seen[3:]) == [1, 2, 2]
    for chunk_size, training in ((5, True), (None, True), (2, False)):
        model.chunk_size = chunk_size
        model.train(training)
        seen.clear()
        model(draw()).sum().backward()
        assert seen == [5]


def test_each_gradient_is_complete_once(tiny_model):
    """DistributedDataParallel sends a gradient at its first sight."""
    model = trained(tiny_model("albert"), "linear", dropout=0.1, output_emb_size=6)
    visits = Counter()
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: visits.update([name]))
    step(model, draw(), 1)
    assert visits == {name: 1 for name, _ in model.named_parameters()}


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_chunks_through_distributed_data_parallel(tiny_model, one_process):
    model = trained(tiny_model("bert"), "linear", output_emb_size=6)
    _, expected = step(model, draw(), None)
    wrapped = DistributedDataParallel(model)
    model.chunk_size = 2
    for _ in range(2):  # the second pass would complain of gradients that the first left waiting
        _, gradients = backward(model, wrapped(draw()))
        assert_same_gradients(gradients, expected, 1e-10)


def test_sizes_and_rows_of_one_process():
    assert sizes_over_ranks(3, 5) == [[3], [5]]
    own = torch.randn(3, 2, requires_grad=True)
    assert gather(own, [3]) is own


def test_sizes_in_a_group_of_one(one_process):
    assert sizes_over_ranks(3, 5) == [[3], [5]]
