"""Many downloads in one call: the sheet, processes, what fails, and the corpus they make."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import pytest

from cifm_cli import keys
from cifm_cli.data.corpus import corpus_table, describe_corpus, is_corpus
from cifm_cli.data.prepare.batch import Failure, PrepareResult, Task, _attempt_numbered, prepare_all, refuse
from cifm_cli.data.prepare.samplesheet import read_sheet
from cifm_cli.data.readers.base import PrepareConfig
from cifm_cli.errors import CifmError


@pytest.fixture
def folder(xenium_download: Path, tmp_path: Path) -> Path:
    """Two good downloads, one without its cells, and an empty folder."""
    for name in ("a", "b", "broken"):
        shutil.copytree(xenium_download, tmp_path / name)
    (tmp_path / "broken" / "cells.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.fixture
def options(tmp_path: Path) -> PrepareConfig:
    return PrepareConfig(out=tmp_path / "prepared", condition="normal")


def sheet(folder: Path, text: str) -> Path:
    (folder / "samples.csv").write_text(text)
    return folder / "samples.csv"


def test_a_row_says_what_differs_from_the_command(folder: Path, options: PrepareConfig) -> None:
    text = 'download,name,condition,radius_um,crop\na,first,tumour,25,"0,0,150,150"\n,,,,\nb,,,,\n'
    tasks = read_sheet(sheet(folder, text), options)
    changed = replace(options, name="first", condition="tumour", radius_um=25.0, crop=(0.0, 0.0, 150.0, 150.0))
    assert tasks == [Task(folder / "a", changed), Task(folder / "b", options)]


def test_every_problem_of_a_sheet_is_told_with_its_row(folder: Path, options: PrepareConfig) -> None:
    rows = ["a,x,,", "b,x,,", "absent,,,", "empty,,8.5,", ",y,,", "a,c/d,,codex"]
    text = "\n".join(["download,name,bin_um,platforms", *rows])
    with pytest.raises(CifmError) as caught:
        read_sheet(sheet(folder, text), options)
    for part in (
        "7 problems",
        "unknown column platforms, nearest platform",
        "rows 2, 3: all named 'x'",
        "row 4: ",
        "absent: no such file or folder",
        "row 5: bin_um '8.5' is not a number",
        "row 5: ",
        "found an empty folder",
        "row 6: no download",
        "row 7: --name 'c/d' cannot name a file",
    ):
        assert part in caught.value.message
    assert not options.out.exists()


def test_a_sheet_without_downloads_is_refused(folder: Path, options: PrepareConfig) -> None:
    with pytest.raises(CifmError, match=r"no column download \(it has sample\)"):
        read_sheet(sheet(folder, "sample\na\n"), options)
    with pytest.raises(CifmError, match="no row names a download"):
        read_sheet(sheet(folder, "download,name\n"), options)
    with pytest.raises(CifmError, match="no such file"):
        read_sheet(folder / "absent.csv", options)


@pytest.mark.parametrize("num_jobs", [1, 2])
def test_one_failure_loses_no_other_slide(
    folder: Path, options: PrepareConfig, num_jobs: int, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [Task(folder / name, options) for name in ("broken", "a", "b")]
    results, failures = prepare_all(tasks, num_jobs)
    assert [result.name for result in results] == ["a", "b"]
    assert [failure.download.name for failure in failures] == ["broken"]
    assert "damaged" in failures[0].message
    assert capfd.readouterr().err.count("wrote") == 2
    assert sorted(path.name for path in options.out.iterdir()) == ["a.h5ad", "b.h5ad"]
    assert [result.up_to_date for result in prepare_all(tasks, 1)[0]] == [True, True]


def test_processes_make_the_same_slides(folder: Path, options: PrepareConfig, tmp_path: Path) -> None:
    others = replace(options, out=tmp_path / "others")
    here = prepare_all([Task(folder / name, options) for name in ("a", "b")])[0]
    there = prepare_all([Task(folder / name, others) for name in ("a", "b")], 2)[0]
    assert [result.report for result in here] == [result.report for result in there]
    for one, other in zip(here, there, strict=True):
        assert (ad.read_h5ad(one.path).X != ad.read_h5ad(other.path).X).nnz == 0


def test_a_killed_process_loses_only_its_own_download(
    folder: Path, options: PrepareConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cifm_cli.data.prepare.batch._start_worker", _start_being_killed)
    results, failures = prepare_all([Task(folder / name, options) for name in ("b", "a")], 2)
    assert [result.name for result in results] == ["a"]
    assert failures[0].download == folder / "b"
    assert "was killed (SIGKILL)" in failures[0].message
    assert "--jobs" in failures[0].hint


def _start_being_killed(_number: int) -> Callable:
    return _be_killed_by_b


def _be_killed_by_b(numbered: tuple[int, Task]) -> PrepareResult | Failure:
    if numbered[1].download.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return _attempt_numbered(numbered)


def test_failures_are_told_one_by_one(capsys: pytest.CaptureFixture[str], options: PrepareConfig) -> None:
    refuse([], 3)
    failures = [Failure(Path("x"), "x: bad", "mend x"), Failure(Path("y"), "y: worse", "mend y")]
    with pytest.raises(CifmError, match="2 of 3 downloads were not prepared: x, y"):
        refuse(failures, 3)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["error", "hint"] * 2
    with pytest.raises(CifmError, match="x: bad"):
        refuse(failures[:1], 1)


def test_a_corpus_tells_what_its_slides_hold(folder: Path, options: PrepareConfig) -> None:
    tumour = replace(options, condition="tumour", crop=(0.0, 0.0, 150.0, 150.0), sample="p1")
    prepare_all([Task(folder / "a", options), Task(folder / "b", tumour)])
    paths = sorted(options.out.glob("*.h5ad"))
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


def test_a_folder_with_other_files_is_no_corpus(folder: Path, options: PrepareConfig) -> None:
    ad.AnnData(ad.read_h5ad(prepare_all([Task(folder / "a", options)])[0][0].path).X).write_h5ad(options.out / "z.h5ad")
    assert not is_corpus(sorted(options.out.glob("*.h5ad")))
