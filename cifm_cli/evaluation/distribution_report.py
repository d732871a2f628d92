"""Distributions over cell states as a table, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cifm_cli.report.html import Section, Table

if TYPE_CHECKING:
    from cifm_cli.evaluation.distribution import Distributions

# Key, headline, how it is written, and which value is best; confidence is good where it equals accuracy.
_COLUMNS: Final = (
    ("log_loss", "log loss ↓", "{:.4f}", min),
    ("perplexity", "perplexity ↓", "{:.2f}", min),
    ("energy_score", "energy score ↓", "{:.3f}", min),
    ("accuracy", "accuracy ↑", "{:.3f}", max),
    ("mean_confidence", "confidence", "{:.3f}", None),
    ("calibration_error", "calibration error ↓", "{:.3f}", min),
)
_EXPLANATION = (
    "How likely the state of each hidden cell was held to be (log loss, perplexity), and how far real cells drawn from "
    "the distribution are from the hidden one (energy score); lower is better. neighbours: the tuned frequencies of the "
    "visible cells around, and those cells themselves. The last line has the model minus the better of the two others, and "
    "what share of its score that is. Confidence is the probability of the likeliest state, accuracy "
    "how often it is the right one: they should agree."
)


def distribution_table(found: Distributions) -> tuple[list[str], list[list[str]], list[tuple[int, int]]]:
    """Predictors against their scores, then the model's difference from the better of the others.

    Args:
        found: Of one model.

    Returns:
        Column names, rows, and the (row, column) of the best value of each score.
    """
    facts = found.facts()
    scores = facts["predictors"]
    rows = [[name, *(form.format(score[key]) for key, _, form, _ in _COLUMNS)] for name, score in scores.items()]
    best = []
    for column, (key, _, _, choose) in enumerate(_COLUMNS, start=1):
        top = choose(score[key] for score in scores.values()) if choose else None
        best += [(row, column) for row, score in enumerate(scores.values()) if score[key] == top]
    paired = {
        key: f"{part['difference']:+.3f} [{part['low']:+.3f}, {part['high']:+.3f}], {part['relative']:+.1%} of "
        f"{part['rival']}"
        for key, part in facts["paired"].items()
    }
    rows.append(["model - the better of the others", *(paired.get(key, "") for key, *_ in _COLUMNS)])
    return ["predictor", *(headline for _, headline, *_ in _COLUMNS)], rows, best


def describe_distribution(name: str, found: Distributions) -> str:
    """What was scored, in a few words."""
    return f"{name}: distribution over {found.num_states} cell states"


def distribution_section(name: str, found: Distributions, title: str) -> Section:
    """What the report says of a model's distribution.

    Args:
        name: The model's.
        found: Its scores.
        title: Slide and geometry.

    Returns:
        The table.
    """
    return Section(f"{title}: {describe_distribution(name, found)}", _EXPLANATION, Table(*distribution_table(found)))
