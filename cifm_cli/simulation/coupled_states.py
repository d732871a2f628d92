"""The coupled update: a cell changes its state only as far as its surroundings have changed.

Let p_0 be the probabilities of the K states of a cell, predicted while it is masked in the tissue before any edit, and p
those in its present surroundings, with the same cells masked. The state s_0 that was observed is a draw from p_0, as far as
the model is right. The update turns it into a draw from p with as few changes as possible (the maximal coupling of both):

    the cell keeps s_0 with probability min(1, p(s_0) / p_0(s_0)),
    else it gets state s with a probability proportional to max(p(s) - p_0(s), 0).

This is an acceptance step as in the Metropolis algorithm, with the observed tissue as its reference: where nothing that
the model sees has changed, p = p_0 and no cell changes. An untouched tissue is therefore stationary, whatever the errors
of the model, and an edit has no effect beyond the reach of a prediction times the number of steps. On average the composition
changes by p - p_0, as with a plain redraw from p. A redraw, in contrast, forgets what each cell is: the errors of p_0, which
hold half of the cells of mixed regions to be something else, become changes of the tissue.

A resident that changed its state is itself a change of the surroundings of others. As the probabilities are nearly an average
of the neighbours, one changed cell changes about one other in a sweep (`feedback.fit_feedback` measures how many), and the
changes would spread through the tissue without end, although they add no evidence to that of the edit. Therefore
p = (1 - f) p_e + f p_t, where p_e is predicted from the edits and the observed residents, p_t from the present tissue, and f is
so small that a changed cell changes at most half a cell in a sweep. The effect of an edit is then bounded for any number of steps.

The random numbers of a cell are the same in all steps of a replicate. A cell whose surroundings do not change any more does
not change any more either, and one whose surroundings return to those of the beginning returns to what it was.

Letters: N residents, Q updated cells, K states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import cKDTree

from cifm_cli.inference.hidden_tile import halo_um
from cifm_cli.inference.predict import predict_cells
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cifm_cli.data.slide import Rows
    from cifm_cli.inference.loaded_model import LoadedModel
    from cifm_cli.simulation.state_sampler import StateSampler
    from cifm_cli.simulation.tissue import TissueState


@dataclass(frozen=True)
class CellNoise:
    """The random numbers of the cells of a replicate."""

    keep: NDArray[np.float64]  # (N,) in [0, 1); a cell keeps its state while this is below the ratio of probabilities
    waiting_times: NDArray[np.float32]  # (N, K) exponential; the next state is the first to arrive
    template: NDArray[np.float64]  # (N,) in [0, 1); which cell of a state is copied


def draw_noise(num_cells: int, num_states: int, seed: int, replicate: int) -> CellNoise:
    """Draw the random numbers of all cells of a replicate."""
    generator = numpy_generator(seed, "coupling", replicate)
    keep, template = generator.random(num_cells), generator.random(num_cells)
    return CellNoise(keep, generator.standard_exponential((num_cells, num_states), dtype=np.float32), template)


def couple_states(
    observed: NDArray[np.int64],
    before: NDArray[np.float64],
    now: NDArray[np.float64],
    keep: NDArray[np.float64],
    waiting_times: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Draw the states of some cells from their present probabilities, coupled to the states that were observed.

    Args:
        observed: (Q,) observed states.
        before: (Q, K) probabilities in the tissue before any edit; rows sum to 1.
        now: (Q, K) probabilities in the present tissue; rows sum to 1.
        keep: (Q,) uniform random numbers.
        waiting_times: (Q, K) exponential random numbers.

    Returns:
        (Q,) states.
    """
    cells = np.arange(len(observed))
    own_before, own_now = before[cells, observed], now[cells, observed]
    gain = np.maximum(now - before, 0.0)
    # A cell without an alternative keeps its state.
    moves = (keep * own_before >= own_now) & (own_before > own_now) & (gain > 0).any(axis=1)
    times = np.divide(waiting_times, gain, out=np.full(gain.shape, np.inf), where=gain > 0)
    return np.where(moves, times.argmin(axis=1), observed)


@dataclass(frozen=True)
class CouplingRule:
    """What the updates of all arms and replicates share."""

    model: LoadedModel
    sampler: StateSampler  # probabilities and cells of the states
    before: TissueState  # the residents before any edit
    feedback: float = 1.0  # f, the weight of the changes of other residents

    def probability(self, tissue: TissueState, masked: Rows) -> NDArray[np.float64]:
        """(Q, K) probabilities of the states of masked cells; rows sum to 1."""
        weights = self.sampler.probability(predict_cells(self.model, tissue.slide, tissue.expressing, masked))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))


class CoupledRun:
    """The updates of one arm of one replicate."""

    def __init__(self, rule: CouplingRule, edited: TissueState, noise: CellNoise) -> None:
        """Start at the edited tissue.

        Args:
            rule: What the runs of all arms and replicates share.
            edited: The tissue after its edits, before the first update; that before any edit in the control.
            noise: Random numbers of the replicate.
        """
        self._rule, self._edited, self._noise = rule, edited, noise
        self._reach_um = halo_um(rule.model, rule.before.slide)
        self._counts = rule.before.counts
        self._state = rule.sampler.state.copy()  # (N,) present states; -1 for a cell without counts

    def update(self, tissue: TissueState, cells: Rows, generator: np.random.Generator) -> TissueState:
        """Update some residents at the same time.

        Args:
            tissue: The state before the update.
            cells: (Q,) ascending rows of residents; those without counts are left out.
            generator: Source of randomness for the counts of cells that change; do not use it afterwards.

        Returns:
            The state after the update.
        """
        cells = cells[self._rule.sampler.state[cells] >= 0]
        changed_um = self._changed_places(tissue)
        if not len(changed_um) or not len(cells):
            return tissue
        distance = cKDTree(changed_um).query(tissue.slide.xy_um[cells])[0]
        affected = distance <= self._reach_um
        # A prediction also depends on which cells around it are masked, so that those are masked in both tissues.
        masked = cells[distance <= 2 * self._reach_um]
        position = np.searchsorted(masked, cells[affected])
        cells = cells[affected]
        if not len(cells):
            return tissue
        rule, noise = self._rule, self._noise
        before, now = (rule.probability(state, masked)[position] for state in (rule.before, self._edited))
        if (self._state != rule.sampler.state).any():
            present = rule.probability(tissue, masked)[position]
            now = (1 - rule.feedback) * now + rule.feedback * present
        observed = self._rule.sampler.state[cells]
        states = couple_states(observed, before, now, noise.keep[cells], noise.waiting_times[cells])
        moved = states != self._state[cells]
        return self._change(tissue, cells[moved], states[moved], generator)

    def _changed_places(self, tissue: TissueState) -> NDArray[np.float64]:
        """Positions at which the tissue differs from that before any edit; void cells are no difference."""
        num_residents = tissue.num_residents
        differs = np.asarray((tissue.counts[:num_residents] != self._counts).sum(axis=1)).ravel() > 0
        # The depth is a part of the input too: a gene that slide and model do not share may have been edited.
        differs |= tissue.slide.total_counts[:num_residents] != self._rule.before.slide.total_counts
        is_added = tissue.slide.total_counts[num_residents:] > 0
        places: NDArray[np.float64] = tissue.slide.xy_um[np.concatenate([differs, is_added])]
        return places

    def _change(
        self, tissue: TissueState, cells: Rows, states: NDArray[np.int64], generator: np.random.Generator
    ) -> TissueState:
        """Give cells the counts of their new states, or those that were observed."""
        if not len(cells):
            return tissue
        self._state[cells] = states
        returns = states == self._rule.sampler.state[cells]
        others, depths = cells[~returns], np.rint(tissue.depths[cells[~returns]]).astype(np.int64)
        drawn = self._rule.sampler.copy_cells(states[~returns], depths, self._noise.template[others], generator)
        counts = vstack([self._counts[cells[returns]], csr_matrix(drawn)], format="csr")
        return tissue.with_counts(np.concatenate([cells[returns], others]), counts)
