"""Links from pages to files of the repository: where they lead in the site.

In the Markdown files, links are relative to the file, so that they work in a checkout and in every viewer of repositories. In
the site, a link to a module leads to a page with its source, and a link to a picture to a copy of it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
OTHER_PAGES = {"README.md": "index.md"}
SOURCE_SUFFIXES = {".py", ".toml", ".txt", ".tsv", ".yml", ".yaml", ".nf", ".cff", ".smk", ""}
FENCES = re.compile(r"^(```|~~~).*?^\1[^\n]*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINKS = re.compile(r"(\]\()(?![a-z]+:)([^)#\s]*)(#[^)\s]*)?(?=[)\s])")


def repository_path(page: str) -> PurePosixPath:
    """Return the path in the repository of a page, given its path in the site."""
    for path, uri in ROOT_PAGES.items():
        if uri == page:
            return PurePosixPath(path)
    return PurePosixPath("docs") / page


def site_path(path: PurePosixPath) -> str:
    """Return where a file of the repository is in the site."""
    known = ROOT_PAGES | OTHER_PAGES
    if str(path) in known:
        return known[str(path)]
    if path.parts[0] == "docs":  # of a notebook the site has a page
        inside = path.relative_to("docs")
        return str(inside.with_suffix(".md") if inside.suffix == ".ipynb" else inside)
    return f"source/{path}.md" if path.suffix in SOURCE_SUFFIXES else f"repository/{path}"


def _target(link: str, page: PurePosixPath) -> PurePosixPath:
    """The path in the repository that a relative link of a page leads to."""
    return PurePosixPath(posixpath.normpath(posixpath.join(page.parent, link)))


def _outside_code(text: str) -> Iterator[tuple[bool, str]]:
    """Parts of a Markdown text, and whether each is code."""
    position = 0
    for code in FENCES.finditer(text):
        yield False, text[position : code.start()]
        yield True, code.group()
        position = code.end()
    yield False, text[position:]


def find_targets(text: str, page: PurePosixPath) -> set[PurePosixPath]:
    """Return the files of the repository outside of `docs` that a page links to.

    Args:
        text: Markdown.
        page: Path of the page in the repository.
    """
    prose = "".join(part for is_code, part in _outside_code(text) if not is_code)
    targets = {_target(link[2], page) for link in LINKS.finditer(prose) if link[2]}
    return {path for path in targets if path.parts[0] != "docs" and str(path) not in ROOT_PAGES | OTHER_PAGES}


def rewrite_links(text: str, page: str) -> str:
    """Replace links to files of the repository by links within the site.

    Args:
        text: Markdown.
        page: Path of the page in the site.
    """
    origin, folder = repository_path(page), PurePosixPath(page).parent

    def replace(link: re.Match[str]) -> str:
        if not link[2]:
            return link[0]
        uri = site_path(_target(link[2], origin))
        return f"{link[1]}{posixpath.relpath(uri, folder)}{link[3] or ''}"

    return "".join(part if is_code else LINKS.sub(replace, part) for is_code, part in _outside_code(text))


def missing_files(targets: set[PurePosixPath], root: Path) -> list[str]:
    """Return the targets that are not files of the repository."""
    return sorted(str(path) for path in targets if not (root / path).is_file())
