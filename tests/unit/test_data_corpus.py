"""Summaries of several prepared slides."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import pytest

from cifm_cli import keys
from cifm_cli.data.corpus import corpus_table, describe_corpus, is_corpus
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.errors import CifmError


def test_summary_and_table_of_two_slides(xenium_download: Path, tmp_path: Path) -> None:
    config = PrepareConfig(out=tmp_path / "prepared", condition="normal", name="a")
    tumour = replace(config, condition="tumour", crop=(0.0, 0.0, 150.0, 150.0), sample="p1", name="b")
    paths = [prepare_download(xenium_download, each).path for each in (config, tumour)]
    slides = [ad.read_h5ad(path) for path in paths]
    assert is_corpus(paths)
    corpus = describe_corpus(paths)
    assert corpus["cells"] == sum(slide.n_obs for slide in slides) == sum(corpus["split"].values())
    assert corpus["genes"]["union"] == len(set(slides[0].var_names) | set(slides[1].var_names))
    assert corpus["platforms"] == {"xenium": 2}
    assert [corpus["slides"][name][keys.CONDITION] for name in "ab"] == ["normal", "tumour"]
    assert [corpus["slides"][name][keys.SAMPLE] for name in "ab"] == ["a", "p1"]
    rows = corpus_table(corpus)
    assert [row[0] for row in rows] == ["slide", "a", "b", "all 2"]
    assert rows[3][1] == f"{corpus['cells']:,}"
    assert len({len(row) for row in rows}) == 1


def test_folder_with_other_files_is_not_a_corpus(prepared_synthetic: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(prepared_synthetic, tmp_path / "a.h5ad"))
    other = tmp_path / "z.h5ad"
    ad.AnnData(ad.read_h5ad(copy).X).write_h5ad(other)
    assert is_corpus([copy])
    assert not is_corpus([copy, other])


def test_slide_with_damaged_metadata_is_an_error(prepared_synthetic: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copy(prepared_synthetic, tmp_path / "a.h5ad"))
    with h5py.File(damaged, "r+") as file:
        del file[f"uns/{keys.CIFM}"]
    with pytest.raises(CifmError, match="that cifm did not prepare"):
        describe_corpus([damaged])
