"""`cifm prepare` on files of several sections: refused with the column named, split with `--by`, chosen with `--z`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import jittered_tissue, write_tissue

import cifm_cli
from cifm_cli import keys
from cifm_cli.data.in_memory import slide_from_anndata
from cifm_cli.data.prepare import pipeline
from cifm_cli.data.prepare.qc_report import qc_report_path

# As in samples that were joined without a suffix.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Observation names are not unique"),
    pytest.mark.usefixtures("plain_reports"),
]

Cifm = Callable[..., Any]

SECTION = np.repeat(["tumour", "normal"], 400)


@pytest.fixture
def plain_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write empty quality reports, as drawing maps takes most of the time of these tests."""

    def write(slide: Path) -> Path:
        page = qc_report_path(slide)
        page.write_text("<footer>Made by cifm</footer>")
        return page

    monkeypatch.setattr(pipeline, "write_qc_report", write)


def pair() -> np.ndarray:
    """Two sections of 400 cells on top of each other."""
    return np.concatenate([jittered_tissue(20, 20, seed) for seed in (0, 1)])


@pytest.fixture
def pair_file(tmp_path: Path) -> Path:
    """The two sections, whose barcodes are the same."""
    names = [f"cell{number % 400}" for number in range(800)]
    return write_tissue(tmp_path / "pair.h5ad", pair(), names=names, library_id=pd.Categorical(SECTION))


def test_overlapping_sections_are_refused_with_the_column(cifm: Cifm, pair_file: Path, tmp_path: Path) -> None:
    code, _, err = cifm("prepare", pair_file, "--out", tmp_path / "out")
    assert code == 1
    assert "2 sections lie on each other (obs['library_id'])" in err
    assert "% of the edges within" in err
    assert "hint: --by library_id makes a slide of each" in err
    assert "--radius-um" not in err  # the units are fine
    assert not (tmp_path / "out").exists()


def test_each_section_becomes_a_slide(cifm: Cifm, pair_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, err = cifm("prepare", pair_file, "--by", "library_id", "--out", out, "--json")
    assert code == 0, err
    slides = json.loads(text)["slides"]
    assert list(slides) == ["pair-normal", "pair-tumour"]
    for name, value in (("pair-normal", "normal"), ("pair-tumour", "tumour")):
        assert slides[name]["cells"]["in"] == 400
        assert f"wrote {out / name}.h5ad" in err
        assert (out / f"{name}.html").is_file()
        slide = ad.read_h5ad(out / f"{name}.h5ad")
        rows = slide.obs[keys.DOWNLOAD_ROW].to_numpy()
        assert sorted(rows) == np.flatnonzero(value == SECTION).tolist()
        assert np.array_equal(slide.obsm[keys.SPATIAL], pair()[rows])
        assert slide.uns[keys.CIFM][keys.SAMPLE] == name
        assert set(slide.obs_names) == {f"cell{number}" for number in range(400)}  # unique again, without suffixes
        assert set(slide.obs[keys.SPLIT]) >= {"train", "validation", "test"}
    again = cifm("prepare", pair_file, "--by", "library_id", "--out", out)
    assert again.code == 0
    assert again.err.count("is up to date") == 2
    # The sections of another column have other names, but the same ones would not be replaced.
    (out / "pair-tumour.h5ad").write_bytes(b"mine")
    partly = cifm("prepare", pair_file, "--by", "library_id", "--out", out, "--force")
    assert partly.code == 1
    assert "1 of 2 slides were not prepared" in partly.err or "pair-tumour.h5ad" in partly.err
    assert (out / "pair-tumour.h5ad").read_bytes() == b"mine"


def test_slide_equals_that_of_the_section_alone(cifm: Cifm, pair_file: Path, tmp_path: Path) -> None:
    alone = ad.read_h5ad(pair_file)[:400]
    alone.write_h5ad(tmp_path / "alone.h5ad")
    assert cifm("prepare", tmp_path / "alone.h5ad", "--out", tmp_path / "out").code == 0
    assert cifm("prepare", pair_file, "--by", "library_id", "--out", tmp_path / "out").code == 0
    one, other = (ad.read_h5ad(tmp_path / "out" / f"{name}.h5ad") for name in ("alone", "pair-tumour"))
    assert np.array_equal(one.X.toarray(), other.X.toarray())
    pd.testing.assert_frame_equal(one.obs, other.obs)
    assert np.array_equal(one.obsm[keys.SPATIAL], other.obsm[keys.SPATIAL])


def test_jobs_and_sheets_split_too(cifm: Cifm, pair_file: Path, tmp_path: Path) -> None:
    single = write_tissue(tmp_path / "single.h5ad", jittered_tissue(20, 20, 5))
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"download,by\n{pair_file},library_id\n{single},\n")
    code, text, err = cifm("prepare", "--sheet", sheet, "--jobs", 2, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert list(json.loads(text)["slides"]) == ["pair-normal", "pair-tumour", "single"]


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("libary_id", "--by libary_id: no such column (obs has library_id)"),
        ("library_id,", "a name is missing or repeated"),
        ("barcode-prefix", "are not sections"),
    ],
)
def test_bad_columns_are_refused(cifm: Cifm, pair_file: Path, tmp_path: Path, by: str, words: str) -> None:
    code, _, err = cifm("prepare", pair_file, "--by", by, "--out", tmp_path / "out")
    assert (code, words in err, "hint:" in err) == (1, True, True), err
    assert not (tmp_path / "out").exists()


def test_sections_whose_names_differ_only_in_the_case_are_refused(cifm: Cifm, tmp_path: Path) -> None:
    path = write_tissue(tmp_path / "x.h5ad", pair(), sample=np.repeat(["a", "A"], 400))
    code, _, err = cifm("prepare", path, "--by", "sample", "--out", tmp_path / "out")
    assert code == 1
    assert "would both be named" in err


def test_cells_without_a_section_are_counted(cifm: Cifm, tmp_path: Path) -> None:
    labels = pd.Series(SECTION, dtype=object)
    labels[[3, 500]] = None
    path = write_tissue(tmp_path / "x.h5ad", pair(), sample=pd.Categorical(labels))
    result = cifm("prepare", path, "--by", "sample", "--out", tmp_path / "out")
    assert result.code == 0
    assert "2 cells have no value in sample and are in no slide" in result.err


def test_one_tissue_passes_whatever_its_columns_are(cifm: Cifm, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xy = jittered_tissue(30, 30, 0)
    fields = (xy[:, 0] // 100).astype(int) * 3 + (xy[:, 1] // 100).astype(int)
    types = rng.integers(0, 6, 900).astype(str)
    path = write_tissue(tmp_path / "x.h5ad", xy, fov=fields, batch=types, leiden=pd.Categorical(types), sample="one")
    result = cifm("prepare", path, "--out", tmp_path / "out")
    assert result.code == 0
    assert "section" not in result.err


def test_overlap_can_be_kept(cifm: Cifm, pair_file: Path, tmp_path: Path) -> None:
    assert cifm("prepare", pair_file, "--keep", "overlap", "--out", tmp_path / "out").code == 0


def test_sections_in_a_cell_table_are_refused(cifm: Cifm, tmp_path: Path) -> None:
    counts = pd.DataFrame(np.random.default_rng(0).poisson(3.0, (800, 2)) + 1, columns=["CD4", "CD8A"])
    counts.insert(0, "cell", [f"c{number}" for number in range(800)])
    counts.to_csv(tmp_path / "counts.csv", index=False)
    cells = pd.DataFrame({"cell": counts["cell"], "x_um": pair()[:, 0], "y_um": pair()[:, 1], "slide": SECTION})
    cells.to_csv(tmp_path / "cells.csv", index=False)
    tables = ["--matrix", tmp_path / "counts.csv", "--cells", tmp_path / "cells.csv", "--out", tmp_path / "out"]
    refused = cifm("prepare", *tables)
    assert refused.code == 1
    assert "--by slide" in refused.err
    assert cifm("prepare", *tables, "--by", "slide").code == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.h5ad")) == [
        "counts-normal.h5ad",
        "counts-tumour.h5ad",
    ]


def stack(depths: tuple[float, float]) -> np.ndarray:
    return np.column_stack([pair(), np.repeat(depths, 400)])


def test_a_stack_is_refused_split_or_reduced_to_one_section(cifm: Cifm, tmp_path: Path) -> None:
    path = write_tissue(tmp_path / "stack.h5ad", stack((0.0, 10.0)))
    refused = cifm("prepare", path, "--out", tmp_path / "out")
    assert refused.code == 1
    assert "2 sections lie on each other: z is 0, 10" in refused.err
    assert "hint: --by z makes a slide of each; keep one with --z, such as --z 10" in refused.err
    code, text, _ = cifm("prepare", path, "--z", 10, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(text)["slides"]["stack"]["cells"]["dropped"] == {"at another depth": 400}
    assert cifm("prepare", path, "--by", "z", "--out", tmp_path / "out").code == 0
    assert sorted(file.stem for file in (tmp_path / "out").glob("*.h5ad")) == ["stack", "stack-0", "stack-10"]
    missing = cifm("prepare", path, "--z", 5, "--out", tmp_path / "other")
    assert (missing.code, "no cell has that depth (z is 0, 10)" in missing.err) == (1, True)


@pytest.mark.parametrize("text", ["", "a", "3,2", "1,2,3", "nan"])
def test_bad_depths_are_refused(cifm: Cifm, tmp_path: Path, text: str) -> None:
    path = write_tissue(tmp_path / "stack.h5ad", stack((0.0, 10.0)))
    code, _, err = cifm("prepare", path, "--z", text, "--out", tmp_path / "out")
    assert (code, "hint:" in err) == (1, True)


def test_depth_of_a_flat_file_is_refused(cifm: Cifm, pair_file: Path, tmp_path: Path) -> None:
    result = cifm("prepare", pair_file, "--by", "library_id", "--z", 3, "--out", tmp_path / "out")
    assert (result.code, "the cells have no third coordinate" in result.err) == (1, True)


@pytest.mark.parametrize(
    ("depths", "words"),
    [
        (np.zeros(900), None),
        (np.random.default_rng(0).uniform(0, 8, 900), "the third coordinate is from 0"),  # jitter within a section
        (np.arange(900) % 7 * 1.5, "the third coordinate is from 0 to 9"),  # layers of the image
        (np.linspace(0, 200, 900), "the third coordinate is from 0 to 200"),  # a tilted section
    ],
)
def test_flat_sections_with_a_third_coordinate_pass(cifm: Cifm, tmp_path: Path, depths: np.ndarray, words: str) -> None:
    path = write_tissue(tmp_path / "x.h5ad", np.column_stack([jittered_tissue(30, 30, 0), depths]))
    result = cifm("prepare", path, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert ("third coordinate" in result.err) == (words is not None)
    assert words is None or words in result.err


@pytest.mark.parametrize("column", [None, "z", "center_z"])
def test_a_volume_is_refused_with_a_range_to_keep(cifm: Cifm, tmp_path: Path, column: str | None) -> None:
    depths, xy = np.random.default_rng(0).uniform(0, 100, 900), jittered_tissue(30, 30, 0)
    columns = {column: depths} if column else {}
    path = write_tissue(tmp_path / "x.h5ad", xy if column else np.column_stack([xy, depths]), **columns)
    refused = cifm("prepare", path, "--out", tmp_path / "out")
    assert refused.code == 1
    assert "a volume, not a section" in refused.err
    assert "--z LOW,HIGH" in refused.err
    code, text, _ = cifm("prepare", path, "--z", "40,60", "--out", tmp_path / "out", "--json")
    assert code == 0
    kept = ((depths >= 40) & (depths <= 60)).sum()
    assert json.loads(text)["slides"]["x"]["cells"]["kept"] == kept


def test_python_functions_split_and_refuse_too(pair_file: Path) -> None:
    adata = ad.read_h5ad(pair_file)
    with pytest.raises(cifm_cli.CifmError, match="2 sections lie on each other"):
        cifm_cli.prepare(adata)
    with pytest.raises(cifm_cli.CifmError, match="2 sections lie on each other") as caught:
        slide_from_anndata(adata, name="adata")
    assert "library_id" in caught.value.hint
    slides = cifm_cli.prepare(adata, by="library_id", name="pair")
    from_file = cifm_cli.prepare(pair_file, by=["library_id"])
    assert list(slides) == list(from_file) == ["pair-normal", "pair-tumour"]
    for name, slide in slides.items():
        assert np.array_equal(slide.X.toarray(), from_file[name].X.toarray())
        pd.testing.assert_frame_equal(slide.obs, from_file[name].obs)
    adata.obsm["spatial"] = stack((0.0, 10.0))
    assert cifm_cli.prepare(adata, z_um=10.0).n_obs == 400
