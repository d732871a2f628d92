"""Small embedded slides in memory, with a known signal in the embedding."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from cifm_cli import keys
from cifm_cli.data.writers.embedded import EmbeddedSlide

SIDE, PITCH_UM, RADIUS_UM = 36, 20.0, 25.0


def make_slide(
    name: str = "s",
    *,
    sample: str = "s",
    condition: str = "",
    signal: float = 0.0,
    seed: int = 0,
    platform: str = "xenium",
    side: int = SIDE,
) -> EmbeddedSlide:
    """A grid of cells of three random kinds; the microenvironment embedding is noise plus `signal` times the kind."""
    r = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    num_cells = side * side
    kind = r.integers(0, 3, num_cells)
    counts = csr_matrix(r.poisson(1.0 + 2.0 * (np.arange(6) % 3 == kind[:, None])).astype(np.float32))
    noise = r.normal(size=(num_cells, 4)).astype(np.float32)
    return EmbeddedSlide(
        name=name,
        xy_um=np.stack([x.ravel(), y.ravel()], axis=1) * PITCH_UM,
        counts=counts,
        gene_ids=tuple(f"g{i}" for i in range(6)),
        obs=pd.DataFrame({"kind": pd.Categorical(np.array(["a", "b", "c"])[kind]), "area": r.random(num_cells)}),
        embeddings={
            keys.MICROENVIRONMENT: noise + np.float32(signal) * np.eye(4, dtype=np.float32)[kind],
            keys.CELL: noise,
        },
        facts={keys.PLATFORM: platform, keys.TISSUE: "", keys.CONDITION: condition, keys.SAMPLE: sample},
        origin={
            "model": {"sha256": "m"},
            "radius_um": RADIUS_UM,
            "recipe": {"data": {"target_sum": 1e4}, "model": {"encoder_layers": 2}},
        },
    )
