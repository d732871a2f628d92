"""Verdicts as tables and sentences, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cifm_cli.evaluation.board import MODEL, favours_model
from cifm_cli.evaluation.distribution_report import describe_distribution, distribution_table
from cifm_cli.evaluation.metrics import LOWER_IS_BETTER, METRICS
from cifm_cli.evaluation.type_report import describe_typing, typing_table
from cifm_cli.report import terminal

if TYPE_CHECKING:
    from cifm_cli.evaluation.board import Board
    from cifm_cli.evaluation.judge import Verdict

WORDS = {
    "mse": "MSE",
    "balanced_mse": "balanced MSE",
    "pearson_cell": "Pearson cell",
    "spearman_cell": "Spearman cell",
    "pearson_gene": "Pearson gene",
    "spearman_gene": "Spearman gene",
    "auroc": "AUROC",
    "deviance": "deviance",
    "ap": "AP",
    "pearson_cell_centred": "Pearson centred",
    "spearman_cell_centred": "Spearman centred",
}

_OF_SUBSETS = ("mse", "pearson_cell", "spearman_cell", "pearson_gene", "auroc", "deviance")
WHETHER = {True: "better", False: "worse", None: "undecided"}


def score_table(verdict: Verdict) -> tuple[list[str], list[list[str]], list[tuple[int, int]]]:
    """Predictors and forms against metrics.

    Args:
        verdict: Of a slide and geometry.

    Returns:
        Column names, rows, and the (row, column) of the best value of each metric.
    """
    scores = [(name, form, found.metrics) for name, forms in verdict.scores.items() for form, found in forms.items()]
    rows = [
        [f"{name}, {form}", *(_number(metrics[metric], metric) for metric in METRICS)] for name, form, metrics in scores
    ]
    best = []
    for column, metric in enumerate(METRICS, start=1):
        choose = min if metric in LOWER_IS_BETTER else max
        top = choose(metrics[metric] for *_, metrics in scores)
        best += [(row, column) for row, (*_, metrics) in enumerate(scores) if metrics[metric] == top]
    return ["predictor", *(headline(metric).replace(" ", "\n", 1) for metric in METRICS)], rows, best


def paired_table(
    board: Board, model: str = MODEL, rival: str | None = None
) -> tuple[list[str], list[list[str]], list[tuple[int, int]]]:
    """A model's best form beside the best form of a rival, metric by metric.

    Args:
        board: The scores.
        model: A model.
        rival: Another predictor; the best baseline when absent.

    Returns:
        Column names, rows, and the (row, column) of the differences whose interval favours the model.
    """
    rows, best = [], []
    for position, (metric, found) in enumerate(board.all_paired(model, rival).items()):
        rows.append(
            [
                headline(metric),
                f"{found['difference']:+.4f}",
                f"[{found['low']:+.4f}, {found['high']:+.4f}]",
                WHETHER[favours_model(found, metric)],
                f"{found['p_holm']:.3f}",
                found["model_form"],
                f"{rival or found['best_baseline']}, {found['form']}",
            ]
        )
        if favours_model(found, metric):
            best.append((position, 1))
    header = ["metric", "difference", "95 % interval", f"{model} is", "p (Holm)", "its form", "against"]
    return header, rows, best


def subset_table(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """The model beside the best baseline on some of the genes.

    Args:
        verdict: Of a slide and geometry.

    Returns:
        Column names and rows.
    """
    rows = []
    for name, subset in verdict.subsets.items():
        for metric in _OF_SUBSETS:
            found = subset.board.paired(metric)
            value = subset.board.best(MODEL, metric).metrics[metric]
            difference = f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
            rows.append([f"{len(subset.genes)} {name}", headline(metric), _number(value, metric), difference])
            rows[-1].append(f"{found['best_baseline']}, {found['form']}")
    return ["genes", "metric", MODEL, "minus the best baseline", "best baseline"], rows


def ceiling_table(verdict: Verdict) -> tuple[list[str], list[list[str]]]:
    """What noise leaves to be predicted, beside what the model reaches.

    Args:
        verdict: Of a slide and geometry.

    Returns:
        Column names and rows.
    """
    rows = []
    for metric, found in verdict.ceiling.items():
        reached = verdict.board.best(MODEL, metric).metrics[metric]
        ceiling = _number(found["ceiling"], metric) if "ceiling" in found else "-"
        rows.append([headline(metric), _number(reached, metric), ceiling, _number(found["half"], metric)])
    return ["metric", MODEL, "ceiling", "half a cell from the other half"], rows


def overall_table(found: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]], list[tuple[int, int]]]:
    """The model against the best baseline over several slides.

    Args:
        found: Metric to the comparison.

    Returns:
        Column names, rows, and the (row, column) of the differences whose interval favours the model.
    """
    rows = [
        [
            headline(metric),
            f"{pair['difference']:+.4f}",
            f"[{pair['low']:+.4f}, {pair['high']:+.4f}]",
            WHETHER[favours_model(pair, metric)],
            pair["best_baseline"],
        ]
        for metric, pair in found.items()
    ]
    best = [(row, 1) for row, (metric, pair) in enumerate(found.items()) if favours_model(pair, metric)]
    return ["metric", "difference", "95 % interval", f"{MODEL} is", "against"], rows, best


def describe_overall(geometry: str, found: dict[str, dict[str, Any]]) -> str:
    """Which slides are taken together, in a few words."""
    return f"All {next(iter(found.values()))['num_slides']} slides, {geometry}"


def describe(verdict: Verdict, region: str) -> str:
    """What was scored, in one line."""
    return (
        f"{verdict.bench.slide.name}, {region} region, {verdict.geometry}: {len(verdict.rows):,} hidden cells x "
        f"{len(verdict.bench.columns):,} genes, {verdict.round_number.max() + 1} rounds"
    )


def show(verdict: Verdict, region: str) -> None:
    """Print both tables for people.

    Args:
        verdict: Of a slide and geometry.
        region: What was scored.
    """
    terminal.table(describe(verdict, region), *score_table(verdict))
    blocks = f"{verdict.resampler.num_blocks} blocks of {verdict.resampler.side_um:.0f} um"
    terminal.table(f"{MODEL} minus the best baseline, bootstrap over {blocks}", *paired_table(verdict.board))
    for name in verdict.board.further_models():
        terminal.table(f"{name} minus the best baseline", *paired_table(verdict.board, name))
        terminal.table(f"{name} minus {MODEL}", *paired_table(verdict.board, name, MODEL))
    for name, found in verdict.distributions.items():
        terminal.table(describe_distribution(name, found), *distribution_table(found))
    if verdict.types:
        terminal.table(describe_typing(verdict.types), *typing_table(verdict.types))


def show_overall(overall: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Print how the model does over several slides.

    Args:
        overall: Geometry, then metric, to the comparison.
    """
    for geometry, found in overall.items():
        title = f"{describe_overall(geometry, found)}: {MODEL} minus the best baseline, mean over slides"
        terminal.table(title, *overall_table(found))


def headline(metric: str) -> str:
    """A metric in words, with an arrow to where it is good."""
    return f"{WORDS[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def _number(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric == "deviance" else f"{value:.4f}"
