"""`LoadedModel`: notes about slides that differ from the training data, and the choice of the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from cifm_backends.torch_reference import TorchBackend
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.errors import CifmError
from cifm_cli.inference.loaded_model import LoadedModel, choose_device
from cifm_cli.model.checkpoint import Checkpoint
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.recipe import parse

GENES = ("ENSG00000000003", "ENSG00000000005", "ENSG00000000419", "ENSG00000000457")


def make_model(genes: tuple[str, ...], radius_um: float | None, objective: str = "residual") -> LoadedModel:
    data = {} if radius_um is None else {"radius_um": radius_um}
    recipe = parse({"model": {"width": 8}, "data": data, "objective": {"name": objective, "states": 3}}, "test")
    checkpoint = Checkpoint(Ensemble(len(genes), recipe), recipe, genes, {}, Path())
    return LoadedModel(checkpoint, TorchBackend(), torch.device("cpu"))


@pytest.fixture
def slide() -> Slide:
    """A row of cells 10 um apart, prepared for a radius of 20 um."""
    xy_um = np.stack([10.0 * np.arange(6), np.zeros(6)], axis=1)
    return slide_from_arrays("row", xy_um, csr_matrix(np.ones((6, len(GENES)))), GENES, 20.0)


def test_a_slide_like_the_training_data_has_no_notes(slide: Slide) -> None:
    assert make_model(GENES, 20.0).slide_notes(slide) == []
    assert make_model(GENES, None).fit_slide(slide).radius_um == 20


def test_each_note_is_logged_once(slide: Slide, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(GENES[:1], 30.0)
    notes = model.slide_notes(slide)
    assert notes == [
        "slide row: the model knows only 1 of its 4 genes",
        "slide row: its radius is 20 um, used with 30 um",
    ]
    for _ in range(2):
        assert model.fit_slide(slide).radius_um == 30
    assert [record.getMessage() for record in caplog.records] == notes


def test_a_slide_without_shared_genes_is_refused(slide: Slide) -> None:
    with pytest.raises(CifmError, match="none of its 4 genes"):
        make_model(("ENSG00000000460",), None).fit_slide(slide)


def test_the_head_of_the_paper_has_no_slide_parameters(slide: Slide) -> None:
    assert make_model(GENES, None, "balanced_mse").slide_parameters(slide) is None
    parameters = make_model(GENES, None).slide_parameters(slide)
    assert parameters is not None
    assert parameters.state_profiles.shape == (3, len(GENES))


def test_an_unknown_device_is_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(CifmError, match="--device nonsense"):
        choose_device("nonsense")
