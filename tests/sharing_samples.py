"""Samples with planted microenvironments, for the tests of `cifm share`."""

from __future__ import annotations

import numpy as np

from cifm_cli.sharing.cells import Part

NAMES = ("A", "B", "C", "D")


def plant_samples(
    *, shared: bool, batch: float = 1.0, features: int = 32, cells: int = 300, seed: int = 0
) -> tuple[list[Part], list[np.ndarray]]:
    """Four samples with a shift each, and the microenvironments of their cells.

    40 % of the cells of a sample are of a microenvironment that only it has, 20 % of one that it shares with one other
    sample (A with B, C with D), and 40 % of two that all share. Unless `shared`, every sample has its own in their place.
    """
    generator = np.random.default_rng(seed)
    centers: dict[str, np.ndarray] = {}
    parts, niches = [], []
    for name in NAMES:
        kinds = [f"only {name}", "pair AB" if name in "AB" else "pair CD", "all 1", "all 2"]
        chosen = generator.choice(kinds, cells, p=[0.4, 0.2, 0.2, 0.2])
        for kind in kinds:
            key = kind if shared else f"{kind} of {name}"
            centers.setdefault(key, 2.0 * generator.normal(size=features))
        middle = np.stack([centers[kind if shared else f"{kind} of {name}"] for kind in chosen])
        shift = batch * generator.normal(size=features)
        values = middle + generator.normal(size=middle.shape) + shift
        xy_um = generator.random((cells, 2)) * 500.0
        parts.append(Part(name, name, values.astype(np.float32), xy_um))
        niches.append(np.array([kind.split()[0] for kind in chosen]))
    return parts, niches
