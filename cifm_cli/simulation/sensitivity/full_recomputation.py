"""The change of a target by a finite edit, by prediction of the tissue with and without it.

Letters: N residents, R target residents, K edited places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from scipy.spatial import cKDTree

from cifm_cli.inference.hidden_tile import halo_um
from cifm_cli.inference.predict import predict_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.sensitivity.target import Readout
    from cifm_cli.simulation.tissue import TissueState


@dataclass(frozen=True)
class FullRecomputation:
    """Predictions of the target residents, with the same cells hidden together as for the derivative."""

    model: LoadedModel
    tissue: TissueState  # the residents before any edit
    readout: Readout  # what is read of a prediction
    sets: Sequence[Rows]  # target residents that are hidden together

    def change(
        self, edited: TissueState, places_um: NDArray[np.float64], advance: Callable[[], None] = lambda: None
    ) -> float:
        """Change of the sum of the values of all target residents.

        Args:
            edited: The tissue after the edit: residents in their order, then added cells.
            places_um: (K, 2) places at which it differs.
            advance: Called after every set.

        Returns:
            The sum with the edit minus that without.
        """
        total, reach_um, edits = 0.0, halo_um(self.model, self.tissue.slide), cKDTree(places_um)
        for cells, before in zip(self.sets, self.before, strict=True):
            distance = edits.query(self.tissue.slide.xy_um[cells])[0]
            # A prediction also depends on which cells around it are hidden, so that those farther away are hidden too.
            hidden = distance <= 2 * reach_um
            affected = distance[hidden] <= reach_um
            if affected.any():
                after = self._values(edited, cells[hidden])
                total += float((after - before[hidden])[affected].sum())
            advance()
        return total

    @cached_property
    def before(self) -> list[NDArray[np.float64]]:
        """Values of each set without an edit."""
        return [self._values(self.tissue, cells) for cells in self.sets]

    def _values(self, tissue: TissueState, cells: Rows) -> NDArray[np.float64]:
        return self.readout.of_prediction(predict_cells(self.model, tissue.slide, tissue.expressing, cells))
