"""Adding the joint analysis of slides to an embedded slide, under the names that scanpy gives them.

Letters: N cells of a slide, D features, C clusters of all slides.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem

from cifm_cli import keys
from cifm_cli.data.metadata import parse_object
from cifm_cli.data.open_hdf5 import create_hdf5, open_for_reading
from cifm_cli.errors import CifmError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

_ABOUT = f"uns/{keys.CIFM}/{keys.ANALYSIS}"  # provenance of the analysis
_PREFIX = "cifm_"  # of names that the slides have already


@dataclass(frozen=True)
class SlideAnalysis:
    """The analysis of one slide; None for what was not computed."""

    about: dict[str, Any]  # provenance
    umap: NDArray[np.float32] | None = None  # (N, 2)
    umap_params: dict[str, Any] | None = None
    clusters: NDArray[np.int32] | None = None  # (N,) numbers
    cluster_params: dict[str, Any] | None = None
    cluster_colours: Sequence[str] = ()  # C hexadecimal colours; empty to leave the choice to scanpy
    distances: csr_matrix | None = None  # (N, N) distances to nearest neighbours
    connectivities: csr_matrix | None = None  # (N, N)
    neighbor_params: dict[str, Any] | None = None


def name_prefix(paths: Sequence[Path]) -> str:
    """The prefix of the names of the analysis, with which none of the slides has another element of that name.

    Args:
        paths: Embedded slides.

    Returns:
        `""`, or `cifm_` if a slide has elements of these names that an earlier analysis of cifm did not write.
    """
    for path in paths:
        with open_for_reading(path) as file:
            names = {name for kind in elements("").values() for name in kind if name in file}
            if names - analysis_elements(file):
                return _PREFIX
    return ""


def elements(prefix: str) -> dict[str, list[str]]:
    """Paths in the file of the elements of an analysis.

    Args:
        prefix: Prefix of their names.

    Returns:
        Paths of `umap`, `clusters` and `neighbors`.
    """
    names = slot_names(prefix)
    return {
        "umap": [f"obsm/{names['umap']}", f"uns/{prefix}{keys.UMAP}"],
        "clusters": [f"obs/{names['clusters']}", f"uns/{names['clusters']}", f"uns/{names['clusters']}_colors"],
        "neighbors": [f"obsp/{names['distances']}", f"obsp/{names['connectivities']}", f"uns/{names['neighbors']}"],
    }


def slot_names(prefix: str) -> dict[str, str]:
    """Names of the elements of an analysis in their groups, with a prefix."""
    graph = f"{prefix}{keys.NEIGHBORS}_" if prefix else ""
    return {
        "umap": f"X_{prefix}{keys.UMAP}",
        "clusters": f"{prefix}{keys.LEIDEN}",
        "neighbors": f"{prefix}{keys.NEIGHBORS}",
        "distances": f"{graph}distances",
        "connectivities": f"{graph}connectivities",
    }


def add_analysis(path: Path, analysis: SlideAnalysis, prefix: str) -> None:
    """Add an analysis to an embedded slide that no other program uses.

    Args:
        path: The file, which is changed in place.
        analysis: The analysis.
        prefix: As returned by `name_prefix`.
    """
    names = slot_names(prefix)
    with create_hdf5(path, "r+") as file:
        remove_analysis(file)
        if analysis.umap is not None:
            write_elem(file["obsm"], names["umap"], analysis.umap)
            write_elem(file["uns"], f"{prefix}{keys.UMAP}", {"params": analysis.umap_params})
        if analysis.clusters is not None:
            # Clusters of other slides alone are no categories: scanpy's comparisons of groups fail on empty ones.
            present, codes = np.unique(analysis.clusters, return_inverse=True)
            categories = pd.Index([str(number) for number in present])
            _add_column(file["obs"], names["clusters"], pd.Categorical.from_codes(codes, categories))
            write_elem(file["uns"], names["clusters"], {"params": analysis.cluster_params})
            if analysis.cluster_colours:
                colours = np.array(analysis.cluster_colours, dtype=object)[present]
                write_elem(file["uns"], f"{names['clusters']}_colors", colours)
        if analysis.distances is not None:
            for slot in ("distances", "connectivities"):
                write_elem(file["obsp"], names[slot], getattr(analysis, slot))
            about = {f"{slot}_key": names[slot] for slot in ("distances", "connectivities")}
            write_elem(file["uns"], names["neighbors"], {**about, "params": analysis.neighbor_params})
        write_elem(file[f"uns/{keys.CIFM}"], keys.ANALYSIS, json.dumps(analysis.about, allow_nan=False))


def remove_analysis(file: h5py.File) -> None:
    """Remove an earlier analysis by cifm, which was of other embeddings; elements of other programs stay.

    Args:
        file: An embedded slide, open for writing.
    """
    removed = {name for name in analysis_elements(file) if name in file}
    obs = file["obs"].attrs
    kept = [name for name in obs["column-order"] if f"obs/{name}" not in removed]
    obs["column-order"] = np.array(kept, dtype=object)
    for name in sorted(removed):
        del file[name]
    if _ABOUT in file:
        del file[_ABOUT]


def analysis_elements(file: h5py.File) -> set[str]:
    """Paths of the elements that an analysis by cifm has written, according to its provenance.

    Args:
        file: An embedded slide.

    Returns:
        The paths; empty if there was no analysis, or its provenance is damaged.
    """
    stored = file.get(_ABOUT)
    text = stored[()] if isinstance(stored, h5py.Dataset) and stored.shape == () else None
    if not isinstance(text, bytes):
        return set()
    try:
        about = parse_object(text.decode(errors="replace"), _ABOUT).get(keys.ANALYSIS)
    except CifmError:
        return set()
    slots = about.get("slots") if isinstance(about, dict) else None
    # Other programs may change the file, so only elements are believed that an analysis can have.
    known = {name for prefix in ("", _PREFIX) for kind in elements(prefix).values() for name in kind}
    return known & {str(name) for name in slots} if isinstance(slots, list) else set()


def _add_column(obs: h5py.Group, name: str, values: pd.Categorical[str]) -> None:
    write_elem(obs, name, values)
    columns = [str(column) for column in obs.attrs["column-order"]]
    if name not in columns:
        obs.attrs["column-order"] = np.array([*columns, name], dtype=object)


def map_embedding(path: Path, slot: str) -> NDArray[np.float32]:
    """Map an embedding into memory.

    Args:
        path: A file that `embedded_file` wrote.
        slot: Its name in `obsm`.

    Returns:
        (N, D), read when it is used.
    """
    with open_for_reading(path) as file:
        stored = file[f"obsm/{slot}"]
        return np.memmap(path, np.dtype("<f4"), "r", stored.id.get_offset(), stored.shape)
