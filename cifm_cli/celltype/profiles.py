"""Mean expression of cell types in public single-cell references, built by `tools/build_cell_profiles.py`.

The profiles derive from the CellProfileLibrary of NanoString (CC BY 4.0); `PROFILES.txt` names the sources.

Letters: T types, G genes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

STEPS: Final = 8  # stored steps of one log2


@dataclass(frozen=True)
class TypeProfiles:
    """Reference profiles of types."""

    types: tuple[str, ...]  # T names
    genes: tuple[str, ...]  # G symbols, upper case
    counts_per_million: NDArray[np.float64]  # (T, G)

    def on_panel(self, symbols: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Select the genes of a panel.

        Args:
            symbols: P symbols.

        Returns:
            (T, P) counts per million, zero for genes without profile; and (P,) a mask of the genes with profile.
        """
        row = {gene: position for position, gene in enumerate(self.genes)}
        columns = np.array([row.get(symbol.upper(), -1) for symbol in symbols], dtype=np.int64)
        has_profile = columns >= 0
        return np.where(has_profile, self.counts_per_million[:, columns], 0.0), has_profile


@cache
def load_profiles(path: Path | None = None) -> TypeProfiles:
    """Read a file that `tools/build_cell_profiles.py` wrote.

    Args:
        path: The file; the packaged one when absent.

    Returns:
        The profiles.
    """
    source: Any = path or resources.files("cifm_cli.celltype").joinpath("profiles.npz")
    with source.open("rb") as file, np.load(file) as arrays:
        types, genes = ([str(name, "ascii") for name in arrays[key]] for key in ("types", "genes"))
        logarithms = arrays["steps"].T.astype(np.float64) / STEPS
    return TypeProfiles(tuple(types), tuple(genes), 2.0**logarithms - 1)
