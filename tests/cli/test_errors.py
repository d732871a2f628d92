"""User errors: each ends in exit code 1, one `error:` line that names the file or option, and one `hint:` line."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

MATRIX = "cell_feature_matrix.h5"


@pytest.fixture
def bundle(xenium_download: Path, tmp_path: Path) -> Path:
    """A copy of the download, which the test may damage."""
    return Path(shutil.copytree(xenium_download, tmp_path / "damaged"))


@pytest.fixture
def refused(cifm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must fail; returns the `error:` line without its label."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: object) -> str:
        code, out, err = cifm(*argv)
        lines = err.splitlines()
        assert (code, out) == (1, "")
        assert re.fullmatch(r"error: \S.*", lines[-2])
        assert re.fullmatch(r"hint: \S.*", lines[-1])
        assert "Traceback" not in err
        return lines[-2].removeprefix("error: ")

    return run


def test_a_missing_download(refused) -> None:
    assert "nowhere: no such file or folder" in refused("prepare", "nowhere")


@pytest.mark.parametrize("files", [[MATRIX], ["cells.parquet", "cells.csv.gz"]])
def test_files_missing_in_a_bundle(refused, bundle: Path, files: list[str]) -> None:
    for file in files:
        (bundle / file).unlink()
    assert "damaged" in refused("prepare", bundle)
    assert not Path("prepared").exists()


def test_a_truncated_matrix(refused, bundle: Path) -> None:
    content = (bundle / MATRIX).read_bytes()
    (bundle / MATRIX).write_bytes(content[: len(content) // 2])
    assert MATRIX in refused("prepare", bundle)


def test_barcodes_that_match_no_cell(refused, bundle: Path) -> None:
    with h5py.File(bundle / MATRIX, "r+") as file:
        barcodes = file["matrix/barcodes"]
        barcodes[...] = np.array([b"zzzz%06d" % i for i in range(len(barcodes))], dtype=barcodes.dtype)
    refused("prepare", bundle)


def test_coordinates_in_pixels(refused, bundle: Path) -> None:
    for path, read, write in [
        (bundle / "cells.parquet", pd.read_parquet, lambda table, path: table.to_parquet(path, index=False)),
        (bundle / "cells.csv.gz", pd.read_csv, lambda table, path: table.to_csv(path, index=False)),
    ]:
        table = read(path)
        table[["x_centroid", "y_centroid"]] /= 0.2125 * 0.1
        write(table, path)
    assert "um" in refused("prepare", bundle)


def test_an_h5ad_that_is_not_prepared(refused, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "plain.h5ad", "w") as file:
        file["X"] = np.ones((2, 2))
    assert "plain.h5ad" in refused("inspect", "plain.h5ad")
    assert "plain.h5ad" in refused("train", "demo", "--data", "plain.h5ad")


def test_an_h5ad_of_an_early_anndata_is_named_for_what_it_is(refused, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "early.h5ad", "w") as file:
        file["X"] = np.ones((2, 2))
        file["obs"] = np.zeros(2, dtype=[("index", "S2"), ("total", "f4")])
    assert "early.h5ad: an .h5ad of anndata before version 0.7, not of cifm" in refused("inspect", "early.h5ad")


def test_no_slides_yet(refused) -> None:
    assert refused("train", "demo") == "no slides (.h5ad) in prepared"


def test_an_unknown_recipe_key(refused, prepared_synthetic: Path) -> None:
    assert "train.stps" in refused("train", "demo", "--data", prepared_synthetic, "--set", "train.stps=3")


def test_a_missing_validation_slide(refused, prepared_synthetic: Path) -> None:
    setting = 'data.validation_slides=["missing"]'
    assert "missing" in refused("train", "demo", "--data", prepared_synthetic, "--set", setting)


def test_a_checkpoint_of_another_format(refused, tmp_path: Path) -> None:
    from cifm_cli.tensor_files import save_tensors

    save_tensors(tmp_path / "run" / "model.safetensors", {}, {"format": 999})
    assert "format 999" in refused("inspect", "run")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint(refused, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert "model.safetensors" in refused("inspect", "model.safetensors")


@pytest.mark.parametrize("name", ["nothing", "notes.txt", "empty"])
def test_inspect_refuses_unknown_files(refused, tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "empty").mkdir()
    assert name in refused("inspect", name)


def test_a_backend_that_does_not_exist(refused, prepared_synthetic: Path) -> None:
    assert "warp" in refused("train", "demo", "--data", prepared_synthetic, "--backend", "warp")


def test_a_full_disk(xenium_download: Path, tmp_path: Path) -> None:
    """A limit on file sizes replaces a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = subprocess.run(
        [sys.executable, "-m", "cifm_cli", "prepare", xenium_download, "--out", tmp_path / "prepared"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=limit,
        # Modules that are imported for the first time would be cached, cut off at the limit, for all other processes.
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    error, hint = done.stderr.splitlines()[-2:]
    assert done.returncode == 1
    assert error.startswith(f"error: cannot write {tmp_path}")
    assert hint.startswith("hint: ")
    assert list(tmp_path.iterdir()) == [], "a slide that fails leaves nothing behind, not even its folder"


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "LONG"),
        ("embed", "LONG/a.h5ad"),
        ("train", "demo", "--data", "LONG"),
        ("evaluate", "--out", "LONG"),
        ("recipes", "copy", "demo", "LONG"),
        ("demo", "--out", "LONG"),
    ],
)
def test_a_name_longer_than_the_file_system_allows(refused, words: tuple[str, ...]) -> None:
    line = refused(*(word.replace("LONG", "x" * 300) for word in words))
    assert "the name is too long for the file system" in line
    assert "Errno" not in line


def test_an_error_of_the_machine_is_told_and_a_mistake_of_ours_is_not(
    refused, cifm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: OSError) -> Callable[..., None]:
        def raise_it(*_: object) -> None:
            raise error

        return raise_it

    monkeypatch.setattr("cifm_cli.recipe.find", fail(OSError(errno.ESTALE, "Stale file handle", "a/recipe.toml")))
    assert refused("recipes", "show", "demo") == "a/recipe.toml: the file server has removed or replaced it"
    for error in (FileNotFoundError(errno.ENOENT, "ours", "x"), OSError(errno.EIO, "without a file")):
        monkeypatch.setattr("cifm_cli.recipe.find", fail(error))
        with pytest.raises(OSError, match=r"ours|without a file"):
            cifm("recipes", "show", "demo")
