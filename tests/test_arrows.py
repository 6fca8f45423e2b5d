"""The architecture, read from the imports: arrows point one way, no module imports itself in a circle, no engine a task."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A package imports what stands before it; modules of the library's top level stand before all packages.
LAYERS = ["encoder", "data", "heads", "reporting", "training", "tasks"]
TABLE = "bertorch.tasks.table"  # names alone; who asks it for a task by name need not know which there are


def imports_of(path: Path) -> set[str]:
    """The modules of the library that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if name in MODULES}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in sorted((ROOT / "bertorch").rglob("*.py"))}
GRAPH = {name: imports_of(path) - {name, "bertorch"} for name, path in MODULES.items()}


def layer(module: str) -> int:
    part = (module.split(".") + [""])[1]
    return LAYERS.index(part) if part in LAYERS else -1


@pytest.mark.parametrize("module", [name for name in MODULES if name not in ("bertorch", TABLE)])
def test_arrows_point_one_way(module):
    above = [name for name in GRAPH[module] if layer(name) > layer(module) and name != TABLE]
    assert above == [], f"{module} imports {above}; the order is {LAYERS}"


def test_the_table_of_tasks_imports_none_of_them():
    assert not GRAPH[TABLE]


def test_no_circle():
    """Not among modules either: an import inside a function would hide it, so those count as well."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in sorted(GRAPH[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(GRAPH):
        visit(name, ())


def test_a_task_uses_another_one_way():
    """Which folder imports which; a circle of folders would make them one."""
    used = {
        (name.split(".")[2], other.split(".")[2])
        for name, others in GRAPH.items()
        for other in others
        if name.startswith("bertorch.tasks.") and other.startswith("bertorch.tasks.")
    }
    folders = {path.name for path in (ROOT / "bertorch" / "tasks").iterdir() if (path / "__init__.py").is_file()}
    between = {(a, b) for a, b in used if a in folders and b in folders and a != b}
    assert between == {("choice", "classification"), ("entities", "classification"), ("sentences", "classification")}
