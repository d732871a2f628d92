"""Joint analysis of embedded slides: one graph of nearest neighbours, one UMAP and one clustering over all cells.

The computations are those of scanpy. Up to a number of cells, all of them are analysed. Above it, a sample is, and every
other cell gets the place and the cluster of the sampled cells that are nearest to it. The result depends on the
embeddings and the seed only, not on the number of threads.

Letters: N cells of all slides, n cells of the sample, D features.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from cifm_cli import provenance
from cifm_cli.embedding.nearest_cells import FoundNeighbours, NearestCells
from cifm_cli.errors import CifmError
from cifm_cli.report.terminal import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from cifm_cli.embedding.joint import JointCells

logger = logging.getLogger(__name__)

MIN_CELLS: Final = 20
_PACKAGES: Final = ("scanpy", "umap", "igraph", "leidenalg")
_NEAREST: Final = 5  # sampled cells from which a cell gets its place and cluster
_BLOCK: Final = 20_000
# Cells next to each other have almost the same surroundings, so that the default of scanpy, 1, gives dozens of clusters,
# which are connected areas of a tissue. Without a resolution, the first of these that gives few enough clusters is used.
_RESOLUTIONS: Final = (1.0, 0.5, 0.25, 0.1, 0.05)
_MAX_CLUSTERS: Final = 20  # colours of scanpy's palette for categories, before it takes one with 102 that look alike
_SLOT: Final = "X"


@dataclass(frozen=True)
class AnalysisConfig:
    """What is computed, and how."""

    umap: bool = False
    clusters: bool = False
    neighbors: bool = False  # whether the graph is kept
    k: int = 15  # nearest neighbours of each cell, including the cell itself, as in scanpy
    resolution: float | None = None  # of the Leiden clustering; more gives more clusters; None: one with few clusters
    max_cells: int = 50_000  # number of cells from which on a sample is analysed
    seed: int = 0

    @property
    def is_asked(self) -> bool:
        """Whether there is anything to compute."""
        return self.umap or self.clusters or self.neighbors


@dataclass(frozen=True)
class Graph:
    """The graph of nearest neighbours, as `scanpy.pp.neighbors` makes it."""

    distances: csr_matrix  # (N, N) distances to the nearest neighbours of each cell
    connectivities: csr_matrix  # (N, N) symmetric weights, from 0 to 1
    params: dict[str, Any]  # those in `uns["neighbors"]`


@dataclass(frozen=True)
class Analysis:
    """The result for N cells; None for what was not asked for."""

    fitted: NDArray[np.bool_]  # (N,) cells that were analysed themselves
    umap: NDArray[np.float32] | None  # (N, 2)
    umap_params: dict[str, Any]  # those in `uns["umap"]`
    clusters: NDArray[np.int32] | None  # (N,) cluster numbers; 0 is the largest of the sample
    resolution: float | None  # that of the clusters
    graph: Graph | None  # only if all cells were analysed

    @property
    def num_fitted(self) -> int:
        """N."""
        return int(self.fitted.sum())

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return 0 if self.clusters is None else int(self.clusters.max()) + 1


def require_packages() -> None:
    """Check that the packages of the extra `analysis` are installed, without importing them.

    Raises:
        CifmError: One is missing.
    """
    for name in _PACKAGES:
        try:
            is_there = importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):
            is_there = False
        if not is_there:
            raise CifmError(
                f"--umap, --clusters and --neighbors need {name}, which is not installed",
                'install it with `pip install ".[analysis]"` in the source folder of cifm',
            )


def analyse(cells: JointCells, config: AnalysisConfig) -> Analysis:
    """Compute the graph of nearest neighbours of all cells, and from it a UMAP and clusters.

    Args:
        cells: The embeddings.
        config: What is computed.

    Returns:
        The result.

    Raises:
        CifmError: There are too few cells.
    """
    require_cells(cells.num_cells)
    rows = cells.sample(config.max_cells, config.seed)
    is_sampled = len(rows) < cells.num_cells
    if is_sampled:
        _report_sample(len(rows), cells.num_cells, config)
    fitted = np.zeros(cells.num_cells, dtype=bool)
    fitted[rows] = True
    seed = int(provenance.numpy_generator(config.seed, "analysis").integers(2**31))
    values = cells.read(rows)
    index = NearestCells(values)
    nearest = index.graph(min(config.k, len(values)) - 1)
    with _one_thread():
        graph, umap, umap_params = _analyse_sample(values, nearest, config, seed)
        clusters, resolution = _find_clusters(graph.connectivities, config, seed)
    if is_sampled and (config.umap or config.clusters):
        umap, clusters = _extend(cells, fitted, index, umap, clusters)
    kept = graph if config.neighbors and not is_sampled else None
    logger.info(_describe(cells, umap, (clusters, resolution), kept))
    return Analysis(fitted, umap, umap_params, clusters, resolution, kept)


def require_cells(num_cells: int) -> None:
    """Check that there are enough cells.

    Args:
        num_cells: Number of cells of all slides.

    Raises:
        CifmError: There are too few.
    """
    if num_cells < MIN_CELLS:
        raise CifmError(
            f"{num_cells} cells: too few for a graph of nearest neighbours",
            f"embed slides of at least {MIN_CELLS} cells in total, or leave out --umap, --clusters and --neighbors",
        )


def _report_sample(num_sampled: int, num_cells: int, config: AnalysisConfig) -> None:
    if config.umap or config.clusters:
        logger.info(
            f"{num_cells:,} cells: a random sample of {num_sampled:,} is analysed (--max-cells), and every other cell gets "
            "the place and the cluster of the sampled cells that are nearest to it"
        )
    if config.neighbors:
        logger.warning(
            f"the graph of nearest neighbours is not written, as {num_cells:,} cells are more than --max-cells "
            f"{config.max_cells}"
        )


def _describe(
    cells: JointCells,
    umap: NDArray[np.float32] | None,
    clustering: tuple[NDArray[np.int32] | None, float | None],
    graph: Graph | None,
) -> str:
    clusters, resolution = clustering
    found = ["a UMAP"] if umap is not None else []
    found += [f"{int(clusters.max()) + 1} clusters (resolution {resolution:g})"] if clusters is not None else []
    found += ["nearest neighbours"] if graph is not None else []
    slides = "1 slide" if len(cells.names) == 1 else f"{len(cells.names)} slides together"
    return f"{cells.num_cells:,} cells of {slides} analysed: {', '.join(found) or 'nothing is written'}"


def _analyse_sample(
    values: NDArray[np.float32], nearest: csr_matrix, config: AnalysisConfig, seed: int
) -> tuple[Graph, NDArray[np.float32] | None, dict[str, Any]]:
    """Analyse (n, D) embeddings and their (n, n) distances to nearest neighbours with scanpy."""
    import scanpy as sc

    table = sc.AnnData(obsm={_SLOT: values}, shape=(len(values), 0))
    with progress("nearest neighbours and UMAP" if config.umap else "nearest neighbours", None):
        sc.pp.neighbors(table, use_rep=_SLOT, random_state=seed, transformer=FoundNeighbours(nearest))
        umap, umap_params = None, {}
        if config.umap:
            sc.tl.umap(table, random_state=seed)
            umap, umap_params = table.obsm["X_umap"].astype(np.float32), dict(table.uns["umap"]["params"])
    distances, connectivities = (csr_matrix(table.obsp[name]) for name in ("distances", "connectivities"))
    return Graph(distances, connectivities, dict(table.uns["neighbors"]["params"])), umap, umap_params


def _find_clusters(
    connectivities: csr_matrix, config: AnalysisConfig, seed: int
) -> tuple[NDArray[np.int32] | None, float | None]:
    """(n,) Leiden clusters of the graph, and their resolution; None if they are not asked for."""
    import scanpy as sc

    if not config.clusters:
        return None, None
    table = sc.AnnData(shape=(connectivities.shape[0], 0))
    with progress("clusters", None):
        for resolution in _RESOLUTIONS if config.resolution is None else (config.resolution,):
            sc.tl.leiden(
                table, resolution=resolution, random_state=seed, adjacency=connectivities, flavor="igraph",
                n_iterations=2, directed=False,
            )  # fmt: skip
            clusters = _by_size(table.obs["leiden"].astype(int).to_numpy())
            if clusters.max() < _MAX_CLUSTERS:
                break
    return clusters, resolution


def _by_size(clusters: NDArray[np.int64]) -> NDArray[np.int32]:
    """Number clusters by their size, the largest is 0; of equally large ones, the one that occurs first."""
    names, first, inverse, sizes = np.unique(clusters, return_index=True, return_inverse=True, return_counts=True)
    numbers = np.empty(len(names), dtype=np.int32)
    numbers[np.lexsort((first, -sizes))] = np.arange(len(names))
    return numbers[inverse]


def _extend(
    cells: JointCells,
    fitted: NDArray[np.bool_],
    index: NearestCells,
    umap: NDArray[np.float32] | None,
    clusters: NDArray[np.int32] | None,
) -> tuple[NDArray[np.float32] | None, NDArray[np.int32] | None]:
    """Give every cell that was not sampled a place and a cluster.

    The cluster is the most frequent one of the nearest sampled cells, and the place the mean of those of this cluster:
    the mean over all of them could be in the empty space between two clusters.
    """
    all_umap = None if umap is None else np.empty((cells.num_cells, 2), dtype=np.float32)
    all_clusters = None if clusters is None else np.empty(cells.num_cells, dtype=np.int32)
    if umap is not None and all_umap is not None:
        all_umap[fitted] = umap
    if clusters is not None and all_clusters is not None:
        all_clusters[fitted] = clusters
    others = np.flatnonzero(~fitted)
    with progress("cells outside of the sample", len(others)) as advance:
        for first in range(0, len(others), _BLOCK):
            rows = others[first : first + _BLOCK]
            nearest = index.find(cells.read(rows), _NEAREST)
            keep = np.ones(nearest.shape, dtype=bool)
            if clusters is not None and all_clusters is not None:
                all_clusters[rows] = most_frequent(clusters[nearest])
                keep = clusters[nearest] == all_clusters[rows][:, None]
            if umap is not None and all_umap is not None:
                total = (umap[nearest] * keep[:, :, None]).sum(axis=1, dtype=np.float64)
                all_umap[rows] = total / keep.sum(axis=1)[:, None]
            advance(len(rows))
    return all_umap, all_clusters


def most_frequent(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The most frequent label in each row; of equally frequent ones, the one that is farthest to the left.

    Args:
        labels: (n, K) labels of the neighbours of n cells, the nearest first.

    Returns:
        (n,) labels.
    """
    counts = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    return np.take_along_axis(labels, counts.argmax(axis=1)[:, None], axis=1)[:, 0]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run linear algebra in one thread, as sums in another order differ; scanpy and UMAP do the rest in one thread."""
    with threadpool_limits(1), warnings.catch_warnings():
        # Of the libraries about each other and about details that a user of the command cannot change.
        warnings.simplefilter("ignore")
        yield
