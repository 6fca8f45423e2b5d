"""Public data sets: where they are, under which licence, and how they are laid out; ``scripts/get_data.py`` gets them.

Every file has a checksum, so what arrives is what this table was written for, or it is refused. That of a file in a git
repository is the id under which git keeps its content. Sizes are in bytes; None is a file of more than 4 MB of which only
the id is known.
"""

import contextlib
import hashlib
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from loguru import logger
from tqdm import tqdm

from bertorch.errors import UserError
from bertorch.writing import write_all

_BLOCK = 1 << 20
_LARGE = 4 << 20  # bytes, the least that a file of unknown size has
_WAIT = 60  # seconds without a byte
_DOWNLOADS = ".downloads"  # beside the sets, until they are laid out

Layout = Callable[[dict[str, Path]], dict[str, Callable[[Path], object]]]  # downloads by name -> writers by file name


@dataclass(frozen=True)
class Source:
    """A file to download.

    Attributes:
        address: where it is.
        checksum: ``sha256:`` or ``git:`` (SHA-1 of its length and content, as git has it), and the digits.
        size: in bytes, if known.
    """

    address: str
    checksum: str
    size: int | None = None


@dataclass(frozen=True)
class PublicSet:
    """A data set.

    Attributes:
        folder: where it is laid out, below the output directory.
        licence: as its authors state it, if they do.
        sources: the files to download, by name.
        files: what is laid out; by default the sources under their names.
        lay_out: makes these files of the sources.
    """

    folder: str
    licence: str
    sources: dict[str, Source]
    files: tuple[str, ...] = ()
    lay_out: Layout | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return self.files or tuple(self.sources)

    @property
    def size(self) -> tuple[int, bool]:
        """Bytes to download at least, and whether these are all."""
        sizes = [source.size for source in self.sources.values()]
        return sum(size or _LARGE for size in sizes), None not in sizes


def _of_git(repository: str, commit: str, folder: str, files: dict[str, tuple[str, int | None]]) -> dict[str, Source]:
    """Files of a repository on GitHub: name -> (id, size)."""
    start = f"https://raw.githubusercontent.com/{repository}/{commit}/{urllib.parse.quote(folder)}"
    return {name: Source(f"{start}{name}", f"git:{identity}", size) for name, (identity, size) in files.items()}


# The repository of the original bertorch, whose README names its sets, and the collection that it links to.
_ORIGINAL = partial(_of_git, "zejunwang1/bertorch", "cd2075223142ad3d21dc4221e8a12ed8c730b052")
_CSTS = partial(_of_git, "zejunwang1/CSTS", "2e7eeedf505c78bf39d34f836773081cfc98af0c")
_CMRC = partial(_of_git, "ymcui/cmrc2018", "c0eb1b6ba219847457e6af3180da722bbeb656af")
_DRCD = partial(_of_git, "DRCKnowledgeTeam/DRCD", "b944790de5af02c5fbb7cd9cb1473d27d169eebf")
_CAIL = partial(_of_git, "china-ai-law-challenge/CAIL2019", "010ebcedb4a1faf0ae25576254d134fa518e4830")
_GLUE = "https://dl.fbaipublicfiles.com/glue/data/"
_SENTEVAL = "https://dl.fbaipublicfiles.com/senteval/senteval_data/"
_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"

_UNSTATED = "not stated"
_RESEARCH = "CSTS: for research, not for commerce"
_OF_TASK = "that of the task; see gluebenchmark.com/tasks"


def _copied(sources: dict[str, Path]) -> dict[str, Callable[[Path], object]]:
    return {name: partial(shutil.copyfile, path) for name, path in sources.items()}


def _unzipped(sources: dict[str, Path], folder: str, files: tuple[str, ...]) -> dict[str, Callable[[Path], object]]:
    """These files of a folder in the only archive."""
    (archive,) = sources.values()
    return {name: partial(_unzip, archive, f"{folder}/{name}") for name in files}


def _unzip(archive: Path, member: str, to: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content, content.open(member) as source, open(to, "wb") as target:
            shutil.copyfileobj(source, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{archive}: no {member} in it ({error})") from None


def _mrpc(sources: dict[str, Path]) -> dict[str, Callable[[Path], object]]:
    """The training file, divided by GLUE's list of pairs for development; the test file as it is."""
    dev_ids = {tuple(line.split("\t")) for line in _lines(sources["mrpc_dev_ids.tsv"])}
    header, *rows = _lines(sources["msr_paraphrase_train.txt"])
    held_out = [tuple(row.split("\t")[1:3]) in dev_ids for row in rows]
    parts = {f"{name}.tsv": [row for row, dev in zip(rows, held_out, strict=True) if dev == (name == "dev")]
             for name in ("train", "dev")}  # fmt: skip
    writers = {name: partial(_write, [header, *part]) for name, part in parts.items()}
    return {**writers, "test.tsv": partial(shutil.copyfile, sources["msr_paraphrase_test.txt"])}


def _paraphrases(sources: dict[str, Path]) -> dict[str, Callable[[Path], object]]:
    """The mix that the original trains in-batch negatives on: pairs of equal meaning from its three sources, each once."""

    def pairs() -> Iterator[str]:
        seen = set()
        for row in _paraphrase_rows(sources):
            pair = "\t".join(text.strip() for text in row)
            if all(text.strip() for text in row) and pair not in seen:
                seen.add(pair)
                yield pair

    return {"paraphrase_lcqmc_semantic_pairs.txt": lambda to: _write(pairs(), to)}


def _paraphrase_rows(sources: dict[str, Path]) -> Iterator[list[str]]:
    for line in _lines(sources["train.txt"]):  # text, text, label
        *texts, label = line.split("\t")
        if len(texts) == 2 and label.strip() == "1":
            yield texts
    for line in _lines(sources["translated_train.tsv"]):  # id, text, text, label
        _, *texts, label = line.split("\t")
        if len(texts) == 2 and label.strip() == "1":
            yield texts
    with zipfile.ZipFile(sources["paraphrase_unorder.zip"]) as archive:
        names = [name for name in archive.namelist() if name.endswith(".txt") and not name.startswith("__MACOSX")]
        for name in names:
            with archive.open(name) as handle:
                for raw in handle:
                    texts = raw.decode("utf-8-sig").rstrip("\r\n").split("\t")
                    if len(texts) == 2:
                        yield texts


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8-sig", newline="\n") as handle:
        for line in handle:
            yield line.rstrip("\r\n")


def _write(lines: Iterator[str] | list[str], to: Path) -> None:
    with open(to, "w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(f"{line}\n" for line in lines)


def _glue(name: str, archive: str, checksum: str, size: int, *files: str) -> PublicSet:
    sources = {archive: Source(_GLUE + archive, f"sha256:{checksum}", size)}
    files = files or ("train.tsv", "dev.tsv", "test.tsv")
    return PublicSet(f"GLUE/{name}", _OF_TASK, sources, files, partial(_unzipped, folder=name, files=files))


SETS = {
    "chnsenticorp": PublicSet("ChnSentiCorp", _UNSTATED, _ORIGINAL("data/ChnSentiCorp/", {
        "train.tsv": ("2c2bf15a3938831d488f1f77e7204ee96aaa6534", 3087161),
        "dev.tsv": ("48436fd664e1e59f2318967a623d38da6338256e", 382617),
        "test.tsv": ("9a5ea0363711224b3b284fcaa2f22eee6bfbd939", 372230),
        "labels.txt": ("0cbde6b3766ae78accc40da8aff7ac42974faf25", 18),
    })),
    "afqmc": PublicSet("AFQMC", _RESEARCH, _ORIGINAL("data/AFQMC/", {
        "train.txt": ("793003713ee387e422c46e4074a8ec2f4f3a21b2", 2847159),
        "dev.txt": ("c26266a73935f2c8ebfc0451c454cb7a32e05cc7", 357229),
        "test.txt": ("c8b81251aa507e171b707c009b0f4535b63ee3a3", 309220),
        "labels.txt": ("0d66ea1aee9527bfa39185ead1f9cdbd96bba88c", 4),
    })),
    "tnews": PublicSet("TNEWS", _UNSTATED, _ORIGINAL("data/tnews/", {
        "train.tsv": ("a9bb64d0c7e669055eb4cbbbf03d6d4e9f74ae82", 4101723),
        "dev.tsv": ("d165c0b504538232a6df70d81f66dd936062e259", 770536),
        "labels.txt": ("81d32e5cb9e755eec620de6bab19397532ed9169", 182),
    })),
    "lcqmc": PublicSet("LCQMC", _RESEARCH, _ORIGINAL("data/LCQMC/", {
        "train.txt": ("90ec20b9b0126f5ce5dd33ce3c7c24e27c28f520", None),
        "dev.txt": ("049a28c0be419d0098a72967bded9b2fdc6478d8", 690285),
        "test.txt": ("b1bd0a0311c802db6cc556c1f69b6847d13a17d4", 776457),
    })),
    "cmnli": PublicSet("CMNLI", _RESEARCH, _ORIGINAL("data/CMNLI/", {
        "train.txt": ("be41ffeec203f205093b1a8b94a8982378ff60f1", None),
        "dev.txt": ("cd485ab8a523b0150d70ddf8807b5f96e7094ced", 1966478),
        "labels.txt": ("82e535ff483291c641a1a9cde8f538ae16c95eaa", 33),
    })),
    "csnli": PublicSet("CSNLI", _RESEARCH, _ORIGINAL("data/CSNLI/", {
        "train.txt": ("6b5a403be8a0f9552b232a530d5d36e2dfd3f416", None),
        "dev.txt": ("b101828a5412bb29bf885162a33150b88f5bd285", 1084303),
        "labels.txt": ("82e535ff483291c641a1a9cde8f538ae16c95eaa", 33),
    })),
    "ocnli": PublicSet("OCNLI", _RESEARCH, _CSTS("OCNLI/", {
        "train.txt": ("d560dbc3e1008fc0e3897bd30dfed5f8a5582b3d", None),
        "dev.txt": ("151ce5e34aca13559bea0d633540b2bf923e3044", 344968),
    })),
    "sts-b": PublicSet("STS-B", _RESEARCH, _CSTS("Chinese-STS-B/", {
        "sts-b-train.txt": ("89acd83c846e2bb86561311a1f7776f79c116095", 597702),
        "sts-b-dev.txt": ("badc323ab334a39f72ca4674db2d3d8fa5701f8f", 185717),
        "sts-b-test.txt": ("acb7fa26b819ce54e54bb5fa12744cf96358b9ce", 147342),
    })),
    "msra": PublicSet("ner/msra", _UNSTATED, _ORIGINAL("data/ner/msra/", {
        "train.json": ("f024f21f0e612bf5eaecab68bb1d738b646cc39d", None),
        "dev.json": ("5d318b807a35e43a48f8bcedbefd4c6e54fe3b97", 2712323),
        "test.json": ("208bee307d67381904a5158dbfd4cca2123c01fc", 2227455),
        "labels.txt": ("f0ef8619ec43533058efb673f7bb161a93dd8598", 47),
    })),
    "ontonote4": PublicSet("ner/ontonote4", "LDC2011T03: needs the agreement of the LDC", _ORIGINAL("data/ner/ontonote4/", {
        "train.json": ("a706e8b2ed3b3423fc1cb109b9063177c2959fa8", None),
        "dev.json": ("b33eb0eb106a0437d26e4b5725f798854d789afb", 2581250),
        "test.json": ("46056e2a2b3abf34aa67f912d8036762604e738b", 2681771),
        "labels.txt": ("11ab22ae4168479b6df29faff75857b075d17294", 74),
    })),
    "resume": PublicSet("ner/resume", _UNSTATED, _ORIGINAL("data/ner/resume/", {
        "train.json": ("3169465afee413449a4106305c1ab41cadf17b25", 1919377),
        "dev.json": ("4f2a366f869919f750c7a0deec5f825aef5b64f1", 213314),
        "test.json": ("bd9558d4f31c64f06f87fd059e14db5be40b14ce", 235683),
        "labels.txt": ("7eb9781496d252ed6c9001169a4689d194980c80", 128),
    })),
    "weibo": PublicSet("ner/weibo", _UNSTATED, _ORIGINAL("data/ner/weibo/", {
        "train.json": ("7b0e8e4897b60de1f8654ed7db36a4f159182c12", 932982),
        "dev.json": ("4978d23a6a05384b89e053e3bed17b98b048a6e4", 183934),
        "test.json": ("fb2eef7c90e6fc14266023f4b3aaf0258378ed6a", 188526),
        "labels.txt": ("88d593517c33d5eedf0580ce4b67b8a7ce62a92d", 202),
    })),
    "zhwiki": PublicSet("zhwiki", "CC BY-SA, as Wikipedia", _ORIGINAL("data/zhwiki/", {
        "wiki_sents.txt": ("a63adcaf3fccbd1b8379e608bb6c1844f49ba8b6", None),
    })),
    "paraphrases": PublicSet(
        "batchneg", "LCQMC and PAWS-X as CSTS has them: for research; PKU Paraphrase Bank: BSD-3-Clause",
        {
            **_CSTS("LCQMC/", {"train.txt": ("90ec20b9b0126f5ce5dd33ce3c7c24e27c28f520", None)}),
            **_CSTS("PAWS-X/", {"translated_train.tsv": ("c314d6957bb78fbb61edd6df794c042061ab03d6", None)}),
            **_CSTS("PKU-Paraphrase-Bank/", {"paraphrase_unorder.zip": ("1f24e514c735c4339c827cd3c8b6d7799e04ce0a", None)}),
        },
        ("paraphrase_lcqmc_semantic_pairs.txt",), _paraphrases,
    ),
    "cmrc2018": PublicSet("CMRC2018", "CC BY-SA 4.0", _CMRC("squad-style-data/", {
        "cmrc2018_train.json": ("cd56f7d38f6f4a6f92df2616479bbf134a37bebf", None),
        "cmrc2018_dev.json": ("94c1f2df14a669b0b7b836665d6339a34df8aa97", 3299139),
        "cmrc2018_trial.json": ("020e3559e914d23404ffc5bf9411ee52a9c38451", 800221),
    })),
    "drcd": PublicSet("DRCD", "CC BY-SA 3.0", _DRCD("", {
        "DRCD_training.json": ("35480d22ed6449adeb1bece5ae27d0889bf8b7af", None),
        "DRCD_dev.json": ("daa42e47130e8d5b907b87e75cecc8fb807fd4f5", 2184379),
        "DRCD_test.json": ("341eda001e27a375f14e6b40976b2492b925eae2", 2125600),
    })),
    "cjrc": PublicSet("CJRC", _UNSTATED, _CAIL("阅读理解/data/", {
        "big_train_data.json": ("095b52bc59491240fd349e3ffe46abc6b4c12a0b", None),
        "dev_ground_truth.json": ("ec80b82875e8c784eb8ff99893b142ec1bf85770", 3555905),
        "test_ground_truth.json": ("2269ae81180d11ab35cbd089175c361323fb64e7", 3519707),
    })),
    "squad": PublicSet("SQuAD", "CC BY-SA 4.0", {
        name: Source(_SQUAD + name, f"sha256:{checksum}", size) for name, checksum, size in (
            ("train-v1.1.json", "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955", 30288272),
            ("dev-v1.1.json", "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9", 4854279),
            ("train-v2.0.json", "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002", 42123633),
            ("dev-v2.0.json", "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8", 4370528),
        )
    }),
    "cola": _glue("CoLA", "CoLA.zip", "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff", 376971),
    "sst-2": _glue("SST-2", "SST-2.zip", "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa", 7439277),
    "mrpc": PublicSet(
        "GLUE/MRPC", _OF_TASK,
        {
            "msr_paraphrase_train.txt": Source(
                _SENTEVAL + "msr_paraphrase_train.txt",
                "sha256:60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89", 1047044,
            ),
            "msr_paraphrase_test.txt": Source(
                _SENTEVAL + "msr_paraphrase_test.txt",
                "sha256:a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784", 441275,
            ),
            "mrpc_dev_ids.tsv": Source(
                _GLUE + "mrpc_dev_ids.tsv",
                "sha256:971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7", 6222,
            ),
        },
        ("train.tsv", "dev.tsv", "test.tsv"), _mrpc,
    ),
    "qqp": _glue("QQP", "QQP-clean.zip", "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0", 41696084),
    "sts-b-en": _glue("STS-B", "STS-B.zip", "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85", 802872),
    "mnli": _glue(
        "MNLI", "MNLI.zip", "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633", 312783507,
        "train.tsv", "dev_matched.tsv", "dev_mismatched.tsv", "test_matched.tsv", "test_mismatched.tsv",
    ),
    "qnli": _glue("QNLI", "QNLIv2.zip", "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5", 10627589),
    "rte": _glue("RTE", "RTE.zip", "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee", 697150),
    "wnli": _glue("WNLI", "WNLI.zip", "ae0e8e4d16f4d46d4a0a566ec7ecceccfd3fbfaa4a7a4b4e02848c0f2561ac46", 28999),
}  # fmt: skip
GROUPS = {"glue": ("cola", "sst-2", "mrpc", "qqp", "sts-b-en", "mnli", "qnli", "rte", "wnli")}


def listing() -> list[tuple[str, str, str, str]]:
    """``(name, size, folder, licence)`` of each set, as text."""
    rows = []
    for name, one in SETS.items():
        size, known = one.size
        shown = f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size / 1e3:.0f} kB"
        rows.append((name, f"{'' if known else 'over '}{shown}", one.folder, one.licence))
    return rows


def get_set(name: str, output_dir: str | Path, mirror: str | None = None) -> None:
    """Download a set and lay it out; nothing is done if all its files are there.

    Args:
        name: a key of ``SETS``.
        output_dir: the set's folder is made in it.
        mirror: an address that has the original ones below it, as ``mirror/host/path``; None takes those.

    Raises:
        UserError: a file cannot be had, has another checksum, or cannot be written.
    """
    one, folder = SETS[name], Path(output_dir) / SETS[name].folder
    if all((folder / file).is_file() for file in one.targets):
        logger.info(f"{folder}: is there already; remove it to get it again")
        return
    downloads = Path(output_dir) / _DOWNLOADS
    found = {}
    for file, source in one.sources.items():
        path = downloads / f"{name}-{file}"
        try:
            downloads.mkdir(parents=True, exist_ok=True)
            _download(source, path, mirror)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
        found[file] = path
    write_all({folder / file: write for file, write in (one.lay_out or _copied)(found).items()})
    for path in found.values():
        path.unlink()
    with contextlib.suppress(OSError):  # another set's downloads may lie there
        downloads.rmdir()
    logger.info(f"{folder}: {', '.join(one.targets)}; licence: {one.licence}")


def _download(source: Source, path: Path, mirror: str | None) -> None:
    """Download to ``path``; what an earlier attempt has left is continued."""
    if path.is_file() and checksum(path, source.checksum) == source.checksum:
        return
    address = source.address if mirror is None else f"{mirror.rstrip('/')}/{source.address.partition('://')[2]}"
    part = path.with_name(f"{path.name}.part")
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_WAIT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: an earlier attempt has all of it
            raise UserError(f"{address}: {error.code} {error.reason}; --mirror names another place to get it from") from None
    except (OSError, HTTPException) as error:
        raise _interrupted(address, getattr(error, "reason", error)) from None
    else:
        with answer:
            have = have if answer.status == 206 else 0
            expected = have + int(answer.headers.get("Content-Length") or 0)
            bar = tqdm(initial=have, total=expected or None, unit="B", unit_scale=True, desc=path.name, disable=None)
            with open(part, "ab" if have else "wb") as handle, bar:
                for block in _blocks(answer, address):
                    handle.write(block)
                    bar.update(len(block))
        if part.stat().st_size < expected:
            raise _interrupted(address, f"{part.stat().st_size} of {expected} bytes came")
    got = checksum(part, source.checksum)
    if got != source.checksum:
        part.unlink()
        raise UserError(f"{address}: its checksum is {got}, not {source.checksum}; it was changed, or damaged on its way")
    os.replace(part, path)


def _blocks(answer: HTTPResponse, address: str) -> Iterator[bytes]:
    try:
        while block := answer.read(_BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise _interrupted(address, error) from None


def _interrupted(address: str, reason: object) -> UserError:
    return UserError(f"{address}: cannot be read ({reason}); run it again, and it goes on from where it is")


def checksum(path: str | Path, like: str) -> str:
    """The checksum of a file, of the kind that ``like`` names: ``sha256:`` or ``git:``."""
    kind, path = like.partition(":")[0], Path(path)
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return f"{kind}:{digest.hexdigest()}"
