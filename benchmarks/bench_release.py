"""Measure the encoder of the literal forms as printed, with an MLP on every edge, and as `embed` runs it, in one run.

    python benchmarks/bench_release.py --out benchmarks/results/release.json

- `mlp`: Eqs 11-14 as printed, that of the recipes `paper_*`; its printed form is the code that trains.
- `release`: the network of the paper's public release; its printed form is written out below, on all edges at once.

Both encoders have two layers and random weights. Times of the two forms alternate, and their shortest ones give the speed:
those of the clock, and those of the processor, which other programs change less. `bound` is the largest possible speed of
the split form relative to the printed one: that of its matrix products alone. With `--backward`, gradients are computed too.
With `--import`, a stand-in of the release at its full size is written, imported and embedded instead: seconds and peak memory
of each step, each in its own process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from record import write_record
from release_stand_in import stand_in_tensors, write_release
from subprocesses import memory_bytes, run_self
from synthetic_slide import gene_ids, write_slide

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cifm_cli.data.graph import LayerGraph
    from cifm_cli.model.release_layer import ReleaseLayer

PACKAGES = ("torch", "numpy")
NUM_GENES = 18_289  # of the release
RADIUS_UM = 20.0


def main() -> None:
    """Measure, print and store."""
    options = parse()
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder)))
        return
    if options.whole:
        with tempfile.TemporaryDirectory() as folder:
            result = {step: run_self("--step", step, "--folder", folder) for step in STEPS}
    else:
        result = {form: compare(form, options) for form in ("mlp", "release")}
    for name, row in result.items():
        print(f"{name:8}", *(f"{key} {value:.4g}" for key, value in row.items()))
    if options.out:
        write_record(options.out, PACKAGES, {"options": {k: str(v) for k, v in vars(options).items()}, "rows": result})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--degree", type=float, default=20)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--maps", type=int, default=4, help="linear maps of an MLP")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backward", action="store_true", help="compute the gradients of all weights, too")
    parser.add_argument("--import", dest="whole", action="store_true", help="measure import and embedding instead")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(form: str, options: argparse.Namespace) -> dict[str, float]:
    """Time both forms of an encoder, and compare their results."""
    import torch

    from cifm_cli.data.graph import full_layer_graphs, radius_graph
    from cifm_cli.model.layer import build_layer
    from cifm_cli.provenance import numpy_generator, seeded_torch
    from cifm_cli.recipe_sections import ModelRecipe

    torch.set_num_threads(options.threads)
    xy_um = numpy_generator(0, "bench").random((options.cells, 2)) * options.cells**0.5
    graph = radius_graph(xy_um, ((options.degree - 1) / np.pi) ** 0.5, self_loops=True)
    recipe = ModelRecipe(
        message=form, width=options.width, mlp_layers=options.maps, heads=1, residual=False, self_loops=True
    )
    with seeded_torch(0, "bench"):
        layers = torch.nn.ModuleList(build_layer(recipe) for _ in range(2))
        h = torch.randn(options.cells, options.width)
    graphs = full_layer_graphs(graph, 2)
    times: dict[str, list[tuple[float, float]]] = {"printed": [], "split": [], "products": []}
    results = {}
    for _ in range(options.repeats):
        for name, run in (("printed", run_printed), ("split", run_split), ("products", run_products)):
            layers.zero_grad()
            started = time.perf_counter(), time.process_time()
            with torch.inference_mode(mode=not options.backward):
                results[name] = run(layers, graphs, h)
            if options.backward and name != "products":
                results[name].square().mean().backward()
            times[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    seconds = {name: np.min(pairs, axis=0) for name, pairs in times.items()}
    error = (results["split"] - results["printed"]).abs().max() / results["printed"].abs().max()
    products = seconds["products"][1] * (3 if options.backward else 1)  # two products for the gradients of each
    return {
        "cells": options.cells,
        "edges": graph.num_edges,
        "printed_cells_per_s": options.cells / seconds["printed"][0],
        "split_cells_per_s": options.cells / seconds["split"][0],
        "speed": seconds["printed"][0] / seconds["split"][0],
        "printed_cpu_s": seconds["printed"][1],
        "split_cpu_s": seconds["split"][1],
        "speed_cpu": seconds["printed"][1] / seconds["split"][1],
        "bound": seconds["printed"][1] / products,
        "relative_error": float(error.detach()),
    }


def run_products(layers: list[nn.Module], graphs: list[LayerGraph], h: Tensor) -> Tensor:
    """The matrix products of the split form with D x D weights: those of all edges at once, and those of all cells."""
    edges = h.new_ones(graphs[0].graph.num_edges, h.shape[1])
    for number, layer in enumerate(layers):
        # The first map of the message is two products of cells, and its last one is one. No cell moves in the last layer, and
        # none in the release, whose distances do not depend on moves.
        moves = number < len(layers) - 1 and layer.reads_shift(graphs[number])
        weight = layer.bfmlp4.last.weight
        on_edges = len(layer.bfmlp2.middle) + (len(layer.bfmlp3.middle) + 1 if moves else 0)
        for _ in range(on_edges):
            edges @ weight.T
        for _ in range(3 + len(layer.bfmlp4.middle) + 2):
            h @ weight.T
    return h


def run_split(layers: list[nn.Module], graphs: list[LayerGraph], h: Tensor) -> Tensor:
    """The encoder as `embed` runs it; where the last layer moves the cells is not used."""
    from cifm_backends import select
    from cifm_cli.model.network import run_layers

    return run_layers(layers, select("torch", "cpu"), graphs, h, h.new_zeros(len(h), 2), moves=False)[0]


def run_printed(layers: list[nn.Module], graphs: list[LayerGraph], h: Tensor) -> Tensor:
    """The encoder as printed."""
    from cifm_backends import select
    from cifm_cli.model.release_layer import ReleaseLayer

    shift = h.new_zeros(len(h), 2)
    for layer, graph in zip(layers, graphs, strict=True):
        if isinstance(layer, ReleaseLayer):
            h, shift = printed_release(layer, graph, h, shift)
        else:
            pooled, shift = layer.as_printed(select("torch", "cpu"), graph, h, shift)
            h = layer.bfmlp4(pooled)
    return h


def printed_release(layer: ReleaseLayer, graph: LayerGraph, h: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The layer of the release as its equations say, on all edges at once."""
    import torch

    edges = graph.graph
    i, j = edges.targets, edges.sources
    product = (h[i] * h[j]).mean(dim=-1, keepdim=True)
    dx = edges.displacement + shift[i] - shift[j]
    distance = layer.distance(torch.linalg.vector_norm(dx, dim=-1, keepdim=True))
    messages = layer.bfmlp2(torch.cat([h[i], h[j], distance], dim=-1) * layer.bfmlp1(product))
    number = torch.zeros(len(h), 1).index_add(0, i, (product != 0).float()).clamp(min=1)
    step = torch.zeros(len(h), 2).index_add(0, i, dx * layer.bfmlp3(messages)) / number
    return layer.bfmlp4(torch.zeros_like(h).index_add(0, i, messages)), shift + step


def write_step(folder: Path) -> dict[str, Any]:
    """Write the stand-in of the release, and a slide of 2,000 cells."""
    tensors = stand_in_tensors(NUM_GENES, 1024)
    write_release(folder / "release", gene_ids(NUM_GENES), tensors, RADIUS_UM)
    write_slide(folder / "slide.h5ad", 2_000, NUM_GENES, per_cell=400)
    return {"values": sum(tensor.numel() for tensor in tensors.values())}


def import_step(folder: Path) -> dict[str, Any]:
    """Import it."""
    from cifm_cli.app import main as run_cifm

    return timed(lambda: run_cifm(["import-release", str(folder / "release"), "--out", str(folder / "run")]))


def embed_step(folder: Path) -> dict[str, Any]:
    """Embed the slide at both levels."""
    from cifm_cli.app import main as run_cifm

    words = ["embed", str(folder / "slide.h5ad"), "--model", str(folder / "run"), "--out", str(folder / "embedded")]
    result = timed(lambda: run_cifm(words))
    return result | {"cells_per_s": 2_000 / result["seconds"]}


def timed(run: Any) -> dict[str, float]:  # noqa: ANN401 - returns the exit code of a command
    """Seconds, and peak memory of this process."""
    started = time.perf_counter()
    code = run()
    seconds = time.perf_counter() - started
    if code:
        raise RuntimeError(f"exit code {code}")
    return {"seconds": seconds, "peak_gb": memory_bytes() / 1e9}


STEPS = {"write": write_step, "import": import_step, "embed": embed_step}

if __name__ == "__main__":
    main()
