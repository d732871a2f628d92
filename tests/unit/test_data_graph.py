"""The radius graph of five cells, drawn; tiles and their halo; a slide's counts from file and from memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.data import tiles
from cifm_cli.data.counts_source import FileCounts
from cifm_cli.data.graph import edgeless_graph, radius_graph
from cifm_cli.data.slide import log_normalise, open_slide
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.errors import CifmError
from cifm_cli.provenance import numpy_generator

#   0 --20-- 1        4       radius 20: an edge where distance <= radius,
#            |                so 0-1 (exactly 20) and 1-2, 1-3; 2 and 3 share a place
#          2 3
XY_UM = np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 15.0], [20.0, 15.0], [90.0, 0.0]])


def test_five_cells() -> None:
    graph = radius_graph(XY_UM, 20.0)
    rows = [graph.sources[a:b].tolist() for a, b in zip(graph.indptr[:-1], graph.indptr[1:], strict=True)]
    assert rows == [[1], [0, 2, 3], [1, 3], [1, 2], []]
    assert graph.targets.tolist() == [0, 1, 1, 1, 2, 2, 3, 3]
    assert graph.displacement.tolist() == [
        [-1.0, 0.0],
        [1.0, 0.0],
        [0.0, -0.75],
        [0.0, -0.75],
        [0.0, 0.75],
        [0.0, 0.0],
        [0.0, 0.75],
        [0.0, 0.0],
    ]


def test_self_loops_are_the_papers_diagonal() -> None:
    graph = radius_graph(XY_UM, 20.0, self_loops=True)
    assert graph.num_edges == 8 + 5
    assert graph.sources[graph.indptr[4] : graph.indptr[5]].tolist() == [4]


@pytest.mark.parametrize("num_cells", [0, 1])
def test_no_cells_no_edges(num_cells: int) -> None:
    graph = radius_graph(np.zeros((num_cells, 2)), 20.0)
    assert (graph.num_cells, graph.num_edges) == (num_cells, 0)
    assert edgeless_graph(num_cells, self_loops=True).num_edges == num_cells


def test_far_from_the_origin_nothing_is_lost() -> None:
    near, far = radius_graph(XY_UM, 20.0), radius_graph(XY_UM + 2.0**24, 20.0)
    assert near.displacement.tolist() == far.displacement.tolist()


@given(seed=st.integers(0, 2**32 - 1), halo_um=st.floats(0, 60), run=st.sampled_from([1, 7, 128]))
def test_a_halo_is_everyone_within_reach(seed: int, halo_um: float, run: int) -> None:
    generator = numpy_generator(seed)
    xy_um = generator.uniform(0, 200, (120, 2))
    part = np.flatnonzero(generator.random(120) < 0.8)
    core = part[:10]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "_RUN", run)
        tile = Tiler(xy_um, part, halo_um).tile(core)
    distance = np.linalg.norm(xy_um[part][:, None] - xy_um[core][None], axis=-1).min(axis=1)
    assert tile.rows.tolist() == part[distance <= halo_um].tolist()
    assert tile.rows[tile.core].tolist() == core.tolist()
    assert np.allclose(tile.distance_um, distance[distance <= halo_um], atol=1e-9)
    assert (tile.xy_um == xy_um[tile.rows]).all()


def test_a_tile_without_a_core_is_empty() -> None:
    tile = Tiler(XY_UM, np.arange(5), 20.0).tile(np.empty(0, dtype=np.int64))
    assert (len(tile.rows), len(tile.core), len(tile.xy_um)) == (0, 0, 0)


def test_chunks_cover_everything_once() -> None:
    rows = np.arange(3, 20)
    assert np.concatenate(list(chunks(rows, 5))).tolist() == rows.tolist()


def test_counts_from_file_and_memory_agree(prepared_synthetic: Path) -> None:
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


def test_not_a_prepared_slide(tmp_path: Path) -> None:
    path = tmp_path / "broken.h5ad"
    path.write_bytes(b"not hdf5")
    with pytest.raises(CifmError, match=r"broken\.h5ad"):
        open_slide(path)
