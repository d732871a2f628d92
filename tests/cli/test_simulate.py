"""`cifm simulate`: the files it writes, and its error messages."""

from __future__ import annotations

import html
import json
import shutil
from contextlib import chdir
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import save_random_run

from cifm_cli.app import main
from cifm_cli.data.slide import open_slide

pytestmark = pytest.mark.figures

FILES = {
    "simulation.json", "composition.csv", "transitions.csv", "neighbours.csv", "effects.csv", "effects.parquet", "trajectory.h5ad", "report.html",
    "map_before.png", "map_treated.png", "map_control.png", "map_difference.png", "animation.gif", "change.csv", "change.png",
    "composition.png", "transitions.png", "transitions_difference.png", "effects_by_distance.png",
}  # fmt: skip
QUICK = ("--max-cells", "300", "--steps", "2", "--share", "0.2", "--backend", "torch")


@pytest.fixture(scope="module")
def run_folder(prepared_synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network has random weights on top of an average of the neighbours."""
    tables = {"model": {"width": 8, "encoder_layers": 1, "decoder_layers": 1}}
    return save_random_run(tmp_path_factory.mktemp("run"), open_slide(prepared_synthetic), tables)


@pytest.fixture(scope="module")
def workspace(prepared_synthetic: Path, run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one prepared slide and one run."""
    folder = tmp_path_factory.mktemp("workspace")
    for name, source in (("prepared", prepared_synthetic.parent), ("runs/latest", run_folder)):
        shutil.copytree(source, folder / name)
    return folder


@pytest.fixture
def copied(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace, which the test may change."""
    shutil.copytree(workspace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def workplace(copied: Path, blank_figures: None) -> Path:
    """A copy of the workspace, in which no figures are drawn, as most tests do not read them."""
    return copied


@pytest.fixture(scope="module")
def simulated(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a simulation."""
    out = tmp_path_factory.mktemp("simulated") / "simulation"
    words = ["simulate", "--inject", "tcell", "--count", "7", "--replicates", "2", "--out", str(out)]
    with chdir(workspace):
        assert main([*words, *QUICK]) == 0
    return out


def read_csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).astype({"num_cells": int, "share": float})


def test_a_second_simulation_writes_the_same_files(cifm, copied: Path, simulated: Path) -> None:
    """Files without a date are equal bit for bit, and the result is printed as JSON."""
    code, out, err = cifm("simulate", "--inject", "T cells", "--count", 7, "--replicates", 2, *QUICK, "--json")
    assert code == 0
    assert {path.name for path in Path("simulation").iterdir()} == FILES
    for name in sorted(FILES - {"simulation.json", "trajectory.h5ad", "report.html"}):
        assert Path("simulation", name).read_bytes() == (simulated / name).read_bytes(), name
    result = json.loads(out)
    assert result == json.loads(Path("simulation/simulation.json").read_text(encoding="utf8"))
    assert "300 of 7" in err
    assert "choose another one with --crop" in err


def test_the_json_file_describes_the_simulation(simulated: Path) -> None:
    result = json.loads((simulated / "simulation.json").read_text(encoding="utf8"))
    assert result["injected"]["cell_type"] == "T cell"
    assert result["injected"]["count"] == 7
    assert result["window"]["num_cells"] == 300
    assert result["settings"]["updates_per_cell"] == 0.4
    assert sum(entry["treated"] for entry in result["change"].values()) == pytest.approx(1)
    assert sum(entry["difference"] for entry in result["change"].values()) == pytest.approx(0)
    assert all(len(entry["replicates"]) == 2 for entry in result["change"].values())
    assert "share one trained model" in " ".join(result["notes"])
    assert result["drift"] == 0  # the untouched tissue is stationary


def test_the_tables_hold_every_cell_once(simulated: Path) -> None:
    rows = read_csv(simulated / "composition.csv")
    totals = rows.groupby(["arm", "replicate", "step"])
    assert totals["num_cells"].sum().unique().tolist() == [300]
    assert totals["share"].sum().to_numpy() == pytest.approx(1, abs=1e-4)
    assert len(totals) == 2 * 2 * 3
    transitions = read_csv(simulated / "transitions.csv")
    assert transitions.groupby(["arm", "replicate"])["num_cells"].sum().tolist() == [300] * 4
    last = rows.query("arm == 'treated' and replicate == 1 and step == 2 and num_cells > 0")
    arrived = transitions.query("arm == 'treated' and replicate == 1").groupby("to")["num_cells"].sum()
    assert arrived.to_dict() == last.set_index("cell_type")["num_cells"].to_dict()


def test_the_trajectory_holds_the_tissue_before_and_after(simulated: Path, workspace: Path) -> None:
    tissue = ad.read_h5ad(simulated / "trajectory.h5ad")
    injected = tissue.obs["injected"].to_numpy()
    assert tissue.n_obs == 307
    assert injected.sum() == 7
    assert set(tissue.obs["type_before"][injected]) == {"T cell"}
    assert set(tissue.obs["type_after_control"][injected]) == {"absent"}
    layers = {name: np.asarray(tissue.layers[name].sum(axis=1)).ravel() for name in ("initial", "treated", "control")}
    assert np.array_equal(layers["initial"], layers["treated"])
    assert np.array_equal(layers["initial"][~injected], layers["control"][~injected])
    assert not layers["control"][injected].any()
    slide = ad.read_h5ad(next((workspace / "prepared").glob("*.h5ad")))[tissue.obs_names[~injected]]
    assert np.array_equal(slide.obsm["spatial"], tissue.obsm["spatial"][~injected])
    assert (tissue.layers["initial"][~injected] != slide.X).nnz == 0
    assert json.loads(tissue.uns["cifm"]["provenance"])["command"] == "simulate"


def test_only_an_earlier_simulation_is_replaced(cifm, workplace: Path, simulated: Path) -> None:
    shutil.copytree(simulated, "simulation")
    before = Path("simulation/composition.csv").read_bytes()
    assert cifm("simulate", "--inject", "tcell", *QUICK, "--seed", 1).code == 0
    assert Path("simulation/composition.csv").read_bytes() != before
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    code, _, err = cifm("simulate", "--inject", "tcell", *QUICK, "--out", "mine")
    assert code == 1
    assert "mine: exists, and is not the folder of a simulation" in err
    assert Path("mine/thesis.tex").exists()


def test_injected_cells_may_come_from_a_reference(cifm, workplace: Path) -> None:
    slide = ad.read_h5ad(next(Path("prepared").glob("*.h5ad")))
    reference = ad.AnnData(
        X=slide.X[:40] * 50, obs=pd.DataFrame({"kind": ["Odd cells"] * 10 + ["other"] * 30}, index=slide.obs_names[:40])
    )
    reference.var_names = slide.var["symbol"].astype(str)
    reference.write_h5ad("atlas.h5ad")
    words = ("simulate", "--inject", "odd cell", "--reference", "atlas.h5ad", *QUICK, "--json")
    code, out, _ = cifm(*words, "--reference-label", "kind")
    assert code == 0
    injected = json.loads(out)["injected"]
    assert (injected["cell_type"], injected["num_donors"], injected["donors"]) == ("Odd cells", 10, "atlas.h5ad")
    tissue = ad.read_h5ad("simulation/trajectory.h5ad")
    depth = np.asarray(tissue.X[tissue.obs["injected"].to_numpy()].sum(axis=1))
    assert depth.max() < 3 * slide.obs["total_counts"].median()
    code, _, err = cifm(*words)
    assert code == 1
    assert "no obs column 'cell_type'" in err
    assert "--inject-label: kind" in err


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--inject", "tcel"), "no cell type 'tcel'", "did you mean T cell?"),
        (("--inject", "neuron"), "neuron: the slide measures", "--markers"),
        (("--inject", "tcell", "--crop", "1,2,3"), "--crop 1,2,3: not a rectangle", "x0,y0,x1,y1"),
        (("--inject", "tcell", "--crop", "5,5,1,1"), "--crop 5,5,1,1: not a rectangle", "x0,y0,x1,y1"),
        (("--inject", "tcell", "--crop", "-9,-9,-8,-8"), "no cell in the box", "the slide spans"),
        (
            ("--inject", "tcell", "--markers", "no.tsv"),
            "marker table no.tsv: no such file",
            "--markers",
        ),
        (("--inject", "tcell", "--reference", "no.h5ad"), "no.h5ad: no such file", "path"),
        ((), "no edit is given", "--inject TYPE"),
        (("--count", "5"), "no edit is given", "--remove LABEL"),
        (("--remove", "tcell", "--count", "5"), "--count: no cells are injected", "--inject TYPE"),
        (("--remove", "tcell", "--inject-from", "no.h5ad"), "--inject-from: no cells are injected", "--inject TYPE"),
        (("--remove", "tcel"), "no cell type 'tcel'", "did you mean T cell?"),
        (("--swap", "tcell"), "--swap tcell: two parts", "A=B"),
        (("--overexpress", "KRT8"), "--overexpress KRT8: two parts", "GENE=x"),
        (("--overexpress", "KRT8=much"), "'much' is not a number", "KRT8=4"),
        (("--overexpress", "KRT8=0.5"), "the multiple must be above 1", "knockout"),
        (("--knockout", "KRT88"), "no gene 'KRT88'", "did you mean KRT8"),
        (("--inject", "tcell", "--in", "tcell"), "--in: no gene is changed", "--knockout GENE"),
        (("--inject", "tcell", "--inject-donor-key", "x"), "there is no reference", "--inject-from"),
        (("--inject", "void", "--inject-from", "no.h5ad"), "void cells have no counts", "leave it out"),
        (("--inject", "tcell", "--count", "5", "--density", "9"), "count and density", "one of them"),
        (("--inject", "tcell", "--within", "5"), "without a label", "label"),
        (("--inject", "tcell", "--region", "1,2"), "--region 1,2: not a rectangle", "x0,y0,x1,y1"),
        (("--inject", "tcell", "--region", "9000,9000,9001,9001"), "no place for a cell", "span"),
        (("--inject", "tcell", "--at", "no.csv"), "no.csv: no such file", "path"),
        (("--inject", "tcell", "--inject", "bcell", "--at", "no.csv"), "each place takes one cell", "one type"),
        (("--inject", "tcell", "--labels", "kind"), "no obs column 'kind'", "--labels: cell_type, cluster, split"),
        (("--inject", "ghost", "--labels", "cluster"), "obs column cluster: no label 'ghost'", "known here: "),
        (("--knockout", "KRT8"), "cells are edited: none is left that could respond", "--in LABEL"),
        (("--inject", "tcell", "--dynamics", "coupled", "--form", "mean"), "dynamics coupled with form mean", "redraw"),
        (("nowhere.h5ad", "--inject", "tcell"), "nowhere.h5ad: no such file or folder", "cifm prepare"),
        (("--inject", "tcell", "--model", "runs/other"), "no model in runs/other", "cifm train"),
        (("--inject", "tcell", "--backend", "abacus"), "abacus", "cifm backends"),
    ],
)
def test_user_errors_are_one_line_and_a_hint(
    cifm, workplace: Path, options: tuple[str, ...], message: str, hint: str
) -> None:
    code, out, err = cifm("simulate", *options)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    hints = [line for line in err.splitlines() if line.startswith("hint: ")]
    assert (code, out, len(errors), len(hints)) == (1, "", 1, 1)
    assert message in errors[0]
    assert hint in hints[0]
    assert not Path("simulation").exists()


def test_an_edit_that_is_impossible_is_reported_before_the_model_is_adapted(cifm, workplace: Path) -> None:
    code, _, err = cifm("simulate", "--inject", "tcell", "--min-distance", "500")
    assert code == 1
    assert "places for 0 of" in err
    assert "adapting" not in err


def test_several_edits_at_once(cifm, workplace: Path) -> None:
    """By labels of the slide, at places of a file, and in a part of the tissue."""
    slide = ad.read_h5ad(next(Path("prepared").glob("*.h5ad")))
    clusters = slide.obs["cluster"].astype(str)
    common, other = clusters.value_counts().index[:2]
    centre = np.median(slide.obsm["spatial"], axis=0)
    pd.DataFrame(np.array([centre, centre + 5.0]), columns=["x_um", "y_um"]).to_csv("places.csv", index=False)
    words = ("--inject", common, "--at", "places.csv", "--remove", other, "--knockout", "KRT8", "--in", common)
    code, out, err = cifm("simulate", *words, "--labels", "cluster", *QUICK, "--json")
    assert code == 0, err
    result = json.loads(out)
    inject, remove, knockout = result["edits"]
    assert (inject["cell_type"], inject["num_cells"], inject["num_places"]) == (common, 2, 2)
    assert (remove["edit"], knockout["cells"]) == ("remove", common)
    assert result["provenance"]["edits"] == result["edits"]
    tissue = ad.read_h5ad("simulation/trajectory.h5ad")
    assert np.array_equal(tissue.obsm["spatial"][-2:], pd.read_csv("places.csv").to_numpy())
    residents = tissue[~tissue.obs["injected"].to_numpy()]
    removed = clusters[residents.obs_names].to_numpy() == other
    assert removed.sum() == remove["num_cells"]
    assert not residents.X[removed].nnz
    assert set(residents.obs["type_after"][removed]) == {"removed"}
    knocked_out = clusters[residents.obs_names].to_numpy() == common
    assert knocked_out.sum() == knockout["num_cells"]
    assert not residents[knocked_out, residents.var["symbol"] == "KRT8"].X.nnz
    assert np.array_equal(residents.obs["edited"].to_numpy(), removed | knocked_out)


def test_each_replicate_takes_another_donor(cifm, workplace: Path) -> None:
    slide = ad.read_h5ad(next(Path("prepared").glob("*.h5ad")))
    obs = pd.DataFrame({"cell_type": "odd", "donor_id": ["p1", "p2"] * 10}, index=slide.obs_names[:20])
    reference = ad.AnnData(X=slide.X[:20], obs=obs)
    reference.var_names = slide.var["symbol"].astype(str)
    reference.write_h5ad("atlas.h5ad")
    words = ("--inject", "odd", "--inject-from", "atlas.h5ad", "--replicates", 2, *QUICK, "--json")
    code, out, _ = cifm("simulate", *words)
    assert code == 0
    assert json.loads(out)["edits"][0]["donors"] == ["p1", "p2"]
    code, _, err = cifm("simulate", *words, "--inject-donor-key", "patient")
    assert code == 1
    assert "no obs column 'patient'" in err
    assert "--inject-donor-key: cell_type, donor_id" in err


def test_a_type_that_is_not_on_the_slide(cifm, workplace: Path) -> None:
    Path("own.tsv").write_text("cell_type\tsymbol\nghost\tKRT8\nghost\tPNLIP\nghost\tMS4A1\n", encoding="utf8")
    code, _, err = cifm("simulate", "--inject", "ghost", "--markers", "own.tsv", *QUICK)
    assert code == 1
    assert "no ghost among" in err
    assert "--inject-from FILE.h5ad" in err


def test_several_slides_are_refused(cifm, workplace: Path) -> None:
    first = next(Path("prepared").glob("*.h5ad"))
    shutil.copy(first, "prepared/second.h5ad")
    code, _, err = cifm("simulate", "--inject", "tcell")
    assert code == 1
    assert "there are 2 slides, but simulate takes one" in err


def test_the_response_is_a_table_by_gene_label_and_distance(simulated: Path) -> None:
    effects = pd.read_csv(simulated / "effects.csv", keep_default_na=False, na_values=["", "nan"]).fillna(
        {"other_label": ""}
    )
    pd.testing.assert_frame_equal(effects, pd.read_parquet(simulated / "effects.parquet"), check_dtype=False, rtol=1e-4)
    result = json.loads((simulated / "simulation.json").read_text(encoding="utf8"))["response"]
    assert result["num_tested"] == len(effects)
    assert result["num_called"] == int(effects["called"].sum())
    assert result["sentence"].startswith("response")


def test_validate_writes_what_may_be_believed(cifm, workplace: Path, monkeypatch) -> None:
    monkeypatch.setattr("cifm_cli.response.validation.check_all_planted", lambda _seed: [])
    code, out, err = cifm("simulate", "--validate", "--json")
    assert code == 0
    written = json.loads(Path("validation/validation.json").read_text(encoding="utf8"))
    assert written == json.loads(out)
    assert written["sentence"] in " ".join(err.split())
    assert {path.name for path in Path("validation").iterdir()} == {
        "validation.json", "report.html", "pairs.csv", "labels.csv", "genes.csv", "planted.csv",
    }  # fmt: skip
    page = Path("validation/report.html").read_text(encoding="utf8")
    assert page.index('class="answer"') < page.index("<h2>")
    code, out, _ = cifm("inspect", "validation", "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["kind"], result["sentence"]) == ("validation of the response", written["sentence"])


def test_validate_refuses_an_edit(cifm, workplace: Path) -> None:
    code, _, err = cifm("simulate", "--validate", "--inject", "tcell")
    assert code == 1
    assert "a validation edits nothing" in err
    assert not Path("validation").exists()


def test_validate_names_an_unknown_column(cifm, workplace: Path) -> None:
    code, _, err = cifm("simulate", "--validate", "--labels", "no such column")
    assert code == 1
    assert "no such column" in err
    assert not Path("validation").exists()


def test_the_page_opens_with_the_answer(simulated: Path) -> None:
    page = html.unescape((simulated / "report.html").read_text(encoding="utf8")).replace(" µm", " um")
    answer = json.loads((simulated / "simulation.json").read_text(encoding="utf8"))["answer"]
    places = [page.index(text) for text in (answer["sentence"][1:], *answer["trust"], "<figure", "<table")]
    assert places == sorted(places)
    assert page.count('srcset="data:image/gif') == 1, "the animation for dark pages"
    assert page.count('src="data:image/gif') == 1


def test_inspect_says_that_it_is_a_simulation(cifm, simulated: Path, tmp_path: Path) -> None:
    code, out, _ = cifm("inspect", simulated, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["kind"], result["trajectory.h5ad"]["kind"]) == ("simulation", "result of cifm simulate")
    assert set(result["files"]) == FILES
    code, out, _ = cifm("inspect", simulated / "simulation.json")
    assert code == 0
    assert result["sentence"] in out  # whole, however long
    for damaged, reason in (
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"slide": 1}', "slide"),
        ('{"slide": NaN}', "damaged"),
    ):
        (tmp_path / "simulation.json").write_text(damaged, encoding="utf8")
        code, out, err = cifm("inspect", tmp_path)
        assert (code, out) == (1, "")
        assert reason in err
        assert "Traceback" not in err
