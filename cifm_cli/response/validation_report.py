"""The page of a validation: for which labels and genes the response may be believed, in words, a picture and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report.dot_plots import Dots, draw_rows
from cifm_cli.report.html import Image, Section, draw_image, write_report
from cifm_cli.report.palette import COLOURS
from cifm_cli.response.held_out.predictors import PREDICTORS
from cifm_cli.response.validation import MIN_PAIRS, MIN_PEARSON, MIN_RIGHT, held_out_table, planted_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# The correlation of the first is zero; the second is nearly the regression
_NOT_DRAWN: Final = ("no_change", "with_own_label")
_SHUFFLED: Final = "shuffled"
_GREY: Final = "#999999"
_HELD_OUT: Final = (
    "The cells of a label in a square of the tissue are hidden and inferred from the cells around them. Their mean and the real "
    "one are each compared with the label elsewhere on the slide; the score is the correlation of these log changes over the "
    "50 genes that change most. Small dots are single squares, large ones the mean of a label. 1 would be perfect, 0 is "
    "what an unrelated guess gives; the neighbours of other places (shuffled) should give no more."
)
_GENES: Final = (
    "Genes that were among the 50 that change most in at least {pairs} squares, and were inferred with the right sign in "
    "{right:.0%} of them. By chance that is one gene in eight of those in three squares, and fewer in more. Of other genes "
    "nothing is known. Those of labels that are not believed are left out; validation.json has them."
)
_PLANTED: Final = (
    "The regression of effects.csv is tried on generated tissues whose truth is known; they do not depend on this slide. "
    "In rule, T cells raise 15 genes of epithelium within 30 µm three-fold and lower 15; in none, nothing; in confounded, "
    "stroma changes the genes and T cells lie near stroma, which misleads the mean shift and should not mislead the response.\n\n"
    "raised, lowered: mean log2 change of the planted genes within 30 µm, to be compared with truth; right sign, called, coverage: "
    "shares of these genes with the right sign, that are called, and whose 95 % interval contains the truth; beyond range, "
    "false calls: shares that are called where there is no effect."
)
_MEANING: Final = (
    "That a label may be believed means: on this slide, neighbours tell how its cells differ from region to region, better than "
    "simple rules do. It does not mean that the neighbours cause the difference.\n\n"
    "For a label that is not believed, read the table of effects as a description of this slide, not as a prediction. "
    "Nor does this page speak of other slides or patients.\n\n"
    "Effects are called by a regression without the trained network, which takes no part in this page either."
)


def write_validation_report(path: Path, facts: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        path: The `.html` file.
        facts: The content of `validation.json`.

    Raises:
        CifmError: The file cannot be written.
    """
    held_out = facts["held_out"]
    sections = [
        Section("Inferred against real cells", _HELD_OUT, images=_image(held_out)),
        Section("Correlations by label", _rule(), held_out_table(dict(facts))),
        Section("Genes with the right sign", _genes(held_out)),
        Section("Planted tissues", _PLANTED, planted_table(dict(facts)) if facts["planted"] else None),
        Section("What this means", _MEANING),
    ]
    sections = sections if held_out["pairs"] else sections[3:]
    title = f"{facts['slide']}: where simulated responses may be relied on"
    sentence = facts["sentence"]
    write_report(
        path,
        title,
        sections,
        facts["provenance"],
        answer=sentence[:1].upper() + sentence[1:] + ".",
        remarks=_remarks(facts),
    )


def draw_correlations(held_out: Mapping[str, Any]) -> bytes:
    """Draw the correlations of all predictors, one row per label.

    Args:
        held_out: `held_out` of `validation.json`, with at least one pair.

    Returns:
        PNG.
    """
    labels = held_out["labels"]
    names = [name for name in PREDICTORS if name not in _NOT_DRAWN]
    series = []
    for name in names:
        means = [own["predictors"][name]["pearson"] for own in labels.values()]
        points = [
            [pair["predictors"][name]["pearson"] for pair in held_out["pairs"] if pair["label"] == label]
            for label in labels
        ]
        series.append(
            Dots(name.replace("_", " "), means, points=points if name == names[0] else (), is_open=name != names[0])
        )
    colours = iter(COLOURS)
    return draw_rows(
        [f"{label} (believed)" if own["believed"] else label for label, own in labels.items()],
        series,
        "Correlation of inferred and real log changes",
        x_label="Pearson correlation over the 50 genes that change most",
        colours=[_GREY if name == _SHUFFLED else next(colours) for name in names],
    )


def _image(held_out: Mapping[str, Any]) -> list[Image]:
    if not held_out["pairs"]:
        return []
    caption = "The regression (large dots, filled) beside simple rules, by label. Small dots: single squares."
    return [draw_image(lambda: draw_correlations(held_out), caption)]


def _rule() -> str:
    return (
        f"A label may be believed if the mean correlation of the neighbour regression is at least {MIN_PEARSON:g} and above those "
        "of the mean shift and of the slide ridge.\n\n"
        "Neighbour regression: the regression, without neighbours of the own label. With own label: with them. Mean shift: the label "
        "elsewhere, changed as the other cells of the neighbourhood are. Stratified count: the cells of the label elsewhere with the "
        "most similar cells around them. Slide ridge: a ridge regression of any cell on the mean of its neighbours. No change: the "
        "label elsewhere. Shuffled: the regression, given the neighbours of other places."
    )


def _genes(held_out: Mapping[str, Any]) -> str:
    """Believed genes, one paragraph per label."""
    found = [
        f"{label}: {', '.join(genes)}."
        for label, genes in held_out["believed_genes"].items()
        if genes and held_out["labels"][label]["believed"]
    ]
    intro = _GENES.format(pairs=MIN_PAIRS, right=MIN_RIGHT)
    return "\n\n".join([intro, *(found or ["There is none."])])


def _remarks(facts: Mapping[str, Any]) -> list[str]:
    """How sure the answer is."""
    held_out, remarks = facts["held_out"], list[str]()
    if held_out["pairs"]:
        doubted = [label for label, own in held_out["labels"].items() if not own["believed"]]
        if doubted:
            remarks.append(f"Not believed: {', '.join(doubted)}.")
        shuffled = np.mean([pair["predictors"][_SHUFFLED]["pearson"] for pair in held_out["pairs"]])
        remarks.append(
            f"The regression is ahead of the mean shift in {held_out['ahead']['mean_shift']:.0%} of {len(held_out['pairs'])} pairs "
            f"of label and square, of the slide ridge in {held_out['ahead']['slide_ridge']:.0%}, and of both in "
            f"{held_out['ahead']['both']:.0%}. With the neighbours of other places its mean correlation is {shuffled:.2f}, where 0 "
            "is expected."
        )
    rule = next((own for own in facts["planted"] if own["rule"] == "rule"), None)
    if rule is not None and rule["right_sign"] is not None:
        remarks.append(
            f"On generated tissue the regression finds the right sign of {rule['right_sign']:.0%} of the planted effects and "
            f"calls {rule['false_calls']:.1%} of what is no effect."
        )
    return remarks
