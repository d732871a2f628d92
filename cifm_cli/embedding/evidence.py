"""What a probe found in one sentence, and how sure that is, from the content of `probe.json`."""

from __future__ import annotations

from typing import Any

from cifm_cli import keys
from cifm_cli.embedding.folds import SAMPLE, STRIP
from cifm_cli.embedding.scoring import ROC_AUC

FEW_SAMPLES = 5  # with fewer on a side (of each class, where slides are classified), intervals are too narrow
_MAX_LISTED = 4  # names in a sentence
_NAMES = {keys.MICROENVIRONMENT: "The microenvironment embedding", keys.CELL: "The cell embedding"}


def describe_evidence(content: dict[str, Any]) -> dict[str, Any]:
    """Describe a result.

    Args:
        content: The content of `probe.json`.

    Returns:
        `answer`, one sentence; and `remarks`, sentences about how sure it is.
    """
    return {"answer": _answer(content), "remarks": _remarks(content)}


def format_interval(metric: dict[str, float | None], *, sign: str = "") -> str:
    """Format a metric and its interval.

    Args:
        metric: `value` (or `difference`), `low` and `high`.
        sign: `+` to write the sign of positive numbers too.

    Returns:
        For instance `0.700 [0.610, 0.780]`; `-` for a metric that is not defined.
    """
    value = metric.get("value", metric.get("difference"))
    if value is None:
        return "-"
    if metric["low"] is None:
        return f"{value:{sign}z.3f} (no interval)"
    return f"{value:{sign}z.3f} [{metric['low']:{sign}z.3f}, {metric['high']:{sign}z.3f}]"


def _answer(content: dict[str, Any]) -> str:
    """The result of the first embedding, compared with the best baseline."""
    embedding, pair = next((name, pairs[ROC_AUC]) for name, pairs in content["paired"].items())
    facts, baseline = content["features"][embedding], pair["best_baseline"]
    reached = content["features"][baseline][ROC_AUC]["value"]
    few = ", on few samples" if pair["low"] is not None and _few_samples(content) else ""
    chance = ", no better than chance" if reached is not None and reached <= 0.5 else ""
    return (
        f"{_NAMES[embedding]} ({embedding}) predicts {_target(content)} {_where(content)} with a ROC-AUC of "
        f"{format_interval(facts[ROC_AUC])}, where chance is 0.5: {_compare(pair, content['groups'])} the best baseline, {baseline}, "
        f"with {'-' if reached is None else f'{reached:.3f}'}{chance} (difference {format_interval(pair, sign='+')}){few}."
    )


def _compare(pair: dict[str, Any], groups: dict[str, Any]) -> str:
    """What a difference and its interval say; the interval of a few blocks says nothing."""
    if pair["low"] is None:
        return "there are too few samples for an interval, and so for a comparison with"
    if groups["unit"] != SAMPLE and groups["number"] < FEW_SAMPLES:
        return f"{groups['number']} {groups['unit']}s of tissue are too few to tell it from"
    if pair["low"] > 0:
        return "better than"
    return "worse than" if pair["high"] < 0 else "not distinguishable from"


def _target(content: dict[str, Any]) -> str:
    classes = list(content["classes"])
    if len(classes) > 2:
        return f"{content['label']} ({len(classes)} classes)"
    others = "all other classes" if content["positive"] else classes[0]
    return f"{classes[1]} against {others} ({content['label']})"


def _where(content: dict[str, Any]) -> str:
    """Which cells were held out."""
    if content["design"] == "train_and_test":
        train, test = (_list(content["sides"][side]["slides"], "slide") for side in ("train", "test"))
        return f"on {test}, trained on {train},"
    if (unit := content["groups"]["unit"]) != SAMPLE:
        return f"in held-out {unit}s of {content['slides'][0]}"
    return f"in held-out samples ({content['groups']['number']} in turn)"


def _list(names: list[str], noun: str) -> str:
    if len(names) > _MAX_LISTED:
        return f"{len(names)} {noun}s"
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _remarks(content: dict[str, Any]) -> list[str]:
    """Sentences about the evidence: its unit, how many there are, and what else could explain the result."""
    remarks = [
        *_clusters(content),
        _unit_of_intervals(content),
        *_few_samples(content),
        *_slides_as_cases(content),
        *_confounded(content),
    ]
    remarks.append(
        "Cells of one slide are never divided at random, as a cell and its neighbours share their surroundings: "
        "whole samples, blocks or strips are held out."
    )
    return remarks


def _clusters(content: dict[str, Any]) -> list[str]:
    """A sentence where the label was computed from the expression that the embedding is compared with."""
    if content["label"] != keys.CLUSTER:
        return []
    return [
        (
            "The clusters of a download were computed from each cell's own expression, so plain expression has an advantage. "
            "What surroundings add is tested by a label that was not made from expression, such as a pathologist's regions."
        )
    ]


def _unit_of_intervals(content: dict[str, Any]) -> str:
    groups = content["groups"]
    if (unit := groups["unit"]) != SAMPLE:
        few = (
            " The section is too small for blocks, and intervals over few strips are too narrow."
            if unit == STRIP
            else ""
        )
        return (
            f"All tested cells are of one sample, and intervals resample its {groups['number']} {unit}s: they say nothing "
            f"about how much other slides would differ.{few}"
        )
    return f"Intervals resample the {groups['number']} tested samples, not their cells."


def _few_samples(content: dict[str, Any]) -> list[str]:
    """A sentence where there are fewer samples than `FEW_SAMPLES` on a side; of each class, if slides are classified."""
    if "all" in content["sides"] and content["groups"]["unit"] != SAMPLE:
        return []  # the sentence about the unit says it
    numbers = []
    for side, facts in content["sides"].items():
        place = {"train": " for training", "test": " for the test"}.get(side, "")
        if facts["slide_level"]:
            of_class = {name: len(each["samples"]) for name, each in facts["classes"].items()}
            if min(of_class.values()) < FEW_SAMPLES:
                numbers.append(" and ".join(f"{number} {name}" for name, number in of_class.items()) + place)
        elif len(facts["samples"]) < FEW_SAMPLES:
            numbers.append(f"{len(facts['samples'])}{place}")
    if not numbers:
        return []
    return [
        (
            f"There are few samples ({', '.join(numbers)}). Slides, not cells, are the evidence: however many cells they have, "
            "other samples may give another result, and intervals over few samples are too narrow."
        )
    ]


def _slides_as_cases(content: dict[str, Any]) -> list[str]:
    """Where every slide has one class: how well whole slides are ranked, and how often chance does as well."""
    embedding = next(iter(content["paired"]))
    slides = content["features"][embedding].get("slides")
    if slides is None or slides[ROC_AUC]["value"] is None:
        return []
    number = len(content["by_slide"])
    text = f"With the mean of each slide in the place of its cells, {embedding} has a ROC-AUC of {format_interval(slides[ROC_AUC])} ({number} slides)"
    if slides["p"] is not None:
        text += f"; with the classes assigned to the slides at random, it would be as high with probability {slides['p']:.3g}"
    return [f"{text}."]


def _confounded(content: dict[str, Any]) -> list[str]:
    """Sentences where the classifier may have learnt a sample or platform instead of the class."""
    facts = content["sides"].get("train") or content["sides"]["all"]
    if not facts["slide_level"]:
        return []
    remarks = []
    single = [name for name, each in facts["classes"].items() if len(each["samples"]) == 1]
    if single:
        remarks.append(
            f"In training, {', '.join(single)} {'occurs' if len(single) == 1 else 'occur'} in a single sample"
            f"{'' if len(single) == 1 else ' each'}: the classifier may have learnt what is particular to that sample."
        )
    platforms = [set(each["platforms"]) for each in facts["classes"].values()]
    if all(platforms) and not set.intersection(*platforms):
        remarks.append(
            "In training, no platform has slides of every class: the classifier may have learnt the platform."
        )
    return remarks
