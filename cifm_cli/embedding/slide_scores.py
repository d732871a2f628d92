"""Scores of whole slides: where every slide has one class, such as its condition, the slides are what is predicted.

Letters: n cells, S slides, K classes, P permutations.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import rankdata

from cifm_cli.embedding.scoring import ROC_AUC, HeldOut, score
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

_MAX_EXACT = 7  # slides up to which all assignments of the classes are tried, 5,040 of them
_NUM_DRAWN = 9_999


def class_of_slides(codes: Codes, slide_of: Codes) -> Codes | None:
    """Find the class of every slide.

    Args:
        codes: (n,) class of each cell.
        slide_of: (n,) slide of each cell, 0 to S - 1, each with at least one cell.

    Returns:
        (S,) classes; None if a slide has cells of two classes, or if there is a single slide.
    """
    lowest, highest = (np.full(int(slide_of.max()) + 1, edge) for edge in (np.iinfo(np.int64).max, -1))
    np.minimum.at(lowest, slide_of, codes)
    np.maximum.at(highest, slide_of, codes)
    return lowest if len(lowest) > 1 and np.array_equal(lowest, highest) else None


def mean_of_slides(values: Floats, slide_of: Codes) -> Floats:
    """Average values over the cells of each slide.

    Args:
        values: (n, K).
        slide_of: (n,) slide of each cell, 0 to S - 1, each with at least one cell.

    Returns:
        (S, K).
    """
    sizes = np.bincount(slide_of)
    return np.stack([np.bincount(slide_of, column) / sizes for column in values.T], axis=1)


def slide_roc_auc(probabilities: Floats, classes: Codes, group_of_slide: Codes, held_out: HeldOut) -> Floats:
    """Compute the ROC-AUC with slides in the place of cells, on every draw of the groups.

    Args:
        probabilities: (S, K) mean probabilities of the held-out cells of each slide.
        classes: (S,) class of each slide.
        group_of_slide: (S,) group of each slide.
        held_out: The draws of the groups.

    Returns:
        (1 + B,) values, averaged over classes; NaN where no two slides of one fold differ in class.
    """
    return score(probabilities, classes, group_of_slide, held_out.fold_of_group, held_out.weights)[ROC_AUC]


def permutation_p_value(probabilities: Floats, classes: Codes, seed: int) -> float:
    """Compute how often slides are ranked as well as observed if the classes are assigned to them at random.

    Only for slides that one classifier predicts, which was trained on other slides.

    Args:
        probabilities: (S, K) mean probabilities of each slide.
        classes: (S,) class of each slide.
        seed: Seed of the permutations, where there are too many to try all.

    Returns:
        The fraction of assignments with the same ROC-AUC or a higher one: of all assignments for up to seven slides, else of
        9,999 random ones, with the observed one added.
    """
    ranks = np.stack([rankdata(column) for column in probabilities.T], axis=1)
    if len(classes) <= _MAX_EXACT:
        drawn = classes[np.array(list(permutations(range(len(classes)))))]
        area = _mean_area(ranks, drawn)
        return float((area >= _mean_area(ranks, classes[None])[0] - 1e-12).mean())
    generator = numpy_generator(seed, "probe permutations")
    drawn = generator.permuted(np.tile(classes, (_NUM_DRAWN, 1)), axis=1)
    hits = (_mean_area(ranks, drawn) >= _mean_area(ranks, classes[None])[0] - 1e-12).sum()
    return float((hits + 1) / (_NUM_DRAWN + 1))


def _mean_area(ranks: Floats, classes: Codes) -> Floats:
    """(P,) ROC-AUC of (P, S) assignments of classes, from (S, K) ranks, averaged over the classes that occur."""
    areas = []
    for k in np.unique(classes[0]):
        is_class = classes == k
        num = is_class[0].sum()
        # The sum of ranks of one class, after Mann and Whitney
        areas.append((is_class @ ranks[:, k] - num * (num + 1) / 2) / (num * (classes.shape[1] - num)))
    return np.asarray(np.mean(areas, axis=0))
