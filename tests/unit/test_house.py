"""Rules of CONTRIBUTING.md that no linter checks: sizes of files and functions, citations of equations, one test command."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("cifm_cli/**/*.py"), *ROOT.glob("backends/**/*.py")])
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


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    last_line = (ROOT / ".ci" / "run").read_text(encoding="utf8").splitlines()[-1]
    assert last_line in (ROOT / "README.md").read_text(encoding="utf8").splitlines()


def test_backends_is_a_source_root_not_a_package() -> None:
    assert not (ROOT / "backends" / "__init__.py").exists()
