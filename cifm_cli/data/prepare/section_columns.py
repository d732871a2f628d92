"""Columns of cells that may name their section: which of them shows that a download holds several sections, and `--by`.

A known name such as `library_id` is tried first; whether the groups are sections is decided by `overlaps.OverlapTest`.

Letters: N cells, K groups.
"""

from __future__ import annotations

import re
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from cifm_cli.data.prepare.overlaps import Overlap, OverlapTest
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from numpy.typing import NDArray

# Words in the names of columns of sections, in order of preference.
_SECTION_WORDS = (
    "library", "section", "slice", "slide", "sample", "fov", "specimen", "puck", "chip", "capture", "core", "roi", "image",
    "dataset", "ident", "replicate", "batch", "donor", "patient", "mouse", "animal", "subject", "individual", "experiment",
)  # fmt: skip
# Names for `--by` where obs has no column: what the barcodes have after the last, or before the first, separator.
BARCODE_SUFFIX, BARCODE_PREFIX = "barcode-suffix", "barcode-prefix"
_BARCODE_PARTS = {BARCODE_SUFFIX: r"[-_:.]([A-Za-z0-9]+)$", BARCODE_PREFIX: r"^([^-_:.]+)[-_:.]"}
Z = "z"  # `--by z` without a column of that name takes the third coordinate
_MIN_CELLS = 5  # per group, on average; fewer are identifiers, not sections
_MAX_GROUPS = {True: 5_000, False: 500}  # of a column with and without a word of sections in its name
_FEW, _FEW_GROUPS = 3, 0.1  # of the values that `--by` takes, at most this share may have so few cells
_MAX_COMBINED = 6  # columns of which pairs are tried


class Sections(NamedTuple):
    """Columns whose groups are sections that overlap."""

    columns: tuple[str, ...]  # one, or two that tell the sections apart together
    num_groups: int  # K
    overlap: Overlap  # the edges that would join sections


def find_sections(xy_um: NDArray[np.float64], obs: pd.DataFrame, ignore: tuple[str, ...] = ()) -> Sections | None:
    """Find out whether the cells of a table are several sections on top of each other.

    Args:
        xy_um: (N, 2) finite positions.
        obs: N rows indexed by barcode.
        ignore: Columns that are not considered, such as those of `--by`.

    Returns:
        The columns that tell the sections apart; None for one section.
    """
    if len(xy_um) < 2 * _MIN_CELLS:
        return None
    test = OverlapTest(xy_um)
    columns = [column for column in _candidates(list(obs.items())) if column.name not in ignore]
    found, mixed = _find_column(test, columns)
    # Barcodes are parsed only if needed, which takes seconds for millions of them.
    if found is None and test.is_crowded:
        found = _find_pair(test, columns) or _find_column(test, _candidates(list(_barcode_columns(obs))))[0]
    return found or mixed


def _find_column(test: OverlapTest, columns: list[_Candidate]) -> tuple[Sections | None, Sections | None]:
    """The first column of sections; and the first one whose groups are several sections each, or keep no distance."""
    mixed = None
    for name, codes, suspected in columns:
        if overlap := test.find(codes, suspected=suspected):
            found = Sections((name,), int(codes.max()) + 1, overlap)
            if overlap.keeps_distance:
                return found, mixed
            mixed = mixed or found
    return None, mixed


def _find_pair(test: OverlapTest, columns: list[_Candidate]) -> Sections | None:
    """Two columns that tell sections apart together: sections of each patient, fields numbered within each slide."""
    suspects = [column for column in columns if column.suspected][:_MAX_COMBINED]
    for one, other in combinations(suspects, 2):
        codes = pd.factorize(one.codes * (other.codes.max() + 1) + other.codes)[0].astype(np.int64)
        num_groups = int(codes.max()) + 1
        # Only a pair that divides the groups of both.
        divides = num_groups > max(one.codes.max(), other.codes.max()) + 1
        if divides and num_groups * _MIN_CELLS <= len(codes):
            overlap = test.find(codes, suspected=True)
            if overlap and overlap.keeps_distance:
                return Sections((one.name, other.name), num_groups, overlap)
    return None


def parse_columns(text: str) -> tuple[str, ...]:
    """Read the names of columns from the command line, separated by commas.

    Args:
        text: `slide` or `slide,fov`.

    Returns:
        The names.

    Raises:
        CifmError: A name is missing or repeated.
    """
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise CifmError(f"--by {text}: a name is missing or repeated", "write it as COLUMN, or COLUMN,COLUMN")
    return names


def labels_by(obs: pd.DataFrame, columns: tuple[str, ...], z: NDArray[np.float64] | None, where: str) -> pd.Series[str]:
    """The label of the section of each cell.

    Args:
        obs: N rows indexed by barcode.
        columns: Columns of `obs`, `z`, or what barcodes have in common.
        z: (N,) third coordinate; None if there is none.
        where: The download, for the message.

    Returns:
        N labels; missing for a cell that has no value in one of the columns.

    Raises:
        CifmError: There is no such column, or its values are not sections.
    """
    parts = [_texts(_column(obs, name, z, where)) for name in columns]
    known = np.logical_and.reduce([part.notna() for part in parts])
    labels = parts[0].astype(object)
    for part in parts[1:]:
        labels = labels + "-" + part
    labels = labels.where(known, other=None)
    sizes = labels.value_counts()
    # Numbers of counts or names of cells.
    if not len(sizes) or (sizes < _FEW).mean() > _FEW_GROUPS:
        raise CifmError(
            f"{where}: --by {','.join(columns)}: {len(sizes):,} values, {(sizes < _FEW).sum():,} of them for less than "
            f"{_FEW} cells, are not sections",
            "name a column that has one value for all cells of a section",
        )
    return labels


def is_section_name(name: str) -> bool:
    """Whether the name of a column has a word of sections in it, such as `sample_id`."""
    return _rank(name) < len(_SECTION_WORDS)


class _Candidate(NamedTuple):
    name: str
    codes: NDArray[np.int64]  # (N,) group of each cell
    suspected: bool


def _candidates(columns: list[tuple[Hashable, pd.Series]]) -> list[_Candidate]:
    """The columns that may name sections, the likeliest first."""
    found = []
    for name, column in columns:
        suspected = is_section_name(str(name))
        codes = _codes(column)
        num_groups = int(codes.max(initial=-1)) + 1
        if 2 <= num_groups <= _MAX_GROUPS[suspected] and num_groups * _MIN_CELLS <= len(codes):
            found.append(_Candidate(str(name), codes, suspected))
    # Among equals, fewer and larger sections.
    return sorted(found, key=lambda column: (_rank(column.name), int(column.codes.max())))


def _rank(name: str) -> int:
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    found = [_SECTION_WORDS.index(word) for word in words if word in _SECTION_WORDS]
    return min(found, default=len(_SECTION_WORDS))


def _codes(column: pd.Series) -> NDArray[np.int64]:
    """(N,) numbers of the values of a column; a missing value is a value of its own."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.cat.remove_unused_categories()
        codes = column.cat.codes.to_numpy().astype(np.int64)
    else:
        plain = column.map(str, na_action="ignore") if column.dtype == object else column
        codes = pd.factorize(plain)[0].astype(np.int64)
    return np.where(codes < 0, codes.max(initial=-1) + 1, codes)


def _barcode_columns(obs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    barcodes = obs.index.to_series().astype(str)
    for name, pattern in _BARCODE_PARTS.items():
        yield name, barcodes.str.extract(pattern, expand=False)


def _column(obs: pd.DataFrame, name: str, z: NDArray[np.float64] | None, where: str) -> pd.Series:
    names = [str(column) for column in obs.columns]
    if name in names:
        return obs.iloc[:, names.index(name)]
    if name in _BARCODE_PARTS:
        return dict(_barcode_columns(obs))[name]
    if name == Z and z is not None:
        return pd.Series(z, index=obs.index)
    raise CifmError(
        f"{where}: --by {name}: no such column (obs has {', '.join(names) or 'none'})", "name a column of obs"
    )


def _texts(column: pd.Series) -> pd.Series[str]:
    """A column as text; whole numbers without a decimal point."""
    # By position: barcodes of joined samples repeat.
    column = column.reset_index(drop=True)
    if pd.api.types.is_float_dtype(column.dtype):
        return column.map("{:g}".format, na_action="ignore").astype(object)
    return column.astype(object).map(str, na_action="ignore")
