"""The documentation is current: paths, links, commands and options exist, and the examples of baselines run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from docs_site.source_pages import find_anchors
from scipy.sparse import csr_matrix
from typer.main import get_command

from cifm_cli.app import app
from cifm_cli.commands import demo
from cifm_cli.evaluation.examples import Example, TrainingFolds
from cifm_cli.inference.neighbourhood.visible_cells import GeneStats, VisibleCells

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
MADE_PAGES = {"command_reference.md", "recipe_reference.md", "api_reference.md"}  # by tools/docs_hooks.py
# The documentation gives paths from the root of the repository or from that of a package.
FOLDERS = [ROOT, ROOT / "cifm_cli", ROOT / "backends"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_exist(page: Path) -> None:
    """Checks modules, such as `model/layer.py`, and relative links to pages and figures."""
    text = page.read_text(encoding="utf8")
    modules = re.findall(r"((?:[\w.]+/)*\w+\.py)\b", text)
    missing = [name for name in modules if not any((folder / name).exists() for folder in FOLDERS)]
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    missing += [link for link in links if link not in MADE_PAGES and not (page.parent / link).exists()]
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


def headings(page: Path) -> set[str]:
    """Anchors of the headings of a page, as viewers of Markdown and the site make them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_functions_and_equations_that_are_linked_exist(page: Path) -> None:
    missing = []
    for link, anchor in re.findall(r"\]\(((?!https?:)[^)#]*)#([^)]+)\)", page.read_text(encoding="utf8")):
        target = page.parent / link if link else page
        if target.suffix == ".py":
            known = set(find_anchors(target.read_text(encoding="utf8")))
        elif link in MADE_PAGES:
            continue  # checked by the strict build of the site
        else:
            known = headings(target)
        if anchor not in known:
            missing.append(f"{link}#{anchor}")
    assert missing == []


@pytest.mark.parametrize("equation", [1, 2, 3, 4, 5, 6, 10, 11, 12, 13, 14, 15])
def test_the_method_has_every_equation_of_the_paper(equation: int) -> None:
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf8")
    titles = re.findall(r"^## .*?: Eqs?\.? (.*)$", page, re.MULTILINE)
    cited: set[int] = set()
    for title in titles:
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", title):
            cited |= set(range(int(first), int(last or first) + 1))
    assert equation in cited


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf8").partition("\nnav:\n")[2]
    pages = {path.relative_to(ROOT / "docs").with_suffix(".md").as_posix() for path in ROOT.glob("docs/**/*.[mi][dp]*")}
    named = re.findall(r": ([\w/]+\.md)$", navigation, re.MULTILINE)
    assert len(named) == len(set(named))
    assert pages <= set(named)


def test_the_tutorial_shows_the_commands_of_the_demo() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf8")
    shown = re.findall(r"^cifm .*$", page, re.MULTILINE)
    assert [line for line in shown if line in demo.COMMANDS] == list(demo.COMMANDS)
    assert all(path in page for path in demo.RESULTS)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf8").splitlines()) <= 150


@pytest.mark.parametrize(
    "word", ["gated", "balanced MSE", "Holm", "perplexity", "deviance", "AUROC", "void cell", "tile"]
)
def test_the_glossary_explains(word: str) -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf8")
    assert re.search(rf"^[^:\n]*\b{word}\b.*\n:   \w", page, re.MULTILINE)


@pytest.mark.parametrize("image", sorted(ROOT.glob("docs/images/*")), ids=lambda path: path.name)
def test_pictures_are_small_and_shown(image: Path) -> None:
    assert image.stat().st_size < 150_000
    assert any(f"images/{image.name}" in page.read_text(encoding="utf8") for page in PAGES)


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
