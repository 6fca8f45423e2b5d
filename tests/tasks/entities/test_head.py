"""The tagger is transformers' token classifier, family by family; CRF losses and confidences by listing all tag paths."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForTokenClassification

from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder import TokenBatch, to_padded
from bertorch.errors import UserError
from bertorch.tasks.entities.answers import load_entity_head, load_trained_entity_head
from bertorch.tasks.entities.batching import collate_tags
from bertorch.tasks.entities.description import Description
from bertorch.tasks.entities.head import Tagger
from bertorch.tasks.entities.rows import Document
from bertorch.tasks.entities.tags import SCHEMES, TagSet
from bertorch.tasks.entities.windows import TaggedSamples, UnitTokenizer, tag_documents
from bertorch.training.checkpoints import save_model
from tests.closeness import assert_close
from tests.padding import given_to

HEAD = "ForTokenClassification"
TYPES = ["PER", "LOC"]
LENGTHS = [9, 9, 4, 1]
SIGNS = "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着"
TEXTS = [  # text, entities in characters
    (SIGNS[:9], [("PER", 0, 2), ("LOC", 4, 5)]),
    (SIGNS[9:12], []),
    (SIGNS[12:20], [("LOC", 2, 6), ("PER", 6, 8)]),
    (SIGNS[20:25], [("PER", 4, 5)]),
    (SIGNS[25:26], [("LOC", 0, 1)]),
]


def described(ner_head: str = "linear", tag: str = "bio", types: list[str] = TYPES, **changes) -> Description:
    """What ``bertorch.json`` says of a model."""
    labels = ["O", *(f"{letter}-{kind}" for letter in SCHEMES[tag] if letter for kind in types)]
    values = {"ner_head": ner_head, "types": types, "labels": labels, "tag": tag, "crf_constraints": True}
    return Description(**{**values, "unit": "character", "doc_stride": None, "max_seq_length": 64, **changes})


def draw(lengths: list[int] = LENGTHS, vocab_size: int = 100) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab_size, (sum(lengths),), generator=generator)
    return TokenBatch.from_lengths(ids, torch.zeros_like(ids), lengths)


def their_logits(model, tokens: TokenBatch) -> Tensor:
    """Of every token, by transformers, ``[total_tokens, labels]``."""
    given = given_to(model, tokens)
    with torch.no_grad():
        return model(**given).logits[given["attention_mask"].bool()]


def samples_of(directory, tag_set: TagSet, texts=TEXTS, max_seq_length: int = 64, doc_stride: int | None = None):
    encoder = UnitTokenizer(TextTokenizer(load_tokenizer(directory), max_seq_length), "character", doc_stride)
    documents = [Document(line, text, entities=entities) for line, (text, entities) in enumerate(texts, 1)]
    return tag_documents(documents, encoder, tag_set.types, tag_set)


def batch_of(samples: TaggedSamples, *rows: int):
    return collate_tags(samples, torch.tensor(rows or range(len(samples))).numpy())


def shaken(model: Tagger) -> Tagger:
    """Every weight moved, the CRF's too, which begin at 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            width = 1.0 if name.startswith("crf.") else 0.1
            parameter.add_(width * torch.randn(parameter.shape, generator=generator))
    return model


def saved(model: Tagger, encoder_directory, directory, description: dict):
    save_model(directory, model, load_tokenizer(encoder_directory), description.to_json())
    return directory


def parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal_names(found: dict[str, Tensor], expected: dict[str, Tensor]) -> set[str]:
    return {name for name in expected if name in found and torch.equal(found[name], expected[name])}


# Logits


def test_logits_of_transformers(family, tiny_model):
    directory = tiny_model(family, HEAD, num_labels=5)
    theirs = AutoModelForTokenClassification.from_pretrained(directory).eval()
    ours = load_trained_entity_head(directory, described())
    assert not ours.training
    tokens = draw()
    with torch.no_grad():
        found = ours.logits(tokens)
    expected = their_logits(theirs, tokens)
    assert_close(found, expected)
    assert expected.std() > 0.01


@pytest.mark.parametrize("ner_head", ["linear", "crf"])
def test_transformers_opens_what_is_saved(family, ner_head, tiny_model, tmp_path):
    """All its weights are found, its labels too; of a CRF it takes the emissions."""
    description = described(ner_head)
    model = shaken(load_entity_head(tiny_model(family), description)).eval()
    directory = saved(model, tiny_model(family), tmp_path / "saved", description)
    theirs, said = AutoModelForTokenClassification.from_pretrained(directory, output_loading_info=True)
    assert not said["missing_keys"] and not said["mismatched_keys"]
    assert {name.rsplit(".", 2)[-2] for name in said["unexpected_keys"]} <= {"crf"}
    assert list(theirs.config.id2label.values()) == description.labels
    tokens = draw()
    with torch.no_grad():
        found = model.logits(tokens)
    assert_close(found, their_logits(theirs.eval(), tokens))
    again = load_trained_entity_head(directory, Description.read(directory))
    assert equal_names(parameters(again), parameters(model)) == parameters(model).keys()


@pytest.mark.parametrize("ner_head", ["linear", "crf"])
def test_a_warm_start_with_the_types_in_another_order(ner_head, tiny_model, tmp_path, messages):
    """As many tags, but they stand for others: the encoder is taken, the head is not."""
    model = shaken(load_entity_head(tiny_model("bert"), described(ner_head)))
    directory = saved(model, tiny_model("bert"), tmp_path / "saved", described(ner_head))
    same = load_entity_head(tiny_model("bert"), described(ner_head), init_from_ckpt=directory)
    assert equal_names(parameters(same), parameters(model)) == parameters(model).keys()
    other = load_entity_head(tiny_model("bert"), described(ner_head, types=TYPES[::-1]), init_from_ckpt=directory)
    taken = equal_names(parameters(other), parameters(model))
    assert taken == {name for name in parameters(model) if name.startswith("encoder.")}
    assert any("its head was trained for the labels" in line for line in messages)


@pytest.mark.parametrize("ner_head", ["linear", "crf"])
def test_every_weight_has_a_gradient(family, ner_head, tiny_model):
    """A weight without one would keep DistributedDataParallel waiting."""
    directory = tiny_model(family)
    model = load_entity_head(directory, described(ner_head))
    model(batch_of(samples_of(directory, model.tag_set))).mean.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


# Loss


def continues(before: str, tag: str) -> bool:
    """Whether a tag belongs to the entity of the tag before it."""
    return before[0] in "BI" and tag[0] in "IE" and before[2:] == tag[2:]


def paths_of(tag_set: TagSet, length: int, constrained: bool) -> Tensor:
    """Every tag sequence, those alone that the scheme can write where ``constrained``: ``[paths, length]``."""
    labels, has_end = tag_set.labels, tag_set.scheme in ("bioes", "bmes")

    def fits(before: str, tag: str) -> bool:
        if tag[0] in "IE":
            return continues(before, tag)
        return not (has_end and before[0] in "BI")

    paths = product(range(len(labels)), repeat=length)
    if constrained:
        named = ((path, ["O", *(labels[one] for one in path), "O"]) for path in paths)
        paths = (path for path, tags in named if all(fits(*pair) for pair in zip(tags, tags[1:], strict=False)))
    return torch.tensor(list(paths))


def path_scores(model: Tagger, emissions: Tensor, paths: Tensor) -> Tensor:
    """``[paths]``, of one text."""
    score = emissions.double()[torch.arange(paths.shape[1]), paths].sum(dim=1)
    if model.crf:
        start, transitions, end = (
            getattr(model.crf, name).double() for name in ("start_transitions", "transitions", "end_transitions")
        )
        score = score + start[paths[:, 0]] + end[paths[:, -1]] + transitions[paths[:, :-1], paths[:, 1:]].sum(dim=1)
    return score


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("tag", ["bio", "bioes"])
def test_loss_of_the_crf_by_all_paths(tiny_model, tag, constrained):
    types = TYPES if tag == "bio" else ["PER"]
    texts = [(SIGNS[:5], [("PER", 1, 4)]), (SIGNS[5:7], [(types[-1], 0, 1)]), (SIGNS[7:11], []), (SIGNS[11], [])]
    directory = tiny_model("bert")
    model = shaken(load_entity_head(directory, described("crf", tag, types, crf_constraints=constrained))).eval()
    samples = samples_of(directory, model.tag_set, texts)
    loss = model(batch_of(samples))
    expected = 0.0
    for row, (text, _) in enumerate(texts):
        batch = batch_of(samples, row)
        emissions = model.logits(batch.tokens)[1:-1]  # without [CLS] and [SEP]
        paths = paths_of(model.tag_set, len(text), constrained)
        (gold,) = (paths == batch.tags).all(dim=1).nonzero().flatten().tolist()
        expected = expected - path_scores(model, emissions, paths).log_softmax(dim=0)[gold]
    assert loss.count == sum(len(text) for text, _ in texts)
    assert_close(loss.total, expected)
    assert_close(loss.mean, expected / 12)


def test_loss_without_a_crf_is_that_of_transformers(tiny_model):
    directory = tiny_model("bert", HEAD, num_labels=5)
    ours = load_trained_entity_head(directory, described())
    theirs = AutoModelForTokenClassification.from_pretrained(directory).eval()
    samples = samples_of(directory, ours.tag_set)
    batch = batch_of(samples)
    ids, mask = to_padded(batch.tokens.input_ids, batch.tokens, 0)
    labels = torch.full(ids.shape, -100)
    for sequence, line in enumerate(ids):  # which text it is, its own characters tell
        text = load_tokenizer(directory).decode(line[mask[sequence]], skip_special_tokens=True).replace(" ", "")
        entities = dict(TEXTS)[text]
        tags = ["O"] * len(text)
        for kind, start, end in entities:
            tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
        labels[sequence, 1 : 1 + len(text)] = torch.tensor([ours.tag_set.labels.index(tag) for tag in tags])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long(), labels=labels).loss
        assert_close(ours(batch).mean, expected)


@pytest.mark.parametrize("ner_head", ["linear", "crf"])
def test_loss_adds_up_over_batches_of_any_kind(tiny_model, ner_head):
    """Sums and gradients of parts, in any order, are those of the whole: ranks and accumulated batches change nothing."""
    directory = tiny_model("bert")
    model = shaken(load_entity_head(directory, described(ner_head))).eval()
    samples = samples_of(directory, model.tag_set)

    def outcome(*parts):
        model.zero_grad()
        losses = [model(batch_of(samples, *rows)) for rows in parts]
        total, count = sum(loss.total for loss in losses), sum(loss.count for loss in losses)
        (total / count).backward()
        return total.item(), count, {name: weight.grad.clone() for name, weight in model.named_parameters()}

    total, count, gradients = outcome(range(5))
    largest = max(gradient.abs().max() for gradient in gradients.values())
    assert count == sum(len(text) for text, _ in TEXTS)
    for parts in ([[0], [1], [2], [3], [4]], [[4, 1, 3], [2, 0]], [[3, 0, 4, 2, 1]]):
        found = outcome(*parts)
        assert found[1] == count
        assert_close(found[0], total)
        for name, gradient in gradients.items():
            assert_close(found[2][name], gradient, of=largest, name=name)


@pytest.mark.parametrize("ner_head", ["linear", "crf"])
@pytest.mark.parametrize("length", [36, 38])
def test_each_unit_of_a_long_text_counts_once(tiny_model, ner_head, length):
    """Its scores are those of the window in which it has most context; overlaps are even, so there is one such window."""
    room, shared = 14, 6
    text, entities = SIGNS[:length], [("PER", 0, 2), ("LOC", 9, 16), ("PER", 22, 23), ("LOC", length - 2, length)]
    directory = tiny_model("bert")
    model = shaken(load_entity_head(directory, described(ner_head))).eval()
    samples = samples_of(directory, model.tag_set, [TEXTS[1], (text, entities), TEXTS[0]], room + 2, shared)
    loss = model(batch_of(samples, 1))
    assert loss.count == length

    ids = load_tokenizer(directory).convert_tokens_to_ids(["[CLS]", *text, "[SEP]"])
    begins = [0, 8, 16, length - room]  # the last window reaches back as far as it can
    with torch.no_grad():
        windows = []
        for begin in begins:
            window = torch.tensor([ids[0], *ids[begin + 1 : begin + 1 + room], ids[-1]])
            windows.append(model.logits(TokenBatch.from_lengths(window, torch.zeros_like(window), [len(window)]))[1:-1])
    rows = []
    for unit in range(length):
        context = [
            min(
                float("inf") if begin == 0 else unit - begin,
                float("inf") if begin + room == length else begin + room - 1 - unit,
            )
            if begin <= unit < begin + room
            else -1
            for begin in begins
        ]
        assert context.count(max(context)) == 1
        best = context.index(max(context))
        rows.append(windows[best][unit - begins[best]])
    tags = ["O"] * length
    for kind, start, end in entities:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    gold = torch.tensor([model.tag_set.labels.index(tag) for tag in tags])
    if ner_head == "linear":
        expected = F.cross_entropy(torch.stack(rows), gold, reduction="sum")
    else:
        expected = -model.crf.log_likelihood(torch.stack(rows), gold, [length]).sum()
    assert_close(loss.total, expected)
    # In one batch with others nothing changes.
    whole, others = model(batch_of(samples)), model(batch_of(samples, 0, 2))
    assert_close(whole.total, loss.total + others.total)
    assert whole.count == length + others.count


# Confidence


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize("ner_head", ["linear", "crf"])
@pytest.mark.parametrize(("tag", "types"), [("bio", TYPES), ("bios", ["PER"]), ("bioes", ["PER"])])
def test_confidence_by_all_paths(tiny_model, ner_head, tag, types, constrained):
    """Of all that the model may say, how much agrees with the entity: its tags, and no tag behind it that goes on."""
    model = shaken(load_entity_head(tiny_model("bert"), described(ner_head, tag, types, crf_constraints=constrained)))
    labels, generator, seen = model.tag_set.labels, torch.Generator().manual_seed(2), 0
    for length in (1, 2, 3, 4, 5, 5, 5):
        emissions = 2 * torch.randn(length, len(labels), generator=generator)
        paths = paths_of(model.tag_set, length, constrained and ner_head == "crf")
        probability = path_scores(model, emissions, paths).detach().softmax(dim=0)
        readings = [model.decode(emissions, [length]).tolist()]
        readings += [paths[row].tolist() for row in torch.randint(len(paths), (10,), generator=generator)]
        for tags in readings:
            spans = model.tag_set.strict(tags)
            expected = []
            for _, first, last in spans:
                agrees = (paths[:, first:last] == torch.tensor(tags[first:last])).all(dim=1)
                if last < length:
                    longer = [place for place, label in enumerate(labels) if continues(labels[tags[last - 1]], label)]
                    agrees &= ~torch.isin(paths[:, last], torch.tensor(longer, dtype=torch.long))
                expected.append(probability[agrees].sum().item())
            assert model.confidence(emissions, tags, spans) == pytest.approx(expected, abs=1e-6)
            seen += len(spans)
    assert seen > 20


@pytest.mark.parametrize("ner_head", ["linear", "crf"])
def test_confidence_where_scores_lie_far_apart(tiny_model, ner_head):
    model = load_entity_head(tiny_model("bert"), described(ner_head))
    emissions = torch.zeros(4, 5)
    emissions[range(4), [0, 1, 3, 0]] = 1e4  # O, B-PER, I-PER, O
    assert model.confidence(emissions, [0, 1, 3, 0], [("PER", 1, 3)]) == [pytest.approx(1.0)]
    assert model.confidence(emissions, [1, 3, 3, 3], [("PER", 0, 4)]) == [pytest.approx(0.0, abs=1e-12)]


# Warm starts


@pytest.fixture
def trained(tiny_model, tmp_path):
    """``trained(ner_head, **changes)`` -> the directory of a model with weights of its own."""

    def build(ner_head: str, **changes):
        description = described(ner_head, **changes)
        model = shaken(load_entity_head(tiny_model("bert"), description))
        return saved(model, tiny_model("bert"), tmp_path / ner_head, description)

    return build


CRF_NAMES = {"crf.transitions", "crf.start_transitions", "crf.end_transitions"}


def test_a_crf_on_top_of_a_trained_tagger(tiny_model, trained, messages):
    """Encoder and classifier are taken, the CRF is new."""
    source = trained("linear")
    model = load_entity_head(tiny_model("bert"), described("crf"), init_from_ckpt=source)
    expected = parameters(load_trained_entity_head(source, described()))
    assert equal_names(parameters(model), expected) == expected.keys()
    assert parameters(model).keys() - expected.keys() == CRF_NAMES
    assert not any(getattr(model.crf, name.removeprefix("crf.")).any() for name in CRF_NAMES)
    assert any("warm start of the encoder and the head" in line for line in messages)


@pytest.mark.parametrize("source", [".", "model.safetensors"])
def test_a_warm_start_from_a_crf(tiny_model, trained, source):
    directory = trained("crf")
    model = load_entity_head(tiny_model("bert"), described("crf"), init_from_ckpt=directory / source)
    expected = parameters(load_trained_entity_head(directory, described("crf")))
    assert expected.keys() >= CRF_NAMES
    assert equal_names(parameters(model), expected) == expected.keys() == parameters(model).keys()
    assert load_file(directory / "model.safetensors").keys() >= CRF_NAMES


def test_a_warm_start_without_the_crf_of_the_checkpoint(tiny_model, trained):
    directory = trained("crf")
    model = load_entity_head(tiny_model("bert"), described("linear"), init_from_ckpt=directory)
    assert model.crf is None
    expected = parameters(load_trained_entity_head(directory, described("crf")))
    assert equal_names(parameters(model), expected) == expected.keys() - CRF_NAMES == parameters(model).keys()


def test_a_warm_start_of_the_encoder_alone(tiny_model, messages):
    encoder = tiny_model("bert")
    model = load_entity_head(encoder, described("crf"), init_from_ckpt=encoder)
    theirs = load_file(encoder / "model.safetensors")
    assert torch.equal(model.encoder.embeddings.word.weight, theirs["embeddings.word_embeddings.weight"])
    assert any("the head is new" in line for line in messages)


@pytest.mark.parametrize("ner_head", ["linear", "crf"])
def test_other_tags_make_a_new_head(tiny_model, trained, messages, ner_head):
    """One warning; the encoder is that of the checkpoint, the CRF's scores are zeros again."""
    found = load_entity_head(tiny_model("bert"), described(ner_head, "bios"), init_from_ckpt=trained(ner_head))
    (warning,) = [line for line in messages if "its head is different" in line]
    assert "[5, 32], expected [7, 32]" in warning and "\n" not in warning
    expected = load_trained_entity_head(trained(ner_head), described(ner_head))
    assert torch.equal(found.encoder.blocks[0].query.weight, expected.encoder.blocks[0].query.weight)
    assert found.classifier.weight.shape == (7, 32) and not found.classifier.bias.any()
    assert found.crf is None or not found.crf.transitions.any()


def test_a_crf_that_has_lost_its_weights(trained):
    """Predicting with new ones would be another model; one line names them."""
    with pytest.raises(UserError) as caught:
        load_trained_entity_head(trained("linear"), described("crf"))
    message = str(caught.value)
    assert "\n" not in message
    assert all(name in message for name in CRF_NAMES)
