"""Values of the genes of a panel, among those of a vocabulary.

Letters: G genes of the vocabulary, P of the panel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def select_genes(values: Tensor, genes: Tensor) -> Tensor:
    """Rows of a vocabulary; the values themselves if a panel is the whole vocabulary.

    Args:
        values: (G, ...) values of the genes of the vocabulary.
        genes: (P,) distinct vocabulary rows of the panel.

    Returns:
        (P, ...) values of the panel.
    """
    # A panel has distinct genes, so an ascending one of the size of the vocabulary is the vocabulary. A GPU would have to
    # wait for the answer.
    if len(genes) == len(values) and genes.device.type == "cpu" and bool((genes[1:] > genes[:-1]).all()):
        return values
    return values[genes]
