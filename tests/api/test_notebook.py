"""A session as in a notebook: scanpy reads and plots the results of every function of the API."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import anndata as ad
import numpy as np
import pytest
import torch

import cifm_cli as cifm


@pytest.fixture
def sc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Scanpy with figures in memory; its own warnings and those of its dependencies are not errors here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy = pytest.importorskip("scanpy", reason="needs the analysis extra")
        pytest.importorskip("umap", reason="needs the analysis extra")
        import matplotlib as mpl
        import matplotlib.pyplot as plt

        mpl.use("Agg")
        monkeypatch.chdir(tmp_path)
        threads = torch.get_num_threads()
        yield scanpy
        plt.close("all")
        torch.set_num_threads(threads)  # UMAP's thread pool changes the number for the whole process


@pytest.mark.slow
def test_a_notebook(sc: ModuleType, xenium_download: Path, run_folder: Path) -> None:
    adata = cifm.prepare(xenium_download)
    model = cifm.load_model(run_folder, device="cpu", backend="torch")

    cifm.embed(adata, model)
    sc.pp.neighbors(adata, use_rep="X_cifm", n_neighbors=10)
    sc.tl.umap(adata, maxiter=20)
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)

    cifm.annotate(adata)
    axes = sc.pl.umap(adata, color=["cifm_cell_type", "cifm_cell_type_score"], show=False)
    assert [one.get_title() for one in axes] == ["cifm_cell_type", "cifm_cell_type_score"]
    assert len(adata.uns["cifm_cell_type_colors"]) == len(adata.obs["cifm_cell_type"].cat.categories)

    cifm.predict(adata, model)
    gene = adata.var_names[int(np.asarray(adata.X.sum(axis=0)).argmax())]
    drawn = sc.pl.embedding(adata, "spatial", color=gene, layer="cifm_mean", show=False)
    assert np.array_equal(np.sort(drawn.collections[0].get_array()), np.sort(adata.obs_vector(gene, layer="cifm_mean")))
    sc.pl.violin(adata, gene, groupby="cifm_cell_type", layer="cifm_mean", show=False)
    sc.tl.rank_genes_groups(adata, "split", groups=["train"], reference="test", layer="cifm_mean")

    grid = np.stack(np.meshgrid(np.linspace(20, 180, 5), np.linspace(20, 180, 5)), axis=-1).reshape(-1, 2)
    predicted = cifm.predict(adata, model, at=grid, adapt="none")
    sc.pp.pca(predicted, n_comps=3)
    sc.pl.embedding(predicted, "spatial", color=gene, show=False)

    trajectory = cifm.simulate(adata, model, "tcell", max_cells=150, steps=1, update_fraction=0.2, adapt="none")
    sc.pl.embedding(trajectory, "spatial", color=["type_before", "type_after"], show=False)
    trajectory.uns["cifm"]["change"]["difference"].plot.bar()

    adata.write_h5ad("analysed.h5ad")
    again = ad.read_h5ad("analysed.h5ad")
    assert np.array_equal(again.obsm["X_cifm"], adata.obsm["X_cifm"])
    cifm.embed(again, model, ["cell"])
    assert np.array_equal(again.obsm["X_cifm_cell"], adata.obsm["X_cifm_cell"])


@pytest.mark.slow
@pytest.mark.usefixtures("few_baselines")
@pytest.mark.parametrize(
    "name",
    ["anndata", *(pytest.param(name, marks=pytest.mark.extended) for name in ("xenium", "visium_hd"))],
)
def test_the_notebooks_of_the_documentation_run(sc: ModuleType, name: str) -> None:
    """All code cells, in one namespace and an empty folder, on fewer cells and with fewer steps."""
    path = Path(__file__).parents[2] / "docs" / "notebooks" / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    namespace: dict[str, object] = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            text = re.sub(r"(write_\w+\(.*), 1_\d00, ", r"\1, 700, ", "".join(cell["source"]))
            text = re.sub(r'"train\.(steps|validate_every)": \d+', r'"train.\1": 4', text)
            exec(compile(text, f"{name}, cell {number}", "exec"), namespace)


@pytest.mark.slow
@pytest.mark.usefixtures("few_baselines")
def test_the_example_of_the_documentation_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of docs/python.md that needs no download, on fewer cells and with fewer steps."""
    text = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "write_xenium" in block]
    for usual, quick in (("2_000", "500"), ('"train.steps": 50', '"train.steps": 2'), ("num_folds=4", "num_folds=1")):
        assert usual in example
        example = example.replace(usual, quick)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/python.md", "exec"), {})
    assert "best_baseline" in capsys.readouterr().out
