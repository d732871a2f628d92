"""Whether predicted and actual expression of a cell are given the same cell type (paper, section 4).

Letters: Q scored cells, P scored genes, T types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.celltype.annotate import draw_rows
from cifm_cli.celltype.base import TYPING_SUM, UnlabelledCells
from cifm_cli.celltype.registry import open_annotator
from cifm_cli.data.slide import log_normalise
from cifm_cli.evaluation.ceiling import halves
from cifm_cli.evaluation.deviance import count_shares
from cifm_cli.evaluation.intervals import interval
from cifm_cli.evaluation.type_overlap import LARGEST_K, compare_types
from cifm_cli.provenance import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.base import Annotation, Annotator
    from cifm_cli.data.slide import Rows
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.context import Estimate
    from cifm_cli.evaluation.intervals import Resampler
    from cifm_cli.evaluation.truth import Truth
    from cifm_cli.evaluation.type_overlap import Agreement

POINT_FORMS: Final = ("mean", "gated")


def find_annotator(wanted: str, bench: Bench, *, trust_pickle: bool = False) -> Annotator:
    """Open the annotator a user named, for the genes that are scored.

    Args:
        wanted: `NAME`, or `NAME:PATH`.
        bench: The slide and what is scored; some annotators learn from its training cells.
        trust_pickle: Whether the user vouches for pickles.

    Returns:
        The annotator.

    Raises:
        CifmError: There is no such annotator, or it can't be used on this slide.
    """
    rows = draw_rows(bench.slide.region(keys.TRAIN), bench.seed)
    expression = bench.slide.expression(rows, TYPING_SUM)[:, bench.columns]
    return open_annotator(
        wanted, UnlabelledCells(bench.slide.name, expression, bench.symbols), trust_pickle=trust_pickle
    )


@dataclass(frozen=True)
class Types:
    """The types of the scored cells, from their actual expression, and what predictors make of them.

    Args:
        annotator: Who says so.
        bench: The slide and what is scored.
        rows: (Q,) scored rows.
        resampler: Blocks of the scored cells.
        typed: (Q,) whether the cell has a type at all.
        actual: Of the n typed cells.
        ceiling: Of the typed cells with half of their counts taken away: what noise alone leaves of the agreement.
        found: Predictor, then form, to its agreement with the actual types.
    """

    annotator: Annotator
    bench: Bench
    rows: Rows
    resampler: Resampler
    typed: NDArray[np.bool_]
    actual: Annotation
    ceiling: Agreement
    found: dict[str, dict[str, Agreement]] = field(default_factory=dict)

    @property
    def confidence(self) -> float:
        """Mean probability of the likeliest type of the actual cells, 0 where none has a type."""
        return float(self.actual.confidence.mean()) if self.typed.any() else 0.0

    @property
    def chance_top_k(self) -> list[float]:
        """What two random rankings of the types have in common, for each k."""
        num_types = len(self.actual.names) - 1
        return [k / num_types for k in range(1, min(LARGEST_K, num_types) + 1)]

    def compare(self, predictor: str, forms: Mapping[str, NDArray[np.float32]]) -> None:
        """Type what a predictor says, and keep how far that agrees with the actual types.

        Args:
            predictor: Its name.
            forms: By name, (Q, P) log-normalised predictions or cells sampled from them.
        """
        for form, values in forms.items():
            expression = csr_matrix(values[self.typed])
            if self.bench.target_sum != TYPING_SUM:
                expression.data = np.log1p(np.expm1(expression.data) * (TYPING_SUM / self.bench.target_sum))
            types = self.annotator.annotate(expression, self.bench.symbols)
            self.found.setdefault(predictor, {})[form] = compare_types(self.actual, types)

    def draw_counts(self, estimate: Estimate, truth: Truth, predictor: str) -> NDArray[np.float32]:
        """Draw Poisson counts around a prediction's expected shares, at each cell's own depth.

        A mean shows a little of every gene and no noise, as no cell does; what is drawn has the noise of a measurement.

        Args:
            estimate: (Q, P) prediction.
            truth: What was hidden; its depth alone is used.
            predictor: Who predicts; each draws by itself.

        Returns:
            (Q, P) log-normalised.
        """
        generator = numpy_generator(self.bench.seed, "drawn counts", predictor)
        depth = np.asarray(truth.counts.sum(axis=1))
        drawn = generator.poisson(count_shares(estimate, slice(None), truth) * depth)
        scale = self.bench.target_sum / np.maximum(self.bench.slide.total_counts[self.rows], 1.0)
        expression: NDArray[np.float32] = np.log1p(drawn * scale[:, None]).astype(np.float32)
        return expression

    def paired(self, model: str, baselines: Sequence[str]) -> dict[str, Any]:
        """Accuracy of a model's better form minus that of the best baseline's, mean or gated, with its 95 % interval.

        Args:
            model: Its name.
            baselines: Names to beat.

        Returns:
            As `paired` of the other metrics.
        """
        sides = {
            name: max(self._estimates(name).items(), key=lambda side: side[1].accuracy) for name in (model, *baselines)
        }
        rival = max(baselines, key=lambda name: sides[name][1].accuracy)
        (our_form, ours), (their_form, theirs) = sides[model], sides[rival]
        low, high = interval(self._draws(ours), self._draws(theirs))
        return {
            "best_baseline": rival,
            "form": their_form,
            "model_form": our_form,
            "difference": ours.accuracy - theirs.accuracy,
            "low": low,
            "high": high,
        }

    def _estimates(self, predictor: str) -> dict[str, Agreement]:
        """Its forms that are no draw: nobody wins by a draw of luck, or by a form that others don't have."""
        return {form: found for form, found in self.found[predictor].items() if form in POINT_FORMS}

    def _draws(self, found: Agreement) -> NDArray[np.float64]:
        """(R,) accuracy in each draw of blocks."""
        same = np.zeros(len(self.typed))
        same[self.typed] = found.same
        return self.resampler.ratio(same, self.typed.astype(np.float64))

    def facts(self) -> dict[str, Any]:
        """For `metrics.json`: what the scored cells are, how surely, the best to be expected, and what was reached."""
        composition = zip(self.actual.names, self.actual.composition().tolist(), strict=True)
        return {
            "num_typed": int(self.typed.sum()),
            "types": {name: number for name, number in composition if number},
            "confidence": self.confidence,
            "ceiling": self.ceiling.facts(),
            "chance_top_k": self.chance_top_k,
            "agreement": {
                name: {form: found.facts() for form, found in forms.items()} for name, forms in self.found.items()
            },
        }


def actual_types(annotator: Annotator, bench: Bench, rows: Rows, resampler: Resampler) -> Types:
    """Type cells from their actual expression, and from half of their counts.

    Args:
        annotator: Who says so.
        bench: The slide and what is scored.
        rows: (Q,) scored rows.
        resampler: Blocks of these.

    Returns:
        Their types.
    """
    expression = bench.slide.expression(rows, TYPING_SUM)[:, bench.columns]
    everyone = annotator.annotate(expression, bench.symbols)
    typed = everyone.codes != len(everyone.names) - 1
    actual = everyone.take(typed)
    counts, _ = halves(bench.slide.counts(rows[typed]), bench.seed)
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    thinned = log_normalise(counts, depth, TYPING_SUM)[:, bench.columns]
    ceiling = compare_types(actual, annotator.annotate(thinned, bench.symbols))
    return Types(annotator, bench, rows, resampler, typed, actual, ceiling)
