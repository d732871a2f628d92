"""`cifm simulate --sensitivity`: its files, the search, the same from Python, and error messages."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import save_random_run

import cifm_cli as cifm_api
from cifm_cli.app import main
from cifm_cli.data.slide import open_slide

pytestmark = pytest.mark.figures

QUICK = ("--max-cells", "200", "--share", "0.5", "--adapt", "none")
MAP_FILES = {"sensitivity.csv", "sensitivity.parquet", "sensitivity.png", "sensitivity.json"}


@pytest.fixture(scope="module")
def workspace(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, into which tests write folders of their own.

    Its weights are so small that the effect of a cell is nearly proportional to the weight of the cell.
    """
    folder = tmp_path_factory.mktemp("workspace")
    tables = {"model": {"width": 8, "encoder_layers": 1, "decoder_layers": 1}, "objective": {"cutoff": 2.0}}
    save_random_run(folder, open_slide(prepared_synthetic), tables, noise=0.03)
    return folder


@pytest.fixture
def words(workspace: Path, prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The start of each command."""
    monkeypatch.chdir(workspace)
    return ["simulate", str(prepared_synthetic), "--model", str(workspace), *QUICK]


@pytest.fixture(scope="module")
def searched(workspace: Path, prepared_synthetic: Path) -> Path:
    """The folder of a map with three proposals."""
    with chdir(workspace):
        words = ["simulate", str(prepared_synthetic), "--model", str(workspace), *QUICK, "--search", "3"]
        assert main([*words, "--sensitivity", "KRT8", "--inject", "tcell", "--in", "ductal cell"]) == 0
    return workspace / "sensitivity"


def read_json(folder: Path) -> dict:
    return json.loads((folder / "sensitivity.json").read_text(encoding="utf8"))


def test_the_map_has_a_row_for_each_free_place(searched: Path) -> None:
    assert {path.name for path in searched.iterdir()} == MAP_FILES | {"search.csv"}
    table, facts = pd.read_csv(searched / "sensitivity.csv"), read_json(searched)
    pd.testing.assert_frame_equal(table, pd.read_parquet(searched / "sensitivity.parquet"), rtol=1e-6)
    added, target = facts["added"], facts["target"]
    assert (target["name"], target["kind"], target["cells"]) == ("KRT8", "gene", "ductal cell")
    assert (len(table), added["cell_type"]) == (added["num_places"], "T cell")
    assert table["summed"].to_numpy() == pytest.approx(table["value"] * target["num_cells"])
    assert (table["nearest_um"] >= added["min_distance_um"] - 1e-6).all()
    steepest = table.loc[table["value"].abs().idxmax()]
    assert f"x {steepest['x_um']:.0f}, y {steepest['y_um']:.0f} um" in facts["sentence"]
    means = table.groupby("nearest_label")["value"].agg(["mean", "size"]).query("size >= 10")["mean"]
    assert f"most near {means.idxmax()} (" in facts["sentence"]
    assert facts["provenance"]["inject"]["cell_type"] == "tcell"


def test_proposals_are_checked_and_sorted(searched: Path) -> None:
    table, search = pd.read_csv(searched / "search.csv"), read_json(searched)["search"]
    assert len(table) == len(search["proposals"]) == 3
    assert (np.diff(table["checked"]) <= 0).all()
    assert (table["predicted"] > 0).all()
    # The derivative at half of the weight is near to the change by the whole cell.
    assert table["checked"].to_numpy() == pytest.approx(table["midpoint"], rel=0.2)
    assert search["together"]["predicted"] == pytest.approx(table["predicted"].sum(), rel=1e-6)


def test_the_same_from_python(searched: Path, prepared_synthetic: Path, workspace: Path) -> None:
    adata = ad.read_h5ad(prepared_synthetic)
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    found = cifm_api.sensitivity(
        shuffled,
        workspace,
        "KRT8",
        "tcell",
        cells="ductal cell",
        search=3,
        hidden_fraction=0.5,
        max_cells=200,
        adapt="none",
    )
    written = pd.read_parquet(searched / "sensitivity.parquet")
    pd.testing.assert_frame_equal(found.places, written, check_dtype=False, rtol=0)
    facts = read_json(searched)
    del facts["provenance"]
    assert json.loads(json.dumps(found.facts)) == facts


def test_edits_of_genes_are_proposed_and_the_files_of_the_map_are_removed(
    cifm, words: list[str], searched: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sensitivity"
    out.mkdir()
    for path in searched.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    (out / "notes.txt").write_text("mine", encoding="utf8")
    search = ("--search", 2, "--search-genes", "--search-goal", "lower")
    code, text, err = cifm(*words, "--sensitivity", "T cell", *search, "--out", out, "--json")
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == {"search.csv", "sensitivity.json", "notes.txt"}
    facts, table = json.loads(text), pd.read_csv(out / "search.csv")
    assert facts == read_json(out)
    assert facts["added"] is None
    assert len(table) == 2
    assert set(table["edit"]) <= {"knockout", "overexpress"}
    assert (table["predicted"] < 0).all()
    assert (np.diff(table["checked"]) >= 0).all()


def test_a_void_cell_has_no_effect_anywhere(cifm, words: list[str], tmp_path: Path) -> None:
    at = tmp_path / "at.csv"
    pd.DataFrame(open_slide(Path(words[1])).xy_um[[390, 400]] + 3.0, columns=["x_um", "y_um"]).to_csv(at, index=False)
    places = ("--inject", "void", "--at", at, "--search", 2)
    code, text, err = cifm(*words, "--sensitivity", "KRT8", *places, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    facts = json.loads(text)
    assert facts["added"]["num_places"] == 2
    assert "at none of 2 places" in facts["sentence"]
    assert facts["search"]["proposals"] == []


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (("--sensitivity", "KRT8"), "type of the added cell is missing", "--inject TYPE"),
        (("--sensitivity", "KRT9999", "--inject", "tcell"), "neither a gene", "did you mean"),
        (("--sensitivity", "gene:tcell", "--inject", "tcell"), "no gene", "did you mean"),
        (("--sensitivity", "KRT8", "--inject", "nothing"), "no cell type", "known here"),
        (("--sensitivity", "KRT8", "--inject", "tcell", "--inject", "macrophage"), "2 types", "name one"),
        (("--sensitivity", "KRT8", "--inject", "tcell", "--count", 5), "a number or a density", "--count"),
        (("--sensitivity", "KRT8", "--inject", "tcell", "--knockout", "KRT8"), "as it is", "leave out"),
        (("--sensitivity", "KRT8", "--inject", "tcell", "--in", "nobody"), "no cell type", "known here"),
        (("--sensitivity", "KRT8", "--inject", "tcell", "--min-distance", 500), "no free place", "--min-distance"),
        (("--sensitivity", "KRT8", "--search", 2, "--search-genes", "--near", "tcell"), "--near", "--inject TYPE"),
        (("--sensitivity", "KRT8", "--inject", "tcell", "--search-genes"), "how many", "--search 10"),
        (("--inject", "tcell", "--search", 2), "there is no target", "--sensitivity"),
        (("--validate", "--sensitivity", "KRT8"), "different analyses", "one after the other"),
    ],
)
def test_errors(cifm, words: list[str], tmp_path: Path, given: tuple[object, ...], message: str, hint: str) -> None:
    code, out, err = cifm(*words, *given, "--out", tmp_path / "refused")
    assert (code, out) == (1, "")
    lines = [line for line in err.splitlines() if line.startswith(("error", "hint"))]
    assert len(lines) == 2, err
    assert message in lines[0]
    assert hint in lines[1]
    assert not (tmp_path / "refused").exists()
