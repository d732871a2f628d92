"""`cifm simulate`: inject cells into a tissue and let the model update the others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from cifm_cli import workspace
from cifm_cli.commands import options

_MAX_TYPES: Final = 12  # rows of the printed table


class Form(StrEnum):
    """What an updated cell becomes; see `cifm_cli.simulation.config`."""

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
        int | None, typer.Option("--steps", min=1, help="Number of steps.", show_default="two updates of every cell")
    ] = None,
    share: Annotated[
        float,
        typer.Option("--share", min=0.001, max=0.5, help="Fraction of the cells that one step masks and predicts."),
    ] = 0.1,
    form: Annotated[
        Form,
        typer.Option(
            "--form",
            help="What a cell becomes: a cell of one of the tissue's own states, counts drawn gene by gene, the mean, or the "
            "gated mean.",
        ),
    ] = Form.state,
    replicates: Annotated[
        int, typer.Option("--replicates", min=1, help="Repetitions with other positions and another schedule.")
    ] = 1,
    crop: Annotated[
        str | None,
        typer.Option("--crop", metavar="X0,Y0,X1,Y1", help="Simulate only this box, in micrometres."),
    ] = None,
    max_cells: Annotated[
        int, typer.Option("--max-cells", min=10, help="Simulate at most this many cells, in the middle of the tissue.")
    ] = 10_000,
    markers: Annotated[
        Path | None,
        typer.Option(
            "--markers",
            metavar="TSV",
            help="Marker genes (columns cell_type and symbol) that extend the packaged table.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="H5AD", help="Copy cells of this file, not of the slide."),
    ] = None,
    reference_label: Annotated[
        str, typer.Option("--reference-label", metavar="COLUMN", help="obs column of the reference with cell types.")
    ] = "cell_type",
    out: options.Out = workspace.SIMULATION,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Inject cells into a tissue, let the model update the others step by step, and compare with no injection."""
    from cifm_cli import provenance
    from cifm_cli.data.crop import parse_crop
    from cifm_cli.data.slide import open_slide
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.report import terminal
    from cifm_cli.simulation.config import InjectionConfig, ReferenceCells, SimulateConfig
    from cifm_cli.simulation.outputs import check_folder, write_simulation
    from cifm_cli.simulation.simulate import change_table, result_notes
    from cifm_cli.simulation.simulate import simulate as run_simulation

    config = SimulateConfig(
        InjectionConfig(inject, count, ReferenceCells(reference, reference_label) if reference else None),
        steps=steps,
        update_fraction=share,
        form=form.value,
        replicates=replicates,
        crop_um=parse_crop(crop) if crop else None,
        max_cells=max_cells,
        markers=markers,
        seed=seed,
    )
    path, run = _one_slide(slide), workspace.run_folder(model)
    check_folder(out)
    loaded = load_model(run, backend, device)
    result = run_simulation(loaded, loaded.fit_slide(open_slide(path)), config)
    origin = provenance.collect(
        "simulate",
        seed=seed,
        inputs=[path, run / "model.safetensors", *(file for file in (markers, reference) if file)],
        backend=loaded.backend.name,
        device=str(loaded.device),
    )
    content = write_simulation(out, result, result.slide.barcodes(result.experiment.window.rows), origin)
    terminal.show_table(f"{result.slide.name}: composition of the residents", change_table(content, _MAX_TYPES))
    for note in result_notes(content):
        terminal.say(note)
    terminal.say(f"maps, tables and the tissue before and after: {out}/report.html, {out}/trajectory.h5ad")
    if as_json:
        terminal.emit(content)


def _one_slide(given: Path | None) -> Path:
    """The slide that was named, or the only one of the workspace."""
    from cifm_cli.errors import CifmError

    paths = workspace.slide_paths([given] if given else ())
    if len(paths) > 1:
        names = ", ".join(str(path) for path in paths[:5])
        raise CifmError(f"{len(paths)} slides, simulate takes one", f"name it: {names}")
    return paths[0]
