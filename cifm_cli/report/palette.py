"""Colours for names, told apart by every common kind of colour vision, and the order in which names are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Okabe and Ito's colours; black is left to text.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
_TONES: Final = (0.0, -0.4, 0.5, -0.65)  # shares of black (negative) or white


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for every name, the same whenever the names are the same.

    Args:
        names: Categories or series; past seven, the palette repeats in other tones.

    Returns:
        Hexadecimal colours.
    """
    return {name: _tone(COLOURS[i % len(COLOURS)], i // len(COLOURS)) for i, name in enumerate(names)}


def _tone(colour: str, turn: int) -> str:
    """The colour mixed with black or white, another mix at each turn through the palette."""
    tone = _TONES[turn % len(_TONES)]
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    mixed = rgb + abs(tone) * ((255 if tone > 0 else 0) - rgb)
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def by_name(names: Iterable[str]) -> list[str]:
    """Sort names without repetition, numbers by their size (2 before 10) and before words.

    Args:
        names: Such as cluster names.

    Returns:
        Each name once.
    """
    return sorted(set(names), key=lambda name: (not name.isdigit(), len(name) if name.isdigit() else 0, name))
