"""`cifm prepare` on the command line: streams, exit codes, messages, and a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cifm_cli import keys

OPTIONS = {
    "--out", "--name", "--platform", "--bin-um", "--condition", "--tissue", "--sample", "--radius-um", "--microns-per-pixel",
    "--layer", "--gene-table", "--orthologs", "--matrix", "--cells", "--keep", "--crop", "--split", "--split-gap-um", "--seed",
    "--sheet", "--jobs", "--force", "--json", "--help", "-h", "-o", "--by", "--z",
}  # fmt: skip


def test_download_becomes_a_slide(
    cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cifm("prepare", xenium_download)
    assert code == 0
    assert out == ""
    assert "cells in" in err
    assert "dropped: void" in err
    assert "wrote prepared/tissue.h5ad" in err
    assert ad.read_h5ad(tmp_path / "prepared" / "tissue.h5ad").obs[keys.SPLIT].cat.categories.tolist() == list(
        keys.REGIONS
    )


def test_only_json_goes_to_stdout(cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path) -> None:
    code, out, _ = cifm(
        "prepare", xenium_download, "--out", tmp_path, "--name", "t1", "--condition", "tumour", "--json"
    )
    assert code == 0
    slide = json.loads(out)["slides"]["t1"]
    assert slide["path"] == str(tmp_path / "t1.h5ad")
    assert slide["cells"]["kept"] + sum(slide["cells"]["dropped"].values()) == slide["cells"]["in"] == 800
    assert slide["up_to_date"] is False
    again = json.loads(
        cifm("prepare", xenium_download, "--out", tmp_path, "--name", "t1", "--condition", "tumour", "--json").out
    )
    assert again["slides"]["t1"] == {**slide, "up_to_date": True}


def test_several_downloads_in_one_call(cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(xenium_download, tmp_path / "other"))
    code, out, _ = cifm("prepare", xenium_download, other, "--out", tmp_path / "prepared", "--json")
    assert code == 0
    assert list(json.loads(out)["slides"]) == ["tissue", "other"]
    assert sorted(path.name for path in (tmp_path / "prepared").glob("*.h5ad")) == ["other.h5ad", "tissue.h5ad"]


def test_samplesheet_becomes_a_corpus(cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "samples.csv"
    sheet.write_text(f"download,name,tissue\n{xenium_download},one,lung\n{xenium_download},two,\nabsent,,\n")
    words = ["--sheet", sheet, "--out", tmp_path / "prepared", "--tissue", "liver", "--json"]
    assert "1 problem: row 4" in cifm("prepare", *words).err
    sheet.write_text("\n".join(sheet.read_text().splitlines()[:3]))
    code, out, err = cifm("prepare", *words, "--jobs", "2")
    assert code == 0, err
    assert list(json.loads(out)["slides"]) == ["one", "two"]
    lines = cifm("inspect", tmp_path / "prepared").out.splitlines()
    assert [line.split()[0] for line in lines] == ["slide", "one", "two", "all"]
    assert ("lung" in lines[1], "liver" in lines[2]) == (True, True)


def test_failure_is_reported_and_other_slides_are_written(
    cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path
) -> None:
    code, out, err = cifm("prepare", tmp_path / "absent", xenium_download, "--out", tmp_path, "--json")
    assert code == 1
    assert list(json.loads(out)["slides"]) == ["tissue"]
    assert "absent: no such file or folder" in err
    assert "1 of 2 downloads were not prepared" in err
    assert (tmp_path / "tissue.h5ad").is_file()


def test_crop_and_radius_affect_the_slide(cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path) -> None:
    code, out, _ = cifm(
        "prepare", xenium_download, "--out", tmp_path, "--crop", "0,0,150,150", "--radius-um", "30", "--json"
    )
    assert code == 0
    slide = json.loads(out)["slides"]["tissue"]
    assert slide["units"]["radius_um"] == 30.0
    assert slide["cells"]["dropped"]["outside the crop"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "no such file or folder"),
        (["{download}", "--crop", "1,2,3"], "not a rectangle"),
        (["{download}", "--platform", "codex"], "--platform codex: unknown"),
        (["{download}", "{download}"], "2 downloads would be prepared as 'tissue'"),
        (["{download}", "--name", "a/b"], "cannot name a file"),
        (["{download}", "--radius-um", "-3"], "not a length"),
        (["{download}", "--keep", "everything"], "--keep everything: unknown"),
        (["{download}", "--microns-per-pixel", "100"], "too sparse for micrometres"),
        (["{download}", "--microns-per-pixel", "0.01"], "too dense for micrometres"),
        (["{download}", "--crop", "-10,-10,-5,-5"], "no cell is left of 800"),
    ],
)
def test_user_errors_have_two_lines_and_code_1(
    cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    code, out, err = cifm(
        "prepare", *(word.format(download=xenium_download) for word in words), "--out", tmp_path / "out"
    )
    assert (code, out) == (1, "")
    assert message in err
    assert [line.split(":")[0] for line in err.splitlines() if line] == ["error", "hint"]
    assert not (tmp_path / "out").exists()


def test_wrong_usage_has_code_2(cifm: Callable[..., Any]) -> None:
    assert cifm("prepare").code == 2
    assert cifm("prepare", "x", "--bin-um", "eight").code == 2
    assert cifm("prepare", "--matrix", "counts.csv").code == 2
    assert cifm("prepare", "x", "--matrix", "counts.csv", "--cells", "cells.csv").code == 2


def test_matrix_and_table_of_cells(cifm: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("cell,CD4,CD8A\na,1,0\nb,0,2\nc,3,4\n")
    (tmp_path / "cells.csv").write_text("name,x_um,y_um\nc,0,10\na,0,0\nb,10,0\n")
    words = ["--matrix", tmp_path / "counts.csv", "--cells", tmp_path / "cells.csv", "--out", tmp_path, "--json"]
    code, out, err = cifm("prepare", *words)
    assert code == 0, err
    slide = json.loads(out)["slides"]["counts"]
    assert (slide["cells"]["kept"], slide["genes"]["kept"]) == (3, 2)
    assert json.loads(cifm("prepare", *words).out)["slides"]["counts"]["up_to_date"]
    (tmp_path / "cells.csv").write_text("name,x_um,y_um\nc,0,20\na,0,0\nb,10,0\n")
    assert "made from other input" in cifm("prepare", *words).err


def test_error_for_unknown_symbols_has_a_hint(cifm: Callable[..., Any], tmp_path: Path) -> None:
    slide = ad.AnnData(
        np.ones((4, 2)), obs=pd.DataFrame(index=list("abcd")), var=pd.DataFrame(index=["GENE1", "GENE2"])
    )
    slide.obsm["spatial"] = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    slide.write_h5ad(tmp_path / "s.h5ad")
    code, _, err = cifm("prepare", tmp_path / "s.h5ad", "--out", tmp_path / "out")
    assert code == 1
    assert "none of the 2 features is a gene with an Ensembl id" in err
    assert "--gene-table" in err


@pytest.mark.skipif(os.name != "posix", reason="limits on file size are set by POSIX")
def test_full_disk_leaves_the_old_slide(cifm: Callable[..., Any], xenium_download: Path, tmp_path: Path) -> None:
    assert cifm("prepare", xenium_download, "--out", tmp_path).code == 0
    command = [sys.executable, "-m", "cifm_cli", "prepare", str(xenium_download), "--out", str(tmp_path)]
    before = (tmp_path / "tissue.h5ad").read_bytes()
    limited = ["sh", "-c", 'ulimit -f 40 && exec "$@"', "sh", *command, "--force"]
    # Modules that are imported for the first time would be cached, cut off at the limit, for all other processes.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(limited, check=False, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 1, done.stderr
    assert "error: cannot write" in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tissue.h5ad", "tissue.html"]
    assert (tmp_path / "tissue.h5ad").read_bytes() == before


def test_prepare_has_these_options() -> None:
    from typer.main import get_command

    from cifm_cli.app import app

    command = get_command(app).commands["prepare"]
    assert {name for parameter in command.params for name in parameter.opts if name.startswith("-")} | {
        "--help",
        "-h",
    } == OPTIONS
