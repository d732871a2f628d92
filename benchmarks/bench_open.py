"""Measure opening a prepared slide with all its checks, relative to reading it.

    python benchmarks/bench_open.py --cells 1000000 --out benchmarks/results/open.json

- `anndata`: read the slide with `anndata.read_h5ad`.
- `arrays`: copy data, indices and indptr of `X` into memory with h5py.
- `open`: open the slide as commands do (structure, positions, totals, split, genes, checksums), without its counts.
- `counts`: read the counts of all cells of the open slide, with their checks and checksums.

All forms run in this process in turn, several times; the file is in the page cache. The fastest time of each form is
reported.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import h5py
import numpy as np
from record import write_record
from synthetic_slide import GENES, PER_CELL, write_slide

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = ("anndata", "h5py", "numba", "numpy", "scipy")
REPEATS = 5


def main() -> None:
    """Write a slide, measure every form and print its time relative to `anndata`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="folder for the slide, 1 GB for a million cells")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "slide.h5ad"
        write_slide(path, options.cells, spacing_um=8.0)
        seconds = measure(path)
        megabytes, nonzeros = path.stat().st_size / 1e6, count_nonzeros(path)
    ratios = {form: value / seconds["anndata"] for form, value in seconds.items()}
    print(f"{options.cells:,} cells x {GENES:,} genes, {PER_CELL} counts per cell, {megabytes:,.0f} MB")
    for form, value in seconds.items():
        print(f"{form:8} {value:8.3f} s  x{ratios[form]:.2f}")
    if options.out:
        slide = {"cells": options.cells, "genes": GENES, "nonzeros": nonzeros, "megabytes": megabytes}
        threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
        write_record(options.out, PACKAGES, {"slide": slide, "threads": threads, "seconds": seconds, "ratios": ratios})


def measure(path: Path) -> dict[str, float]:
    """The fastest of several times of each form, in seconds."""
    from cifm_cli.data.slide import open_slide

    forms: dict[str, Callable[[], object]] = {
        "anndata": lambda: ad.read_h5ad(path),
        "arrays": lambda: read_arrays(path),
        "open": lambda: open_slide(path, hold=False),
        "counts": lambda: read_counts(path),
    }
    for form in forms.values():  # compiles, and fills the page cache
        form()
    times: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(REPEATS):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name].append(time.perf_counter() - start)
    fastest = {name: min(values) for name, values in times.items()}
    return {**fastest, "counts": fastest["counts"] - fastest["open"]}


def read_arrays(path: Path) -> int:
    """Read the arrays of the counts, without any check."""
    with h5py.File(path, "r") as file:
        return sum(len(file[f"X/{name}"][:]) for name in ("data", "indices", "indptr"))


def read_counts(path: Path) -> int:
    """Open the slide and read the counts of all cells."""
    from cifm_cli.data.slide import open_slide

    slide = open_slide(path, hold=False)
    return int(slide.counts(np.arange(slide.num_cells)).nnz)


def count_nonzeros(path: Path) -> int:
    """Number of stored counts."""
    with h5py.File(path, "r") as file:
        return len(file["X/data"])


if __name__ == "__main__":
    main()
