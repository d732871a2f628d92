"""Settings of a sensitivity analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from cifm_cli.errors import CifmError
from cifm_cli.simulation.config import SimulateConfig
from cifm_cli.simulation.edits.requests import VOID, Inject
from cifm_cli.simulation.sensitivity.search_places import Goal

if TYPE_CHECKING:
    from pathlib import Path

    from cifm_cli.inference.adaptation.adapt import Adapt
    from cifm_cli.simulation.edits.labels import ColumnLabels
    from cifm_cli.simulation.window import Box


@dataclass(frozen=True)
class SensitivityConfig:
    """All settings of a sensitivity analysis."""

    target: str  # a gene or a label
    inject: Inject | None  # type, places and source of the added cell; None to search edits of genes alone
    cells: str | None = None  # label of the residents whose value is meant; all by default
    search: int = 0  # number of proposals that are checked; 0 for none
    search_genes: bool = False  # proposals are edits of genes, not placements
    goal: Goal = "raise"  # whether proposals shall raise or lower the target
    hidden_fraction: float = 0.1  # fraction of the target residents that is hidden at once
    crop_um: Box | None = None  # only cells in this rectangle are analysed: x0, y0, x1, y1 in micrometres
    max_cells: int = 10_000  # largest number of residents; see `window.choose_window`
    markers: Path | None = None  # table of marker genes that extends the packaged one
    adapt: Adapt = "slide"  # `slide`: the model is adapted to the slide; `none`: used as trained
    seed: int = 0  # seed of all random draws
    labels: ColumnLabels | None = None  # labels of all cells of the slide; None for types

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            CifmError: As described.
        """
        if self.goal not in get_args(Goal):
            raise CifmError(f"goal: {self.goal}", f"known are {', '.join(get_args(Goal))}")
        if self.search < 0 or not 0 < self.hidden_fraction <= 1:
            raise CifmError(
                f"search: {self.search}, hidden fraction: {self.hidden_fraction:g}",
                "give a number of proposals from 0 on, and a fraction above 0, at most 1",
            )
        if self.search_genes and not self.search:
            raise CifmError("edits of genes are searched, but no number of them is given", "give one, such as 10")
        if self.inject is None and not self.search_genes:
            raise CifmError(
                f"sensitivity of {self.target}: the type of the added cell is missing", "name it with --inject TYPE"
            )
        if self.inject is not None and (self.inject.count is not None or self.inject.density is not None):
            raise CifmError(
                "a number or a density of cells has no effect on a sensitivity, which is that of one cell at each place",
                "leave out --count and --density",
            )

    @property
    def simulation(self) -> SimulateConfig:
        """The same settings for the preparation of the tissue."""
        edit = self.inject or Inject(VOID, count=0)
        return SimulateConfig(
            (edit,), None, self.hidden_fraction, crop_um=self.crop_um, max_cells=self.max_cells, markers=self.markers,
            adapt=self.adapt, seed=self.seed, labels=self.labels,
        )  # fmt: skip
