"""Fixtures of the Python API: a prepared slide as AnnData, and a training run with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from builders import save_random_run

import cifm_cli
from cifm_cli.data.slide import open_slide


@pytest.fixture
def command_line(cifm) -> Callable[..., Any]:
    """Return the fixture `cifm` under another name, because these tests import the package as `cifm`."""
    return cifm


@pytest.fixture(scope="session")
def xenium_download(download_few_genes: Path) -> Path:
    """The download of these tests."""
    return download_few_genes


@pytest.fixture(scope="session")
def prepared_synthetic(prepared_few_genes: Path) -> Path:
    """The prepared slide of these tests."""
    return prepared_few_genes


@pytest.fixture(scope="session")
def run_folder(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run whose network has random weights on top of an average of the neighbours."""
    tables = {"model": {"width": 8, "encoder_layers": 1, "decoder_layers": 1}}
    tables["objective"] = {"states": 6, "scales": [1.0, 2.0], "cutoff": 3.0}
    return save_random_run(tmp_path_factory.mktemp("runs") / "random", open_slide(prepared_synthetic), tables)


@pytest.fixture(scope="session")
def model(run_folder: Path) -> cifm_cli.LoadedModel:
    return cifm_cli.load_model(run_folder, device="cpu", backend="torch")


@pytest.fixture
def adata(prepared_synthetic: Path) -> ad.AnnData:
    """The prepared slide, which the test may change."""
    return ad.read_h5ad(prepared_synthetic)


@pytest.fixture
def plain(adata: ad.AnnData) -> ad.AnnData:
    """The same cells in the usual form of scanpy: shuffled, genes by symbol, log-normalised `X`, counts in a layer."""
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)]
    counts = shuffled.X.copy()
    normalised = counts.copy()
    normalised.data = np.log1p(normalised.data * 1.5)
    plain = ad.AnnData(normalised, layers={"counts": counts})
    plain.obs_names = shuffled.obs_names
    plain.var_names = shuffled.var["symbol"].astype(str)
    plain.obsm["spatial"] = shuffled.obsm["spatial"].copy()
    return plain


@pytest.fixture(autouse=True, scope="module")
def quick_models(brief_adaptation: None, few_practice_cells: None) -> None:
    """Adapt and evaluate with few cells to learn from in all tests of the functions."""
