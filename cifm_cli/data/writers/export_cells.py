"""The cells of a prepared or embedded slide as other programs know them: in the order of the download, by their own names.

Letters: N cells, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.slide_file import open_slide_file, reopen_slide_file
from cifm_cli.data.writers.embedded import embedding_slots, open_embeddings, read_obs
from cifm_cli.data.writers.reorder import download_order
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_INTERNAL = (keys.CHECKSUM, keys.DOWNLOAD_ROW)  # columns that mean nothing to other programs


@dataclass(frozen=True)
class ExportCells:
    """The cells of a slide without their counts, in the order of the download."""

    name: str  # name of the slide
    path: Path  # the file
    platform: str  # such as `xenium`
    xy_um: NDArray[np.float64]  # (N, 2) micrometres
    obs: pd.DataFrame  # N rows by name of the cell, without the columns that only cifm reads
    # slot to (N, D) float32, mapped from the file; empty for a prepared slide
    embeddings: dict[str, NDArray[np.float32]] = field(default_factory=dict)


def read_cells(path: Path) -> ExportCells:
    """Read the cells of a slide.

    Args:
        path: A prepared slide (.h5ad), or an embedded one (.h5ad or Zarr).

    Returns:
        Its cells.

    Raises:
        CifmError: The file is missing, damaged, or not a slide of cifm; or it was changed since it was written.
    """
    if not path.exists():
        raise CifmError(f"{path}: no such file or folder", "give a prepared or an embedded slide")
    if path.is_dir() or _is_embedded(path):
        embedded = open_embeddings(path)
        return ExportCells(
            name=embedded.name,
            path=path,
            platform=embedded.facts[keys.PLATFORM],
            xy_um=embedded.xy_um,
            obs=_without_internal(embedded.obs),
            embeddings=embedded.embeddings,
        )
    slide, order = open_slide(path, hold=False), download_order(path)
    with reopen_slide_file(path) as file:
        obs = read_obs(file, slide.num_cells, path)
    return ExportCells(
        name=slide.name,
        path=path,
        platform=(slide.facts or {}).get(keys.PLATFORM, ""),
        xy_um=slide.xy_um[order],
        obs=_without_internal(obs.iloc[order]),
    )


def _is_embedded(path: Path) -> bool:
    with open_slide_file(path) as file:
        return bool(embedding_slots(file, path))


def _without_internal(obs: pd.DataFrame) -> pd.DataFrame:
    return obs.drop(columns=[name for name in _INTERNAL if name in obs])
