"""Measure the first steps of `recipes/paper_100m.toml`, which has the paper's model size, on a synthetic slide of 18,289 genes.

    python benchmarks/bench_paper_100m.py --out benchmarks/results/paper-100m.json

The slide has a cell every 8 um like the bins of Visium HD, about 20 cells within the radius, and 150 random genes per cell. The
command `cifm train` runs in its own process, with one validation before the first step and one after the last. Cells per second
are core cells of tiles, which add up to the cells of the data in one epoch; cells of the halo are not counted. Warm-up
steps are not included. Peak memory is that of the resident set, Linux only.

The figures for an H100 are estimates, not measurements. The time of the matrix products is the number of floating point operations
(counted by torch on the `meta` device, forward and backward) divided by the card's dense bfloat16 peak and an assumed utilisation.
The time of the elementwise operations on edges, which is limited by memory bandwidth, is the number of bytes of an assumed number
of passes over tensors of size E x D, divided by the bandwidth.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from record import write_record
from subprocesses import memory_bytes, run_self

CELLS_OF_THE_PAPER = 23_139_655
WARM_UP = 5  # steps in which kernels are compiled and memory is allocated
PACKAGES = ("torch", "numba", "numpy")
GENES, GENES_PER_CELL, SPACING_UM = 18_289, 150, 8.0
H100_FLOPS, H100_BYTES = 989e12, 3.35e12  # dense bfloat16 operations and bytes per second, from the SXM data sheet
UTILISATION = 0.3  # assumed fraction of the peak in the matrix products
EDGE_PASSES = 80  # assumed reads and writes of E x D numbers per layer, forward and backward, in plain torch
EDGE_BYTES = 4  # of a float32 number


def main() -> None:
    """Write a slide, train on it, and print the measurements and the estimates."""
    options = parse()
    if options.prepared:
        train_here(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_slide(folder / "prepared" / "synthetic.h5ad", options.cells)
        measured = run_self("--prepared", name)
        work = count_work(folder / "prepared" / "synthetic.h5ad", folder / "run" / "recipe.toml")
    result = measured | work | estimate(measured, work)
    for key, value in result.items():
        print(f"{key:32} {value:,.4g}" if isinstance(value, float) else f"{key:32} {value}")
    if options.out:
        write_record(options.out, PACKAGES, {"cells": options.cells, "settings": options.settings, **result})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="folder for 4 GB of temporary files")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_slide(target: Path, num_cells: int) -> None:
    """Write the synthetic prepared slide."""
    import synthetic_slide

    synthetic_slide.write_slide(target, num_cells, GENES, per_cell=GENES_PER_CELL, spacing_um=SPACING_UM)


def train_here(options: argparse.Namespace) -> None:
    """Train in this process; print speed, losses and peak memory as JSON."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    from cifm_cli.app import main as cifm

    folder = options.prepared.resolve()
    os.chdir(folder)  # `cifm train` writes runs/latest to the current folder
    settings = [f"train.steps={options.steps}", f"train.validate_every={options.steps}", "train.validation_tiles=1"]
    words = [word for setting in (*settings, *options.settings) for word in ("--set", setting)]
    words += ["--data", str(folder / "prepared"), "--out", str(folder / "run"), "--precision", options.precision]
    if cifm(["train", "paper_100m", *words]):
        raise SystemExit("training failed")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    print(json.dumps({"threads": options.threads, **describe(steps), "peak_gb": memory_bytes() / 1e9}))


def describe(steps: list[dict[str, float]]) -> dict[str, float]:
    """Losses and times of the steps."""
    first = min(WARM_UP, len(steps) - 1)
    return {
        "steps": len(steps),
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "seconds": steps[-1]["seconds"],
        "seconds_per_step": (steps[-1]["seconds"] - steps[first - 1]["seconds"]) / (len(steps) - first),
    }


def count_work(slide: Path, recipe_file: Path) -> dict[str, Any]:
    """Count parameters, cells, edges and floating point operations of a step without running it."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from cifm_backends import select
    from cifm_cli import keys, recipe
    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.training.corpus import Corpus

    resolved = recipe.load(recipe_file)
    corpus = Corpus([slide], resolved, None, 0)
    tile = corpus.draw_example(corpus.slides[0], keys.TRAIN, "bench").tile.to(torch.device("meta"))
    with torch.device("meta"):
        network = Ensemble(len(corpus.vocabulary), resolved)
    with FlopCounterMode(display=False) as counter:
        output = network(select("torch", "meta"), tile)
        (output.magnitude.sum() + output.logit.sum()).backward()
    layers = [layer.graph for layer in (*tile.encoder, *tile.decoder)]
    model, core = resolved.model, resolved.data.tile_cells
    edges = sum(graph.num_edges for graph in layers)
    return {
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "genes": len(corpus.vocabulary),
        "core_cells_per_step": core * resolved.train.tiles_per_step,
        "cells_of_the_layers": [graph.num_cells for graph in layers],
        "edges_of_the_layers": [graph.num_edges for graph in layers],
        "precision": resolved.train.precision,
        "flops_per_core_cell": counter.get_total_flops() / core,
        "edge_bytes_per_core_cell": edges * model.width * EDGE_PASSES * EDGE_BYTES / core,
    }


def estimate(measured: dict[str, Any], work: dict[str, Any]) -> dict[str, float]:
    """Speed on this machine, and the time of one epoch of the paper's cells on this machine and, estimated, on an H100."""
    cells_per_second = work["core_cells_per_step"] / measured["seconds_per_step"]
    products_s = work["flops_per_core_cell"] / (H100_FLOPS * UTILISATION)
    traffic_s = work["edge_bytes_per_core_cell"] / H100_BYTES
    return {
        "cells_per_second": cells_per_second,
        "flops_per_second": cells_per_second * work["flops_per_core_cell"],
        "days_for_the_paper": CELLS_OF_THE_PAPER / cells_per_second / 86_400,
        "h100_utilisation_assumed": UTILISATION,
        "h100_cells_per_second_products": 1 / products_s,
        "h100_hours_products": CELLS_OF_THE_PAPER * products_s / 3_600,
        "h100_cells_per_second_with_edges": 1 / (products_s + traffic_s),
        "h100_hours_with_edges": CELLS_OF_THE_PAPER * (products_s + traffic_s) / 3_600,
    }


if __name__ == "__main__":
    main()
