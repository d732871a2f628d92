"""The `reference` annotator: a calibrated multinomial logistic classifier, written by `cifm annotate train`.

The file is safetensors with a JSON header `cifm` = {"format", "kind", "types", "genes", "temperature", "threshold",
"report", "provenance"}; the tensors are `weights`, `intercepts`, `mean` and `scale`.

Letters: N cells, P genes of a slide, G genes of the classifier, T types.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cifm_cli.celltype.alignment import require_overlap, score_cells
from cifm_cli.celltype.base import UNASSIGNED, call_types
from cifm_cli.celltype.registry import require_path
from cifm_cli.errors import CifmError
from cifm_cli.statistics.classifier import standardise
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation, UnlabelledCells

    Floats = NDArray[np.float32]

FORMAT: Final = 1
KIND: Final = "cell type classifier"
# Limit of a standardised value: a gene that hardly any training cell expresses has a tiny standard deviation, and a
# single count of it would otherwise outweigh all other genes.
MAX_DEVIATION: Final = 10.0
_HEADER: Final = "cifm"
_TENSORS: Final = ("weights", "intercepts", "mean", "scale")


@dataclass(frozen=True)
class ReferenceClassifier:
    """A trained classifier of cell types."""

    types: tuple[str, ...]  # T names
    genes: tuple[str, ...]  # G symbols
    weights: Floats  # (G, T) of standardised expression
    intercepts: Floats  # (T,)
    mean: Floats  # (G,) mean log-normalised expression of the training cells
    scale: Floats  # (G,) their standard deviation
    temperature: float  # divides the logits; chosen on cells that did not fit the weights
    threshold: float  # probability of the likeliest type below which a cell is `unassigned`
    report: dict[str, Any] = field(default_factory=dict)  # scores on held-out cells, see `classification_report`
    provenance: dict[str, Any] = field(default_factory=dict)  # how the classifier was trained

    @property
    def names(self) -> tuple[str, ...]:
        """The types of the classifier, then `unassigned`."""
        return (*self.types, UNASSIGNED)

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells; see `Annotator`."""
        logits, is_void = score_cells(self._logits, self.genes, expression, symbols, renormalise=True)
        return call_types(self.types, logits, is_void, threshold=self.threshold)

    def _logits(self, block: Floats, is_measured: NDArray[np.bool_]) -> Floats:
        """(n, T) logits of (n, G) expression; a gene that the panel lacks counts as the training cells' mean."""
        # The mean of a standardised gene is zero.
        features = np.where(is_measured, standardise(block, self.mean, self.scale, MAX_DEVIATION), 0)
        logits: Floats = (features @ self.weights + self.intercepts) / self.temperature
        return logits


def save_classifier(path: Path, classifier: ReferenceClassifier) -> None:
    """Write a classifier atomically.

    Args:
        path: The `.safetensors` file.
        classifier: A trained classifier.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    header = {
        "format": FORMAT,
        "kind": KIND,
        "types": classifier.types,
        "genes": classifier.genes,
        "temperature": classifier.temperature,
        "threshold": classifier.threshold,
        "report": classifier.report,
        "provenance": classifier.provenance,
    }
    tensors = {name: np.ascontiguousarray(getattr(classifier, name)) for name in _TENSORS}
    # A file that exists is complete: an interrupted training leaves no half-written classifier.
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_HEADER: json.dumps(header, allow_nan=False)})


def load_classifier(path: Path) -> ReferenceClassifier:
    """Read a file that `save_classifier` wrote.

    Args:
        path: The `.safetensors` file.

    Returns:
        The classifier.

    Raises:
        CifmError: The file is damaged, has another format, or holds no classifier.
    """
    hint = "train one with `cifm annotate train LABELLED.h5ad --label COLUMN`"
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
            # Trained models of cifm are safetensors files with this header too, but without a kind.
            if (header.get("kind"), header.get("format")) != (KIND, FORMAT):
                raise CifmError(f"{path}: no {KIND} of format {FORMAT}", hint)
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
    except (SafetensorError, OSError, ValueError) as error:
        raise CifmError(f"{path}: not a readable {KIND} ({error})", hint) from error
    return ReferenceClassifier(
        types=tuple(header["types"]),
        genes=tuple(header["genes"]),
        temperature=header["temperature"],
        threshold=header["threshold"],
        report=header["report"],
        provenance=header["provenance"],
        **tensors,
    )


def describe(path: Path) -> dict[str, Any] | None:
    """Read the header of a classifier, for `cifm inspect`.

    Args:
        path: Any safetensors file.

    Returns:
        The header with the number of genes in place of their names; None for a file that holds no classifier.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
    except (SafetensorError, OSError, ValueError):
        return None
    return header | {"genes": len(header["genes"])} if header.get("kind") == KIND else None


def open_reference(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> ReferenceClassifier:
    """Load a classifier that `cifm annotate train` wrote; see `OpenAnnotator`."""
    del trust_pickle  # safetensors files hold no pickle
    file = require_path("reference", "FILE.safetensors", path)
    classifier = load_classifier(file)
    require_overlap(f"reference:{file}", classifier.genes, cells)
    return classifier
