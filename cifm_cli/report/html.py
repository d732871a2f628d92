"""Reports to open in a browser: one self-contained HTML file that loads nothing from anywhere."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2

from cifm_cli.report.table import Table
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Image", "Section", "Table", "write_report"]


@dataclass(frozen=True)
class Image:
    """A picture, stored inside the report.

    Args:
        content: Bytes of a PNG or GIF.
        caption: What it shows, also for those who can't see it.
    """

    content: bytes
    caption: str

    @property
    def data_uri(self) -> str:
        """The picture as a `data:` address."""
        kind = "gif" if self.content.startswith(b"GIF8") else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode('ascii')}"


@dataclass(frozen=True)
class Section:
    """One part of a report.

    Args:
        heading: Headline.
        text: Plain text; an empty line starts a paragraph.
        table: Shown below the text.
        images: Shown below the table, side by side where there is room.
    """

    heading: str
    text: str = ""
    table: Table | None = None
    images: Sequence[Image] = ()


def write_report(path: Path, title: str, sections: Sequence[Section], provenance: dict[str, Any]) -> None:
    """Write a report, whole or not at all. All text is escaped.

    Args:
        path: The `.html` file.
        title: Headline.
        sections: Its parts, top to bottom.
        provenance: What `provenance.collect` returned.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    page = _template().render(
        title=title, sections=sections, provenance=provenance, provenance_json=json.dumps(provenance, indent=2)
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cifm_cli", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja")
