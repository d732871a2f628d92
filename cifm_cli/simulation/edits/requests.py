"""Edits as a user asks for them: labels, genes and places by name, before they are looked up on a slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.celltype.labelled_cells import source_name
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.celltype.labelled_cells import LabelledSource
    from cifm_cli.simulation.window import Box

VOID: Final = "void"  # the label of cells without expression
MAX_FOLD: Final = 1e4  # of an overexpressed gene


@dataclass(frozen=True)
class ReferenceCells:
    """Labelled cells of another data set, of which injected cells are copies."""

    source: LabelledSource  # an `.h5ad` file or an AnnData, with raw counts
    label: str = "cell_type"  # column of its `obs` with cell types
    donor_key: str | None = (
        None  # column of its `obs` with donors; by default a column with a usual name, if there is one
    )


@dataclass(frozen=True, kw_only=True)
class Where:
    """The part of the tissue that an edit is restricted to."""

    region_um: Box | None = None  # a rectangle x0, y0, x1, y1, micrometres
    near: str | None = None  # label of cells; only places and cells within `within_um` of one of them
    within_um: float | None = None  # distance for `near`; by default the radius of the graph

    def __post_init__(self) -> None:
        """Refuse a distance without a label, and numbers that make no sense.

        Raises:
            CifmError: As described.
        """
        if self.within_um is not None and self.near is None:
            raise CifmError("a distance (within) without a label (near)", "name the label that the distance is from")
        if self.within_um is not None and not 0 < self.within_um < np.inf:
            raise CifmError(f"within {self.within_um:g} um: not a distance", "give micrometres above zero")
        if self.region_um is not None:
            check_region(self.region_um)

    def to_json(self) -> dict[str, Any]:
        """The restrictions that were given, for provenance."""
        entries = {"region_um": self.region_um and list(self.region_um), "near": self.near, "within_um": self.within_um}
        return {name: value for name, value in entries.items() if value is not None}


@dataclass(frozen=True)
class Inject(Where):
    """Add copies of cells of a type."""

    cell_type: str  # a label such as `tcell`, or `void` for cells without expression
    count: int | None = None  # number of cells; 2 % of the residents unless `density` or `at_um` is given
    density: float | None = None  # cells per square millimetre of the tissue, or of its part that is named
    at_um: NDArray[np.float64] | None = None  # (K, 2) places, micrometres; one cell at each
    min_distance_um: float = 0.0  # smallest distance to other cells, micrometres
    reference: ReferenceCells | None = None  # labelled cells to copy; by default, cells of the slide itself

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other, and numbers that make no sense.

        Raises:
            CifmError: As described.
        """
        super().__post_init__()
        given: dict[str, Any] = {"count": self.count, "density": self.density, "at": self.at_um}
        given |= {"region": self.region_um, "near": self.near}
        named = [name for name, value in given.items() if value is not None]
        if {"count", "density"} <= set(named):
            raise CifmError("count and density are both given", "give one of them")
        if "at" in named and (named != ["at"] or self.min_distance_um):
            others = ", ".join(
                name for name in [*named, *(["min distance"] if self.min_distance_um else [])] if name != "at"
            )
            raise CifmError(f"at is given together with {others}", "list the places, or describe them, but not both")
        if self.count is not None and (not isinstance(self.count, int | np.integer) or self.count < 0):
            raise CifmError(f"count {self.count}: not a number of cells", "give a whole number from 0 on")
        if self.density is not None and not 0 <= self.density < np.inf:
            raise CifmError(f"density {self.density:g}: not a density", "give cells per square millimetre")
        if not 0 <= self.min_distance_um < np.inf:
            raise CifmError(f"min distance {self.min_distance_um:g}: not a distance", "give micrometres")
        if self.cell_type.strip().lower() == VOID and self.reference is not None:
            raise CifmError("void cells have no counts to take from a reference", "leave out the reference")

    def to_json(self) -> dict[str, Any]:
        """The edit for provenance."""
        entries = {
            "edit": "inject",
            "cell_type": self.cell_type,
            "count": self.count,
            "density": self.density,
            "num_places": None if self.at_um is None else len(self.at_um),
            "min_distance_um": self.min_distance_um or None,
            "reference": self.reference and source_name(self.reference.source),
        }
        return {name: value for name, value in entries.items() if value is not None} | super().to_json()


@dataclass(frozen=True)
class Remove(Where):
    """Remove the cells of a label."""

    cells: str  # the label

    def to_json(self) -> dict[str, Any]:
        """The edit for provenance."""
        return {"edit": "remove", "cells": self.cells} | super().to_json()


@dataclass(frozen=True)
class Swap(Where):
    """Replace each cell of a label by a copy of a cell of another label, at its place."""

    cells: str  # label of the cells that are replaced
    by: str  # label of the cells that are copied

    def to_json(self) -> dict[str, Any]:
        """The edit for provenance."""
        return {"edit": "swap", "cells": self.cells, "by": self.by} | super().to_json()


@dataclass(frozen=True)
class Knockout(Where):
    """Set the counts of a gene to zero."""

    gene: str  # symbol or Ensembl id
    cells: str | None = None  # label of the cells; by default all

    def to_json(self) -> dict[str, Any]:
        """The edit for provenance."""
        cells = {} if self.cells is None else {"cells": self.cells}
        return {"edit": "knockout", "gene": self.gene} | cells | super().to_json()


@dataclass(frozen=True)
class Overexpress(Where):
    """Add counts of a gene, so that its mean over the cells is a multiple of what it was."""

    gene: str  # symbol or Ensembl id
    fold: float  # the multiple, above 1
    cells: str | None = None  # label of the cells; by default all

    def __post_init__(self) -> None:
        """Refuse a multiple of 1 or less.

        Raises:
            CifmError: As described.
        """
        super().__post_init__()
        if not 1 < self.fold <= MAX_FOLD:
            raise CifmError(
                f"overexpress {self.gene}={self.fold:g}: the multiple must be above 1, at most {MAX_FOLD:g}",
                "use knockout to silence a gene",
            )

    def to_json(self) -> dict[str, Any]:
        """The edit for provenance."""
        cells = {} if self.cells is None else {"cells": self.cells}
        return {"edit": "overexpress", "gene": self.gene, "fold": self.fold} | cells | super().to_json()


EditRequest = Inject | Remove | Swap | Knockout | Overexpress
"""An edit that a user asks for."""


def check_region(region_um: Box) -> None:
    """Refuse four numbers that are no rectangle.

    Raises:
        CifmError: As described.
    """
    is_box = len(region_um) == 4 and region_um[0] < region_um[2] and region_um[1] < region_um[3]
    if not is_box or not np.isfinite(region_um).all():
        text = ",".join(f"{number:g}" for number in region_um)
        raise CifmError(f"region {text}: not a rectangle", "write x0,y0,x1,y1 in micrometres, such as 0,0,1000,500")
