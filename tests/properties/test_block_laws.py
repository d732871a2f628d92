"""Laws of reading in blocks: the block size changes nothing, and damage in any block is refused."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from cifm_cli.data import row_ranges as row_ranges_module
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.readers.counts import in_memory, row_blocks, stored_counts
from cifm_cli.data.row_ranges import row_ranges
from cifm_cli.data.writers.row_buffer import RowBuffer
from cifm_cli.errors import CifmError

GENES = tuple(f"ENSG{number:011d}" for number in range(1, 13))
lengths = st.lists(st.integers(0, 9), min_size=1, max_size=40)


def matrix_of(lengths: list[int], seed: int = 0) -> csr_matrix:
    """A matrix of 12 columns whose rows have the given numbers of values."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((len(lengths), 12), dtype=np.int32)
    for row, length in enumerate(lengths):
        dense[row, rng.permutation(12)[:length]] = rng.integers(1, 9, length)
    return csr_matrix(dense)


def write_h5ad(path: Path, matrix: csr_matrix) -> None:
    genes = pd.DataFrame(index=[f"ENSG{number:011d}" for number in range(1, 13)])
    slide = ad.AnnData(matrix, obs=pd.DataFrame(index=[f"c{row}" for row in range(matrix.shape[0])]), var=genes)
    slide.obsm["spatial"] = np.random.default_rng(1).uniform(0, 60, (matrix.shape[0], 2))
    slide.write_h5ad(path)


def same(one: csr_matrix, other: csr_matrix) -> bool:
    """Whether two matrices hold the same arrays of the same types."""
    parts = [(getattr(one, name), getattr(other, name)) for name in ("data", "indices", "indptr")]
    return one.shape == other.shape and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in parts)


@given(lengths, st.integers(1, 30))
def test_ranges_cover_each_row_once_and_stay_small(lengths: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_ranges_module, "BLOCK_NONZEROS", most)
        ranges = list(row_ranges(np.concatenate([[0], np.cumsum(lengths)])))
    assert [row for first, last in ranges for row in range(first, last)] == list(range(len(lengths)))
    assert all(sum(lengths[first:last]) <= most or last == first + 1 for first, last in ranges)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths, st.integers(1, 30), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_row_buffer_returns_rows_in_any_order(tmp_path: Path, lengths: list[int], most: int, seed: int, random) -> None:
    matrix = matrix_of(lengths, seed)
    rows = np.array(random.sample(range(len(lengths)), random.randint(1, len(lengths))))
    with pytest.MonkeyPatch.context() as patch, RowBuffer(tmp_path, matrix.shape[0], GENES) as spool:
        patch.setattr(row_ranges_module, "BLOCK_NONZEROS", most)
        for first, block in row_blocks(matrix):
            spool.write(first, block)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            spool.write_matrix(file.create_group("X"), rows)
            written = ad.io.read_elem(file["X"])
        assert spool.total_counts.tolist() == matrix.sum(axis=1).A1.tolist()
        assert spool.num_expressed.tolist() == lengths
    assert same(written, matrix[rows].astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize("most", [1, 7, 100])
def test_block_size_does_not_change_a_slide(
    xenium_download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    write_h5ad(tmp_path / "t.h5ad", matrix_of([3, 0, 5, 9, 1, 2, 0, 12] * 12))
    slides = []
    for out, size in (("whole", 1 << 22), ("blocks", most * 97)):
        monkeypatch.setattr(row_ranges_module, "BLOCK_NONZEROS", size)
        config = PrepareConfig(out=tmp_path / out)
        slides.append(
            [ad.read_h5ad(prepare_download(one, config).path) for one in (xenium_download, tmp_path / "t.h5ad")]
        )
    for whole, blocks in zip(*slides, strict=True):
        for slide in (whole, blocks):
            del slide.uns["cifm"]["provenance"], slide.uns["cifm"]["content"]  # hold the time, and its checksum
        assert same(whole.X, blocks.X)
        pd.testing.assert_frame_equal(whole.obs, blocks.obs)
        pd.testing.assert_frame_equal(whole.var, blocks.var)
        assert np.array_equal(whole.obsm["spatial"], blocks.obsm["spatial"])
        assert whole.uns == blocks.uns


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.integers(0, 95), st.sampled_from([-1.0, 0.5, np.nan]))
def test_bad_count_is_refused_in_any_block(tmp_path: Path, row: int, bad: float) -> None:
    matrix = matrix_of([3] * 96).astype(np.float64)
    matrix.data[3 * row] = bad
    write_h5ad(tmp_path / "bad.h5ad", matrix)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_ranges_module, "BLOCK_NONZEROS", 20)
        with pytest.raises(CifmError, match=rf"in cell 'c{row}', gene"):
            prepare_download(tmp_path / "bad.h5ad", PrepareConfig(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(position=st.integers(0, 29), column=st.sampled_from([-1, 12, 2**32 + 3]))
def test_column_out_of_range_is_refused(tmp_path: Path, position: int, column: int) -> None:
    indices = np.tile(np.array([1, 5, 7], dtype=np.int64), 10)
    indices[position] = column
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["m/data"], file["m/indices"], file["m/indptr"] = np.ones(30), indices, np.arange(0, 31, 3)
    with h5py.File(tmp_path / "m.h5") as file:
        counts = stored_counts(tmp_path / "m.h5", file["m"], (10, 12))
    with pytest.raises(CifmError, match="damaged"):
        in_memory(counts)
