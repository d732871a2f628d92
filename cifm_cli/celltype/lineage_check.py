"""Cells of lineages that a reference lacks stay unassigned.

A classifier gives every cell the most similar of its types, and is often sure of it: by a reference of blood cells, epithelium
becomes some blood cell. Marker genes know all lineages. A cell whose lineage by the `markers` annotator is none of the
reference's lineages gets no name. The rule has no constant to choose.

Letters: N cells, G genes, L labels, T types.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.celltype.label_names import type_of_label
from cifm_cli.celltype.marker_annotator import open_markers
from cifm_cli.celltype.profiles import load_profiles
from cifm_cli.celltype.spots import are_spots
from cifm_cli.celltype.taxonomy import UNASSIGNED, lineage_of, load_taxonomy
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from cifm_cli.celltype.base import Annotation, Annotator, UnlabelledCells
    from cifm_cli.celltype.labelled_cells import LabelledCells

# Correlation of the logarithms of two profiles, without the mean of all types. That of a type with the packaged profile of
# its own lineage was 0.42 or more in the immune census; below this limit, a profile is not recognised.
MIN_CORRELATION: Final = 0.3
MIN_PROFILED_GENES: Final = 50  # shared with the packaged profiles; a correlation over fewer is no evidence
_PER: Final = 1e4


@dataclass(frozen=True)
class LineageCheckedAnnotator:
    """An annotator that leaves cells unassigned whose lineage, by marker genes, it does not have."""

    annotator: Annotator  # the classifier
    markers: Annotator  # the `markers` annotator, fitted to the slide
    lineages: tuple[str, ...]  # lineages of the classifier's types

    @property
    def names(self) -> tuple[str, ...]:
        """The types of the classifier, then `unassigned`."""
        return self.annotator.names

    def annotate(self, expression: csr_matrix, symbols: Sequence[str]) -> Annotation:
        """Assign types to cells; see `Annotator`."""
        types, by_markers = (each.annotate(expression, symbols) for each in (self.annotator, self.markers))
        is_outside = np.array([not self._has(lineage_of(name)) for name in by_markers.names])[by_markers.codes]
        kept = np.where(is_outside, 1.0 - by_markers.scores, 1.0).astype(np.float32)
        logs = types.log_probabilities
        if logs is not None:
            with np.errstate(divide="ignore"):  # a score of 1 leaves nothing for the types
                logs = logs + np.log(kept)[:, None]
                logs[:, -1] = np.logaddexp(logs[:, -1], np.log1p(-kept))
        codes = np.where(is_outside, len(self.names) - 1, types.codes)
        return replace(types, codes=codes, scores=types.scores * kept, log_probabilities=logs, is_outside=is_outside)

    def _has(self, lineage: str) -> bool:
        """Whether some type of the classifier may be of a lineage. Immune cells are lymphoid or myeloid cells."""
        tree = load_taxonomy()
        return lineage == UNASSIGNED or any(tree.are_related(lineage, own) for own in self.lineages)


def check_lineages(annotator: Annotator, lineages: Iterable[str], cells: UnlabelledCells) -> Annotator:
    """Let marker genes check the lineages of a classifier's cells.

    Args:
        annotator: A classifier opened for the slide.
        lineages: Lineages of its types; none if they are not known.
        cells: Cells of the slide.

    Returns:
        The checked classifier; the classifier itself if its lineages are unknown, the panel has too few markers, or a spot
        holds several cells.
    """
    lineages = tuple(sorted(lineages))
    if not lineages or are_spots(cells):
        return annotator
    try:
        markers = open_markers(None, cells, trust_pickle=False)
    except CifmError:  # the panel marks fewer than two types
        return annotator
    return LineageCheckedAnnotator(annotator, markers, lineages)


def lineages_of_labels(cells: LabelledCells) -> tuple[str, ...]:
    """Find the lineages of labelled cells, by the words of each label and by the packaged profile that its mean resembles most.

    Args:
        cells: Cells, or profiles, with L labels.

    Returns:
        The lineages, sorted; empty if a label means nothing and resembles nothing, because it may be of any lineage.
    """
    found: set[str] = set()
    labels = cells.labels.astype(str)
    for label in np.unique(labels):
        name = type_of_label(label)
        resembled = _most_similar_type(np.asarray(cells.counts[labels == label].sum(axis=0)).ravel(), cells.symbols)
        types = [each for each in (name, resembled) if each is not None]
        if not types:
            return ()
        found.update(map(lineage_of, types))
    return tuple(sorted(found))


def _most_similar_type(counts: NDArray[np.floating], symbols: Sequence[str]) -> str | None:
    """The type whose packaged profile correlates most with (G,) mean counts; None where none does."""
    packaged = load_profiles()
    profiles, has_profile = packaged.on_panel(symbols)
    if has_profile.sum() < MIN_PROFILED_GENES or not counts[has_profile].any():
        return None
    logs = _log_fractions(profiles[:, has_profile])
    mean = logs.mean(axis=0)
    own = _log_fractions(counts[None, has_profile])[0] - mean
    correlations = [float(np.corrcoef(own, each - mean)[0, 1]) for each in logs]
    best = int(np.nanargmax(correlations)) if not np.isnan(correlations).all() else 0
    return packaged.types[best] if correlations[best] >= MIN_CORRELATION else None


def _log_fractions(counts: NDArray[np.floating]) -> NDArray[np.float64]:
    """(L, G) logarithms of counts scaled to the same sum."""
    scaled: NDArray[np.float64] = np.log1p(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12) * _PER)
    return scaled
