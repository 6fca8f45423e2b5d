"""Names imported where they are used, in a function, are there; nothing else would tell before that function runs."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from tests.processes import finished

ROOT = Path(__file__).parents[1]
FILES = [path for folder in (".", "scripts", "benchmarks") for path in sorted((ROOT / folder).glob("*.py"))]
FILES += sorted((ROOT / "bertorch").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_imported_from_bertorch_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bertorch":
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module


def test_every_folder_of_the_library_is_a_package():
    """Else `pip install .` leaves it out."""
    assert [
        path for path in FILES if path.is_relative_to(ROOT / "bertorch") and not (path.parent / "__init__.py").is_file()
    ] == []


@pytest.mark.slow
def test_the_collector_is_left_as_it_was():
    for code in (
        "import gc, bertorch; assert gc.isenabled()",
        "import gc; gc.disable(); import bertorch; assert not gc.isenabled()",
    ):
        done = finished([sys.executable, "-c", code], cwd=ROOT)
        assert done.returncode == 0, done.stderr
