"""Measure time and peak memory of `cifm prepare` on a synthetic Xenium Prime download, relative to copying its matrix.

    python benchmarks/bench_prepare.py --cells 1000000 --out benchmarks/results/prepare.json

The download has random counts of about 300 of 5,000 genes per cell, at random positions about 10 um apart. It is written in
blocks with the HDF5 filters of a real 10x file (shuffled gzip of level 4, 64-bit indices).

- `copy`: read data, indices and indptr with h5py and write them as an `.h5ad` with anndata, a lower limit for any preparation.
- `slide`: write the prepared slide.
- `command`: the command `cifm prepare`, which also writes the quality report.

Each form runs in its own process; the start of Python and imports are included. Peak memory is measured on Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from record import write_record
from subprocesses import memory_bytes, run_self

if TYPE_CHECKING:
    from numpy.typing import NDArray

GENES, PER_CELL, SPACING_UM = 5000, 300, 10.0
FORMS = ("copy", "slide", "command")
PACKAGES = ("anndata", "h5py", "numpy", "scipy", "pandas")
FILTERS: dict[str, Any] = {"chunks": (80_000,), "compression": "gzip", "compression_opts": 4, "shuffle": True}
CELLS_AT_ONCE = 10_000


def main() -> None:
    """Write a download, measure every form and print its time relative to the first form."""
    options = parse()
    if options.form:
        print(json.dumps(measure(options.form, options.download, options.target)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        download = Path(folder) / "tissue"
        nonzeros = write_download(download, options.cells)
        rows = [measure_in_process(form, download, Path(folder)) for form in options.forms]
        megabytes = (download / "cell_feature_matrix.h5").stat().st_size / 1e6
    print(f"{options.cells:,} cells x {GENES:,} genes, {nonzeros:,} non-zeros, matrix {megabytes:,.0f} MB")
    for row in rows:
        print(
            f"{row['form']:8} {row['seconds']:8.1f} s {row['peak_gb']:6.2f} GB  x{row['seconds'] / rows[0]['seconds']:.2f}"
        )
    if options.out:
        result = {
            "download": {"cells": options.cells, "genes": GENES, "nonzeros": nonzeros, "matrix_mb": megabytes},
            "rows": rows,
            "ratios": {row["form"]: row["seconds"] / rows[0]["seconds"] for row in rows},
        }
        write_record(options.out, PACKAGES, result)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, help="folder for temporary files, 12 GB for a million cells")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--download", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_download(folder: Path, num_cells: int) -> int:
    """Write count matrix, cell table and `experiment.xenium`.

    Args:
        folder: Folder of the download, which must not exist.
        num_cells: Number of cells.

    Returns:
        Number of non-zero counts.
    """
    from cifm_cli.provenance import numpy_generator

    folder.mkdir()
    rng, side = numpy_generator(0, "bench"), int(np.ceil(num_cells**0.5))
    names = [f"cell{number:08d}-1" for number in range(num_cells)]
    places = rng.permutation(side * side)[:num_cells]
    xy_um = np.stack([places % side, places // side], axis=1) * SPACING_UM + rng.random((num_cells, 2))
    table = pd.DataFrame({"cell_id": names, "x_centroid": xy_um[:, 0], "y_centroid": xy_um[:, 1]})
    table.to_parquet(folder / "cells.parquet", index=False)
    (folder / "experiment.xenium").write_text(json.dumps({"num_cells": num_cells}))
    with h5py.File(folder / "cell_feature_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["shape"], group["barcodes"] = np.array([GENES, num_cells], dtype=np.int32), np.array(names, dtype="S")
        ids = np.array([f"ENSG{number:011d}" for number in range(1, GENES + 1)], dtype="S")
        for name, values in (("id", ids), ("name", ids), ("feature_type", np.full(GENES, b"Gene Expression"))):
            group[f"features/{name}"] = values
        return write_counts(group, num_cells, rng)


def write_counts(group: h5py.Group, num_cells: int, rng: np.random.Generator) -> int:
    """Write random counts in blocks, non-zero independently of each other; returns the number of non-zero counts."""
    data = group.create_dataset("data", (0,), np.int32, maxshape=(None,), **FILTERS)
    indices = group.create_dataset("indices", (0,), np.int64, maxshape=(None,), **FILTERS)
    lengths: list[NDArray[np.int64]] = []
    for first in range(0, num_cells, CELLS_AT_ONCE):
        cells = min(CELLS_AT_ONCE, num_cells - first)
        gaps = rng.geometric(PER_CELL / GENES, size=int(cells * PER_CELL * 1.02) + 1000)
        places = np.cumsum(gaps) - 1
        places = places[places < cells * GENES]
        lengths.append(np.bincount(places // GENES, minlength=cells))
        for dataset, values in ((data, rng.geometric(0.7, size=len(places))), (indices, places % GENES)):
            dataset.resize(len(dataset) + len(values), axis=0)
            dataset[-len(values) :] = values
    group["indptr"] = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return len(data)


def measure_in_process(form: str, download: Path, folder: Path) -> dict[str, Any]:
    """Measure one form in a new process and delete the file that it wrote."""
    target = folder / f"{form}.h5ad"
    started = time.perf_counter()
    used = run_self("--form", form, "--download", str(download), "--target", str(target))
    seconds = time.perf_counter() - started
    row = {"form": form, "seconds": seconds, **used, "written_mb": target.stat().st_size / 1e6}
    target.unlink()
    return row


def measure(form: str, download: Path, target: Path) -> dict[str, Any]:
    """Run one form in this process; returns its peak memory and processor time."""
    if form == "copy":
        copy_matrix(download / "cell_feature_matrix.h5", target)
    elif form == "slide":
        from cifm_cli.data.prepare.config import PrepareConfig
        from cifm_cli.data.prepare.pipeline import prepare_download

        prepare_download(download, PrepareConfig(out=target.parent, name=target.stem))
    else:
        from cifm_cli.app import main as cifm

        cifm(["prepare", str(download), "--out", str(target.parent), "--name", target.stem])
    times = os.times()
    return {"peak_gb": memory_bytes() / 1e9, "user_s": times.user, "system_s": times.system}


def copy_matrix(path: Path, target: Path) -> None:
    """Read the arrays with h5py and write them with anndata."""
    import anndata as ad
    from scipy.sparse import csr_matrix

    with h5py.File(path, "r") as file:
        group = file["matrix"]
        num_genes, num_cells = group["shape"][:]
        parts = (group["data"][:], group["indices"][:], group["indptr"][:])
    ad.AnnData(csr_matrix(parts, shape=(num_cells, num_genes))).write_h5ad(target)


if __name__ == "__main__":
    main()
