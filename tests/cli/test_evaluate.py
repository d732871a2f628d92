"""`cifm evaluate`: the files it writes, numbers recomputed from these files, and its error messages."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import forget_checksums, train_short_run
from scipy.stats import pearsonr, spearmanr

from cifm_cli.data.slide import open_slide
from cifm_cli.errors import CifmError
from cifm_cli.evaluation.predictors.registry import all_baselines

pytestmark = pytest.mark.figures

METRICS = [
    "mse", "balanced_mse", "pearson_cell", "spearman_cell", "pearson_gene", "spearman_gene", "auroc", "deviance",
    "ap", "pearson_cell_centred", "spearman_cell_centred",
]  # fmt: skip
BASELINES = {
    "uniform",
    "bernoulli",
    "neighbourhood_average",
    "zeros",
    "training_mean",
    "knn",
    "weighted_knn",
    "radius_mean",
    "blend",
    "ridge",
}
BRIEF = ("--geometry", "scattered", "--rounds", "1", "--adapt", "none", "--backend", "torch", "--json")


@pytest.fixture(scope="module")
def workspace(prepared_few_genes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a prepared slide and two small runs, `first` and the latest, `second`."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "prepared").symlink_to(prepared_few_genes.parent, target_is_directory=True)
    for seed, name in enumerate(("first", "second")):
        slide, latest = folder / "prepared" / "tissue.h5ad", folder / "runs" / "latest"
        train_short_run(slide, folder / "runs" / name, seed=seed, latest=latest)
    return folder


@pytest.fixture(autouse=True)
def in_workspace(workspace: Path, blank_figures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in the workspace; only the fixture `evaluated`, which is made before, draws figures."""
    monkeypatch.chdir(workspace)


@pytest.fixture(scope="module")
def evaluated(workspace: Path) -> dict:
    """The JSON output of an evaluation of two models with predictions, tables and cell types."""
    from cifm_cli.app import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workspace)
        # Learning from more cells takes longer and changes no test.
        patch.setattr("cifm_cli.evaluation.dataset.MAX_EXAMPLE_CELLS", 200)
        words = ["--model", "runs/latest", "--model", "runs/first", "--save-predictions", "--annotator", "markers"]
        words += ["--rounds", "2"]
        assert main(["evaluate", *words, "--backend", "torch"]) == 0
        return json.loads(Path("evaluation/metrics.json").read_text())


def geometries(evaluated: dict) -> dict:
    return evaluated["slides"]["tissue"]["geometries"]


def test_names_in_the_json_output(evaluated: dict) -> None:
    assert set(geometries(evaluated)) == {"scattered", "region"}
    for result in geometries(evaluated).values():
        assert set(result["predictors"]) == {"model", "model:first", *BASELINES}
        for forms in result["predictors"].values():
            assert set(forms) == {"mean", "gated"}
            for values in forms.values():
                assert list(values) == METRICS
                assert all(math.isfinite(value) for value in values.values())
        assert set(result["paired"]) == set(METRICS)
        for pair in result["paired"].values():
            assert {"best_baseline", "form", "difference", "low", "high"} <= set(pair)
            assert pair["low"] <= pair["high"]
            assert pair["best_baseline"] in BASELINES
    assert evaluated["provenance"]["command"] == "evaluate"


def test_the_difference_is_between_the_best_forms(evaluated: dict) -> None:
    for result in geometries(evaluated).values():
        for metric, pair in result["paired"].items():
            best = min if metric in ("mse", "balanced_mse", "deviance") else max
            values = {
                name: best(form[metric] for form in forms.values()) for name, forms in result["predictors"].items()
            }
            reference = best(values[name] for name in BASELINES - {"zeros", "uniform", "bernoulli"})
            assert result["predictors"][pair["best_baseline"]][pair["form"]][metric] == reference
            assert pair["difference"] == pytest.approx(values["model"] - reference)


def test_numbers_can_be_recomputed_from_the_saved_predictions(evaluated: dict) -> None:
    slide = open_slide(Path("prepared/tissue.h5ad"))
    for geometry, result in geometries(evaluated).items():
        saved = ad.read_h5ad(f"evaluation/predictions-{geometry}.h5ad")
        assert saved.n_obs == result["num_cells"]
        actual = saved.X.toarray()
        rows = saved.obs["row"].to_numpy()
        assert np.array_equal(saved.obsm["spatial"], slide.xy_um[rows])
        assert np.allclose(actual, slide.expression(rows, 10_000.0).toarray())
        threshold = result["tuned"]["model"]["threshold"]
        model = saved.layers["model"]
        forms = {"mean": model, "gated": model * (saved.layers["model_expressed"] > threshold)}
        checks = [(result["predictors"]["model"][form], layer) for form, layer in forms.items()]
        checks.append((result["predictors"]["weighted_knn"]["mean"], saved.layers["weighted_knn"]))
        for values, layer in checks:
            assert values["mse"] == pytest.approx(np.square(layer - actual).mean(), rel=1e-4)
            for name, correlate in (("pearson", pearsonr), ("spearman", spearmanr)):
                for direction, x, y in (("cell", layer, actual), ("gene", layer.T, actual.T)):
                    each = [
                        0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else correlate(a, b).statistic
                        for a, b in zip(x, y, strict=True)
                    ]
                    assert values[f"{name}_{direction}"] == pytest.approx(np.mean(each), abs=1e-5)


def test_tables_average_to_the_metrics(evaluated: dict) -> None:
    cells, genes = (pd.read_parquet(f"evaluation/per_{part}.parquet") for part in ("cell", "gene"))
    keys = ["geometry", "predictor", "form"]
    by_cell = cells.groupby(keys, observed=True).mean(numeric_only=True)
    by_gene = genes.groupby(keys, observed=True).mean(numeric_only=True)
    for geometry, result in geometries(evaluated).items():
        for name, forms in result["predictors"].items():
            for form, values in forms.items():
                where = (geometry, name, form)
                for column, metric in (("mse", "mse"), ("spearman", "spearman_cell"), ("auroc", "auroc")):
                    assert by_cell.loc[where, column] == pytest.approx(values[metric], rel=1e-5)
                assert by_gene.loc[where, "pearson"] == pytest.approx(values["pearson_gene"], abs=1e-6)
    assert {"slide", "barcode", "row", "round", "distance_um", "x_um", "y_um", "block"} <= set(cells)


def test_cells_in_blocks_are_further_from_visible_cells(evaluated: dict) -> None:
    cells = pd.read_parquet("evaluation/per_cell.parquet")
    distance_um = cells.groupby("geometry", observed=True)["distance_um"].mean()
    assert distance_um["region"] > distance_um["scattered"] > 0


def test_agreement_of_cell_types_is_reported_with_its_ceiling_and_chance(evaluated: dict) -> None:
    for result in geometries(evaluated).values():
        typing = result["typing"]
        assert sum(typing["types"].values()) == typing["num_typed"]
        assert 0 < typing["num_typed"] <= result["num_cells"]
        assert set(typing["agreement"]) == set(result["predictors"])
        for forms in typing["agreement"].values():
            assert {"mean", "gated", "drawn"} <= set(forms)
            assert all(0 <= part["accuracy"] <= 1 for part in forms.values())
            assert all(len(part["top_k"]) == len(typing["chance_top_k"]) == 10 for part in forms.values())
        zeros = typing["agreement"]["zeros"]["mean"]
        assert (zeros["accuracy"], zeros["assigned"]) == (0, 0)
        best = {
            name: max(forms[form]["accuracy"] for form in ("mean", "gated"))
            for name, forms in typing["agreement"].items()
        }
        assert typing["ceiling"]["accuracy"] > best["neighbourhood_average"] > best["training_mean"]
        pair = typing["paired"]
        references = [best[name] for name in best if not name.startswith("model")]
        assert pair["difference"] == pytest.approx(best["model"] - max(references))
        assert pair["low"] <= pair["difference"] <= pair["high"]


def test_the_report_is_one_page_with_embedded_images(evaluated: dict) -> None:
    page = Path("evaluation/report.html").read_text()
    assert "data:image/png" in page
    assert all(f"tissue, {geometry}" in page for geometry in geometries(evaluated))


def test_metrics_and_subsets_are_defined_in_the_output(evaluated: dict) -> None:
    assert set(evaluated["definitions"]["metrics"]) == set(METRICS)
    assert set(evaluated["definitions"]["subsets"]) == {"differential", "variable"}
    for result in geometries(evaluated).values():
        assert set(result["ceiling"]) == set(METRICS)
        assert set(result["calibration"]) == set(result["predictors"])
        assert sum(result["by_distance"]["num_cells"]) == result["num_cells"]
        assert set(result["subsets"]) == {"differential", "variable"}
        for subset in result["subsets"].values():
            assert subset["num_genes"] == evaluated["slides"]["tissue"]["num_genes"] // 3
            assert set(subset["predictors"]) == set(result["predictors"])
        for pair in result["paired"].values():
            assert 0 < pair["p"] <= pair["p_holm"] <= 1


def test_a_further_model_is_compared_with_the_first_and_with_the_best_baseline(evaluated: dict) -> None:
    for result in geometries(evaluated).values():
        pairs = result["paired_models"]["model:first"]
        for metric in METRICS:
            best = min if metric in ("mse", "balanced_mse", "deviance") else max
            ours, first = (
                best(form[metric] for form in result["predictors"][name].values()) for name in ("model:first", "model")
            )
            assert pairs["model"][metric]["difference"] == pytest.approx(ours - first)
            assert pairs["best_baseline"][metric]["best_baseline"] == result["paired"][metric]["best_baseline"]


def test_the_scenario_follows_from_the_provenance_of_the_run(evaluated: dict) -> None:
    scenario = evaluated["slides"]["tissue"]["scenario"]
    assert set(scenario) == {"model", "model:first"}
    assert scenario["model"]["name"] == "in-sample"
    assert scenario["model"]["trained_on"] == ["tissue"]
    assert scenario["model"]["trained_platforms"] == ["xenium"]
    assert scenario["model"]["trained_cells_scored"] == 0


def test_the_provenance_says_what_the_adaptation_chose(evaluated: dict) -> None:
    by_geometry = evaluated["provenance"]["adaptation"]["tissue"]
    assert set(by_geometry) == {"scattered", "region"}
    for by_model in by_geometry.values():
        assert set(by_model) == {"model", "model:first"}
        for chosen in by_model.values():
            assert set(chosen["tuned"]) == {"mean", "expressed", "composition"}
            assert 0 < chosen["practice_cells"] <= chosen["cells"]


@pytest.mark.usefixtures("few_baselines")
def test_blocks_of_any_size_and_the_whole_region(cifm: Callable) -> None:
    words = [
        "--geometry",
        "region",
        "--geometry",
        "whole",
        "--block-radii",
        "2.5",
        "--block-radii",
        "5",
        "--adapt",
        "none",
    ]
    code, out, _ = cifm("evaluate", *words, "--rounds", "1", "--backend", "torch", "--json", "--out", "sizes")
    assert code == 0
    by_geometry = json.loads(out)["slides"]["tissue"]["geometries"]
    assert list(by_geometry) == ["region_2.5", "region", "whole"]
    cells = pd.read_parquet("sizes/per_cell.parquet").groupby("geometry", observed=True)["distance_um"].max()
    assert cells["region_2.5"] < cells["region"] < cells["whole"]


@pytest.mark.usefixtures("few_baselines")
def test_options_default_to_the_recipe(cifm: Callable, workspace: Path) -> None:
    table = ['geometries=["region"]', "block_radii=[2.5, 2.5]", "rounds=1", "region=validation", "annotator=markers"]
    slide, run = workspace / "prepared" / "tissue.h5ad", workspace / "runs" / "configured"
    train_short_run(slide, run, [f"evaluate.{key}" for key in table])
    words = ["evaluate", "--model", "runs/configured", "--adapt", "none", "--json", "--out", "configured"]
    metrics = json.loads(cifm(*words).out)
    facts = metrics["slides"]["tissue"]
    assert (facts["region"], facts["tuned_on"]) == ("validation", "train")
    assert {name: geometry["num_rounds"] for name, geometry in facts["geometries"].items()} == {"region_2.5": 1}
    assert "typing" in facts["geometries"]["region_2.5"]
    assert metrics["provenance"]["annotator"] == "markers"
    facts = json.loads(cifm(*words, "--region", "test", "--geometry", "scattered", "--rounds", "2").out)["slides"][
        "tissue"
    ]
    assert facts["region"] == "test"
    assert {name: geometry["num_rounds"] for name, geometry in facts["geometries"].items()} == {"scattered": 2}


@pytest.mark.usefixtures("few_baselines")
def test_several_slides_are_averaged(cifm: Callable, workspace: Path) -> None:
    other = workspace / "other.h5ad"
    other.write_bytes((workspace / "prepared" / "tissue.h5ad").read_bytes())
    slide = ad.read_h5ad(other)
    slide.uns["cifm"]["condition"] = "other"
    slide.write_h5ad(other)
    code, out, err = cifm("evaluate", "prepared/tissue.h5ad", other, *BRIEF, "--region", "all", "--out", "several")
    assert code == 0
    metrics = json.loads(out)
    assert metrics["slides"]["other"]["scenario"]["model"]["name"] == "cross-sample"
    assert metrics["overall"]["scattered"]["mse"]["num_slides"] == 2
    page = Path("several/report.html").read_text()
    assert "All 2 slides, scattered" in page
    assert "All 2 slides, scattered: model minus the best baseline" in err
    assert "balanced squared error ↓" in page.partition("<h2>tissue, scattered")[0], (
        "readable names in the table of all slides"
    )
    for name in ("tissue", "other"):
        seen = metrics["slides"][name]["scenario"]["model"]["trained_cells_scored"]
        assert (f"slide {name}: the model was trained on {seen:,} of the" in err) == (name == "tissue")
        assert seen > 0
    (known,) = metrics["slides"]["tissue"]["warnings"]  # that it was validated on this file is no surprise
    assert "region train of this very file" in known
    # The same cells in another file: recognised by their counts.
    warnings = metrics["slides"]["other"]["warnings"]
    assert any("of the scored cells were train cells of the model, in its slide tissue" in each for each in warnings)
    assert "cross-sample, zero-shot: the model was trained on other slides" in page
    assert (
        f"{metrics['slides']['tissue']['scenario']['model']['trained_cells_scored']:,} of the scored cells were" in page
    )
    assert "All predictors were tuned on its validation region." in page
    assert "tuned on the training region" not in err


@pytest.mark.usefixtures("few_baselines")
def test_another_seed_gives_other_numbers(cifm: Callable) -> None:
    """The same seed gives the same numbers, which the test of several processes shows."""
    first, other = (
        json.loads(cifm("evaluate", *BRIEF, "--out", f"out{seed}", "--seed", seed).out)["slides"] for seed in (0, 1)
    )
    assert first != other


def test_several_processes_give_the_same_numbers(cifm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two models, and baselines that draw, that only average and that are tuned."""
    some = [each for each in all_baselines() if each.name in ("bernoulli", "training_mean", "weighted_knn", "blend")]
    monkeypatch.setattr("cifm_cli.evaluation.setup.all_baselines", lambda: some)
    words = ["--model", "runs/latest", "--model", "runs/first", "--save-predictions", "--annotator", "markers"]
    metrics = {}
    for devices in (1, 2):
        code, out, err = cifm("evaluate", *words, *BRIEF, "--devices", devices, "--out", f"by_{devices}")
        assert code == 0, err
        metrics[devices] = json.loads(out)["slides"]
    assert json.dumps(metrics[1]) == json.dumps(metrics[2])  # the order of the predictors, too
    for table in ("per_cell.parquet", "per_gene.parquet"):
        pd.testing.assert_frame_equal(*(pd.read_parquet(f"by_{devices}/{table}") for devices in (1, 2)))
    alone, together = (ad.read_h5ad(f"by_{devices}/predictions-scattered.h5ad") for devices in (1, 2))
    assert set(alone.layers) == set(together.layers)
    assert all(np.array_equal(alone.layers[name], together.layers[name]) for name in alone.layers)


def test_a_process_that_dies_is_an_error(cifm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifm_cli.evaluation.parallel.start_worker", _die)
    code, _, err = cifm("evaluate", *BRIEF, "--devices", "2", "--out", "dead")
    assert code == 1
    assert "error: evaluation process" in err
    assert "ended with exit code 3" in err
    assert not Path("dead").exists()


def test_an_error_in_a_process_is_shown_once(cifm: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifm_cli.evaluation.parallel.start_worker", _start_failing)
    code, _, err = cifm("evaluate", *BRIEF, "--devices", "2", "--out", "wrong")
    assert code == 1
    assert err.count("error: model: its predictions are not finite numbers") == 1
    assert "hint: train it again" in err


def _die(*_: object) -> None:
    os._exit(3)


def _start_failing(*_: object) -> Callable[[object], None]:
    return _fail


def _fail(_task: object) -> None:
    raise CifmError("model: its predictions are not finite numbers", "train it again")


@pytest.mark.usefixtures("few_baselines")
def test_json_is_the_only_thing_on_stdout(cifm: Callable) -> None:
    """Of the validation region, for which predictors are tuned on the training region."""
    code, out, err = cifm("evaluate", *BRIEF, "--geometry", "region", "--region", "validation", "--out", "alone")
    assert code == 0
    facts = json.loads(out)["slides"]["tissue"]
    assert list(facts["geometries"]) == ["scattered", "region"]
    assert json.loads(out) == json.loads(Path("alone/metrics.json").read_text())
    assert "weighted_knn" in err
    assert facts["tuned_on"] == "train"
    assert "tuned on the training region" in err


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["nowhere.h5ad"], "nowhere.h5ad: no such file or folder", "cifm prepare"),
        (["--model", "nowhere"], "no model in nowhere", "cifm train RECIPE"),
        (["--model", "runs/first", "--model", "runs/first"], "two runs are called first", "one by one"),
        (["--annotator", "oracle"], "--annotator oracle: no such annotator", "markers"),
        (["--annotator", "markers:no.tsv"], "no.tsv", "markers:FILE.tsv"),
        (["one_region.h5ad"], "no cells in its test region", "--region all"),
    ],
)
def test_user_errors_are_one_line_and_a_hint(
    cifm: Callable, workspace: Path, words: list[str], message: str, hint: str
) -> None:
    if words == ["one_region.h5ad"]:
        slide = ad.read_h5ad("prepared/tissue.h5ad")
        forget_checksums(slide[slide.obs["split"] != "test"]).write_h5ad("one_region.h5ad")
    outcome = cifm("evaluate", "--backend", "torch", *words)
    assert outcome.code == 1
    *_, error, advice = outcome.err.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert advice.startswith("hint: ")
    assert hint in advice


def test_wrong_usage_exits_with_2(cifm: Callable) -> None:
    assert cifm("evaluate", "--region", "moon").code == 2
    assert cifm("evaluate", "--geometry", "cube").code == 2
