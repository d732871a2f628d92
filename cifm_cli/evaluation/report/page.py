"""The HTML page of an evaluation: pictures and the comparison first, then where the model errs, then all predictors."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli import keys
from cifm_cli.evaluation.comparison import MEAN, favours_model
from cifm_cli.evaluation.metrics.calibration import by_distance, distance_bins
from cifm_cli.evaluation.predictors.base import MODEL
from cifm_cli.evaluation.report.tables import (
    ceiling_table,
    cell_type_table,
    describe,
    describe_cell_types,
    describe_overall,
    describe_states,
    gene_set_table,
    leading_predictors,
    leading_table,
    overall_table,
    paired_table,
    score_table,
    state_table,
)
from cifm_cli.evaluation.transfer import describe_transfer
from cifm_cli.evaluation.verdict import DECISIONS, describe_decision, headline
from cifm_cli.report import plots
from cifm_cli.report.gene_panels import paired_maps
from cifm_cli.report.html import Image, Section, draw_image
from cifm_cli.report.palette import COLOURS
from cifm_cli.report.small_multiples import Panel, draw_panels
from cifm_cli.report.table import Table
from cifm_cli.statistics.bootstrap import percentile_interval

if TYPE_CHECKING:
    from cifm_cli.evaluation.evaluator import EvaluationResult
    from cifm_cli.evaluation.metrics.cell_types import CellTypes

_DISTANCE_COLUMNS: Final = ("mse", "pearson")  # of `per_cell`
_COLUMN_NAMES: Final = {"mse": "squared error", "pearson": "Pearson per cell"}
# The first model, further ones, and baselines in the order of their squared error
_MODEL_COLOUR: Final = COLOURS[3]
_FURTHER_COLOURS: Final = (COLOURS[1], COLOURS[5], COLOURS[6])
_BASELINE_COLOURS: Final = ("#5F6F9C", "#8A949E", "#A08C6C")
_MIN_BIN: Final = 20  # cells of a point of the curves over distance
_NUM_EXTREME: Final = 10  # best and worst genes that are listed
_PANELS: Final = (
    "The model beside the three baselines with the smallest squared error, each in its better form, with its 95 % interval over "
    "blocks of tissue. The line is at the model. Below the name of a measure: whether a difference to the best baseline is "
    "shown. All other predictors are at the end of the page."
)
_LEADING: Final = (
    "The models and the three best baselines by squared error, each in its better form: the values of the panels above."
)
_FORMS: Final = "Both forms of every predictor (see the last section). A constant has correlation 0."
_MAPS: Final = (
    "The genes that the model predicts with the highest, the median and the lowest correlation over cells, among those that "
    "at least 5 % of the cells express. Both maps of a gene have one colour scale."
)
_CEILING: Final = (
    "Counts are few: each cell's counts are divided at random into two halves, and one half predicts the other. The "
    "ceiling is about what a predictor that knew every cell's true profile would reach."
)
_GENE_SETS: Final = (
    "Genes chosen on the training cells: those that differ most between groups of cells, and the most variable."
)
_STATES: Final = (
    "The probability of the actual state of each hidden cell (log loss, perplexity), and the distance of real cells "
    "sampled from the distribution to the hidden one (energy score); lower is better. neighbours: the tuned frequencies "
    "of the states of the visible cells around, and these cells themselves. The last lines have the model minus the "
    "better of the two others, with its interval, and relative to that one. Confidence is the probability of the likeliest state, accuracy how often "
    "it is the actual one: a calibrated distribution has the same value for both."
)
_CELL_TYPES: Final = (
    "Each cell is typed by its actual expression and by what was predicted for it; unassigned predictions disagree. "
    "The ceiling is the same cell with half of its counts removed: the agreement that noise allows. drawn: "
    "counts sampled around the prediction, at the cell's own depth. sampled: a real cell of a state sampled from the "
    "model. Top 3: fraction of the three likeliest types in common. Confidence: mean probability of the likeliest type."
)


def sections(result: EvaluationResult, facts: dict[str, Any]) -> list[Section]:
    """The part of the page about one slide and geometry; `facts` is what `metrics.json` contains about the slide."""
    title = f"{result.dataset.slide.name}, {result.geometry}"
    comparison, bootstrap = result.comparison, result.bootstrap
    blocks = f"{bootstrap.num_blocks} spatial blocks of {bootstrap.side_um:.0f} µm"
    setting = (
        f"{describe(result, facts['region'])}.\n\n{_setting(result, facts)}\n\nEach side in its better form. Intervals: "
        f"paired bootstrap over {blocks}."
    )
    errors = [_error_map(result), *(_by_distance(result, column) for column in _DISTANCE_COLUMNS), _reliability(result)]
    return [
        Section(f"{title}: the model and the best baselines", _PANELS, images=[_panels(result)]),
        *_gene_maps(result, title),
        Section(f"{title}: the model against the best baseline", setting, paired_table(comparison)),
        *(
            Section(
                f"{title}: {name} against {reference or 'the best baseline'}",
                "",
                paired_table(comparison, name, reference),
            )
            for name in comparison.further_models()
            for reference in (None, MODEL)
        ),
        Section(f"{title}: where the model errs", images=errors),
        Section(f"{title}: values of the best baselines", _LEADING, leading_table(result), folded=True),
        *(
            Section(f"{title}: {describe_states(name, states)}", _STATES, state_table(states))
            for name, states in result.states.items()
        ),
        *([cell_type_section(result.cell_types, title)] if result.cell_types else []),
        Section(f"{title}: all predictors", _FORMS, score_table(result), folded=True),
        Section(f"{title}: best and worst genes", "", _gene_table(result), folded=True),
        *(
            [Section(f"{title}: gene sets", _GENE_SETS, gene_set_table(result), folded=True)]
            if result.gene_sets
            else []
        ),
        Section(f"{title}: the limit that noise sets", _CEILING, ceiling_table(result), folded=True),
    ]


def _gene_maps(result: EvaluationResult, title: str) -> list[Section]:
    """Measured and predicted expression of a few genes on the tissue."""
    if not result.shown:
        return []
    genes, values = result.shown[0]
    correlation = result.scores[MODEL][MEAN].per_gene["pearson"]
    names = [f"{result.dataset.symbols[gene]} (r = {correlation[gene]:.2f})" for gene in genes]
    draw = partial(paired_maps, result.dataset.slide.xy_um[result.rows], result.targets.values[:, genes], values, names)
    caption = f"measured and predicted expression of the hidden cells: {', '.join(names)}"
    return [Section(f"{title}: measured and predicted", _MAPS, images=[draw_image(draw, caption)])]


def _colours(result: EvaluationResult) -> dict[str, str]:
    """Colours of the models and of the leading baselines."""
    comparison = result.comparison
    models = dict(zip(comparison.further_models(), _FURTHER_COLOURS, strict=False))
    baselines = [name for name in leading_predictors(comparison) if name not in (MODEL, *comparison.further_models())]
    return {MODEL: _MODEL_COLOUR, **models, **dict(zip(baselines, _BASELINE_COLOURS, strict=False))}


def overall_section(geometry: str, paired: dict[str, dict[str, Any]]) -> Section:
    """The model against the best baseline over several slides; `paired` is metric to comparison."""
    pair = next(iter(paired.values()))
    resampled = "slides" if pair["num_groups"] == pair["num_slides"] else f"the {pair['num_groups']} groups of slides"
    return Section(
        describe_overall(geometry, paired),
        f"Mean difference over slides, the model minus the best baseline. Intervals: {resampled} are resampled, then blocks "
        "within each slide.",
        overall_table(paired),
    )


def _setting(result: EvaluationResult, facts: dict[str, Any]) -> str:
    """Which cells were scored and tuned on, and how the slide relates to each model: a paragraph for each."""
    region, num_scored = facts["region"], len(result.rows)
    num_cells = len(result.dataset.slide.region(region))
    where = f"the {num_cells:,} cells of " + ("the slide" if region == keys.ALL else f"its {region} region")
    left_out = " Cells that were tuned on are not scored." if region == keys.ALL else ""
    text = f"Scored: {num_scored:,} of {where}. All predictors were tuned on its {facts['tuned_on']} region.{left_out}"
    if num_scored < num_cells:
        text += " The intervals are about the cells that were scored, not about the others."
    return "\n\n".join([text, *(f"{name}: {describe_transfer(found)}." for name, found in facts["scenario"].items())])


def _panels(result: EvaluationResult) -> Image:
    """All measures of the leading predictors in their better forms, a panel for each measure."""
    comparison = result.comparison
    names = leading_predictors(comparison)
    panels = []
    for metric, pair in comparison.all_paired().items():
        best = [comparison.best(name, metric) for name in names]
        decision = favours_model(pair, metric)
        panels.append(
            Panel(
                headline(metric),
                [score.metrics[metric] for score in best],
                [percentile_interval(score.draws[metric]) for score in best],
                f"{MODEL}: {DECISIONS[decision]}",
                decision is not None,
            )
        )
    title = f"{result.dataset.slide.name}, {result.geometry}: ↓ lower is better, ↑ higher is better"
    decided = ", ".join(
        f"{headline(metric)} {describe_decision(pair, metric)}" for metric, pair in comparison.all_paired().items()
    )
    return draw_image(
        partial(draw_panels, names, panels, title, _colours(result)),
        f"Measures of the model and of {', '.join(names[1:])}. The model against the best baseline: {decided}.",
    )


def _by_distance(result: EvaluationResult, column: str) -> Image:
    """A score of the mean forms against the distance to the nearest visible cell."""
    edges_um, position = distance_bins(result.distance_um, result.dataset.radius_um)
    means = {name: result.scores[name][MEAN] for name in leading_predictors(result.comparison)}
    binned = by_distance(means, edges_um, position)
    number = binned["num_cells"]
    distance_um = (np.bincount(position, weights=result.distance_um) / number).tolist()
    # The mean of a few cells is noise, and would be read as an effect of the distance.
    is_drawn = np.array(number) >= _MIN_BIN
    series = {
        name: np.where(is_drawn, columns[column], np.nan).tolist() for name, columns in binned["predictors"].items()
    }
    name = _COLUMN_NAMES[column]
    title = f"{name} by distance"
    x_label = "distance to the nearest visible cell, µm"
    colours = _colours(result)
    draw = partial(plots.curves, distance_um, series, title, x_label=x_label, y_label=name, colours=colours)
    cells = ", ".join(f"{count:,}" for count in number)
    caption = f"{title} to the nearest visible cell, mean forms; cells in the bins: {cells}"
    return draw_image(draw, caption if is_drawn.all() else f"{caption}. Bins of fewer than {_MIN_BIN} are not drawn")


def _reliability(result: EvaluationResult) -> Image:
    """Predicted probability and observed frequency of expression."""
    calibration = result.calibration[MODEL]
    predicted, actual = calibration["reliability"]["predicted"], calibration["reliability"]["actual"]
    series = {"expressed": actual, "perfect": predicted}
    title = "calibration of P(expressed)"
    colours, y_label = {"expressed": _MODEL_COLOUR}, "fraction expressed"
    caption = (
        "Fraction of entries that are expressed, by the predicted one: on the grey line, probabilities can be taken at their "
        f"word; mean error {calibration['ece']:.4f}"
    )
    return draw_image(
        partial(
            plots.curves, predicted, series, title, x_label="predicted probability", y_label=y_label, colours=colours
        ),
        caption,
    )


def _error_map(result: EvaluationResult) -> Image:
    """Squared error of the model minus that of the best baseline, on the tissue."""
    comparison = result.comparison
    baseline = comparison.best_baseline("mse")
    model, reference = (comparison.best(name, "mse").per_cell["mse"] for name in (MODEL, baseline))
    difference = model - reference
    # The colour scale ends at a percentile: a few cells with very large errors would make all others pale.
    limit = float(np.percentile(np.abs(difference), 95)) or 1.0
    title = f"squared error: model minus {baseline}"
    draw = partial(
        plots.tissue_map,
        result.dataset.slide.xy_um[result.rows],
        difference,
        title,
        label="blue: the model is better",
        limits=(-limit, limit),
    )
    return draw_image(draw, f"{title}, cell by cell; blue where the model is better, red where the baseline is")


def _gene_table(result: EvaluationResult) -> Table:
    """Genes that the model predicts best and worst, among those that are expressed at all."""
    baseline = result.comparison.best_baseline("pearson_gene")
    model, reference = (result.scores[name][MEAN].per_gene["pearson"] for name in (MODEL, baseline))
    expressed = np.flatnonzero(result.targets.by_gene.any(axis=1))
    order = expressed[np.argsort(-model[expressed], kind="stable")]
    extreme = np.unique(np.concatenate([order[:_NUM_EXTREME], order[-_NUM_EXTREME:]]))
    symbols = result.dataset.symbols
    rows = [
        [symbols[gene], f"{model[gene]:.3f}", f"{reference[gene]:.3f}"]
        for gene in sorted(extreme, key=lambda gene: -model[gene])
    ]
    return Table(["best and worst genes", "Pearson, model", baseline], rows)


def cell_type_section(types: CellTypes, title: str) -> Section:
    """Agreement of cell types, and the overlap of the k likeliest types of the mean forms."""
    images = []
    if types.ceiling.top_k:
        series = {name: forms[MEAN].top_k for name, forms in types.agreement.items()}
        series |= {"ceiling": types.ceiling.top_k, "chance": tuple(types.chance_top_k)}
        caption = "fraction of the k likeliest types in common"
        k = [float(number + 1) for number in range(len(types.chance_top_k))]
        draw = partial(plots.curves, k, series, caption, x_label="k", y_label="overlap")
        images = [draw_image(draw, f"{caption}, mean forms")]
    return Section(f"{title}: {describe_cell_types(types)}", _CELL_TYPES, cell_type_table(types), images)
