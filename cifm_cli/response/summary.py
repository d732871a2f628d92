"""The response in words, for the terminal and for `simulation.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report.table import Table
from cifm_cli.response.calls import NOT_SPECIFIC, specificity
from cifm_cli.response.effects import MIN_SUPPORT

if TYPE_CHECKING:
    import pandas as pd

    from cifm_cli.response.effects import ResponseEstimate

NEAR_BANDS: Final = 2  # the nearest distance bands, which the sentence sums up
MAX_LABELS: Final = 3  # in the sentence
ASSOCIATED: Final = 0.5  # share of a mean shift above which other surroundings explain most of it
MARKER_RATIO: Final = 2.0  # log2: a gene that edited cells express four times as much as the residents
MAX_GENES: Final = 5  # listed in a note
DOUBTFUL: Final = 0.2  # share of the called effects that the shuffled control calls, above which a note says so
CLEAR_SHIFT: Final = 0.3  # log2; smaller mean shifts are not counted as association
CLEAR_ERRORS: Final = 3.5  # and those of fewer standard errors, which many genes show by chance


def response_facts(estimate: ResponseEstimate) -> dict[str, Any]:
    """Sum up a response.

    Args:
        estimate: The response.

    Returns:
        `sentence`, `notes`, `edited_labels`, the number of tested and of called effects, those of the `controls`, and for
        each label with rows and each distance band: residents, support, genes that rise and fall, and genes whose mean
        shift is an association with other surroundings.
    """
    effects = estimate.effects
    return {
        "sentence": describe_response(estimate),
        "notes": response_notes(estimate),
        "edited_labels": list(estimate.edited),
        "num_tested": len(effects),
        "num_called": int(effects["called"].sum()),
        "controls": estimate.controls.to_json(),
        "labels": {str(label): _bands(own) for label, own in effects.groupby("label", sort=True)},
        "skipped": {str(label): reason for label, reason in estimate.skipped.items()},
    }


def _bands(effects: pd.DataFrame) -> list[dict[str, Any]]:
    bands = []
    for high, own in effects.groupby("band_high_um", sort=True):
        rises, falls = (_genes(own, sign) for sign in (1, -1))
        bands.append(
            {
                "band_um": [float(own["band_low_um"].iloc[0]), float(str(high))],
                "num_residents": int(own["num_residents"].iloc[0]),
                "unexposed_um": float(own["unexposed_um"].iloc[0]),
                "support": int(own["support"].iloc[0]),
                "num_tested": len(own),
                "rise": rises,
                "fall": falls,
                "association": own.loc[_is_association(own), "gene"].tolist(),
            }
        )
    return bands


def _genes(effects: pd.DataFrame, sign: int) -> list[str]:
    """Called genes of one direction, the strongest first, each once."""
    called = effects[effects["called"] & (sign * effects["log2_change"] > 0)]
    order = called["log2_change"].abs().sort_values(ascending=False, kind="stable").index
    return list(dict.fromkeys(called.loc[order, "gene"].tolist()))


def _is_association(effects: pd.DataFrame) -> pd.Series[bool]:
    """Rows whose mean shift is clear, but mostly explained by other surroundings."""
    shift = effects["mean_shift"].abs() >= np.maximum(CLEAR_SHIFT, CLEAR_ERRORS * effects["mean_shift_error"])
    return ~effects["called"] & shift & (effects["association_share"] > ASSOCIATED)


def describe_response(estimate: ResponseEstimate) -> str:
    """The response in one sentence.

    Args:
        estimate: The response.

    Returns:
        The sentence.
    """
    effects, edited = estimate.effects, " and ".join(estimate.edited)
    if effects.empty:
        return "response: no resident whose surroundings the edit changes can be estimated"
    edges = sorted(effects["band_high_um"].unique())
    near_um = edges[min(NEAR_BANDS, len(edges)) - 1]
    near = effects[(effects["band_high_um"] <= near_um) & effects["called"]]
    # The rise of a T cell gene beside an added T cell is no response if it is read as one: such genes are counted apart.
    spilled = may_be_transcripts(near)
    counts = []
    for label, own in near[~spilled].groupby("label"):
        rises, falls = (len(_genes(own, sign)) for sign in (1, -1))
        counts.append((rises + falls, f"{_changed_genes(rises, falls)} in {label}"))
    counts.sort(key=lambda entry: -entry[0])
    found = "; ".join(text for _, text in counts[:MAX_LABELS]) or "no gene is called"
    more = f"; and in {len(counts) - MAX_LABELS} other labels" if len(counts) > MAX_LABELS else ""
    called_far = effects[effects["called"] & (effects["band_low_um"] >= near_um)]
    far = f"beyond {near_um:g} um nothing is called"
    if len(called_far):
        far = f"the farthest effect that is called is at {called_far['band_high_um'].max():g} um"
    number = near.loc[spilled, "gene"].nunique()
    genes = f"; {number} {'gene' if number == 1 else 'genes'} may rise only through transcripts of {edited} itself"
    return f"response within {near_um:g} um of an edited {edited}: {found}{more}{genes if number else ''}; {far}"


def may_be_transcripts(effects: pd.DataFrame) -> pd.Series[bool]:
    """Rows of genes that rise and that the edited cells themselves express much more: perhaps their transcripts."""
    return (effects["log2_change"] > 0) & (effects["log2_edited_ratio"] >= MARKER_RATIO)


def _changed_genes(rises: int, falls: int) -> str:
    """How many genes rise and fall, in words; one of the numbers is not zero."""
    counted = (("rise", rises), ("fall", falls))
    return " and ".join(
        f"{number} gene {verb}s" if number == 1 else f"{number} genes {verb}" for verb, number in counted if number
    )


def response_notes(estimate: ResponseEstimate) -> list[str]:
    """Warnings about associations, transcripts of the edited cells, unspecific effects, and what the slide hardly shows.

    Args:
        estimate: The response.

    Returns:
        Lines; may be empty.
    """
    effects, notes = estimate.effects, list[str]()
    if effects.empty:
        return notes
    near = effects[effects["band_high_um"] <= sorted(effects["band_high_um"].unique())[:NEAR_BANDS][-1]]
    edited = " and ".join(estimate.edited)
    notes += [
        f"association, not effect: near {edited}, other surroundings explain most of the difference of {genes}"
        for genes in _listed(near[_is_association(near)])
    ]
    spilled = near[near["called"] & may_be_transcripts(near)]
    notes += [
        f"perhaps transcripts of the neighbours: the rise of {genes}, as {' or '.join(estimate.edited)} itself expresses at "
        f"least {2**MARKER_RATIO:g} times as much, and cells may have been segmented wrongly"
        for genes in _listed(spilled)
    ]
    unspecific = near[near["called"] & (specificity(near) == NOT_SPECIFIC)]
    notes += [
        f"not specific: with {other} at the places of {edited}, a similar change of {genes}"
        for other, own in unspecific.groupby("other_label")
        for genes in _listed(own)
    ]
    most, num_called = max(estimate.controls.shuffled, default=0), int(effects["called"].sum())
    if most and most > DOUBTFUL * num_called:
        notes.append(
            f"{num_called} effects are called, but up to {most} with the edited label given to other cells: do not rely on them"
        )
    rare = sorted({str(label) for label in near.loc[near["support"] < MIN_SUPPORT, "label"]})
    if rare:
        notes.append(
            f"the slide hardly shows the simulated combination for {', '.join(rare[:5])}: fewer than {MIN_SUPPORT} of its "
            "cells have the edited label that near, so nothing can be called"
        )
    return notes


def _listed(effects: pd.DataFrame) -> list[str]:
    """The genes of some rows, for the labels with most of them."""
    texts = []
    for label, own in sorted(effects.groupby("label"), key=lambda entry: -len(entry[1]))[:MAX_LABELS]:
        genes = list(dict.fromkeys(own["gene"]))
        listed = ", ".join(genes[:MAX_GENES]) + (", ..." if len(genes) > MAX_GENES else "")
        texts.append(f"{len(genes)} {'gene' if len(genes) == 1 else 'genes'} of {label} ({listed})")
    return texts


def response_table(facts: dict[str, Any], max_rows: int) -> Table:
    """The called genes as a table of text.

    Args:
        facts: Dictionary from `response_facts`.
        max_rows: Largest number of rows, those with most genes.

    Returns:
        One row per label and distance band.
    """
    rows = []
    for label, bands in facts["labels"].items():
        for band in bands:
            low, high = band["band_um"]
            rise, fall = (
                ", ".join(band[key][:4]) + (", ..." if len(band[key]) > 4 else "") for key in ("rise", "fall")
            )
            number = len(band["rise"]) + len(band["fall"])
            text = [
                label, f"{low:g}-{high:g} um", f"{band['num_residents']:,}", f"{band['support']:,}",
                f"{len(band['rise'])}: {rise}" if rise else "0", f"{len(band['fall'])}: {fall}" if fall else "0",
                str(len(band["association"])),
            ]  # fmt: skip
            rows.append((number, text))
    rows.sort(key=lambda entry: -entry[0])
    columns = ["label", "distance", "residents", "support", "rise", "fall", "association"]
    return Table(columns, [text for _, text in rows[:max_rows]])
