"""The `reference` annotator: a calibrated multinomial logistic classifier, written by `cifm annotate train`.

The file is safetensors with a JSON header `cifm` = {"format", "kind", "types", "genes", "temperature", "threshold",
"lineages", "report", "provenance", "sha256"}; the tensors are `weights`, `intercepts`, `mean` and `scale`.

Letters: N cells, P genes of a slide, G genes of the classifier, T types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field

from cifm_cli.celltype.alignment import require_overlap, score_cells
from cifm_cli.celltype.base import UNASSIGNED, call_types
from cifm_cli.celltype.lineage_check import check_lineages
from cifm_cli.celltype.registry import require_path
from cifm_cli.statistics.classifier import standardise
from cifm_cli.stored_json import Names, StoredObject, Text
from cifm_cli.tensor_files import FileKind, Layout, open_tensors, save_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation, Annotator, UnlabelledCells

    Floats = NDArray[np.float32]

FORMAT: Final = 1
KIND: Final = "cell type classifier"
# Limit of a standardised value: a gene that hardly any training cell expresses has a tiny standard deviation, and a
# single count of it would otherwise outweigh all other genes.
MAX_DEVIATION: Final = 10.0
_TENSORS: Final = ("weights", "intercepts", "mean", "scale")


class ClassifierHeader(StoredObject):
    """The header of a classifier."""

    kind: Literal["cell type classifier"]
    types: Annotated[Names, Field(min_length=1)]
    genes: Annotated[Names, Field(min_length=1)]
    temperature: Annotated[float, Field(gt=0)]
    threshold: Annotated[float, Field(ge=0, le=1)]
    lineages: list[Text] = Field(default_factory=list)  # empty where unknown, as in files of earlier versions
    report: dict[str, Any]
    provenance: dict[str, Any]
    sha256: str | None = None  # checksum of the content; None in files of earlier versions


CLASSIFIER: Final = FileKind(
    KIND, FORMAT, ClassifierHeader, "train one with `cifm annotate train LABELLED.h5ad --label COLUMN`", KIND
)


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
    lineages: tuple[str, ...] = ()  # lineages of the types; none where unknown

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
        "lineages": classifier.lineages,
        "report": classifier.report,
        "provenance": classifier.provenance,
    }
    # A file that exists is complete: an interrupted training leaves no half-written classifier.
    save_tensors(path, {name: getattr(classifier, name) for name in _TENSORS}, header, "numpy")


def load_classifier(path: Path) -> ReferenceClassifier:
    """Read a file that `save_classifier` wrote.

    Args:
        path: The `.safetensors` file.

    Returns:
        The classifier.

    Raises:
        CifmError: The file is damaged, has another format, or holds no classifier.
    """
    with open_tensors(path, CLASSIFIER, "numpy") as file:
        header = file.header
        num_genes, num_types = len(header["genes"]), len(header["types"])
        shapes = ((num_genes, num_types), (num_types,), (num_genes,), (num_genes,))
        layouts = {name: Layout("F32", shape) for name, shape in zip(_TENSORS, shapes, strict=True)}
        file.require(layouts, "its parts do not fit each other")
        tensors = file.load()
        file.verify(tensors)
    if not (tensors["scale"] > 0).all():
        raise CLASSIFIER.error(path, "tensor scale has a value that is not positive")
    return ReferenceClassifier(
        types=tuple(header["types"]),
        genes=tuple(header["genes"]),
        temperature=header["temperature"],
        threshold=header["threshold"],
        lineages=tuple(header["lineages"]),
        report=header["report"],
        provenance=header["provenance"],
        **tensors,
    )


def describe(path: Path) -> dict[str, Any]:
    """Check a classifier and summarise it for `cifm inspect`.

    Args:
        path: The `.safetensors` file.

    Returns:
        The header with the number of genes in place of their names.

    Raises:
        CifmError: As `load_classifier`.
    """
    classifier = load_classifier(path)
    return {
        "kind": KIND,
        "format": FORMAT,
        "types": list(classifier.types),
        "genes": len(classifier.genes),
        "temperature": classifier.temperature,
        "threshold": classifier.threshold,
        "lineages": list(classifier.lineages),
        "report": classifier.report,
        "provenance": classifier.provenance,
    }


def open_reference(path: Path | None, cells: UnlabelledCells, *, trust_pickle: bool) -> Annotator:
    """Load a classifier that `cifm annotate train` wrote, which leaves other lineages unassigned; see `OpenAnnotator`."""
    del trust_pickle  # safetensors files hold no pickle
    file = require_path("reference", "FILE.safetensors", path)
    classifier = load_classifier(file)
    require_overlap(f"reference:{file}", classifier.genes, cells)
    return check_lineages(classifier, classifier.lineages, cells)
