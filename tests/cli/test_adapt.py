"""`--adapt` of the commands: which model is used, what the provenance says, and error messages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from builders import forget_checksums, save_random_run

from cifm_cli import keys
from cifm_cli.data.slide import Slide, open_slide
from cifm_cli.inference.adaptation import option
from cifm_cli.inference.loaded_model import LoadedModel

TABLES = {"model": {"width": 8, "encoder_layers": 1, "decoder_layers": 1}, "data": {"tile_cells": 400}}
SLIDE = "prepared/tissue.h5ad"
QUICK = ("--max-cells", 100, "--steps", 1, "--share", 0.2, "--count", 5)
EVALUATE = ("evaluate", "--geometry", "scattered", "--rounds", 1, "--json")
FEW = "knows only"  # of the warning about a model that knows few of the genes

pytestmark = pytest.mark.usefixtures("few_baselines")


@pytest.fixture(scope="session")
def prepared_synthetic(prepared_few_genes: Path) -> Path:
    """The slide of these tests."""
    return prepared_few_genes


@pytest.fixture(autouse=True)
def random_run(workspace: Path, prepared_synthetic: Path) -> Path:
    """The latest run of the workspace, with random weights."""
    return save_random_run(workspace / "runs" / "latest", open_slide(prepared_synthetic), TABLES)


@pytest.fixture
def adaptations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Slide, int]]:
    """The slide and the seed of every adaptation of a model to a whole slide."""
    adapt, calls = option.adapt_to_slide, []

    def record(model: LoadedModel, slide: Slide, seed: int, *, profiles_only: bool) -> LoadedModel:
        calls.append((slide, seed))
        return adapt(model, slide, seed, profiles_only=profiles_only)

    monkeypatch.setattr(option, "adapt_to_slide", record)
    return calls


def read_origin(path: str) -> dict:
    """Provenance of the result in a file."""
    about = ad.read_h5ad(path).uns[keys.CIFM]
    return json.loads(about.get(keys.EMBEDDING) or about[keys.PROVENANCE])


RESULTS = {
    "embed": (("embed", SLIDE), "embedded/tissue.h5ad"),
    "predict": (("predict", SLIDE), "predicted/tissue.h5ad"),
    "predict at locations": (("predict", SLIDE, "--at", "at.csv"), "predicted/tissue_at_at.h5ad"),
    "simulate": (("simulate", SLIDE, "--inject", "tcell", *QUICK), "simulation/trajectory.h5ad"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_slide_is_adapted_to_once_and_the_provenance_says_so(
    cifm, adaptations: list[tuple[Slide, int]], name: str
) -> None:
    Path("at.csv").write_text("x,y\n200,200\n", encoding="utf8")
    words, written = RESULTS[name]
    assert cifm(*words, "--seed", 5).code == 0
    ((slide, seed),) = adaptations
    prepared = open_slide(Path(SLIDE))
    assert (slide.num_cells, slide.num_genes, seed) == (prepared.num_cells, prepared.num_genes, 5)
    assert read_origin(written)["adapt"] == "slide"
    assert "adaptation" in read_origin(written)
    shown = json.loads(cifm("inspect", written, "--json").out)
    adaptation = shown[keys.EMBEDDING if name == "embed" else keys.PROVENANCE]["adaptation"]
    assert (adaptation["seed"], adaptation["cells"]) == (5, prepared.num_cells)
    assert "adaptation.seed" in cifm("inspect", written).out
    assert cifm(*words, "--adapt", "none", *(["--force"] if name.startswith("predict") else [])).code == 0
    assert len(adaptations) == 1
    assert {key: read_origin(written)[key] for key in ("adapt", "adaptation")} == {"adapt": "none", "adaptation": None}


@pytest.mark.parametrize("command", ["embed", "predict", "simulate", "evaluate"])
def test_a_mistyped_adaptation_is_wrong_usage(cifm, command: str) -> None:
    code, out, err = cifm(
        command, SLIDE, *(["--inject", "tcell"] if command == "simulate" else []), "--adapt", "patient"
    )
    assert (code, out) == (2, "")
    assert "'none'" in err
    assert "'slide'" in err


@pytest.mark.parametrize("command", ["embed", "predict"])
def test_the_objective_of_the_paper_has_nothing_to_adapt(
    cifm, adaptations: list[tuple[Slide, int]], command: str
) -> None:
    tables = {**TABLES, "objective": {"name": "balanced_mse"}}
    save_random_run(Path("runs/latest"), open_slide(Path(SLIDE)), tables)
    results = []
    for adapt in ("slide", "none"):
        words = ("--out", f"{adapt}/tissue.h5ad") if command == "predict" else ("--out", adapt)
        code, _, err = cifm(command, SLIDE, "--adapt", adapt, *words)
        assert code == 0
        assert ("nothing to adapt" in err) == (adapt == "slide")
        results.append(ad.read_h5ad(f"{adapt}/tissue.h5ad"))
    assert not adaptations
    assert read_origin("slide/tissue.h5ad")["adaptation"] is None
    for name in (keys.MICROENVIRONMENT, keys.CELL) if command == "embed" else ():
        assert np.array_equal(results[0].obsm[name], results[1].obsm[name])
    if command == "predict":
        assert np.array_equal(results[0].X, results[1].X)


def test_embeddings_are_those_of_the_adapted_model(cifm) -> None:
    for words in (("slide", 1), ("slide", 2), ("none", 1)):
        out = "_".join(map(str, words))
        assert cifm("embed", "--backend", "torch", "--adapt", words[0], "--devices", words[1], "--out", out).code == 0
    alone, together, as_trained = (ad.read_h5ad(f"{out}/tissue.h5ad") for out in ("slide_1", "slide_2", "none_1"))
    for slot in (keys.MICROENVIRONMENT, keys.CELL):
        assert np.array_equal(alone.obsm[slot], together.obsm[slot])
        assert not np.allclose(alone.obsm[slot], as_trained.obsm[slot], rtol=0.01)


def test_all_genes_of_the_slide_are_predicted(cifm) -> None:
    """A model that knows a third of the genes; after adaptation it knows all of them."""
    tissue = ad.read_h5ad(SLIDE)
    Path("prepared").unlink()
    Path("prepared").mkdir()
    forget_checksums(tissue[:, : tissue.n_vars // 3]).write_h5ad("part.h5ad")
    forget_checksums(tissue).write_h5ad(SLIDE)
    save_random_run(Path("runs/latest"), open_slide(Path("part.h5ad")), TABLES)
    code, _, err = cifm("predict", SLIDE, "--adapt", "none")
    assert code == 0
    assert FEW in err
    assert ad.read_h5ad("predicted/tissue.h5ad").n_vars == tissue.n_vars // 3
    code, _, err = cifm("predict", SLIDE, "--force")
    assert code == 0
    assert FEW not in err
    assert f"{tissue.n_vars - tissue.n_vars // 3} of the {tissue.n_vars} genes are new to the model" in err
    assert ad.read_h5ad("predicted/tissue.h5ad").n_vars == tissue.n_vars
    assert cifm("simulate", SLIDE, "--inject", "tcell", *QUICK).code == 0
    assert ad.read_h5ad("simulation/trajectory.h5ad").n_vars == tissue.n_vars


def test_a_slide_of_other_genes_is_an_error(cifm, adaptations: list[tuple[Slide, int]]) -> None:
    other = replace(open_slide(Path(SLIDE)), gene_ids=tuple(f"ENSMUSG{n:011d}" for n in range(500)))
    save_random_run(
        Path("runs/latest"), replace(other, gene_ids=other.gene_ids[: open_slide(Path(SLIDE)).num_genes]), TABLES
    )
    for words in (("embed",), ("predict", SLIDE), ("simulate", "--inject", "tcell")):
        code, out, err = cifm(*words)
        assert (code, out) == (1, "")
        assert "error: slide tissue: none of its" in err
        assert "hint: " in err
    assert not adaptations
    assert not any(Path(folder).exists() for folder in ("embedded", "predicted", "simulation"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict", SLIDE, "--out", SLIDE), "would replace its input"),
        (("predict", SLIDE, "--at", "at.csv", "--out", SLIDE), "would replace its input"),
        (("predict", SLIDE, "--at", "none.csv"), "none.csv"),
        (("predict", SLIDE, "--at", "far.csv"), "no cell of tissue is within"),
        (("embed", SLIDE, "--out", "prepared"), "would replace its input"),
        (("simulate", SLIDE, "--inject", "tcell", "--crop", "9000,9000,9100,9100"), "no cell in the box"),
    ],
)
def test_errors_come_before_the_adaptation(
    cifm, adaptations: list[tuple[Slide, int]], words: tuple[str, ...], message: str
) -> None:
    Path("at.csv").write_text("x,y\n200,200\n", encoding="utf8")
    Path("far.csv").write_text("x,y\n-9000,-9000\n", encoding="utf8")
    before = Path(SLIDE).read_bytes()
    code, out, err = cifm(*words)
    assert (code, out) == (1, "")
    assert message in err
    assert "hint: " in err
    assert not adaptations
    assert Path(SLIDE).read_bytes() == before


def test_slides_embedded_with_and_without_adaptation_are_not_probed_together(cifm) -> None:
    other = forget_checksums(ad.read_h5ad(SLIDE))
    other.uns[keys.CIFM][keys.SAMPLE] = "other"
    other.write_h5ad("other.h5ad")
    for path, adapt in ((SLIDE, "slide"), ("other.h5ad", "none")):
        assert cifm("embed", path, "--adapt", adapt, "--level", "cell").code == 0
    code, out, err = cifm("probe", "embedded", "--label", "cluster", "--folds", 2)
    assert (code, out) == (1, "")
    assert "error: other and tissue were embedded with different --adapt: none, slide" in err
    assert "hint: embed them alike" in err
