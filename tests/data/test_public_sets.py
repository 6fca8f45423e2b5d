"""Public sets, got from a server on this machine that has files of the same names and layouts."""

import hashlib
import io
import json
import re
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bertorch.data import public_sets
from bertorch.data.public_sets import SETS, checksum, get_set
from bertorch.errors import UserError
from tests.scripts.launch import call


class Server:
    """Gives files by path, also parts of them; ``breaks`` says after how many bytes an answer ends, once."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.breaks: int | None = None
        self.ranges = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append((self.path, self.headers["Range"]))
                content = server.files.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                start = int(re.search(r"\d+", self.headers["Range"])[0]) if self.headers["Range"] and server.ranges else 0
                if start >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : None if server.breaks is None else start + server.breaks])
                server.breaks = None

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    one = Server()
    thread = threading.Thread(target=one.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield one
    one.http.shutdown()
    one.http.server_close()
    thread.join()


def zipped(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


@pytest.fixture
def serve(server, monkeypatch):
    """Let the server have these contents of a set's sources, and the table their checksums."""

    def make(name: str, contents: dict[str, bytes], kind: str = "sha256") -> None:
        sources = {}
        for file, content in contents.items():
            source = SETS[name].sources[file]
            server.files[f"/{source.address.partition('://')[2]}"] = content
            given = hashlib.sha256(content) if kind == "sha256" else hashlib.sha1(b"blob %d\0%b" % (len(content), content))
            sources[file] = replace(source, checksum=f"{kind}:{given.hexdigest()}")
        monkeypatch.setitem(SETS, name, replace(SETS[name], sources=sources))

    return make


def test_addresses_and_checksums_of_the_table():
    """Each file from a host named here, below a commit or as a release, with a checksum of the right length."""
    folders = [one.folder for one in SETS.values()]
    assert len(set(folders)) == len(folders)
    for one in SETS.values():
        assert one.licence and one.sources
        for source in one.sources.values():
            assert re.fullmatch(r"sha256:[0-9a-f]{64}|git:[0-9a-f]{40}", source.checksum)
            assert re.match(
                r"https://(raw\.githubusercontent\.com/[\w.-]+/[\w.-]+/[0-9a-f]{40}/|dl\.fbaipublicfiles\.com/|"
                r"rajpurkar\.github\.io/)[\w./%-]+$", source.address,
            )  # fmt: skip
            assert (source.checksum[:3] == "git") == ("githubusercontent" in source.address)


def test_git_names_a_file_as_git_does(tmp_path):
    """``git hash-object`` of "hello\\n" is ce0136…, as every introduction to git has it."""
    (tmp_path / "a").write_bytes(b"hello\n")
    assert checksum(tmp_path / "a", "git:") == "git:ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize("kind", ["sha256", "git"])
def test_a_set_is_laid_out_and_not_got_twice(server, serve, tmp_path, monkeypatch, messages, kind):
    contents = {name: f"{name}的内容\n".encode() for name in SETS["afqmc"].sources}
    serve("afqmc", contents, kind)
    flags = ["afqmc", "--output_dir", str(tmp_path), "--mirror", f"{server.address}/"]
    assert call("scripts/get_data.py", flags, monkeypatch) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "AFQMC").iterdir()} == contents
    assert [path.name for path in tmp_path.iterdir()] == ["AFQMC"], "no downloads are left"
    asked = len(server.asked)
    assert call("scripts/get_data.py", flags, monkeypatch) == 0
    assert len(server.asked) == asked == 4
    assert any("is there already; remove it to get it again" in message for message in messages)


@pytest.mark.parametrize("ranges", [True, False], ids=["a part", "the whole again"])
def test_what_was_interrupted_goes_on(server, serve, tmp_path, ranges):
    content = bytes(range(256)) * 50
    serve("zhwiki", {"wiki_sents.txt": content})
    server.breaks, server.ranges = 5000, ranges
    with pytest.raises(UserError, match="5000 .*cannot be read|cannot be read .*5000"):
        get_set("zhwiki", tmp_path, server.address)
    assert not (tmp_path / "zhwiki").exists()
    get_set("zhwiki", tmp_path, server.address)
    assert [asked for _, asked in server.asked] == [None, "bytes=5000-"]
    assert (tmp_path / "zhwiki" / "wiki_sents.txt").read_bytes() == content


def test_a_download_that_was_complete_is_not_asked_for_again(server, serve, tmp_path):
    serve("zhwiki", {"wiki_sents.txt": b"one\n"})
    downloads = tmp_path / ".downloads"
    downloads.mkdir()
    (downloads / "zhwiki-wiki_sents.txt.part").write_bytes(b"one\n")  # stopped before it was renamed
    get_set("zhwiki", tmp_path, server.address)
    assert (tmp_path / "zhwiki" / "wiki_sents.txt").read_bytes() == b"one\n"


def test_another_checksum_is_refused_and_nothing_is_laid_out(server, serve, tmp_path):
    serve("sts-b", {name: b"a\tb\t1\n" for name in SETS["sts-b"].sources})
    path = next(path for path in server.files if path.endswith("sts-b-dev.txt"))
    server.files[path] = b"a\tb\t2\n"
    with pytest.raises(UserError, match="sts-b-dev.txt: its checksum is sha256:.*, not sha256:"):
        get_set("sts-b", tmp_path, server.address)
    assert not (tmp_path / "STS-B").exists()
    server.files[path] = b"a\tb\t1\n"
    get_set("sts-b", tmp_path, server.address)
    assert len(list((tmp_path / "STS-B").iterdir())) == 3
    assert sum(asked.endswith("train.txt") for asked, _ in server.asked) == 1, "what was right is kept"


def test_mistakes_are_one_line(server, tmp_path, monkeypatch, capsys):
    flags = ["weibo", "--output_dir", str(tmp_path), "--mirror", server.address]
    assert call("scripts/get_data.py", flags, monkeypatch) == 2
    assert "404 Not Found; --mirror names another place" in capsys.readouterr().err
    server.http.server_close()
    assert call("scripts/get_data.py", ["weibo", "--output_dir", str(tmp_path), "--mirror", "http://127.0.0.1:9"],
                monkeypatch) == 2  # fmt: skip
    assert "cannot be read" in capsys.readouterr().err
    for wrong, says in ((["nothing"], "'nothing' is not a set; --list"), ([], "name a set; --list")):
        assert call("scripts/get_data.py", wrong, monkeypatch) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        get_set("weibo", tmp_path / "file", server.address)


def test_the_list_shows_licence_and_size(monkeypatch, capsys):
    assert call("scripts/get_data.py", ["--list"], monkeypatch) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(SETS) < set(lines)
    assert "81.6 MB" in lines["squad"] and "CC BY-SA 4.0" in lines["squad"]
    assert "over 4.2 MB" in lines["zhwiki"] and "29 kB" in lines["wnli"]


def test_a_group_gets_its_sets(monkeypatch, tmp_path):
    got = []
    monkeypatch.setattr(public_sets, "get_set", lambda name, *_: got.append(name))
    assert call("scripts/get_data.py", ["glue", "rte"], monkeypatch) == 0
    assert got == ["cola", "sst-2", "mrpc", "qqp", "sts-b-en", "mnli", "qnli", "rte", "wnli"]


def test_archives_of_glue(server, serve, tmp_path):
    files = {f"RTE/{name}.tsv": f"{name}\n" for name in ("train", "dev", "test")}
    serve("rte", {"RTE.zip": zipped({**files, "RTE/../evil.txt": "no", "other.txt": "no"})})
    get_set("rte", tmp_path, server.address)
    assert {path.name: path.read_text() for path in (tmp_path / "GLUE/RTE").iterdir()} == {
        f"{name}.tsv": f"{name}\n" for name in ("train", "dev", "test")
    }
    serve("cola", {"CoLA.zip": zipped({"CoLA/train.tsv": "a"})})
    with pytest.raises(UserError, match="no CoLA/dev.tsv in it"):
        get_set("cola", tmp_path, server.address)
    assert not list((tmp_path / "GLUE" / "CoLA").glob("*.tsv"))


def test_mrpc_is_divided_by_the_list_of_pairs(server, serve, tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = ['1\t10\t11\tA "b.\tC.', "0\t20\t21\tD.\tE.", "1\t11\t10\tF.\tG."]
    serve("mrpc", {
        "msr_paraphrase_train.txt": "\r\n".join([header, *rows, ""]).encode(),
        "msr_paraphrase_test.txt": b"test\r\n", "mrpc_dev_ids.tsv": b"20\t21\n10\t99\n",
    })  # fmt: skip
    get_set("mrpc", tmp_path, server.address)
    parts = {name: (tmp_path / f"GLUE/MRPC/{name}.tsv").read_text(encoding="utf-8") for name in ("train", "dev", "test")}
    assert parts["train"] == f"{header[1:]}\n{rows[0]}\n{rows[2]}\n"
    assert parts["dev"] == f"{header[1:]}\n{rows[1]}\n"
    assert parts["test"].strip() == "test"


def test_the_mix_of_paraphrases(server, serve, tmp_path):
    bank = "\ufeff他走了。\t他离开了。\n一样\t同样\n只有一列\n"
    serve("paraphrases", {
        "train.txt": "怎么还款\t如何还款\t1\n一样\t同样\t1\n怎么还款\t谁\t0\n".encode(),
        "translated_train.tsv": "id\tsentence1\tsentence2\tlabel\n1\tA 队\tA队\t1\n2\tB\tC\t0\n3\t\tD\t1\n".encode(),
        "paraphrase_unorder.zip": zipped({"paraphrase/a.txt": bank, "__MACOSX/._a.txt": "x\ty\n"}),
    })  # fmt: skip
    get_set("paraphrases", tmp_path, server.address)
    path = tmp_path / "batchneg" / "paraphrase_lcqmc_semantic_pairs.txt"
    assert path.read_text(encoding="utf-8") == "怎么还款\t如何还款\n一样\t同样\nA 队\tA队\n他走了。\t他离开了。\n"


def test_what_is_laid_out_can_be_read(server, serve, tmp_path):
    """A set of questions, from its address to its questions."""
    squad = {"data": [{"paragraphs": [{"context": "我在北京", "qas": [
        {"id": "1", "question": "在哪？", "answers": [{"text": "北京", "answer_start": 2}]}]}]}]}  # fmt: skip
    serve("drcd", {name: json.dumps(squad).encode() for name in SETS["drcd"].sources})
    get_set("drcd", tmp_path, server.address)
    assert sorted(path.name for path in (tmp_path / "DRCD").iterdir()) == [
        "DRCD_dev.json", "DRCD_test.json", "DRCD_training.json",
    ]  # fmt: skip
