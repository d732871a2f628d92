"""Which cells are hidden to be scored, and which to tune on: never the same."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.intervals import FEWEST_BLOCKS, cut_blocks
from cifm_cli.evaluation.piece import hide_around, too_large
from cifm_cli.evaluation.protocols import REGION, SCATTERED, WHOLE, hide, practised
from cifm_cli.evaluation.tuning import NUM_ROUNDS
from cifm_cli.provenance import numpy_generator
from cifm_cli.report.terminal import say, warn

if TYPE_CHECKING:
    from cifm_cli.data.slide import Rows, Slide
    from cifm_cli.evaluation.bench import Bench
    from cifm_cli.evaluation.protocols import Round

MOST_VALUES = 16_000_000  # cells times genes scored at once unless the user says otherwise: 64 MB for each array
MOST_SEEN = 10_000_000  # counts of the cells that a round looks at, where a region is too large to be scored: 200 MB
MOST_OF_PIECE = 16_000  # cells scored of the piece that is taken of such a region
PIECE = 4  # times as many cells are in it, so that several rounds of the usual density are scored


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
        CifmError: There are too few cells, or none with counts would be visible.
    """
    together = scored in (keys.ALL, tuned)
    if together:
        tuning, rounds = _beside_tuning(bench, geometry, scored, tuned, most)
    else:
        tuning = _tuning_rounds(bench, geometry, tuned, scored)
        rounds = _hide(bench, geometry, scored, whole=most is not None)
    tuning = _affordable(tuning, bench)[:NUM_ROUNDS]
    _refuse_blindness(bench, geometry, tuning, tuned)
    _refuse_blindness(bench, geometry, rounds, scored)
    affordable = _affordable(rounds, bench) if most is None else rounds[:most]
    _warn_of_few_blocks(bench, geometry, affordable)
    if most is not None:
        return Plan(tuning, affordable)
    num_cells = len(bench.slide.region(scored)) - (_num_hidden(tuning) if together else 0)
    if (num_scored := _num_hidden(affordable)) < num_cells:
        where = ", in one piece of the tissue" if _num_hidden(rounds) < num_cells else ""
        say(f"{bench.slide.name}, {geometry}: scoring {num_scored:,} of {num_cells:,} cells{where}; more with --rounds")
    return Plan(tuning, affordable)


def _refuse_blindness(bench: Bench, geometry: str, rounds: list[Round], region: str) -> None:
    """Refuse to infer cells where nothing can be seen."""
    where = f"slide {bench.slide.name}, {region} region"
    if not rounds:
        narrower = f"narrower blocks: --block-radii; or --geometry {SCATTERED}"
        raise CifmError(
            f"{where}: too few cells to hide some in the {geometry} geometry",
            narrower if geometry.startswith(REGION) else "evaluate a larger slide, or all of its cells: --region all",
        )
    if not all(map(bench.shows_anything, rounds)):
        raise CifmError(
            f"{where}: hiding cells in the {geometry} geometry leaves none visible that has counts",
            "evaluate another region, or prepare a larger piece of the tissue",
        )


def _warn_of_few_blocks(bench: Bench, geometry: str, rounds: list[Round]) -> None:
    """Say it where intervals say nothing."""
    rows = np.concatenate([part.hidden for part in rounds])
    num_blocks = len(np.unique(cut_blocks(bench.slide.xy_um[rows], bench.radius_um)[1]))
    if num_blocks < FEWEST_BLOCKS:
        warn(
            f"slide {bench.slide.name}, {geometry}: {num_blocks} spatial blocks of scored cells, of {FEWEST_BLOCKS} that "
            "a bootstrap needs at least; every difference is undecided, and intervals reach to zero"
        )


def _hide(bench: Bench, geometry: str, region: str, seen: Rows | None = None, *, whole: bool = False) -> list[Round]:
    """Rounds of a region; in `whole` the cells of all other regions are visible, unless `seen` says which."""
    slide = bench.slide
    if geometry == WHOLE and seen is None:
        apart = (keys.REGIONS.index(region), keys.REGIONS.index(keys.BUFFER))
        seen = np.flatnonzero(~np.isin(slide.split, apart))
    return _hide_rows(bench, geometry, slide.region(region), seen, whole=whole)


def _hide_rows(bench: Bench, geometry: str, rows: Rows, seen: Rows | None, *, whole: bool = False) -> list[Round]:
    """Rounds of some cells, or of a compact piece of them where they are too many to be looked at in every round.

    Args:
        bench: The slide.
        geometry: Of `protocols`.
        rows: Ascending rows to hide.
        seen: Ascending rows that are visible in every round.
        whole: However many they are, don't take a piece.

    Returns:
        The rounds.
    """
    slide, num_scored = bench.slide, min(MOST_OF_PIECE, _most_cells(bench))
    num_cells = PIECE * num_scored
    everybody = rows if seen is None else np.union1d(rows, seen)
    if whole or geometry == WHOLE or len(rows) <= num_cells or not too_large(slide, everybody, MOST_SEEN):
        return hide(geometry, slide.xy_um, rows, bench.radius_um, bench.seed, seen)
    first = int(numpy_generator(bench.seed, "piece").integers(len(rows) - num_cells + 1))
    core = rows[first : first + num_cells]
    rounds = hide_around(slide, geometry, core, rows, bench.margin_um(geometry), bench.seed, seen)
    return _affordable(rounds, bench, num_scored)


def _tuning_rounds(bench: Bench, geometry: str, region: str, scored: str) -> list[Round]:
    """Rounds to tune on, in which no scored cell is visible."""
    slide = bench.slide
    if geometry != WHOLE:
        return _hide(bench, geometry, region)
    if region == keys.VALIDATION and scored != keys.TRAIN:
        return _hide(bench, geometry, region, slide.region(keys.TRAIN))
    # All other cells are what is scored: wide blocks of the region alone, or narrower ones where these don't fit.
    rounds = _hide(bench, practised(geometry), region) or _hide(bench, REGION, region)
    return [replace(part, withheld=slide.region(scored)) for part in rounds]


def _beside_tuning(
    bench: Bench, geometry: str, region: str, tuned: str, most: int | None
) -> tuple[list[Round], list[Round]]:
    """Rounds of a region in which cells are tuned on: these are not scored, and visible while others are."""
    if geometry == WHOLE:
        raise CifmError(
            f"--region {region} leaves nothing to see in the geometry whole, or nothing to tune on",
            f"choose another region, or --geometry {SCATTERED}",
        )
    everybody = bench.slide.region(region)
    tuning = _affordable(_hide(bench, geometry, tuned, everybody), bench)[:NUM_ROUNDS]
    spent = np.sort(np.concatenate([part.hidden for part in tuning])) if tuning else everybody[:0]
    rest = np.setdiff1d(everybody, spent, assume_unique=True)
    return tuning, _hide_rows(bench, geometry, rest, spent, whole=most is not None)


def _num_hidden(rounds: list[Round]) -> int:
    return sum(len(part.hidden) for part in rounds)


def _most_cells(bench: Bench) -> int:
    return max(1, MOST_VALUES // len(bench.columns))


def _affordable(rounds: list[Round], bench: Bench, most: int | None = None) -> list[Round]:
    """The first rounds, as long as cells times genes stay within bounds; a piece of the first where it is too large."""
    most = most or _most_cells(bench)
    if rounds and len(rounds[0].hidden) > most:
        first = int(numpy_generator(bench.seed, "piece").integers(len(rounds[0].hidden) - most + 1))
        return [replace(rounds[0], hidden=rounds[0].hidden[first : first + most])]  # the others are in nobody's sight
    return rounds[: int(np.searchsorted(np.cumsum([len(part.hidden) for part in rounds]), most, side="right"))]
