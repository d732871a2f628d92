"""An annotator that calls a cell a T cell if it expresses one gene, CD3E or the gene named after the colon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli.celltype.base import UNASSIGNED, Annotation, UnlabelledCells
from cifm_cli.errors import CifmError


class OneGene:
    """See the module."""

    names = ("T cell", UNASSIGNED)  # the last is always unassigned

    def __init__(self, gene: str) -> None:
        self.gene = gene

    def annotate(self, expression: csr_matrix, symbols: tuple[str, ...]) -> Annotation:
        """Annotate (N, G) expression, log-normalised to 10,000, of G gene symbols."""
        expressed = expression[:, [symbols.index(self.gene)]].toarray()[:, 0] > 0
        return Annotation(self.names, np.where(expressed, 0, 1), np.ones(len(expressed), np.float32))


def open_one_gene(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> OneGene:
    """Open the annotator; `--annotator onegene:GENE` names another gene.

    Raises:
        CifmError: The slide lacks the gene.
    """
    gene = str(path or "CD3E")
    if gene not in cells.symbols:
        raise CifmError(f"{cells.name} lacks the gene {gene}", "name a gene of the slide as --annotator onegene:GENE")
    return OneGene(gene)
