"""Rules of CONTRIBUTING.md that no linter checks: file and function sizes, citations of equations, paths in the documentation."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("cifm_cli/**/*.py"), *ROOT.glob("backends/**/*.py")])
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
# The documentation gives paths from the root of the repository, or from that of the package `cifm_cli`.
FOLDERS = [ROOT, ROOT / "cifm_cli", ROOT / "backends"]
MAX_FILE_LINES = 420
MAX_MEDIAN_LINES = 130
MAX_FUNCTION_LINES = 60


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}
    assert median(lengths.values()) <= MAX_MEDIAN_LINES


def test_functions_are_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": node.end_lineno - node.body[0].lineno
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_no_file_is_named_utils() -> None:
    assert [path for path in SOURCES if re.search(r"utils|helpers|misc|common", path.stem)] == []


@pytest.mark.parametrize("equation", [2, 3, 11, 12, 13, 14, 15])
def test_every_equation_of_the_paper_is_cited(equation: int) -> None:
    cited = re.compile(rf"Eqs?\.? ?(\d+[-–])?{equation}\b")
    assert [path for path in SOURCES if cited.search(path.read_text(encoding="utf8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_in_the_documentation_exist(page: Path) -> None:
    """Checks modules, such as `model/layer.py`, and relative links to pages and figures."""
    text = page.read_text(encoding="utf8")
    modules = re.findall(r"((?:[\w.]+/)*\w+\.py)\b", text)
    missing = [name for name in modules if not any((folder / name).exists() for folder in FOLDERS)]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing += [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    last_line = (ROOT / ".ci" / "run").read_text(encoding="utf8").splitlines()[-1]
    assert last_line in (ROOT / "README.md").read_text(encoding="utf8").splitlines()


def test_backends_is_a_source_root_not_a_package() -> None:
    assert not (ROOT / "backends" / "__init__.py").exists()
