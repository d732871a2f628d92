"""The scores of a validation as data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

SCORES: Final = ("pearson", "signed_precision", "energy_distance")


def validation_tables(facts: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Tables of a validation, by name.

    Args:
        facts: Dictionary from `validate_response`.

    Returns:
        `pairs`, one row per label, region and predictor: `label`, `centre_x_um`, `centre_y_um`, `num_hidden`, `predictor`
        and the scores; `labels`, one row per label and predictor: `label`, `num_regions`, `believed`, `predictor` and the
        means of the scores; `genes`, `label` and `gene`, one row per believed gene; `planted`, one row per planted tissue.
    """
    held_out = facts["held_out"]
    genes = [(label, gene) for label, names in held_out["believed_genes"].items() for gene in names]
    return {
        "pairs": _pairs(held_out["pairs"]),
        "labels": _labels(held_out["labels"]),
        "genes": pd.DataFrame(genes, columns=["label", "gene"]),
        "planted": pd.DataFrame(facts["planted"]),
    }


def _pairs(pairs: list[dict[str, Any]]) -> pd.DataFrame:
    """Scores by label, region and predictor."""
    rows = [
        {
            "label": pair["label"],
            "centre_x_um": pair["centre_um"][0],
            "centre_y_um": pair["centre_um"][1],
            "num_hidden": pair["num_hidden"],
            "predictor": predictor,
            **scores,
        }
        for pair in pairs
        for predictor, scores in pair["predictors"].items()
    ]
    return pd.DataFrame(rows, columns=["label", "centre_x_um", "centre_y_um", "num_hidden", "predictor", *SCORES])


def _labels(labels: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Mean scores by label and predictor."""
    rows = [
        {
            "label": label,
            "num_regions": own["num_regions"],
            "believed": own["believed"],
            "predictor": predictor,
            **scores,
        }
        for label, own in labels.items()
        for predictor, scores in own["predictors"].items()
    ]
    return pd.DataFrame(rows, columns=["label", "num_regions", "believed", "predictor", *SCORES])
