"""The influence of a changed cell on others, measured on a tissue before any edit.

The influence is the number of other cells that change their state in a sweep because one cell has changed: the sum over cells
of the total variation distance between their probabilities before and after. At an influence of 1 or more, changes spread
without end.

Letters: N residents, K states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.provenance import numpy_generator
from cifm_cli.simulation.sampling import draw_category

if TYPE_CHECKING:
    from cifm_cli.simulation.coupled_states import CouplingRule

CHANGED_FRACTION: Final = 0.003  # of the residents, few enough that their effects hardly overlap
MIN_CHANGED: Final = 5
MASKED_SAMPLES: Final = 3  # samples of residents whose probabilities are compared
MAX_INFLUENCE: Final = (
    0.5  # of a changed cell after the feedback: all changes are at most twice those by the edit itself
)


def fit_feedback(rule: CouplingRule, update_fraction: float, seed: int) -> CouplingRule:
    """Choose the feedback such that the influence of a changed cell is at most `MAX_INFLUENCE`.

    Args:
        rule: The rule with a feedback of 1.
        update_fraction: Fraction of the residents that one step updates.
        seed: Seed of all random draws.

    Returns:
        The rule with the feedback of this tissue.
    """
    influence = measure_influence(rule, update_fraction, seed)
    return replace(rule, feedback=min(1.0, MAX_INFLUENCE / influence) if influence else 1.0)


def measure_influence(rule: CouplingRule, update_fraction: float, seed: int) -> float:
    """Change some residents to another state that the model finds probable, and compare the probabilities of others.

    Args:
        rule: Model, states and tissue.
        update_fraction: Fraction of the residents that is masked at once.
        seed: Seed of all random draws.

    Returns:
        Number of cells that one changed cell changes in a sweep; 0 where no cell can change.
    """
    generator = numpy_generator(seed, "feedback")
    sampler, tissue = rule.sampler, rule.before
    cells = np.flatnonzero(sampler.state >= 0)
    number = min(len(cells) // 2, max(MIN_CHANGED, round(CHANGED_FRACTION * len(cells))))
    changed = np.sort(generator.choice(cells, number, replace=False))
    if not number:
        return 0.0
    others = rule.probability(tissue, changed)
    others[np.arange(number), sampler.state[changed]] = 0.0
    can_change = others.any(axis=1)
    changed, others = changed[can_change], others[can_change]
    rest = np.setdiff1d(cells, changed)
    if not len(changed) or not len(rest):
        return 0.0
    depths = np.rint(tissue.depths[changed]).astype(np.int64)
    states, uniform = draw_category(others, generator), generator.random(len(changed))
    size = max(1, round(update_fraction * len(rest)))
    samples = [np.sort(generator.choice(rest, size, replace=False)) for _ in range(MASKED_SAMPLES)]
    perturbed = tissue.with_counts(changed, csr_matrix(sampler.copy_cells(states, depths, uniform, generator)))
    distances = [
        np.abs(rule.probability(tissue, masked) - rule.probability(perturbed, masked)).sum(axis=1) / 2
        for masked in samples
    ]
    return float(np.mean(distances) * len(rest) / len(changed))
