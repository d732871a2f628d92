"""New genes: regressions on known ones, models that grow for a slide, and `cifm train --init` on slides with new genes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from builders import (
    add_noise,
    forget_checksums,
    interrupt_training,
    load_random_model,
    read_tensors,
    replace_counts,
    train_short_run,
)
from scipy.sparse import csr_matrix

from cifm_cli.data.cell_sketch import sketch_region
from cifm_cli.data.slide import Slide, slide_from_arrays
from cifm_cli.errors import CifmError, StopRequested
from cifm_cli.inference.predict import predict_cells
from cifm_cli.model import coexpression
from cifm_cli.model.checkpoint import MODEL_FILE, load_checkpoint, save_checkpoint
from cifm_cli.model.coexpression import MIN_CELLS, MIN_KNOWN, Coefficients, Ridge, measure_coexpression, regress
from cifm_cli.model.ensemble import Ensemble
from cifm_cli.model.growth import grow
from cifm_cli.provenance import numpy_generator
from cifm_cli.recipe import parse
from cifm_cli.training.config import TrainConfig
from cifm_cli.training.distributed import Processes
from cifm_cli.training.session import Session, open_session
from cifm_cli.training.state import list_states, load_run_spec
from cifm_cli.verification import verification_skipped

TABLES = {"model": {"width": 8, "heads": 2}, "objective": {"states": 3}}


def genes(number: int) -> tuple[str, ...]:
    return tuple(f"ENSG{gene:011d}" for gene in range(number))


def random_counts(num_cells: int, num_genes: int) -> csr_matrix:
    return csr_matrix(numpy_generator(0, "counts").poisson(1.0, (num_cells, num_genes)).astype(np.float32))


@pytest.mark.parametrize(
    ("num_cells", "num_known", "informative"),
    [
        (MIN_CELLS, MIN_KNOWN, True),
        (MIN_CELLS - 1, MIN_KNOWN, False),
        (MIN_CELLS, MIN_KNOWN - 1, False),
        (200, 0, False),
        (0, MIN_KNOWN, False),
        (1, MIN_KNOWN, False),
    ],
)
def test_coefficients_need_enough_genes_and_cells(num_cells: int, num_known: int, informative: bool) -> None:
    counts = random_counts(num_cells, num_known + 3)
    found = regress(counts[:, :num_known], counts[:, num_known:], np.arange(num_known), ("a", "b", "c"))
    assert found.is_informative == informative
    for coefficients, shape in (
        (found.expression, (num_known, 3)),
        (found.expressed, (num_known, 3)),
        (found.inverse, (3, num_known)),
    ):
        values = coefficients.left @ coefficients.right
        assert values.shape == shape
        assert bool(np.any(values)) == informative
        assert np.isfinite(values).all()


def test_a_panel_with_more_genes_than_cells_has_the_same_solution() -> None:
    generator = numpy_generator(0, "ridge")
    x, y = generator.normal(size=(30, 40)), generator.normal(size=(30, 2))
    for predictors in (x, x[:, :10]):
        part = predictors - predictors.mean(axis=0)
        penalty = 0.3 * np.square(part).sum() / part.shape[1]
        expected = np.linalg.solve(part.T @ part + penalty * np.eye(part.shape[1]), part.T @ (y - y.mean(axis=0)))
        fit = Ridge(predictors, y)
        left, right = fit.solve(0.3)
        assert left @ right == pytest.approx(expected, rel=1e-8, abs=1e-10)
        other_x, other_y = generator.normal(size=(20, predictors.shape[1])), generator.normal(size=(20, 2))
        residual = (other_y - other_y.mean(axis=0)) - (other_x - other_x.mean(axis=0)) @ expected
        total = np.square(other_y - other_y.mean(axis=0)).sum()
        error = fit.held_out_error(other_x, other_y)(0.3)
        assert error + total == pytest.approx(np.square(residual).sum())


def test_genes_that_no_cell_expresses_have_coefficients_of_zero() -> None:
    counts = random_counts(100, MIN_KNOWN + 2).tolil()
    counts[:, [0, MIN_KNOWN]] = 0
    counts = counts.tocsr()
    found = regress(counts[:, :MIN_KNOWN], counts[:, MIN_KNOWN:], np.arange(MIN_KNOWN), ("a", "b"))
    assert found.is_informative
    values = found.expression.left @ found.expression.right
    assert values.any()
    assert np.abs(values[0]).max() < 1e-10
    assert np.abs(values[:, 0]).max() < 1e-10
    recipe = parse(TABLES, "test")
    grown = grow(Ensemble(MIN_KNOWN, recipe), recipe, genes(MIN_KNOWN), (*genes(MIN_KNOWN), "a", "b"), [found])
    assert all(bool(tensor.isfinite().all()) for tensor in grown.state_dict().values())


def test_of_a_large_slide_a_sample_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coexpression, "MAX_CELLS", 60)
    slide = slide_from_arrays("large", np.zeros((500, 2)), random_counts(500, 30), genes(30), 20.0)
    assert measure_coexpression(slide, genes(25), 1e4).num_cells == 56  # every ninth cell
    monkeypatch.setattr(coexpression, "LARGE_PANEL", 20)
    monkeypatch.setattr(coexpression, "MAX_CELLS_OF_LARGE_PANEL", 20)
    assert measure_coexpression(slide, genes(25), 1e4).num_cells == 20


def test_coefficients_are_a_product() -> None:
    generator = numpy_generator(0, "product")
    found = Coefficients(generator.normal(size=(5, 2)), generator.normal(size=(2, 3)))
    whole, predictors, targets = found.left @ found.right, generator.normal(size=(5, 4)), generator.normal(size=(3, 4))
    assert found.apply(predictors) == pytest.approx(whole.T @ predictors)
    assert found.transfer(targets) == pytest.approx(whole @ targets)


def test_a_gene_of_two_slides_is_derived_from_the_first_that_tells_something() -> None:
    counts = random_counts(100, MIN_KNOWN + 1)
    recipe, known = parse(TABLES, "test"), genes(MIN_KNOWN)
    network = Ensemble(MIN_KNOWN, recipe)
    torch.nn.init.normal_(network.first.head.magnitude.weight)
    first, second = (
        regress(part[:, :MIN_KNOWN], part[:, MIN_KNOWN:], np.arange(MIN_KNOWN), ("new",))
        for part in (counts[:60], counts[40:])
    )
    nothing = regress(counts[:10, :MIN_KNOWN], counts[:10, MIN_KNOWN:], np.arange(MIN_KNOWN), ("new",))

    def row(*sources: coexpression.CoExpression) -> torch.Tensor:
        return grow(network, recipe, known, (*known, "new"), sources).first.head.magnitude.weight[MIN_KNOWN]

    assert torch.equal(row(nothing, first, second), row(first))
    assert not torch.equal(row(first), row(second))
    assert not row(nothing).any()


def test_new_genes_are_appended() -> None:
    recipe = parse(TABLES, "test")
    with pytest.raises(ValueError, match="starts with"):
        grow(Ensemble(2, recipe), recipe, ("a", "b"), ("b", "a", "c"))


def test_a_model_grows_for_a_slide(slide: Slide) -> None:
    number = slide.num_genes // 2
    cut = slide_from_arrays("cut", slide.xy_um, slide.source.matrix[:, :number], slide.gene_ids[:number], 20.0)
    cut = replace(cut, total_counts=slide.total_counts)
    model = load_random_model(cut, TABLES)
    sketch = sketch_region(cut, np.arange(cut.num_cells), cut.gene_ids, "train")
    model = replace(model, checkpoint=replace(model.checkpoint, sketches=(sketch,)))
    assert model.with_genes(cut) is model
    grown = model.with_genes(slide, np.arange(400))
    assert grown.checkpoint.vocabulary[:number] == cut.gene_ids
    assert sorted(grown.checkpoint.vocabulary) == sorted(slide.gene_ids)
    assert grown.checkpoint.sketches[0].is_measured.sum() == number
    assert len(grown.checkpoint.sketches[0].expressed) == slide.num_genes
    assert grown.panel(slide).num_genes == slide.num_genes
    visible, hidden = np.arange(10, cut.num_cells), np.arange(10)
    before, after = (predict_cells(each, cut, visible, hidden) for each in (model, grown))
    assert np.array_equal(before.mean, after.mean)
    assert predict_cells(grown, slide, visible, hidden).mean.shape == (10, slide.num_genes)
    # The given model still knows its own genes only.
    assert model.checkpoint.vocabulary == cut.gene_ids


def test_networks_restricted_to_the_genes_of_a_slide_infer_the_same(slide: Slide) -> None:
    """Bit for bit, in the order of the genes of the slide; the given model keeps all of its genes."""
    model = load_random_model(slide, {**TABLES, "model": {**TABLES["model"], "members": 2}})
    order = np.flatnonzero(np.arange(slide.num_genes) % 3 > 0)[::-1]
    part = slide_from_arrays(
        "part", slide.xy_um, slide.source.matrix[:, order], tuple(slide.gene_ids[gene] for gene in order), 20.0
    )
    restricted = model.without_other_genes(part)
    assert restricted.checkpoint.vocabulary == part.gene_ids
    visible, hidden = np.arange(10, part.num_cells), np.arange(10)
    found, expected = (predict_cells(each, part, visible, hidden) for each in (restricted, model))
    assert np.array_equal(found.mean, expected.mean)
    assert np.array_equal(found.expressed, expected.expressed)
    assert model.checkpoint.vocabulary == slide.gene_ids


def test_only_the_given_cells_are_read(slide: Slide) -> None:
    number = slide.num_genes // 2
    cut = slide_from_arrays("cut", slide.xy_um, slide.source.matrix[:, :number], slide.gene_ids[:number], 20.0)
    model, hidden = load_random_model(cut, TABLES), np.arange(100)
    changed = replace_counts(slide, hidden, np.full((100, slide.num_genes), 7.0))
    first, second, third = (
        model.with_genes(each, rows).checkpoint.network.state_dict()
        for each, rows in ((slide, np.arange(100, 784)), (changed, np.arange(100, 784)), (changed, None))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_a_model_grows_for_a_slide_of_other_genes_only(slide: Slide) -> None:
    other = replace(slide, gene_ids=tuple(f"OTHER{gene}" for gene in range(slide.num_genes)))
    model = load_random_model(slide, TABLES)
    with pytest.raises(CifmError, match="none of its"):
        model.panel(other)
    assert model.with_genes(other).panel(other).num_genes == slide.num_genes


@pytest.fixture(scope="module")
def half_slide(prepared_few_genes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared slide with every gene but each third, in reverse order, without checksums."""
    folder = tmp_path_factory.mktemp("half")
    whole = ad.read_h5ad(prepared_few_genes)
    kept = np.flatnonzero(np.arange(whole.n_vars) % 3 > 0)[::-1]
    forget_checksums(whole[:, kept]).write_h5ad(folder / "half.h5ad")
    return folder / "half.h5ad"


@pytest.fixture(scope="module")
def half_run(half_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows the genes of `half_slide`."""
    folder = tmp_path_factory.mktemp("half_run") / "run"
    with verification_skipped():
        train_short_run(half_slide, folder)
        model = load_checkpoint(folder)
        add_noise(model.network, 0.1)  # the corrections of a short run are zero
        save_checkpoint(
            folder / MODEL_FILE, model.network, model.recipe, model.vocabulary, model.provenance, model.sketches
        )
    return folder


def open_fine_tuning(slide: Path, run: Path, folder: Path) -> Session:
    """Open a session at step 0 with the weights of a run."""
    recipe = run / "recipe.toml"
    return open_session(TrainConfig(recipe, [slide], folder, backend="torch", init=run), Processes())


def test_fine_tuning_adds_the_new_genes(
    prepared_few_genes: Path, half_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    session = open_fine_tuning(prepared_few_genes, half_run, tmp_path / "run")
    first, grown = load_checkpoint(half_run), session.corpus
    whole = ad.read_h5ad(prepared_few_genes)
    number = len(first.vocabulary)
    assert grown.vocabulary[:number] == first.vocabulary
    assert grown.vocabulary[number:] == tuple(gene for gene in whole.var_names if gene not in first.vocabulary)
    before, after = first.network.first, session.network.first
    assert torch.equal(after.genes.weight[:number], before.genes.weight)
    for name in ("magnitude", "logit", "composition"):
        rows = getattr(after.head, name).weight
        assert torch.equal(rows[:number], getattr(before.head, name).weight)
        assert rows[number:].abs().sum(1).min() > 0
    assert f"{whole.n_vars - number} genes are new to {half_run}" in caplog.text
    assert "the model knows only" not in caplog.text
    assert {len(sketch.expressed) for sketch in session.sketches} == {whole.n_vars}
    assert {sketch.run for sketch in session.sketches} == {"", "run"}


def test_a_resumed_run_keeps_the_grown_vocabulary(prepared_few_genes: Path, half_run: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_short_run(prepared_few_genes, whole, init=half_run)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_training(patch, 2, signal.SIGTERM)
        with pytest.raises(StopRequested):
            train_short_run(prepared_few_genes, stopped, init=half_run)
    assert load_run_spec(stopped).vocabulary == load_checkpoint(whole).vocabulary
    train_short_run(prepared_few_genes, stopped, resume=True)
    for file in (list_states(whole)[0].name, "model.safetensors"):
        one, other = read_tensors(whole / file)[0], read_tensors(stopped / file)[0]
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_memory_check_counts_the_new_genes(
    prepared_few_genes: Path, half_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    monkeypatch.setattr("cifm_cli.training.session.require_memory", lambda number, *_: checked.append(number))
    open_fine_tuning(prepared_few_genes, half_run, tmp_path / "run")
    assert checked == [ad.read_h5ad(prepared_few_genes).n_vars]


def test_a_slide_without_a_known_gene_is_refused(
    cifm: Callable, prepared_few_genes: Path, half_run: Path, tmp_path: Path
) -> None:
    other = forget_checksums(ad.read_h5ad(prepared_few_genes))
    other.var_names = [gene.replace("ENSG", "ENSMUSG") for gene in other.var_names]
    other.write_h5ad(tmp_path / "mouse.h5ad")
    outcome = cifm(
        "train",
        half_run / "recipe.toml",
        "--init",
        half_run,
        "--data",
        tmp_path / "mouse.h5ad",
        "--out",
        tmp_path / "run",
    )
    assert outcome.code == 1
    error, hint = outcome.err.strip().splitlines()[-2:]
    assert error.startswith("error: slide mouse: none of its ")
    assert hint.startswith("hint: use a model trained on this panel and species")
    assert not (tmp_path / "run").exists()


def test_new_genes_are_read_in_place_of_missing_ones(slide: Slide) -> None:
    number = slide.num_genes // 2
    cut = slide_from_arrays("cut", slide.xy_um, slide.source.matrix[:, :number], slide.gene_ids[:number], 20.0)
    model = load_random_model(cut, TABLES)
    norms = []
    for first in (0, number // 2):  # the second slide measures half of the genes of the model
        other = slide_from_arrays("x", slide.xy_um, slide.source.matrix[:, first:], slide.gene_ids[first:], 20.0)
        weights = model.with_genes(other).checkpoint.network.first.genes.weight.detach()
        norms.append(float(weights[number:].norm()))
    assert norms[0] == 0
    assert norms[1] > 0.1


def test_pooled_parameters_of_new_genes_are_those_of_the_slide(slide: Slide) -> None:
    number = slide.num_genes - 10
    cut = slide_from_arrays("cut", slide.xy_um, slide.source.matrix[:, :number], slide.gene_ids[:number], 20.0)
    pooled = load_random_model(cut, TABLES).with_genes(slide).checkpoint.network.pooled
    assert pooled is not None
    with_counts = np.flatnonzero(slide.total_counts)
    expression = slide.expression(with_counts, 1e4)[:, number:].toarray()
    assert pooled.mean[number:].numpy() == pytest.approx(expression.mean(axis=0), rel=1e-5)
    assert pooled.expressed[number:].numpy() == pytest.approx((expression > 0).mean(axis=0), rel=1e-5)
    share = slide.counts(with_counts).toarray() / slide.total_counts[with_counts, None]
    assert pooled.composition[number:].min() > 0
    ratio = share[:, number:].sum() / share[:, :number].sum()
    assert float(pooled.composition[number:].sum() / pooled.composition[:number].sum()) == pytest.approx(
        ratio, rel=0.01
    )
    assert torch.allclose(pooled.mean_weights[:, number:], pooled.mean_weights[:, :number].mean(1, keepdim=True))
    assert bool(pooled.state_profiles[:, number:].isfinite().all())


def test_new_genes_get_the_mean_correction_of_the_blend(slide: Slide) -> None:
    number = slide.num_genes - 10
    cut = slide_from_arrays("cut", slide.xy_um, slide.source.matrix[:, :number], slide.gene_ids[:number], 20.0)
    model = load_random_model(cut, TABLES)
    smoother = model.with_genes(slide).checkpoint.network.first.head.smoother
    for weights in (smoother.mean_weights, smoother.expressed_weights):
        assert torch.allclose(weights[:, number:], weights[:, :number].mean(1, keepdim=True))
        assert weights[:, number:].any()
    few = model.with_genes(slide, np.arange(MIN_CELLS - 1)).checkpoint.network.first.head.smoother
    assert not few.mean_weights[:, number:].any()
