"""Several slides taken together: the mean difference over slides, with an interval that draws slides, then blocks.

Letters: S slides, R resamples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cifm_cli.evaluation.board import MODEL, is_model
from cifm_cli.evaluation.intervals import LEVEL
from cifm_cli.evaluation.metrics import LOWER_IS_BETTER, METRICS
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.evaluation.board import Board
    from cifm_cli.evaluation.judge import Verdict


def overall(verdicts: dict[str, list[Verdict]], seed: int) -> dict[str, Any]:
    """Compare the model with the best baseline over several slides.

    Args:
        verdicts: Slide name to its verdicts.
        seed: Of the draws.

    Returns:
        Geometry, then metric, to the best baseline by its mean over slides, the mean difference and its 95 % interval;
        empty for a single slide.
    """
    by_geometry: dict[str, list[Board]] = {}
    for found in verdicts.values():
        for verdict in found:
            by_geometry.setdefault(verdict.geometry, []).append(verdict.board)
    return {
        geometry: {metric: _compare(boards, metric, seed) for metric in METRICS}
        for geometry, boards in by_geometry.items()
        if len(boards) > 1
    }


def _compare(boards: Sequence[Board], metric: str, seed: int) -> dict[str, Any]:
    names = [name for name in boards[0].scores if not is_model(name)]
    sign = 1 if metric in LOWER_IS_BETTER else -1
    rival = min(names, key=lambda name: sign * sum(board.best(name, metric).metrics[metric] for board in boards))
    differences = [
        board.best(MODEL, metric).metrics[metric] - board.best(rival, metric).metrics[metric] for board in boards
    ]
    draws = np.stack(
        [board.best(MODEL, metric).draws[metric] - board.best(rival, metric).draws[metric] for board in boards]
    )
    low, high = np.percentile(_draw_slides(draws, seed), LEVEL)
    return {
        "best_baseline": rival,
        "difference": float(np.mean(differences)),
        "low": float(low),
        "high": float(high),
        "num_slides": len(boards),
    }


def _draw_slides(draws: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """(R,) means over slides drawn with replacement, each in a draw of its own blocks.

    Args:
        draws: (S, R) of each slide's difference.
        seed: The user's seed.
    """
    num_slides, num_draws = draws.shape
    generator = numpy_generator(seed, "slides")
    slide = generator.integers(num_slides, size=(num_slides, num_draws))
    block = generator.integers(num_draws, size=(num_slides, num_draws))
    return np.asarray(draws[slide, block].mean(axis=0))
