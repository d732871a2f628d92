"""Sample sheets: rows become tasks, and all problems of a sheet are reported at once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cifm_cli.data.prepare.batch import PrepareTask
from cifm_cli.data.prepare.config import PrepareConfig
from cifm_cli.data.prepare.samplesheet import read_samplesheet
from cifm_cli.errors import CifmError


@pytest.fixture
def folder(xenium_download: Path, tmp_path: Path) -> Path:
    """Two downloads and an empty folder."""
    for name in ("a", "b"):
        shutil.copytree(xenium_download, tmp_path / name)
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    return PrepareConfig(out=tmp_path / "prepared", condition="normal")


def sheet(folder: Path, text: str) -> Path:
    (folder / "samples.csv").write_text(text)
    return folder / "samples.csv"


def test_row_overrides_the_options_of_the_command(folder: Path, config: PrepareConfig) -> None:
    text = 'download,name,condition,radius_um,crop\na,first,tumour,25,"0,0,150,150"\n,,,,\nb,,,,\n'
    tasks = read_samplesheet(sheet(folder, text), config)
    changed = replace(config, name="first", condition="tumour", radius_um=25.0, crop=(0.0, 0.0, 150.0, 150.0))
    assert tasks == [PrepareTask(folder / "a", changed), PrepareTask(folder / "b", config)]


def test_all_problems_are_reported_with_their_rows(folder: Path, config: PrepareConfig) -> None:
    rows = ["a,x,,", "b,x,,", "absent,,,", "empty,,8.5,", ",y,,", "a,c/d,,codex"]
    text = "\n".join(["download,name,bin_um,platforms", *rows])
    with pytest.raises(CifmError) as caught:
        read_samplesheet(sheet(folder, text), config)
    for part in (
        "7 problems",
        "unknown column platforms, did you mean platform?",
        "rows 2, 3: all named 'x'",
        "row 4: ",
        "absent: no such file or folder",
        "row 5: bin_um '8.5' is not a whole number",
        "row 5: ",
        "found an empty folder",
        "row 6: no download",
        "row 7: --name 'c/d' cannot name a file",
    ):
        assert part in caught.value.message
    assert not config.out.exists()


def test_sheet_without_downloads_is_refused(folder: Path, config: PrepareConfig) -> None:
    with pytest.raises(CifmError, match=r"no column download \(it has sample\)"):
        read_samplesheet(sheet(folder, "sample\na\n"), config)
    with pytest.raises(CifmError, match="no row names a download"):
        read_samplesheet(sheet(folder, "download,name\n"), config)
    with pytest.raises(CifmError, match="no such file"):
        read_samplesheet(folder / "absent.csv", config)
