"""Verdicts as tables and sentences, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifm_cli.evaluation.judge import MODEL
from cifm_cli.evaluation.metrics import LOWER_IS_BETTER, METRICS
from cifm_cli.report import terminal

if TYPE_CHECKING:
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
}


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
    return ["predictor", *(_headline(metric).replace(" ", "\n", 1) for metric in METRICS)], rows, best


def paired_table(verdict: Verdict) -> tuple[list[str], list[list[str]], list[tuple[int, int]]]:
    """The model's best form beside the best baseline's best form, metric by metric.

    Args:
        verdict: Of a slide and geometry.

    Returns:
        Column names, rows, and the (row, column) of the differences whose interval favours the model.
    """
    rows, best = [], []
    for position, metric in enumerate(METRICS):
        found = verdict.paired(metric)
        favours = found["high"] < 0 if metric in LOWER_IS_BETTER else found["low"] > 0
        against = found["low"] > 0 if metric in LOWER_IS_BETTER else found["high"] < 0
        rows.append(
            [
                _headline(metric),
                f"{found['difference']:+.4f}",
                f"[{found['low']:+.4f}, {found['high']:+.4f}]",
                "better" if favours else "worse" if against else "undecided",
                found["model_form"],
                f"{found['best_baseline']}, {found['form']}",
            ]
        )
        if favours:
            best.append((position, 1))
    return ["metric", "model - baseline", "95 % interval", "the model is", "model's form", "best baseline"], rows, best


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
    terminal.table(f"{MODEL} minus the best baseline, bootstrap over {blocks}", *paired_table(verdict))


def _headline(metric: str) -> str:
    return f"{WORDS[metric]} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def _number(value: float, metric: str) -> str:
    return f"{value:.2f}" if metric == "deviance" else f"{value:.4f}"
