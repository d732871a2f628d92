"""HTML reports: one self-contained file without external resources."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2

from cifm_cli.path_text import printable
from cifm_cli.report.table import Table
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Image", "Section", "Table", "write_report"]


@dataclass(frozen=True)
class Image:
    """An image that is embedded in the report."""

    content: bytes  # bytes of a PNG or GIF
    caption: str  # description of the content, also used as alternative text
    # a chart of lines and bars, of which dark pages show the negative; maps keep their colours
    is_chart: bool = False

    @property
    def suffix(self) -> str:
        """`png` or `gif`."""
        # Every GIF begins with GIF87a or GIF89a.
        return "gif" if self.content.startswith(b"GIF8") else "png"

    @property
    def data_uri(self) -> str:
        """The image as a `data:` URI."""
        return f"data:image/{self.suffix};base64,{base64.b64encode(self.content).decode('ascii')}"


@dataclass(frozen=True)
class Section:
    """One section of a report."""

    heading: str  # heading of the section
    text: str = ""  # plain text; an empty line starts a paragraph
    table: Table | None = None  # table below the text
    images: Sequence[Image] = ()  # images below the table, side by side where the page is wide enough
    folded: bool = False  # whether the content is hidden until the heading is clicked


def write_report(
    path: Path,
    title: str,
    sections: Sequence[Section],
    provenance: dict[str, Any],
    *,
    answer: str = "",
    remarks: Sequence[str] = (),
) -> None:
    """Write a report, completely or not at all. All text is escaped.

    Args:
        path: The `.html` file.
        title: Title of the page.
        sections: Sections, top to bottom.
        provenance: Dictionary from `provenance.collect`.
        answer: The result in one sentence, in large letters below the title.
        remarks: How sure the answer is, a list below it.

    Raises:
        CifmError: The file cannot be written.
    """
    page = _template().render(
        title=title,
        answer=answer,
        remarks=remarks,
        sections=sections,
        provenance=provenance,
        provenance_json=json.dumps(provenance, indent=2),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(printable(page), encoding="utf8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifm_cli", "report"),
        # Names of slides, genes and types come from files of the user.
        autoescape=True,
        # A misspelled name in the template raises an error instead of printing nothing.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")
