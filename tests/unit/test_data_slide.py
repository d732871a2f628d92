"""Prepared slides: counts from file and from memory, expression, subsets, barcodes, radius."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data import barcodes, stored_arrays
from cifm_cli.data import counts_source as sources
from cifm_cli.data.counts_source import FileCounts
from cifm_cli.data.slide import log_normalise, open_slide, radius_notes, slide_from_arrays
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), few=st.sampled_from([1, 5, 10**9]), nonzeros=st.sampled_from([7, 200, 2**40]))
def test_counts_from_the_file_equal_counts_in_memory(
    prepared_synthetic: Path, seed: int, few: int, nonzeros: int
) -> None:
    slide, generator = open_slide(prepared_synthetic), numpy_generator(seed)
    rows = generator.choice(slide.num_cells, generator.integers(0, 60), replace=bool(generator.integers(2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_MAX_GAP", few)
        patch.setattr(sources, "_MAX_READ_NONZEROS", nonzeros)
        result = FileCounts(slide.file, slide.source.matrix.indptr.astype(np.int64), slide.num_genes).read(rows)
    assert result.dtype == np.float32
    assert result.shape == (len(rows), slide.num_genes)
    assert (result != slide.counts(rows)).nnz == 0


def test_subset_holds_the_chosen_cells(prepared_synthetic: Path) -> None:
    slide, rows = open_slide(prepared_synthetic), np.array([5, 3, 700])
    piece = slide.subset(rows)
    assert (piece.counts(np.arange(3)) != slide.counts(rows)).nnz == 0
    assert np.array_equal(piece.expression(np.array([2]), 100.0).data, slide.expression(rows[2:], 100.0).data)
    assert np.array_equal(piece.xy_um, slide.xy_um[rows])
    with pytest.raises(ValueError, match="in memory"):
        _ = piece.file


def test_opening_a_slide_reads_only_the_split_of_obs(prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Barcodes are not read, as a million Python strings need more memory than the rest of the slide."""
    read, read_texts = [], stored_arrays.read_texts
    monkeypatch.setattr(
        stored_arrays, "read_texts", lambda file, slot, path: read.append(slot) or read_texts(file, slot, path)
    )
    monkeypatch.setattr(barcodes, "_read_names", lambda *_: pytest.fail("barcodes are read"))
    open_slide(prepared_synthetic)
    assert [name for name in read if name.startswith("obs")] == [f"obs/{keys.SPLIT}/categories"]


def test_reading_from_a_file_needs_memory_for_one_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads every 50th cell of a file of 8 MB, in ranges of 80 kB."""
    columns = np.tile(np.arange(100, dtype=np.int32), 10_000)
    counts = csr_matrix((np.arange(1_000_000, dtype=np.float32), columns, np.arange(10_001) * 100))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X/data"], file["X/indices"], file["X/indptr"] = counts.data, counts.indices, counts.indptr
    monkeypatch.setattr(sources, "_MAX_READ_NONZEROS", 10_000)
    source, rows = FileCounts(tmp_path / "x.h5", counts.indptr.astype(np.int64), 100), np.arange(0, 10_000, 50)
    expected = counts[rows]
    del counts
    tracemalloc.start()
    result = source.read(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (result != expected).nnz == 0
    assert peak < 1_500_000


def test_barcodes_are_read_block_by_block(prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(barcodes, "_NAMES_AT_ONCE", 100)
    names, rows = ad.read_h5ad(prepared_synthetic).obs_names, np.array([700, 3, 99, 100, 3])
    slide = open_slide(prepared_synthetic)
    assert slide.barcodes(rows).tolist() == names[rows].tolist()
    assert slide.subset(rows).barcodes(rows[:2]).tolist() == ["700", "3"]


def test_counts_of_repeated_and_unsorted_rows(prepared_synthetic: Path) -> None:
    slide = open_slide(prepared_synthetic)
    from_file = FileCounts(prepared_synthetic, slide.source.matrix.indptr.astype(np.int64), slide.num_genes)
    rows = np.array([5, 6, 7, 2, 300, 5, 0])
    assert (from_file.read(rows) != slide.counts(rows)).nnz == 0
    assert from_file.read(rows[:0]).shape == (0, slide.num_genes)


def test_log_normalise_by_hand(prepared_synthetic: Path) -> None:
    slide = open_slide(prepared_synthetic)
    counts = slide.counts(np.arange(3)).toarray()
    expected = np.log1p(10_000 * counts / counts.sum(axis=1, keepdims=True))
    assert slide.expression(np.arange(3), 10_000.0).toarray() == pytest.approx(expected, rel=1e-6)
    void = log_normalise(slide.counts(np.arange(1)) * 0, np.zeros(1), 10_000.0)
    assert np.abs(void.toarray()).max() == 0


def test_file_that_is_not_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.h5ad"
    path.write_bytes(b"not hdf5")
    with pytest.raises(CifmError, match=r"broken\.h5ad"):
        open_slide(path)


def grid(columns: int, rows: int, pitch_um: float) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.stack([x.ravel(), y.ravel()], axis=1) * pitch_um


def test_radius_notes_name_the_difference_and_a_radius_that_is_too_small() -> None:
    xy_um = grid(5, 5, 200.0)
    slide = slide_from_arrays("arrays", xy_um, csr_matrix(np.ones((25, 1), np.float32)), ("ENSG1",), 500.0)
    differs, too_small = radius_notes(slide, 150.0)
    assert differs == "slide arrays: its radius is 500 um, used with 150 um"
    assert "slide arrays: most cells have no neighbour within 150 um" in too_small
    assert len(radius_notes(slide, 300.0)) == 1
    assert radius_notes(slide, 500.0) == radius_notes(slide, None) == []
    assert radius_notes(slide, 510.0) == []  # sections of one platform differ so much


def test_with_radius_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    slide = slide_from_arrays("arrays", grid(5, 5, 200.0), csr_matrix(np.ones((25, 1), np.float32)), ("ENSG1",), 500.0)
    assert slide.with_radius(150.0).radius_um == 150.0
    assert slide.with_radius(300.0).with_radius(None).radius_um == 300.0
    assert capsys.readouterr().err == ""
