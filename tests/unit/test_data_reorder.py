"""Copying a prepared slide with its cells reordered."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, random_array

from cifm_cli import keys
from cifm_cli.data.slide import open_slide
from cifm_cli.data.writers.reorder import copy_slide, download_order, inverse_order
from cifm_cli.provenance import numpy_generator


def test_inverse_order_undoes_an_order() -> None:
    order = np.array([2, 0, 3, 1])
    assert inverse_order(order).tolist() == [1, 3, 0, 2]
    assert order[inverse_order(order)].tolist() == [0, 1, 2, 3]


def test_all_slots_of_anndata_are_copied(prepared_synthetic: Path, tmp_path: Path) -> None:
    """Values of all types that users add to the slots of a prepared slide are copied with their cells."""
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
    for result, reference in ((carried.X, expected.X), (carried.layers["scaled"], expected.layers["scaled"])):
        assert (result != reference).nnz == 0
    assert (carried.obsp["pairs"] != expected.obsp["pairs"]).nnz == 0
    assert carried.uns["mine"]["a"].tolist() == [0, 1, 2]
    assert carried.var.equals(prepared.var)
