"""Downloads of a few dozen cells and genes, for tests of many variants of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli.data.readers.base import GENE_EXPRESSION
from cifm_cli.synthetic.files import write_matrix

if TYPE_CHECKING:
    from pathlib import Path

NUM_CELLS = 40
SYMBOLS = ["CD4", "CD8A", "CD19", "MS4A1", "EPCAM"]
IDS = ["ENSG00000010610", "ENSG00000153563", "ENSG00000177455", "ENSG00000156738", "ENSG00000119888"]
MOUSE_IDS = ["ENSMUSG00000023274", "ENSMUSG00000053977", "ENSMUSG00000030724", "ENSMUSG00000024673"]
MOUSE_SYMBOLS = ["Cd4", "Cd8a", "Cd19", "Ms4a1"]
BARCODES = np.array([f"cell{i:02d}-1" for i in range(NUM_CELLS)])


def features(ids: list[str] | None = None, symbols: list[str] | None = None) -> pd.DataFrame:
    """Features with the type of genes; the five human genes by default."""
    return pd.DataFrame({"id": ids or IDS, "symbol": symbols or SYMBOLS, "feature_type": GENE_EXPRESSION})


def counts(num_genes: int = len(IDS)) -> np.ndarray:
    """(NUM_CELLS, num_genes) counts, the same in every call; every cell has one."""
    drawn = np.random.default_rng(0).poisson(1.5, (NUM_CELLS, num_genes))
    drawn[:, 0] += 1
    return drawn


def cells() -> pd.DataFrame:
    """Names and places of the cells, as in a Xenium bundle; a quarter of a micrometre is exact in binary."""
    xy_um = np.random.default_rng(1).integers(0, 160, (NUM_CELLS, 2)) / 4
    return pd.DataFrame({"cell_id": BARCODES, "x_centroid": xy_um[:, 0], "y_centroid": xy_um[:, 1]})


def write_bundle(folder: Path, table: pd.DataFrame | None = None, matrix: np.ndarray | None = None) -> Path:
    """Write the matrix and the cells of a Xenium bundle; `table` are its features."""
    folder.mkdir(parents=True)
    drawn = counts() if matrix is None else matrix
    chosen = features() if table is None else table
    write_matrix(folder / "cell_feature_matrix.h5", [csr_matrix(drawn)], BARCODES, chosen, "test")
    cells().to_parquet(folder / "cells.parquet", index=False)
    return folder


def with_cells_as_text(folder: Path, content: bytes) -> Path:
    """Replace the table of cells of a bundle by `cells.csv`."""
    (folder / "cells.parquet").unlink()
    (folder / "cells.csv").write_bytes(content)
    return folder


def with_mex(folder: Path, *, prefix: str = "", **changes: bytes) -> Path:
    """Replace the matrix of a bundle by a MEX folder; `features`, `barcodes` and `matrix` replace its files."""
    (folder / "cell_feature_matrix.h5").unlink()
    mex = folder / "cell_feature_matrix"
    mex.mkdir()
    entries = [f"{j + 1} {i + 1} {n}" for i, row in enumerate(counts()) for j, n in enumerate(row) if n]
    kind = "%%MatrixMarket matrix coordinate integer general"
    texts = {
        "features": "\n".join(map("\t".join, features().to_numpy())) + "\n",
        "barcodes": "\n".join(BARCODES) + "\n",
        "matrix": "\n".join([kind, f"{len(IDS)} {NUM_CELLS} {len(entries)}", *entries]) + "\n",
    }
    for part, ending in (("features", "tsv"), ("barcodes", "tsv"), ("matrix", "mtx")):
        (mex / f"{prefix}{part}.{ending}").write_bytes(changes.get(part, texts[part].encode()))
    return folder


def anndata_slide() -> ad.AnnData:
    """The same cells as an AnnData with places in micrometres."""
    slide = ad.AnnData(
        counts().astype(np.float32), obs=pd.DataFrame(index=BARCODES), var=pd.DataFrame(index=pd.Index(IDS))
    )
    slide.obsm["spatial"] = cells()[["x_centroid", "y_centroid"]].to_numpy()
    return slide
