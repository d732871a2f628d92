"""Recognising downloads, naming slides, and never losing what is there."""

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
from cifm_cli.data.prepare.pipeline import prepare_download, slide_name
from cifm_cli.data.readers.registry import find_reader
from cifm_cli.data.slide import describe_slide
from cifm_cli.errors import CifmError
from cifm_cli.provenance import hash_file


@pytest.fixture
def download(xenium_download: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(xenium_download, tmp_path / "tissue"))


@pytest.fixture
def options(tmp_path: Path) -> PrepareConfig:
    return PrepareConfig(out=tmp_path / "prepared")


def test_a_second_run_is_up_to_date(download: Path, options: PrepareConfig) -> None:
    first = prepare_download(download, options)
    stamp = first.path.stat().st_mtime_ns
    second = prepare_download(download, options)
    assert not first.up_to_date
    assert second.up_to_date
    assert second.report == first.report
    assert first.path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("change", [{"radius_um": 25.0}, {"condition": "tumour"}, {"crop": (0.0, 0.0, 200.0, 200.0)}])
def test_other_options_need_force(download: Path, options: PrepareConfig, change: dict[str, object]) -> None:
    path = prepare_download(download, options).path
    before = hash_file(path)
    with pytest.raises(CifmError, match="made from other input or with other options") as caught:
        prepare_download(download, replace(options, **change))
    assert "--force" in caught.value.hint
    assert hash_file(path) == before
    assert not prepare_download(download, replace(options, force=True, **change)).up_to_date
    assert hash_file(path) != before


def test_changed_input_needs_force(download: Path, options: PrepareConfig) -> None:
    prepare_download(download, options)
    table = pd.read_parquet(download / "cells.parquet")
    table["x_centroid"] += 1.0
    table.to_parquet(download / "cells.parquet", index=False)
    with pytest.raises(CifmError, match="made from other input"):
        prepare_download(download, options)


def test_a_file_of_somebody_else_is_never_replaced(download: Path, options: PrepareConfig) -> None:
    options.out.mkdir()
    theirs = options.out / "tissue.h5ad"
    ad.AnnData(obs=pd.DataFrame(index=["a"])).write_h5ad(theirs)
    before = hash_file(theirs)
    with pytest.raises(CifmError, match="not a slide that cifm prepared"):
        prepare_download(download, replace(options, force=True))
    assert hash_file(theirs) == before


def test_the_input_is_never_replaced(download: Path, options: PrepareConfig) -> None:
    path = prepare_download(download, options).path
    slide = ad.read_h5ad(path)
    del slide.uns[keys.CIFM]
    theirs = path.with_name("theirs.h5ad")
    slide.write_h5ad(theirs)
    before = hash_file(theirs)
    with pytest.raises(CifmError, match="is the input itself"):
        prepare_download(theirs, replace(options, force=True))
    assert hash_file(theirs) == before


def test_inputs_are_left_as_they_were(download: Path, options: PrepareConfig) -> None:
    files = [path for path in download.rglob("*") if path.is_file()]
    before = {path: hash_file(path) for path in files}
    result = prepare_download(download, options)
    assert {path: hash_file(path) for path in download.rglob("*") if path.is_file()} == before
    inputs = describe_slide(result.path)[keys.PROVENANCE]["inputs"]
    assert inputs == {name: before[download / name] for name in inputs}
    assert set(inputs) == {
        "cell_feature_matrix.h5",
        "cells.parquet",
        "experiment.xenium",
        "analysis/clustering/gene_expression_graphclust/clusters.csv",
    }


def test_a_failed_run_leaves_nothing_behind(download: Path, options: PrepareConfig) -> None:
    (download / "cells.parquet").write_bytes(b"PAR1")
    with pytest.raises(CifmError):
        prepare_download(download, options)
    assert not options.out.exists()


def test_names_of_slides(tmp_path: Path) -> None:
    assert slide_name(tmp_path / "a.b" / "outs", PrepareConfig()) == "a.b"
    assert slide_name(tmp_path / "section_1", PrepareConfig()) == "section_1"
    assert slide_name(tmp_path / "s.h5ad", PrepareConfig()) == "s"
    assert slide_name(tmp_path / "s.h5ad", PrepareConfig(name="tumour.h5ad")) == "tumour"
    for bad in ("", "a/b", ".hidden", "../up"):
        with pytest.raises(CifmError, match="cannot name a file"):
            slide_name(tmp_path, PrepareConfig(name=bad))


def test_two_downloads_of_one_name_are_refused_before_any_work(download: Path, options: PrepareConfig) -> None:
    with pytest.raises(CifmError, match="2 downloads would be prepared as 'tissue'"):
        prepare_all([PrepareTask(download, options), PrepareTask(download.parent / "elsewhere" / "tissue", options)])
    assert not options.out.exists()


def test_unrecognised_downloads_say_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(CifmError, match="no such file or folder"):
        find_reader(tmp_path / "absent")
    with pytest.raises(CifmError, match="found an empty folder"):
        find_reader(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CifmError, match=r"found notes.txt"):
        find_reader(tmp_path)
    with pytest.raises(CifmError, match="--platform nanostring: unknown"):
        find_reader(tmp_path, "nanostring")


def test_a_platform_insisted_on_says_what_it_misses(tmp_path: Path, options: PrepareConfig) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CifmError, match=r"without cell_feature_matrix.h5"):
        prepare_download(tmp_path, replace(options, platform="xenium"))


def test_the_report_is_json(download: Path, options: PrepareConfig) -> None:
    json.dumps(prepare_download(download, options).to_json(), allow_nan=False)
