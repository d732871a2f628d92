"""The verdict of an evaluation: which predictor is best, and whether the model beats the best baseline, decided once.

Terminal, page, `metrics.json` and the trust lines of other commands all show this verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.evaluation.comparison import ALPHA, favours_model, undecided_reason
from cifm_cli.evaluation.metrics.expression import LOWER_IS_BETTER, METRICS
from cifm_cli.evaluation.predictors.base import MODEL, UNINFORMED, is_model
from cifm_cli.statistics.bootstrap import MIN_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PRIMARY: Final = "mse"  # the measure that all predictors are tuned by, so that none has an advantage
DECISIONS: Final = {True: "better", False: "worse", None: "no difference shown"}
# The verdict over all geometries, by the decisions in them. A model that is better in some of them only is not called better.
_OPENINGS: Final = {
    frozenset({"better"}): "predicts hidden cells better than every baseline",
    frozenset({"worse"}): "predicts hidden cells worse than the best baseline",
    frozenset({"no difference shown"}): "is not shown to predict hidden cells better or worse than the best baseline",
    frozenset(
        {"better", "no difference shown"}
    ): "predicts hidden cells better than every baseline in one way of hiding them only",
    frozenset(
        {"worse", "no difference shown"}
    ): "predicts hidden cells no better than the best baseline, and worse in one way of hiding them",
    frozenset(
        {"better", "worse"}
    ): "predicts hidden cells better or worse than the best baseline, depending on how they are hidden",
    frozenset(
        DECISIONS.values()
    ): "predicts hidden cells better or worse than the best baseline, depending on how they are hidden",
}
METRIC_NAMES: Final = {
    "mse": "squared error",
    "balanced_mse": "balanced squared error",
    "pearson_cell": "Pearson per cell",
    "spearman_cell": "Spearman per cell",
    "pearson_gene": "Pearson per gene",
    "spearman_gene": "Spearman per gene",
    "auroc": "AUROC",
    "deviance": "deviance",
    "ap": "average precision",
    "pearson_cell_centred": "Pearson per cell, centred",
    "spearman_cell_centred": "Spearman per cell, centred",
}
MEANING: Final = (
    f"Better and worse mean p < {ALPHA:g} after Holm's correction for the {len(METRICS)} measures. A constant "
    f"and random draws ({', '.join(sorted(UNINFORMED))}) are scored too, but are never the best baseline; where one of them scores better than a model, the "
    "model is not called better."
)


def describe_verdict(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Decide between the models and the best baseline.

    Args:
        metrics: The content of `metrics.json`: `slides`, and `overall` where there are several.

    Returns:
        `sentence`, the answer; `remarks`, on which measures it holds and what limits it; `sentences` and
        `trained_cells_scored` by model, its part of the answer and the number of scored cells that it was trained on; and
        `models`: model, then geometry, to the facts from which the sentences are made. Over several slides only the first model is compared.
    """
    slides = metrics["slides"]
    names = [name for name in _predictors(slides) if is_model(name)] if len(slides) == 1 else [MODEL]
    models = {name: _by_geometry(metrics, name) for name in names}
    where = next(iter(slides)) if len(slides) == 1 else f"{len(slides)} slides"
    if left_out := metrics.get("leave_out"):
        where = f"{where}, one {left_out['key']} of {left_out['num_groups']} left out at a time"
    trained = {name: sum(_trained_cells(of_slide, name) for of_slide in slides.values()) for name in names}
    sentences = {name: _sentences(name, models[name], where, trained[name]) for name in names}
    remarks = [
        *(_measures(name, facts, geometry) for name, geometry, facts in _all_facts(models)),
        *_limits(slides),
        MEANING,
    ]
    return {
        "sentence": " ".join(sentences.values()),
        "remarks": remarks,
        "sentences": sentences,
        "trained_cells_scored": trained,
        "models": models,
    }


def describe_decision(pair: dict[str, Any], metric: str) -> str:
    """The decision on one measure, with the reason where interval and p alone would suggest another.

    Args:
        pair: As for `favours_model`.
        metric: The measure.

    Returns:
        Such as `better`, or `no difference shown (corrected p not below 0.05)`.
    """
    decision, reason = DECISIONS[favours_model(pair, metric)], undecided_reason(pair, metric)
    return f"{decision} ({reason})" if reason else decision


def _sentences(name: str, facts: Mapping[str, Mapping[str, Any]], where: str, trained: int) -> str:
    """One verdict on one model over all geometries, in one sentence, and whether it had seen the cells."""
    text = _sentence(name, facts, where)
    return f"{text} {_seen(name, trained)}" if trained else text


def _trained_cells(of_slide: Mapping[str, Any], name: str) -> int:
    """Number of scored cells of a slide that a model was trained on."""
    return int(of_slide["scenario"][name]["trained_cells_scored"])


def _seen(name: str, number: int) -> str:
    """What it means that a model was trained on scored cells."""
    model = "the model" if name == MODEL else name
    return (
        f"But {model} was trained on {number:,} of the scored cells: this does not show how well it predicts cells that it has "
        "not seen."
    )


def _all_facts(models: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    return [(name, geometry, facts) for name, of_model in models.items() for geometry, facts in of_model.items()]


def _predictors(slides: Mapping[str, Any]) -> Mapping[str, Any]:
    """The predictors of the first slide and geometry; those of the others are the same."""
    predictors: Mapping[str, Any] = next(iter(next(iter(slides.values()))["geometries"].values()))["predictors"]
    return predictors


def _by_geometry(metrics: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Geometry to the facts about one model."""
    slides = list(metrics["slides"].values())
    facts = {}
    for geometry, found in slides[0]["geometries"].items():
        if len(slides) > 1:
            paired = metrics["overall"][geometry]
        else:
            paired = found["paired"] if name == MODEL else found["paired_models"][name]["best_baseline"]
        facts[geometry] = _facts(paired, [of_slide["geometries"][geometry]["predictors"] for of_slide in slides])
    return facts


def _facts(paired: Mapping[str, Any], predictors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The facts about one model and geometry; `predictors` are the scores on each slide."""
    pair = paired[PRIMARY]
    decisions = {metric: DECISIONS[favours_model(found, metric)] for metric, found in paired.items()}
    errors = {name: sum(_lowest_error(of_slide[name]) for of_slide in predictors) for name in predictors[0]}
    informed = {name: error for name, error in errors.items() if name not in UNINFORMED} or errors
    return {
        "decision": decisions[PRIMARY],
        "reason": undecided_reason(pair, PRIMARY),
        "best_predictor": min(informed, key=lambda name: informed[name]),
        "best_baseline": pair["best_baseline"],
        **{key: pair[key] for key in ("difference", "low", "high", "p_holm")},
        "percent": pair.get("percent") or _percent(pair, errors[pair["best_baseline"]] / len(predictors)),
        "measures": decisions,
        "won_by_constants": [metric for metric, found in paired.items() if found.get("constant")],
    }


def _lowest_error(forms: Mapping[str, Mapping[str, float]]) -> float:
    """Squared error of the better form of a predictor."""
    return min(scores[PRIMARY] for scores in forms.values())


def _percent(pair: Mapping[str, Any], error: float) -> dict[str, float] | None:
    """Difference and interval in percent of the error of the baseline; None if that is zero."""
    return {key: 100 * pair[key] / error for key in ("difference", "low", "high")} if error > 0 else None


def _sentence(name: str, facts: Mapping[str, Mapping[str, Any]], where: str) -> str:
    """The verdict on one model; `facts` are those of each geometry."""
    model = "the model" if name == MODEL else name
    opening = _OPENINGS[frozenset(of_geometry["decision"] for of_geometry in facts.values())]
    differences = [_difference(of_geometry, geometry) for geometry, of_geometry in facts.items()]
    listed = " and ".join([", ".join(differences[:-1]), differences[-1]] if len(differences) > 1 else differences)
    return f"{where}: {model} {opening}: its squared error {listed}."


def _difference(facts: Mapping[str, Any], geometry: str) -> str:
    """The difference from the best baseline in one geometry."""
    reason = f": {facts['reason']}" if facts["reason"] else ""
    end = f"that of {facts['best_baseline']} ({geometry}, p = {facts['p_holm']:.3f}{reason})"
    if facts["decision"] == DECISIONS[None]:
        return f"differs by {_size(facts, 1)} from {end}"
    is_better = facts["decision"] == DECISIONS[True]
    return f"is {_size(facts, -1 if is_better else 1)} {'below' if is_better else 'above'} {end}"


def _size(facts: Mapping[str, Any], sign: int) -> str:
    """The difference of the squared errors with its 95 % interval, multiplied by a sign."""
    percent = facts["percent"]
    values, unit, digits = (percent, " %", 2) if percent else (facts, "", 4)
    low, high = sorted((sign * values["low"], sign * values["high"]))
    # Where the sentence tells the direction, a plus sign would be read as part of it.
    form = "+" if facts["decision"] == DECISIONS[None] else ""
    return f"{sign * values['difference']:{form}.{digits}f}{unit} [{low:{form}.{digits}f} to {high:{form}.{digits}f}]"


def _measures(name: str, facts: Mapping[str, Any], geometry: str) -> str:
    """On which measures a model is better, on which it is worse, and which do not decide."""
    model = "The model" if name == MODEL else name
    listed = {
        decision: [METRIC_NAMES[metric] for metric, found in facts["measures"].items() if found == decision]
        for decision in DECISIONS.values()
    }
    better, worse, undecided = (listed[DECISIONS[key]] for key in (True, False, None))
    parts = [f"{model}, {geometry}: better on {len(better)} of {len(facts['measures'])} measures"]
    parts += [f"worse on {', '.join(worse)}"] if worse else []
    parts += [f"no difference shown on {', '.join(undecided)}"] if undecided else []
    constants = ", ".join(METRIC_NAMES[metric] for metric in facts["won_by_constants"])
    parts += (
        [f"a constant or random draws score better than it on {constants}, so that says little"] if constants else []
    )
    return f"{'; '.join(parts)}. Best predictor by squared error: {facts['best_predictor']}."


def _limits(slides: Mapping[str, Any]) -> list[str]:
    """What limits the meaning of the verdict."""
    limits = []
    for name, of_slide in slides.items():
        few = [
            f"{geometry} ({found['blocks']['num']})"
            for geometry, found in of_slide["geometries"].items()
            if found["blocks"]["num"] < MIN_BLOCKS
        ]
        if few:
            limits.append(
                f"{name}: too few spatial blocks to decide anything: {', '.join(few)}; {MIN_BLOCKS} are needed."
            )
        limits += [f"{name}: {warning}." for warning in of_slide["warnings"]]
    return limits


def headline(metric: str) -> str:
    """Name of a measure, with an arrow towards its better values."""
    return f"{METRIC_NAMES[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}"
