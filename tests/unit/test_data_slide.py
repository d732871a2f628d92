"""Streaming: rows written in any order, counts read by stretches, things made ahead, memory that does not grow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from threading import Event, get_ident

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from cifm_cli import keys
from cifm_cli.data import barcodes
from cifm_cli.data import counts_source as sources
from cifm_cli.data import slide as slides
from cifm_cli.data.counts_source import FileCounts
from cifm_cli.data.prefetch import prefetch
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.dense_rows import create_dense, open_dense
from cifm_cli.data.writers.reorder import copy_slide, download_order, inverse_order
from cifm_cli.provenance import numpy_generator

# Dense rows ----------------------------------------------------------------------------------------------------------


def test_rows_land_where_they_belong(tmp_path: Path) -> None:
    """Slide rows 0 1 2 3 go to places 2 0 3 1; they come in two blocks, not in order."""
    path, values = tmp_path / "x.h5ad", np.arange(8, dtype=np.float32).reshape(4, 2)
    with h5py.File(path, "w") as file:
        create_dense(file, "before", (3, 5))
        create_dense(file, "X", (4, 2))
    matrix = open_dense(path, "X", np.array([2, 0, 3, 1]))
    matrix.write(np.array([3, 0]), values[[3, 0]])
    matrix.write(np.array([1, 2]), values[[1, 2]])
    with h5py.File(path, "r") as file:
        assert file["X"][:].tolist() == values[[1, 3, 0, 2]].tolist()
        assert not file["before"][:].any()


def test_a_reserved_matrix_is_one_for_anndata(tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    ad.AnnData(obs=pd.DataFrame(index=["a", "b"]), var=pd.DataFrame(index=["g", "h", "i"])).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        create_dense(file["layers"], "mine", (2, 3))
    open_dense(path, "layers/mine", np.arange(2)).write(np.arange(2), np.ones((2, 3), np.float32))
    assert ad.read_h5ad(path).layers["mine"].tolist() == [[1, 1, 1]] * 2


# Carrying over -------------------------------------------------------------------------------------------------------


def test_places_undo_an_order() -> None:
    order = np.array([2, 0, 3, 1])
    assert inverse_order(order).tolist() == [1, 3, 0, 2]
    assert order[inverse_order(order)].tolist() == [0, 1, 2, 3]


def test_whatever_anndata_holds_is_carried_over(prepared_synthetic: Path, tmp_path: Path) -> None:
    """Slots that users add to a prepared slide, in every kind of value, come along with their cells."""
    prepared, generator = ad.read_h5ad(prepared_synthetic), numpy_generator(0, "slots")
    number = prepared.n_obs
    prepared.obs["kind"] = pd.Categorical(generator.choice(["a", "b"], number), categories=["b", "a", "never"])
    prepared.obs["maybe"] = pd.array([None, 1] * (number // 2), dtype="Int64")
    prepared.obs["text"] = [f"cell {i}" for i in range(number)]
    prepared.obsm["frame"] = pd.DataFrame({"u": generator.random(number)}, index=prepared.obs_names)
    prepared.layers["scaled"] = csr_matrix(random_array(prepared.shape, density=0.1, rng=generator))
    prepared.obsp["pairs"] = csr_matrix(random_array((number, number), density=0.01, rng=generator))
    prepared.uns["mine"] = {"a": np.arange(3)}
    prepared.write_h5ad(tmp_path / "prepared.h5ad")
    slide = open_slide(tmp_path / "prepared.h5ad")
    with h5py.File(tmp_path / "carried.h5ad", "w") as file:
        copy_slide(slide, file, download_order(slide.file))
    carried = ad.read_h5ad(tmp_path / "carried.h5ad")
    expected = prepared[np.argsort(prepared.obs[keys.DOWNLOAD_ROW].to_numpy())]
    assert carried.obs_names.tolist() == expected.obs_names.tolist()
    assert carried.obs.loc[prepared.obs_names].equals(prepared.obs)
    assert carried.obsm["frame"].equals(expected.obsm["frame"])
    for found, wanted in ((carried.X, expected.X), (carried.layers["scaled"], expected.layers["scaled"])):
        assert (found != wanted).nnz == 0
    assert (carried.obsp["pairs"] != expected.obsp["pairs"]).nnz == 0
    assert carried.uns["mine"]["a"].tolist() == [0, 1, 2]
    assert carried.var.equals(prepared.var)


# Counts by stretches -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), few=st.sampled_from([1, 5, 10**9]), nonzeros=st.sampled_from([7, 200, 2**40]))
def test_counts_from_a_file_are_those_of_memory(prepared_synthetic: Path, seed: int, few: int, nonzeros: int) -> None:
    slide, generator = open_slide(prepared_synthetic), numpy_generator(seed)
    rows = generator.choice(slide.num_cells, generator.integers(0, 60), replace=bool(generator.integers(2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_MAX_GAP", few)
        patch.setattr(sources, "_MAX_READ_NONZEROS", nonzeros)
        found = FileCounts(slide.file, slide.source.matrix.indptr.astype(np.int64), slide.num_genes).read(rows)
    assert found.dtype == np.float32
    assert found.shape == (len(rows), slide.num_genes)
    assert (found != slide.counts(rows)).nnz == 0


def test_a_piece_of_a_slide_is_its_cells(prepared_synthetic: Path) -> None:
    slide, rows = open_slide(prepared_synthetic), np.array([5, 3, 700])
    piece = slide.subset(rows)
    assert (piece.counts(np.arange(3)) != slide.counts(rows)).nnz == 0
    assert np.array_equal(piece.expression(np.array([2]), 100.0).data, slide.expression(rows[2:], 100.0).data)
    assert np.array_equal(piece.xy_um, slide.xy_um[rows])
    with pytest.raises(ValueError, match="in memory"):
        _ = piece.file


def test_opening_a_slide_reads_no_annotation(prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million barcodes as Python strings cost more than all the rest: they stay in the file."""
    read = []
    original = slides.read_elem
    monkeypatch.setattr(slides, "read_elem", lambda element: read.append(element.name) or original(element))
    open_slide(prepared_synthetic)
    assert [name for name in read if name.startswith("/obs")] == [f"/obs/{keys.SPLIT}"]


def test_reading_from_a_file_holds_a_stretch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 50th cell of a file of 8 MB, in stretches of 80 kB."""
    columns = np.tile(np.arange(100, dtype=np.int32), 10_000)
    counts = csr_matrix((np.arange(1_000_000, dtype=np.float32), columns, np.arange(10_001) * 100))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X/data"], file["X/indices"], file["X/indptr"] = counts.data, counts.indices, counts.indptr
    monkeypatch.setattr(sources, "_MAX_READ_NONZEROS", 10_000)
    source, rows = FileCounts(tmp_path / "x.h5", counts.indptr.astype(np.int64), 100), np.arange(0, 10_000, 50)
    expected = counts[rows]
    del counts
    tracemalloc.start()
    found = source.read(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found != expected).nnz == 0
    assert peak < 1_500_000


def test_barcodes_are_read_block_by_block(prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barcodes, "_NAMES_AT_ONCE", 100)
    names, rows = ad.read_h5ad(prepared_synthetic).obs_names, np.array([700, 3, 99, 100, 3])
    slide = open_slide(prepared_synthetic)
    assert slide.barcodes(rows).tolist() == names[rows].tolist()
    assert slide.subset(rows).barcodes(rows[:2]).tolist() == ["700", "3"]


# Ahead ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (2, 3), (1, 0)])
def test_made_ahead_is_map(workers: int, ahead: int) -> None:
    assert list(prefetch(lambda number: number**2, range(7), workers, ahead)) == [n**2 for n in range(7)]
    assert list(prefetch(str, [], workers, ahead)) == []


def test_the_next_is_made_while_the_caller_has_one() -> None:
    begun = [Event() for _ in range(4)]

    def make(number: int) -> int:
        begun[number].set()
        return get_ident()

    made = prefetch(make, range(4))
    assert next(made) != get_ident()
    assert begun[1].wait(10)
    assert not begun[2].is_set(), "only one is made ahead"
    made.close()


def test_what_fails_ahead_fails_where_it_is_asked_for() -> None:
    made = prefetch(lambda number: 1 // number, [1, 0, 1])
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)
