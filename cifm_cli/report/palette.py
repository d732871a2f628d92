"""Colours of categories, distinguishable with the common forms of colour blindness, and the order of categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# The palette of Okabe and Ito without black, which is used for text, and with a darker yellow: theirs can hardly be seen on white.
COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#CCD860")
# Twelve colours of categories, such as cell types: the nearest two are as different as the nearest two of `COLOURS`, also
# with protanopia, deuteranopia and tritanopia.
CATEGORY_COLOURS: Final = (*COLOURS, "#7F3FD1", "#14247F", "#5CE6A8", "#6B3410", "#4B1E5A")
# For clusters, of which there are often more. The first 24 are told apart with these forms of colour blindness too, the others
# with normal vision; numbers have to help otherwise.
CLUSTER_COLOURS: Final = (
    *CATEGORY_COLOURS,
    "#901884", "#E11E4B", "#C3B469", "#870F3C", "#8796FF", "#90C0A8", "#D200B4", "#0048FC", "#6C5400", "#F07887", "#6C7854",
    "#78A53C", "#C31E00", "#00D21E", "#A569D2", "#F0A587", "#0C6054", "#A52DFF", "#B42424", "#E4B454", "#D21E87", "#184800",
    "#3C54A8", "#906C48",
)  # fmt: skip
# The same clusters on a dark page, in similar hues. Dark colours that are only made lighter would look like those of other clusters.
DARK_CLUSTER_COLOURS: Final = (
    *COLOURS,
    "#9000FC", "#6054CC", "#00FCC0", "#B4603C", "#D830FC", "#B418A8", "#C02478", "#F0E430", "#E46C78", "#0C84FC", "#90F084",
    "#F078D8", "#9C9CFC", "#B4903C", "#CC000C", "#546C54", "#9CCC90", "#C02454", "#78E418", "#C078CC", "#FC9054", "#0CFCFC",
    "#903CE4", "#FC0C60", "#D8E49C", "#A8546C", "#3C9C30", "#D8B4FC", "#84600C",
)  # fmt: skip
OTHERS: Final = "#B4B4B4"  # categories without a colour of their own
UNKNOWN: Final = "#E0E0E0"  # cells without a category
_TONES: Final = (0.0, -0.4, 0.5, -0.65)  # fraction of black (negative) or white (positive) that is mixed in


def assign_colours(names: Sequence[str]) -> dict[str, str]:
    """Assign a colour to every name; the same names get the same colours.

    Args:
        names: Names of categories or series. From the eighth on, the palette repeats in other tones.

    Returns:
        Name to hexadecimal colour.
    """
    return {
        name: blend(COLOURS[i % len(COLOURS)], _TONES[i // len(COLOURS) % len(_TONES)]) for i, name in enumerate(names)
    }


def colour_categories(names: Sequence[str]) -> dict[str, str]:
    """Assign colours that can be told apart to the first categories.

    Args:
        names: Names of categories, the most important first.

    Returns:
        Name to hexadecimal colour, for the first twelve; the others are to be drawn in `OTHERS`.
    """
    return dict(zip(names, CATEGORY_COLOURS, strict=False))


def colour_clusters(names: Sequence[str]) -> dict[str, str]:
    """Assign colours to the first clusters.

    Args:
        names: Names of clusters, the largest first.

    Returns:
        Name to hexadecimal colour, for the first 36, the first twelve being those of `colour_categories`; the others are to
        be drawn in `OTHERS`.
    """
    return dict(zip(names, CLUSTER_COLOURS, strict=False))


def blend(colour: str, tone: float, ground: str = "#ffffff") -> str:
    """Mix a hexadecimal colour with a ground, or with black where the tone is negative.

    Args:
        colour: The colour.
        tone: Share of the ground, or minus the share of black.
        ground: Hexadecimal colour of the ground.

    Returns:
        A hexadecimal colour.
    """
    rgb, other = (np.array([int(each[i : i + 2], 16) for i in (1, 3, 5)]) for each in (colour, ground))
    mixed = rgb + abs(tone) * ((other if tone > 0 else 0) - rgb)
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def contrast(colour: str, ground: str) -> float:
    """Contrast of two hexadecimal colours as WCAG 2 defines it, from 1 to 21."""
    lighter, darker = sorted((_luminance(colour), _luminance(ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of a hexadecimal colour, from 0 to 1."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def sort_names(names: Iterable[str]) -> list[str]:
    """Sort names and remove duplicates; numbers come first, in numerical order (2 before 10).

    Args:
        names: Names of categories, such as clusters.

    Returns:
        Sorted names, each of them once.
    """
    # Numbers are compared by length and then as text, which is their numerical order without leading zeros.
    return sorted(set(names), key=lambda name: (not name.isdigit(), len(name) if name.isdigit() else 0, name))
