"""Which genes a model knows, and where a slide's panel meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.errors import CifmError
from cifm_cli.report.terminal import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.data.slide import Slide

FEW_SHARED = 0.5  # share of a panel below which the user is warned


@dataclass(frozen=True)
class Panel:
    """The genes that a slide and a model share, in the slide's order.

    Args:
        columns: (P,) columns of the slide.
        vocabulary_rows: (P,) rows of the vocabulary.
    """

    columns: NDArray[np.int64]
    vocabulary_rows: NDArray[np.int64]

    @property
    def num_genes(self) -> int:
        """P."""
        return len(self.columns)


def union_vocabulary(slides: Sequence[Slide]) -> tuple[str, ...]:
    """The ordered vocabulary of a corpus: genes in the order in which the slides bring them.

    Args:
        slides: At least one.

    Returns:
        Ensembl ids without repetition.
    """
    return tuple(dict.fromkeys(gene for slide in slides for gene in slide.gene_ids))


def warn_of_few_shared(slide: Slide, panel: Panel) -> None:
    """Say so where a model knows few of a slide's genes: the others are neither read nor inferred."""
    if panel.num_genes < FEW_SHARED * slide.num_genes:
        warn(f"slide {slide.name}: the model knows only {panel.num_genes} of its {slide.num_genes} genes")


def match_panel(slide: Slide, vocabulary: Sequence[str]) -> Panel:
    """Find a slide's genes in a vocabulary.

    Args:
        slide: Any slide.
        vocabulary: Ordered Ensembl ids of a model.

    Returns:
        The shared genes.

    Raises:
        CifmError: They share none.
    """
    rows = {gene: row for row, gene in enumerate(vocabulary)}
    shared = [(column, rows[gene]) for column, gene in enumerate(slide.gene_ids) if gene in rows]
    if not shared:
        raise CifmError(
            f"slide {slide.name}: none of its {slide.num_genes} genes is among the {len(vocabulary)} of the model "
            f"(the slide has {slide.gene_ids[0]}, the model {vocabulary[0]})",
            "use a model trained on this panel and species, or train one with `cifm train`",
        )
    columns, vocabulary_rows = np.array(shared, dtype=np.int64).T
    return Panel(np.ascontiguousarray(columns), np.ascontiguousarray(vocabulary_rows))
