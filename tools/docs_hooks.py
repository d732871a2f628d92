"""Hooks of mkdocs: pages that are made from the code, links into the repository, equations, and a check for external resources."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from docs_site.api_reference import render_api
from docs_site.command_reference import render_commands
from docs_site.equations import render_equations
from docs_site.loaded_resources import find_loaded
from docs_site.notebook_pages import render_notebook
from docs_site.recipe_reference import render_recipes
from docs_site.repository_links import (
    ROOT_PAGES,
    find_targets,
    missing_files,
    repository_path,
    rewrite_links,
    site_path,
)
from docs_site.source_pages import render_source
from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "build" / "notebooks"  # where `nox -s notebooks` writes the notebooks with their outputs
logger = logging.getLogger("mkdocs.hooks.docs")
MADE_PAGES = {
    "command_reference.md": render_commands,
    "recipe_reference.md": render_recipes,
    "api_reference.md": render_api,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the code, and copies of the files that pages link to."""
    for uri, render in MADE_PAGES.items():
        files.append(File.generated(config, uri, content=render()))
    for path, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf8")))
    _add_notebooks(files, config)
    targets: set[PurePosixPath] = set()
    for file in files.documentation_pages():
        if file.src_uri not in MADE_PAGES:
            targets |= find_targets(file.content_string, repository_path(file.src_uri))
    for name in missing_files(targets, ROOT):
        logger.warning("a page links to %s, which is not a file of the repository", name)
    for path in sorted(targets):
        _add_target(path, files, config)
    return files


def _add_notebooks(files: Files, config: MkDocsConfig) -> None:
    """Replace each notebook by a page, with outputs if it has been executed."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        source = Path(str(file.abs_src_path))
        executed = EXECUTED / source.name
        is_current = executed.exists() and executed.stat().st_mtime >= source.stat().st_mtime
        folder = str(PurePosixPath(file.src_uri).with_suffix(""))
        text, pictures = render_notebook(executed if is_current else source, PurePosixPath(folder).name)
        files.append(File.generated(config, f"{folder}.md", content=text))
        for name, content in pictures.items():
            uri = PurePosixPath(folder).parent / name
            files.append(File.generated(config, str(uri), content=content))


def _add_target(path: PurePosixPath, files: Files, config: MkDocsConfig) -> None:
    """Add a file of the repository that a page links to."""
    uri, source = site_path(path), ROOT / path
    if uri.startswith("source/") and source.is_file():
        text = render_source(path, source.read_text(encoding="utf8"))
        files.append(File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    elif source.is_file():
        files.append(File.generated(config, uri, abs_src_path=str(source)))


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Make equations readable for browsers, and let links to files of the repository lead to pages of the site."""
    uri = page.file.src_uri
    if uri.startswith("source/"):
        return markdown
    return render_equations(markdown if uri in MADE_PAGES else rewrite_links(markdown, uri))


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Warn, which is an error in a strict build, if a page loads anything from another place."""
    for address in find_loaded(output):
        logger.warning("%s loads %s", page.file.src_uri, address)
    return output
