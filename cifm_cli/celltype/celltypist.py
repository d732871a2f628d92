"""The `celltypist` annotator: CellTypist's own model files (`.pkl`), without the celltypist package.

Such a file is the pickle of {"Model": a scikit-learn linear classifier with `coef_`, `intercept_`, `classes_` and the
genes in `features`; "Scaler_": a StandardScaler; "description"}. CellTypist scales genes that are log-normalised to
10,000 over all genes, cuts them at +10, leaves out the model's genes that are not measured, and takes the sigmoid of
each type's decision value as its probability. The likeliest type is called where that is at least 0.5.

Letters: N cells, G genes of the model, T types.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.special import expit, log_expit

from cifm_cli.celltype.alignment import require_overlap, score_cells
from cifm_cli.celltype.base import UNASSIGNED, call_types
from cifm_cli.celltype.pickles import read_pickle
from cifm_cli.celltype.registry import require_path
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation, UnlabelledCells

    Floats = NDArray[np.float32]

LARGEST_VALUE: Final = 10.0
CONFIDENT: Final = 0.5


@dataclass(frozen=True)
class CelltypistModel:
    """A CellTypist model.

    Args:
        types: T names.
        genes: G symbols.
        weights: (G, T) of scaled expression.
        intercepts: (T,).
        mean: (G,) subtracted before.
        scale: (G,) divided by before.
    """

    types: tuple[str, ...]
    genes: tuple[str, ...]
    weights: Floats
    intercepts: Floats
    mean: Floats
    scale: Floats

    @property
    def names(self) -> tuple[str, ...]:
        """Types it can give, then `unassigned`."""
        return (*self.types, UNASSIGNED)

    def decide(
        self, expression: csr_matrix, symbols: Sequence[str]
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        """Decision values.

        Args:
            expression: (N, P) log-normalised to 10,000.
            symbols: P gene symbols.

        Returns:
            (N, T) values, whose sigmoid is CellTypist's probability; and (N,) cells that express no gene of the model.
        """
        return score_cells(self._decide_block, self.genes, expression, symbols, renormalise=False)

    def _decide_block(self, block: Floats, is_measured: NDArray[np.bool_]) -> Floats:
        """(n, T) of (n, G) expression; a gene that the panel lacks has no say."""
        scaled = np.where(is_measured, np.minimum((block - self.mean) / self.scale, LARGEST_VALUE), 0)
        decision: Floats = scaled @ self.weights + self.intercepts
        return decision

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Name cells; see `Annotator`. Scores are CellTypist's; probabilities are its sigmoids over their sum."""
        decision, is_void = self.decide(expression, symbols)
        scores = expit(decision.max(axis=1))
        return call_types(self.types, log_expit(decision), is_void, scores, CONFIDENT)


def load_celltypist(path: Path, *, trust_pickle: bool) -> CelltypistModel:
    """Read a model file.

    Args:
        path: The `.pkl`.
        trust_pickle: Whether the user vouches for it.

    Returns:
        The model.

    Raises:
        CifmError: It is not trusted, damaged, or no CellTypist model.
    """
    content = read_pickle(path, trusted=trust_pickle)
    try:
        classifier, scaler = content["Model"], content["Scaler_"]
        coefficients, intercepts = (
            np.asarray(part, dtype=np.float32) for part in (classifier.coef_, classifier.intercept_)
        )
        types, genes = (tuple(map(str, part)) for part in (classifier.classes_, classifier.features))
        mean = np.asarray(scaler.mean_, dtype=np.float32) if scaler.with_mean else np.zeros(len(genes), np.float32)
        scale = np.asarray(scaler.scale_, dtype=np.float32)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CifmError(
            f"{path}: not a CellTypist model ({error})", "name a model file of CellTypist (.pkl)"
        ) from error
    if len(coefficients) == 1:  # two types: scikit-learn stores the second one only
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
    if coefficients.shape != (len(types), len(genes)) or mean.shape != (len(genes),):
        shapes = f"coefficients {coefficients.shape}, {len(types)} types, {len(genes)} genes, scaler {mean.shape}"
        raise CifmError(f"{path}: its parts do not fit each other ({shapes})", "copy the file anew")
    return CelltypistModel(types, genes, coefficients.T, intercepts, mean, scale)


def open_celltypist(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> CelltypistModel:
    """Load a CellTypist model; see `OpenAnnotator`."""
    given = require_path("celltypist", "FILE.pkl", path)
    model = load_celltypist(given, trust_pickle=trust_pickle)
    require_overlap(f"celltypist:{given}", model.genes, cells)
    return model
