"""Speed of `cifm embed` beside its own bare matrix products, and beside the literal form of the layer.

    python benchmarks/bench_embed.py --threads 1 --out benchmarks/results/embed.json

The slide has about 50 of 500 genes in each cell and 20 neighbours within the radius, as Visium HD has; the model is
untrained. Each form runs in a process of its own, after a warm-up; times are the best of a few repeats.

- `products`: the dense maps of every layer at every level, on as many cells as the slide has, in tiles of the size that
  embedding takes, and nothing else: no halo, no genes, no edges, no norm, no file.
- `embed`: a prepared slide in, an embedded slide out, both levels, synced to disk; only the start of Python is left out.
- `microenvironment`: the same at one level, without the file that is written.
- `literal`: the same with `model.message = "mlp"`, an MLP of the published depth on every edge; a tile or two from the
  middle of the slide, halo included, as it takes a second for each few cells.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apart import memory_bytes, run_again
from record import write_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from cifm_cli.inference.loaded_model import LoadedModel

FORMS = ("products", "embed", "microenvironment", "literal")
LEVELS = ("microenvironment", "cell")
PACKAGES = ("anndata", "h5py", "numba", "numpy", "scipy", "torch")
LITERAL = {"message": "mlp", "mlp_layers": 4, "residual": False, "self_loops": True}


def main() -> None:
    """Measure every form at every width and print cells per second and ratios."""
    options = parse()
    if options.form:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = [
            run_again("--form", form, "--width", str(width), "--into", folder)
            for width in options.widths
            for form in options.forms
        ]
    for row in rows:
        print(
            f"{row['form']:17} D {row['width']:5} {row['layers']} layers {row['cells']:8,} cells "
            f"{row['cells_per_second']:12,.1f} cells/s {row['peak_gb']:6.2f} GB"
        )
    found = {
        str(width): ratios({row["form"]: row for row in rows if row["width"] == width}) for width in options.widths
    }
    for width, facts in found.items():
        print(f"D {width:5}", ", ".join(f"{name} {value:.2f}" for name, value in facts.items()))
    if options.out:
        asked = {
            name: getattr(options, name) for name in ("cells", "widths", "layers", "threads", "precision", "repeats")
        }
        write_record(options.out, PACKAGES, {"options": asked, "rows": rows, "ratios": found})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--layers", type=int, default=4, help="of the encoder")
    parser.add_argument("--literal-tiles", type=int, default=1, help="tiles of 512 cells that the literal form embeds")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of embedding alone")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--forms", nargs="+", default=FORMS, choices=FORMS)
    parser.add_argument("--folder", type=Path, help="where there is room for the files")
    parser.add_argument("--out", type=Path, help="write JSON here")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time one form."""
    import torch

    torch.set_num_threads(options.threads)
    engine, slides = prepare(options)
    cells = options.cells
    if options.form == "literal":
        cells = 512 * options.literal_tiles
        seconds = best_of(1, literal(engine, slides[1], options.literal_tiles))
    else:
        run = {"products": products, "embed": embed, "microenvironment": microenvironment}[options.form]
        run(engine, slides[0])()
        seconds = best_of(options.repeats, run(engine, slides[1]))
    return {
        "form": options.form,
        "width": options.width,
        "layers": options.layers,
        "threads": options.threads,
        "precision": engine.precision,
        "backend": engine.backend.name,
        "cells": cells,
        "seconds": seconds,
        "cells_per_second": cells / seconds,
        "peak_gb": memory_bytes() / 1e9,
    }


def prepare(options: argparse.Namespace) -> tuple[LoadedModel, list[Path]]:
    """Write a small slide to warm up with, the slide, and a model, where they are not there yet."""
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
    objective = {"name": "balanced_mse"}  # whose head is small: embedding needs none
    write_model(run, parse_recipe({"model": model, "objective": objective, "data": {"tile_cells": 512}}, "bench_embed"))
    embeds = options.form in {"embed", "microenvironment"}
    return load_model(run, device="cpu", precision=options.precision if embeds else "float32"), slides


def products(engine: LoadedModel, path: Path) -> Callable[[], object]:
    """Every dense map of the encoder, at both levels."""
    import torch

    from cifm_cli.inference.encode import core_cells

    cells, most = int(path.stem), core_cells(engine)
    sizes = [min(most, cells - first) for first in range(0, cells, most)]
    h = torch.randn(min(most, cells), engine.checkpoint.recipe.model.width)

    @torch.inference_mode()
    def run() -> None:
        for size in sizes * len(LEVELS):
            for layer in engine.checkpoint.network.first.encoder:
                layer.project(h[:size])
                layer.bfmlp4(h[:size])

    return run


def embed(engine: LoadedModel, path: Path) -> Callable[[], object]:
    """What `cifm embed` does."""
    from cifm_cli.embedding.embed import embed_slides

    return lambda: embed_slides(engine, [path], LEVELS, path.parent / "embedded")


def microenvironment(engine: LoadedModel, path: Path) -> Callable[[], object]:
    """One level, into memory."""
    from cifm_cli.data.slide import open_slide
    from cifm_cli.inference.encode import encode_cells

    return lambda: encode_cells(engine, open_slide(path), "microenvironment")


def literal(engine: LoadedModel, path: Path, num_tiles: int) -> Callable[[], object]:
    """The same on tiles from the middle."""
    from cifm_cli.data.slide import open_slide
    from cifm_cli.inference.encode import core_cells, encode_blocks

    of = -(-int(path.stem) // core_cells(engine))
    shares = [((of - num_tiles) // 2 + number, of) for number in range(num_tiles)]
    slide = open_slide(path)
    return lambda: [list(encode_blocks(engine, slide, ["microenvironment"], tile_slice=share)) for share in shares]


def best_of(repeats: int, run: Callable[[], object]) -> float:
    """Shortest time in seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def ratios(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the project promises, as far as it was measured."""
    pairs = {"embed over products": ("embed", "products"), "embed over literal": ("microenvironment", "literal")}
    return {
        name: rows[first]["cells_per_second"] / rows[second]["cells_per_second"]
        for name, (first, second) in pairs.items()
        if first in rows and second in rows
    }


if __name__ == "__main__":
    main()
