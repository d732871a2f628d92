"""`cifm simulate`: edit a tissue and let the model update its cells."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cifm_cli import workspace
from cifm_cli.commands import options
from cifm_cli.commands import simulate_options as own

if TYPE_CHECKING:
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.simulate import SimulationResult

_MAX_TYPES: Final = 12  # rows of the printed table
_VALIDATION: Final = "validation"  # folder of a validation, unless another one is named


def simulate(
    slide: options.Slide = None,
    inject: own.Inject = None,
    inject_from: own.Reference = None,
    inject_label: own.ReferenceLabel = "cell_type",
    inject_donor_key: own.DonorKey = None,
    count: own.Count = None,
    density: own.Density = None,
    at: own.At = None,
    min_distance: own.MinDistance = 0.0,
    remove: own.Remove = None,
    swap: own.Swap = None,
    knockout: own.Knockout = None,
    overexpress: own.Overexpress = None,
    cells: own.Cells = None,
    near: own.Near = None,
    within: own.Within = None,
    region: own.Region = None,
    labels: own.Labels = None,
    validate: own.Validate = False,
    model: options.Model = None,
    steps: own.Steps = None,
    share: own.Share = 0.1,
    form: own.FormName = own.Form.state,
    dynamics: own.Dynamics = None,
    replicates: own.Replicates = 1,
    crop: own.Crop = None,
    max_cells: own.MaxCells = 10_000,
    adapt: options.Adapt = "slide",
    markers: own.Markers = None,
    out: options.Out = workspace.SIMULATION,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    as_json: options.Json = False,
) -> None:
    """Edit a tissue, and compare it with the same tissue without the edits.

    The response, which genes of the other cells change near the edits, is a regression on the slide's own cells. The
    trajectory lets the model update the other cells step by step.
    """
    from cifm_cli.data.crop import parse_crop
    from cifm_cli.inference.loaded_model import load_model
    from cifm_cli.simulation.config import SimulateConfig
    from cifm_cli.simulation.edits.words import EditWords
    from cifm_cli.simulation.outputs import check_folder

    if validate:
        _require_no_edit(inject or remove or swap or knockout or overexpress)
        _validate(_one_slide(slide), labels, markers, out, seed, as_json=as_json)
        return
    words = EditWords(
        inject or (), remove or (), swap or (), knockout or (), overexpress or (), cells, count, density, at, min_distance,
        inject_from, inject_label, inject_donor_key, near, within, region,
    )  # fmt: skip
    config = SimulateConfig(
        words.requests(), steps, share, form.value, replicates, parse_crop(crop) if crop else None, max_cells, markers,
        adapt, seed, dynamics,
    )  # fmt: skip
    path, run = _one_slide(slide), workspace.run_folder(model)
    check_folder(out)
    inputs = [path, run / "model.safetensors", *(file for file in (markers, inject_from, at) if file)]
    _run(config, path, labels, load_model(run, backend, device), inputs, out, as_json=as_json)


def _run(
    config: SimulateConfig,
    path: Path,
    labels: str | None,
    model: LoadedModel,
    inputs: list[Path],
    out: Path,
    *,
    as_json: bool,
) -> None:
    """Simulate, write the folder and print the result."""
    from cifm_cli.celltype.stored_labels import read_labels
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal
    from cifm_cli.response.summary import response_table
    from cifm_cli.simulation.edits.labels import ColumnLabels
    from cifm_cli.simulation.outputs import write_simulation
    from cifm_cli.simulation.simulate import change_table, result_notes
    from cifm_cli.simulation.simulate import simulate as run_simulation

    slide = open_slide(path)
    if labels is not None:
        config = replace(config, labels=ColumnLabels(labels, read_labels(slide, labels)))
    result = run_simulation(model, slide, config)
    names = result.slide.barcodes(result.experiment.window.rows)
    content = write_simulation(out, result, names, _provenance(result, inputs))
    response = content["response"]
    terminal.say(response["sentence"])
    if response["labels"]:
        terminal.show_table(f"{result.slide.name}: response of the residents", response_table(response, _MAX_TYPES))
    for note in response["notes"]:
        terminal.say(note)
    terminal.show_table(f"{result.slide.name}: composition of the residents", change_table(content, _MAX_TYPES))
    for note in result_notes(content):
        terminal.say(note)
    terminal.say(f"maps, tables and the tissue before and after: {out}/report.html, {out}/trajectory.h5ad")
    if as_json:
        terminal.emit(content)


def _require_no_edit(edits: list[str] | None) -> None:
    """Refuse edits where nothing is simulated."""
    from cifm_cli.errors import CifmError

    if edits:
        raise CifmError(
            f"--validate with the edit {edits[0]}: a validation edits nothing",
            "validate the slide first, then simulate without --validate",
        )


def _validate(path: Path, labels: str | None, markers: Path | None, out: Path, seed: int, *, as_json: bool) -> None:
    """Validate the response, write the result and print it."""
    from cifm_cli import provenance
    from cifm_cli.celltype.stored_labels import read_labels
    from cifm_cli.data.slide import open_slide
    from cifm_cli.report import terminal
    from cifm_cli.response.validation import held_out_table, planted_table
    from cifm_cli.simulation.edits.labels import ColumnLabels
    from cifm_cli.simulation.validate import validate, write_validation

    folder = Path(_VALIDATION) if out == workspace.SIMULATION else out
    slide = open_slide(path)
    column = None if labels is None else ColumnLabels(labels, read_labels(slide, labels))
    origin = provenance.collect("simulate --validate", seed=seed, inputs=[path, *([markers] if markers else [])])
    facts = validate(slide, column, markers, seed) | {"provenance": origin}
    write_validation(folder, facts)
    terminal.say(facts["sentence"])
    title = f"{slide.name}: correlation of inferred and real log changes of the 50 genes that change most"
    terminal.show_table(title, held_out_table(facts))
    terminal.show_table("planted tissues: log2 changes, and shares of genes", planted_table(facts))
    terminal.say(f"by label and region: {folder}/validation.json")
    if as_json:
        terminal.emit(facts)


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
        edits=[entry.to_json() for entry in result.experiment.edits],
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
