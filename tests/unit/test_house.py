"""Rules of CONTRIBUTING.md that no linter checks: sizes, docstrings, output, names of backends, import cycles, citations."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("cifm_cli/**/*.py"), *ROOT.glob("backends/**/*.py")])
MAX_FILE_LINES = 420
MAX_MEDIAN_LINES = 130
MAX_FUNCTION_LINES = 60
TREES = {
    path.relative_to(ROOT).as_posix().removeprefix("backends/"): ast.parse(path.read_text(encoding="utf8"))
    for path in SOURCES
}
MAY_PRINT = re.compile(r"cifm_cli/(commands/.*|report/.*|app\.py|__main__\.py)")
PRINTING = {"say", "warn", "show_table", "emit", "listing", "fail"}  # of report.terminal
# These modules name the Python packages torch and dgl, not the backends.
NAME_PACKAGES = {"cifm_cli/provenance.py", "cifm_cli/celltype/torch_files.py"}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function and method, also nested ones, and where it is; not the signatures of `typing.overload`."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and "overload" not in map(ast.unparse, node.decorator_list):
                yield f"{path}:{node.lineno} {node.name}", node


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}
    assert median(lengths.values()) <= MAX_MEDIAN_LINES


def test_functions_are_short() -> None:
    lengths = {where: (node.end_lineno or 0) - node.lineno + 1 for where, node in functions()}
    assert {where: length for where, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_public_functions_have_docstrings() -> None:
    public = [(where, node) for where, node in functions() if not node.name.startswith("_")]
    assert [where for where, node in public if ast.get_docstring(node) is None] == []


def test_no_file_is_named_utils() -> None:
    assert [path for path in SOURCES if re.search(r"utils|helpers|misc|common", path.stem)] == []


@pytest.mark.parametrize("equation", [2, 3, 11, 12, 13, 14, 15])
def test_every_equation_of_the_paper_is_cited(equation: int) -> None:
    cited = re.compile(rf"Eqs?\.? ?(\d+[-–])?{equation}\b")
    assert [path for path in SOURCES if cited.search(path.read_text(encoding="utf8"))]


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    last_line = (ROOT / ".ci" / "run").read_text(encoding="utf8").splitlines()[-1]
    assert last_line in (ROOT / "README.md").read_text(encoding="utf8").splitlines()


def test_backends_is_a_source_root_not_a_package() -> None:
    assert not (ROOT / "backends" / "__init__.py").exists()


def printing_calls(tree: ast.AST) -> Iterator[str]:
    """Uses of `print` and of the printing functions of `report.terminal`."""
    for node in ast.walk(tree):
        match node:
            case ast.Name("print"):
                yield "print"
            case ast.ImportFrom(module="cifm_cli.report.terminal", names=names):
                yield from ({alias.name for alias in names} & PRINTING)
            case ast.Attribute(ast.Name("terminal"), name) if name in PRINTING:
                yield name


def test_only_commands_print() -> None:
    used = {path: sorted(printing_calls(tree)) for path, tree in TREES.items() if not MAY_PRINT.fullmatch(path)}
    assert {path: names for path, names in used.items() if names} == {}


def test_no_module_outside_cifm_backends_names_a_backend() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    names = set(project["entry-points"]["cifm.backends"])
    named = [
        f"{path}:{node.lineno} {node.value!r}"
        for path, tree in TREES.items()
        if path.startswith("cifm_cli/") and path not in NAME_PACKAGES
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert named == []


def imported_modules(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """Modules of the project that a module imports: at its top, in functions, and for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ({alias.name for alias in node.names} & modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module


def test_modules_import_each_other_without_cycles() -> None:
    trees = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): tree for path, tree in TREES.items()}
    graph = {name: set(imported_modules(tree, set(trees))) for name, tree in trees.items()}
    assert sum(map(len, graph.values())) > len(graph)  # so that a mistake in the names does not pass for no imports
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(reversed(error.args[1]))}")
