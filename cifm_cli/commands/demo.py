"""`cifm demo`: the whole way on a synthetic tissue, each command as a user would type it."""

from __future__ import annotations

import shlex
from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

NUM_CELLS = 6_000
LINES = (
    "cifm prepare download/demo",
    "cifm train recipes/demo.toml",
    "cifm evaluate",
    "cifm embed",
    "cifm probe embedded/demo.h5ad --label cluster",
    "cifm simulate --inject tcell",
)
WHERE = {
    "evaluation/report.html": "the model beside simple predictors, on cells it never saw",
    "probe.html": "what a linear classifier reads from the embeddings",
    "simulation/report.html": "what injected T cells change, beside the same run without them",
    "embedded/demo.h5ad": "embeddings of every cell, for scanpy: obsm X_cifm and X_cifm_cell",
    "prepared/demo.html": "the tissue: maps, histograms, and what was dropped",
    "prepared/demo.h5ad": "the same for programs: filtered, sorted, raw counts",
    "runs/latest": "the model, its recipe and its learning curve",
}


def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to work in; made if missing.")] = Path(
        "cifm_demo"
    ),
) -> None:
    """Run all six commands on a synthetic tissue: four minutes on two cores, nothing to download."""
    from cifm_cli import workspace
    from cifm_cli.report import terminal
    from cifm_cli.synthetic.downloads import write_xenium

    out.mkdir(parents=True, exist_ok=True)
    terminal.say(f"\n$ cd {shlex.quote(str(out))}")
    with chdir(out):
        with workspace.atomic_path(Path("download/demo")) as folder:
            write_xenium(folder, NUM_CELLS, seed=0)
        terminal.say(f"wrote download/demo: {NUM_CELLS:,} synthetic cells in the layout of a Xenium download")
        for line in LINES:
            terminal.say(f"\n$ {line}")
            _run(context, line)
        terminal.say("\nDone. Where to look:")
        for path, what in WHERE.items():
            terminal.say(f"  {out / path!s:<40}  {what}")


def _run(context: typer.Context, line: str) -> None:
    """Run a line through the same parser as the shell's, so that what is shown is what runs."""
    root = context.find_root()
    code = root.command.main(shlex.split(line)[1:], "cifm", standalone_mode=False, obj=root.obj)
    if code:
        raise typer.Exit(code)
