"""Every trick is in effect in every script: each against the same steps computed by hand.

The optimizer is replaced by plain gradient descent, whose steps show the gradients. Everything else is the script's own: it
trains a tiny encoder for a few updates, and from the same weights, batches and random numbers the steps are done once more
here, the trick written out. ``python -m tests.mutations`` cuts each line that puts a trick in effect: these tests then fail.
"""

import contextlib
import copy
import json
import os
import random
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loguru import logger
from safetensors.torch import load_file
from torch import Tensor, nn

from bertorch.encoder.layers import first_tokens
from bertorch.errors import Interrupted
from bertorch.reporting.runs import latest_state
from bertorch.training.run import Run
from tests.mutations import CUTS, outdated
from tests.processes import PATIENCE, started
from tests.scripts.launch import DATA, ROOT, as_flags, command, environment, journal
from tests.scripts.test_run_mrc import WINDOWS, rows, write_squad

RATE = 0.1
SCRIPTS = ("run_classifier.py", "run_sentencebert.py", "run_simcse.py", "run_batchneg.py", "run_ner.py", "run_mrc.py",
           "run_choice.py", "run_pretraining.py")  # fmt: skip
CLASSES = ("run_classifier.py", "run_sentencebert.py", "run_ner.py")  # scripts with a loss over classes


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Two layers, without weights, with dropout; the vocabulary is that of the sample encoder."""
    directory = tmp_path_factory.mktemp("wiring") / "encoder"
    shutil.copytree(DATA / "tiny-encoder", directory)
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, initializer_range=0.2)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Flags of each script, with 40 rows to train on and 12 to evaluate on."""
    directory = tmp_path_factory.mktemp("rows")

    def some(source, count):
        path = directory / f"{source.parent.name}-{count}{source.suffix}"
        path.write_text("".join(source.read_text(encoding="utf-8").splitlines(keepends=True)[:count]), encoding="utf-8")
        return path

    def files(folder, end, dev_folder=None):
        dev = DATA / (dev_folder or folder) / f"dev{'.tsv' if dev_folder else end}"
        return {"train_data_file": some(DATA / folder / f"train{end}", 40), "dev_data_file": some(dev, 12)}

    documents = directory / "documents.txt"  # 36 of three sentences
    sentences = (DATA / "sentences/train.txt").read_text(encoding="utf-8").splitlines()
    documents.write_text("".join("\n".join(sentences[at : at + 3]) + "\n\n" for at in range(0, 108, 3)), encoding="utf-8")
    passages = [write_squad(directory / f"{count}.json", rows(count, random.Random(count))) for count in (30, 10)]
    return {
        "run_classifier.py": {**files("reviews", ".tsv"), "label_file": DATA / "reviews/labels.txt"},
        "run_sentencebert.py": {**files("nli", ".tsv"), "label_file": DATA / "nli/labels.txt", "is_nli": True},
        "run_simcse.py": {**files("sentences", ".txt", "graded"), "chunk_size": 5},
        "run_batchneg.py": {**files("paraphrases", ".tsv", "graded"), "mean_loss": True},
        "run_ner.py": {**files("entities", ".jsonl"), "label_file": DATA / "entities/labels.txt"},
        "run_mrc.py": {"train_data_file": passages[0], "dev_data_file": passages[1], **WINDOWS},
        "run_choice.py": {**files("choice", ".jsonl"), "max_seq_length": 64, "max_qa_length": 24},
        "run_pretraining.py": {"train_data_file": documents, "dev_data_file": documents, "objectives": "mlm,sop"},
    }


@dataclass
class Seen:
    """What a script did.

    Attributes:
        run: its run, as the training left it.
        begun: a copy of its model from before the first step.
        batches: each batch, and the state of torch's random generator before its step.
        evaluated: the weights that the model had in each evaluation.
        stopped: what ended the training early.
    """

    run: Run = None
    begun: nn.Module = None
    batches: list = field(default_factory=list)
    evaluated: list = field(default_factory=list)
    stopped: Interrupted | None = None


@pytest.fixture
def train(encoder, tasks, tmp_path, monkeypatch):
    """``train(script, **flags)`` -> ``Seen``; the development set is left out where no ``eval_steps`` are given."""
    monkeypatch.setattr("bertorch.training.optimizer.AdamW", lambda groups, lr, fused: torch.optim.SGD(groups, lr=lr))

    def run_script(script, after_batch: Callable[[Run], None] = lambda run: None, more=(), **flags) -> Seen:
        seen = Seen()
        original = Run.batches

        def batches(run) -> Iterator:
            seen.run, seen.begun = run, copy.deepcopy(run.bare_model).requires_grad_(True)
            for batch in original(run):
                seen.batches.append((batch, torch.get_rng_state()))
                after_batch(run)
                yield batch

        values = {
            "pretrained_model_name_or_path": encoder, "saved_dir": tmp_path / "out", **tasks[script], "batch_size": 8,
            "max_steps": 2, "logging_steps": 1, "learning_rate": RATE, "scheduler": "constant", "max_grad_norm": 0,
            "device": "cpu", "seed": 3, "overwrite": "resume" not in flags, **flags,
        }  # fmt: skip
        if "eval_steps" not in flags:
            values["dev_data_file"] = None
        with monkeypatch.context() as patch:
            patch.setattr(Run, "batches", batches)
            patch.setattr(sys, "argv", [script, *as_flags(**values), *more])
            module = runpy.run_path(str(ROOT / script), run_name="script")
            names = module["main"].__globals__
            evaluate = names["evaluate"]

            def watched(*args):
                seen.evaluated.append(weights_of(seen.run.bare_model))
                return evaluate(*args)

            names["evaluate"] = watched
            try:
                module["main"](module["parse_args"]())
            except Interrupted as error:
                seen.stopped = error
        return seen

    yield run_script
    logger.remove()


# Steps by hand


def weights_of(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def plain(model: nn.Module, batch) -> int:
    """Add the gradient of a batch's summed loss; returns what it is summed over."""
    loss = model(batch)
    loss.total.backward()
    return loss.count


def descend(seen: Seen, step: Callable = plain, accumulation: int = 1, share: Callable = lambda model: {}) -> list[list]:
    """The weights after each update: they move by RATE times the mean gradient of ``accumulation`` batches.

    Args:
        seen: weights, batches and random numbers.
        step: as ``plain``.
        accumulation: batches an update.
        share: gives the factors of the rate, ``id`` of a parameter -> factor; of others it is 1.
    """
    model = seen.begun.train()
    factors, updates = share(model), []
    for first in range(0, len(seen.batches), accumulation):
        count = 0
        for batch, state in seen.batches[first : first + accumulation]:
            torch.set_rng_state(state)
            count += step(model, batch)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= RATE * factors.get(id(parameter), 1.0) * parameter.grad / count
                parameter.grad = None
        updates.append(weights_of(model))
    return updates


def assert_same(found: list[Tensor], expected: list[Tensor], begun: list[Tensor]) -> None:
    """They moved, and to the same place, within a thousandth of the way."""
    ways = [(one - start).norm() for one, start in zip(expected, begun, strict=True)]
    longest = max(ways)
    assert longest > 1e-3
    for one, other, way in zip(found, expected, ways, strict=True):
        assert (one - other).norm() <= 1e-3 * way + 1e-5 * longest


def check(seen: Seen, step: Callable = plain, **how) -> None:
    begun = weights_of(seen.begun)
    updates = descend(seen, step, **how)
    assert len(updates) == seen.run.global_step > 0
    assert_same(weights_of(seen.run.bare_model), updates[-1], begun)


# What makes a gradient: each trick's flags, and a step with it


def fgm(epsilon: float, first_pass: Callable = plain) -> Callable:
    """Miyato et al. 2017, eq. 5."""

    def step(model, batch):
        count = first_pass(model, batch)
        words = model.encoder.embeddings.word.weight
        before = words.detach().clone()
        with torch.no_grad():
            words += epsilon * words.grad / words.grad.norm()
        plain(model, batch)
        with torch.no_grad():
            words.copy_(before)
        return count

    return step


def r_drop(alpha: float) -> Callable:
    """Half of Liang et al. 2021, eq. 4: ``(NLL1 + NLL2) / 2 + alpha / 4 * (KL(p, q) + KL(q, p))``, means over rows."""

    def step(model, batch):
        losses = [model(batch), model(batch)]
        # -1e9 for what is impossible has the probability 0 too, and no difference of infinities.
        p, q = (loss.logits.float().masked_fill(loss.logits.isneginf(), -1e9).log_softmax(dim=-1) for loss in losses)
        both = F.kl_div(q, p, log_target=True, reduction="sum") + F.kl_div(p, q, log_target=True, reduction="sum")
        distributions = p.numel() / p.shape[-1]
        count = losses[0].count
        (sum(loss.total for loss in losses) / 2 + alpha / 4 * both / distributions * count).backward()
        return count

    return step


def in_bf16(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(batch)
    loss.total.backward()
    return loss.count


GRADIENTS = {
    "no trick": ({}, plain),
    "FGM": ({"fgm_epsilon": 2.0}, fgm(2.0)),
    "R-Drop": ({"r_drop_weight": 20.0}, r_drop(20.0)),
    "FGM and R-Drop": ({"fgm_epsilon": 2.0, "r_drop_weight": 20.0}, fgm(2.0, r_drop(20.0))),
    "bf16": ({"precision": "bf16"}, in_bf16),
}


@pytest.mark.parametrize("trick", GRADIENTS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_gradients(train, script, trick):
    flags, step = GRADIENTS[trick]
    check(train(script, **flags), step)


@pytest.mark.parametrize("script", SCRIPTS)
def test_accumulation(train, script):
    """The last update of an epoch has one batch left."""
    seen = train(script, gradient_accumulation_steps=2, max_steps=None, epochs=1)
    assert len(seen.batches) > 2 and len(seen.batches) % 2 == 1
    check(seen, accumulation=2)


# What a gradient moves


def embeddings(model):
    return dict.fromkeys(map(id, model.encoder.embeddings.parameters()), 0.0)


def first_layer(model):
    return embeddings(model) | dict.fromkeys(map(id, model.encoder.blocks[0].parameters()), 0.0)


def falling(model):
    """Howard & Ruder 2018: from the top layer down, each has a quarter of the rate above."""
    layers = [model.encoder.blocks[1], model.encoder.blocks[0], model.encoder.embeddings]
    return {id(parameter): 0.25 ** (depth + 1) for depth, layer in enumerate(layers) for parameter in layer.parameters()}


@pytest.mark.parametrize(
    ("flags", "share"),
    [({"freeze_embeddings": True}, embeddings), ({"freeze_layers": 1}, first_layer), ({"layer_decay": 0.25}, falling)],
    ids=["embeddings", "a layer", "layer decay"],
)
@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_trained(train, script, flags, share):
    seen = train(script, **flags)
    frozen = [factor == 0 for factor in share(seen.run.bare_model).values()]
    before = weights_of(seen.begun)
    check(seen, share=share)
    if any(frozen):
        still = [torch.equal(*pair) for pair in zip(before, weights_of(seen.run.bare_model), strict=True)]
        assert sum(still) >= len(frozen)  # not moved by rounding either


# Averaged weights


@pytest.mark.parametrize("save_best_model", [False, True], ids=["last", "best"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_averaged_weights(train, script, save_best_model, tmp_path):
    """They are evaluated and saved, and the training goes on from its own."""
    seen = train(script, ema_decay=0.6, eval_steps=1, save_steps=1, max_steps=4, save_best_model=save_best_model)
    begun = weights_of(seen.begun)
    updates, averages, average = descend(seen), [], begun
    for number, weights in enumerate(updates, start=1):
        decay = min(0.6, (1 + number) / (10 + number))
        average = [decay * old + (1 - decay) * new for old, new in zip(average, weights, strict=True)]
        averages.append(average)
    assert len(seen.evaluated) == 4
    for found, expected in zip(seen.evaluated, averages, strict=True):
        assert_same(found, expected, begun)
    assert_same(weights_of(seen.run.bare_model), updates[-1], begun)

    step = json.loads((tmp_path / "out" / "bertorch.json").read_text(encoding="utf-8"))["global_step"]
    scores = [line[seen.run.args.metric] for line in journal(tmp_path / "out", "eval")]
    assert step == (1 + scores.index(max(scores)) if save_best_model else 4)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    expected, before = (saved_files(seen.begun, weights) for weights in (averages[step - 1], begun))
    assert saved.keys() == expected.keys()
    assert_same(*([file[name] for name in sorted(saved)] for file in (saved, expected, before)))


def saved_files(model: nn.Module, weights: list[Tensor]) -> dict[str, Tensor]:
    """What ``model.safetensors`` holds of a model with these weights."""
    for parameter, weight in zip(model.parameters(), weights, strict=True):
        parameter.data = weight
    return model.saved_files(32)["model.safetensors"]


@pytest.mark.parametrize("saving", [True, False])
def test_trained_weights_come_back(train, monkeypatch, saving):
    """When an evaluation is recorded; and where it never is, before a state is saved or the next step."""
    recorded, record = [], Run.record
    monkeypatch.setattr(Run, "record", lambda run, found: (record(run, found), recorded.append(weights_of(run.bare_model))))
    # With save_best_model a state is saved and no model beside it.
    how = {"ema_decay": 0.6, "eval_steps": 1, "save_steps": 1 if saving else 100, "max_steps": 3, "save_best_model": saving}
    seen = train("run_classifier.py", **how)
    for found, expected in zip(recorded, descend(seen), strict=True):
        assert_same(found, expected, seen.evaluated[0])

    monkeypatch.setattr(Run, "record", lambda run, found: run.bare_model.train())
    if not saving:
        monkeypatch.setattr(Run, "save", lambda run: None)
    seen = train("run_classifier.py", **how)
    begun, trained = weights_of(seen.begun), descend(seen)[-1]
    assert_same(weights_of(seen.run.bare_model), trained, begun)
    if saving:
        state = load_file(latest_state(seen.run.directory) / "model.safetensors")
        assert_same([state[name] for name, _ in seen.begun.named_parameters()], trained, begun)


# The loss over classes


def over_classes(term: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    """A step with this loss of ``log p`` ``[n, classes]`` and targets ``[n]``."""

    def step(model, batch):
        logits = model(batch).logits
        targets = batch.tags if hasattr(batch, "tags") else batch.labels
        term(logits.log_softmax(dim=1), targets).backward()
        return len(targets)

    return step


def right(log_p: Tensor, targets: Tensor) -> Tensor:
    return log_p[torch.arange(len(targets)), targets]


def smoothed(log_p, targets):
    """Szegedy et al. 2016, section 7."""
    return -((0.7 * F.one_hot(targets, log_p.shape[1]) + 0.3 / log_p.shape[1]) * log_p).sum()


def focal(log_p, targets):
    """Lin et al. 2017, eq. 4."""
    p = right(log_p, targets)
    return -((1 - p.exp()) ** 3 * p).sum()


@pytest.mark.parametrize(
    ("flags", "term"), [({"label_smoothing": 0.3}, smoothed), ({"focal_gamma": 3}, focal)], ids=["smoothing", "focal"]
)
@pytest.mark.parametrize("script", CLASSES)
def test_smoothed_and_focal_loss(train, script, flags, term):
    check(train(script, **flags), over_classes(term))


@pytest.mark.parametrize("script", CLASSES)
def test_class_weights(train, script):
    """Balanced: n / (classes * count), as scikit-learn has it."""
    seen = train(script, more=["--class_weights", "balanced"])
    samples = seen.run.samples
    targets = samples.tags if script == "run_ner.py" else samples.labels
    classes = seen.begun.classifier.out_features
    counts = np.bincount(targets, minlength=classes)
    weights = torch.tensor(len(targets) / (classes * counts.clip(min=1)), dtype=torch.float32)
    assert weights.max() > 1.05 * weights.min()
    check(seen, over_classes(lambda log_p, targets: -(weights[targets] * right(log_p, targets)).sum()))


# Dropout masks before the last layer


def states_of(model, batch):
    """What the last layer works on: the pooled first token of each text, or the token that decides each unit."""
    states = model.encoder(batch.tokens)
    if hasattr(batch, "tags"):
        return states[batch.places], batch.tags
    return model.encoder.pooler(first_tokens(states, batch.tokens)), batch.labels


def of_three_masks(model, batch):
    """Inoue 2019."""
    states, targets = states_of(model, batch)
    losses = [F.cross_entropy(model.classifier(model.dropout(states)), targets, reduction="sum") for _ in range(3)]
    (sum(losses) / 3).backward()
    return len(targets)


@pytest.mark.parametrize("script", ["run_classifier.py", "run_ner.py"])
def test_dropout_samples(train, script, encoder, tmp_path):
    """The encoder itself has no dropout here, so that the masks are the only random numbers."""
    directory = tmp_path / "encoder"
    shutil.copytree(encoder, directory)
    config = json.loads((directory / "config.json").read_text())
    config.update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout=0.5)
    (directory / "config.json").write_text(json.dumps(config))
    check(train(script, pretrained_model_name_or_path=directory, dropout_samples=3), of_three_masks)


# The order of batches, resumed and stopped


def test_deterministic(train, monkeypatch):
    """torch is told before the first batch, and cuBLAS, which reads its variable at its first product."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # put back as it was after the test
    found = []

    def after_batch(run: Run) -> None:
        found.append((torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG")))

    try:
        for asked in (False, True):
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]
            train("run_classifier.py", after_batch, deterministic=asked)
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", "")
        assert found == [(False, None)] * 2 + [(True, ":4096:8")] * 2
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


def texts_of(seen: Seen) -> list[list[int]]:
    """The token ids of each batch."""
    return [batch.tokens.input_ids.tolist() for batch, _ in seen.batches]


def spread(batches: list) -> float:
    """How far the lengths of the rows within a batch lie apart."""
    deviations = []
    for batch, _ in batches:
        lengths = np.array(batch.tokens.lengths)
        if hasattr(batch, "owners"):  # rows of several texts
            lengths = np.bincount(batch.owners, weights=lengths[batch.places])
        deviations.append(np.std(lengths))
    return float(np.mean(deviations))


@pytest.mark.parametrize("group_by_length", [False, True])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_resumed_epoch_goes_on_in_its_order(train, script, group_by_length):
    """Three epochs, interrupted in the midst of the second."""
    how = {"max_steps": None, "epochs": 3, "group_by_length": group_by_length}
    whole = train(script, **how)
    an_epoch = len(whole.batches) // 3
    assert an_epoch >= 5
    order = texts_of(whole)
    lengths = [batch.tokens.lengths for batch, _ in whole.batches]  # not the ids: masks differ in the same order too
    assert lengths[:an_epoch] != lengths[an_epoch : 2 * an_epoch]
    sizes = [[len(text) for text in order[epoch * an_epoch : (epoch + 1) * an_epoch]] for epoch in range(3)]
    assert len({sum(epoch) for epoch in sizes}) == 1  # every row once
    if group_by_length:
        ungrouped = train(script, **{**how, "group_by_length": False, "epochs": 1})
        assert spread(whole.batches[:an_epoch]) < 0.75 * spread(ungrouped.batches)

    last = an_epoch + 2
    first = train(script, **how, after_batch=lambda run: stop(run, last))
    resumed = train(script, **how, resume=True)
    assert texts_of(first) == order[:last] and texts_of(resumed) == order[last:]
    for found, expected in zip(weights_of(resumed.run.bare_model), weights_of(whole.run.bare_model), strict=True):
        assert torch.equal(found, expected)


def stop(run: Run, step: int) -> None:
    """Ask this process to stop while it makes this update."""
    if run.global_step == step - 1:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_signal_ends_the_training_after_its_step(train, script, tmp_path):
    seen = train(script, max_steps=5, save_steps=100, after_batch=lambda run: stop(run, 2))
    assert seen.stopped is not None and seen.stopped.signal_number == signal.SIGTERM
    assert len(seen.batches) == 2
    assert [path.name for path in (tmp_path / "out" / "training_state").iterdir()] == ["step-00000002"]


@pytest.mark.slow
def test_a_signal_to_one_process_ends_all(encoder, tasks, tmp_path):
    """Not the main one is asked; both stop after the same step, and the state is saved."""
    flags = as_flags(
        pretrained_model_name_or_path=encoder, saved_dir=tmp_path / "out", **tasks["run_classifier.py"], batch_size=4,
        max_steps=100000, logging_steps=1, device="cpu",
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in ("0", "1"):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            how = {"env": {**environment(), **place}, "stderr": subprocess.PIPE if rank == "0" else subprocess.DEVNULL}
            ranks.append(stack.enter_context(started(command("run_classifier.py", flags), **how)))
        for line in ranks[0].stderr:
            if "global step: 3," in line:
                break
        ranks[1].send_signal(signal.SIGTERM)
        _, error = ranks[0].communicate(timeout=PATIENCE)
        assert ranks[1].wait(timeout=PATIENCE) == ranks[0].returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at global step" in error.splitlines()[-1]
    (state,) = (tmp_path / "out" / "training_state").iterdir()
    assert f"at global step {int(state.name.removeprefix('step-'))};" in error


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: cut.what)
def test_the_cuts_follow_the_code(cut):
    assert not outdated(cut)
