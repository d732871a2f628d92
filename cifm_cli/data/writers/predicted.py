"""Predicted expression as an `.h5ad`."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anndata as ad
import pandas as pd
from anndata.io import write_elem
from scipy.spatial import cKDTree

from cifm_cli import keys
from cifm_cli.data.open_hdf5 import create_hdf5
from cifm_cli.data.slide_file import reopen_slide_file, require_unchanged
from cifm_cli.data.writers.dense_rows import DenseRows, create_dense, open_dense
from cifm_cli.data.writers.embedding_formats import read_images
from cifm_cli.data.writers.gene_annotation import gene_annotation
from cifm_cli.data.writers.h5ad import require_space, write_h5ad
from cifm_cli.data.writers.reorder import copy_images, copy_obs, download_order, inverse_order
from cifm_cli.errors import CifmError, writing
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows, Slide

EXPRESSED = "expressed"  # layer (Q, P) | P(expressed)
NEAREST_CELL = "nearest_cell_um"  # obs (Q,) | distance of a location to the nearest cell
_VALUES, _LAYER = "X", f"layers/{EXPRESSED}"


def write_locations(
    target: Path,
    slide: Slide,
    columns: Rows,
    xy_um: NDArray[np.float64],
    values: NDArray[np.float32],
    expressed: NDArray[np.float32],
    origin: dict[str, Any],
) -> None:
    """Write predictions at locations that are not cells, in the order of the input.

    Args:
        target: The `.h5ad`.
        slide: The slide that the predictions were made from.
        columns: (P,) columns of the slide that were predicted.
        xy_um: (Q, 2) locations, micrometres.
        values: (Q, P) predicted log-normalised expression.
        expressed: (Q, P) predicted probability that a gene is expressed.
        origin: Provenance.

    Raises:
        CifmError: The disk is full, or the folder is not writable.
    """
    table = ad.AnnData(
        X=values,
        obs=pd.DataFrame(
            # So that predictions far from every cell can be left out.
            {NEAREST_CELL: cKDTree(slide.xy_um).query(xy_um)[0]},
            index=[f"place_{number}" for number in range(1, len(xy_um) + 1)],
        ),
        var=gene_annotation(slide, columns),
        layers={EXPRESSED: expressed},
        obsm={keys.SPATIAL: xy_um},
        uns=_metadata(origin) | read_images(slide.file),
    )
    write_h5ad(target, table)


@contextmanager
def predicted_file(
    target: Path, slide: Slide, columns: Rows, origin: dict[str, Any]
) -> Iterator[tuple[DenseRows, DenseRows]]:
    """Write predictions for the cells of a slide that are computed row by row; cells in the order of the download.

    Args:
        target: The `.h5ad` to write; it exists only after the block has ended without an exception.
        slide: The slide, opened from a file.
        columns: (P,) columns of the slide that are predicted.
        origin: Provenance.

    Yields:
        Matrices (N, P) of log-normalised expression and of P(expressed); the block must write all rows.

    Raises:
        CifmError: `target` is the prepared slide itself, or is not writable.
    """
    prepared, shape = slide.file, (slide.num_cells, len(columns))
    require_other_file(target, prepared)
    order = download_order(prepared)
    # Before the prediction, which may take hours, and not when the file is written.
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # An upper bound: the annotation of the prepared slide, and two float32 matrices.
        require_space(target.parent, prepared.stat().st_size + 2 * 4 * shape[0] * shape[1])
    with atomic_path(target) as temporary:
        with reopen_slide_file(prepared) as source, create_hdf5(temporary) as file:
            # The attributes state that the file is an AnnData, and in which version of the format.
            file.attrs.update(source.attrs)
            copy_obs(source, file, order, prepared)
            write_elem(file, "var", gene_annotation(slide, columns))
            write_elem(file, "obsm", {keys.SPATIAL: slide.xy_um[order]})
            write_elem(file, "uns", _metadata(origin))
            copy_images(source, file["uns"])
            write_elem(file, "layers", {})
            for name in (_VALUES, _LAYER):
                create_dense(file, name, shape)
        # The file is closed here, as rows are written by plain file operations, by several processes too.
        target_rows = inverse_order(order)
        yield open_dense(temporary, _VALUES, target_rows), open_dense(temporary, _LAYER, target_rows)
        require_unchanged(prepared)  # worker processes open it too


def require_replaceable(target: Path, prepared: Path, *, force: bool) -> None:
    """Refuse to replace the slide that is predicted, and without `force` any other file.

    Args:
        target: The `.h5ad` to write.
        prepared: The slide.
        force: Whether an existing file may be replaced.

    Raises:
        CifmError: The file may not be replaced.
    """
    require_other_file(target, prepared)
    if target.exists() and not force:
        raise CifmError(f"{target} exists", "replace it with --force, or write elsewhere with --out")


def require_other_file(target: Path, prepared: Path) -> None:
    """Refuse to replace the slide that is predicted."""
    if target.resolve() == prepared.resolve():
        raise CifmError(f"{target}: the prediction would replace its input", "write elsewhere with --out")


def _metadata(origin: dict[str, Any]) -> dict[str, Any]:
    return {keys.CIFM: {keys.PROVENANCE: json.dumps(origin, allow_nan=False)}}
