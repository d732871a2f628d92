"""The sections of a download as slides of their own (`--by`): which cells, and under which name.

Letters: N cells.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

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

    def annotate(self, obs: pd.DataFrame) -> pd.DataFrame:
        """The rows of the section in a table of all N cells, under its names; categories of other sections are removed."""
        own = obs.iloc[self.rows].set_axis(self.download.obs.index)
        if self.config.section is not None:
            for position, kind in enumerate(own.dtypes):
                if isinstance(kind, pd.CategoricalDtype):
                    own.isetitem(position, own.iloc[:, position].cat.remove_unused_categories().array)
        return own


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
        rows = np.arange(len(download.obs))
        return [Section(replace(config, name=name), rows, _select(download, rows, ()))]
    labels = labels_by(download.obs, config.by, download.z_um, where)
    missing = int(labels.isna().sum())
    notes = (f"{missing:,} cells have no value in {' or '.join(config.by)} and are in no slide",) if missing else ()
    sections: dict[str, Section] = {}
    groups = {str(label): rows for label, rows in labels.groupby(labels).indices.items()}
    for label in sorted(groups, key=_natural):
        section_name = portable_name(f"{name}-{label}")
        # Some file systems do not tell capital letters from small ones.
        if (
            same := next((other for other in sections if other.casefold() == section_name.casefold()), None)
        ) is not None:
            raise CifmError(
                f"{where}: sections {sections[same].config.section!r} and {label!r} would both be named {same!r}",
                "rename one of them in the column",
            )
        rows = np.sort(np.asarray(groups[label], dtype=np.int64))
        # The first slide tells about cells that are in none.
        part = _select(download, rows, () if sections else notes)
        sections[section_name] = Section(replace(config, name=section_name, section=label), rows, part)
    return list(sections.values())


def _select(download: Download, rows: NDArray[np.int64], notes: tuple[str, ...]) -> Download:
    names, renamed = _unique_names(download.obs.index[rows])
    return replace(
        download,
        obs=download.obs.iloc[rows].set_axis(names),
        xy_um=download.xy_um[rows],
        in_tissue=None if download.in_tissue is None else download.in_tissue[rows],
        z_um=None if download.z_um is None else download.z_um[rows],
        notes=(*download.notes, *renamed, *notes),
        obsm={name: values[rows] for name, values in download.obsm.items()},
    )


def _natural(text: str) -> list[tuple[int, float, str]]:
    """A key by which 2 is sorted before 10."""
    parts = re.split(r"(\d+)", text)
    return [(0, float(part), "") if part.isdecimal() else (1, 0.0, part) for part in parts]


def _unique_names(barcodes: pd.Index[str]) -> tuple[pd.Index[str], tuple[str, ...]]:
    """Append -1, -2, ... to repeated barcodes; returns the distinct names, and a note if any was changed."""
    # Samples that were concatenated without a suffix share barcodes; the rows themselves are different cells.
    if barcodes.is_unique:
        return barcodes, ()
    taken, names = set(barcodes), []
    seen: set[str] = set()
    for barcode in barcodes:
        name, number = barcode, 0
        # A new name must not equal a name that occurs later.
        while name in seen or (number and name in taken):
            number += 1
            name = f"{barcode}-{number}"
        seen.add(name)
        names.append(name)
    num_renamed = int(barcodes.duplicated().sum())
    return pd.Index(names), (f"{num_renamed:,} barcodes occur twice; the later ones got a suffix -1, -2, ...",)
