"""The documentation is current: paths, links, commands and options exist, and the examples of baselines run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from typer.main import get_command

from cifm_cli.app import app
from cifm_cli.evaluation.examples import Example, TrainingFolds
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
# The documentation gives paths from the root of the repository or from that of a package.
FOLDERS = [ROOT, ROOT / "cifm_cli", ROOT / "backends"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_exist(page: Path) -> None:
    """Checks modules, such as `model/layer.py`, and relative links to pages and figures."""
    text = page.read_text(encoding="utf8")
    modules = re.findall(r"((?:[\w.]+/)*\w+\.py)\b", text)
    missing = [name for name in modules if not any((folder / name).exists() for folder in FOLDERS)]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing += [link for link in links if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    """Every line `cifm ...` of a code block names an existing command and existing options."""
    blocks = re.findall(r"^```(?:bash|)\n(.*?)^```$", page.read_text(encoding="utf8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.findall(r"^(?:srun )?cifm (.*)$", block, re.MULTILINE)]
    unknown = []
    for line in lines:
        words, command = shlex.split(line, comments=True), get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        options = {"--help", *(option for parameter in command.params for option in parameter.opts)}
        is_complete = not hasattr(command, "commands") or not words or words[0].startswith(("-", "COMMAND"))
        typed = {word.partition("=")[0] for word in words if word.startswith("--")}
        if not is_complete or not typed <= options:
            unknown.append(line)
    assert unknown == []


def test_headings_that_are_linked_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf8")
        headings = [re.sub(r"[^\w -]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
        anchors = {heading.replace(" ", "-") for heading in headings}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors, page.name


def test_the_examples_of_baselines_run() -> None:
    """Two genes on a line of cells; the hidden training cell has four times the expression of its nearest cell."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf8")
    code = re.findall(
        r"^```python\n(.*?)^```$", page.partition("## Writing your own baseline")[2], re.MULTILINE | re.DOTALL
    )
    namespace: dict[str, Any] = {}
    exec(compile("".join(code), "docs/evaluation.md", "exec"), namespace)
    stats = GeneStats(mean=np.array([1.0, 0.0]), fraction=np.array([0.5, 0.0]), counts=np.array([8.0, 0.0]))
    values = csr_matrix(np.array([[1, 0], [3, 0]], dtype=np.float32))
    visible = VisibleCells(np.array([[0.0, 0.0], [10.0, 0.0]]), values, values, stats, radius_um=20.0, reach_um=40.0)
    hidden = csr_matrix(np.array([[4, 0]], dtype=np.float32))
    examples = TrainingFolds(lambda: [Example(visible, np.array([[1.0, 0.0]]), hidden, hidden)], stats)
    query_um = np.array([[9.0, 0.0]])
    for name, expected in (("FewNearest", 3), ("ScaledNearest", 12)):
        baseline = namespace[name]().fit(examples).set_params(k=1)
        assert baseline.predict(visible, query_um).mean.tolist() == [[expected, 0]]
        assert {"k": 2} in baseline.parameter_grid()
