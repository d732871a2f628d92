"""What is predicted of masked cells.

Letters: M masked cells, P genes of the panel, K states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Output(NamedTuple):
    """What a head says of M masked cells and P genes.

    Args:
        magnitude: (M, P) log-normalised expression; negative values mean zero.
        logit: (M, P) logit of P(expressed).
        composition: (M, P) logit of each gene's share of the cell's counts; the paper's head has none.
        state: (M, K) logit of each cell state; the paper's head has none.
        profiles: (K, P) mean expression of each state: a cell is in the nearest one.
    """

    magnitude: Tensor
    logit: Tensor
    composition: Tensor | None = None
    state: Tensor | None = None
    profiles: Tensor | None = None
