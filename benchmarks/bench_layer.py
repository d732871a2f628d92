"""Measure time and memory of the edge part of a layer on every backend, of its matrix products, and of the literal layer.

    python benchmarks/bench_layer.py --threads 2 --out benchmarks/results/layer.json
    python benchmarks/plot.py benchmarks/results/layer.json

- `torch`, `dgl`, `fused`: the edge part of the factored layer on each backend.
- `fused_bfloat16`: the same on the fused backend with features stored in bfloat16.
- `products`: the matrix products of the factored layer, which are the same for all backends.
- `literal`: a complete layer as printed in the paper, with MLPs on edges.

Each form is measured in its own process after a warm-up; the shortest time of several repeats is reported. Cells are at random
positions, in Hilbert order. Forms with tensors of size E x D run on fewer cells, such that a tensor takes at most `--edge-gib`;
their time per cell hardly depends on the number of cells. Peak memory is measured on Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from record import write_record
from subprocesses import memory_bytes, run_self

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

HEADS, BASIS = 4, 6
FORMS = ("torch", "dgl", "fused", "fused_bfloat16", "products", "literal")
PACKAGES = ("torch", "numba", "dgl", "numpy")
LITERAL_WORK = 3e10  # E x D x D of the literal form, which takes a few seconds


def main() -> None:
    """Measure every form at every width; print times relative to `torch`."""
    options = parse()
    if options.form:
        print(json.dumps(measure(options)))
        return
    rows = [row for width in options.widths for form in options.forms if (row := measure_in_process(form, width))]
    print(
        f"{options.threads} threads, degree {options.degree:g}; forward, then forward and backward:",
        "us per cell and speed relative to torch; peak memory as a multiple of the size of Q, K, A and B",
    )
    for row in rows:
        print(describe(row, next((r for r in rows if (r["form"], r["width"]) == ("torch", row["width"])), row)))
    if options.out:
        settings = {name: str(value) for name, value in vars(options).items() if name not in {"form", "width"}}
        write_record(options.out, PACKAGES, {"options": settings, "rows": rows})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--degree", type=float, default=20)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--edge-gib", type=float, default=0.4, help="largest tensor of size E x D")
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure_in_process(form: str, width: int) -> dict[str, Any] | None:
    """Measure one form in a new process; returns None and prints a line to stderr if the form fails on this machine."""
    try:
        return run_self("--form", form, "--width", str(width), stderr=subprocess.PIPE)
    except subprocess.CalledProcessError as error:
        print(f"{form} at width {width}: {(error.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return None


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time one form and record its peak memory."""
    import torch

    torch.set_num_threads(options.threads)
    form, width, cells = options.form, options.width, options.cells
    if form in {"torch", "dgl", "literal"}:
        cells = min(cells, int(options.edge_gib * 2**28 / (options.degree * width)))
    if form == "literal":
        cells = min(cells, int(LITERAL_WORK / (options.degree * width**2)))
    started = time.perf_counter()
    run, leaves = prepare(form, width, 100, options.degree)
    differentiate(run, leaves)
    first_use_s = time.perf_counter() - started
    run, leaves = prepare(form, width, cells, options.degree)
    with torch.no_grad():
        forward_s, forward_gib = best_of(options.repeats, run)
    both_s, both_gib = best_of(options.repeats, lambda: differentiate(run, leaves))
    return {
        "form": form,
        "width": width,
        "cells": cells,
        "threads": options.threads,
        "first_use_s": first_use_s,
        "forward_us": 1e6 * forward_s / cells,
        "both_us": 1e6 * both_s / cells,
        "forward_cells_per_s": cells / forward_s,
        "both_cells_per_s": cells / both_s,
        "forward_gib": forward_gib,
        "both_gib": both_gib,
        "node_gib": cells * width * 4 * (2 if form == "fused_bfloat16" else 4) / 2**30,  # Q, K, A and B
    }


def prepare(form: str, width: int, cells: int, degree: float) -> tuple[Callable[[], tuple[Tensor, ...]], list[Tensor]]:
    """Draw cells and parameters; returns the function to time and the tensors to compute gradients for."""
    import torch

    from cifm_backends import select
    from cifm_backends.base import EdgeTerms, NodeTerms
    from cifm_cli.data.graph import full_layer_graphs, radius_graph
    from cifm_cli.data.prepare.order import hilbert_order
    from cifm_cli.model.layer import build_layer
    from cifm_cli.provenance import numpy_generator, torch_generator
    from cifm_cli.recipe_sections import ModelRecipe

    xy_um = numpy_generator(0, "bench").random((cells, 2)) * cells**0.5
    graph = radius_graph(xy_um[hilbert_order(xy_um)], (degree / np.pi) ** 0.5)
    generator = torch_generator(0, "bench")

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    shift = torch.zeros(cells, 2, requires_grad=True)
    if form in {"literal", "products"}:
        recipe = ModelRecipe(width=width, message="mlp" if form == "literal" else "factored")
        layer, h = build_layer(recipe), normal(cells, width)
        if form == "literal":
            return lambda: layer(select("torch", "cpu"), full_layer_graphs(graph, 1)[0], h, shift), [
                h,
                shift,
                *layer.parameters(),
            ]
        weights = [layer.project.weight, *layer.bfmlp4.parameters()]
        return lambda: (layer.project(h), layer.bfmlp4(h)), [h, *weights]
    backend, terms = select(form.removesuffix("_bfloat16"), "cpu"), [normal(cells, width) for _ in NodeTerms._fields]
    if form == "fused_bfloat16":
        terms = [term.detach().bfloat16().requires_grad_() for term in terms]
    radial, coordinate = normal(width, BASIS), normal(width)
    edges = EdgeTerms(radial, coordinate, HEADS)
    return lambda: backend.messages(graph, NodeTerms(*terms), edges, shift), [*terms, radial, coordinate, shift]


def differentiate(run: Callable[[], tuple[Tensor, ...]], leaves: list[Tensor]) -> None:
    """Run forward and backward."""
    import torch

    torch.autograd.grad(sum(answer.sum() for answer in run()), leaves)


def best_of(repeats: int, run: Callable[[], object]) -> tuple[float, float]:
    """Shortest time in seconds, and peak memory of the runs above the memory before them in GiB."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak (see `man proc`)
    before, times = memory_bytes("VmRSS"), []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times), (memory_bytes() - before) / 2**30


def describe(row: dict[str, Any], torch_row: dict[str, Any]) -> str:
    """Format one line of the printed table."""
    times = [f"{row[key]:10.2f} {torch_row[key] / row[key]:6.1f}x" for key in ("forward_us", "both_us")]
    memory = f"{row['forward_gib'] / row['node_gib']:6.2f} {row['both_gib'] / row['node_gib']:6.2f}"
    return f"{row['form']:15} D {row['width']:5} N {row['cells']:6} {' '.join(times)} {memory}"


if __name__ == "__main__":
    main()
