"""The strongest effects of a response, for tables and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report.table import Table
from cifm_cli.response.calls import NOT_SPECIFIC, specificity
from cifm_cli.response.summary import may_be_transcripts

if TYPE_CHECKING:
    import pandas as pd

# Optional columns, which are shown if the response has them, and their headings
_OPTIONAL: Final = {
    "shuffled": "shuffled control",
    "other_change": "another label there",
    "model_log2_change": "network",
}
_TRANSCRIPTS: Final = "perhaps transcripts of the edited cells"


def strongest_effects(effects: pd.DataFrame, number: int) -> pd.DataFrame:
    """The strongest called effects, one per gene and label.

    An effect is as strong as the end of its interval that is nearer to zero, so that an effect of which little is known
    does not come first. Effects that may be transcripts of the edited cells come after all others.

    Args:
        effects: Table of `estimate_response`.
        number: Largest number of rows.

    Returns:
        Rows of `effects`, the strongest first.
    """
    called = effects[effects["called"].astype(bool)]
    nearer = called[["low", "high"]].abs().min(axis=1)
    strongest: pd.DataFrame = called.loc[nearer.sort_values(ascending=False, kind="stable").index]
    strongest = strongest.loc[may_be_transcripts(strongest).sort_values(kind="stable").index]
    return strongest.drop_duplicates(["label", "gene_id"]).head(number)


def effect_table(effects: pd.DataFrame, number: int) -> Table:
    """The strongest called effects as text.

    Args:
        effects: Table of `estimate_response`.
        number: Largest number of rows.

    Returns:
        One row per gene and label.
    """
    optional = [name for name in _OPTIONAL if name in effects.columns]
    shown = strongest_effects(effects, number)
    compared = specificity(shown) if "other_p" in shown.columns else [""] * len(shown)
    rows = [
        [
            str(row["gene"]),
            str(row["label"]),
            f"{row['band_low_um']:g}-{row['band_high_um']:g} µm",
            f"{row['log2_change']:+.2f}",
            f"{row['low']:+.2f} to {row['high']:+.2f}",
            *(_optional(row, name) for name in optional),
            _number(row["mean_shift"], "+.2f"),
            _number(row["association_share"], ".0%"),
            f"{int(row['num_residents']):,}",
            f"{int(row['support']):,}",
            "; ".join([*([_TRANSCRIPTS] if is_marked else []), *([NOT_SPECIFIC] if found == NOT_SPECIFIC else [])]),
        ]
        for (_, row), is_marked, found in zip(shown.iterrows(), may_be_transcripts(shown), compared, strict=True)
    ]
    headings = [_OPTIONAL[name] for name in optional]
    return Table(
        [
            "gene", "cells", "distance", "log2 change", "95 % interval", *headings, "mean shift",
            "explained by other surroundings", "cells in the band", "support", "remark",
        ],
        rows,
    )  # fmt: skip


def _optional(row: pd.Series[Any], name: str) -> str:
    """The content of an optional column."""
    if name == "shuffled":
        return f"±{_number(row[name], '.2f')}"
    text = _number(row[name], "+.2f")
    return f"{text} ({row['other_label']})" if name == "other_change" and text != "-" else text


def _number(value: float, form: str) -> str:
    """A number as text; `-` where there is none."""
    return format(value, form) if np.isfinite(value) else "-"
