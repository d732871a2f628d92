"""Embedded slides: their order, the data copied from the prepared slide, and the cells that an embedding depends on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from builders import EMBEDDING_ORIGIN, save_random_run

import cifm_backends
from cifm_cli import keys
from cifm_cli.data.slide import Slide, open_slide
from cifm_cli.data.writers.embedded import read_embedded, write_embedded
from cifm_cli.embedding.embed import embed_cells, embed_slides
from cifm_cli.errors import CifmError
from cifm_cli.inference.encode import encode_cells
from cifm_cli.inference.loaded_model import LoadedModel
from cifm_cli.model.checkpoint import load_checkpoint
from cifm_cli.provenance import numpy_generator


def make_model(slide: Slide, folder: Path, tile_cells: int = 100) -> LoadedModel:
    """Save a model with random weights in `folder`, and load it."""
    save_random_run(folder, slide, {"model": {"width": 16}, "data": {"tile_cells": tile_cells}})
    return LoadedModel(load_checkpoint(folder), cifm_backends.select("torch", "cpu"), torch.device("cpu"))


def test_cells_are_in_the_order_of_the_download(prepared_few_genes: Path, tmp_path: Path) -> None:
    slide = open_slide(prepared_few_genes)
    model = make_model(slide, tmp_path)
    embed_slides(model, [prepared_few_genes], ["microenvironment", "cell"], tmp_path / "out")
    embedded = ad.read_h5ad(tmp_path / "out" / "tissue.h5ad")
    prepared = ad.read_h5ad(prepared_few_genes)
    rows = embedded.obs[keys.DOWNLOAD_ROW].to_numpy()
    assert (np.diff(rows) > 0).all()
    assert (np.diff(prepared.obs[keys.DOWNLOAD_ROW]) < 0).any(), (
        "the slide is in the order of the download, so nothing is tested"
    )
    hilbert = prepared.obs_names.get_indexer(embedded.obs_names)
    for level, slot in (("microenvironment", keys.MICROENVIRONMENT), ("cell", keys.CELL)):
        assert embedded.obsm[slot].dtype == np.float32
        assert np.array_equal(embedded.obsm[slot], encode_cells(model, slide, level)[hilbert])


def test_the_content_of_the_prepared_slide_is_copied(prepared_few_genes: Path, tmp_path: Path) -> None:
    prepared = ad.read_h5ad(prepared_few_genes)
    write_embedded(tmp_path / "a.h5ad", prepared_few_genes, {keys.CELL: np.zeros((prepared.n_obs, 2), np.float32)}, {})
    embedded = ad.read_h5ad(tmp_path / "a.h5ad")
    assert embedded.obs.loc[prepared.obs_names].equals(prepared.obs)
    embedded = embedded[prepared.obs_names]
    assert embedded.var.equals(prepared.var)
    assert (embedded.X != prepared.X).nnz == 0
    assert np.array_equal(embedded.obsm[keys.SPATIAL], prepared.obsm[keys.SPATIAL])
    assert {key: embedded.uns[keys.CIFM][key] for key in prepared.uns[keys.CIFM]} == prepared.uns[keys.CIFM]


def test_an_embedding_replaces_an_earlier_one(prepared_few_genes: Path, tmp_path: Path) -> None:
    number = open_slide(prepared_few_genes).num_cells
    before = {keys.CELL: np.zeros((number, 2), np.float32), keys.MICROENVIRONMENT: np.zeros((number, 3), np.float32)}
    write_embedded(tmp_path / "a.h5ad", prepared_few_genes, before, {"model": "first"})
    write_embedded(
        tmp_path / "b.h5ad", tmp_path / "a.h5ad", {keys.CELL: np.ones((number, 4), np.float32)}, EMBEDDING_ORIGIN
    )
    found = read_embedded(tmp_path / "b.h5ad")
    assert {slot: features.shape for slot, features in found.embeddings.items()} == {keys.CELL: (number, 4)}
    assert found.origin == EMBEDDING_ORIGIN


def test_provenance_names_model_and_slide(prepared_few_genes: Path, tmp_path: Path) -> None:
    model = make_model(open_slide(prepared_few_genes), tmp_path)
    embed_slides(model, [prepared_few_genes], ["cell"], tmp_path / "out")
    found = read_embedded(tmp_path / "out" / "tissue.h5ad")
    assert set(found.embeddings) == {keys.CELL}
    assert len(found.origin["model"]["sha256"]) == 64
    assert list(found.origin["inputs"]) == [prepared_few_genes.as_posix()]
    assert found.origin["recipe"]["model"]["width"] == 16


def test_embeddings_do_not_depend_on_the_size_of_a_tile(prepared_few_genes: Path, tmp_path: Path) -> None:
    slide = open_slide(prepared_few_genes)
    found = []
    for tile_cells in (37, 100_000):
        folder = tmp_path / str(tile_cells)
        embed_slides(make_model(slide, folder, tile_cells), [prepared_few_genes], ["microenvironment"], folder)
        found.append(read_embedded(folder / "tissue.h5ad").embeddings[keys.MICROENVIRONMENT])
    apart = np.abs(found[0] - found[1]).max() / np.abs(found[1]).max()
    assert apart < 1e-6, f"relative error {apart:.2e}"


def test_a_cell_embedding_does_not_depend_on_the_neighbours(prepared_few_genes: Path, tmp_path: Path) -> None:
    slide = open_slide(prepared_few_genes)
    model, kept = make_model(slide, tmp_path), 123
    moved_um = numpy_generator(0, "move").permutation(slide.xy_um)
    moved_um[kept] = slide.xy_um[kept]
    moved = replace(slide, xy_um=moved_um)
    alone = [encode_cells(model, tissue, "cell")[kept] for tissue in (slide, moved)]
    among = [encode_cells(model, tissue, "microenvironment")[kept] for tissue in (slide, moved)]
    assert np.array_equal(*alone)
    assert np.abs(among[0] - among[1]).max() > 1e-3, "the microenvironment embedding did not change"


def test_embeddings_in_memory_are_those_of_the_file(prepared_few_genes: Path, tmp_path: Path) -> None:
    slide = open_slide(prepared_few_genes)
    model = make_model(slide, tmp_path)
    embeddings = embed_cells(model, slide)
    assert list(embeddings) == ["microenvironment", "cell"]
    for level, values in embeddings.items():
        assert values.dtype == np.float32
        assert np.array_equal(values, encode_cells(model, slide, level))


def test_a_slide_in_memory_is_embedded(prepared_few_genes: Path, tmp_path: Path) -> None:
    slide = open_slide(prepared_few_genes)
    in_memory = slide.subset(np.arange(slide.num_cells))
    model = make_model(slide, tmp_path)
    (values,) = embed_cells(model, in_memory, ["cell"]).values()
    assert np.array_equal(values, embed_cells(model, slide, ["cell"])["cell"])


def test_two_slides_of_one_name_are_refused(prepared_few_genes: Path, tmp_path: Path) -> None:
    model = make_model(open_slide(prepared_few_genes), tmp_path)
    with pytest.raises(CifmError, match="two slides are called tissue"):
        embed_slides(model, [prepared_few_genes, tmp_path / "tissue.h5ad"], ["cell"], tmp_path)


def test_the_input_is_never_replaced(prepared_few_genes: Path) -> None:
    with pytest.raises(CifmError, match="would replace its input"):
        write_embedded(prepared_few_genes, prepared_few_genes, {}, {})


def test_a_prepared_slide_without_embeddings_is_refused(prepared_few_genes: Path) -> None:
    with pytest.raises(CifmError, match="holds no embedding") as caught:
        read_embedded(prepared_few_genes)
    assert "cifm embed" in caught.value.hint
