"""Results as tables and short descriptions, for the terminal and the HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cifm_cli.evaluation.comparison import favours_model
from cifm_cli.evaluation.metrics.expression import LOWER_IS_BETTER, METRICS
from cifm_cli.evaluation.predictors.base import MODEL
from cifm_cli.evaluation.verdict import PRIMARY, describe_decision, headline
from cifm_cli.report.table import Table

if TYPE_CHECKING:
    from cifm_cli.evaluation.comparison import Comparison
    from cifm_cli.evaluation.evaluator import EvaluationResult
    from cifm_cli.evaluation.metrics.cell_states import StateResult
    from cifm_cli.evaluation.metrics.cell_types import CellTypes, TypeAgreement

_NUM_BASELINES: Final = 3  # in tables of the leading predictors
_GENE_SET_METRICS: Final = ("mse", "pearson_cell", "spearman_cell", "pearson_gene", "auroc", "deviance")
# Key, headline, format, and which value is best. Confidence is best where it equals accuracy, so none is marked.
_STATE_COLUMNS: Final = (
    ("log_loss", "log loss ↓", "{:.4f}", min),
    ("perplexity", "perplexity ↓", "{:.2f}", min),
    ("energy_score", "energy score ↓", "{:.3f}", min),
    ("accuracy", "accuracy ↑", "{:.3f}", max),
    ("mean_confidence", "confidence", "{:.3f}", None),
    ("calibration_error", "calibration error ↓", "{:.3f}", min),
)
_STATE_DIFFERENCES: Final = (
    ("model - the better of the others", "{difference:+.3f}"),
    ("its 95 % interval", "[{low:+.3f}, {high:+.3f}]"),
    ("relative", "{relative:+.1%} of {rival}"),
)


def describe(result: EvaluationResult, region: str) -> str:
    """What was scored, in one line."""
    num_scored, num_cells = len(result.rows), len(result.dataset.slide.region(region))
    of_all = f" (of {num_cells:,})" if num_scored < num_cells else ""
    return (
        f"{result.dataset.slide.name}, {region} region, {result.geometry}: {num_scored:,} hidden cells{of_all} x "
        f"{result.dataset.num_genes:,} genes, {result.fold_number.max() + 1} rounds"
    )


def result_tables(result: EvaluationResult, region: str) -> list[tuple[str, Table]]:
    """Title and content of all tables that the terminal shows of a slide and geometry."""
    comparison, bootstrap = result.comparison, result.bootstrap
    blocks = f"{bootstrap.num_blocks} blocks of {bootstrap.side_um:.0f} um"
    tables = [
        (f"{describe(result, region)}; the better form of each predictor", leading_table(result)),
        (f"{MODEL} minus the best baseline, bootstrap over {blocks}", paired_table(comparison)),
    ]
    for name in comparison.further_models():
        tables.append((f"{name} minus the best baseline", paired_table(comparison, name)))
        tables.append((f"{name} minus {MODEL}", paired_table(comparison, name, MODEL)))
    tables += [(describe_states(name, states), state_table(states)) for name, states in result.states.items()]
    if result.cell_types:
        tables.append((describe_cell_types(result.cell_types), cell_type_table(result.cell_types)))
    return tables


def leading_predictors(comparison: Comparison) -> list[str]:
    """The models, and the best baselines by squared error."""
    baselines = sorted(comparison.real_baselines(), key=lambda name: comparison.best(name, PRIMARY).cost(PRIMARY))
    return [MODEL, *comparison.further_models(), *baselines[:_NUM_BASELINES]]


def leading_table(result: EvaluationResult) -> Table:
    """Measures of the models and of the best baselines, each in its better form; the best value of each is marked."""
    comparison = result.comparison
    names = leading_predictors(comparison)
    rows: list[list[str]] = []
    best: list[tuple[int, int]] = []
    for metric in METRICS:
        scores = [comparison.best(name, metric) for name in names]
        top = min(score.cost(metric) for score in scores)
        best += [(len(rows), column) for column, score in enumerate(scores, start=1) if score.cost(metric) == top]
        rows.append([headline(metric), *(_number(score.metrics[metric], metric) for score in scores)])
    return Table(["measure", *names], rows, best)


def score_table(result: EvaluationResult) -> Table:
    """Metrics of every predictor and form; the best value of each metric is marked."""
    scores = [(name, form, score.metrics) for name, forms in result.scores.items() for form, score in forms.items()]
    rows = [
        [f"{name}, {form}", *(_number(metrics[metric], metric) for metric in METRICS)] for name, form, metrics in scores
    ]
    best = []
    for column, metric in enumerate(METRICS, start=1):
        choose = min if metric in LOWER_IS_BETTER else max
        top = choose(metrics[metric] for *_, metrics in scores)
        best += [(row, column) for row, (*_, metrics) in enumerate(scores) if metrics[metric] == top]
    return Table(["predictor", *(headline(metric) for metric in METRICS)], rows, best)


def paired_table(comparison: Comparison, model: str = MODEL, reference: str | None = None) -> Table:
    """Better form of a model minus that of a reference (the best baseline when absent), metric by metric.

    Differences in favour of the model are marked.
    """
    rows, best = [], []
    for position, (metric, pair) in enumerate(comparison.all_paired(model, reference).items()):
        rows.append(
            [
                headline(metric),
                f"{pair['difference']:+.4f}",
                f"[{pair['low']:+.4f}, {pair['high']:+.4f}]",
                describe_decision(pair, metric),
                f"{pair['p_holm']:.3f}",
                pair["model_form"],
                f"{reference or pair['best_baseline']}, {pair['form']}",
            ]
        )
        if favours_model(pair, metric):
            best.append((position, 1))
    return Table(
        ["measure", "difference", "95 % interval", f"{model} is", "p (Holm)", "its form", "against"], rows, best
    )


def gene_set_table(result: EvaluationResult) -> Table:
    """The model beside the best baseline on each gene set."""
    rows = []
    for name, gene_set in result.gene_sets.items():
        for metric in _GENE_SET_METRICS:
            pair = gene_set.comparison.paired(metric)
            value = gene_set.comparison.best(MODEL, metric).metrics[metric]
            difference = f"{pair['difference']:+.4f} [{pair['low']:+.4f}, {pair['high']:+.4f}]"
            rows.append([f"{len(gene_set.genes)} {name}", headline(metric), _number(value, metric), difference])
            rows[-1].append(f"{pair['best_baseline']}, {pair['form']}")
    return Table(["genes", "measure", MODEL, "minus the best baseline", "best baseline"], rows)


def ceiling_table(result: EvaluationResult) -> Table:
    """The limit that noise sets to each metric, beside the value of the model."""
    rows = []
    for metric, limit in result.ceiling.items():
        reached = result.comparison.best(MODEL, metric).metrics[metric]
        ceiling = _number(limit["ceiling"], metric) if "ceiling" in limit else "-"
        rows.append([headline(metric), _number(reached, metric), ceiling, _number(limit["half"], metric)])
    return Table(["measure", MODEL, "ceiling", "half a cell from the other half"], rows)


def overall_table(paired: dict[str, dict[str, Any]]) -> Table:
    """The model minus the best baseline over several slides; `paired` is metric to comparison."""
    rows = [
        [
            headline(metric),
            f"{pair['difference']:+.4f}",
            f"[{pair['low']:+.4f}, {pair['high']:+.4f}]",
            percentage(pair),
            describe_decision(pair, metric),
            f"{pair['p_holm']:.3f}",
            f"{pair['num_better']} of {pair['num_slides']}",
            pair["best_baseline"],
        ]
        for metric, pair in paired.items()
    ]
    best = [(row, 1) for row, (metric, pair) in enumerate(paired.items()) if favours_model(pair, metric)]
    columns = ["measure", "difference", "95 % interval", "relative", f"{MODEL} is", "p (Holm)", "better on", "against"]
    return Table(columns, rows, best)


def percentage(pair: dict[str, Any]) -> str:
    """Relative difference with its interval, where the metric has one."""
    if "percent" not in pair:
        return "-"
    percent = pair["percent"]
    return f"{percent['difference']:+.2f} % [{percent['low']:+.2f}, {percent['high']:+.2f}]"


def describe_overall(geometry: str, paired: dict[str, dict[str, Any]]) -> str:
    """Which slides are averaged, in a few words."""
    return f"All {next(iter(paired.values()))['num_slides']} slides, {geometry}"


def state_table(states: StateResult) -> Table:
    """Scores of the distributions over cell states, then the model minus the better reference."""
    facts = states.to_json()
    scores = facts["predictors"]
    rows = [[name, *(form.format(score[key]) for key, _, form, _ in _STATE_COLUMNS)] for name, score in scores.items()]
    best = []
    for column, (key, _, _, choose) in enumerate(_STATE_COLUMNS, start=1):
        top = choose(score[key] for score in scores.values()) if choose else None
        best += [(row, column) for row, score in enumerate(scores.values()) if score[key] == top]
    # A line each: all three in one cell would push the last columns off the screen.
    for title, form in _STATE_DIFFERENCES:
        cells = {key: form.format(**pair) for key, pair in facts["paired"].items()}
        rows.append([title, *(cells.get(key, "") for key, *_ in _STATE_COLUMNS)])
    return Table(["predictor", *(title for _, title, *_ in _STATE_COLUMNS)], rows, best)


def describe_states(name: str, states: StateResult) -> str:
    """Which distribution was scored, in a few words."""
    return f"{name}: distribution over {states.num_states} cell states"


def cell_type_table(types: CellTypes) -> Table:
    """Agreement of the cell types of every predictor and form with the actual types; the best accuracy is marked."""
    agreement = {f"{name}, {form}": found for name, forms in types.agreement.items() for form, found in forms.items()}
    rows = [
        ["actual", "1.000", "1.000", "1.000", "1.000", "-", f"{types.confidence:.3f}", "100.0%"],
        ["ceiling: half of the counts", *_agreement_row(types.ceiling)],
        *([name, *_agreement_row(found)] for name, found in agreement.items()),
    ]
    top = max((found.accuracy for found in agreement.values()), default=0.0)
    best = [(row, 1) for row, found in enumerate(agreement.values(), start=2) if found.accuracy == top]
    columns = [
        "predictor",
        "same type ↑",
        "balanced ↑",
        "same lineage ↑",
        "top 3 ↑",
        "log loss ↓",
        "confidence",
        "assigned",
    ]
    return Table(columns, rows, best)


def describe_cell_types(types: CellTypes) -> str:
    """How many cells were typed, in a few words."""
    return f"cell types of {int(types.typed.sum()):,} cells"


def _agreement_row(agreement: TypeAgreement) -> list[str]:
    return [
        f"{agreement.accuracy:.3f}",
        f"{agreement.balanced_accuracy:.3f}",
        f"{agreement.lineage_accuracy:.3f}",
        f"{agreement.top_k[2]:.3f}" if len(agreement.top_k) > 2 else "-",
        "-" if agreement.log_loss is None else f"{agreement.log_loss:.2f}",
        f"{agreement.confidence:.3f}",
        f"{agreement.assigned:.1%}",
    ]


def _number(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric == "deviance" else f"{value:.4f}"
