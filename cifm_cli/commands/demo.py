"""`cifm demo`: all steps on a synthetic tissue, with the commands that a user would type."""

from __future__ import annotations

import shlex
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from cifm_cli.commands.printed_commands import list_results, run_printed

NUM_CELLS = 6_000
COMMANDS = (
    "cifm prepare download/demo",
    "cifm train recipes/demo.toml",
    "cifm evaluate",
    "cifm embed",
    "cifm probe embedded/demo.h5ad --label cluster",
    "cifm simulate --inject tcell",
)
RESULTS = {
    "evaluation/report.html": "the model compared with simple predictors, on cells that were not used for training",
    "probe.html": "how well a linear classifier predicts labels from the embeddings",
    "simulation/report.html": "the effect of injected T cells, compared with the same run without them",
    "embedded/demo.h5ad": "embeddings of all cells, for scanpy: obsm X_cifm and X_cifm_cell",
    "prepared/demo.html": "quality control: maps, histograms, and the number of dropped cells and genes",
    "prepared/demo.h5ad": "the prepared slide: filtered and sorted raw counts",
    "runs/latest": "the model, its recipe and its learning curve",
}


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Working folder; created if missing.")] = Path(
        "cifm_demo"
    ),
) -> None:
    """Run the whole workflow on a synthetic tissue: four minutes on two cores, without any download."""
    from cifm_cli import workspace
    from cifm_cli.report import terminal
    from cifm_cli.synthetic.downloads import write_xenium

    out.mkdir(parents=True, exist_ok=True)
    terminal.say(f"\n$ cd {shlex.quote(str(out))}")
    with chdir(out):
        with workspace.atomic_path(Path("download/demo")) as folder:
            write_xenium(folder, NUM_CELLS, seed=0)
        terminal.say(f"wrote download/demo: {NUM_CELLS:,} synthetic cells in the layout of a Xenium download")
        for line in COMMANDS:
            run_printed(context, shlex.split(line)[1:])
    list_results(out, RESULTS)
