"""`cifm.sensitivity`: how a target changes with an infinitesimal cell at each free place, and proposed edits, as tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cifm_cli.api.simulation import convert_edit
from cifm_cli.api.slides import load, open_adata, optional_path
from cifm_cli.celltype.stored_labels import labels_in_memory
from cifm_cli.errors import CifmError
from cifm_cli.inference.adaptation.option import check_adapt
from cifm_cli.simulation.edits.labels import ColumnLabels
from cifm_cli.simulation.edits.requests import Inject
from cifm_cli.simulation.sensitivity.config import SensitivityConfig
from cifm_cli.simulation.sensitivity.measure import measure_sensitivity
from cifm_cli.simulation.sensitivity.summary import sensitivity_facts

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from cifm_cli.api.slides import Model
    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.simulation.sensitivity.search_places import Goal
    from cifm_cli.simulation.window import Box


@dataclass(frozen=True)
class Sensitivity:
    """A sensitivity analysis; docs/simulation.md defines the columns."""

    places: pd.DataFrame  # one row per place, as `sensitivity.csv`
    proposals: pd.DataFrame | None  # one row per checked edit, as `search.csv`; None without a search
    facts: dict[str, Any]  # the content of `sensitivity.json`, without provenance


def sensitivity(
    adata: AnnData,
    model: Model,
    target: str,
    inject: str | Inject | None = None,
    *,
    cells: str | None = None, search: int = 0, search_genes: bool = False, goal: Goal = "raise",
    labels: str | None = None, hidden_fraction: float = 0.1, adapt: Adapt = "slide", seed: int = 0,
    crop_um: Box | None = None, max_cells: int = 10_000,
    markers: str | Path | None = None, layer: str | None = None, radius_um: float | None = None,
) -> Sensitivity:  # fmt: skip
    """Map how a prediction changes with an infinitesimal cell at each free place, as `cifm simulate --sensitivity` does.

    Args:
        adata: N cells.
        model: A model, or the path of a training run.
        target: A gene, or a label; `gene:NAME` and `label:NAME` tell which of both is meant.
        inject: Type of the added cell, or a `cifm.Inject` that also names its source, places and minimum distance. It may be
            left out with `search_genes`.
        cells: Label of the cells whose value is meant; by default all.
        search: Number of proposals that are checked by prediction of the edited tissue.
        search_genes: Propose knockouts and overexpressions of genes, not placements.
        goal: Whether proposals shall `raise` or `lower` the target.
        labels: Column of `adata.obs`, such as `cluster`, whose labels are meant; by default cell types.
        hidden_fraction: Fraction of the target cells that is hidden at once.
        adapt: As in `cifm.embed`.
        seed: Seed of all random draws.
        crop_um: Only cells in this rectangle are analysed: x0, y0, x1, y1 in micrometres.
        max_cells: Largest number of cells; they fill a square in the middle of the tissue.
        markers: TSV of marker genes (columns `cell_type` and `symbol`) that extends the packaged table.
        layer: Where the raw counts are: `X`, `raw`, or the name of a layer; by default the first that holds counts.
        radius_um: Radius of the graph, micrometres, if the recipe does not define it; by default that of the slide.

    Returns:
        The map, the proposals and the facts.

    Raises:
        CifmError: The counts, genes, coordinates or numbers cannot be used, or there is no such target, type or free place.

    Examples:
        >>> cifm.sensitivity(adata, model, "CXCR4", "tcell", cells="ductal cell").places.nlargest(5, "value")
        >>> cifm.sensitivity(adata, model, "tcell", search=10, search_genes=True).proposals
    """
    check_adapt(adapt)
    if isinstance(inject, str):
        inject = Inject(inject)
    edit = None if inject is None else convert_edit(inject)
    if edit is not None and not isinstance(edit, Inject):
        raise CifmError(f"inject: {inject!r:.80}", 'name a type, such as "tcell", or give a cifm.Inject')
    opened = open_adata(adata, layer, radius_um)
    own_labels = None if labels is None else ColumnLabels(labels, labels_in_memory(adata.obs, labels)[opened.rows])
    config = SensitivityConfig(
        target, edit, cells, search, search_genes, goal, hidden_fraction, crop_um, max_cells, optional_path(markers), adapt,
        seed, own_labels,
    )  # fmt: skip
    result = measure_sensitivity(load(model), opened.slide, config)
    return Sensitivity(result.places, result.proposals, sensitivity_facts(result))
