"""The benchmark scripts can be imported, and their synthetic slide and model can be opened."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import synthetic_slide

from cifm_cli.data.slide import open_slide
from cifm_cli.inference.encode import encode_cells
from cifm_cli.inference.loaded_model import load_model
from cifm_cli.recipe import parse

SCRIPTS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_can_be_imported(script: str) -> None:
    import_module(script)


def test_the_synthetic_slide_fits_the_synthetic_model(tmp_path: Path) -> None:
    synthetic_slide.write_slide(tmp_path / "slide.h5ad", 300, 20, per_cell=5)
    synthetic_slide.write_model(tmp_path / "run", parse({"model": {"width": 8}}, "test"), 20)
    slide = open_slide(tmp_path / "slide.h5ad")
    assert (slide.num_cells, slide.num_genes) == (300, 20)
    assert encode_cells(load_model(tmp_path / "run", "torch"), slide, "microenvironment").shape == (300, 8)
