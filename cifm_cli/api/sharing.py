"""`cifm.share`: which microenvironments samples have in common, from embeddings in AnnData objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cifm_cli import keys, provenance
from cifm_cli.data.writers.sharing import record_sharing, store_sharing
from cifm_cli.errors import CifmError
from cifm_cli.sharing import report
from cifm_cli.sharing.cells import Part
from cifm_cli.sharing.share import ShareConfig, Sharing, describe, share_cells
from cifm_cli.sharing.slides import slide_types
from cifm_cli.sharing.tables import cluster_table, enrichment_table, group_table, matrix_table

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cifm_cli.sharing.cells import Center
    from cifm_cli.sharing.neighbours import Search

_HINT = "give a dictionary of sample names and AnnData, or one AnnData and sample_key="


@dataclass(frozen=True)
class SharingResult:
    """What `cifm.share` found; its tables are the files of `cifm share`."""

    sharing: Sharing  # arrays
    provenance: dict[str, Any]  # as stored in the AnnData

    @property
    def matrix(self) -> pd.DataFrame:
        """(S, S) mean fraction of the neighbours of the cells of a sample (row) in each sample (column)."""
        return pd.DataFrame(self.sharing.fractions.matrix, index=self.sharing.samples, columns=self.sharing.samples)

    @property
    def pairs(self) -> pd.DataFrame:
        """A row for each pair of samples: fraction, expected, enrichment, permutations, p and q."""
        return matrix_table(self.sharing)

    @property
    def clusters(self) -> pd.DataFrame:
        """A row for each cluster of each sample."""
        return cluster_table(self.sharing)

    @property
    def enrichment(self) -> pd.DataFrame:
        """A row for each type in each cluster; empty without types."""
        return enrichment_table(self.sharing)

    @property
    def groups(self) -> pd.DataFrame:
        """A row for each pair of groups; empty without groups."""
        return group_table(self.sharing)

    @property
    def facts(self) -> dict[str, Any]:
        """The content of `sharing.json`, without provenance."""
        return describe(self.sharing)

    def write_html(self, path: Path | str) -> None:
        """Write the page of `cifm share`, one file with all figures."""
        from pathlib import Path

        from cifm_cli.report.html import write_report

        write_report(
            Path(path),
            report.TITLE,
            report.sections(self.sharing),
            self.provenance,
            answer=report.answer(self.sharing),
            remarks=report.remarks(self.sharing),
        )


def share(
    adata: AnnData | Mapping[str, AnnData],
    sample_key: str | None = None,
    *,
    use_rep: str = keys.MICROENVIRONMENT,
    k: int = 100,
    clusters: int | None = None,
    label: str | None = None,
    group: str | None = None,
    center: Center = "sample",
    balance: bool | None = None,
    search: Search = "auto",
    permutations: int = 999,
    seed: int = 0,
) -> SharingResult:
    """Find which microenvironments samples have in common, as `cifm share` does.

    Args:
        adata: N cells of several samples, or a dictionary of sample names and AnnData.
        sample_key: Column of `obs` with the sample of each cell, if `adata` is one AnnData.
        use_rep: Embedding in `obsm`: `X_cifm`, `X_cifm_cell`, or any other of the same width in all samples.
        k: Nearest neighbours of each cell.
        clusters: Clusters of each sample; by default the number with the best silhouette.
        label: Column of `obs` with types; by default `cifm_cell_type`, if present.
        group: Column of `obs`, constant in each sample, whose groups of samples are compared.
        center: `sample` to remove shifts between samples where their microenvironments match under one shift, `none` to use
            the embeddings as they are.
        balance: Whether to search neighbours among equal numbers of cells of each sample; by default if one sample has more
            than twice the cells of another.
        search: `exact`, `approximate` (needs faiss), or `auto`: approximate above 100,000 cells.
        permutations: Permutations for the types of clusters.
        seed: Seed of all draws.

    Returns:
        The result. Each AnnData gets (N, S) fractions of the neighbours in each sample in `obsm["X_cifm_sharing"]`, the
        clusters, which are numbered within each sample, in `obs["sharing_cluster"]`, and the names of the S samples in
        `uns["cifm"]["sharing"]`.

    Raises:
        CifmError: An embedding or column is missing, or there are too few samples or cells.

    Examples:
        >>> result = cifm.share({"A": a, "B": b}, label="cell_type")
        >>> result.matrix
        >>> sc.pl.embedding(a, "spatial", color="sharing_cluster")
    """
    config = ShareConfig(k, clusters, (), center, balance, search, permutations, seed)
    _check_config(config)
    cells = _select_cells(adata, sample_key)
    parts = [_make_part(each, rows, name, use_rep, label, group) for name, each, rows in cells]
    if label is not None and all(part.types is None for part in parts):
        raise CifmError(f"label: no column {label} in obs", "give a column of obs with types")
    sharing = share_cells(parts, config)
    facts = {key: value for key, value in asdict(config).items() if key != "seed"}
    origin = provenance.collect("share", seed=seed, use_rep=use_rep, label=label, group=group, **facts)
    _store(cells, sharing, origin)
    return SharingResult(sharing, origin)


def _check_config(config: ShareConfig) -> None:
    """Check what the options of the command check."""
    if config.k < 1 or config.permutations < 1 or (config.clusters is not None and config.clusters < 1):
        raise CifmError("k, clusters and permutations must be at least 1", "see help(cifm.share)")
    known_center, known_search = ("sample", "none"), ("auto", "exact", "approximate")
    if config.center not in known_center:
        raise CifmError(f"center: {config.center}", f"known are {', '.join(known_center)}")
    if config.search not in known_search:
        raise CifmError(f"search: {config.search}", f"known are {', '.join(known_search)}")


def _store(cells: list[tuple[str, AnnData, NDArray[np.int64]]], sharing: Sharing, origin: dict[str, Any]) -> None:
    """Store fractions, clusters and provenance in the AnnData of the caller."""
    for each in {id(each): each for _, each, _ in cells}.values():
        each.obsm.pop(keys.SHARING, None)  # of an earlier call
    for number, (name, each, rows) in enumerate(cells):
        fractions = sharing.fractions.cells[sharing.cells.rows_of(number)]
        store_sharing(each, rows, fractions, sharing.by_sample[name].clusters)
        record_sharing(each, sharing.samples, origin)


def _select_cells(
    adata: AnnData | Mapping[str, AnnData], sample_key: str | None
) -> list[tuple[str, AnnData, NDArray[np.int64]]]:
    """Name, AnnData and rows of each sample."""
    if isinstance(adata, Mapping):
        return _select_from_mapping(adata)
    if not isinstance(adata, AnnData):
        raise CifmError(f"expected an AnnData or a dictionary of them, got {type(adata).__name__}", _HINT)
    if sample_key not in adata.obs:
        raise CifmError(f"sample_key: no column {sample_key} in obs", _HINT)
    samples = slide_types(adata.obs, sample_key)
    if samples is None or any(name is None for name in samples) or not len(samples):
        raise CifmError(f"sample_key {sample_key}: cells without a sample", "remove these cells")
    return [(name, adata, np.flatnonzero(samples == name)) for name in dict.fromkeys(samples.tolist())]


def _select_from_mapping(samples: Mapping[str, AnnData]) -> list[tuple[str, AnnData, NDArray[np.int64]]]:
    if not samples:
        raise CifmError("no samples", _HINT)
    for name, each in samples.items():
        if not isinstance(each, AnnData):
            raise CifmError(f"sample {name}: expected an AnnData, got {type(each).__name__}", _HINT)
        if not each.n_obs:
            raise CifmError(f"sample {name}: no cells", "leave the sample out")
    return [(str(name), each, np.arange(each.n_obs)) for name, each in samples.items()]


def _make_part(
    adata: AnnData, rows: NDArray[np.int64], name: str, use_rep: str, label: str | None, group: str | None
) -> Part:
    if use_rep not in adata.obsm:
        raise CifmError(f"sample {name}: no obsm {use_rep}", "embed the cells first with cifm.embed(adata, model)")
    embedding = np.asarray(adata.obsm[use_rep])[rows]
    if (
        embedding.ndim != 2
        or not embedding.shape[1]
        or embedding.dtype.kind not in "iuf"
        or not np.isfinite(embedding).all()
    ):
        raise CifmError(
            f"sample {name}: obsm {use_rep} must be finite numbers, a row per cell", "embed the cells again"
        )
    types = slide_types(adata.obs, label)
    xy_um = np.asarray(adata.obsm[keys.SPATIAL], dtype=np.float64)[rows, :2] if keys.SPATIAL in adata.obsm else None
    return Part(
        name=name,
        sample=name,
        embedding=embedding.astype(np.float32),
        xy_um=xy_um,
        types=None if types is None else types[rows],
        group=None if group is None else _group_of(adata.obs.iloc[rows], name, group),
    )


def _group_of(obs: pd.DataFrame, name: str, group: str) -> str:
    values = slide_types(obs, group)
    if values is None:
        raise CifmError(f"group: no column {group} in obs of sample {name}", "give a column of obs")
    names = set(values.tolist())
    if len(names) != 1 or None in names:
        raise CifmError(f"group {group}: sample {name} has {len(names)} values", "a sample is in one group")
    return str(names.pop())
