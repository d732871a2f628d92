"""What is predicted of masked cells.

Letters: M masked cells, P genes of the panel, K states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def mean_output(outputs: Sequence[Output]) -> Output:
    """Average what several members say; probabilities as logits, which is their geometric mean.

    Args:
        outputs: Of the same cells and genes, and of the same states; at least one.

    Returns:
        Their mean.
    """
    if len(outputs) == 1:
        return outputs[0]
    first = outputs[0]
    return first._replace(
        **{
            name: torch.stack([getattr(output, name) for output in outputs]).mean(0)
            for name, values in first._asdict().items()
            if values is not None
        }
    )
