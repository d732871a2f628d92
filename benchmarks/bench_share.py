"""Measure `cifm share` without its files: time and memory of a million embeddings.

    OMP_NUM_THREADS=2 python benchmarks/bench_share.py --cells 1000000 --out benchmarks/results/share.json

The embeddings are made up: a number of microenvironments in a space of `--dimensions` dimensions, of which some occur in one
sample and some in several, noise in all features, and a shift of each sample. They are mapped from a file, as those of embedded
slides are. The time includes the shifts, the lists of the approximate search, the choice of how many lists are searched from
the measured recall, the search, the permutations, and the clusters and types of every sample.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from record import write_record

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGES = ("faiss-cpu", "numba", "numpy", "scikit-learn", "scipy")
NICHES = 60
SHARED = 12  # microenvironments that occur in every sample


def main() -> None:
    """Write the embeddings, measure, and print time, memory and recall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--dimensions", type=int, default=12)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--search", default="auto", choices=("auto", "exact", "approximate"))
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "embeddings.npy"
        codes = write_embeddings(path, options.cells, options.features, options.dimensions, options.samples)
        before = os.getloadavg()[0]
        result = measure(path, codes, options.search)
    result |= {
        "cells": options.cells,
        "features": options.features,
        "samples": options.samples,
        "load_before": before,
        "load_after": os.getloadavg()[0],
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    if options.out:
        write_record(options.out, PACKAGES, result)


def write_embeddings(path: Path, cells: int, features: int, dimensions: int, samples: int) -> NDArray[np.int64]:
    """Write (N, D) float32 embeddings, cells of one sample after the other; returns the sample of each cell."""
    generator = np.random.default_rng(0)
    centers, basis = generator.normal(size=(NICHES, dimensions)), generator.normal(size=(dimensions, features))
    shifts = generator.normal(size=(samples, features))
    codes = np.arange(cells) * samples // cells
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (cells, features))
    for first in range(0, cells, 50_000):
        block = codes[first : first + 50_000]
        private = SHARED + (block + samples * generator.integers(NICHES, size=len(block))) % (NICHES - SHARED)
        niche = np.where(generator.random(len(block)) < 0.5, generator.integers(SHARED, size=len(block)), private)
        latent = centers[niche] + 0.6 * generator.normal(size=(len(block), dimensions))
        noise = 0.3 * generator.normal(size=(len(block), features))
        stored[first : first + len(block)] = latent @ basis + noise + shifts[block]
    stored.flush()
    return codes


def measure(path: Path, codes: NDArray[np.int64], search: str) -> dict[str, object]:
    """Time and memory of the computation, the recall, and what a sample shares."""
    from cifm_cli.sharing.cells import Part
    from cifm_cli.sharing.share import ShareConfig, share_cells

    stored = np.load(path, mmap_mode="r")
    generator = np.random.default_rng(1)
    parts = []
    for code in np.unique(codes):
        rows = slice(int(np.searchsorted(codes, code)), int(np.searchsorted(codes, code, side="right")))
        number = rows.stop - rows.start
        side = np.sqrt(number) * 10
        types = np.array([f"type {kind}" for kind in range(12)], dtype=object)[generator.integers(12, size=number)]
        parts.append(Part(f"s{code}", f"s{code}", stored[rows], generator.random((number, 2)) * side, types))
    begin, processor = time.perf_counter(), time.process_time()
    sharing = share_cells(parts, ShareConfig(search=search))  # type: ignore[arg-type]
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        **sharing.facts["search"],
        "own_fraction": round(float(np.diag(sharing.fractions.matrix).mean()), 3),
    }


if __name__ == "__main__":
    main()
