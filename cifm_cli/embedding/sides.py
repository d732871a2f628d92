"""The two sides of a probe across slides: those that the classifier is trained on, and those that it is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cifm_cli import keys
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cifm_cli.data.writers.embedded import EmbeddedSlide

_FACTS = (keys.SAMPLE, keys.PLATFORM)  # what a pattern is compared with, beside the name of a slide


@dataclass(frozen=True)
class Sides:
    """Which slides a classifier is trained on, and which it is tested on."""

    train: tuple[EmbeddedSlide, ...]  # slides of the training cells
    test: tuple[EmbeddedSlide, ...]  # slides of the test cells, none of them of a sample of `train`
    unused: tuple[EmbeddedSlide, ...]  # slides that no pattern names


def choose_sides(slides: Sequence[EmbeddedSlide], train_on: Sequence[str], test_on: Sequence[str]) -> Sides:
    """Divide slides into those for training and those for testing.

    Args:
        slides: Embedded slides.
        train_on: Names or patterns (`*`, `?`) of slides, samples or platforms; if empty, all that `test_on` does not name.
        test_on: The same for the test; if empty, all that `train_on` does not name.

    Returns:
        The sides.

    Raises:
        CifmError: A pattern names nothing, a side is empty, or a slide or sample is on both sides.
    """
    named_train, named_test = _select(slides, train_on, "--train-on"), _select(slides, test_on, "--test-on")
    train = named_train if train_on else set(range(len(slides))) - named_test
    test = named_test if test_on else set(range(len(slides))) - named_train
    for side, option, other in ((train, "--train-on", "--test-on"), (test, "--test-on", "--train-on")):
        if not side:
            raise CifmError(f"{other} names all slides, none is left for the other side", f"name slides with {option}")
    _require_apart(slides, train, test)
    chosen = [tuple(slides[i] for i in sorted(side)) for side in (train, test, set(range(len(slides))) - train - test)]
    return Sides(*chosen)


def _select(slides: Sequence[EmbeddedSlide], patterns: Sequence[str], option: str) -> set[int]:
    """Positions of the slides that one of the patterns names."""
    chosen: set[int] = set()
    for pattern in patterns:
        found = {i for i, slide in enumerate(slides) if pattern and pattern in names_of(slide).values()}
        if not found:  # a name may hold brackets, which stand for a set of characters in a pattern
            found = {
                i
                for i, slide in enumerate(slides)
                if any(name and fnmatchcase(name, pattern) for name in names_of(slide).values())
            }
        if not found:
            known = {
                key: ", ".join(sorted({names_of(slide)[key] for slide in slides} - {""})) for key in names_of(slides[0])
            }
            listed = "; ".join(f"{key}s: {names}" for key, names in known.items() if names)
            raise CifmError(f"{option} {pattern}: no slide, sample or platform of this name", f"there are {listed}")
        chosen |= found
    return chosen


def names_of(slide: EmbeddedSlide) -> dict[str, str]:
    """Names by which a slide can be chosen: `slide`, `sample` and `platform`; empty where it stores none.

    Args:
        slide: An embedded slide.
    """
    return {"slide": slide.name} | {key: slide.facts.get(key, "") for key in _FACTS}


def sample_of(slide: EmbeddedSlide) -> str:
    """The sample of a slide; its name, if it stores none.

    Args:
        slide: An embedded slide.
    """
    return slide.facts.get(keys.SAMPLE, "") or slide.name


def _require_apart(slides: Sequence[EmbeddedSlide], train: set[int], test: set[int]) -> None:
    """Raise an error if cells of one slide or sample would be on both sides."""
    if both := sorted(train & test):
        raise CifmError(
            f"slide {slides[both[0]].name} is on both sides: a random split of its cells would test on neighbours of training cells",
            "give each slide one side, or leave out --train-on and --test-on: whole samples, or blocks of a single slide, "
            "are then held out",
        )
    sample = {sample_of(slides[i]): i for i in sorted(train)}
    for i in sorted(test):
        if (other := sample.get(sample_of(slides[i]))) is not None:
            raise CifmError(
                f"slides {slides[other].name} and {slides[i].name} are of one sample, {sample_of(slides[i])}, and on different sides",
                "put all slides of a sample on one side",
            )
