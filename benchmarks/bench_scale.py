"""Measure time per cell and peak memory of `cifm embed` and `cifm evaluate` on slides of one and four million cells.

    python benchmarks/bench_scale.py --out benchmarks/results/scale.json

The slides have random counts of about 50 of 500 genes per cell, at random positions about 8 um apart. The model is untrained and
has the architecture of the xenium recipe. Each command runs in its own process; the start of Python and imports are included,
writing the slides is not. `cifm evaluate` scores only some cells of a large slide, so its time is also given per scored cell,
over all geometries. The memory is the peak of the resident memory; Linux only. About 15 GB of disk space are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import write_record

COMMANDS = ("embed", "evaluate")
PACKAGES = ("anndata", "h5py", "numba", "numpy", "scipy", "torch")


def main() -> None:
    """Measure the commands on every size; print time per cell and peak memory."""
    options = parse()
    if options.slide:
        write_inputs(options.slide, options.cells[0], options.genes, options.width)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [row for cells in options.cells for row in measure(Path(folder), cells, options)]
    for row in rows:
        scored = f" {row['scored']:,} scored, {row['us_per_scored']:.0f} us for each" if "scored" in row else ""
        print(
            f"{row['command']:9} {row['cells']:10,} cells {row['seconds']:8.1f} s {row['us_per_cell']:8.2f} us per cell "
            f"{row['peak_gb']:6.2f} GB{scored}"
        )
    for command, ratio in (time_ratios := ratios(rows)).items():
        print(f"{command:9} time per cell, largest slide over smallest: {ratio:.2f}")
    if options.out:
        content = {
            "threads": os.environ.get("OMP_NUM_THREADS", "all cores"),
            "slide": {"genes": options.genes, "width": options.width},
            "rows": rows,
            "time_per_cell_ratio": time_ratios,
        }
        write_record(options.out, PACKAGES, content)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--folder", type=Path, help="folder for temporary files")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_inputs(slide: Path, num_cells: int, num_genes: int, width: int) -> None:
    """Write a slide and, in the same folder, a model."""
    from synthetic_slide import write_model, write_slide

    from cifm_cli.recipe import load

    xenium = load(Path(__file__).resolve().parent.parent / "recipes" / "xenium.toml", [f"model.width={width}"])
    write_slide(slide, num_cells, num_genes)
    write_model(slide.parent / "run", xenium, num_genes)


def measure(folder: Path, num_cells: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the commands on one slide and delete their output."""
    slide = folder / f"{num_cells}" / "slide.h5ad"
    sizes = ["--cells", str(num_cells), "--genes", str(options.genes), "--width", str(options.width)]
    # In a separate process: the peak memory of a forked child includes that of its parent, so the parent must stay small.
    subprocess.run([sys.executable, __file__, "--slide", str(slide), *sizes], check=True)
    rows = []
    for command in options.commands:
        words = [command, str(slide), "--model", str(slide.parent / "run"), "--out", str(slide.parent / command)]
        used = run_measured([sys.executable, "-m", "cifm_cli", *words])
        row = {"command": command, "cells": num_cells, "us_per_cell": 1e6 * used["seconds"] / num_cells, **used}
        if num_scored := scored_cells(slide.parent / command / "metrics.json"):
            row |= {"scored": num_scored, "us_per_scored": 1e6 * used["seconds"] / num_scored}
        rows.append(row)
        shutil.rmtree(slide.parent / command)
    shutil.rmtree(slide.parent)
    return rows


def run_measured(words: list[str]) -> dict[str, float]:
    """Run a command in a new process; returns its time and peak memory."""
    started = time.perf_counter()
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def scored_cells(metrics: Path) -> int:
    """Number of scored cells over all geometries; 0 if the file does not exist."""
    if not metrics.exists():
        return 0
    slides = json.loads(metrics.read_text())["slides"]
    return sum(geometry["num_cells"] for slide in slides.values() for geometry in slide["geometries"].values())


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Time per cell on the largest slide divided by that on the smallest, for each command."""
    time_ratios = {}
    for command in dict.fromkeys(row["command"] for row in rows):
        by_size = sorted((row for row in rows if row["command"] == command), key=lambda row: row["cells"])
        time_ratios[command] = by_size[-1]["us_per_cell"] / by_size[0]["us_per_cell"]
    return time_ratios


if __name__ == "__main__":
    main()
