"""Cells for sharing from embedded slides: embeddings, samples, types and groups.

Letters: n cells of a slide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from cifm_cli import keys
from cifm_cli.data.writers.one_model import require_one_model
from cifm_cli.errors import CifmError
from cifm_cli.sharing.cells import Part

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.data.writers.embedded import OpenEmbeddings

Level = Literal["microenvironment", "cell"]
SLOTS: dict[str, str] = {"microenvironment": keys.MICROENVIRONMENT, "cell": keys.CELL}
MAX_TYPES = 100
_METADATA = (keys.CONDITION, keys.TISSUE, keys.PLATFORM)


def read_parts(slides: Sequence[OpenEmbeddings], level: Level, label: str | None, group: str | None) -> list[Part]:
    """Take the embeddings, types and groups of embedded slides.

    Args:
        slides: Embedded slides, of one model.
        level: `microenvironment` or `cell`.
        label: Column of obs with types; None for `cifm_cell_type` where a slide has it.
        group: A column of obs that is constant on each slide, or condition, tissue or platform; None for no groups.

    Returns:
        A part for each slide.

    Raises:
        CifmError: The slides were embedded by different models or lack the embedding, the types or the group.
    """
    require_one_model(slides)
    slot = SLOTS[level]
    for slide in slides:
        if slot not in slide.embeddings:
            raise CifmError(
                f"{slide.path}: holds no {level} embedding (obsm {slot})",
                f"embed the slide with `cifm embed SLIDE --level {level}`",
            )
    types = [slide_types(slide.obs, label) for slide in slides]
    if label is not None and all(each is None for each in types):
        raise CifmError(
            f"--label {label}: no such column in {', '.join(slide.name for slide in slides)}", _columns(slides)
        )
    _require_few_types(types, label or keys.CELL_TYPE, _columns(slides))
    return [
        Part(
            name=slide.name,
            sample=slide.facts[keys.SAMPLE] or slide.name,
            embedding=slide.embeddings[slot],
            xy_um=slide.xy_um,
            types=kinds,
            group=None if group is None else _group_of(slide, group),
            platform=slide.facts[keys.PLATFORM],
        )
        for slide, kinds in zip(slides, types, strict=True)
    ]


def slide_types(obs: pd.DataFrame, label: str | None) -> NDArray[np.object_] | None:
    """(n,) types as text, None for a cell without one; None if the table has no such column."""
    column = label or keys.CELL_TYPE
    if column not in obs:
        return None
    values = obs[column]
    if pd.api.types.is_float_dtype(values.dtype):
        # pandas stores integers with missing values as floats: 1.0 is the type `1`.
        values = values.map("{:g}".format, na_action="ignore")
    texts = values.astype(object).to_numpy(dtype=object)
    return np.array([None if pd.isna(text) or text == "" else str(text) for text in texts], dtype=object)


def _require_few_types(types: Sequence[NDArray[np.object_] | None], column: str, hint: str) -> None:
    names = {name for each in types if each is not None for name in each.tolist() if name is not None}
    if len(names) > MAX_TYPES:
        raise CifmError(f"--label {column}: {len(names):,} different values, at most {MAX_TYPES} are types", hint)


def _group_of(slide: OpenEmbeddings, group: str) -> str:
    """The only value of the column, or the metadata of the slide."""
    if group in slide.obs:
        values = slide_types(slide.obs, group)
        names = sorted(set(() if values is None else values.tolist()), key=str)
        if len(names) != 1 or names[0] is None:
            raise CifmError(
                f"{slide.path}: --group {group} has {len(names)} values, a slide is in one group",
                "give a column that is constant on each slide, or condition, tissue or platform",
            )
        return str(names[0])
    if group not in _METADATA:
        raise CifmError(
            f"{slide.path}: --group {group}: no such column of obs", "or give condition, tissue or platform"
        )
    if not slide.facts[group]:
        raise CifmError(f"{slide.path}: has no {group}", f"prepare the slide with `cifm prepare --{group}`")
    return slide.facts[group]


def _columns(slides: Sequence[OpenEmbeddings]) -> str:
    """A hint with the columns that can be types."""
    names = [
        name
        for name in dict.fromkeys(str(name) for slide in slides for name in slide.obs)
        if not any(name in slide.obs and pd.api.types.is_numeric_dtype(slide.obs[name].dtype) for slide in slides)
    ]
    return f"columns that can serve as types: {', '.join(names) or 'none'}"


def require_different_names(paths: Sequence[Path]) -> None:
    """Check that the results of two slides do not replace each other."""
    names = [path.stem for path in paths]
    for name in names:
        if names.count(name) > 1:
            raise CifmError(f"two slides are called {name}", "rename one of the files")
