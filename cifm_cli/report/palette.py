"""Colours of categories, distinguishable with the common forms of colour blindness, and the order of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# The palette of Okabe and Ito without black, which is used for text.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
_TONES: Final = (0.0, -0.4, 0.5, -0.65)  # fraction of black (negative) or white (positive) that is mixed in


def assign_colours(names: Sequence[str]) -> dict[str, str]:
    """Assign a colour to every name; the same names get the same colours.

    Args:
        names: Names of categories or series. From the eighth on, the palette repeats in other tones.

    Returns:
        Name to hexadecimal colour.
    """
    return {name: _mix(COLOURS[i % len(COLOURS)], i // len(COLOURS)) for i, name in enumerate(names)}


def _mix(colour: str, repetition: int) -> str:
    """Mix a colour with black or white, differently for each repetition of the palette."""
    tone = _TONES[repetition % len(_TONES)]
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    mixed = rgb + abs(tone) * ((255 if tone > 0 else 0) - rgb)
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names and remove duplicates; numbers come first, in numerical order (2 before 10).

    Args:
        names: Names of categories, such as clusters.

    Returns:
        Sorted names, each of them once.
    """
    # Numbers are compared by length and then as text, which is their numerical order without leading zeros.
    return sorted(set(names), key=lambda name: (not name.isdigit(), len(name) if name.isdigit() else 0, name))
