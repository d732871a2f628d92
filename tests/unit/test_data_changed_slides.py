"""Prepared and embedded slides that other programs changed: refused with the kind of change, or read as before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from builders import EMBEDDING_ORIGIN
from scipy import sparse

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.embedded import read_embedded, write_embedded
from cifm_cli.errors import CifmError
from cifm_cli.verification import verification_skipped

Change = Callable[[ad.AnnData], ad.AnnData]


def assign(adata: ad.AnnData, **slots: object) -> ad.AnnData:
    for name, value in slots.items():
        setattr(adata, name, value)
    return adata


def rename_gene(adata: ad.AnnData) -> ad.AnnData:
    adata.var_names = ["ENSG99999999999", *adata.var_names[1:]]
    return adata


def exchange_genes(adata: ad.AnnData) -> ad.AnnData:
    """The names and symbols of two genes exchanged, but not their counts."""
    order = [1, 0, *range(2, adata.n_vars)]
    return assign(adata, var=adata.var.iloc[order])


CHANGES: dict[str, tuple[Change, str]] = {
    "cells removed": (lambda adata: adata[:-3], "it has 781 cells, prepared were 784"),
    "genes removed": (lambda adata: adata[:, :100], "it has 100 genes, prepared were 185"),
    "gene renamed": (rename_gene, "Ensembl ids of genes"),
    "genes exchanged": (exchange_genes, "counts of"),
    "logarithms": (lambda adata: assign(adata, X=adata.X.log1p()), "values of X are no longer counts, such as 0.693"),
    "doubled": (lambda adata: assign(adata, X=adata.X * 2), "counts of 784 of 784 cells"),
    "places moved": (lambda adata: (adata.obsm["spatial"].__iadd__(1.0), adata)[1], "positions of cells"),
    "totals": (lambda adata: assign(adata, obs=adata.obs.assign(total_counts=1.0)), "total counts of cells"),
    "split": (lambda adata: assign(adata, obs=adata.obs.assign(split="train")), "the split"),
    "radius": (
        lambda adata: (adata.uns["cifm"].update(radius_um=30.0), adata)[1],
        "radius_um is 30.0, prepared was 20.0",
    ),
    "checksums": (lambda adata: assign(adata, obs=adata.obs.drop(columns=keys.CHECKSUM)), "cifm_checksum is missing"),
}


def rewrite(prepared: Path, target: Path, change: Change, **how: object) -> Path:
    with ad.settings.override(allow_write_nullable_strings=True):
        change(ad.read_h5ad(prepared)).copy().write_h5ad(target, **how)
    return target


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_changed_slide_is_refused_with_the_kind_of_change(
    prepared_synthetic: Path, tmp_path: Path, change: Change, message: str
) -> None:
    path = rewrite(prepared_synthetic, tmp_path / "changed.h5ad", change)
    with pytest.raises(CifmError, match=r"changed\.h5ad") as error:
        open_slide(path)
    assert message in error.value.message
    if "missing" not in message:
        assert "--no-verify" in error.value.hint
    with verification_skipped():
        slide = open_slide(path)
    assert slide.counts(np.arange(5)).shape == (5, slide.num_genes)


def test_changed_counts_of_a_large_slide_are_refused_when_they_are_read(
    prepared_synthetic: Path, tmp_path: Path
) -> None:
    def change(adata: ad.AnnData) -> ad.AnnData:
        adata.X.data[adata.X.indptr[100]] += 1
        return adata

    path = rewrite(prepared_synthetic, tmp_path / "changed.h5ad", change)
    slide, name = open_slide(path, hold=False), ad.read_h5ad(prepared_synthetic).obs_names[100]
    slide.counts(np.arange(100))
    for _ in range(2):
        with pytest.raises(CifmError, match=f"counts of 1 of 20 cells that were read, the first '{name}'"):
            slide.counts(np.arange(90, 110))


UNCHANGED: dict[str, Change] = {
    "nothing": lambda adata: adata,
    "genes sorted": lambda adata: adata[:, ::-1],
    "whole numbers": lambda adata: assign(adata, X=adata.X.astype(np.int64)),
    "wide columns": lambda adata: assign(adata, X=sparse.csr_matrix((adata.X.data, adata.X.indices.astype(np.int64), adata.X.indptr))),
    "symbols as categories": lambda adata: assign(adata, var=adata.var.astype({"symbol": "category"})),
    "nullable texts": lambda adata: assign(
        adata,
        var=pd.DataFrame({"symbol": pd.array(list(adata.var["symbol"]), dtype="string")}, index=adata.var_names.astype("string")),
        obs=adata.obs.set_axis(adata.obs_names.astype("string")).assign(mine=pd.array(["a", None] * 392, dtype="string")),
    ),
    "split as texts": lambda adata: assign(adata, obs=adata.obs.assign(split=adata.obs["split"].astype(str))),
}  # fmt: skip


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("change", UNCHANGED.values(), ids=UNCHANGED)
def test_the_same_content_in_another_form_is_unchanged(
    prepared_synthetic: Path, tmp_path: Path, change: Change, compression: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = rewrite(prepared_synthetic, tmp_path / "same.h5ad", change, compression=compression)
    before, slide = open_slide(prepared_synthetic), open_slide(path)
    genes = [slide.gene_ids.index(gene) for gene in before.gene_ids]
    rows = np.arange(before.num_cells)
    assert (before.counts(rows) != slide.counts(rows)[:, genes]).nnz == 0
    assert np.array_equal(slide.split, before.split)
    write_embedded(tmp_path / "e.h5ad", path, {keys.CELL: np.ones((slide.num_cells, 2), np.float32)}, EMBEDDING_ORIGIN)
    assert read_embedded(tmp_path / "e.h5ad").num_cells == slide.num_cells
    assert caplog.records == []


def test_columns_in_any_order_within_a_row_are_read(prepared_synthetic: Path, tmp_path: Path) -> None:
    def reverse_rows(adata: ad.AnnData) -> ad.AnnData:
        matrix = adata.X
        for start, stop in zip(matrix.indptr, matrix.indptr[1:], strict=False):
            matrix.indices[start:stop], matrix.data[start:stop] = (
                matrix.indices[start:stop][::-1].copy(),
                matrix.data[start:stop][::-1].copy(),
            )
        return adata

    path = rewrite(prepared_synthetic, tmp_path / "t.h5ad", reverse_rows)
    before, after = (open_slide(path).source.matrix for path in (prepared_synthetic, path))
    assert np.array_equal(before.indices, after.indices)
    assert np.array_equal(before.data, after.data)
    with h5py.File(path, "r+") as file:
        file["X/indices"][:2] = file["X/indices"][0]
    with pytest.raises(CifmError, match="names a gene twice in one row"):
        open_slide(path)


def test_sorted_cells_and_renamed_cells_and_other_clusters_are_warnings(
    prepared_synthetic: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(adata: ad.AnnData) -> ad.AnnData:
        adata.obs["cluster"] = adata.obs["cluster"].cat.codes.astype(str)
        adata.obs_names = [f"x{name}" for name in adata.obs_names]
        return adata[np.random.default_rng(0).permutation(adata.n_obs)]

    slide = open_slide(rewrite(prepared_synthetic, tmp_path / "t.h5ad", change))
    with caplog.at_level(logging.WARNING):
        slide.barcodes(slide.region(keys.ALL))
        features = {keys.CELL: np.ones((slide.num_cells, 2), np.float32)}
        write_embedded(tmp_path / "e.h5ad", slide.file, features, EMBEDDING_ORIGIN)
    text = caplog.text
    assert "has sorted the cells" in text
    assert "the names of cells were changed" in text
    assert "obs/cluster was changed" in text


def test_slide_without_checksums_is_read(prepared_synthetic: Path, tmp_path: Path) -> None:
    """Slides of earlier versions."""

    def change(adata: ad.AnnData) -> ad.AnnData:
        del adata.uns["cifm"][keys.CONTENT]
        return assign(adata, obs=adata.obs.drop(columns=keys.CHECKSUM))

    path = rewrite(prepared_synthetic, tmp_path / "t.h5ad", change)
    assert open_slide(path).num_cells == 784
    rewrite(path, path, lambda adata: assign(adata, X=adata.X.log1p()))
    with pytest.raises(CifmError, match="no longer counts"):
        open_slide(path)


@pytest.fixture
def embedded(prepared_synthetic: Path, tmp_path: Path) -> Path:
    features = {slot: np.ones((784, 3), np.float32) for slot in (keys.MICROENVIRONMENT, keys.CELL)}
    write_embedded(tmp_path / "embedded.h5ad", prepared_synthetic, features, EMBEDDING_ORIGIN)
    return tmp_path / "embedded.h5ad"


def test_changed_embedding_is_refused(embedded: Path) -> None:
    with h5py.File(embedded, "r+") as file:
        file["obsm/X_cifm"][5, 1] = 1.001
    with pytest.raises(CifmError, match="changed since it was embedded: obsm/X_cifm") as error:
        read_embedded(embedded)
    assert "cifm embed" in error.value.hint
    with verification_skipped():
        assert read_embedded(embedded).embeddings["X_cifm"][5, 1] == np.float32(1.001)
    with h5py.File(embedded, "r+") as file:
        del file["obsm/X_cifm"]
    with pytest.raises(CifmError, match="changed since it was embedded: obsm/X_cifm"):
        read_embedded(embedded)


def test_embedded_slide_with_changed_counts_is_refused(embedded: Path) -> None:
    with h5py.File(embedded, "r+") as file:
        file["X/data"][7] += 1
    with pytest.raises(CifmError, match="counts of 1 of 784 cells"):
        read_embedded(embedded)


@pytest.mark.parametrize("make", [sparse.csc_matrix, sparse.csr_matrix.toarray], ids=["CSC", "dense"])
def test_all_commands_refuse_another_encoding_of_the_counts(cifm, embedded: Path, make: Callable) -> None:
    rewrite(embedded, embedded, lambda adata: assign(adata, X=make(adata.X)))
    messages = set()
    for command in (["inspect"], ["probe", "--label", "cluster"], ["annotate", "apply"]):
        code, _, err = cifm(*command, embedded)
        assert code == 1
        messages.add(next(line for line in err.splitlines() if line.startswith("error:")))
    assert len(messages) == 1
    assert "not as csr_matrix" in messages.pop()


def test_raw_and_paired_slots_come_along(prepared_synthetic: Path, tmp_path: Path) -> None:
    def change(adata: ad.AnnData) -> ad.AnnData:
        adata.raw = adata.copy()
        adata.varm["loadings"] = np.arange(adata.n_vars * 2.0).reshape(-1, 2)
        adata.varp["genes"] = sparse.csr_matrix(np.eye(adata.n_vars))
        adata.layers["columns"] = sparse.csc_matrix(adata.X)
        adata.obsm["frame"] = pd.DataFrame({"u": np.arange(adata.n_obs)}, index=adata.obs_names)
        return adata

    path = rewrite(prepared_synthetic, tmp_path / "t.h5ad", change)
    write_embedded(tmp_path / "e.h5ad", path, {keys.CELL: np.ones((784, 2), np.float32)}, EMBEDDING_ORIGIN)
    before, after = ad.read_h5ad(path), ad.read_h5ad(tmp_path / "e.h5ad")
    before = before[after.obs_names]
    assert (before.raw.X != after.raw.X).nnz == 0
    assert before.raw.var.equals(after.raw.var)
    assert np.array_equal(before.varm["loadings"], after.varm["loadings"])
    assert (before.varp["genes"] != after.varp["genes"]).nnz == 0
    assert (before.layers["columns"] != after.layers["columns"]).nnz == 0
    assert before.obsm["frame"].equals(after.obsm["frame"])
