"""HTML pages: one self-contained file without external resources, in the same order for all commands.

A page begins with its answer in one sentence and how sure it is; pictures and tables follow.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from cifm_cli.path_text import printable
from cifm_cli.report.table import Table
from cifm_cli.templates import open_template
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["Image", "Section", "Table", "draw_image", "write_report"]


@dataclass(frozen=True)
class Image:
    """An image that is embedded in the report."""

    content: bytes  # bytes of a PNG or GIF
    caption: str  # description of the content, also used as alternative text
    dark: bytes | None = None  # bytes of the same figure for dark pages, where there is one

    @property
    def suffix(self) -> str:
        """`png` or `gif`."""
        # Every GIF begins with GIF87a or GIF89a.
        return "gif" if self.content.startswith(b"GIF8") else "png"

    @property
    def is_wide(self) -> bool:
        """Whether the image needs the width of the page: one that is more than 2.6 times as wide as high."""
        # Bytes 16 to 23 of a PNG, and 6 to 9 of a GIF
        low, high = (6, 8) if self.suffix == "gif" else (16, 20)
        order: Literal["little", "big"] = "little" if self.suffix == "gif" else "big"
        width, height = (int.from_bytes(self.content[i : i + high - low], order) for i in (low, high))
        return width > 2.6 * height

    @property
    def data_uri(self) -> str:
        """The image as a `data:` URI."""
        return f"data:image/{self.suffix};base64,{_base64(self.content)}"

    @property
    def dark_uri(self) -> str:
        """The image for dark pages as a `data:` URI; empty if there is none."""
        return "" if self.dark is None else f"data:image/{self.suffix};base64,{_base64(self.dark)}"


def draw_image(draw: Callable[[], bytes], caption: str) -> Image:
    """Draw a figure twice: for light and for dark pages.

    Args:
        draw: Draws the figure.
        caption: Description of the content.

    Returns:
        The image.
    """
    from cifm_cli.report.canvas import dark_theme  # matplotlib takes a second to import

    content = draw()
    with dark_theme():
        return Image(content, caption, draw())


@dataclass(frozen=True)
class Section:
    """One section of a report."""

    heading: str  # heading of the section
    text: str = ""  # plain text; an empty line starts a paragraph
    table: Table | None = None  # table below text and images
    images: Sequence[Image] = ()  # images below the text, side by side where the page is wide enough
    folded: bool = False  # whether the content is hidden until the heading is clicked


def write_report(
    path: Path,
    title: str,
    sections: Sequence[Section],
    provenance: dict[str, Any],
    *,
    answer: str,
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
    script = _read("report.js")
    page = open_template("report", "report.html.jinja", is_html=True, micrometres=_micrometres).render(
        title=title,
        answer=answer,
        remarks=remarks,
        sections=sections,
        provenance=provenance,
        provenance_json=json.dumps(provenance, indent=2),
        style=_read("report.css"),
        script=script,
        # Only this script may run, whatever names in files of the user contain.
        script_hash=_base64(hashlib.sha256(script.encode()).digest()),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(printable(page), encoding="utf8", newline="\n")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _micrometres(text: str) -> str:
    """Text with µm for um: messages of the terminal have letters that every terminal can show."""
    return re.sub(r"(?<=\d )um\b", "µm", text)


@cache
def _read(name: str) -> str:
    """Text of a file beside this module."""
    return resources.files("cifm_cli.report").joinpath(name).read_text(encoding="utf8").replace("\r\n", "\n")
