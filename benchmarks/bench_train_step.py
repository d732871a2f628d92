"""Profile training steps: fractions of the time spent in forward, loss, backward, optimiser and waiting for tiles.

    python benchmarks/bench_train_step.py prepared/xenium_pancreas.h5ad --threads 1 --out benchmarks/results/train_step.json

The script trains for some steps like `cifm train` and profiles the training thread. Tiles are prepared in another thread; the time
until a tile is ready is reported as waiting. The fraction of the model includes forward, loss, backward and optimiser. Without a
slide, a synthetic slide of 50,000 cells and 500 genes is used.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from record import write_record

if TYPE_CHECKING:
    from cifm_cli.training.session import Session

PACKAGES = ("numba", "numpy", "scipy", "torch")
PARTS = {  # function of each part, and the end of its file name where several functions have this name
    "forward": ("forward", "model/network.py"),
    "loss": ("loss", "model/objective.py"),
    "backward": ("<method 'run_backward' of 'torch._C._EngineBase' objects>", ""),
    "optimiser": ("wrapper", "optim/optimizer.py"),
    "waiting for tiles": ("result", "concurrent/futures/_base.py"),
}


def main() -> None:
    """Print the fraction of each part and the profile."""
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        result, profile = measure(options, Path(folder))
    for name, fraction in result["shares"].items():
        print(f"{name:18} {100 * fraction:5.1f} %")
    print(f"step {1e3 * result['step_s']:.1f} ms; a tile takes {1e3 * result['tile_s']:.1f} ms in another thread")
    print(profile)
    if options.out:
        content = {
            "slide": options.slide.stem if options.slide else "synthetic",
            **result,
            "profile": profile.splitlines(),
        }
        write_record(options.out, PACKAGES, content)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, nargs="?", help="a prepared slide")
    parser.add_argument("--recipe", type=Path, default=Path(__file__).resolve().parent.parent / "recipes/xenium.toml")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--cells", type=int, default=50_000, help="number of cells of the synthetic slide")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lines", type=int, default=25, help="number of lines of the profile")
    parser.add_argument("--out", type=Path, help="write JSON here")
    return parser.parse_args()


def measure(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], str]:
    """Train and profile; returns the measurements and the profile as text."""
    import torch

    from cifm_cli.training import loop
    from cifm_cli.training.distributed import join_processes
    from cifm_cli.training.session import open_session

    torch.set_num_threads(options.threads)
    profile = cProfile.Profile()
    with join_processes() as processes:
        run = open_session(setup(options, folder), processes)
        loop.initialise(run)
        started = time.perf_counter()
        for number in range(5):
            run.corpus.train_example(number)
        tile_s = (time.perf_counter() - started) / 5
        warm_up(run)
        with mock.patch.object(loop, "validate_and_save"):  # leaves out validations, which are not part of a step
            profile.runcall(loop.fit, run)
    stream = io.StringIO()
    stats = pstats.Stats(profile)
    pstats.Stats(profile, stream=stream).strip_dirs().sort_stats("cumulative").print_stats(options.lines)
    steps = run.state.step
    total = seconds_in(stats, "fit", "training/loop.py")
    fractions = {
        "model": seconds_in(stats, "train_step", "training/loop.py") / total,
        **{name: seconds_in(stats, *where) / total for name, where in PARTS.items()},
    }
    facts = {"backend": run.backend.name, "threads": options.threads, "steps": steps, "cells": run.corpus.num_cells}
    return {**facts, "step_s": total / steps, "tile_s": tile_s, "shares": fractions}, stream.getvalue().strip()


def setup(options: argparse.Namespace, folder: Path) -> Any:  # noqa: ANN401 - its type would be imported for this alone
    """Settings of `cifm train` for a short run with one validation at the end."""
    from synthetic_slide import write_slide

    from cifm_cli.recipe import load
    from cifm_cli.training.config import TrainConfig

    slide = options.slide or folder / "slide.h5ad"
    if not slide.exists():
        write_slide(slide, options.cells)
    short = [f"train.steps={options.steps}", f"train.validate_every={options.steps}", "train.validation_tiles=1"]
    recipe = load(options.recipe, short)
    return TrainConfig(
        recipe=recipe, slides=[slide], folder=folder / "run", backend=options.backend, device=options.device
    )


def warm_up(run: Session) -> None:
    """Run one step with a learning rate of zero, so that functions that compile on first use are compiled."""
    from cifm_cli.training.loop import train_step

    run.state.first_loss = float("inf")
    train_step(run, [run.corpus.train_example(0)], 0.0)


def seconds_in(stats: pstats.Stats, name: str, file: str) -> float:
    """Time in a function and the functions that it calls."""
    table: dict[tuple[str, int, str], tuple[Any, ...]] = stats.stats  # type: ignore[attr-defined]
    return sum(row[3] for (path, _, function), row in table.items() if function == name and path.endswith(file or path))


if __name__ == "__main__":
    main()
