"""Ensembl gene ids."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# Id of any species, then optionally the version, and the suffix of GENCODE for the copy of a gene on chromosome Y.
_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?")


def is_ensembl_id(name: str) -> bool:
    """Whether a name is an Ensembl gene id of any species, with or without version."""
    return _ENSEMBL.fullmatch(name) is not None


def are_ensembl_ids(names: pd.Series[str] | pd.Index[str]) -> NDArray[np.bool_]:
    """Which of N names are Ensembl gene ids of any species, with or without version, as an (N,) mask."""
    return np.fromiter(map(is_ensembl_id, names), dtype=bool, count=len(names))


def species_prefix(name: str) -> str:
    """The letters of an Ensembl id that tell the species, such as ENSG and ENSMUSG; empty for other names."""
    match = _ENSEMBL.fullmatch(name)
    return match.group(1)[:-11] if match else ""


def strip_version(name: str) -> str:
    """An Ensembl id without version and pseudo-autosomal suffix; other names unchanged."""
    match = _ENSEMBL.fullmatch(name)
    return match.group(1) if match else name
