"""Pages that are made from the code: no command, option, key or exported name is missing, and links lead where they should."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

import pytest
from docs_site.api_reference import render_api
from docs_site.command_reference import render_commands
from docs_site.loaded_resources import find_loaded
from docs_site.recipe_reference import render_recipes
from docs_site.repository_links import find_targets, rewrite_links, site_path
from docs_site.source_pages import find_anchors, render_source
from typer.main import get_command

import cifm_cli
from cifm_cli.app import app
from cifm_cli.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
MODULE = """\
# Eqs 2-3
class Layer:
    def forward(self):
        return 1  # Eq. 12


def run():
    return 2  # Eq. 12 again
"""


def test_the_command_reference_has_every_command_and_option() -> None:
    sections = {part.partition("\n")[0]: part for part in re.split(r"^###? ", render_commands(), flags=re.MULTILINE)}

    def walk(command, path: str) -> list[str]:
        inner = [
            hit for name, below in getattr(command, "commands", {}).items() for hit in walk(below, f"{path} {name}")
        ]
        options = [
            option
            for parameter in command.params
            if not getattr(parameter, "hidden", False)
            for option in parameter.opts
            if option.startswith("-")
        ]
        return inner + [f"{path} {option}" for option in options if f"`{option}`" not in sections[path]]

    assert walk(get_command(app), "cifm") == []


def test_the_command_reference_shows_defaults_and_choices() -> None:
    page = render_commands()
    assert "| `--bin-um` `INTEGER` | `8` | Size of the bins" in page
    assert "`--split` `regional\\|strips\\|blocks` | `regional` |" in page
    assert "| `--model` `RUN` | runs/latest |" in page
    assert "`--json` |  | Print the result as JSON on stdout. |" in page


def test_the_recipe_reference_has_every_key() -> None:
    page = render_recipes()
    for name, section in Recipe.model_fields.items():
        for key, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.description, f"{name}.{key} has no docstring"
            assert f"| `{key}` | " in page.partition(f"## [{name}]")[2].partition("\n## ")[0]
    assert "| `steps` | `4000` |" in page
    assert "| `max_minutes` | absent |" in page
    assert "| `norm` | `true` |" in page
    assert all(f"### {path.stem}\n" in page for path in (ROOT / "recipes").glob("*.toml"))


def test_the_api_reference_has_every_exported_name() -> None:
    lines = render_api().splitlines()
    assert [name for name in cifm_cli.__all__ if f"::: cifm_cli.{name}" not in lines] == []


def test_anchors_are_functions_methods_and_the_first_comment_of_an_equation() -> None:
    expected = {"eq-2": 1, "eq-3": 1, "Layer": 2, "Layer.forward": 3, "eq-12": 4, "run": 7}
    assert find_anchors(MODULE) == expected
    page = render_source(PurePosixPath("cifm_cli/model/toy.py"), MODULE)
    assert all(f'<a id="{anchor}"></a>' in page for anchor in expected)
    assert page.count("data-linenos") == len(MODULE.splitlines())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("README.md", "index.md"),
        ("CONTRIBUTING.md", "contributing.md"),
        ("docs/files.md", "files.md"),
        ("docs/notebooks/xenium.ipynb", "notebooks/xenium.md"),
        ("cifm_cli/model/layer.py", "source/cifm_cli/model/layer.py.md"),
        ("benchmarks/results/layer.svg", "repository/benchmarks/results/layer.svg"),
    ],
)
def test_files_of_the_repository_have_a_place_in_the_site(path: str, expected: str) -> None:
    assert site_path(PurePosixPath(path)) == expected


def test_links_of_the_repository_become_links_of_the_site() -> None:
    text = "[a](../cifm_cli/app.py#main) [b](files.md#run) [c](#here) [d](https://x.org/y.py) `[e](../f.py)`\n"
    assert rewrite_links(text, "method.md") == (
        "[a](source/cifm_cli/app.py.md#main) [b](files.md#run) [c](#here) [d](https://x.org/y.py) `[e](../f.py)`\n"
    )
    assert (
        rewrite_links("[a](../files.md) [b](../../SECURITY.md)", "notebooks/x.md")
        == "[a](../files.md) [b](../security.md)"
    )
    assert rewrite_links("[a](docs/plugins.md#backends)", "contributing.md") == "[a](plugins.md#backends)"
    assert find_targets(text, PurePosixPath("docs/method.md")) == {PurePosixPath("cifm_cli/app.py")}


def test_resources_of_other_servers_are_found() -> None:
    page = """
    <link rel="canonical" href="https://site.org/a.html"><a href="https://elsewhere.org">read</a><img src="images/a.png">
    <link rel="stylesheet" href="https://fonts.org/a.css"><script src=//cdn.org/a.js></script>
    """
    assert find_loaded(page) == ["https://fonts.org/a.css", "//cdn.org/a.js"]


def test_equations_become_mathml() -> None:
    pytest.importorskip("latex2mathml", reason="needs the dependency group docs")
    from docs_site.equations import render_equations

    page = render_equations("before\n\n```math\nx_i + 1\n```\n\n```python\nx_i\n```\n")
    assert page.startswith('before\n\n<div class="equation"><math')
    assert "<msub><mi>x</mi><mi>i</mi></msub>" in page
    assert page.endswith("```python\nx_i\n```\n")


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
