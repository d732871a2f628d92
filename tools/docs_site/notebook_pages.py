"""Pages of the site from Jupyter notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import nbformat
from nbconvert import MarkdownExporter

if TYPE_CHECKING:
    from pathlib import Path


def render_notebook(path: Path, name: str) -> tuple[str, dict[str, bytes]]:
    """Convert a notebook to Markdown.

    Args:
        path: The notebook, with or without outputs.
        name: Folder of its pictures, relative to the page.

    Returns:
        The text, and the pictures among the outputs by their path.
    """
    notebook = nbformat.read(path, as_version=4)
    text, resources = MarkdownExporter().from_notebook_node(
        notebook, resources={"output_files_dir": f"{name}_files", "unique_key": name}
    )
    return text, dict(resources["outputs"])
