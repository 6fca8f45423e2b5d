"""The documents: links lead somewhere, commands name flags and files that exist, both languages give the same commands."""

import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

from bertorch.data.public_sets import SETS
from tests.scripts.launch import call

ROOT = Path(__file__).parents[1]
PAGES = [page for folder in (".", "docs", "benchmarks", "data", "models/*") for page in sorted(ROOT.glob(f"{folder}/*.md"))]
PAIRS = [page for page in PAGES if page.with_name(f"{page.stem}_zh.md").is_file()]
PUBLIC = tuple(f"data/{one.folder}/" for one in SETS.values())  # what scripts/get_data.py lays out
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PROGRAM = re.compile(r"(?:run_\w+|predict|scripts/\w+)\.py")


def of_root(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its code blocks, where `#` begins a comment."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """As GitHub derives them from headings: lower case, no punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[str]:
    """The command lines of the shell blocks, without comments."""
    blocks = [block for kind, block in _BLOCK.findall(page.read_text(encoding="utf-8")) if kind == "shell"]
    return [shlex.join(shlex.split(line, comments=True)) for line in "".join(blocks).replace("\\\n", " ").splitlines()]


@functools.cache
def flags(script: str) -> set[str]:
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
        assert call(script, ["--help"], patch) == 0
    return set(re.findall(r"--[\w-]+", text.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=of_root)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent in (ROOT, ROOT / "docs")], ids=of_root)
def test_commands_name_flags_and_sample_files_that_exist(page):
    inline = re.findall(r"`(python [^`]+)`", prose(page))
    for command in [*commands(page), *inline]:
        for path in re.findall(r"(?<![\w/.-])(?:data/[a-z]|models|scripts|benchmarks)[\w./-]*", command):
            assert (ROOT / path).exists() or path.startswith(PUBLIC), command
        if program := _PROGRAM.search(command):
            given = re.findall(r"(?<!\S)--[\w-]+", command[program.end() :])
            assert set(given) <= flags(program.group()), command


@pytest.mark.parametrize("page", [page for page in PAGES if not page.stem.startswith("adding")], ids=of_root)
def test_code_that_is_named_is_there(page):
    """``adding.md`` names files that its examples make."""
    for path in re.findall(r"`((?:bertorch|tests|benchmarks|scripts)/[\w./-]*)`", prose(page)):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAIRS, ids=of_root)
def test_both_languages_give_the_same_commands(page):
    assert commands(page) == commands(page.with_name(f"{page.stem}_zh.md"))


def test_every_page_is_there_in_chinese():
    pages = [page for page in (ROOT / "docs").glob("*.md") if not page.stem.endswith("_zh")]
    assert set(pages) < set(PAIRS)
