"""The picture of a response: the strongest effects by distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.report.dot_plots import DistancePanel, DistancePoint, draw_by_distance
from cifm_cli.response.effect_table import strongest_effects
from cifm_cli.response.summary import may_be_transcripts

if TYPE_CHECKING:
    import pandas as pd

    from cifm_cli.response.effects import ResponseEstimate

_NUM_PANELS: Final = 12
_NUM_UNCALLED: Final = 4  # panels where nothing is called


def draw_effects(response: ResponseEstimate) -> dict[str, tuple[bytes, str]]:
    """Draw the strongest effects by distance, one panel per gene and label.

    Args:
        response: The response.

    Returns:
        PNG and caption as `effects_by_distance`; empty if the response is.
    """
    effects = response.effects
    if effects.empty:
        return {}
    shown = strongest_effects(effects, _NUM_PANELS)
    title = "The strongest effects"
    if shown.empty:
        shown = effects.sort_values("p", kind="stable").drop_duplicates(["label", "gene_id"]).head(_NUM_UNCALLED)
        title = "No effect is called. The effects with the smallest p values"
    panels = [_panel(effects, str(row["label"]), str(row["gene_id"]), str(row["gene"])) for _, row in shown.iterrows()]
    image = draw_by_distance(
        panels,
        f"{title}: gene in cells, by distance to the edit",
        y_label="log2 change",
        names=("called", "not called", "mean shift (not adjusted)", "shuffled control"),
    )
    caption = (
        "Change with the edit minus without, by distance to the nearest edited place, and its 95 % interval. The mean shift "
        "is the difference that is seen on the slide without adjusting for other surroundings. An interval that ends "
        "at the edge of a panel is longer than it. *: the edited cells express this gene much more, so that it may be their "
        "transcripts."
    )
    return {"effects_by_distance": (image, caption)}


def _panel(effects: pd.DataFrame, label: str, gene_id: str, gene: str) -> DistancePanel:
    own = effects[(effects["label"] == label) & (effects["gene_id"] == gene_id)].sort_values("band_low_um")
    points = [
        DistancePoint(
            float(row["band_low_um"]),
            float(row["band_high_um"]),
            float(row["log2_change"]),
            (float(row["low"]), float(row["high"])),
            bool(row["called"]),
            float(row["mean_shift"]) if np.isfinite(row["mean_shift"]) else None,
            float(row["shuffled"]) if np.isfinite(row.get("shuffled", np.nan)) else None,
        )
        for _, row in own.iterrows()
    ]
    # Of called bands only, as in the remarks of the table
    mark = "*" if may_be_transcripts(own[own["called"].astype(bool)]).any() else ""
    return DistancePanel(f"{gene}{mark}\n{label}", points)
