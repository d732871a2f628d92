"""Distributions over cell states as a table, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cifm_cli.report.html import Section, Table

if TYPE_CHECKING:
    from cifm_cli.evaluation.distribution import Distributions

_EXPLANATION = (
    "How likely the state of each hidden cell was held to be (log loss, perplexity), and how far real cells drawn from "
    "the distribution are from the hidden one (energy score); lower is better. neighbours: the tuned frequencies of the "
    "visible cells around, and those cells themselves. Confidence is the probability of the likeliest state, accuracy "
    "how often it is the right one: they should agree."
)


def distribution_table(found: Distributions) -> tuple[list[str], list[list[str]]]:
    """Predictors against their scores, then the model's difference from the neighbours.

    Args:
        found: Of one model.

    Returns:
        Column names and rows.
    """
    facts = found.facts()
    rows = [
        [
            name,
            f"{score['log_loss']:.4f}",
            f"{score['perplexity']:.2f}",
            f"{score['energy_score']:.3f}",
            f"{score['accuracy']:.3f}",
            f"{score['mean_confidence']:.3f}",
            f"{score['calibration_error']:.3f}",
        ]
        for name, score in facts["predictors"].items()
    ]
    paired = {
        name: f"{part['difference']:+.3f} [{part['low']:+.3f}, {part['high']:+.3f}], {part['relative']:+.1%}"
        for name, part in facts["paired"].items()
    }
    rows.append(["model - neighbours", paired["log_loss"], "", paired["energy_score"], "", "", ""])
    header = ["predictor", "log loss", "perplexity", "energy score", "accuracy", "confidence", "calibration error"]
    return header, rows


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
