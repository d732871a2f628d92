"""Writing of types into the `obs` of an AnnData file of the same cells, such as a prepared or an embedded slide."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

from cifm_cli import keys
from cifm_cli.celltype.label_names import lineage_of_label
from cifm_cli.data.barcodes import read_barcodes
from cifm_cli.data.open_hdf5 import open_for_reading
from cifm_cli.data.readers.files import reading
from cifm_cli.errors import CifmError
from cifm_cli.workspace import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cifm_cli.celltype.base import Annotation
    from cifm_cli.data.slide import Rows, Slide

OBS_COLUMNS = (keys.CELL_TYPE, keys.CELL_LINEAGE, keys.CELL_TYPE_SCORE)
_HINT: Final = "name the prepared slide, or the file that `cifm embed` wrote for it"


def match_slides(targets: Sequence[Path], slides: Sequence[Slide]) -> list[tuple[Path, int, Rows]]:
    """Find the slide of each file, before anything is written.

    Args:
        targets: `.h5ad` files.
        slides: Slides that were opened from files.

    Returns:
        For each file its path, the position of its slide, and from `match_cells` the rows of its cells.

    Raises:
        CifmError: A file cannot be read, or its cells are on none of the slides.
    """
    return [(target, *_match_slide(target, slides)) for target in targets]


def _match_slide(target: Path, slides: Sequence[Slide]) -> tuple[int, Rows]:
    """Position and rows of the slide that has the cells of a file."""
    problem = CifmError(f"{target}: no slide to take types from", _HINT)
    for number, slide in enumerate(slides):
        try:
            return number, match_cells(target, slide)
        except CifmError as error:  # the cells may be those of the next slide
            problem = error
    raise problem


def match_cells(target: Path, slide: Slide) -> Rows:
    """Find the cells of a file on a slide.

    Args:
        target: An `.h5ad` file.
        slide: A slide that was opened from a file.

    Returns:
        (M,) row of the slide for each cell of the file.

    Raises:
        CifmError: The file cannot be read, or has cells that the slide lacks.
    """
    with reading(target), open_for_reading(target) as file:
        if not isinstance(file.get("obs"), h5py.Group):
            raise CifmError(f"{target}: no AnnData file", _HINT)
        taken = [name for name in OBS_COLUMNS if name in file["obs"] and not _is_ours(file["obs"], name)]
        num_cells = len(file["obs"][file["obs"].attrs["_index"]])
        names = read_barcodes(file, np.arange(num_cells), target)
    if taken:
        raise CifmError(f"{target}: obs has a column {taken[0]} of another program", "rename that column")
    rows: Rows = pd.Index(slide.barcodes(slide.region(keys.ALL))).get_indexer(pd.Index(names))
    if (rows < 0).any():
        unknown = names[int(np.flatnonzero(rows < 0)[0])]
        raise CifmError(f"{target}: cell {unknown} is not on slide {slide.name}", _HINT)
    return rows


def write_obs(target: Path, rows: Rows, types: Annotation) -> None:
    """Add type, lineage and score to `obs`, replacing those of an earlier annotation. The file is replaced as a whole.

    Args:
        target: An `.h5ad` file.
        rows: (M,) row of the annotation for each cell of the file, from `match_cells`.
        types: Types of the cells of the slide.

    Raises:
        CifmError: The disk is full or may not be written.
    """
    taken = types.take(rows)
    lineages = np.array([lineage_of_label(name) for name in types.names], dtype=object)[taken.codes]
    columns = {
        keys.CELL_TYPE: pd.Categorical(taken.labels),
        keys.CELL_LINEAGE: pd.Categorical(lineages),
        keys.CELL_TYPE_SCORE: np.round(taken.scores, 4).astype(np.float32),
    }
    # A copy is changed and renamed, so that an interruption leaves the old file.
    with atomic_path(target) as temporary:
        shutil.copyfile(target, temporary)
        with h5py.File(temporary, "r+") as file:
            obs = file["obs"]
            for name, values in columns.items():
                if name in obs:
                    del obs[name]
                write_elem(obs, name, values)
                obs[name].attrs[_MARK] = True
            order = [str(name) for name in obs.attrs["column-order"]]
            order += [name for name in columns if name not in order]
            obs.attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())


_MARK: Final = "cifm"  # attribute of the columns of this module


def _is_ours(obs: h5py.Group, name: str) -> bool:
    """Whether a column was written by this module."""
    return _MARK in obs[name].attrs
