"""What `prepare` is asked for, what a reader of downloads returns, and how a damaged file becomes a clear error."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast
from zipfile import BadZipFile

from pyarrow import ArrowException

from cifm_cli.data.prepare.splits import Split
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from cifm_cli.data.readers.counts import Counts

GENE_EXPRESSION = "Gene Expression"
KEEP_MITOCHONDRIAL, KEEP_OUTSIDE = KEEPABLE = ("mitochondrial", "outside-tissue")
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    zlib.error,
    BadZipFile,
    ArrowException,
)
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class PrepareConfig:
    """What the user asks of `cifm prepare`.

    Args:
        out: Folder of the prepared slides.
        name: Name of the prepared slide; that of the download when absent.
        platform: Reader to insist on; recognised when absent.
        bin_um: Bin size to take of a Visium HD download, micrometres.
        condition: Free text, such as `tumour`.
        tissue: Free text, such as `pancreas`.
        sample: Free text; the slide's name when absent.
        radius_um: Graph radius, micrometres; that of the platform, or one derived from the spacing, when absent.
        microns_per_pixel: Scale of the coordinates where they are pixels.
        layer: Where an `.h5ad` has its raw counts; `X`, a layer, or `raw`.
        gene_table: CSV of Ensembl id and symbol, which goes before the packaged one.
        orthologs: CSV of Ensembl ids of another species and of human.
        cells: Table of cell centres, where the download is a matrix alone.
        keep: What the filters leave in, of `KEEPABLE`.
        crop: x0, y0, x1, y1 in micrometres; cells outside are dropped.
        split: How the slide is cut into regions.
        force: Replace a prepared slide that exists.
        page: Write a page to look at beside each slide.
    """

    out: Path = Path("prepared")
    name: str | None = None
    platform: str | None = None
    bin_um: int = 8
    condition: str = ""
    tissue: str = ""
    sample: str | None = None
    radius_um: float | None = None
    microns_per_pixel: float | None = None
    layer: str | None = None
    gene_table: Path | None = None
    orthologs: Path | None = None
    cells: Path | None = None
    keep: tuple[str, ...] = ()
    crop: tuple[float, float, float, float] | None = None
    split: Split = field(default_factory=Split)
    force: bool = False
    page: bool = False


@dataclass(frozen=True)
class Download:
    """A download as its reader returns it; N cells in the order of its matrix, G features.

    Args:
        platform: `xenium`, `anndata`, ...
        counts: (N, G) values of its matrix, unchecked.
        obs: N rows indexed by barcode; columns that are carried along.
        genes: G rows with columns id, symbol and feature_type.
        xy_um: (N, 2) micrometres; NaN where a cell has no position.
        units: How micrometres were derived, in words.
        matrix: Where in the download the counts were found.
        files: Files read.
        radius_um: The paper's graph radius for the platform, micrometres; None where it names none.
        in_tissue: (N,) whether a cell lies in the tissue; None when all do.
        notes: What the reader decided on its own.
        warnings: What is doubtful about it.
        instead: The hint if `counts` turn out not to be counts.
    """

    platform: str
    counts: Counts
    obs: pd.DataFrame
    genes: pd.DataFrame
    xy_um: NDArray[np.float64]
    units: str
    matrix: str
    files: tuple[Path, ...]
    radius_um: float | None = None
    in_tissue: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    instead: str = ""


class Reader(NamedTuple):
    """One platform: its name, whether a path is a download of it, and how to read that path."""

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, PrepareConfig], Download]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a missing, truncated or garbled file raises into a `CifmError`.

    Args:
        path: The file that the block reads.

    Raises:
        CifmError: The block could not make sense of the file.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise CifmError(f"{path}: no such file", "check the path, or complete the download") from error
    except PermissionError as error:
        raise CifmError(f"{path}: permission denied", "make the file readable for you") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CifmError(
            f"{path}: damaged or of another format ({reason})", "download or write this file again"
        ) from error


def open_maybe_gzip(path: Path) -> IO[bytes]:
    """Open a file that may be gzip-compressed, whatever its suffix says."""
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    return cast("IO[bytes]", gzip.open(path, "rb")) if compressed else path.open("rb")


def first_existing(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of some files or folders that exists in `folder`; None when there is none."""
    return next((folder / name for name in names if (folder / name).exists()), None)
