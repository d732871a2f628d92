"""Tiles and their halo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifm_cli.data import tiles
from cifm_cli.data.tiles import Tiler, chunks
from cifm_cli.provenance import numpy_generator

#   0 --20-- 1        4       radius 20: an edge where distance <= radius,
#            |                so 0-1 (exactly 20) and 1-2, 1-3; 2 and 3 have the same position
#          2 3
XY_UM = np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 15.0], [20.0, 15.0], [90.0, 0.0]])


@given(seed=st.integers(0, 2**32 - 1), halo_um=st.floats(0, 60), run=st.sampled_from([1, 7, 128]))
def test_tile_holds_all_cells_within_the_halo(seed: int, halo_um: float, run: int) -> None:
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


def test_tile_without_a_core_is_empty() -> None:
    tile = Tiler(XY_UM, np.arange(5), 20.0).tile(np.empty(0, dtype=np.int64))
    assert (len(tile.rows), len(tile.core), len(tile.xy_um)) == (0, 0, 0)


def test_chunks_cover_all_rows_once() -> None:
    rows = np.arange(3, 20)
    assert np.concatenate(list(chunks(rows, 5))).tolist() == rows.tolist()
