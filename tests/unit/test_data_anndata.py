"""AnnData files: slots of counts, ids and coordinates, and columns that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from cifm_cli import keys
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.existing import PrepareResult
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.readers.anndata_object import scale_spatial
from cifm_cli.data.readers.base import ReadConfig
from cifm_cli.errors import CifmError

Prepare = Callable[..., tuple[ad.AnnData, PrepareResult]]

IDS = ["ENSG00000010610", "ENSG00000153563", "ENSG00000177455"]
SYMBOLS = ["CD4", "CD8A", "CD19"]
COUNTS = np.arange(12 * 3).reshape(12, 3) % 5 + (np.arange(12) == 0)[:, None]
LOGS = np.log1p(COUNTS / 3.0).astype(np.float32)


def tissue(matrix: object = None, index: list[str] | None = None, **var: list[str]) -> ad.AnnData:
    """Twelve cells on a grid of 4 x 3, 10 um apart."""
    slide = ad.AnnData(
        X=csr_matrix(COUNTS) if matrix is None else matrix,
        obs=pd.DataFrame(index=[f"cell-{number}" for number in range(12)]),
        var=pd.DataFrame(var, index=pd.Index(index or IDS)),
    )
    slide.obsm[keys.SPATIAL] = np.stack([np.arange(12) % 4, np.arange(12) // 4], axis=1) * 10.0
    return slide


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    def run(slide: ad.AnnData, config: PrepareConfig | None = None) -> tuple[ad.AnnData, PrepareResult]:
        slide.write_h5ad(tmp_path / "slide.h5ad")
        result = prepare_download(
            tmp_path / "slide.h5ad", replace(config or PrepareConfig(), out=tmp_path / "prepared")
        )
        return ad.read_h5ad(result.path), result

    return run


def counts_in_download_order(slide: ad.AnnData) -> list[list[int]]:
    return slide[np.argsort(slide.obs[keys.DOWNLOAD_ROW])].X.toarray().astype(int).tolist()


@pytest.mark.parametrize(
    "matrix",
    [csr_matrix(COUNTS), csc_matrix(COUNTS), COUNTS, COUNTS.astype(np.float64), csr_matrix(COUNTS.astype(np.float32))],
)
def test_counts_in_any_form_of_x(prepare: Prepare, matrix: object) -> None:
    slide, result = prepare(tissue(matrix, symbol=SYMBOLS))
    assert counts_in_download_order(slide) == COUNTS.tolist()
    assert slide.var[keys.SYMBOL].tolist() == SYMBOLS
    assert result.report["matrix"] == "X"
    assert slide.uns[keys.CIFM][keys.PLATFORM] == "anndata"
    assert slide.uns[keys.CIFM][keys.RADIUS_UM] == 25.0


@pytest.mark.parametrize(
    ("index", "var", "symbols"),
    [
        ([gene + ".7" for gene in IDS], {}, SYMBOLS),  # by the packaged table
        ([gene + ".7" for gene in IDS], {"gene_name": SYMBOLS}, SYMBOLS),
        (SYMBOLS, {"gene_ids": IDS}, SYMBOLS),
        (SYMBOLS, {"Ensembl_ID": IDS}, SYMBOLS),
        (["0", "1", "2"], {"feature_id": IDS, "feature_name": SYMBOLS}, SYMBOLS),
    ],
)
def test_ids_and_symbols_are_read_from_the_usual_columns(
    prepare: Prepare, index: list[str], var: dict[str, list[str]], symbols: list[str]
) -> None:
    slide, _ = prepare(tissue(None, index, **var))
    assert slide.var_names.tolist() == IDS
    assert slide.var[keys.SYMBOL].tolist() == symbols


def test_genes_without_id_and_other_feature_types_are_dropped(prepare: Prepare) -> None:
    slide, result = prepare(
        tissue(
            None,
            ["CD4", "NOSUCH", "CD19"],
            gene_ids=[IDS[0], "", IDS[2]],
            feature_types=["Gene Expression"] * 2 + ["Antibody Capture"],
        )
    )
    assert slide.var_names.tolist() == [IDS[0]]
    assert {reason: part["names"] for reason, part in result.report["genes"]["dropped"].items()} == {
        "no Ensembl id": ["NOSUCH"],
        "Antibody Capture": ["CD19"],
    }


def test_symbols_are_identified_by_the_packaged_table(prepare: Prepare) -> None:
    slide, result = prepare(tissue(None, SYMBOLS))
    assert slide.var_names.tolist() == IDS
    assert result.report["genes"]["mapped"] == {"count": 3, "names": SYMBOLS}


def test_gene_table_of_the_user_takes_precedence(prepare: Prepare, tmp_path: Path) -> None:
    with pytest.raises(CifmError, match="none of the 3 features") as caught:
        prepare(tissue(None, ["first", "second", "third"]))
    assert "--gene-table" in caught.value.hint
    table = tmp_path / "genes.csv"
    table.write_text("ENSG00000000001,CD4\nENSG00000000002,second\n")
    slide, _ = prepare(tissue(None, ["CD4", "second", "CD19"]), PrepareConfig(gene_table=table))
    assert slide.var_names.tolist() == ["ENSG00000000001", "ENSG00000000002", IDS[2]]


def test_counts_are_read_from_the_layer_if_x_is_normalised(prepare: Prepare) -> None:
    normalised = tissue(LOGS)
    normalised.layers["counts"] = csr_matrix(COUNTS)
    slide, result = prepare(normalised)
    assert counts_in_download_order(slide) == COUNTS.tolist()
    assert result.report["matrix"] == "layers/counts"
    assert result.report["notes"] == ["X holds no raw counts; took layers/counts"]


def test_counts_are_read_from_raw_with_its_own_genes(prepare: Prepare) -> None:
    subset = tissue()
    subset.raw = subset.copy()
    subset = subset[:, :2].copy()
    subset.X = LOGS[:, :2]
    slide, result = prepare(subset)
    assert slide.var_names.tolist() == IDS
    assert counts_in_download_order(slide) == COUNTS.tolist()
    assert result.report["matrix"] == "raw/X"


def test_normalised_x_is_refused_with_a_hint_to_the_layer(prepare: Prepare) -> None:
    normalised = tissue(LOGS)
    normalised.layers["spliced"] = csr_matrix(COUNTS)
    with pytest.raises(CifmError, match=r"X: .* in cell 'cell-0', gene .* looks log-normalised") as caught:
        prepare(normalised)
    assert caught.value.hint == "the raw counts are elsewhere: --layer spliced"
    slide, _ = prepare(normalised, PrepareConfig(layer="spliced"))
    assert counts_in_download_order(slide) == COUNTS.tolist()
    with pytest.raises(CifmError, match="no layers/unspliced") as caught:
        prepare(normalised, PrepareConfig(layer="unspliced", name="other"))
    assert caught.value.hint.endswith("X, spliced")


def test_all_obs_columns_are_kept(prepare: Prepare) -> None:
    slide = tissue()
    slide.obs["label"] = pd.Categorical(["tumour", "normal"] * 6)
    slide.obs["batch"] = pd.Categorical([1, 2, 3] * 4)
    slide.obs["score"] = np.linspace(0, 1, 12)
    slide.obs["flag"] = [True, False, True] * 4
    slide.obs["text"] = ["x", None, "y"] * 4
    slide.obs["split"] = "mine"
    prepared, result = prepare(slide)
    origin = prepared.obs[keys.DOWNLOAD_ROW].to_numpy()
    for name in ("label", "score", "flag"):
        assert prepared.obs[name].tolist() == slide.obs[name].iloc[origin].tolist()
    assert prepared.obs["batch"].tolist() == [str(value) for value in slide.obs["batch"].iloc[origin]]
    assert prepared.obs["text"].isna().sum() == 4
    assert prepared.obs["input_split"].unique().tolist() == ["mine"]
    assert set(prepared.obs[keys.SPLIT]) <= set(keys.REGIONS)
    assert result.report["notes"] == [
        "obs column 'split' of the download is stored as 'input_split', as cifm writes its own 'split'"
    ]


def test_repeated_barcodes_get_a_suffix(prepare: Prepare) -> None:
    slide = tissue()
    slide.obs_names = ["a", "a", "a-1", "a", *"bcdefghi"]
    prepared, result = prepare(slide)
    names = pd.Series(prepared.obs_names, index=prepared.obs[keys.DOWNLOAD_ROW].to_numpy()).sort_index()
    assert names.tolist() == ["a", "a-2", "a-1", "a-3", *"bcdefghi"]
    assert result.report["notes"] == ["2 barcodes occur twice; the later ones got a suffix -1, -2, ..."]


def test_mouse_genes_give_a_warning(prepare: Prepare) -> None:
    _, result = prepare(
        tissue(None, [f"ENSMUSG{number:011d}" for number in (1, 2, 3)], symbol=["Cd4", "mt-Nd1", "Cd19"])
    )
    assert result.report["genes"]["kept"] == 2
    assert result.report["warnings"][0].startswith("2 of 2 genes are mouse")


def test_visium_slide_from_scanpy_needs_a_scale(prepare: Prepare) -> None:
    slide = tissue()
    slide.uns["spatial"] = {"library": {"scalefactors": {"spot_diameter_fullres": 89.4, "tissue_hires_scalef": 0.1}}}
    with pytest.raises(CifmError, match="image pixels"):
        prepare(slide)
    prepared, result = prepare(slide, PrepareConfig(microns_per_pixel=2.0))
    assert prepared.obsm[keys.SPATIAL].max() == 60.0
    assert result.report["units"]["derivation"] == "obsm['spatial'] x 2 um, as asked"


def no_spatial(slide: ad.AnnData) -> None:
    slide.obsm["X_umap"] = slide.obsm.pop(keys.SPATIAL)


def nan_in_x(slide: ad.AnnData) -> None:
    slide.X = COUNTS.astype(float)
    slide.X[3, 1] = np.nan


def all_void(slide: ad.AnnData) -> None:
    slide.X = np.zeros_like(COUNTS)


def millimetres(slide: ad.AnnData) -> None:
    slide.obsm[keys.SPATIAL] /= 1000.0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_spatial, r"no obsm\['spatial'\] \(obsm holds X_umap\)"),
        (nan_in_x, "nan in cell 'cell-3', gene 'CD8A'"),
        (all_void, r"no cell is left of 12 \(void \(no counts\): 12\)"),
        (millimetres, "median distance to the nearest cell 0.01"),
    ],
)
def test_invalid_slide_is_refused(
    prepare: Prepare, tmp_path: Path, damage: Callable[[ad.AnnData], None], words: str
) -> None:
    slide = tissue(symbol=SYMBOLS)
    damage(slide)
    with pytest.raises(CifmError, match=words):
        prepare(slide)
    assert not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (("x", "y"), "adata.obsm['spatial'] = adata.obs[['x', 'y']].to_numpy(), if these are micrometres"),
        (("x_slide_mm", "y_slide_mm"), "adata.obs[['x_slide_mm', 'y_slide_mm']].to_numpy() * 1000, in micrometres"),
        (("pixel_x", "pixel_y"), "adata.obs[['pixel_x', 'pixel_y']].to_numpy(), and give --microns-per-pixel"),
        (("area", "volume"), "store cell centres there, in micrometres: adata.obsm['spatial'] = "),
    ],
)
def test_columns_of_centres_are_named_where_obsm_lacks_them(
    prepare: Prepare, columns: tuple[str, str], hint: str
) -> None:
    slide = tissue(symbol=SYMBOLS)
    del slide.obsm[keys.SPATIAL]
    slide.obs[list(columns)] = 1.0
    with pytest.raises(CifmError) as from_file:
        prepare(slide)
    with pytest.raises(CifmError) as from_object:
        scale_spatial(slide, ReadConfig(), "adata")
    assert hint in (from_file.value.hint or "")
    assert from_object.value.hint == from_file.value.hint


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    tissue().write_h5ad(tmp_path / "slide.h5ad")
    whole = (tmp_path / "slide.h5ad").read_bytes()
    (tmp_path / "slide.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CifmError, match=r"slide.h5ad: damaged"):
        prepare_download(tmp_path / "slide.h5ad", PrepareConfig(out=tmp_path / "prepared"))


def test_slots_of_different_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "slide.h5ad"
    tissue().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        attributes = dict(file[f"obsm/{keys.SPATIAL}"].attrs)
        del file[f"obsm/{keys.SPATIAL}"]
        file[f"obsm/{keys.SPATIAL}"] = np.zeros((7, 2))
        file[f"obsm/{keys.SPATIAL}"].attrs.update(attributes)
    with pytest.raises(CifmError, match="do not fit"):
        prepare_download(path, PrepareConfig(out=tmp_path / "prepared"))


def test_prepared_slide_is_not_accepted_as_a_download(prepare: Prepare, tmp_path: Path) -> None:
    _, result = prepare(tissue())
    with pytest.raises(CifmError, match="prepared slide already"):
        prepare_download(result.path, PrepareConfig(out=tmp_path / "again"))
