"""From a name to a directory: a folder, the hub's cache, and a hub, which here is a small server on this machine."""

import hashlib
import json
import shutil
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertorch.encoder import load_config, load_encoder
from bertorch.encoder.hub import local_directory, renamed_directory
from bertorch.errors import UserError
from tests.processes import finished

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# huggingface_hub reads its environment when it is imported, so that each environment needs a process of its own.
CLIENT = """
import json, sys
from bertorch.encoder.hub import local_directory
from bertorch.errors import UserError
answers = {}
for name in sys.argv[1:]:
    try:
        answers[name] = ["directory", str(local_directory(name))]
    except UserError as error:
        answers[name] = ["error", str(error)]
print(json.dumps(answers))
"""


def ask(names: list[str], environment: dict[str, str]) -> dict[str, list[str]]:
    """What ``local_directory`` answers to each name: ``["directory", path]`` or ``["error", message]``."""
    done = finished([sys.executable, "-c", CLIENT, *names], env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_folder_is_itself(tmp_path, monkeypatch):
    assert local_directory(str(tmp_path)) == tmp_path
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_directory("org/name") == Path("org/name")  # not asked of the hub
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_directory("~/org") == tmp_path / "org"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "../nowhere", "~/nowhere", "one/two/three"])
def test_no_such_folder(name):
    with pytest.raises(UserError, match="no such directory") as caught:
        local_directory(name)
    assert name in str(caught.value)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="a file"):
        local_directory(str(tmp_path / "model.safetensors"))


@pytest.mark.slow
def test_cache_of_the_hub(tiny_model, offline_environment):
    cache = Path(offline_environment["HF_HOME"]) / "hub" / "models--org--name"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(COMMIT)
    snapshot = Path(shutil.copytree(tiny_model("bert"), cache / "snapshots" / COMMIT))
    answers = ask(["org/name", "org/other", "no such name!"], offline_environment)
    kind, found = answers["org/name"]
    assert (kind, Path(found)) == ("directory", snapshot)
    load_encoder(found)
    for name in ("org/other", "no such name!"):
        kind, message = answers[name]
        assert kind == "error" and name in message and "\n" not in message


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks for: the commit of ``main``, the list of files, HEAD and GET of each."""

    def log_message(self, *_):
        pass

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0].removeprefix("/")
        self.server.asked.append(f"{self.command} {path}")
        _, _, of_api = path.partition("api/models/")
        name = "/".join((of_api or path).split("/")[:2])
        directory = self.server.models / name
        if name == "org/drops":
            self.close_connection = True
            return
        if name == "org/garbage":
            self.reply(200, b"<html>captive portal</html>")
            return
        if name == "org/fails":
            self.reply(500, b"")
            return
        if not directory.is_dir():
            self.reply(404, b"", X_Error_Code="RepoNotFound")
            return
        files = sorted(file for file in directory.iterdir())
        if of_api.endswith("revision/main"):
            body = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}
            self.reply(200, json.dumps(body).encode(), Content_Type="application/json")
        elif "/tree/" in of_api:
            body = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": etag(file)} for file in files]
            self.reply(200, json.dumps(body).encode(), Content_Type="application/json")
        else:
            file = directory / path.rsplit("/", 1)[1]
            if file.is_file():
                self.reply(200, file.read_bytes(), ETag=f'"{etag(file)}"')
            else:
                self.reply(404, b"", X_Error_Code="EntryNotFound")

    do_HEAD = do_GET


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tiny_model, tmp_path, offline_environment):
    """The server and the environment of its clients. Models: whole, sharded, only a .bin, without weights."""
    models = tmp_path / "models"
    original = tiny_model("bert")
    tensors = load_file(original / "model.safetensors")
    for name in ("whole", "sharded", "old", "empty"):
        shutil.copytree(original, models / "org" / name)
        if name != "whole":
            (models / "org" / name / "model.safetensors").unlink()
    torch.save(tensors, models / "org" / "whole" / "pytorch_model.bin")
    (models / "org" / "whole" / "tf_model.h5").write_bytes(b"unwanted")
    torch.save(tensors, models / "org" / "old" / "pytorch_model.bin")
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({key: tensors[key] for key in part}, models / "org" / "sharded" / file)
        weight_map |= dict.fromkeys(part, file)
    (models / "org" / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    torch.save(tensors, models / "org" / "sharded" / "pytorch_model.bin")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.models, server.asked = models, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    environment = offline_environment | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "NO_PROXY": "127.0.0.1"}
    yield server, environment
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_download(hub, tiny_model):
    server, environment = hub
    expected = load_encoder(tiny_model("bert"))[0].state_dict()
    names = ["org/whole", "org/sharded", "org/old"]
    answers = ask(names, environment)
    for name in names:
        kind, directory = answers[name]
        assert kind == "directory", directory
        state = load_encoder(directory)[0].state_dict()
        assert all(torch.equal(state[key], expected[key]) for key in expected), name
        assert (Path(directory) / "vocab.txt").is_file()
    fetched = {line.removeprefix("GET ") for line in server.asked if line.startswith("GET ") and "/resolve/" in line}
    weights = {"/".join([*file.split("/")[:2], file.split("/")[-1]]) for file in fetched if "model" in file.split("/")[-1]}
    # One form of the weights each, and nothing of other frameworks.
    assert weights == {
        "org/whole/model.safetensors",
        "org/sharded/model.safetensors.index.json",
        "org/sharded/model-00001-of-00002.safetensors",
        "org/sharded/model-00002-of-00002.safetensors",
        "org/old/pytorch_model.bin",
    }
    # The second time all of it comes from the cache.
    server.asked.clear()
    assert ask(names, environment | {"HF_HUB_OFFLINE": "1"}) == answers
    assert server.asked == []


@pytest.mark.slow
def test_a_hub_that_cannot_help(hub):
    _, environment = hub
    names = ["org/nowhere", "nowhere", "org/drops", "org/garbage"]
    for name, (kind, message) in ask(names, environment).items():
        assert kind == "error" and name in message and "\n" not in message, message
        assert "HF_ENDPOINT" in message


@pytest.mark.slow
def test_unreachable_endpoint(offline_environment):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    endpoint = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}
    kind, message = ask(["org/name"], offline_environment | endpoint)["org/name"]
    assert kind == "error" and "org/name" in message and "HF_ENDPOINT" in message and "\n" not in message


# Files of other names


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model("bert"), tmp_path / "model")


def test_a_config_of_googles_name_is_found(model, messages):
    expected = load_config(model)
    (model / "config.json").rename(model / "bert_config.json")
    assert load_config(local_directory(str(model))) == expected
    assert messages == [f"{model}: no config.json; reading bert_config.json instead"]
    (model / "config.json").write_text(json.dumps({**expected.to_dict(), "hidden_act": "relu"}))
    assert load_config(model).hidden_act == "relu"  # the standard name comes first


def test_links_have_the_standard_names(model, tmp_path):
    """Named in the directory or elsewhere; the files that the directory has under standard names give way."""
    (tmp_path / "words.txt").write_text((model / "vocab.txt").read_text())
    (model / "vocab.txt").write_text("[UNK]")
    (model / "tokenizer.json").write_text("{}")
    (model / "small.json").write_text((model / "config.json").read_text())
    (model / "config.json").write_text("{}")
    renamed = renamed_directory(model, "small.json", tmp_path / "words.txt", tmp_path / "cache")
    assert renamed == renamed_directory(model, "small.json", tmp_path / "words.txt", tmp_path / "cache")
    assert {path.name for path in renamed.iterdir()} >= {"config.json", "vocab.txt", "model.safetensors"}
    assert not (renamed / "tokenizer.json").exists()
    assert (renamed / "config.json").read_bytes() == (model / "small.json").read_bytes()
    assert (renamed / "vocab.txt").read_bytes() == (tmp_path / "words.txt").read_bytes()
    load_encoder(renamed)
    assert renamed_directory(model, None, None) == model


@pytest.mark.parametrize(
    ("family", "given", "expected"),
    [
        ("bert", "words", "vocab.txt"),
        ("bert", "t.json", "tokenizer.json"),
        ("albert", "30k-clean.model", "spiece.model"),
        ("xlm-roberta", "bpe.model", "sentencepiece.bpe.model"),
        ("camembert", "bpe.model", "sentencepiece.bpe.model"),
    ],
)
def test_the_kind_of_a_vocabulary(family, given, expected, tiny_model, tmp_path):
    (tmp_path / given).write_text(given)
    renamed = renamed_directory(tiny_model(family), None, tmp_path / given, tmp_path / "cache")
    assert (renamed / expected).read_text() == given
    kept = {"vocab.txt", "tokenizer.json", "spiece.model", "sentencepiece.bpe.model"}
    assert [path.name for path in renamed.iterdir() if path.name in kept] == [expected]


def test_named_files_that_cannot_be_read(model, tmp_path):
    for flags in (("nowhere.json", None), (None, "nowhere.txt")):
        name = flags[0] or flags[1]
        with pytest.raises(UserError, match=f"_file {name}: no such file, neither here nor in {model}"):
            renamed_directory(model, *flags, tmp_path / "cache")
    (model / "bad.json").write_text("[1]")
    with pytest.raises(UserError, match=r"bad\.json: not a JSON object"):
        renamed_directory(model, "bad.json", None, tmp_path / "cache")
