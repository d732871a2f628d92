"""Parameters of slides: no void cell changes them, hidden cells are not part of them, and states have no order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from builders import add_noise, forget_checksums, interrupt_training, mask_cells, random_parameters, read_tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from cifm_backends.torch_reference import TorchBackend
from cifm_cli import keys
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.errors import STOP_SIGNALS, StopRequested
from cifm_cli.inference.loaded_model import load_model
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.gene_profiles import sum_genes
from cifm_cli.model.slide_parameters import SlideParameters
from cifm_cli.model.vocabulary import match_panel
from cifm_cli.provenance import numpy_generator, seeded_torch
from cifm_cli.recipe import Recipe, parse
from cifm_cli.training import loop
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.corpus import Corpus
from cifm_cli.training.distributed import Processes
from cifm_cli.training.initialise import fit_slides
from cifm_cli.training.session import Session, open_session
from cifm_cli.training.state import list_states
from cifm_cli.verification import verification_skipped

NUM_GENES, RADIUS_UM = 12, 20.0
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=8, deadline=None)


def make_recipe(**sections: dict[str, object]) -> Recipe:
    content = {
        "data": {"tile_cells": 128},
        "model": {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1},
        "objective": {"scales": [1.0, 2.0], "cutoff": 3.0, "states": 6},
        "train": {"steps": 6, "validate_every": 3, "validation_tiles": 2, "warmup_steps": 2, "tiles_per_step": 2},
    }
    return parse({name: {**content[name], **sections.get(name, {})} for name in content}, "test")


def make_tissue(seed: int, num_cells: int = 60) -> Slide:
    generator = numpy_generator(seed, "tissue")
    counts = csr_matrix(np.ceil(8 * random_array((num_cells, NUM_GENES), density=0.35, rng=generator).toarray()))
    xy_um = generator.uniform(0, 90, (num_cells, 2))
    return slide_from_arrays("tissue", xy_um, counts, tuple(f"ENSG{g:011d}" for g in range(NUM_GENES)), RADIUS_UM)


@pytest.fixture(scope="module", autouse=True)
def without_verification() -> Iterator[None]:
    """The slides of these tests are changed copies of a prepared one."""
    with verification_skipped():
        yield


@pytest.fixture(scope="module")
def two_slides(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pieces of a tissue with panels that overlap, the second one too small for all states."""
    folder = tmp_path_factory.mktemp("two")
    tissue = ad.read_h5ad(prepared_synthetic)
    genes = tissue.n_vars
    forget_checksums(tissue[:, : 2 * genes // 3]).write_h5ad(folder / "first.h5ad")
    small = np.zeros(tissue.n_obs, dtype=bool)
    for region, number in (("train", 70), ("validation", 20), ("test", 20)):
        small[np.flatnonzero(tissue.obs["split"] == region)[:number]] = True
    forget_checksums(tissue[small, genes // 3 :]).write_h5ad(folder / "second.h5ad")
    return [folder / "first.h5ad", folder / "second.h5ad"]


def fitted_session(slides: list[Path], folder: Path, recipe: Recipe | None = None) -> Session:
    session = open_session(TrainConfig(recipe or make_recipe(), slides, folder, backend="torch"), Processes())
    fit_slides(session)
    return session


@few
@given(seed=seeds, num_hidden=st.integers(1, 30))
def test_cells_can_be_taken_out_of_the_totals(seed: int, num_hidden: int) -> None:
    slide = make_tissue(seed)
    panel = match_panel(slide, slide.gene_ids)
    hidden = np.sort(numpy_generator(seed, "hidden").choice(slide.num_cells, num_hidden, replace=False))
    others = np.setdiff1d(np.arange(slide.num_cells), hidden)
    whole, rest = (sum_genes(slide, rows, panel, 1e4) for rows in (np.arange(slide.num_cells), others))
    values, counts = (
        torch.from_numpy(part.toarray()) for part in (slide.expression(hidden, 1e4), slide.counts(hidden))
    )
    found = whole.without(values, counts, int((slide.total_counts[hidden] > 0).sum()))
    for name, tensor in rest.tensors().items():
        assert found.tensors()[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-9), name
    assert found.profiles().composition.sum().item() == pytest.approx(1)


@few
@given(seed=seeds)
def test_totals_of_all_cells_but_none_are_empty(seed: int) -> None:
    slide = make_tissue(seed)
    rows = np.arange(slide.num_cells)
    values, counts = (torch.from_numpy(part.toarray()) for part in (slide.expression(rows, 1e4), slide.counts(rows)))
    totals = sum_genes(slide, rows, match_panel(slide, slide.gene_ids), 1e4)
    profiles = totals.without(values, counts, int((slide.total_counts > 0).sum())).profiles()
    assert float(profiles.mean.abs().max()) < 1e-6
    assert float(profiles.composition.min()) > 0


def test_void_cells_change_no_profile_and_no_state(prepared_synthetic: Path, tmp_path: Path) -> None:
    tissue = ad.read_h5ad(prepared_synthetic)
    void = tissue[::3].copy()
    void.X = csr_matrix(void.shape, dtype=tissue.X.dtype)
    void.obs["total_counts"] = 0.0
    void.obs_names = [f"void{number}" for number in range(void.n_obs)]
    both = ad.concat([tissue, void], merge="same", uns_merge="same")
    both.uns = tissue.uns
    forget_checksums(both).write_h5ad(tmp_path / "void.h5ad")
    plain, other = (
        fitted_session([path], tmp_path / path.stem) for path in (prepared_synthetic, tmp_path / "void.h5ad")
    )
    assert other.corpus.num_cells > plain.corpus.num_cells
    ours, theirs = (session.corpus.slides[0].parameters.tensors() for session in (plain, other))
    for name in ("mean", "expressed", "composition", "state_profiles", "state_frequency"):
        assert torch.equal(ours[name], theirs[name]), name


def test_the_profiles_of_a_training_tile_are_those_of_the_other_cells(two_slides: list[Path], tmp_path: Path) -> None:
    corpus = fitted_session(two_slides[1:], tmp_path / "run").corpus
    (each,) = corpus.slides
    example = corpus.train_example(0)
    region = each.tilers[keys.TRAIN].rows
    whole = sum_genes(each.slide, region, each.panel, 1e4)
    assert torch.equal(whole.profiles().mean, each.parameters.mean)
    summed = example.tile.slide.mean.double() * (whole.num_cells - int((example.target.counts.sum(1) > 0).sum()))
    expected = whole.values - example.target.values.sum(0, dtype=torch.float64)
    assert summed.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-4)
    assert not torch.equal(example.tile.slide.mean, each.parameters.mean)
    validation = corpus.validation_example(0)
    assert torch.equal(validation.tile.slide.mean, each.parameters.mean), "no training cell is hidden"


@few
@given(seed=seeds)
def test_the_order_of_the_states_has_no_effect(seed: int) -> None:
    recipe, slide = make_recipe(), make_tissue(seed)
    with seeded_torch(seed, "network"):
        network = Ensemble(NUM_GENES, recipe).double()
        add_noise(network, 0.1)
    tile = mask_cells(slide, np.array([3, 17, 30]), recipe, torch.float64)
    order = torch.tensor([2, 0, 1])
    parameters = tile.slide
    permuted = replace(
        parameters,
        state_profiles=parameters.state_profiles[order],
        state_frequency=parameters.state_frequency[order],
    )
    with torch.no_grad():
        plain = network.eval()(TorchBackend(), tile)
        other = network(TorchBackend(), replace(tile, slide=permuted))
    assert torch.allclose(other.state, plain.state[:, order], rtol=0, atol=1e-10)
    for name in ("magnitude", "logit", "composition", "features"):
        error = float((getattr(plain, name) - getattr(other, name)).abs().max())
        assert error < 1e-10, f"{name}: {error:.2e}"


def test_a_selection_of_genes_keeps_a_composition() -> None:
    parameters = random_parameters(NUM_GENES, make_recipe()).take_genes(torch.tensor([7, 2, 5]))
    assert parameters.num_genes == 3
    assert parameters.composition.sum().item() == pytest.approx(1)


def test_each_slide_has_states_of_its_own(two_slides: list[Path], tmp_path: Path) -> None:
    session = fitted_session(two_slides, tmp_path / "run")
    first, second = (each.parameters for each in session.corpus.slides)
    assert first.num_states == 6
    assert second.num_states == 3, "it has 70 training cells"
    for each in session.corpus.slides:
        assert each.parameters.num_genes == each.panel.num_genes
    assert session.network.pooled.parameters_of(session.corpus.measured_genes()).num_states == 6
    numbers = [session.corpus.train_example(number).tile.slide.num_states for number in range(4)]
    assert sorted(numbers[:2]) == sorted(numbers[2:]) == [3, 6], "each step has a tile of each slide"


def test_the_pooled_parameters_of_one_slide_are_its_own(prepared_synthetic: Path, tmp_path: Path) -> None:
    session = fitted_session([prepared_synthetic], tmp_path / "run")
    (each,) = session.corpus.slides
    session.save_model()
    found = load_model(tmp_path / "run").slide_parameters(each.slide)
    for name, tensor in each.parameters.tensors().items():
        assert found.tensors()[name].numpy() == pytest.approx(tensor.numpy(), rel=1e-5), name


def test_a_resumed_run_of_several_slides_equals_an_uninterrupted_one(two_slides: list[Path], tmp_path: Path) -> None:
    def config(name: str, **changes: bool) -> TrainConfig:
        return TrainConfig(make_recipe(), two_slides, tmp_path / name, backend="torch", **changes)

    loop.train(config("whole"))
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, 4, STOP_SIGNALS[0])
        with pytest.raises(StopRequested):
            loop.train(config("stopped"))
    loop.train(config("stopped", resume=True))
    states = [list_states(tmp_path / name)[0] for name in ("whole", "stopped")]
    one, other = (read_tensors(path)[0] for path in states)
    assert one.keys() == other.keys()
    assert {"slides.0.mean", "slides.1.totals.counts"} <= one.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_held_out_slides_have_parameters_of_their_own(two_slides: list[Path], tmp_path: Path) -> None:
    recipe = make_recipe(data={"validation_slides": ["second"]})
    corpus = fitted_session(two_slides, tmp_path / "run", recipe).corpus
    (held_out,) = corpus.validation_slides
    rows = np.arange(held_out.slide.num_cells)
    expected = sum_genes(held_out.slide, rows, held_out.panel, 1e4).profiles()
    assert torch.equal(held_out.parameters.mean, expected.mean)
    assert not torch.equal(corpus.validation_example(0).tile.slide.mean, expected.mean), "its hidden cells are left out"


@pytest.mark.parametrize("change", ["missing", "shape", "negative"])
def test_parameters_of_other_slides_are_refused(two_slides: list[Path], tmp_path: Path, change: str) -> None:
    from cifm_cli.training.slide_state import restore_slides, slide_tensors

    session = fitted_session(two_slides, tmp_path / "run")
    tensors = slide_tensors(session.corpus)
    if change == "missing":
        del tensors["1.mean"]
    elif change == "shape":
        tensors["1.mean"] = tensors["1.mean"][1:]
    else:
        tensors["1.composition"] = -tensors["1.composition"]
    with pytest.raises(ValueError, match=r"tensor 1\.(mean|composition)"):
        restore_slides(Corpus(two_slides, make_recipe()), tensors)


def test_conversion_of_the_precision() -> None:
    parameters = random_parameters(NUM_GENES, make_recipe()).to(torch.float64)
    assert isinstance(parameters, SlideParameters)
    assert {tensor.dtype for tensor in parameters.tensors().values()} == {torch.float64}
