"""Calibration of a probe: how often a class occurs among the cells that were given some probability of it.

Letters: n cells, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_BINS = 10


def reliability(probabilities: NDArray[np.float64], codes: NDArray[np.int64]) -> dict[str, Any]:
    """Compare predicted probabilities with observed frequencies, in ten bins of equal width.

    With two classes these are the probabilities of the second class; with more, those of all classes together, each against
    the rest.

    Args:
        probabilities: (n, K) of held-out cells.
        codes: (n,) actual classes.

    Returns:
        `bins`, one entry for each bin that is not empty: `predicted` (mean probability), `observed` (frequency) and `number` of
        probabilities; and `expected_error`, the mean of |observed - predicted| over all probabilities.
    """
    num_classes = probabilities.shape[1]
    of_class = range(1, 2) if num_classes == 2 else range(num_classes)
    predicted = np.concatenate([probabilities[:, k] for k in of_class])
    occurs = np.concatenate([codes == k for k in of_class]).astype(np.float64)
    bin_of = np.minimum((predicted * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    number = np.bincount(bin_of, minlength=NUM_BINS)
    filled = number > 0
    means, frequencies = (
        np.bincount(bin_of, values, NUM_BINS)[filled] / number[filled] for values in (predicted, occurs)
    )
    return {
        "bins": [
            {"predicted": float(mean), "observed": float(frequency), "number": int(size)}
            for mean, frequency, size in zip(means, frequencies, number[filled], strict=True)
        ],
        "expected_error": float(np.abs(frequencies - means) @ number[filled] / number.sum()),
    }
