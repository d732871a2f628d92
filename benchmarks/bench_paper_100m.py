"""The paper's size on a laptop: the first steps of `recipes/paper_100m.toml` on a synthetic slide of 18,289 genes.

    python benchmarks/bench_paper_100m.py --out benchmarks/results/paper-100m.json

The slide has a cell every 8 um, as Visium HD bins lie, about 20 of them within the radius, and 150 random genes in each.
Training is `cifm train` as typed, in a process of its own, with one look at the validation region before the first step and
one after the last. Cells per second are core cells of tiles, what one pass over a data set is made of; the halo's are
work, but not counted. Warm-up steps are left out of the rate. Peak memory is the resident set, Linux only.

The H100's figures are arithmetic, not measured: the products' floating point operations, counted by torch on the `meta`
device, forward and backward, over the card's dense bfloat16 peak at a stated utilisation; and, since elementwise work on
edges is bound by memory there, the bytes of a stated number of passes over tensors of size E x D over its bandwidth.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from apart import memory_bytes, run_again
from record import write_record

CELLS_OF_THE_PAPER = 23_139_655
WARM_UP = 5  # steps: kernels are compiled, memory is claimed
PACKAGES = ("torch", "numba", "numpy")
GENES, GENES_PER_CELL, SPACING_UM = 18_289, 150, 8.0
H100_FLOPS, H100_BYTES = 989e12, 3.35e12  # dense bfloat16 operations and bytes in a second, SXM data sheet
UTILISATION = 0.3  # of the peak, in the products
EDGE_PASSES, EDGE_BYTES = (
    80,
    4,
)  # reads and writes of E x D float32 numbers per layer, forward and backward, plain torch


def main() -> None:
    """Write a slide, train on it, and print what was measured and what follows from it."""
    options = parse()
    if options.prepared:
        train_here(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_slide(folder / "prepared" / "synthetic.h5ad", options.cells)
        found = run_again("--prepared", name)
        work = count_work(folder / "prepared" / "synthetic.h5ad", folder / "run" / "recipe.toml")
    found |= work | project(found, work)
    for key, value in found.items():
        print(f"{key:32} {value:,.4g}" if isinstance(value, float) else f"{key:32} {value}")
    if options.out:
        write_record(options.out, PACKAGES, {"cells": options.cells, "settings": options.settings, **found})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--folder", type=Path, help="where there is room for 4 GB")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--prepared", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_slide(target: Path, num_cells: int) -> None:
    """Write the synthetic slide, prepared."""
    import synthetic_slide  # beside this script

    synthetic_slide.write_slide(target, num_cells, GENES, per_cell=GENES_PER_CELL, spacing_um=SPACING_UM)


def train_here(options: argparse.Namespace) -> None:
    """Train in this process; prints speed, losses and peak memory as JSON."""
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before torch is imported
    from cifm_cli.app import main as cifm

    folder = options.prepared.resolve()
    os.chdir(folder)  # `cifm train` leaves runs/latest where it was typed
    settings = [f"train.steps={options.steps}", f"train.validate_every={options.steps}", "train.validation_tiles=1"]
    words = [word for setting in (*settings, *options.settings) for word in ("--set", setting)]
    words += ["--data", str(folder / "prepared"), "--out", str(folder / "run"), "--precision", options.precision]
    if cifm(["train", "paper_100m", *words]):
        raise SystemExit("training failed")
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    print(json.dumps({"threads": options.threads, **describe(steps), "peak_gb": memory_bytes() / 1e9}))


def describe(steps: list[dict[str, float]]) -> dict[str, float]:
    """Losses and seconds of the steps."""
    first = min(WARM_UP, len(steps) - 1)
    return {
        "steps": len(steps),
        "first_loss": steps[0]["loss"],
        "last_loss": steps[-1]["loss"],
        "seconds": steps[-1]["seconds"],
        "seconds_per_step": (steps[-1]["seconds"] - steps[first - 1]["seconds"]) / (len(steps) - first),
    }


def count_work(slide: Path, recipe_file: Path) -> dict[str, Any]:
    """Count parameters, cells, edges and floating point operations of a step, without computing anything."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from cifm_backends import select
    from cifm_cli import keys, recipe
    from cifm_cli.model.ensemble import Ensemble
    from cifm_cli.training.corpus import Corpus

    resolved = recipe.load(recipe_file)
    corpus = Corpus([slide], resolved, None, 0)
    tile = corpus.draw_example(keys.TRAIN, 0, "bench").tile.to(torch.device("meta"))
    with torch.device("meta"):
        network = Ensemble(len(corpus.vocabulary), resolved)
    with FlopCounterMode(display=False) as counter:
        output = network(select("torch", "meta"), tile)
        (output.magnitude.sum() + output.logit.sum()).backward()
    layers = [shell.graph for shell in (*tile.encoder, *tile.decoder)]
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


def project(found: dict[str, Any], work: dict[str, Any]) -> dict[str, float]:
    """Speed, and the time of one pass over the paper's cells: here measured, on an H100 by arithmetic."""
    here = work["core_cells_per_step"] / found["seconds_per_step"]
    products_s = work["flops_per_core_cell"] / (H100_FLOPS * UTILISATION)
    traffic_s = work["edge_bytes_per_core_cell"] / H100_BYTES
    return {
        "cells_per_second": here,
        "flops_per_second": here * work["flops_per_core_cell"],
        "days_for_the_paper": CELLS_OF_THE_PAPER / here / 86_400,
        "h100_utilisation_assumed": UTILISATION,
        "h100_cells_per_second_products": 1 / products_s,
        "h100_hours_products": CELLS_OF_THE_PAPER * products_s / 3_600,
        "h100_cells_per_second_with_edges": 1 / (products_s + traffic_s),
        "h100_hours_with_edges": CELLS_OF_THE_PAPER * (products_s + traffic_s) / 3_600,
    }


if __name__ == "__main__":
    main()
