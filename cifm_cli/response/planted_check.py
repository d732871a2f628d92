"""Validation on planted tissues, whose truth is known: sign, size, range, coverage of intervals, and false calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.provenance import numpy_generator
from cifm_cli.response.bands import SurroundingsEdit
from cifm_cli.response.effects import estimate_response
from cifm_cli.response.surroundings import LabelledCells
from cifm_cli.synthetic.planted import RULES, PlantedRule, plant_tissue

if TYPE_CHECKING:
    import pandas as pd

    from cifm_cli.synthetic.planted import PlantedTissue, Rule

NUM_CELLS: Final = 6_000
INJECTED_SHARE: Final = 0.02
SENDER_SHARE: Final = 0.02  # so few that some receivers are beyond the range of all
_JITTER_UM: Final = 5.0


def check_planted(rule: PlantedRule, seed: int, num_cells: int = NUM_CELLS) -> dict[str, Any]:
    """Estimate the response to injected senders in a planted tissue, and compare it with the truth.

    Args:
        rule: What is planted.
        seed: Seed of the tissue and of the places of injected cells.
        num_cells: Number of cells of the tissue.

    Returns:
        See `score_planted`.
    """
    planted = plant_tissue(num_cells, seed, rule)
    slide = planted.slide
    names = tuple(sorted(set(planted.labels.tolist())))
    codes = np.searchsorted(names, planted.labels)
    generator = numpy_generator(seed, "planted injection")
    count = round(INJECTED_SHARE * num_cells)
    places = slide.xy_um[generator.integers(num_cells, size=count)]
    places = places + generator.normal(scale=_JITTER_UM, size=places.shape)
    before = LabelledCells(slide.xy_um, codes, names)
    after = LabelledCells(
        np.concatenate([slide.xy_um, places]), np.concatenate([codes, np.full(count, names.index(rule.sender))]), names
    )
    edit = SurroundingsEdit(before, after, np.arange(num_cells), places)
    return score_planted(planted, estimate_response(slide, edit, seed).effects)


def score_planted(planted: PlantedTissue, effects: pd.DataFrame) -> dict[str, Any]:
    """Compare effects with the truth.

    Args:
        planted: The tissue.
        effects: Table of `estimate_response`.

    Returns:
        Over the planted genes in receivers within the range: `raised` and `lowered`, mean log2 changes; `right_sign`,
        `called`, and `coverage` of their intervals as fractions; `mean_shift` of the raised genes. `beyond_range`,
        fraction of the planted genes that are called there. `false_calls`, fraction of all unaffected rows that are
        called. `truth`, the true log2 change of a raised gene.
    """
    rule = planted.rule
    truth = dict(zip(planted.slide.symbols, planted.log2_change().tolist(), strict=True))
    is_raised, is_lowered = (effects["gene"].isin(genes) for genes in (planted.raised, planted.lowered))
    is_planted, is_receiver = is_raised | is_lowered, effects["label"] == rule.receiver
    near = is_receiver & (effects["band_high_um"] <= rule.range_um)
    far = is_receiver & (effects["band_low_um"] >= rule.range_um)
    expected = np.where(near, effects["gene"].map(truth), 0.0)
    own = effects[near & is_planted]
    sign = np.where(own["gene"].isin(planted.raised), 1, -1)
    covered = (effects["low"] <= expected) & (effects["high"] >= expected)
    unaffected = ~(is_receiver & is_planted) | far | (rule.rule != "rule")
    return {
        "rule": rule.rule,
        "truth": float(np.log2(rule.fold)) if rule.rule == "rule" else 0.0,
        "raised": _mean(own.loc[is_raised[own.index], "log2_change"]),
        "lowered": _mean(own.loc[is_lowered[own.index], "log2_change"]),
        "right_sign": _mean(sign * own["log2_change"] > 0) if rule.rule == "rule" else None,
        "called": _mean(own["called"]),
        "coverage": _mean(covered[near & is_planted]),
        "mean_shift": _mean(own.loc[is_raised[own.index], "mean_shift"]),
        "beyond_range": _mean(effects.loc[far & is_planted, "called"]),
        "false_calls": _mean(effects.loc[unaffected, "called"]),
    }


def check_all_planted(seed: int) -> list[dict[str, Any]]:
    """Check a tissue of each of `synthetic.planted.RULES`."""
    rules: tuple[Rule, ...] = RULES
    return [check_planted(PlantedRule(rule=rule, sender_share=SENDER_SHARE), seed) for rule in rules]


def _mean(values: pd.Series[Any]) -> float | None:
    """Mean; None without values."""
    return float(values.mean()) if len(values) else None
