"""What may be believed of a response on a slide: held-out neighbours on real cells, and planted tissues."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cifm_cli.report.table import Table
from cifm_cli.response.held_out.pairs import held_out_neighbours
from cifm_cli.response.held_out.predictors import PREDICTORS
from cifm_cli.response.planted_check import check_all_planted

if TYPE_CHECKING:
    from cifm_cli.data.slide import Slide
    from cifm_cli.response.surroundings import LabelledCells

MAX_LABELS: Final = 10  # that are held out, those with most cells
MIN_PEARSON: Final = 0.3  # mean correlation of a label that may be believed
MIN_PAIRS: Final = 3  # in which a gene must be among the genes that change most
MIN_RIGHT: Final = 0.8  # share of them with the right sign
RIVALS: Final = ("mean_shift", "slide_ridge")
STRICT: Final = PREDICTORS[0]  # the regression without neighbours of the own label
WITH_OWN_LABEL: Final = PREDICTORS[1]  # and with them


def validate_response(slide: Slide, cells: LabelledCells, seed: int) -> dict[str, Any]:
    """Validate the response on a slide and on planted tissues.

    Args:
        slide: The slide.
        cells: Its cells with their labels.
        seed: Seed of all samples.

    Returns:
        `held_out`: `pairs` of label and region, `labels` with the mean score of each predictor and whether the label
        is `believed`, the share of pairs in which the regression is `ahead` of its rivals (without and with neighbours
        of the own label), and `believed_genes`;
        `planted`, from `planted_check.score_planted`; and one `sentence`.
    """
    sizes = np.bincount(cells.codes[cells.codes >= 0], minlength=len(cells.names))
    largest = tuple(int(code) for code in np.argsort(-sizes, kind="stable")[:MAX_LABELS])
    pairs = held_out_neighbours(slide, cells, seed, largest)
    held_out = {
        "pairs": [
            {key: value for key, value in pair.items() if key not in {"genes", "sign_is_right"}} for pair in pairs
        ],
        "labels": {label: _label_facts([pair for pair in pairs if pair["label"] == label]) for label in _labels(pairs)},
        "ahead": _shares_ahead(pairs, STRICT),
        "ahead_with_own_label": _shares_ahead(pairs, WITH_OWN_LABEL),
        "believed_genes": _believed_genes(slide, pairs),
    }
    facts = {"slide": slide.name, "held_out": held_out, "planted": check_all_planted(seed)}
    return facts | {"sentence": _sentence(held_out)}


def _labels(pairs: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(pair["label"] for pair in pairs))


def _label_facts(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    scores = {
        name: {
            metric: float(np.mean([pair["predictors"][name][metric] for pair in pairs]))
            for metric in ("pearson", "signed_precision", "energy_distance")
        }
        for name in PREDICTORS
    }
    own = scores[STRICT]["pearson"]
    believed = own >= MIN_PEARSON and all(own > scores[rival]["pearson"] for rival in RIVALS)
    return {"num_regions": len(pairs), "predictors": scores, "believed": bool(believed)}


def _shares_ahead(pairs: list[dict[str, Any]], name: str) -> dict[str, float | None]:
    """Shares of the pairs in which a predictor correlates better than each of its rivals, and than both."""
    if not pairs:
        return dict.fromkeys((*RIVALS, "both"))
    own = np.array([pair["predictors"][name]["pearson"] for pair in pairs])
    is_ahead = {rival: own > [pair["predictors"][rival]["pearson"] for pair in pairs] for rival in RIVALS}
    is_ahead["both"] = np.logical_and.reduce(list(is_ahead.values()))
    return {rival: float(share.mean()) for rival, share in is_ahead.items()}


def _believed_genes(slide: Slide, pairs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Genes of each label whose changes between regions have the right sign in most of several regions."""
    seen: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for pair in pairs:
        for gene, is_right in zip(pair["genes"], pair["sign_is_right"], strict=True):
            seen[pair["label"], gene].append(is_right)
    found: dict[str, list[str]] = {label: [] for label in _labels(pairs)}
    for (label, gene), right in sorted(seen.items()):
        if len(right) >= MIN_PAIRS and np.mean(right) >= MIN_RIGHT:
            found[label].append(slide.symbols[gene])
    return found


def _sentence(held_out: dict[str, Any]) -> str:
    """What may be believed, in one sentence."""
    if not held_out["pairs"]:
        return "no label has enough cells in a region and elsewhere, so that nothing can be said of real cells of this slide"
    believed, number = [label for label, own in held_out["labels"].items() if own["believed"]], len(held_out["labels"])
    if not believed:
        return (
            "do not rely on responses that are simulated on this slide: "
            f"{'for none of' if number > 1 else 'not for'} the {f'{number} labels' if number > 1 else 'label'} tried do the cells "
            "around tell, better than simple rules, how expression differs from place to place"
        )
    return (
        f"responses that are simulated on this slide may be relied on for {', '.join(believed)} ({len(believed)} of the {number} "
        "labels tried): for them, the cells around tell how expression differs from place to place, better than simple rules do"
    )


def held_out_table(facts: dict[str, Any]) -> Table:
    """Mean Pearson correlations of the log changes of 50 genes, one row per label."""
    rows = [
        [
            label,
            str(own["num_regions"]),
            *(f"{own['predictors'][name]['pearson']:.2f}" for name in PREDICTORS),
            "yes" if own["believed"] else "no",
        ]
        for label, own in facts["held_out"]["labels"].items()
    ]
    return Table(["label", "squares", *(name.replace("_", " ") for name in PREDICTORS), "believed"], rows)


def planted_table(facts: dict[str, Any]) -> Table:
    """Scores on planted tissues, one row per tissue."""
    columns = (
        "truth",
        "raised",
        "lowered",
        "mean_shift",
        "right_sign",
        "called",
        "coverage",
        "beyond_range",
        "false_calls",
    )
    rows = [
        [own["rule"], *("-" if own[name] is None else f"{own[name]:.2f}" for name in columns)]
        for own in facts["planted"]
    ]
    return Table(["planted", *(name.replace("_", " ") for name in columns)], rows)
