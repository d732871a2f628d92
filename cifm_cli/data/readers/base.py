"""The interface of readers: their options, the download that they return, and the reader itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.readers.counts import Counts

# The feature type of genes in files of 10x Genomics. Readers of other formats give their genes the same type.
GENE_EXPRESSION = "Gene Expression"


@dataclass(frozen=True)
class ReadConfig:
    """Options of a reader."""

    bin_um: int = 8  # bin size to read from a Visium HD download, micrometres
    microns_per_pixel: float | None = None  # scale of the coordinates; None for the scale that the download declares
    layer: str | None = None  # slot of the raw counts in an AnnData: `X`, `raw`, or the name of a layer
    cells: Path | None = None  # table of cell centres, for a download that is a matrix alone
    by: tuple[str, ...] = ()  # columns of the sections, each of which may have a scale of its own


@dataclass(frozen=True)
class Download:
    """A download in memory: N cells in the order of its matrix, F features."""

    platform: str  # name of the platform, such as `xenium`
    counts: Counts  # (N, F) values of the matrix, not yet checked to be counts
    obs: pd.DataFrame  # N rows indexed by barcode, with the columns to store in the prepared slide
    genes: pd.DataFrame  # F rows with columns id, symbol and feature_type
    xy_um: NDArray[np.float64]  # (N, 2) cell centres in micrometres; NaN for a cell without a position
    units: str  # description of how the coordinates were converted to micrometres
    matrix: str  # name of the matrix in the download
    files: tuple[Path, ...]  # files that were read
    # graph radius of the paper for the platform, micrometres; None if the paper gives none
    radius_um: float | None = None
    in_tissue: NDArray[np.bool_] | None = None  # (N,) whether a cell lies in the tissue; None if all do
    notes: tuple[str, ...] = ()  # decisions of the reader that the user should know of
    warnings: tuple[str, ...] = ()  # signs that the download may be damaged or misread
    counts_hint: str = ""  # hint of the error if `counts` are not counts; may be empty
    z_um: NDArray[np.float64] | None = None  # (N,) third coordinate, micrometres; None if there is none
    tissue: str = ""  # tissue that the download names; empty if it names none
    is_assumed_um: bool = False  # whether nothing says that the stored coordinates are micrometres
    obsm: dict[str, NDArray[Any]] = field(default_factory=dict)  # (N, ...) matrices to store beside the places
    # `spatial` (images and scale factors of sections by name, "" for that of the slide) and colours, to store
    uns: dict[str, Any] = field(default_factory=dict)


class Reader(NamedTuple):
    """The reader of a platform: its name, a test whether a path is a download of the platform, and the reading function."""

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, ReadConfig], Download]
