"""Agreement of the cell types of predicted and actual expression (paper, section 4).

Letters: Q scored cells, n of them, P scored genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.celltype.annotate import sample_rows, slide_tissue
from cifm_cli.celltype.base import TYPING_SUM, UnlabelledCells
from cifm_cli.celltype.registry import open_annotator
from cifm_cli.celltype.taxonomy import lineage_of
from cifm_cli.data.slide import log_normalise
from cifm_cli.data.units import median_spacing_um
from cifm_cli.evaluation.metrics.counts import expected_composition, split_counts
from cifm_cli.provenance import numpy_generator
from cifm_cli.statistics.bootstrap import Statistic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotation, Annotator
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.dataset import EvaluationDataset
    from cifm_cli.evaluation.examples import Targets
    from cifm_cli.inference.prediction import Prediction
    from cifm_cli.statistics.bootstrap import Bootstrap

    Values = NDArray[np.float32]

POINT_FORMS: Final = ("mean", "gated")
MAX_K: Final = 10  # of the overlap of the k likeliest types
MIN_PROBABILITY: Final = 1e-6  # of a type, before its logarithm


def annotator_for(spec: str, dataset: EvaluationDataset, *, trust_pickle: bool = False) -> Annotator:
    """Open an annotator for the genes that are scored.

    Args:
        spec: `NAME`, or `NAME:PATH`.
        dataset: The slide; some annotators learn from its training cells.
        trust_pickle: Whether the user allows pickles.

    Returns:
        The annotator.

    Raises:
        CifmError: There is no such annotator, or it can't be used on this slide.
    """
    rows = sample_rows(dataset.slide.region(keys.TRAIN), dataset.seed)
    expression = dataset.slide.expression(rows, TYPING_SUM)[:, dataset.columns]
    slide = dataset.slide
    spacing_um = median_spacing_um(slide.xy_um)
    cells = UnlabelledCells(slide.name, expression, dataset.symbols, slide_tissue(slide), spacing_um)
    return open_annotator(spec, cells, trust_pickle=trust_pickle)


@dataclass(frozen=True)
class TypeAgreement:
    """How far the types of some expression agree with the types of the actual expression of the same cells."""

    accuracy: float  # fraction of the typed cells that get the same type
    balanced_accuracy: float  # the same, averaged over the actual types instead of the cells
    # fraction of the typed cells that get a type of the same lineage, such as another kind of T cell or B cell
    lineage_accuracy: float
    # for k = 1, 2, ..., the fraction of the k likeliest types that both have in common, averaged over cells; empty for
    # annotators without probabilities
    top_k: tuple[float, ...]
    log_loss: float | None  # mean of -log P(actual type), in nats; None without probabilities
    confidence: float  # mean probability of the likeliest type
    assigned: float  # fraction of the typed cells that get any type
    same: NDArray[np.bool_]  # (n,) whether each typed cell gets the same type

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`, without the single cells."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "lineage_accuracy": self.lineage_accuracy,
            "top_k": list(self.top_k),
            "log_loss": self.log_loss,
            "confidence": self.confidence,
            "assigned": self.assigned,
        }


@dataclass(frozen=True)
class CellTypes:
    """Types of the scored cells, and the agreement of every predictor with them."""

    annotator: Annotator  # assigns the types
    dataset: EvaluationDataset
    rows: Rows  # (Q,) scored rows
    bootstrap: Bootstrap  # of the scored cells
    typed: NDArray[np.bool_]  # (Q,) whether the annotator assigns a type to the actual expression
    actual: Annotation  # types of the n typed cells
    # agreement of the typed cells with themselves after half of their counts are removed: what noise allows
    ceiling: TypeAgreement
    # predictor, then form, to its agreement with the actual types
    agreement: dict[str, dict[str, TypeAgreement]] = field(default_factory=dict)

    @property
    def confidence(self) -> float:
        """Mean probability of the likeliest type of the actual cells; 0 where none has a type."""
        return float(self.actual.confidence.mean()) if self.typed.any() else 0.0

    @property
    def chance_top_k(self) -> list[float]:
        """Expected overlap of two random rankings of the types, for each k."""
        num_types = len(self.actual.names) - 1
        return [k / num_types for k in range(1, min(MAX_K, num_types) + 1)]

    def compare(self, forms: Mapping[str, Values]) -> dict[str, TypeAgreement]:
        """Type (Q, P) log-normalised predictions or samples of each form and compare with the actual types."""
        agreement = {}
        for form, values in forms.items():
            expression = csr_matrix(values[self.typed])
            if self.dataset.target_sum != TYPING_SUM:
                scale = TYPING_SUM / self.dataset.target_sum
                expression.data = np.log1p(np.expm1(expression.data) * scale)
            agreement[form] = compare_types(self.actual, self.annotator.annotate(expression, self.dataset.symbols))
        return agreement

    def sample_counts(self, prediction: Prediction, targets: Targets, predictor: str) -> Values:
        """Sample Poisson counts around the expected composition of a prediction, at the depth of each cell.

        A mean contains a little of every gene and no noise, unlike any cell; sampled counts have the noise of a
        measurement. Each predictor has samples of its own. Returns (Q, P) log-normalised expression.
        """
        generator = numpy_generator(self.dataset.seed, "drawn counts", predictor)
        depth = np.asarray(targets.counts.sum(axis=1))
        counts = generator.poisson(expected_composition(prediction, slice(None), targets) * depth)
        scale = self.dataset.target_sum / np.maximum(self.dataset.slide.total_counts[self.rows], 1.0)
        expression: Values = np.log1p(counts * scale[:, None]).astype(np.float32)
        return expression

    def paired(self, model: str, baselines: Sequence[str]) -> dict[str, Any]:
        """Accuracy of the better form of a model minus that of the best baseline.

        Sampled forms do not take part: a sample can be lucky, and baselines have no cell states to sample from.
        """
        best = {
            name: max(
                ((form, found) for form, found in self.agreement[name].items() if form in POINT_FORMS),
                key=lambda pair: pair[1].accuracy,
            )
            for name in (model, *baselines)
        }
        best_baseline = max(baselines, key=lambda name: best[name][1].accuracy)
        (model_form, ours), (form, theirs) = best[model], best[best_baseline]
        difference = self.bootstrap.compare(self._accuracy(ours), self._accuracy(theirs))
        return {
            "best_baseline": best_baseline,
            "form": form,
            "model_form": model_form,
            "difference": difference.difference,
            "low": difference.low,
            "high": difference.high,
        }

    def _accuracy(self, agreement: TypeAgreement) -> Statistic:
        same = np.zeros(len(self.typed))
        same[self.typed] = agreement.same
        return Statistic(agreement.accuracy, self.bootstrap.ratio(same, self.typed.astype(np.float64)))

    def to_json(self) -> dict[str, Any]:
        """For `metrics.json`: actual types, confidence, ceiling, and the agreement of each predictor."""
        composition = zip(self.actual.names, self.actual.composition().tolist(), strict=True)
        return {
            "num_typed": int(self.typed.sum()),
            "types": {name: number for name, number in composition if number},
            "confidence": self.confidence,
            "ceiling": self.ceiling.to_json(),
            "chance_top_k": self.chance_top_k,
            "agreement": {
                name: {form: agreement.to_json() for form, agreement in forms.items()}
                for name, forms in self.agreement.items()
            },
        }


def type_cells(annotator: Annotator, dataset: EvaluationDataset, rows: Rows, bootstrap: Bootstrap) -> CellTypes:
    """Type the scored cells from their actual expression, and from half of their counts."""
    expression = dataset.slide.expression(rows, TYPING_SUM)[:, dataset.columns]
    annotation = annotator.annotate(expression, dataset.symbols)
    typed = annotation.codes != len(annotation.names) - 1
    actual = annotation.take(typed)
    counts, _ = split_counts(dataset.slide.counts(rows[typed]), dataset.seed)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    half = log_normalise(counts, depth, TYPING_SUM)[:, dataset.columns]
    ceiling = compare_types(actual, annotator.annotate(half, dataset.symbols))
    return CellTypes(annotator, dataset, rows, bootstrap, typed, actual, ceiling)


def compare_types(actual: Annotation, predicted: Annotation) -> TypeAgreement:
    """Compare the types of actual and predicted expression of the same cells; zeros where there are no cells."""
    same = predicted.codes == actual.codes
    lineages = np.array([lineage_of(name) for name in actual.names], dtype=object)
    recalls = [same[actual.codes == code].mean() for code in np.unique(actual.codes)]
    top_k: tuple[float, ...] = ()
    log_loss = None
    ours, theirs = actual.log_probabilities, predicted.log_probabilities
    if ours is not None and theirs is not None and len(same):
        top_k = top_k_overlap(ours[:, :-1], theirs[:, :-1])
        own = theirs[np.arange(len(same)), actual.codes]
        log_loss = float(-np.maximum(own, np.log(MIN_PROBABILITY)).mean())
    return TypeAgreement(
        accuracy=_mean(same),
        balanced_accuracy=_mean(np.array(recalls)),
        lineage_accuracy=_mean(lineages[predicted.codes] == lineages[actual.codes]),
        top_k=top_k,
        log_loss=log_loss,
        confidence=_mean(predicted.confidence),
        assigned=_mean(predicted.codes != len(predicted.names) - 1),
        same=same,
    )


def top_k_overlap(ours: Values, theirs: Values) -> tuple[float, ...]:
    """Fraction of the k likeliest types that two rankings have in common, for k = 1 to 10 or to the number of types.

    Equally likely types are ordered at random on each side, and the fraction is the expected one. Otherwise types of
    negligible probability would agree by their position in the table.

    Args:
        ours: (n, T) weights of the types, such as log probabilities.
        theirs: (n, T) weights for other expression of the same cells.

    Returns:
        The fraction for each k, averaged over cells.
    """
    max_k = min(MAX_K, ours.shape[1])
    first, second = _inclusion(ours, max_k), _inclusion(theirs, max_k)
    return tuple(float((first[k] * second[k]).sum(axis=1).mean() / (k + 1)) for k in range(max_k))


def _inclusion(weights: Values, max_k: int) -> list[NDArray[np.float64]]:
    """For k = 1 to `max_k`, (n, T) the probability that a type is among the first k, ties in random order."""
    descending = -np.sort(-weights, axis=1)
    inclusion = []
    for k in range(1, max_k + 1):
        last = descending[:, k - 1, None]
        above, tied = weights > last, weights == last
        places = (k - above.sum(axis=1, keepdims=True)) / tied.sum(axis=1, keepdims=True)
        inclusion.append(np.where(above, 1.0, np.where(tied, places, 0.0)))
    return inclusion


def _mean(values: NDArray[Any]) -> float:
    """The mean; 0 of nothing."""
    return float(values.mean()) if len(values) else 0.0
