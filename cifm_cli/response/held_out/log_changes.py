"""Log changes between a region and the label elsewhere, and the genes by which they are compared.

Letters: G genes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

TOP_GENES: Final = 50  # genes that change most between the region and elsewhere


def log_change(rates: Numbers, base: Numbers, floor: float) -> Numbers:
    """log2 ratio of rates to those elsewhere; a floor is added to both, negative rates count as zero."""
    return np.asarray(np.log2((np.maximum(rates, 0.0) + floor) / (base + floor)))


def rates_of(change: Numbers, base: Numbers, floor: float) -> Numbers:
    """Rates that have a log2 change, not negative; inverse of `log_change`."""
    return np.maximum((base + floor) * 2.0**change - floor, 0.0)


def most_changed(rates: Numbers, base: Numbers, variance: Numbers, num_cells: float) -> NDArray[np.int64]:
    """The `TOP_GENES` genes that change most, relative to the standard error of a mean of as many cells.

    Args:
        rates: (G,) means of the region.
        base: (G,) means elsewhere.
        variance: (G,) variances of single cells.
        num_cells: Cells of the region.

    Returns:
        Positions of the genes.
    """
    error = np.sqrt(variance / num_cells + 1e-6)
    return np.argsort(-np.abs(rates - base) / error, kind="stable")[:TOP_GENES]


def correlation(x: Numbers, y: Numbers) -> float:
    """Pearson correlation, 0 if either is constant."""
    return float(np.corrcoef(x, y)[0, 1]) if min(x.std(), y.std()) > 1e-9 else 0.0
