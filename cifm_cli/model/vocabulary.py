"""The vocabulary of a model, and the panel: the genes that a slide shares with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.data.slide import Slide

FEW_SHARED = 0.5  # fraction of the genes of a slide below which the user is warned


@dataclass(frozen=True)
class Panel:
    """Genes that a slide and a model share, in the order of the slide."""

    columns: NDArray[np.int64]  # (P,) column of each gene in the slide
    vocabulary_rows: NDArray[np.int64]  # (P,) row of each gene in the vocabulary

    @property
    def num_genes(self) -> int:
        """Number of shared genes, P."""
        return len(self.columns)

    def select(self, matrix: csr_matrix) -> csr_matrix:
        """The (N, P) columns of the shared genes among the (N, G) ones of a slide; the matrix itself if they are all."""
        # Selecting columns of a sparse matrix costs as much as reading it, and most models know all genes of a slide.
        is_whole = len(self.columns) == matrix.shape[1] and np.array_equal(self.columns, np.arange(matrix.shape[1]))
        return matrix if is_whole else matrix[:, self.columns]


def union_vocabulary(slides: Sequence[Slide], known: Sequence[str] = ()) -> tuple[str, ...]:
    """Genes of a vocabulary and of several slides, in the order of their first appearance.

    Args:
        slides: The slides.
        known: Ensembl ids that come first, those of a trained model.

    Returns:
        Ensembl ids, each once.
    """
    # A dictionary keeps the order, on which the rows of the weights depend; a set would not.
    return tuple(dict.fromkeys([*known, *(gene for slide in slides for gene in slide.gene_ids)]))


def panel_notes(slide: Slide, panel: Panel) -> list[str]:
    """Warnings about a panel for the user.

    Args:
        slide: The slide.
        panel: The genes that it shares with a model. The model neither reads nor infers the other genes.

    Returns:
        A warning if the panel has less than half of the genes of the slide; otherwise none.
    """
    if panel.num_genes >= FEW_SHARED * slide.num_genes:
        return []
    return [f"slide {slide.name}: the model knows only {panel.num_genes} of its {slide.num_genes} genes"]


def overlap_facts(slide: Slide, vocabulary: Sequence[str]) -> dict[str, int]:
    """Numbers of genes of a slide, of a model, and of both, for provenance."""
    known = set(vocabulary)
    return {"slide": slide.num_genes, "model": len(vocabulary), "shared": sum(gene in known for gene in slide.gene_ids)}


def overlap_notes(slide: Slide, vocabulary: Sequence[str]) -> list[str]:
    """What a user should know of a panel with fewer than half of the genes of a model; otherwise none.

    Args:
        slide: The slide.
        vocabulary: Ensembl ids of the model.

    Returns:
        At most one sentence.
    """
    facts = overlap_facts(slide, vocabulary)
    if facts["shared"] >= FEW_SHARED * facts["model"]:
        return []
    shared, own, model = facts["shared"], facts["slide"], facts["model"]
    known = f"slide {slide.name}: {shared:,} of its {own:,} genes are among the {model:,} of the model"
    return [f"{known}, which reads the others as not expressed"]


def match_panel(slide: Slide, vocabulary: Sequence[str]) -> Panel:
    """Find the genes of a slide in a vocabulary.

    Args:
        slide: The slide.
        vocabulary: Ordered Ensembl ids of a model.

    Returns:
        The shared genes.

    Raises:
        CifmError: The slide and the vocabulary share no gene.
    """
    shared = _match(tuple(slide.gene_ids), tuple(vocabulary))
    if shared is None:
        raise CifmError(
            f"slide {slide.name}: none of its {slide.num_genes} genes is among the {len(vocabulary)} of the model "
            f"(the slide has {slide.gene_ids[0]}, the model {vocabulary[0]})",
            "use a model trained on this panel and species, or train one with `cifm train`",
        )
    return shared


@lru_cache(maxsize=4)  # every tile of a slide asks for it
def _match(gene_ids: tuple[str, ...], vocabulary: tuple[str, ...]) -> Panel | None:
    """The genes that both have; None without any."""
    rows = {gene: row for row, gene in enumerate(vocabulary)}
    # In the order of the slide, so that columns of a prediction are columns of the slide.
    shared = [(column, rows[gene]) for column, gene in enumerate(gene_ids) if gene in rows]
    if not shared:
        return None
    columns, vocabulary_rows = np.array(shared, dtype=np.int64).T
    # Rows of a transposed array are not contiguous, and every tile indexes with them.
    return Panel(np.ascontiguousarray(columns), np.ascontiguousarray(vocabulary_rows))
