"""Synthetic downloads: a tissue with planted truth, written file by file as the instrument's software would."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack

from cifm_cli import keys
from cifm_cli.data.download import GENE_EXPRESSION
from cifm_cli.data.synthetic_tissue import DOMAINS, EFFECTS, TYPES, Effect, grow
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

CELL_TYPE = "cell_type"
_CONTROLS = {
    "Negative Control Probe": ("NegControlProbe_{:05d}", 20),
    "Unassigned Codeword": ("UnassignedCodeword_{:04d}", 8),
}
_CONTROL_RATE = 0.004


@dataclass(frozen=True)
class SyntheticTruth:
    """What was planted, cells in the order of the download.

    Args:
        barcodes: N cell ids.
        xy_um: (N, 2) cell centres.
        cell_type: N names.
        domain: N names.
        void: (N,) cells without counts.
        gene_ids: G Ensembl ids.
        symbols: G symbols.
        counts: (N, G) counts of the genes, without controls.
        effects: Genes that answer to a neighbour.
    """

    barcodes: NDArray[np.str_]
    xy_um: NDArray[np.float64]
    cell_type: NDArray[np.str_]
    domain: NDArray[np.str_]
    void: NDArray[np.bool_]
    gene_ids: tuple[str, ...]
    symbols: tuple[str, ...]
    counts: csr_matrix
    effects: tuple[Effect, ...] = EFFECTS


def write_xenium(folder: Path, num_cells: int, seed: int, num_genes: int | None = None) -> SyntheticTruth:
    """Write a synthetic tissue in the layout of a Xenium download.

    Args:
        folder: Folder to write; made if missing.
        num_cells: N.
        seed: Same seed, same bytes.
        num_genes: Genes on the panel; about 190 when absent.

    Returns:
        The truth.
    """
    truth, matrix, features = _dress(num_cells, seed, num_genes)
    folder.mkdir(parents=True, exist_ok=True)
    _write_matrix(folder / "cell_feature_matrix.h5", matrix, truth.barcodes, features)
    cells = _cells_table(truth, matrix, features, seed)
    cells.to_parquet(folder / "cells.parquet", index=False, write_page_checksum=True)
    _write_csv_gz(folder / "cells.csv.gz", cells)
    labelled = ~truth.void  # the instrument's software does not cluster empty cells
    clusters = folder / "analysis/clustering/gene_expression_graphclust/clusters.csv"
    clusters.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"Barcode": truth.barcodes[labelled], "Cluster": truth.cell_type[labelled]}).to_csv(
        clusters, index=False
    )
    experiment = {
        "run_name": f"synthetic tissue, seed {seed}",
        "region_name": "synthetic",
        "panel_organism": "Human",
        "pixel_size": 0.2125,
        "num_cells": num_cells,
        "analysis_sw_version": "synthetic",
    }
    (folder / "experiment.xenium").write_text(json.dumps(experiment, indent=2), encoding="utf8")
    return truth


def _dress(num_cells: int, seed: int, num_genes: int | None) -> tuple[SyntheticTruth, csr_matrix, pd.DataFrame]:
    """A tissue with barcodes, in random order, beside control features."""
    tissue = grow(num_cells, seed, num_genes)
    order = numpy_generator(seed, "order").permutation(num_cells)  # a download's order is no order in space
    truth = SyntheticTruth(
        barcodes=_barcodes(num_cells, seed),
        xy_um=np.round(tissue.xy_um[order], 4),
        cell_type=np.array(TYPES)[tissue.cell_type[order]],
        domain=np.array(list(DOMAINS))[tissue.domain[order]],
        void=tissue.void[order],
        gene_ids=tuple(tissue.genes["id"]),
        symbols=tuple(tissue.genes["symbol"]),
        counts=tissue.counts[order],
    )
    controls = [
        {"id": pattern.format(number), "symbol": pattern.format(number), "feature_type": kind}
        for kind, (pattern, count) in _CONTROLS.items()
        for number in range(count)
    ]
    features = pd.concat([tissue.genes.assign(feature_type=GENE_EXPRESSION), pd.DataFrame(controls)], ignore_index=True)
    noise = numpy_generator(seed, "controls").poisson(_CONTROL_RATE, size=(num_cells, len(controls)))
    noise[truth.void] = 0
    return truth, csr_matrix(hstack([truth.counts, csr_matrix(noise.astype(np.int32))])), features


def _barcodes(num_cells: int, seed: int) -> NDArray[np.str_]:
    """Ids as the instrument writes them: a number in the digits a to p, ascending, and `-1`."""
    numbers = np.sort(numpy_generator(seed, "barcodes").choice(16 * num_cells + 16, size=num_cells, replace=False))
    digits = np.array(list("abcdefghijklmnop"))[(numbers[:, None] >> np.arange(28, -1, -4)) & 15]
    return np.char.add(np.ascontiguousarray(digits).view("U8").ravel(), "-1")


def _write_matrix(path: Path, matrix: csr_matrix, barcodes: NDArray[np.str_], features: pd.DataFrame) -> None:
    """The 10x HDF5 layout: features x barcodes in CSC, which is barcodes x features in CSR."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"filetype": "matrix", "version": 2, "chemistry_description": "Xenium (synthetic)"})
        group = file.create_group("matrix")
        arrays = {
            "barcodes": barcodes.astype("S"),
            "data": matrix.data.astype(np.int32),
            "indices": matrix.indices.astype(np.int64),
            "indptr": matrix.indptr.astype(np.int64),
        }
        for name, values in arrays.items():
            group.create_dataset(name, data=values, compression="gzip", compression_opts=1)
        group.create_dataset("shape", data=np.array(matrix.shape[::-1], dtype=np.int32))
        columns = {"id": features["id"], "name": features["symbol"], "feature_type": features["feature_type"]}
        for name, column in columns.items():
            group.create_dataset(f"features/{name}", data=column.to_numpy().astype("S"))
        group.create_dataset("features/genome", data=np.full(len(features), b"GRCh38"))
        group.create_dataset("features/_all_tag_keys", data=np.array([b"genome"]))


def _cells_table(truth: SyntheticTruth, matrix: csr_matrix, features: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The columns of `cells.parquet`, and the planted cell type."""

    def sums(kind: str) -> NDArray[np.int64]:
        return np.asarray(
            matrix[:, np.flatnonzero(features["feature_type"] == kind)].sum(axis=1), dtype=np.int64
        ).ravel()

    area = numpy_generator(seed, "area").gamma(9.0, 8.0, size=len(truth.barcodes))
    return pd.DataFrame(
        {
            "cell_id": truth.barcodes,
            "x_centroid": truth.xy_um[:, 0],
            "y_centroid": truth.xy_um[:, 1],
            "transcript_counts": sums(GENE_EXPRESSION),
            "control_probe_counts": sums("Negative Control Probe"),
            "unassigned_codeword_counts": sums("Unassigned Codeword"),
            keys.TOTAL_COUNTS: np.asarray(matrix.sum(axis=1), dtype=np.int64).ravel(),
            "cell_area": np.round(area, 3),
            "nucleus_area": np.round(0.4 * area, 3),
            CELL_TYPE: truth.cell_type,
        }
    )


def _write_csv_gz(path: Path, table: pd.DataFrame) -> None:
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file:
        file.write(table.to_csv(index=False).encode())
