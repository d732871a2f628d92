"""Checks of how cells lie in the plane, before the counts are read: one section, flat, in micrometres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.data.prepare.config import KEEP_OUTSIDE, KEEP_OVERLAP
from cifm_cli.data.prepare.filters import reasons_to_drop
from cifm_cli.data.prepare.pitch import require_known_pitch
from cifm_cli.data.prepare.planes import outside_depths, require_flat
from cifm_cli.data.prepare.section_columns import Z, find_sections
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.prepare.config import PrepareConfig
    from cifm_cli.data.readers.base import Download

_JOINED = ("anndata", "spatialdata", "table")  # platforms whose files may hold several sections


def dropped_cells(
    download: Download, total_counts: NDArray[np.float64], config: PrepareConfig, where: str
) -> dict[str, NDArray[np.bool_]]:
    """Find the cells that are dropped, by reason.

    Args:
        download: N cells.
        total_counts: (N,) counts over the kept genes.
        config: Options: crop, depths, and what is kept.
        where: The download, for messages.

    Returns:
        Reason to (N,) mask; the masks are disjoint.

    Raises:
        CifmError: No cell has the depth that was asked for.
    """
    in_tissue = None if KEEP_OUTSIDE in config.keep else download.in_tissue
    depths = outside_depths(download.z_um, config.z, where)
    return reasons_to_drop(download.xy_um, total_counts, in_tissue, config.crop, depths)


def check_layout(download: Download, config: PrepareConfig, where: str) -> list[str]:
    """Check that the cells are those of one flat section, in micrometres.

    Args:
        download: N cells of a download, or of one of its sections.
        config: Options of the preparation.
        where: The download and the section, for messages.

    Returns:
        Notes for the user.

    Raises:
        CifmError: Several sections lie on each other, the cells are those of a volume, or they form a grid with a pitch
            that no platform has.
    """
    # The counts are not read yet: cells without counts take part here, and are dropped later.
    dropped = dropped_cells(download, np.ones(len(download.obs)), config, where)
    rows = np.flatnonzero(~np.logical_or.reduce(list(dropped.values())))
    xy_um = download.xy_um[rows]
    notes: list[str] = []
    if len(rows) < 2:
        return notes
    # The output of an instrument is one section; other files may be joined from several.
    if KEEP_OVERLAP not in config.keep and download.platform in _JOINED:
        require_one_section(xy_um, download.obs.iloc[rows], where, ignore=config.by)
        if download.z_um is not None and config.z is None and Z not in config.by:
            notes += filter(None, [require_flat(xy_um, download.z_um[rows], where)])
    if download.is_assumed_um:
        require_known_pitch(xy_um, where)
    return notes


def require_one_section(
    xy_um: NDArray[np.float64], obs: pd.DataFrame, where: str, ignore: tuple[str, ...] = (), hint: str = ""
) -> None:
    """Raise an error if the cells are several sections on top of each other.

    Args:
        xy_um: (N, 2) finite positions.
        obs: N rows indexed by barcode.
        where: The input, for the message.
        ignore: Columns of `--by`, which are constant in a section.
        hint: What to do, with `{columns}` for the columns; by default the options of the command.

    Raises:
        CifmError: A column names sections that overlap.
    """
    sections = find_sections(xy_um, obs, ignore)
    if sections is None:
        return
    columns = ",".join((*ignore, *sections.columns))
    named = " and ".join(f"obs[{name!r}]" if name in obs else name for name in sections.columns)
    share = sections.overlap.share
    raise CifmError(
        f"{where}: {sections.num_groups:,} sections lie on each other ({named}): {share:.0%} of the edges within "
        f"{sections.overlap.radius_um:.3g} um would join two of them",
        (hint or "--by {columns} makes a slide of each; --keep overlap if they are one tissue").format(columns=columns),
    )
