"""`cifm simulate`: inject cells into a tissue and let the model update the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import simulate_options as own

if TYPE_CHECKING:
    from cifm_cli.simulation.simulate import SimulationResult

_MAX_TYPES: Final = 12  # rows of the printed table


def simulate(
    inject: own.Inject,
    slide: options.Slide = None,
    model: options.Model = None,
    count: own.Count = None,
    steps: own.Steps = None,
    share: own.Share = 0.1,
    form: own.FormName = own.Form.state,
    replicates: own.Replicates = 1,
    crop: own.Crop = None,
    max_cells: own.MaxCells = 10_000,
    adapt: options.Adapt = "slide",
    markers: own.Markers = None,
    reference: own.Reference = None,
    reference_label: own.ReferenceLabel = "cell_type",
    out: options.Out = workspace.SIMULATION,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Inject cells into a tissue, let the model update the others step by step, and compare with a simulation without injection."""
    from cifm_cli.data.crop import parse_crop
    from cifm_cli.data.slide import open_slide
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.report import terminal
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.requests import Inject, ReferenceCells
    from cifm_cli.simulation.outputs import check_folder, write_simulation
    from cifm_cli.simulation.simulate import change_table, result_notes
    from cifm_cli.simulation.simulate import simulate as run_simulation

    config = SimulateConfig(
        (Inject(inject, count, reference=ReferenceCells(reference, reference_label) if reference else None),),
        steps=steps,
        update_fraction=share,
        form=form.value,
        replicates=replicates,
        crop_um=parse_crop(crop) if crop else None,
        max_cells=max_cells,
        markers=markers,
        adapt=adapt,
        seed=seed,
    )
    path, run = _one_slide(slide), workspace.run_folder(model)
    check_folder(out)
    loaded = load_model(run, backend, device)
    result = run_simulation(loaded, open_slide(path), config)
    origin = _provenance(result, [path, run / "model.safetensors", *(file for file in (markers, reference) if file)])
    content = write_simulation(out, result, result.slide.barcodes(result.experiment.window.rows), origin)
    terminal.show_table(f"{result.slide.name}: composition of the residents", change_table(content, _MAX_TYPES))
    for note in result_notes(content):
        terminal.say(note)
    terminal.say(f"maps, tables and the tissue before and after: {out}/report.html, {out}/trajectory.h5ad")
    if as_json:
        terminal.emit(content)


def _provenance(result: SimulationResult, inputs: list[Path]) -> dict[str, Any]:
    """Provenance of a simulation."""
    from cifm_cli import provenance
    from cifm_cli.inference.adaptation.option import adaptation_facts

    model, config = result.model, result.config
    return provenance.collect(
        "simulate",
        seed=config.seed,
        inputs=inputs,
        backend=model.backend.name,
        device=str(model.device),
        **adaptation_facts(model, config.adapt, config.seed),
    )


def _one_slide(given: Path | None) -> Path:
    """The slide that was named, or the only one of the workspace."""
    from cifm_cli.errors import CifmError

    paths = workspace.slide_paths([given] if given else ())
    if len(paths) > 1:
        names = ", ".join(str(path) for path in paths[:5])
        raise CifmError(f"there are {len(paths)} slides, but simulate takes one", f"name one of them: {names}")
    return paths[0]
