"""The sections of a download as slides of their own (`--by`): which cells, and under which name.

Letters: N cells.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli.data.prepare.section_columns import labels_by
from cifm_cli.data.prepare.slide_names import portable_name
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.prepare.config import PrepareConfig
    from cifm_cli.data.readers.base import Download


class Section(NamedTuple):
    """The cells of a download that become a slide."""

    config: PrepareConfig  # options of the preparation, with the name of the slide and of the section
    rows: NDArray[np.int64]  # (n,) rows of the download, ascending
    download: Download  # the download with these cells alone; its counts are still those of all N cells

    @property
    def name(self) -> str:
        """Name of the slide."""
        return str(self.config.name)

    def where(self, root: Path) -> str:
        """The download and the section, for messages."""
        return str(root) if self.config.section is None else f"{root}, section {self.config.section}"


def split_sections(download: Download, config: PrepareConfig, name: str, where: str) -> list[Section]:
    """Split a download by `config.by`; without it, all cells are one section.

    Args:
        download: N cells.
        config: Options of the preparation.
        name: Name of the slide of the whole download.
        where: The download, for messages.

    Returns:
        The sections in the order of their names.

    Raises:
        CifmError: A column does not exist or does not name sections, or two sections would get one name.
    """
    if not config.by:
        return [Section(replace(config, name=name), np.arange(len(download.obs)), download)]
    labels = labels_by(download.obs, config.by, download.z_um, where)
    missing = int(labels.isna().sum())
    notes = (f"{missing:,} cells have no value in {' or '.join(config.by)} and are in no slide",) if missing else ()
    sections: dict[str, Section] = {}
    for label, rows in sorted(labels.groupby(labels).indices.items(), key=lambda item: _natural(str(item[0]))):
        section_name = portable_name(f"{name}-{label}")
        if section_name in sections:
            other = sections[section_name].config.section
            raise CifmError(
                f"{where}: sections {other!r} and {str(label)!r} would both be named {section_name!r}",
                "rename one of them in the column",
            )
        own = replace(config, name=section_name, section=str(label))
        # The first slide tells about cells that are in none.
        part = _select(download, np.sort(rows), notes if not sections else ())
        sections[section_name] = Section(own, np.sort(rows), part)
    return list(sections.values())


def _select(download: Download, rows: NDArray[np.int64], notes: tuple[str, ...]) -> Download:
    return replace(
        download,
        obs=download.obs.iloc[rows],
        xy_um=download.xy_um[rows],
        in_tissue=None if download.in_tissue is None else download.in_tissue[rows],
        z_um=None if download.z_um is None else download.z_um[rows],
        notes=(*download.notes, *notes),
    )


def _natural(text: str) -> list[tuple[int, float, str]]:
    """A key by which 2 is sorted before 10."""
    parts = re.split(r"(\d+)", text)
    return [(0, float(part), "") if part.isdecimal() else (1, 0.0, part) for part in parts]
