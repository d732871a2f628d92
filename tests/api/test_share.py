"""`cifm.share`: results in the AnnData of the caller."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sharing_samples import NAMES, plant_samples
from sklearn.metrics import adjusted_rand_score

import cifm_cli as cifm

FAST = {"k": 40, "permutations": 19, "center": "none"}


@pytest.fixture
def samples() -> dict[str, ad.AnnData]:
    parts, niches = plant_samples(shared=True, batch=0.0)
    found = {}
    for part, niche in zip(parts, niches, strict=True):
        obs = pd.DataFrame({"niche": niche, "group": "x" if part.name in "AB" else "y"})
        obs.index = [f"{part.name}{i}" for i in range(len(niche))]
        found[part.name] = ad.AnnData(obs=obs, obsm={"X_cifm": part.embedding, "spatial": part.xy_um})
    return found


def test_samples_in_a_dictionary_and_in_one_object_agree(samples: dict[str, ad.AnnData], tmp_path: Path) -> None:
    result = cifm.share(samples, label="niche", group="group", **FAST)
    assert result.matrix.index.tolist() == list(NAMES)
    assert (result.matrix.sum(axis=1) - 1).abs().max() < 1e-6
    for adata in samples.values():
        assert adjusted_rand_score(adata.obs["niche"], adata.obs["sharing_cluster"]) > 0.9
        assert json.loads(adata.uns["cifm"]["sharing"])["samples"] == list(NAMES)
    top = result.enrichment.sort_values("log2_enrichment").iloc[-1]
    assert top["q"] <= 1
    assert set(result.groups["group"]) == {"x", "y"}
    result.write_html(tmp_path / "page.html")
    assert "Sample D" in (tmp_path / "page.html").read_text(encoding="utf8")

    joined = ad.concat(samples, label="sample")
    shuffled = joined[np.random.default_rng(0).permutation(joined.n_obs)].copy()
    # The order of the samples is that of their first cells.
    again = cifm.share(shuffled, "sample", label="niche", group="group", **FAST)
    np.testing.assert_allclose(again.matrix.loc[list(NAMES), list(NAMES)], result.matrix, atol=1e-6)
    shuffled.write_h5ad(tmp_path / "joined.h5ad")
    back = ad.read_h5ad(tmp_path / "joined.h5ad")[joined.obs_names]
    order = [again.matrix.columns.get_loc(name) for name in NAMES]
    fractions = np.concatenate([adata.obsm["X_cifm_sharing"] for adata in samples.values()])
    np.testing.assert_allclose(back.obsm["X_cifm_sharing"][:, order], fractions, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_rep": "X_pca"}, "no obsm X_pca"),
        ({"label": "type"}, "no column type"),
        ({"group": "niche"}, "sample A has 3 values"),
        ({"group": "patient"}, "no column patient"),
        ({"k": 0}, "must be at least 1"),
        ({"center": "mean"}, "center: mean"),
        ({"search": "fast"}, "search: fast"),
    ],
)
def test_options_that_cannot_be_used(samples: dict[str, ad.AnnData], options, message: str) -> None:
    with pytest.raises(cifm.CifmError, match=message):
        cifm.share(samples, **(FAST | options))
    assert all("X_cifm_sharing" not in adata.obsm for adata in samples.values())


def test_inputs_that_cannot_be_used(samples: dict[str, ad.AnnData]) -> None:
    for adata, key, message in (
        (samples["A"], None, "no column None"),
        (samples["A"], "group", "one sample: x"),
        ({}, None, "no samples"),
        ({"A": 1}, None, "expected an AnnData, got int"),
        (3, None, "expected an AnnData or a dictionary"),
        ({"A": samples["A"], "B": samples["B"][:0]}, None, "sample B: no cells"),
    ):
        with pytest.raises(cifm.CifmError, match=message):
            cifm.share(adata, key, **FAST)
    samples["B"].obsm["X_cifm"][3, 2] = np.nan
    with pytest.raises(cifm.CifmError, match="sample B: obsm X_cifm must be finite"):
        cifm.share(samples, **FAST)
