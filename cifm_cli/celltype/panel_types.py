"""Cell types that a panel measures: their expected expression and their markers among the genes of the panel.

A type takes its expected expression from the reference profiles (`profiles.py`). A type without a profile, such as one of a
user's table, takes the mean profile of its lineage, raised at its markers.

Letters: J types of the panel, G genes of the panel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cifm_cli.celltype.markers import load_markers, measured_markers
from cifm_cli.celltype.profiles import load_profiles
from cifm_cli.celltype.taxonomy import load_taxonomy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cifm_cli.celltype.markers import Markers
    from cifm_cli.celltype.profiles import TypeProfiles
    from cifm_cli.celltype.taxonomy import Taxonomy

    Numbers = NDArray[np.float64]
    Mask = NDArray[np.bool_]

FLOOR: Final = 3.0  # counts per million added to every profile: references of few cells have zeros by chance
UNKNOWN_GENE: Final = 10.0  # counts per million of a gene without profile
MIN_MARKER: Final = 30.0  # counts per million of a gene that marks a type by its profile alone
MARKER_RATIO: Final = 3.0  # of a marker in its type to the largest value in an unrelated type
ABSENT_RATIO: Final = 6.0  # of a marker in a type without profile to the mean over types
ABSENT_MARKER: Final = 60.0  # the least counts per million of such a marker
# Bounds of the ratio of a profile to the geometric mean over types: single genes of another tissue, such as KLK3 of
# luminal cells of the prostate, must not decide about a type.
RATIO_BOUNDS: Final = (0.25, 12.0)
UNOPPOSED: Final = 100.0  # counts per million that a listed marker has at most in unrelated types
LISTED_RATIO: Final = 4.0  # the least ratio of a gene of the marker table that the profile confirms

INDISTINCT: Final = 3.0  # mean log likelihood ratio below which every tenth cell or more looks like the other type


@dataclass(frozen=True)
class PanelTypes:
    """The types of a panel."""

    names: tuple[str, ...]  # J types
    profiles: Numbers  # (J, G) expected fraction of a cell's counts; rows sum to 1
    markers: Mask  # (J, G) genes that show a type
    has_profile: Mask  # (J,) whether a type has a reference profile
    left_out: dict[str, int]  # number of measured markers of each type that has too few


def panel_types(
    symbols: Sequence[str], markers: Markers, tissue: str | None, references: TypeProfiles | None = None
) -> PanelTypes:
    """Collect the types that a panel measures and a tissue may contain.

    Args:
        symbols: G gene symbols.
        markers: Symbols by type.
        tissue: A tissue of the taxonomy; None if it is unknown.
        references: Reference profiles; the packaged ones when absent.

    Returns:
        The types.
    """
    taxonomy, references = load_taxonomy(), references or load_profiles()
    spelled = {taxonomy.spelling(name): genes for name, genes in markers.items()}
    possible = {name: genes for name, genes in spelled.items() if taxonomy.is_possible(name, tissue)}
    measured, left_out = measured_markers(possible, symbols)
    reference, is_known = references.on_panel(symbols)
    # A user's markers replace the reference profile along with the packaged markers.
    packaged = load_markers()
    by_type = {
        name: row
        for name, row in zip(references.types, reference, strict=True)
        if name in possible and possible[name] == packaged.get(name)
    }
    # A type with a profile can be recognised without a listed marker on the panel.
    names = [name for name in possible if name in measured or name in by_type or _children(name, by_type, taxonomy)]
    upper = _upper(symbols)
    listed = np.array([np.isin(upper, _upper(possible[name])) for name in names], dtype=bool)
    listed = listed.reshape(len(names), len(upper))
    profiles, has_profile = _counts_per_million(names, listed, by_type, is_known, taxonomy)
    marks = _markers(names, profiles, listed, has_profile, is_known, taxonomy)
    enough = np.flatnonzero(marks.sum(axis=1) >= 2)
    left_out |= {names[row]: int(marks[row].sum()) for row in range(len(names)) if row not in set(enough)}
    if len(enough):
        profiles = _bounded(profiles[enough], listed[enough])
    kept = tuple(names[row] for row in enough)
    return PanelTypes(
        kept, profiles, marks[enough], has_profile[enough], {n: left_out[n] for n in left_out if n not in kept}
    )


def _upper(symbols: Sequence[str]) -> list[str]:
    return [symbol.upper() for symbol in symbols]


def _children(name: str, by_type: dict[str, Numbers], taxonomy: Taxonomy) -> list[str]:
    """Types with a profile below a type."""
    return [child for child in by_type if child != name and taxonomy.is_below(child, name)]


def _counts_per_million(
    names: list[str], listed: Mask, by_type: dict[str, Numbers], is_known: Mask, taxonomy: Taxonomy
) -> tuple[Numbers, Mask]:
    """(J, G) counts per million of each type, and (J,) whether they come from a reference."""
    known = np.array(list(by_type.values())).reshape(len(by_type), len(is_known))
    unknown = np.full(len(is_known), UNKNOWN_GENE)
    typical = np.where(is_known, _geometric_mean(known), unknown) if by_type else unknown
    mean = np.where(is_known, known.mean(axis=0), unknown) if by_type else unknown
    rows, has_profile = [], []
    for name, is_listed in zip(names, listed, strict=True):
        children = _children(name, by_type, taxonomy)
        own = by_type.get(name)
        if own is None and children:
            own = _geometric_mean(np.array([by_type[child] for child in children]))
        has_profile.append(own is not None)
        if own is None:
            lineage = taxonomy.lineage(name)
            similar = [row for other, row in by_type.items() if taxonomy.lineage(other) == lineage]
            own = _geometric_mean(np.array(similar)) if similar else typical
            own = np.where(is_known, own, typical)
            own = np.where(is_listed, np.maximum(own, np.maximum(ABSENT_RATIO * mean, ABSENT_MARKER)), own)
        else:
            own = np.where(is_listed & (mean < UNOPPOSED / 2), np.maximum(own, MIN_MARKER), own)
        rows.append(np.where(is_known | is_listed, own, typical))
    return np.array(rows).reshape(len(names), len(is_known)) + FLOOR, np.array(has_profile, dtype=bool)


def _geometric_mean(rows: Numbers) -> Numbers:
    mean: Numbers = np.expm1(np.log1p(rows).mean(axis=0))
    return mean


def _markers(
    names: list[str], profiles: Numbers, listed: Mask, has_profile: Mask, is_known: Mask, taxonomy: Taxonomy
) -> Mask:
    """(J, G) genes that show a type: those of the table that the references do not contradict, and specific ones."""
    marks = np.zeros(profiles.shape, dtype=bool)
    for row, name in enumerate(names):
        others = [k for k, other in enumerate(names) if has_profile[k] and not taxonomy.are_related(name, other)]
        if not has_profile[row] or not others:
            marks[row] = listed[row]
            continue
        ordered = np.sort(profiles[others], axis=0)
        own = profiles[row] - FLOOR
        is_specific = is_known & (own >= MIN_MARKER) & (profiles[row] >= MARKER_RATIO * ordered[-1])
        # Two unrelated types may express a listed marker as well.
        others_level = ordered[-min(3, len(others))]
        is_confirmed = (own >= MIN_MARKER / 2) & (profiles[row] >= MARKER_RATIO / 2 * others_level)
        # The reference may stem from another tissue, such as luminal cells of the prostate, which lack ESR1.
        is_unopposed = ordered[-1] < UNOPPOSED
        marks[row] = is_specific | (listed[row] & (~is_known | is_confirmed | is_unopposed))
    return _specific_to_children(names, marks, listed, taxonomy)


def _specific_to_children(names: list[str], marks: Mask, listed: Mask, taxonomy: Taxonomy) -> Mask:
    """Remove the markers that a type shares with the type above it, where two others remain."""
    position = {name: row for row, name in enumerate(names)}
    for row, name in enumerate(names):
        for parent in taxonomy.ancestors(name)[1:]:
            if parent in position:
                own = marks[row] & ~listed[position[parent]]
                marks[row] = own if own.sum() >= 2 else marks[row]
    return marks


def _bounded(profiles: Numbers, listed: Mask) -> Numbers:
    """(J, G) fractions, with bounded ratios to the geometric mean over types."""
    typical = np.exp(np.log(profiles).mean(axis=0))
    ratio = np.clip(profiles / typical, *RATIO_BOUNDS)
    is_expressed = listed & (profiles > FLOOR + 5)
    bounded = typical * np.where(is_expressed, np.maximum(ratio, LISTED_RATIO), ratio)
    fractions: Numbers = bounded / bounded.sum(axis=1, keepdims=True)
    return fractions


def indistinct_types(types: PanelTypes, is_found: Mask, depth: float) -> tuple[tuple[str, str], ...]:
    """Find pairs of types that cells of a slide hardly show apart.

    Args:
        types: The types of the panel.
        is_found: (J,) types to compare.
        depth: Sum of the counts of a typical cell.

    Returns:
        Pairs of types, of which neither is above the other, whose mean log likelihood ratio for such a cell is small.
    """
    taxonomy = load_taxonomy()
    logs = np.log(types.profiles + 1e-7)
    found = np.flatnonzero(is_found)
    pairs = []
    for position, first in enumerate(found):
        for second in found[position + 1 :]:
            difference = logs[first] - logs[second]
            separation = min(types.profiles[first] @ difference, -(types.profiles[second] @ difference))
            names = types.names[first], types.names[second]
            if depth * separation < INDISTINCT and not taxonomy.are_related(*names):
                pairs.append(names)
    return tuple(pairs)
