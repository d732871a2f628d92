"""Which cells are hidden to be scored, and which to tune on: never the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.protocols import SCATTERED, WHOLE, hide, practice_rounds
from cifm_cli.evaluation.tuning import NUM_ROUNDS
from cifm_cli.provenance import numpy_generator
from cifm_cli.report.terminal import say, warn

if TYPE_CHECKING:
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.predictors import Bench
    from cifm_cli.evaluation.protocols import Round

MOST_VALUES = 16_000_000  # cells times genes scored at once unless the user says otherwise: 64 MB for each array


class Plan(NamedTuple):
    """The rounds of one slide and geometry.

    Args:
        tuning: On which hyper-parameters and gates are chosen.
        scored: On which everybody is scored.
    """

    tuning: list[Round]
    scored: list[Round]


def tuning_region(slide: Slide, scored: str) -> str:
    """The region that everybody is tuned on: validation, unless it is scored or empty; then the training region.

    Args:
        slide: As it was prepared.
        scored: The region that is scored; `all` leaves out what is tuned on.

    Returns:
        Its name.
    """
    if scored != keys.VALIDATION and len(slide.region(keys.VALIDATION)):
        return keys.VALIDATION
    why = "is what is scored" if scored == keys.VALIDATION else "has no cells"
    warn(f"slide {slide.name}: its validation region {why}; baselines and gates are tuned on the training region")
    return keys.TRAIN


def plan_rounds(bench: Bench, geometry: str, scored: str, tuned: str, most: int | None) -> Plan:
    """Hide cells to tune on and cells to score.

    Args:
        bench: The slide.
        geometry: Of `protocols`.
        scored: Region that is scored.
        tuned: Region that is tuned on.
        most: Most rounds to score; absent: all, unless that is too much for memory.

    Returns:
        The rounds.

    Raises:
        CifmError: There are too few cells.
    """
    if scored == keys.ALL:
        tuning, rounds = _everywhere(bench, geometry, tuned)
    else:
        tuning, rounds = _tuning_rounds(bench, geometry, tuned), _hide(bench, geometry, scored)
    tuning = _affordable(tuning, bench)[:NUM_ROUNDS]
    if not rounds or not tuning:
        raise CifmError(
            f"slide {bench.slide.name}: too few cells to hide some in the {geometry} geometry",
            "evaluate a larger slide, or all of its cells: --region all",
        )
    return Plan(tuning, rounds[:most] if most is not None else _within_memory(rounds, bench))


def _hide(bench: Bench, geometry: str, region: str, seen: Rows | None = None) -> list[Round]:
    """Rounds of a region; in `whole` the cells of all other regions are visible, unless `seen` says which."""
    slide = bench.slide
    if geometry == WHOLE and seen is None:
        apart = (keys.REGIONS.index(region), keys.REGIONS.index(keys.BUFFER))
        seen = np.flatnonzero(~np.isin(slide.split, apart))
    return hide(geometry, slide.xy_um, slide.region(region), bench.radius_um, bench.seed, seen)


def _tuning_rounds(bench: Bench, geometry: str, region: str) -> list[Round]:
    """Rounds to tune on, in which no scored cell is visible."""
    slide = bench.slide
    if geometry != WHOLE:
        return _hide(bench, geometry, region)
    if region == keys.VALIDATION:
        return _hide(bench, geometry, region, slide.region(keys.TRAIN))
    return practice_rounds(geometry, slide.xy_um, slide.region(region), bench.radius_um, bench.seed)


def _everywhere(bench: Bench, geometry: str, tuned: str) -> tuple[list[Round], list[Round]]:
    """Rounds of the whole slide: cells that are tuned on are not scored, and visible while others are."""
    slide = bench.slide
    if geometry == WHOLE:
        raise CifmError(
            "--region all leaves nothing to see in the geometry whole", f"choose a region, or --geometry {SCATTERED}"
        )
    everybody = np.arange(slide.num_cells)
    tuning = _affordable(_hide(bench, geometry, tuned, everybody), bench)[:NUM_ROUNDS]
    spent = np.sort(np.concatenate([part.hidden for part in tuning])) if tuning else everybody[:0]
    rest = np.setdiff1d(everybody, spent, assume_unique=True)
    return tuning, hide(geometry, slide.xy_um, rest, bench.radius_um, bench.seed, spent)


def _within_memory(rounds: list[Round], bench: Bench) -> list[Round]:
    affordable = _affordable(rounds, bench)
    scored, hidden = (sum(len(part.hidden) for part in some) for some in (affordable, rounds))
    if scored < hidden:
        geometry = rounds[0].geometry
        say(f"{bench.slide.name}, {geometry}: scoring {scored:,} of {hidden:,} cells; more with --rounds")
    return affordable


def _affordable(rounds: list[Round], bench: Bench) -> list[Round]:
    """The first rounds, as long as cells times genes stay within bounds; a piece of the first where it is too large."""
    most = max(1, MOST_VALUES // len(bench.columns))
    if rounds and len(rounds[0].hidden) > most:
        first = int(numpy_generator(bench.seed, "piece").integers(len(rounds[0].hidden) - most + 1))
        return [replace(rounds[0], hidden=rounds[0].hidden[first : first + most])]  # the others are in nobody's sight
    return rounds[: int(np.searchsorted(np.cumsum([len(part.hidden) for part in rounds]), most, side="right"))]
