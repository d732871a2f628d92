"""Recognising downloads, naming slides, and never overwriting files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest

from cifm_cli import keys
from cifm_cli.data.prepare.batch import PrepareTask, prepare_all
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.pipeline import prepare_download
from cifm_cli.data.prepare.slide_names import slide_name
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.slide import describe_slide
from cifm_cli.errors import CifmError
from cifm_cli.provenance import hash_file


@pytest.fixture
def download(xenium_download: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(xenium_download, tmp_path / "tissue"))


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    return PrepareConfig(out=tmp_path / "prepared")


def test_second_run_is_up_to_date(download: Path, config: PrepareConfig) -> None:
    first = prepare_download(download, config)
    stamp = first.path.stat().st_mtime_ns
    second = prepare_download(download, config)
    assert not first.up_to_date
    assert second.up_to_date
    assert second.report == first.report
    assert first.path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("change", [{"radius_um": 25.0}, {"condition": "tumour"}, {"crop": (0.0, 0.0, 200.0, 200.0)}])
def test_other_options_need_force(download: Path, config: PrepareConfig, change: dict[str, object]) -> None:
    path = prepare_download(download, config).path
    before = hash_file(path)
    with pytest.raises(CifmError, match="made from other input or with other options") as caught:
        prepare_download(download, replace(config, **change))
    assert "--force" in caught.value.hint
    assert hash_file(path) == before
    assert not prepare_download(download, replace(config, force=True, **change)).up_to_date
    assert hash_file(path) != before


def test_changed_input_needs_force(download: Path, config: PrepareConfig) -> None:
    prepare_download(download, config)
    table = pd.read_parquet(download / "cells.parquet")
    table["x_centroid"] += 1.0
    table.to_parquet(download / "cells.parquet", index=False)
    with pytest.raises(CifmError, match="made from other input"):
        prepare_download(download, config)


def test_file_of_another_program_is_not_replaced(download: Path, config: PrepareConfig) -> None:
    config.out.mkdir()
    other = config.out / "tissue.h5ad"
    ad.AnnData(obs=pd.DataFrame(index=["a"])).write_h5ad(other)
    before = hash_file(other)
    with pytest.raises(CifmError, match="not a slide that cifm prepared"):
        prepare_download(download, replace(config, force=True))
    assert hash_file(other) == before


def test_input_is_not_replaced(download: Path, config: PrepareConfig) -> None:
    path = prepare_download(download, config).path
    slide = ad.read_h5ad(path)
    del slide.uns[keys.CIFM]
    other = path.with_name("other.h5ad")
    slide.write_h5ad(other)
    before = hash_file(other)
    with pytest.raises(CifmError, match="is the input itself"):
        prepare_download(other, replace(config, force=True))
    assert hash_file(other) == before


def test_inputs_are_not_changed_and_their_hashes_are_stored(download: Path, config: PrepareConfig) -> None:
    files = [path for path in download.rglob("*") if path.is_file()]
    before = {path: hash_file(path) for path in files}
    result = prepare_download(download, config)
    assert {path: hash_file(path) for path in download.rglob("*") if path.is_file()} == before
    inputs = describe_slide(result.path)[keys.PROVENANCE]["inputs"]
    assert inputs == {name: before[download / name] for name in inputs}
    assert set(inputs) == {
        "cell_feature_matrix.h5",
        "cells.parquet",
        "experiment.xenium",
        "analysis/clustering/gene_expression_graphclust/clusters.csv",
    }


def test_failed_run_leaves_no_files(download: Path, config: PrepareConfig) -> None:
    (download / "cells.parquet").write_bytes(b"PAR1")
    with pytest.raises(CifmError):
        prepare_download(download, config)
    assert not config.out.exists()


def test_names_of_slides(tmp_path: Path) -> None:
    assert slide_name(tmp_path / "a.b" / "outs", PrepareConfig()) == "a.b"
    assert slide_name(tmp_path / "section_1", PrepareConfig()) == "section_1"
    assert slide_name(tmp_path / "s.h5ad", PrepareConfig()) == "s"
    assert slide_name(tmp_path / "s.h5ad", PrepareConfig(name="tumour.h5ad")) == "tumour"
    for bad in ("", "a/b", ".hidden", "../up"):
        with pytest.raises(CifmError, match="cannot name a file"):
            slide_name(tmp_path, PrepareConfig(name=bad))


def test_downloads_with_the_same_name_are_refused_before_reading(download: Path, config: PrepareConfig) -> None:
    with pytest.raises(CifmError, match="2 downloads would be prepared as 'tissue'"):
        prepare_all([PrepareTask(download, config), PrepareTask(download.parent / "elsewhere" / "tissue", config)])
    assert not config.out.exists()


def test_error_for_an_unrecognised_download_lists_its_content(tmp_path: Path) -> None:
    with pytest.raises(CifmError, match="no such file or folder"):
        find_reader(tmp_path / "absent")
    with pytest.raises(CifmError, match="found an empty folder"):
        find_reader(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CifmError, match=r"found notes.txt"):
        find_reader(tmp_path)
    with pytest.raises(CifmError, match="--platform nanostring: unknown"):
        find_reader(tmp_path, "nanostring")


def test_error_for_a_given_platform_names_the_missing_file(tmp_path: Path, config: PrepareConfig) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CifmError, match=r"without cell_feature_matrix.h5"):
        prepare_download(tmp_path, replace(config, platform="xenium"))


def test_report_is_json(download: Path, config: PrepareConfig) -> None:
    json.dumps(prepare_download(download, config).to_json(), allow_nan=False)


def test_second_run_on_a_matrix_market_file_is_up_to_date(tmp_path: Path) -> None:
    """A matrix.mtx is read with the features and barcodes beside it; each of the three is an input."""
    folder = tmp_path / "mex"
    folder.mkdir()
    (folder / "matrix.mtx").write_text("%%MatrixMarket matrix coordinate integer general\n2 3 3\n1 1 1\n2 2 2\n1 3 3\n")
    (folder / "features.tsv").write_text("ENSG00000010610\tCD4\nENSG00000153563\tCD8A\n")
    (folder / "barcodes.tsv").write_text("a\nb\nc\n")
    cells = tmp_path / "cells.csv"
    cells.write_text("name,x_um,y_um\na,0,0\nb,10,0\nc,0,10\n")
    config = PrepareConfig(out=tmp_path / "prepared", cells=cells)
    assert not prepare_download(folder / "matrix.mtx", config).up_to_date
    assert prepare_download(folder / "matrix.mtx", config).up_to_date
    (folder / "features.tsv").write_text("ENSG00000010610\tCD4\nENSG00000177455\tCD19\n")
    with pytest.raises(CifmError, match="made from other input"):
        prepare_download(folder / "matrix.mtx", config)
