"""The update rule: in every step some cells are masked, predicted from all others, and given new counts.

There are two kinds. `coupled` changes the state of a cell only as far as its surroundings have changed since the tissue was
observed, see `coupled_states`. `redraw` replaces every updated cell by a draw from its prediction (Fig. 4 of the paper).

Letters: Q cells that one step updates, P genes that slide and model share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.inference.predict import predict_cells
from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.coupled_states import CoupledRun, CouplingRule, draw_noise
from cifm_cli.simulation.feedback import fit_feedback
from cifm_cli.simulation.sampling import draw_counts
from cifm_cli.simulation.state_sampler import StateSampler, fit_state_sampler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.simulation.config import DynamicsName, Form, UpdateSchedule
    from cifm_cli.simulation.tissue import TissueState

GATE: Final = 0.3  # `gated` sets a gene to zero where P(expressed) is at most this


@dataclass(frozen=True)
class Dynamics:
    """The update rule of a simulation, the same in all arms and replicates."""

    model: LoadedModel
    schedule: UpdateSchedule  # which cells are updated when, and how
    state_sampler: StateSampler | None  # draws cells of a state, for the form `state`; None for the other forms
    coupling: CouplingRule | None = None  # to the residents before any edit; None for `redraw`

    def run(self, tissue: TissueState, replicate: int = 0, held: Rows | None = None) -> Iterator[TissueState]:
        """Update a tissue step by step.

        The random numbers depend only on seed, replicate and step. Two tissues with the same residents therefore differ
        only by the model's predictions, not by their random draws.

        Args:
            tissue: The initial state.
            replicate: Number of the replicate, from 0.
            held: Residents that are not updated, because they were edited; the same in both arms.

        Yields:
            The state after every step.
        """
        seed = self.schedule.seed
        update = self.update
        if self.coupling is not None:
            noise = draw_noise(tissue.num_residents, len(self.coupling.sampler.members), seed, replicate)
            update = CoupledRun(self.coupling, tissue, noise).update
        for step in range(self.schedule.steps):
            cells = self.schedule.cells_to_update(tissue.num_residents, replicate, step)
            if held is not None:
                cells = np.setdiff1d(cells, held, assume_unique=True)
            tissue = update(tissue, cells, numpy_generator(seed, "counts", replicate, step))
            yield tissue

    def update(self, tissue: TissueState, cells: Rows, generator: np.random.Generator) -> TissueState:
        """Redraw some cells: mask them, predict them from all others, and give each new counts of its own depth.

        Args:
            tissue: The state before the update.
            cells: (Q,) ascending rows, updated at the same time.
            generator: Source of randomness; do not use it afterwards.

        Returns:
            The state after the update.
        """
        if not len(cells):
            return tissue
        prediction = predict_cells(self.model, tissue.slide, tissue.expressing, cells)
        # The model infers a profile, not a depth, so every cell keeps the depth that was measured.
        depths = tissue.depths[cells]
        # Depths are sums in floating point; draws need integers.
        integer_depths = np.rint(depths).astype(np.int64)
        if self.state_sampler:
            return tissue.with_counts(cells, csr_matrix(self.state_sampler.draw(prediction, integer_depths, generator)))
        target_sum = self.model.checkpoint.recipe.data.target_sum
        expected = expected_counts(prediction, self.schedule.form, target_sum)
        empty = expected.sum(axis=1) == 0
        # A prediction without any expression cannot be scaled to a depth, so such a cell keeps its counts.
        expected[empty] = tissue.slide.counts(cells[empty]).toarray()
        profiles = expected / np.maximum(expected.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        if self.schedule.form == "sample":
            return tissue.with_counts(cells, csr_matrix(draw_counts(profiles, integer_depths, generator)))
        return tissue.with_counts(cells, csr_matrix(profiles * depths[:, None]))


def fit_dynamics(
    model: LoadedModel, tissue: TissueState, schedule: UpdateSchedule, name: DynamicsName = "redraw"
) -> Dynamics:
    """Fit the update rule to the tissue before any edit.

    Args:
        model: The model.
        tissue: Residents only.
        schedule: Which cells are updated when, and how.
        name: `coupled` (for the form `state` only) or `redraw`.

    Returns:
        The update rule, for this tissue with and without edits.
    """
    if schedule.form != "state":
        return Dynamics(model, schedule, None)
    sampler = fit_state_sampler(model, tissue.slide, schedule.update_fraction, schedule.seed)
    if name == "redraw":
        return Dynamics(model, schedule, sampler)
    rule = fit_feedback(CouplingRule(model, sampler, tissue), schedule.update_fraction, schedule.seed)
    return Dynamics(model, schedule, sampler, rule)


def expected_counts(prediction: Prediction, form: Form, target_sum: float) -> NDArray[np.float64]:
    """Invert the log-normalisation of a prediction, up to a constant factor per cell.

    The mean of a logarithm is not the logarithm of a mean, which matters for `sample`: a gene that one cell in three
    expresses at level 6 has the mean 2, and expm1(2) is sixty times too small. Therefore the level of the expressing
    cells, mean / P(expressed), is inverted instead. It is at most the level of a cell that expresses one gene only.

    Args:
        prediction: Prediction of Q cells.
        form: `sample`, `mean` or `gated`.
        target_sum: Sum to which counts are normalised.

    Returns:
        (Q, P), not negative.
    """
    if form == "gated":
        return np.expm1(prediction.gated(GATE).mean.astype(np.float64))
    # In float64: expm1 enlarges rounding errors of large values.
    mean = prediction.mean.astype(np.float64)
    if form == "mean":
        return np.expm1(mean)
    expressed = prediction.expressed.astype(np.float64)
    # The smallest positive number avoids 0 / 0 where P(expressed) is zero; the result is then zero.
    level = np.minimum(mean, expressed * np.log1p(target_sum)) / np.maximum(expressed, np.finfo(float).tiny)
    counts: NDArray[np.float64] = expressed * np.expm1(level)
    return counts
