"""`cifm embed`: defaults of the workspace, output streams and exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from builders import save_random_run

from cifm_cli import keys
from cifm_cli.data.slide import open_slide


@pytest.fixture(autouse=True)
def random_run(workspace: Path, prepared_synthetic: Path) -> Path:
    """The latest run of the workspace, with random weights."""
    tables = {"model": {"width": 8}, "data": {"tile_cells": 100}}
    return save_random_run(workspace / "runs" / "latest", open_slide(prepared_synthetic), tables)


def test_without_arguments_the_slides_of_the_workspace_are_embedded(cifm) -> None:
    code, out, err = cifm("embed")
    assert code == 0
    assert out == ""
    assert "cells embedded as microenvironment and cell: embedded/tissue.h5ad" in err
    assert set(ad.read_h5ad("embedded/tissue.h5ad").obsm) == {keys.SPATIAL, keys.MICROENVIRONMENT, keys.CELL}


def test_one_level_and_json(cifm) -> None:
    code, out, _ = cifm("embed", "--level", "cell", "--out", "elsewhere", "--json")
    assert code == 0
    slide = ad.read_h5ad("elsewhere/tissue.h5ad")
    assert set(slide.obsm) == {keys.SPATIAL, keys.CELL}
    described = {"path": "elsewhere/tissue.h5ad", "cells": slide.n_obs, "obsm": {keys.CELL: [slide.n_obs, 8]}}
    result = json.loads(out)
    assert result["slides"] == {"tissue": described}
    assert result["evaluation"]["status"] == "not evaluated"


def test_an_unknown_level_is_wrong_usage(cifm) -> None:
    code, out, err = cifm("embed", "--level", "organ")
    assert (code, out) == (2, "")
    assert "microenvironment" in err


def test_a_missing_model_is_an_error(cifm) -> None:
    code, _, err = cifm("embed", "--model", "runs/none")
    assert code == 1
    assert err.startswith("error: no model in runs/none")
    assert "hint: " in err


def test_an_embedded_slide_is_not_replaced_by_its_own_embedding(cifm) -> None:
    assert cifm("embed").code == 0
    before = Path("embedded/tissue.h5ad").read_bytes()
    code, _, err = cifm("embed", "embedded/tissue.h5ad")
    assert code == 1
    assert "would replace its input" in err
    assert Path("embedded/tissue.h5ad").read_bytes() == before


def test_several_processes_write_the_same_file(cifm) -> None:
    for devices in (1, 2):
        words = ("--backend", "torch", "--devices", devices, "--out", f"by_{devices}")
        code, _, err = cifm("embed", *words)
        assert code == 0, err
    alone, together = (ad.read_h5ad(f"by_{devices}/tissue.h5ad") for devices in (1, 2))
    for slot in (keys.MICROENVIRONMENT, keys.CELL):
        assert np.array_equal(alone.obsm[slot], together.obsm[slot])
        assert np.abs(together.obsm[slot]).max(axis=1).min() > 0, "a row was never written"


def test_a_process_that_dies_is_an_error(cifm, monkeypatch: pytest.MonkeyPatch) -> None:
    from cifm_cli.embedding import parallel

    monkeypatch.setattr(parallel, "_start_worker", _die)
    code, _, err = cifm("embed", "--devices", 2)
    assert code == 1
    assert "ended with exit code 3" in err
    assert not list(Path("embedded").iterdir())


def _die(*_: object) -> None:
    os._exit(3)
