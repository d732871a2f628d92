"""Jinja templates of the pages and cards that cifm writes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import jinja2

if TYPE_CHECKING:
    from collections.abc import Callable


@cache
def open_template(folder: str, name: str, *, is_html: bool, **filters: Callable[[str], str]) -> jinja2.Template:
    """Open a template. It is read once per process.

    Args:
        folder: Package of `cifm_cli` whose folder has the template.
        name: Name of the file.
        is_html: Whether every value is escaped for HTML, as names of slides, genes and types come from files of the user.
        **filters: Filters of the template, by their names in it.

    Returns:
        The template. A misspelled name in it raises an error instead of printing nothing.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifm_cli", folder),
        autoescape=is_html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(filters)
    return environment.get_template(name)
