"""Which effects are called: corrected for all tests, and beyond what the shuffled control shows.

Letters: S draws of the shuffled control, G genes, R rows of the table of effects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.stats import false_discovery_control
from scipy.stats import t as student

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

FALSE_DISCOVERY_RATE: Final = 0.05
SPECIFIC_LEVEL: Final = 0.05  # p value in comparisons with the other label
SPECIFIC, NOT_SPECIFIC, UNDECIDED = "specific", "not specific", "undecided"  # what a comparison says of an effect


@dataclass(frozen=True)
class Controls:
    """What the controls call, by number of rows."""

    shuffled: tuple[int, ...] = ()  # S numbers, one for each draw, by the rule of the effects
    other_label: int = 0  # changes by another label at the places of the edit, after correction for the number of tests
    not_specific: int = 0  # called effects that the other label has too; see `specificity`
    undecided: int = 0  # called effects of which this cannot be decided, or that have no other label
    no_edit: int = 0  # of an edit that changes nothing
    void: int = 0  # of void cells at the places of the edit
    void_model_change: float | None = None  # largest change of a prediction of the model by these; None without a model

    def to_json(self) -> dict[str, Any]:
        """For `simulation.json`."""
        mean = float(np.mean(self.shuffled)) if self.shuffled else 0.0
        most = max(self.shuffled, default=0)
        return {
            "no_edit": {"num_called": self.no_edit},
            "void": {"num_called": self.void, "model_change": self.void_model_change},
            "shuffled": {"num_draws": len(self.shuffled), "num_called": mean, "most_called": most},
            "other_label": {
                "num_called": self.other_label,
                "num_not_specific": self.not_specific,
                "num_undecided": self.undecided,
            },
        }


def shuffled_p(
    values: Numbers, errors: Numbers, degrees: int, *, decidable: bool
) -> tuple[NDArray[np.float32], Numbers]:
    """Test the changes of every draw of the shuffled control like an effect.

    Args:
        values: (S, G) changes.
        errors: (S, G) their standard errors.
        degrees: Degrees of freedom.
        decidable: Whether anything can be decided.

    Returns:
        (S, G) p values, 1 where a change is not beyond those of all other draws; (G,) the largest change in size.
    """
    sizes = np.abs(values)
    largest = sizes.max(axis=0)
    if not decidable or len(values) < 2:
        return np.ones(values.shape, dtype=np.float32), largest
    second = np.sort(sizes, axis=0)[-2]
    p = 2 * student.sf(sizes / np.maximum(errors, 1e-12), degrees)
    # Only the largest of the draws is beyond all of the others.
    return np.where((sizes == largest) & (sizes > second), p, 1.0).astype(np.float32), largest


def call_effects(effects: pd.DataFrame, draws: NDArray[Any]) -> tuple[pd.DataFrame, Controls]:
    """Correct the p values of all rows together (Benjamini and Hochberg 1995), and call effects.

    Args:
        effects: R rows with `p`, `log2_change`, `shuffled`, `other_change`, `other_p` and `difference_p`.
        draws: (S, R) p values of the shuffled control.

    Returns:
        The rows with `q` and `called`, and what the controls call.
    """
    if not len(effects):
        return effects.assign(q=np.zeros(0), called=np.zeros(0, dtype=bool)), Controls()
    q = false_discovery_control(effects["p"].to_numpy(dtype=np.float64))
    is_beyond = effects["log2_change"].abs().to_numpy() > effects["shuffled"].to_numpy()
    called = effects.assign(q=q, called=(q <= FALSE_DISCOVERY_RATE) & is_beyond)
    shuffled = tuple(_count(p) for p in draws.astype(np.float64))
    other = _count(effects["other_p"].fillna(1.0).to_numpy(dtype=np.float64))
    found = specificity(called[called["called"]])
    return called, Controls(shuffled, other, int((found == NOT_SPECIFIC).sum()), int((found == UNDECIDED).sum()))


def specificity(effects: pd.DataFrame) -> NDArray[np.object_]:
    """Compare changes with those by another label at the places of the edit.

    Args:
        effects: R rows with `log2_change`, `other_change`, `other_p` and `difference_p`.

    Returns:
        (R,) `SPECIFIC` where both differ, `NOT_SPECIFIC` where they do not and the other label changes the gene in the same
        direction, else `UNDECIDED`.
    """
    is_different = (effects["difference_p"] <= SPECIFIC_LEVEL).to_numpy()
    is_same = (effects["other_p"] <= SPECIFIC_LEVEL) & (effects["other_change"] * effects["log2_change"] > 0)
    found = np.where(is_different, SPECIFIC, np.where(is_same.to_numpy(), NOT_SPECIFIC, UNDECIDED))
    return found.astype(object)


def _count(p: Numbers) -> int:
    return int((false_discovery_control(p) <= FALSE_DISCOVERY_RATE).sum())
