"""The `celltypist` annotator: model files of CellTypist (`.pkl`), read without the celltypist package.

Such a file is the pickle of {"Model": a scikit-learn linear classifier with `coef_`, `intercept_`, `classes_` and the
genes in `features`; "Scaler_": a StandardScaler; "description"}. As in CellTypist, expression is log-normalised to
10,000 over all measured genes, scaled, and clipped at +10; genes of the model that the slide lacks are left out; and
the probability of a type is the sigmoid of its decision value. The likeliest type is called from a probability of 0.5.

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

MAX_SCALED: Final = 10.0  # limit of a scaled value, as in CellTypist
THRESHOLD: Final = 0.5


@dataclass(frozen=True)
class CelltypistModel:
    """A CellTypist model."""

    types: tuple[str, ...]  # T names
    genes: tuple[str, ...]  # G symbols
    weights: Floats  # (G, T) of scaled expression
    intercepts: Floats  # (T,)
    mean: Floats  # (G,) subtracted from log-normalised expression
    scale: Floats  # (G,) divides the difference

    @property
    def names(self) -> tuple[str, ...]:
        """The types of the model, then `unassigned`."""
        return (*self.types, UNASSIGNED)

    def decision_function(
        self, expression: csr_matrix, symbols: Sequence[str]
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
        """Compute the decision value of every type.

        Args:
            expression: (N, P) log-normalised to 10,000.
            symbols: P gene symbols.

        Returns:
            (N, T) values, whose sigmoid is CellTypist's probability; and (N,) a mask of cells that express no gene of
            the model.
        """
        return score_cells(self._decide, self.genes, expression, symbols, renormalise=False)

    def _decide(self, block: Floats, is_measured: NDArray[np.bool_]) -> Floats:
        """(n, T) decision values of (n, G) expression; genes that the panel lacks contribute nothing."""
        # A scaled value of zero contributes nothing, as if the gene were left out.
        scaled = np.where(is_measured, np.minimum((block - self.mean) / self.scale, MAX_SCALED), 0)
        decision: Floats = scaled @ self.weights + self.intercepts
        return decision

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells; see `Annotator`. Scores are CellTypist's probabilities, which need not sum to 1."""
        decision, is_void = self.decision_function(expression, symbols)
        # The sigmoids of the types are independent; `call_types` divides them by their sum for the probabilities.
        scores = expit(decision.max(axis=1))
        return call_types(self.types, log_expit(decision), is_void, scores, THRESHOLD)


def load_celltypist(path: Path, *, trust_pickle: bool) -> CelltypistModel:
    """Read a model file.

    Args:
        path: The `.pkl`.
        trust_pickle: Whether the user trusts the file.

    Returns:
        The model.

    Raises:
        CifmError: The file is not trusted, is damaged, or holds no CellTypist model.
    """
    content = read_pickle(path, trusted=trust_pickle)
    try:
        classifier, scaler = content["Model"], content["Scaler_"]
        coefficients, intercepts = _numbers(classifier.coef_), _numbers(classifier.intercept_)
        types, genes = _names(classifier.classes_), _names(classifier.features)
        mean = _numbers(scaler.mean_) if scaler.with_mean else np.zeros(len(genes), np.float32)
        scale = _numbers(scaler.scale_)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CifmError(
            f"{path}: not a CellTypist model ({error!s:.200})", "name a model file of CellTypist (.pkl)"
        ) from error
    if len(coefficients) == 1:  # for two types, scikit-learn stores only the coefficients of the second
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
    # A model that was edited or truncated could otherwise assign types by the wrong genes.
    expected = [(len(types), len(genes)), (len(types),), (len(genes),), (len(genes),)]
    found = [array.shape for array in (coefficients, intercepts, mean, scale)]
    if found != expected or not types or not genes:
        shapes = ", ".join(map(str, found))
        raise CifmError(
            f"{path}: its parts do not fit each other (coefficients, intercepts, mean and scale of {shapes} for "
            f"{len(types)} types and {len(genes)} genes)",
            "copy the file anew",
        )
    if not (scale > 0).all():
        raise CifmError(f"{path}: its scale of a gene is not positive", "copy the file anew")
    return CelltypistModel(types, genes, coefficients.T, intercepts, mean, scale)


def _numbers(array: object) -> Floats:
    """An array of finite numbers; lists are refused, as they can contain each other."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise TypeError("coefficients that are no array of numbers")
    numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError("coefficients that are not finite")
    return numbers


def _names(array: object) -> tuple[str, ...]:
    """Texts from an array or a list."""
    values = array.tolist() if isinstance(array, np.ndarray) else array
    if not isinstance(values, list | tuple) or not all(isinstance(value, str | int | float) for value in values):
        raise TypeError("types or genes that are no names")
    return tuple(map(str, values))


def open_celltypist(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> CelltypistModel:
    """Load a CellTypist model; see `OpenAnnotator`."""
    file = require_path("celltypist", "FILE.pkl", path)
    model = load_celltypist(file, trust_pickle=trust_pickle)
    require_overlap(f"celltypist:{file}", model.genes, cells)
    return model
