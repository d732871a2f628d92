"""`cifm simulate`: cells injected into a tissue, and what the model makes of their neighbours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cifm_cli import workspace
from cifm_cli.commands import options


class Form(StrEnum):
    """What an updated cell becomes."""

    state = "state"
    sample = "sample"
    mean = "mean"
    gated = "gated"


def simulate(
    inject: Annotated[
        str, typer.Option("--inject", metavar="TYPE", help="Cell type to inject, such as tcell or 'plasma cell'.")
    ],
    slide: options.Slide = None,
    model: options.Model = None,
    count: Annotated[
        int | None,
        typer.Option("--count", min=0, help="Cells to inject.", show_default="2 % of the cells of the window"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps.", show_default="two updates of every cell")
    ] = None,
    share: Annotated[
        float, typer.Option("--share", min=0.001, max=0.5, help="Share of the cells masked and inferred in a step.")
    ] = 0.1,
    form: Annotated[
        Form,
        typer.Option(
            "--form",
            help="What a cell becomes: one of the tissue's own states, genes drawn one by one, the mean, or the gated mean.",
        ),
    ] = Form.state,
    replicates: Annotated[
        int, typer.Option("--replicates", min=1, help="Repetitions with other places and another schedule.")
    ] = 1,
    crop: Annotated[
        str | None,
        typer.Option("--crop", metavar="X0,Y0,X1,Y1", help="Simulate only this box, in micrometres."),
    ] = None,
    max_cells: Annotated[
        int, typer.Option("--max-cells", min=10, help="Simulate at most so many cells, in the middle of the tissue.")
    ] = 10_000,
    markers: Annotated[
        Path | None,
        typer.Option("--markers", metavar="TSV", help="Markers (columns cell_type and symbol) on top of our own."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="H5AD", help="Take the injected cells from these, not from the slide."),
    ] = None,
    reference_label: Annotated[
        str, typer.Option("--reference-label", metavar="COLUMN", help="Column of the reference's obs with cell types.")
    ] = "cell_type",
    out: options.Out = workspace.SIMULATION,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Inject cells into a tissue, let the model update the others step by step, and compare with no injection."""
    from cifm_cli.data.crop import parse_crop
    from cifm_cli.report.terminal import emit
    from cifm_cli.simulation.donors import Reference
    from cifm_cli.simulation.dynamics import Schedule
    from cifm_cli.simulation.experiment import InjectionConfig
    from cifm_cli.simulation.simulate import Request, run_simulation

    result = run_simulation(
        Request(
            slide=_one_slide(slide),
            model=workspace.run_folder(model),
            out=out,
            wanted=InjectionConfig(inject, Reference(reference, reference_label) if reference else None),
            count=count,
            schedule=Schedule(steps, share, form.value, seed),
            replicates=replicates,
            crop_um=parse_crop(crop) if crop else None,
            max_cells=max_cells,
            markers=markers,
            backend=backend,
            device=device,
        )
    )
    if as_json:
        emit(result)


def _one_slide(given: Path | None) -> Path:
    from cifm_cli.errors import CifmError

    found = workspace.slide_paths([given] if given else ())
    if len(found) > 1:
        names = ", ".join(str(path) for path in found[:5])
        raise CifmError(f"{len(found)} slides, simulate takes one", f"name it: {names}")
    return found[0]
