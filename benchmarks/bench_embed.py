"""Measure the speed of `cifm embed` and compare it with its matrix products alone and with the literal form of the layer.

    python benchmarks/bench_embed.py --threads 1 --out benchmarks/results/embed.json

A cell of the synthetic slide expresses about 50 of 500 genes and has about 20 neighbours within the radius, as in Visium HD.
The model is untrained. Each form runs in its own process after a warm-up; the shortest time of several repeats is reported.

- `products`: only the matrix products of every layer at both levels, for as many cells as the slide has, in tiles of the same
  size as in embedding, without halo, genes, edges, norm and files.
- `embed`: read a prepared slide and write an embedded slide with both levels, synced to disk. The start of Python is not
  included.
- `microenvironment`: the same for one level, without writing a file.
- `literal`: the same as `microenvironment` with `model.message = "mlp"`, which computes an MLP of the published depth on every
  edge. It is so slow that only one or a few tiles from the middle of the slide are embedded, halo included.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from record import write_record
from subprocesses import memory_bytes, run_self

if TYPE_CHECKING:
    from collections.abc import Callable

    from cifm_cli.inference.loaded_model import LoadedModel

FORMS = ("products", "embed", "microenvironment", "literal")
LEVELS = ("microenvironment", "cell")
PACKAGES = ("anndata", "h5py", "numba", "numpy", "scipy", "torch")
LITERAL = {"message": "mlp", "mlp_layers": 4, "residual": False, "self_loops": True}


def main() -> None:
    """Measure every form at every width; print cells per second and ratios."""
    options = parse()
    if options.form:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [
            run_self("--form", form, "--width", str(width), "--into", folder)
            for width in options.widths
            for form in options.forms
        ]
    for row in rows:
        print(
            f"{row['form']:17} D {row['width']:5} {row['layers']} layers {row['cells']:8,} cells "
            f"{row['cells_per_second']:12,.1f} cells/s {row['peak_gb']:6.2f} GB"
        )
    speed_ratios = {
        str(width): ratios({row["form"]: row for row in rows if row["width"] == width}) for width in options.widths
    }
    for width, values in speed_ratios.items():
        print(f"D {width:5}", ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
    if options.out:
        settings = {
            name: getattr(options, name) for name in ("cells", "widths", "layers", "threads", "precision", "repeats")
        }
        write_record(options.out, PACKAGES, {"options": settings, "rows": rows, "ratios": speed_ratios})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--layers", type=int, default=4, help="number of layers of the encoder")
    parser.add_argument(
        "--literal-tiles", type=int, default=1, help="number of tiles of 512 cells for the literal form"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32", help="precision of embedding"
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--folder", type=Path, help="folder for temporary files")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time one form."""
    import torch

    torch.set_num_threads(options.threads)
    model, slides = prepare(options)
    cells = options.cells
    if options.form == "literal":
        cells = 512 * options.literal_tiles
        seconds = best_of(1, literal(model, slides[1], options.literal_tiles))
    else:
        run = {"products": products, "embed": embed, "microenvironment": microenvironment}[options.form]
        run(model, slides[0])()
        seconds = best_of(options.repeats, run(model, slides[1]))
    return {
        "form": options.form,
        "width": options.width,
        "layers": options.layers,
        "threads": options.threads,
        "precision": model.precision,
        "backend": model.backend.name,
        "cells": cells,
        "seconds": seconds,
        "cells_per_second": cells / seconds,
        "peak_gb": memory_bytes() / 1e9,
    }


def prepare(options: argparse.Namespace) -> tuple[LoadedModel, list[Path]]:
    """Write a small slide for the warm-up, the slide and a model, unless they exist; returns the model and both slides."""
    from synthetic_slide import write_model, write_slide

    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.recipe import parse as parse_recipe

    slides = [options.into / f"{cells}.h5ad" for cells in (1_000, options.cells)]
    for slide in slides:
        if not slide.exists():
            write_slide(slide, int(slide.stem))
    form = LITERAL if options.form == "literal" else {"self_loops": True}
    model = {"width": options.width, "encoder_layers": options.layers, "decoder_layers": 1, **form}
    run = options.into / f"{options.form}-{options.width}"
    objective = {"name": "balanced_mse"}  # has the smallest head; embedding does not use it
    write_model(run, parse_recipe({"model": model, "objective": objective, "data": {"tile_cells": 512}}, "bench_embed"))
    embeds = options.form in {"embed", "microenvironment"}
    return load_model(run, device="cpu", precision=options.precision if embeds else "float32"), slides


def products(model: LoadedModel, path: Path) -> Callable[[], object]:
    """Matrix products of the encoder at both levels."""
    import torch

    from cifm_cli.inference.encode import core_cells

    cells, tile_cells = int(path.stem), core_cells(model)
    sizes = [min(tile_cells, cells - first) for first in range(0, cells, tile_cells)]
    h = torch.randn(min(tile_cells, cells), model.checkpoint.recipe.model.width)

    @torch.inference_mode()
    def run() -> None:
        for size in sizes * len(LEVELS):
            for layer in model.checkpoint.network.encoder:
                layer.project(h[:size])
                layer.bfmlp4(h[:size])

    return run


def embed(model: LoadedModel, path: Path) -> Callable[[], object]:
    """The work of `cifm embed`."""
    from cifm_cli.embedding.embed import embed_slides

    return lambda: embed_slides(model, [path], LEVELS, path.parent / "embedded")


def microenvironment(model: LoadedModel, path: Path) -> Callable[[], object]:
    """Embedding of one level in memory."""
    from cifm_cli.data.slide import open_slide
    from cifm_cli.inference.encode import encode_cells

    return lambda: encode_cells(model, open_slide(path), "microenvironment")


def literal(model: LoadedModel, path: Path, num_tiles: int) -> Callable[[], object]:
    """Embedding of one level for some tiles from the middle of the slide."""
    from cifm_cli.data.slide import open_slide
    from cifm_cli.inference.encode import core_cells, encode_blocks

    total = -(-int(path.stem) // core_cells(model))
    parts = [((total - num_tiles) // 2 + number, total) for number in range(num_tiles)]
    slide = open_slide(path)
    return lambda: [list(encode_blocks(model, slide, ["microenvironment"], share=part)) for part in parts]


def best_of(repeats: int, run: Callable[[], object]) -> float:
    """Shortest time in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Ratios of the speeds of forms, for the forms that were measured."""
    pairs = {"embed over products": ("embed", "products"), "embed over literal": ("microenvironment", "literal")}
    return {
        name: rows[first]["cells_per_second"] / rows[second]["cells_per_second"]
        for name, (first, second) in pairs.items()
        if first in rows and second in rows
    }


if __name__ == "__main__":
    main()
