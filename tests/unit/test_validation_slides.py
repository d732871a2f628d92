"""Slides held out for validation: all of their cells are validation cells, and none is a training cell."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from cifm_cli import keys
from cifm_cli.errors import CifmError
from cifm_cli.recipe import parse
from cifm_cli.training.corpus import Corpus


@pytest.fixture(scope="module")
def patients(prepared_few_genes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("patients")
    return [Path(shutil.copy(prepared_few_genes, folder / f"{name}.h5ad")) for name in ("first", "second", "third")]


def open_corpus(patients: list[Path], *held_out: str) -> Corpus:
    return Corpus(patients, parse({"data": {"validation_slides": list(held_out), "tile_cells": 64}}, "test"))


def test_all_cells_of_held_out_slides_validate(patients: list[Path]) -> None:
    corpus = open_corpus(patients, "second")
    assert [part.slide.name for part in corpus.slides] == ["first", "third"]
    (held_out,) = corpus.validation_slides
    assert held_out.slide.name == "second"
    assert len(held_out.tilers[keys.VALIDATION].rows) == held_out.slide.num_cells
    assert corpus.num_cells == 2 * len(held_out.slide.region(keys.TRAIN))
    assert corpus.num_validation_tiles == corpus.recipe.train.validation_tiles


def test_held_out_slides_are_not_trained_on(patients: list[Path]) -> None:
    held_out, without = open_corpus(patients, "second"), open_corpus([patients[0], patients[2]])
    assert held_out.vocabulary == without.vocabulary
    assert np.array_equal(
        held_out.sample_cells(held_out.slides, 500).toarray(), without.sample_cells(without.slides, 500).toarray()
    )
    for number in range(6):
        ours, theirs = (corpus.train_example(number).target.counts for corpus in (held_out, without))
        assert np.array_equal(ours, theirs)


def test_without_held_out_slides_each_slide_validates_on_its_own_region(patients: list[Path]) -> None:
    corpus = open_corpus(patients)
    assert corpus.validation_slides is corpus.slides
    part = corpus.slides[0]
    assert np.array_equal(part.tilers[keys.VALIDATION].rows, part.slide.region(keys.VALIDATION))


@pytest.mark.parametrize(
    ("names", "what"),
    [(("fourth",), r"no slide fourth among first, second, third"), (("first", "second", "third"), "names every slide")],
)
def test_slides_that_cannot_be_held_out(patients: list[Path], names: tuple[str, ...], what: str) -> None:
    with pytest.raises(CifmError, match=what):
        open_corpus(patients, *names)
