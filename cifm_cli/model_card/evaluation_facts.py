"""What a model card says about the evaluation of a model, from the content of `metrics.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIMARY: Final = "mse"  # the measure that the verdict is about
COLUMNS: Final = {  # of the table
    "mse": "squared error",
    "pearson_gene": "Pearson per gene",
    "spearman_cell": "Spearman per cell",
    "auroc": "AUROC of expressed",
}


@dataclass(frozen=True)
class ScoreRow:
    """The scores of a predictor on a slide, in the form with the lower squared error."""

    slide: str
    geometry: str
    num_cells: int  # hidden and scored
    region: str
    predictor: str
    form: str
    scores: tuple[float | None, ...]  # in the order of `COLUMNS`


@dataclass(frozen=True)
class EvaluationFacts:
    """The evaluation of one model."""

    sentence: str  # the verdict
    remarks: tuple[str, ...]
    rows: tuple[ScoreRow, ...]  # the model, then its best baseline, for each slide and geometry
    adapt: str  # how the model was adapted to each slide

    @property
    def scored(self) -> dict[str, int]:
        """Number of scored cells of each slide, geometry and region."""
        return {f"{row.slide}, {row.geometry}, {row.region}": row.num_cells for row in self.rows}


def read_evaluation_facts(metrics: Mapping[str, Any], name: str) -> EvaluationFacts | None:
    """Pick what a card says about a model.

    Args:
        metrics: The content of `metrics.json`.
        name: The name of the model in it: `model` for the first one.

    Returns:
        The facts; None for a further model of an evaluation on several slides, about which there is no verdict.
    """
    verdict = metrics["verdict"]
    if name not in verdict["sentences"]:
        return None
    rows = []
    for slide, of_slide in metrics["slides"].items():
        for geometry, found in of_slide["geometries"].items():
            facts = verdict["models"][name].get(geometry)  # none for a geometry that the first slide lacks
            rows += [
                _row(slide, geometry, of_slide["region"], predictor, found)
                for predictor in ((name, facts["best_baseline"]) if facts else ())
            ]
    return EvaluationFacts(
        sentence=verdict["sentences"][name],
        remarks=tuple(verdict["remarks"]),
        rows=tuple(rows),
        adapt=str(metrics["provenance"].get("adapt", "none")),
    )


def _row(slide: str, geometry: str, region: str, predictor: str, found: Mapping[str, Any]) -> ScoreRow:
    forms = found["predictors"][predictor]
    form = min(forms, key=lambda name: forms[name][PRIMARY] or 0.0)
    scores = tuple(forms[form].get(metric) for metric in COLUMNS)
    return ScoreRow(slide, geometry, found["num_cells"], region, predictor, form, scores)
