"""`cifm.simulate`: from an AnnData to the trajectory of its tissue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from cifm_cli import keys
from cifm_cli.api.slides import load, open_adata, optional_path, result_provenance, var_of_panel
from cifm_cli.errors import CifmError
from cifm_cli.inference.adaptation.option import adaptation_facts, check_adapt
from cifm_cli.simulation.config import Form, SimulateConfig
from cifm_cli.simulation.edits.requests import Inject, ReferenceCells
from cifm_cli.simulation.outputs import to_anndata
from cifm_cli.simulation.simulate import simulate as run_simulation

if TYPE_CHECKING:
    from cifm_cli.api.slides import Model
    from cifm_cli.data.in_memory import AnnDataSlide
    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.simulate import SimulationResult
    from cifm_cli.simulation.window import Box


def simulate(
    adata: AnnData,
    model: Model,
    inject: str,
    *,
    count: int | None = None,
    steps: int | None = None,
    update_fraction: float = 0.1,
    form: Form = "state",
    adapt: Adapt = "slide",
    replicates: int = 1,
    crop_um: Box | None = None,
    max_cells: int = 10_000,
    markers: str | Path | None = None,
    reference: AnnData | str | Path | None = None,
    reference_label: str = "cell_type",
    layer: str | None = None,
    radius_um: float | None = None,
    seed: int = 0,
) -> AnnData:
    """Inject cells into a tissue and let the model update the others step by step, as `cifm simulate` does.

    The same tissue is also simulated without injected cells (the control); interpret the difference between both.

    Args:
        adata: N cells.
        model: A model, or the path of a training run.
        inject: Cell type to inject, such as `tcell`.
        count: Number of injected cells; 2 % of the simulated cells by default.
        steps: Number of steps; two updates of every cell by default.
        update_fraction: Fraction of the cells that one step updates.
        form: What an updated cell becomes: `state`, `sample`, `mean` or `gated`; see docs/simulation.md.
        adapt: As in `cifm.embed`; the model is fitted once, before cells are injected.
        replicates: Number of repetitions, with other positions and another schedule.
        crop_um: Only cells in this rectangle are simulated: x0, y0, x1, y1 in micrometres.
        max_cells: Largest number of simulated cells; they fill a square in the middle of the tissue.
        markers: TSV of marker genes (columns `cell_type` and `symbol`) that extends the packaged table.
        reference: Labelled cells to copy: an AnnData with raw counts, or an `.h5ad`; by default, cells of `adata`.
        reference_label: Column of the reference's `obs` with cell types.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres, if the recipe does not define it; by default that of the slide.
        seed: Seed of all random draws.

    Returns:
        A new AnnData with the first replicate: the simulated cells of `adata`, then the injected cells. Counts are in the
        layers `initial`, `control` and `treated` (also `X`), cell types in `obs["type_before"]`, `type_after` and
        `type_after_control`. `uns["cifm"]` holds DataFrames of all replicates: `composition`, `transitions`, `change`.

    Raises:
        CifmError: The counts, genes, coordinates or numbers cannot be used, or there is no such cell type or no cell of it.

    Example:
        >>> cifm.simulate(adata, model, "tcell", replicates=5).uns["cifm"]["change"]  # treated minus control, by type
    """
    _check(form, adapt, steps, update_fraction, replicates)
    edits = (Inject(inject, count, reference=_reference_cells(reference, reference_label)),)
    config = SimulateConfig(
        edits, steps, update_fraction, form, replicates, crop_um, max_cells, optional_path(markers), adapt, seed
    )
    return _simulate(adata, load(model), open_adata(adata, layer, radius_um), config)


def _simulate(adata: AnnData, model: LoadedModel, opened: AnnDataSlide, config: SimulateConfig) -> AnnData:
    """Simulate a slide, and collect the results in the caller's order of cells."""
    result = run_simulation(model, opened.slide, config)
    model, slide = result.model, result.slide
    facts = adaptation_facts(model, config.adapt, config.seed)
    origin = result_provenance("simulate", model, slide, seed=config.seed, **facts)
    rows = opened.rows[result.experiment.window.rows]
    trajectory = _in_caller_order(to_anndata(result, adata.obs_names[rows].tolist(), origin), rows)
    trajectory.var = var_of_panel(adata, slide, model)
    trajectory.uns[keys.CIFM] |= _tables(result)
    return trajectory


def _reference_cells(reference: AnnData | str | Path | None, label: str) -> ReferenceCells | None:
    if reference is None:
        return None
    return ReferenceCells(reference if isinstance(reference, AnnData) else Path(reference), label)


def _check(form: str, adapt: str, steps: int | None, update_fraction: float, replicates: int) -> None:
    """Refuse a form or a kind of adaptation that does not exist, and numbers with which nothing would be simulated."""
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


def _tables(result: SimulationResult) -> dict[str, pd.DataFrame]:
    """Compare the arms over all replicates.

    Returns:
        `composition` by arm, replicate, step and type; `transitions` by arm, replicate, first and last type; and
        `change`, treated minus control by type.
    """
    change = pd.DataFrame.from_dict(result.to_json()["change"], orient="index").drop(columns="replicates")
    return {
        "composition": result.composition(),
        "transitions": result.transitions(),
        "change": change.astype(float),
    }
