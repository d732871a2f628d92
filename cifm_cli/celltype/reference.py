"""The `reference` annotator: a calibrated multinomial logistic classifier, as `cifm annotate train` writes it.

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
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation, Cells

    Floats = NDArray[np.float32]

FORMAT: Final = 1
KIND: Final = "cell type classifier"
LARGEST_DEVIATION: Final = 10.0  # of a standardised gene: one count of a gene that hardly any cell shows
_HEADER: Final = "cifm"
_TENSORS: Final = ("weights", "intercepts", "mean", "scale")


@dataclass(frozen=True)
class ReferenceClassifier:
    """A trained classifier.

    Args:
        types: T names.
        genes: G symbols.
        weights: (G, T) of standardised expression.
        intercepts: (T,).
        mean: (G,) log-normalised expression of the cells it was trained on.
        scale: (G,) their standard deviation.
        temperature: Divides the logits; found on cells that were not trained on.
        threshold: Probability of the likeliest type below which a cell is `unassigned`.
        report: What held-out cells said of it.
        provenance: Where it came from.
    """

    types: tuple[str, ...]
    genes: tuple[str, ...]
    weights: Floats
    intercepts: Floats
    mean: Floats
    scale: Floats
    temperature: float
    threshold: float
    report: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Types it can give, then `unassigned`."""
        return (*self.types, UNASSIGNED)

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Name cells; see `Annotator`."""
        logits, is_void = score_cells(self._logits, self.genes, expression, symbols, renormalise=True)
        return call_types(self.types, logits, is_void, threshold=self.threshold)

    def _logits(self, block: Floats, is_measured: NDArray[np.bool_]) -> Floats:
        """(n, T) of (n, G) expression; a gene that the panel lacks counts as the reference's mean."""
        deviation = np.where(is_measured, standardise(block, self.mean, self.scale), 0)
        logits: Floats = (deviation @ self.weights + self.intercepts) / self.temperature
        return logits


def standardise(expression: Floats, mean: Floats, scale: Floats) -> Floats:
    """Deviations from the reference's mean in its standard deviations, cut at ten; shapes (N, G), (G,), (G,)."""
    deviation: Floats = ((expression - mean) / scale).astype(np.float32)
    return deviation.clip(-LARGEST_DEVIATION, LARGEST_DEVIATION)


def save_classifier(path: Path, classifier: ReferenceClassifier) -> None:
    """Write a classifier, whole or not at all.

    Args:
        path: The `.safetensors` file.
        classifier: Trained.

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
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={_HEADER: json.dumps(header, allow_nan=False)})


def load_classifier(path: Path) -> ReferenceClassifier:
    """Read what `save_classifier` wrote.

    Args:
        path: The file.

    Returns:
        The classifier.

    Raises:
        CifmError: It is damaged, of another format, or no classifier.
    """
    hint = "train one with `cifm annotate train LABELLED.h5ad --label COLUMN`"
    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
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
    """What a classifier says of itself, for `cifm inspect`; None for safetensors of another kind."""
    try:
        with safe_open(path, framework="numpy") as file:
            header: dict[str, Any] = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
    except (SafetensorError, OSError, ValueError):
        return None
    return header | {"genes": len(header["genes"])} if header.get("kind") == KIND else None


def open_reference(path: Path | None, cells: Cells, *, trust_pickle: bool) -> ReferenceClassifier:
    """Load a classifier that `cifm annotate train` wrote; see `OpenAnnotator`."""
    del trust_pickle  # no pickle in it
    given = require_path("reference", "FILE.safetensors", path)
    classifier = load_classifier(given)
    require_overlap(f"reference:{given}", classifier.genes, cells)
    return classifier
