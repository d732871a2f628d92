"""`cifm.simulate`: from an AnnData and edits to the response of its cells and the trajectory of its tissue."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from cifm_cli import keys
from cifm_cli.api.slides import load, open_adata, optional_path, parse_locations, result_provenance, var_of_panel
from cifm_cli.celltype.stored_labels import labels_in_memory
from cifm_cli.errors import CifmError
from cifm_cli.inference.adaptation.option import adaptation_facts, check_adapt
from cifm_cli.simulation.config import DynamicsName, Form, SimulateConfig
from cifm_cli.simulation.edits.labels import ColumnLabels
from cifm_cli.simulation.edits.requests import EditRequest, Inject, ReferenceCells
from cifm_cli.simulation.outputs import check_folder, to_anndata, write_simulation
from cifm_cli.simulation.simulate import simulate as run_simulation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.api.slides import Model
    from cifm_cli.data.in_memory import AnnDataSlide
    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.simulate import SimulationResult
    from cifm_cli.simulation.window import Box


def simulate(
    adata: AnnData, model: Model, inject: str | None = None,
    *,
    edits: Sequence[EditRequest] = (), count: int | None = None, labels: str | None = None,
    reference: AnnData | str | Path | None = None, reference_label: str = "cell_type",
    steps: int | None = None, update_fraction: float = 0.1, form: Form = "state", dynamics: DynamicsName | None = None,
    adapt: Adapt = "slide", replicates: int = 1, seed: int = 0,
    crop_um: Box | None = None, max_cells: int = 10_000, markers: str | Path | None = None,
    layer: str | None = None, radius_um: float | None = None, out: str | Path | None = None,
) -> AnnData:  # fmt: skip
    """Edit a tissue, estimate the response of its cells, and let the model update them, as `cifm simulate` does.

    The response is a regression on the cells of `adata`, without the model. Updates are to be compared with the control.

    Args:
        adata: N cells.
        model: A model, or the path of a training run.
        inject: Cell type to inject, such as `tcell`; short for `edits=[cifm.Inject("tcell")]`.
        edits: Edits: `cifm.Inject`, `cifm.Remove`, `cifm.Swap`, `cifm.Knockout` and `cifm.Overexpress`.
        count: Number of injected cells, for `inject`; 2 % of the simulated cells by default.
        labels: Column of `adata.obs`, such as `cluster`, whose labels the edits name; by default, they name cell types.
        reference: Cells to copy, for `inject`: an AnnData with raw counts, or an `.h5ad`; by default, cells of `adata`.
        reference_label: Column of the reference's `obs` with cell types.
        steps: Number of steps; two updates of every cell by default.
        update_fraction: Fraction of the cells that one step updates.
        form: What an updated cell becomes: `state`, `sample`, `mean` or `gated`; see docs/simulation.md.
        dynamics: `coupled` (cells change as far as their surroundings have changed; default for `state`) or `redraw`.
        adapt: As in `cifm.embed`; the model is fitted once, before the edits.
        replicates: Number of repetitions, with other positions and another schedule.
        seed: Seed of all random draws.
        crop_um: Only cells in this rectangle are simulated: x0, y0, x1, y1 in micrometres.
        max_cells: Largest number of simulated cells; they fill a square in the middle of the tissue.
        markers: TSV of marker genes (columns `cell_type` and `symbol`) that extends the packaged table.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres, if the recipe does not define it; by default that of the slide.
        out: Folder into which all files of `cifm simulate` are written as well: the page, figures and tables.

    Returns:
        A new AnnData with the first replicate: the simulated cells of `adata`, then the injected cells. Counts are in the
        layers `initial`, `control` and `treated` (also `X`), cell types in `obs["type_before"]`, `type_after` and `type_after_control`;
        `obs["edited"]` marks cells that an edit changed. `uns["cifm"]` holds DataFrames of all replicates: `composition`, `transitions`,
        `neighbours`, `change`; the response: `effects` (as `effects.csv`) and its summary `response`, as JSON; and the `answer`, as
        JSON: one `sentence`, and texts that say how far to `trust` it.

    Raises:
        CifmError: The counts, genes, coordinates, numbers or the folder cannot be used, or an edit cannot be made.

    Examples:
        >>> cifm.simulate(adata, model, "tcell", replicates=5).uns["cifm"]["change"]  # treated minus control, by type
        >>> cifm.simulate(adata, model, edits=[cifm.Remove("macrophage"), cifm.Knockout("CXCL12", "fibroblast")])
    """
    _check(form, adapt, steps, update_fraction, replicates, optional_path(out))
    opened = open_adata(adata, layer, radius_um)
    own_labels = None if labels is None else ColumnLabels(labels, labels_in_memory(adata.obs, labels)[opened.rows])
    config = SimulateConfig(
        _edits(inject, edits, count, _reference_cells(reference, reference_label)), steps, update_fraction, form, replicates,
        crop_um, max_cells, optional_path(markers), adapt, seed, dynamics, own_labels,
    )  # fmt: skip
    return _simulate(adata, load(model), opened, config, optional_path(out))


def _simulate(
    adata: AnnData, model: LoadedModel, opened: AnnDataSlide, config: SimulateConfig, folder: Path | None
) -> AnnData:
    """Simulate a slide, collect the results in the caller's order of cells, and write them if a folder is given."""
    result = run_simulation(model, opened.slide, config)
    facts: dict[str, Any] = {"genes": model.overlap_facts(opened.slide)}
    model, slide = result.model, result.slide
    facts |= adaptation_facts(model, config.adapt, config.seed)
    facts["edits"] = [entry.to_json() for entry in result.experiment.edits]
    origin = result_provenance("simulate", model, slide, seed=config.seed, **facts)
    rows = opened.rows[result.experiment.window.rows]
    names = adata.obs_names[rows].tolist()
    if folder is not None:
        write_simulation(folder, result, names, origin)
    trajectory = _in_caller_order(to_anndata(result, names, origin), rows)
    trajectory.var = var_of_panel(adata, slide, model)
    trajectory.uns[keys.CIFM] |= _tables(result)
    return trajectory


def _reference_cells(reference: AnnData | str | Path | None, label: str) -> ReferenceCells | None:
    if reference is None:
        return None
    return ReferenceCells(reference if isinstance(reference, AnnData) else Path(reference), label)


def _edits(
    inject: str | None, edits: Sequence[EditRequest], count: int | None, reference: ReferenceCells | None
) -> tuple[EditRequest, ...]:
    """All edits; paths and places may be given in the forms that Python users have them in."""
    if isinstance(edits, EditRequest):
        edits = (edits,)
    if isinstance(edits, str) or not all(isinstance(edit, EditRequest) for edit in edits):
        raise CifmError(f"edits: {edits!r:.80}", 'give a list of edits, such as [cifm.Remove("tcell")]')
    if inject is None and (count is not None or reference is not None):
        raise CifmError("count or reference without a type to inject", "give them to cifm.Inject")
    first = () if inject is None else (Inject(inject, count, reference=reference),)
    return first + tuple(convert_edit(edit) for edit in edits)


def convert_edit(edit: EditRequest) -> EditRequest:
    """Convert places and paths to the forms of the command."""
    if not isinstance(edit, Inject):
        return edit
    if edit.at_um is not None:
        edit = replace(edit, at_um=parse_locations(edit.at_um)[0])
    if edit.reference is not None and isinstance(edit.reference.source, str):
        edit = replace(edit, reference=replace(edit.reference, source=Path(edit.reference.source)))
    return edit


def _check(form: str, adapt: str, steps: int | None, update_fraction: float, replicates: int, out: Path | None) -> None:
    """Refuse a form, a kind of adaptation or a folder that cannot be used, and numbers with which nothing would be simulated."""
    if out is not None:
        check_folder(out)
    check_adapt(adapt)
    if form not in get_args(Form):
        raise CifmError(f"form: {form}", f"known are {', '.join(get_args(Form))}")
    if replicates < 1 or (steps is not None and steps < 1):
        raise CifmError(f"replicates: {replicates}, steps: {steps}", "give at least 1 of each")
    if not 0 < update_fraction <= 1:
        raise CifmError(f"update_fraction: {update_fraction:g}", "give a fraction above 0, at most 1")


def _in_caller_order(trajectory: AnnData, rows: Rows) -> AnnData:
    """Put the residents, which are in Hilbert order, into the order of their rows in the caller's AnnData."""
    injected = np.arange(len(rows), trajectory.n_obs)
    return trajectory[np.concatenate([np.argsort(rows), injected])].copy()


def _tables(result: SimulationResult) -> dict[str, pd.DataFrame | str]:
    """Compare the arms over all replicates, and describe the response.

    Returns:
        `composition` by arm, replicate, step and type; `transitions` by arm, replicate, first and last type;
        `neighbours` by arm, replicate, distance and types; `change`, treated minus control by type; `effects` of the
        response by gene, label and distance; and the summary of the `response` and the `answer`, as JSON, because `.h5ad`
        files store no lists of dictionaries.
    """
    content = result.to_json()
    change = pd.DataFrame.from_dict(content["change"], orient="index").drop(columns="replicates")
    return {
        "composition": result.composition(),
        "transitions": result.transitions(),
        "neighbours": result.neighbours(),
        "change": change.astype(float),
        "effects": result.response.effects,
        "response": json.dumps(content["response"], allow_nan=False),
        "answer": json.dumps(content["answer"], allow_nan=False),
    }
