"""Results of the API equal the files of the commands bit for bit, in the order of the caller's cells."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from builders import read_tensors

import cifm_cli as cifm

pytestmark = pytest.mark.figures

PLANTED_SCORES = (
    "raised", "lowered", "right_sign", "called", "coverage", "mean_shift", "beyond_range", "false_calls",
)  # fmt: skip
TORCH = ("--backend", "torch", "--device", "cpu")


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(command_line, *words: object) -> None:
    assert command_line(*words).code == 0


def test_prepare(command_line, xenium_download: Path, prepared_synthetic: Path) -> None:
    prepared, written = cifm.prepare(xenium_download), ad.read_h5ad(prepared_synthetic)
    assert prepared.obs_names.equals(written.obs_names)
    assert prepared.var.equals(written.var)
    assert (prepared.X != written.X).nnz == 0
    assert set(prepared.uns["cifm"]) == set(written.uns["cifm"])


def test_embed(
    command_line, adata: ad.AnnData, model: cifm.LoadedModel, prepared_synthetic: Path, run_folder: Path
) -> None:
    run(command_line, "embed", prepared_synthetic, "--model", run_folder, *TORCH)
    written = ad.read_h5ad(f"embedded/{prepared_synthetic.name}")[adata.obs_names]
    assert cifm.embed(adata, model) is adata
    for slot in ("X_cifm", "X_cifm_cell"):
        assert np.array_equal(adata.obsm[slot], written.obsm[slot])


@pytest.mark.parametrize("form", ["mean", "median", "gated"])
def test_predict(
    command_line, adata: ad.AnnData, model: cifm.LoadedModel, prepared_synthetic: Path, run_folder: Path, form: str
) -> None:
    run(command_line, "predict", prepared_synthetic, "--model", run_folder, "--form", form, "--seed", 3, *TORCH)
    written = ad.read_h5ad(f"predicted/{prepared_synthetic.name}")[adata.obs_names]
    cifm.predict(adata, model, form=form, seed=3)
    assert np.array_equal(adata.layers[f"cifm_{form}"], written.X)
    assert np.array_equal(adata.layers["cifm_expressed"], written.layers["expressed"])


def test_predict_at_locations(
    command_line, adata: ad.AnnData, model: cifm.LoadedModel, prepared_synthetic: Path, run_folder: Path
) -> None:
    table = pd.DataFrame(adata.obsm["spatial"][:9] + 3.0, columns=["x_um", "y_um"])
    table.to_csv("at.csv", index=False)
    run(command_line, "predict", prepared_synthetic, "--model", run_folder, "--at", "at.csv", *TORCH)
    written = ad.read_h5ad(f"predicted/{prepared_synthetic.stem}_at_at.h5ad")
    predicted = cifm.predict(adata, model, at=table)
    assert np.array_equal(predicted.X, written.X)
    assert predicted.obsm["spatial"] == pytest.approx(written.obsm["spatial"])
    assert predicted.var_names.equals(written.var_names)
    assert np.array_equal(cifm.predict(adata, model, at=table.to_numpy()).X, written.X)


def test_annotate(command_line, adata: ad.AnnData, prepared_synthetic: Path) -> None:
    run(command_line, "annotate", "apply", prepared_synthetic)
    written = pd.read_csv(f"annotated/{prepared_synthetic.stem}.csv", index_col="cell_id").loc[adata.obs_names]
    cifm.annotate(adata)
    assert adata.obs["cifm_cell_type"].astype(str).tolist() == written["cell_type"].tolist()
    assert np.array_equal(np.round(adata.obs["cifm_cell_type_score"], 4), written["score"].astype(np.float32))


def test_simulate(
    command_line, adata: ad.AnnData, model: cifm.LoadedModel, prepared_synthetic: Path, run_folder: Path
) -> None:
    quick = ("--max-cells", 200, "--steps", 2, "--share", 0.2, "--replicates", 2, "--count", 5)
    run(command_line, "simulate", prepared_synthetic, "--model", run_folder, "--inject", "tcell", *quick, *TORCH)
    written = ad.read_h5ad("simulation/trajectory.h5ad")
    trajectory = cifm.simulate(
        adata, model, "tcell", max_cells=200, steps=2, update_fraction=0.2, replicates=2, count=5, out="from_python"
    )
    written = written[trajectory.obs_names]
    assert trajectory.obs.equals(written.obs)
    for layer in ("initial", "control", "treated"):
        assert (trajectory.layers[layer] != written.layers[layer]).nnz == 0
    for name in ("composition", "transitions", "neighbours"):
        pd.testing.assert_frame_equal(trajectory.uns["cifm"][name], pd.read_csv(f"simulation/{name}.csv"))
    effects = trajectory.uns["cifm"]["effects"]
    assert len(effects)
    pd.testing.assert_frame_equal(effects, pd.read_parquet("simulation/effects.parquet"), check_dtype=False, rtol=0)
    for name in ("change.csv", "effects.csv", "map_treated.png", "animation.gif"):
        assert Path("from_python", name).read_bytes() == Path("simulation", name).read_bytes()
    of_command = json.loads(Path("simulation/simulation.json").read_text(encoding="utf8"))
    assert json.loads(trajectory.uns["cifm"]["response"]) == of_command["response"]
    # Only the command has a workspace, in which it looks for an evaluation of the model.
    sentence = of_command["provenance"]["evaluation"]["sentence"]
    answer = of_command["answer"]
    assert sentence in answer["trust"]
    answer["trust"].remove(sentence)
    assert json.loads(trajectory.uns["cifm"]["answer"]) == answer


@pytest.mark.parametrize("labels", [None, "cluster"])
def test_validate_response(
    command_line, adata: ad.AnnData, prepared_synthetic: Path, monkeypatch: pytest.MonkeyPatch, labels: str | None
) -> None:
    small = {
        "pairs": {"REGION_RADII": 5.0, "MARGIN_RADII": 0.0, "MIN_HIDDEN": 5, "MIN_ELSEWHERE": 30},
        "neighbourhoods": {"MIN_COUNTS": 5.0},
    }
    for module, values in small.items():  # the slide is so small that no label would have a region
        for name, value in values.items():
            monkeypatch.setattr(f"cifm_cli.response.held_out.{module}.{name}", value)
    planted = [{"rule": "rule", "truth": 1.5, **dict.fromkeys(PLANTED_SCORES, 0.5)}]  # tested without a slide
    monkeypatch.setattr("cifm_cli.response.validation.check_all_planted", lambda _seed: planted)
    run(command_line, "simulate", prepared_synthetic, "--validate", *(("--labels", labels) if labels else ()))
    written = json.loads(Path("validation/validation.json").read_text(encoding="utf8"))
    del written["provenance"]
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    validation = cifm.validate_response(shuffled, labels=labels)
    assert validation.metrics == written
    pairs = written["held_out"]["pairs"]
    assert pairs
    assert len(validation.pairs) == sum(len(pair["predictors"]) for pair in pairs)
    first = validation.pairs.iloc[0]
    assert first["pearson"] == pairs[0]["predictors"][first["predictor"]]["pearson"]
    of_label = validation.labels.set_index(["label", "predictor"])
    for label, facts in written["held_out"]["labels"].items():
        for predictor, scores in facts["predictors"].items():
            assert of_label.loc[(label, predictor), list(scores)].to_dict() == scores
    assert validation.planted.to_dict("records") == planted


@pytest.mark.parametrize("sides", [{}, {"train_on": "tissue", "positive": "tumour"}])
def test_probe(command_line, adata: ad.AnnData, model: cifm.LoadedModel, sides: dict[str, str]) -> None:
    first = cifm.embed(adata, model)
    second = first[np.random.default_rng(0).random(first.n_obs) < 0.5].copy()
    second.uns["cifm"]["sample"] = "second"
    Path("embedded").mkdir()
    first.write_h5ad("embedded/tissue.h5ad")
    second.write_h5ad("embedded/second.h5ad")
    words = [word for key, value in sides.items() for word in (f"--{key.replace('_', '-')}", value)]
    run(command_line, "probe", "embedded", "--label", "cluster", "--folds", 2, "--no-verify", *words)
    written = json.loads(Path("probe.json").read_text(encoding="utf8"))
    del written["provenance"]
    result = cifm.probe({"second": second, "tissue": first}, "cluster", num_folds=2, **sides)
    assert result.metrics == written
    pd.testing.assert_frame_equal(result.scores, pd.read_parquet("probe.parquet"), check_dtype=False)
    pd.testing.assert_frame_equal(result.paired, pd.read_parquet("probe_differences.parquet"), check_dtype=False)
    pd.testing.assert_frame_equal(result.slides, pd.read_parquet("probe_slides.parquet"), check_dtype=False)
    cells = result.probabilities[result.probabilities["slide"] == "second"]
    label = second.obs.loc[cells["cell"], "cluster"].astype(str).to_numpy()
    expected = np.where(label == "tumour", "tumour", "not tumour") if sides else label
    assert cells["class"].tolist() == expected.tolist()
    columns = [column for column in cells if column.startswith("X_cifm:")]
    assert cells[columns].sum(axis=1).to_numpy() == pytest.approx(1.0)


def test_train(command_line, adata: ad.AnnData, prepared_synthetic: Path) -> None:
    settings = {"train.steps": 3, "model.width": 8, "train.validation_tiles": 1, "train.tiles_per_step": 1}
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run(command_line, "train", "demo", "--data", prepared_synthetic, "--out", "run", *words, *TORCH)
    model = cifm.train("demo", adata, out="of_api", settings=settings, device="cpu", backend="torch")
    expected, _ = read_tensors(Path("run/model.safetensors"))
    written, _ = read_tensors(Path("of_api/model.safetensors"))
    assert set(expected) == set(written)
    assert all(np.array_equal(expected[name].numpy(), written[name].numpy()) for name in expected)
    assert model.checkpoint.vocabulary == tuple(adata.var_names)


@pytest.mark.usefixtures("few_baselines")
def test_evaluate(
    command_line, adata: ad.AnnData, model: cifm.LoadedModel, prepared_synthetic: Path, run_folder: Path
) -> None:
    words = ("--geometry", "scattered", "--rounds", 2, "--annotator", "markers")
    run(command_line, "evaluate", prepared_synthetic, "--model", run_folder, *words, *TORCH)
    written = json.loads(Path("evaluation/metrics.json").read_text(encoding="utf8"))
    result = cifm.evaluate({"tissue": adata}, model, geometries=["scattered"], num_folds=2, annotator="markers")
    of_slide = written["slides"]["tissue"]
    del of_slide["scenario"]
    assert json.loads(json.dumps(result.metrics["slides"]["tissue"])) == of_slide
    cells = pd.read_parquet("evaluation/per_cell.parquet")
    order = adata.obs_names.get_indexer(cells["barcode"])
    cells = cells.drop(columns=["barcode", "row"]).iloc[np.argsort(order, kind="stable")].reset_index(drop=True)
    for column in ("spearman", "distance_um", "x_um"):
        assert np.array_equal(
            result.per_cell.sort_values(["predictor", "form"], kind="stable")[column],
            cells.sort_values(["predictor", "form"], kind="stable")[column],
        )
    pd.testing.assert_frame_equal(
        result.per_gene, pd.read_parquet("evaluation/per_gene.parquet"), check_dtype=False, check_categorical=False
    )
