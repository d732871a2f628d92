"""Downloads that were aligned to the genomes of two species, as xenografts are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import small_downloads as small

from cifm_cli.data.in_memory import gene_columns, slide_from_anndata

HUMAN, MOUSE = small.IDS, small.MOUSE_IDS
NUM_FOREIGN = 12  # cells whose counts are all but one of mouse genes


def mixture(human: str, mouse: str, with_ids: bool = True) -> pd.DataFrame:
    """Features of both species with the prefixes of their genomes."""
    ids = [human + name for name in HUMAN] + [mouse + name for name in MOUSE]
    symbols = [human + name for name in small.SYMBOLS] + [mouse + name for name in small.MOUSE_SYMBOLS]
    return small.features(ids if with_ids else symbols, symbols)


def mixed_counts() -> np.ndarray:
    drawn = small.counts(len(HUMAN) + len(MOUSE))
    drawn[:, len(HUMAN) :] = 0
    drawn[:NUM_FOREIGN, : len(HUMAN)] = [1, 0, 0, 0, 0]
    drawn[:NUM_FOREIGN, len(HUMAN) :] = 2
    return drawn


@pytest.mark.parametrize(
    ("human", "mouse", "with_ids"),
    [
        ("GRCh38_", "mm10___", True),
        ("GRCh38______", "GRCm39______", True),
        ("hg19_", "mm10_", False),
        ("hg38_", "GRCm38_", True),
        ("GRCh38-", "mm10---", False),  # as Seurat writes underscores
        ("GRCh38premrna_", "mm10_premrna_", True),
        ("GRCh38-2020-A_", "mm10-2020-A___", True),
        ("", "", True),
    ],
)
def test_human_genes_are_kept(
    prepare: Callable[..., tuple], tmp_path: Path, human: str, mouse: str, with_ids: bool
) -> None:
    slide, err = prepare(small.write_bundle(tmp_path / "s", mixture(human, mouse, with_ids=with_ids), mixed_counts()))
    assert slide.var_names.tolist() == HUMAN
    assert slide.var["symbol"].tolist() == small.SYMBOLS
    assert "dropped: mouse gene" in err
    assert "the genes of human are kept, and 4 of mouse are dropped" in err
    assert f"{NUM_FOREIGN} of {small.NUM_CELLS} cells have most of their counts in genes of another species" in err
    by_name = slide.obs["other_species_fraction"].loc[list(small.BARCODES)].to_numpy()
    assert by_name == pytest.approx([8 / 9] * NUM_FOREIGN + [0] * (small.NUM_CELLS - NUM_FOREIGN))
    assert np.array_equal(slide[list(small.BARCODES)].X.toarray(), mixed_counts()[:, : len(HUMAN)])


def test_number_of_foreign_cells_is_in_the_report(cifm: Callable[..., tuple], tmp_path: Path) -> None:
    download = small.write_bundle(tmp_path / "s", mixture("GRCh38_", "mm10___"), mixed_counts())
    assert cifm("prepare", download, "--out", tmp_path / "p")[0] == 0
    page = (tmp_path / "p" / "s.html").read_text(encoding="utf8")
    assert "with most counts in genes of another species" in page
    assert "12 of 40 cells have most of their counts" in page


def test_slide_of_one_species_has_no_mixture(prepare: Callable[..., tuple], tmp_path: Path) -> None:
    slide, err = prepare(small.write_bundle(tmp_path / "s", mixture("GRCh38_", "x").iloc[:5]))
    assert slide.var_names.tolist() == HUMAN
    assert "mixture" not in err
    assert "other_species_fraction" not in slide.obs


def test_mouse_slide_says_so(prepare: Callable[..., tuple], tmp_path: Path) -> None:
    download = small.write_bundle(tmp_path / "s", mixture("", "mm10___").iloc[5:], small.counts(4))
    slide, err = prepare(download)
    assert slide.var_names.tolist() == MOUSE
    assert "4 of 4 genes are mouse" in err


def test_few_transgenes_are_no_mixture(prepare: Callable[..., tuple], tmp_path: Path) -> None:
    ids = [f"ENSMUSG{number:011d}" for number in range(30)] + [HUMAN[0]]
    names = [f"Gene{number}" for number in range(30)] + ["CD4"]
    slide, err = prepare(small.write_bundle(tmp_path / "s", small.features(ids, names), small.counts(31)))
    assert slide.n_vars == 31
    assert "30 of 31 genes are mouse" in err


def test_orthologs_map_the_other_species(prepare: Callable[..., tuple], tmp_path: Path) -> None:
    table = tmp_path / "orthologs.csv"
    table.write_text("\n".join(",".join(pair) for pair in zip(MOUSE, HUMAN, strict=False)))
    download = small.write_bundle(tmp_path / "s", mixture("GRCh38_", "mm10___"), mixed_counts())
    slide, _ = prepare(download, "--orthologs", table)
    assert slide.var_names.tolist() == HUMAN
    assert slide.X.sum() == mixed_counts().sum()


def test_mixture_in_memory_equals_the_prepared_slide() -> None:
    table = mixture("GRCh38_", "mm10___")
    adata = ad.AnnData(mixed_counts().astype(np.float32), obs=pd.DataFrame(index=small.BARCODES))
    adata.var_names = table["symbol"]
    adata.obsm["spatial"] = small.cells()[["x_centroid", "y_centroid"]].to_numpy()
    converted = slide_from_anndata(adata, name="s", radius_um=20.0)
    assert list(converted.slide.gene_ids) == HUMAN
    assert any("4 of mouse are dropped" in note for note in converted.notes)
    assert any(f"{NUM_FOREIGN} of {small.NUM_CELLS} cells have most" in note for note in converted.notes)
    assert gene_columns(adata, converted.slide).tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1]
