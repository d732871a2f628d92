"""The reference of the Python API: one entry for each name that `cifm_cli` exports."""

from __future__ import annotations

HEAD = """\
# Python functions and classes

`import cifm_cli as cifm` provides these names. [Python](python.md) shows how they are used together. This page is made from the
docstrings.

"""


def render_api() -> str:
    """Return the page in Markdown; mkdocstrings replaces each line `::: NAME` by the docstring."""
    import cifm_cli

    functions = [name for name in cifm_cli.__all__ if name[0].islower()]
    classes = [name for name in cifm_cli.__all__ if not name[0].islower()]
    page = HEAD
    for title, names in (("Functions", functions), ("Classes", classes)):
        page += f"## {title}\n\n" + "".join(
            f"::: cifm_cli.{name}\n    options:\n      heading_level: 3\n\n" for name in names
        )
    return page
